"""What goes wrong in a run: faults as plain values, planned from the seed, each removable.

A plan is a list of `(at_ms, kind, arguments)`; so a failing run shrinks by
leaving faults out, and what is left is the story of the bug.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec

from tests.sim.host import Host
from tests.sim.network import BUS, ROLES, Process
from tests.sim.world import World


class Fault(msgspec.Struct, frozen=True):
    at_ms: float
    kind: str
    host: str = ""
    role: str = ""
    for_ms: float = 0.0
    number: int = 0

    @property
    def lifted_ms(self) -> float:
        """When it is over, but for what hosts still have to notice."""
        return self.at_ms + self.for_ms + LONGEST_AFTERMATH_MS.get(self.kind, 0.0)

    def __str__(self) -> str:
        words = [f"{self.at_ms:.1f}", self.kind, self.host, self.role]
        if self.for_ms:
            words.append(f"for {self.for_ms:.1f} ms")
        if self.number:
            words.append(str(self.number))
        return " ".join(word for word in words if word)


STOPPED_CLOCKS: Final = "freeze"
"""A machine stopped with all its clocks is beyond every promise but B = 0: never by chance."""
LATE_REQUESTS: Final = "late requests"
"""What was sent on a connection arrives long after the node has hung up and gone on with another.
Not by chance, so that the seeds stay what they are: a test of its own has it."""
KINDS: Final[dict[str, tuple[float, float, float]]] = {
    # kind: (weight, shortest, longest duration in ms)
    "lose bus messages": (6, 0, 0),
    "cut": (6, 0, 0),
    "cut and drain": (3, 0, 0),
    "half-open": (3, 0, 0),
    "lose replies": (3, 0, 0),
    "stuck": (5, 5, 1500),
    "slow": (4, 50, 1500),
    "partition": (3, 20, 1500),
    "pause": (4, 5, 1500),
    "crash": (2, 5, 600),
    "leave": (0.7, 5, 300),
    "restart server": (1, 5, 300),
    "restart server empty": (0.7, 5, 300),
    "restart server from old file": (1, 5, 300),
    "fail over": (2, 0, 100),
    "fail over by and by": (2, 0, 100),
    "fence server": (1, 10, 800),
    "flushall": (1, 0, 0),
    "lose metadata": (1, 0, 0),
    "lose roster": (1, 0, 0),
    "save file": (2, 0, 0),
    "trim log": (2, 0, 0),
    "out of memory": (1, 10, 500),
    "foreign set": (1, 0, 0),
    "evict value": (1, 0, 0),
}
ROWS: Final[dict[str, tuple[str, ...]]] = {
    "a message lost, or the last one before silence": ("lose bus messages",),
    "the subscriber cut off, half-open, black-holed": (
        "cut", "cut and drain", "half-open", "stuck", "slow", "partition",
    ),
    "the log trimmed": ("trim log",),
    "FLUSHALL, metadata evicted, restarted empty": (
        "flushall", "lose metadata", "lose roster", "restart server empty",
    ),
    "a failover that lost writes, a restart from an old file": (
        "fail over", "fail over by and by", "save file", "restart server from old file",
        "restart server",
    ),
    "an old primary still answering": ("fail over", "fail over by and by", "fence server"),
    "a daemon stopped, a host suspended": ("pause",),
    "a daemon killed": ("crash", "leave"),
    "a writer dying between its phases": ("crash",),
    "a reply lost": ("lose replies",),
    "memory full": ("out of memory",),
    "a foreign SET, an eviction in Redis": ("foreign set", "evict value"),
}  # fmt: skip
"""The table of faults in the protocol's text, row by row, and what strikes here for each."""


LONGEST_AFTERMATH_MS: Final = {
    "leave": 1_400.0,
    "fail over": 400.0,
    "fail over by and by": 400.0,
}
"""How much longer than `for_ms` a fault may last."""


def plan(
    seed: int,
    hosts: list[str],
    end_ms: float,
    mean_gap_ms: float,
    kinds: tuple[str, ...] | None = None,
) -> list[Fault]:
    """Faults for one run. Without `kinds` the seed also chooses which kinds may happen at all:
    runs that mix few kinds of faults go deeper than runs that mix all."""
    random = Random(f"faults {seed}")
    if kinds is None:
        names = [kind for kind in KINDS if random.random() < 0.5] or ["lose bus messages"]
    else:
        names = list(kinds)
    if not names:
        return []
    weights = [KINDS[name][0] if name in KINDS else 4 for name in names]
    faults = []
    at_ms = 30.0 + random.expovariate(1.0 / mean_gap_ms)
    while at_ms < end_ms:
        kind = random.choices(names, weights)[0]
        _, least_ms, most_ms = KINDS.get(kind, (1, 5, 800))
        faults.append(
            Fault(
                round(at_ms, 1),
                kind,
                random.choice(hosts),
                random.choice(ROLES),
                round(random.uniform(least_ms, most_ms), 1),
                random.choice((1, 1, 2, 3, 5)),
            )
        )
        at_ms += random.expovariate(1.0 / mean_gap_ms)
    return faults


class Nemesis:
    """Carries a plan out."""

    def __init__(self, world: World, faults: list[Fault]) -> None:
        self.world = world
        self.replica: Process | None = None
        self.old_file = world.primary.server.copy()
        self._foreign = 0
        self._changing = False
        """A restart or failover is under way: one at a time."""
        for fault in faults:
            world.at(fault.at_ms, self.strike, fault)

    def strike(self, fault: Fault) -> None:
        if self.world.tracing:
            self.world.trace.append(f"{self.world.now_ms:10.3f} FAULT {fault}")
        ACTIONS[fault.kind](self, fault)

    # -- connections -------------------------------------------------------------------

    def lose_messages(self, fault: Fault) -> None:
        self.world.drops[fault.host] = fault.number

    def cut(self, fault: Fault) -> None:
        self._cut(fault, drain=False, notice=True)

    def cut_and_drain(self, fault: Fault) -> None:
        self._cut(fault, drain=True, notice=True)

    def half_open(self, fault: Fault) -> None:
        self._cut(fault, drain=False, notice=False)

    def lose_replies(self, fault: Fault) -> None:
        connection = self.world.hosts[fault.host].connections.get(fault.role)
        if connection is not None and fault.role != BUS:
            connection.mute = True

    def _cut(self, fault: Fault, *, drain: bool, notice: bool) -> None:
        connection = self.world.hosts[fault.host].connections.get(fault.role)
        if connection is not None:
            self.world.cut(connection, drain=drain, notice=notice)

    def late_requests(self, fault: Fault) -> None:
        connection = self.world.hosts[fault.host].connections.get(fault.role)
        if connection is not None and not connection.stuck:
            connection.stuck = True
            self.world.after(1.0, self.world._node_learns, connection)
            self.world.after(1.0 + fault.for_ms / 10, connection.unstick)

    def stuck(self, fault: Fault) -> None:
        connection = self.world.hosts[fault.host].connections.get(fault.role)
        if connection is not None:
            connection.stuck = True
            self.world.after(fault.for_ms, connection.unstick)

    def slow(self, fault: Fault) -> None:
        connection = self.world.hosts[fault.host].connections.get(fault.role)
        if connection is not None:
            connection.extra_ms = fault.for_ms / 5
            self.world.after(fault.for_ms, setattr, connection, "extra_ms", 0.0)

    def partition(self, fault: Fault) -> None:
        host = self.world.hosts[fault.host]
        if not host.reachable:
            return
        host.reachable = False
        held = [c for c in host.connections.values() if not c.stuck]
        for connection in held:
            connection.stuck = True

        def heal() -> None:
            host.reachable = True
            for connection in held:
                connection.unstick()

        self.world.after(fault.for_ms, heal)

    # -- hosts -------------------------------------------------------------------------

    def pause(self, fault: Fault) -> None:
        host = self.world.hosts[fault.host]
        if not host.paused and host.node is not None:
            host.pause()
            self.world.after(fault.for_ms, host.resume)

    def freeze(self, fault: Fault) -> None:
        host = self.world.hosts[fault.host]
        if not host.paused and host.node is not None:
            host.freeze(fault.for_ms)

    def crash(self, fault: Fault) -> None:
        host = self.world.hosts[fault.host]
        if host.node is not None and not host.paused:
            host.crash()
            self.world.after(fault.for_ms, host.start)

    def leave(self, fault: Fault) -> None:
        """SIGTERM, and a new start."""
        host = self.world.hosts[fault.host]
        if host.node is None or host.paused or host.node.stopped:
            return
        host.stop_cleanly()
        incarnation = host.incarnation

        def exited() -> None:
            if host.incarnation != incarnation or host.node is None:
                return
            if host.paused:
                self.world.after(100.0, exited)
                return
            host.crash()
            host.start()

        self.world.after(1_100.0 + fault.for_ms, exited)

    # -- the server --------------------------------------------------------------------

    def restart(self, fault: Fault) -> None:
        self._restart(fault, lambda process: process.server.copy())

    def restart_empty(self, fault: Fault) -> None:
        def empty(process: Process) -> Any:
            server = process.server.copy()
            server.flush_all()
            return server

        self._restart(fault, empty)

    def restart_old(self, fault: Fault) -> None:
        """From a dump that is older than the last writes: numbers will be issued again."""
        self._restart(fault, lambda process: self.old_file.copy())

    def _restart(self, fault: Fault, state: Callable[[Process], Any]) -> None:
        world = self.world
        if self._changing:
            return
        self._changing = True
        process = world.primary
        server = state(process)
        world.take_down(process)

        def up() -> None:
            self._changing = False
            world.promote(server)
            self.old_file = server.copy()

        world.after(fault.for_ms, up)

    def fail_over(self, fault: Fault) -> None:
        """A replica that lags by `for_ms` is promoted; the old primary, fenced, still answers."""
        self._fail_over(fault, self.world.redirect)

    def fail_over_by_and_by(self, fault: Fault) -> None:
        """The same, but the name of the primary only changes what new connections reach: a host
        has some to the old one and some to the new one, until the old ones break by themselves."""
        world = self.world

        def learns(host: Host, old: Process) -> None:
            if host.sees is old:
                host.sees = None
            for connection in list(host.connections.values()):
                if connection.process is old and world.random.random() < 0.7:
                    world.after(world.random.random() * 100.0, world.cut, connection)

        self._fail_over(fault, learns)

    def _fail_over(self, fault: Fault, learns: Callable[[Host, Process], None]) -> None:
        world = self.world
        if self._changing:
            return
        self._changing = True
        replica = world.primary.server.copy()

        def promote() -> None:
            self._changing = False
            old = world.primary
            old.server.fenced = True
            for host in world.hosts.values():
                host.sees = old
                world.after(world.random.random() * 150.0, learns, host, old)
            world.promote(replica)
            self.old_file = replica.copy()
            world.after(200.0 + world.random.random() * 200.0, world.take_down, old)

        world.after(fault.for_ms, promote)

    def fence(self, fault: Fault) -> None:
        server = self.world.primary.server
        if server.fenced or self._changing:
            return
        self._changing = True
        server.fenced = True

        def lift() -> None:
            self._changing = False
            server.fenced = False

        self.world.after(fault.for_ms, lift)

    def flush_all(self, fault: Fault) -> None:
        self.world.flush_all()

    def lose_metadata(self, fault: Fault) -> None:
        self.world.primary.server.lose_metadata()

    def lose_roster(self, fault: Fault) -> None:
        self.world.primary.server.lose_roster(keep=fault.number - 1)

    def trim(self, fault: Fault) -> None:
        self.world.primary.server.trim(fault.number - 1)

    def out_of_memory(self, fault: Fault) -> None:
        server = self.world.primary.server
        server.out_of_memory = True
        self.world.after(fault.for_ms, setattr, server, "out_of_memory", False)

    def foreign_set(self, fault: Fault) -> None:
        """Another program writes to Redis past coherenced."""
        key = self._known_key(fault)
        if key:
            self._foreign += 1
            self.world.change_past_us(b"SET", key, b"foreign.%d" % self._foreign)

    def evict_value(self, fault: Fault) -> None:
        """Redis is short of memory and drops a value."""
        key = self._known_key(fault)
        if key:
            self.world.change_past_us(b"DEL", key)

    def _known_key(self, fault: Fault) -> bytes:
        """One of those that have no stronger promise than their age, once there are any."""
        keys = sorted(key for key in self.world.truth.keys if key.startswith(b"k"))
        return keys[fault.number % len(keys)] if keys else b""

    def save_file(self, fault: Fault) -> None:
        """BGSAVE: the file a later restart may come back with."""
        self.old_file = self.world.primary.server.copy()


ACTIONS: Final[dict[str, Callable[[Nemesis, Fault], None]]] = {
    "lose bus messages": Nemesis.lose_messages,
    "cut": Nemesis.cut,
    "cut and drain": Nemesis.cut_and_drain,
    "half-open": Nemesis.half_open,
    "lose replies": Nemesis.lose_replies,
    "stuck": Nemesis.stuck,
    "slow": Nemesis.slow,
    "partition": Nemesis.partition,
    "pause": Nemesis.pause,
    STOPPED_CLOCKS: Nemesis.freeze,
    LATE_REQUESTS: Nemesis.late_requests,
    "crash": Nemesis.crash,
    "leave": Nemesis.leave,
    "restart server": Nemesis.restart,
    "restart server empty": Nemesis.restart_empty,
    "restart server from old file": Nemesis.restart_old,
    "fail over": Nemesis.fail_over,
    "fail over by and by": Nemesis.fail_over_by_and_by,
    "fence server": Nemesis.fence,
    "flushall": Nemesis.flush_all,
    "lose metadata": Nemesis.lose_metadata,
    "lose roster": Nemesis.lose_roster,
    "save file": Nemesis.save_file,
    "trim log": Nemesis.trim,
    "out of memory": Nemesis.out_of_memory,
    "foreign set": Nemesis.foreign_set,
    "evict value": Nemesis.evict_value,
}
