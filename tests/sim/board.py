"""A small configuration whose every message waits until it is chosen: what `explorer` searches.

A choice is one of

    deliver  the next message of one connection (each is first in, first out)
    lose     the next bus message to a node (a bounded number of them)
    act      a client's next read or write
    crash    a node is killed; what it had asked is never answered
    start    it comes up again, with nothing
    fail     over to a replica that lacks the last commits; the old primary, fenced, still answers
    learn    a node's connections to the old primary break (all at once, or one by one)
    tick     time goes on: timers fire, and a bound of staleness comes nearer

Calls are executed by the server the moment they are sent and their answers wait
to be delivered: a delay before execution is the same as sending later. After
every step everything is checked that a seeded run checks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from coherenced.core.calls import Call
from coherenced.core.laws import Laws
from coherenced.core.model import Mutation, Op, Version
from coherenced.core.node import BEATS_PER_BOUND
from coherenced.core.policy import Policy
from coherenced.core.requests import Fault, Level, Outcome, Read, ReadResult, Write, WriteResult
from tests.sim.fingerprint import Freezer
from tests.sim.history import ReadOp, WriteOp
from tests.sim.host import Host
from tests.sim.mix import set_mutation
from tests.sim.network import BUS, Connection
from tests.sim.redis_model import Server, ServerLaws
from tests.sim.world import World

MOMENT_MS: Final = 0.001
"""Between two events: no time to speak of, but enough to tell which was first."""


class Act(msgspec.Struct, frozen=True):
    """One client request. Acts of one node happen in their order, those of two in any."""

    node: str
    what: str
    """`read`, `zero` (a read with B = 0), `token`, `write`, `delete`, `tag` (invalidate it),
    `prefix` (invalidate all that begins with the key)."""
    key: str = "k"
    ack: int = Level.REDIS
    tags: tuple[bytes, ...] = ()
    atomic_with: str = ""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration to explore."""

    name: str
    acts: tuple[Act, ...]
    nodes: tuple[str, ...] = ("a", "b")
    losses: int = 0
    """Bus messages that may be lost."""
    crashes: tuple[str, ...] = ()
    """Nodes that may be killed, each of them once."""
    failovers: int = 0
    lost: int = 1
    """How many of the last commits a failover may lose, at most."""
    failed_over: bool = False
    """It has just happened, losing `lost` commits: explored is what follows."""
    one_by_one: bool = False
    """After a failover the connections to the old primary break one by one."""
    probes_due: bool = True
    """With its first step each node sends a periodic probe."""
    ticks: int = 1
    tick_ms: float = 60.0
    bound_ms: float = 100.0
    tidy_entries: int = 250
    """0: what an invalidated prefix covers is never looked for, and only marked."""
    warm: tuple[Act, ...] = ()
    """Done before, in order, with everything delivered."""
    laws: Laws = Laws()
    server_laws: ServerLaws = ServerLaws()


class Board(World):
    """A world whose messages wait until they are chosen."""

    def __init__(self, setup: Setup) -> None:
        self.queues: dict[tuple[str, str], deque[tuple[Connection, Callable[..., None], Any]]] = {}
        self.eager = True
        """While the configuration is set up everything is delivered at once."""
        self.checking = False
        """Steps are checked, but for those of a beginning that was checked when it was found."""
        policy = Policy(max_staleness_ms=setup.bound_ms, ack_timeout_ms=1_000.0)
        rules = (("l:*", msgspec.structs.replace(policy, linearizable=True)),)
        super().__init__(
            1, policy=policy, rules=rules, laws=setup.laws, server_laws=setup.server_laws,
            least_delay_ms=0.0, most_delay_ms=0.0, tidy_entries=setup.tidy_entries,
        )  # fmt: skip
        self.rounding_ms = MOMENT_MS / 10  # there is one clock
        self.setup = setup
        self.todo: dict[str, deque[Act]] = {}
        self.losses_left = setup.losses
        self.crashes_left = setup.crashes
        self.failovers_left = setup.failovers
        self.ticks_left = setup.ticks
        self.copies: deque[Server] = deque(maxlen=setup.lost + 1)
        """What a replica may hold: the primary as it was after its last commits."""
        self.written = 0
        self.open: dict[str, int] = {}
        """node -> how many of its requests have no answer yet."""
        self.tokens_known: list[tuple[bytes, Version, float]] = []
        for name in setup.nodes:
            self.add_host(name)
            self.drain()
        self.now_ms = 1.5 * setup.bound_ms  # past the caution after a first contact (K7)
        self._fire_timers()
        self.drain()
        self.copies.append(self.primary.server.copy())
        for act in setup.warm:
            self.now_ms += MOMENT_MS
            self.act(act)
            self.drain()
        if setup.failed_over:
            self.now_ms += MOMENT_MS
            self._fail_over(self.copies[-1 - setup.lost])
        if setup.probes_due:
            self.now_ms += setup.bound_ms / BEATS_PER_BOUND  # and no timer fires by itself
        self.eager = False
        for host in self.hosts.values():
            self.todo[host.name] = deque(a for a in setup.acts if a.node == host.name)

    # -- instead of a network and a clock ------------------------------------------------

    def send_up(self, connection: Connection, action: Callable[[], None]) -> None:
        if connection.server_open and connection.process.up:
            action()

    def send_down(self, connection: Connection, action: Callable[..., None], *args: Any) -> None:
        place = (connection.host, connection.role)
        self.queues.setdefault(place, deque()).append((connection, action, args))

    def drain(self) -> None:
        while waiting := [place for place, queue in self.queues.items() if queue]:
            for place in waiting:
                self.deliver(place)

    def deliver(self, place: tuple[str, str]) -> None:
        connection, action, args = self.queues[place].popleft()
        if connection.node_open:
            action(*args)

    def tick(self) -> None:
        self.now_ms += self.setup.tick_ms
        self._fire_timers()

    def _fire_timers(self) -> None:
        self.run_until(self.now_ms)

    def execute(self, host: Host, connection: Connection, call: Call) -> None:
        server = self.primary.server
        before = server.lineage
        super().execute(host, connection, call)
        following = self.failovers_left or (self.eager and self.setup.failed_over)
        if following and server.lineage != before:
            self.copies.append(server.copy())

    # -- choices ---------------------------------------------------------------------------

    def choices(self) -> list[tuple[str, Any]]:
        """What can happen next, in a fixed order."""
        found: list[tuple[str, Any]] = []
        for place in sorted(place for place, queue in self.queues.items() if queue):
            found.append(("deliver", place))
            if place[1] == BUS and self.losses_left:
                found.append(("lose", place))
        for name, acts in self.todo.items():
            node = self.hosts[name].node
            if node is None:
                found.append(("start", name))
            elif acts and node.ready:
                found.append(("act", name))
        found.extend(("crash", name) for name in self.crashes_left if self.hosts[name].node)
        if self.failovers_left:
            found.extend(("fail", lost) for lost in range(len(self.copies)))
        found.extend(("learn", place) for place in self._on_the_old_primary())
        if self.ticks_left:
            found.append(("tick", None))
        return found

    def choose(self, choice: tuple[str, Any]) -> None:
        self.now_ms += MOMENT_MS
        kind, where = choice
        if kind == "deliver":
            self.deliver(where)
        elif kind == "lose":
            self.losses_left -= 1
            self.queues[where].popleft()
        elif kind == "act":
            self.act(self.todo[where].popleft())
        elif kind == "crash":
            self.crashes_left = tuple(name for name in self.crashes_left if name != where)
            self.open[where] = 0
            self.hosts[where].crash()
        elif kind == "start":
            self.hosts[where].start()
        elif kind == "fail":
            self.failovers_left -= 1
            self._fail_over(self.copies[-1 - where])
        elif kind == "learn":
            self._learn(where)
        else:
            self.ticks_left -= 1
            self.tick()
        self._forget_unread()

    def _fail_over(self, replica: Server) -> None:
        old = self.primary
        old.server.fenced = True
        for host in self.hosts.values():
            host.sees = None if self.setup.one_by_one else old
        self.promote(replica.copy())
        self.copies.clear()
        self.copies.append(replica)

    def _on_the_old_primary(self) -> list[tuple[str, str]]:
        """(node, role) of each connection that a failover left behind; role "" is all of them."""
        if self.setup.one_by_one:
            return [
                (host.name, role)
                for host in self.hosts.values()
                for role, connection in sorted(host.connections.items())
                if connection.process is not self.primary
            ]
        return [(host.name, "") for host in self.hosts.values() if host.sees is not None]

    def _learn(self, place: tuple[str, str]) -> None:
        name, role = place
        host = self.hosts[name]
        if role:
            self.cut(host.connections[role])
        elif host.sees is not None:
            self.redirect(host, host.sees)

    def _forget_unread(self) -> None:
        """What was sent over a connection that the node has closed will never be looked at."""
        for queue in self.queues.values():
            while queue and not queue[0][0].node_open:
                queue.popleft()

    def end_faults(self) -> None:
        """Everybody is up, and connected to the primary."""
        for host in self.hosts.values():
            if host.node is None:
                host.start()
        while left := self._on_the_old_primary():
            for place in left:
                self._learn(place)

    # -- acts --------------------------------------------------------------------------------

    def act(self, act: Act) -> None:
        host = self.hosts[act.node]
        key = act.key.encode()
        if act.what in ("read", "zero", "token"):
            self._read(host, key, act)
        elif act.what == "tag":
            invalidate = Mutation((), Op.INVALIDATE, tags=act.tags, frees_memory=True)
            self._write(host, invalidate, act)
        elif act.what == "prefix":
            invalidate = Mutation((), Op.INVALIDATE, prefixes=(key,), frees_memory=True)
            self._write(host, invalidate, act)
        elif act.what == "delete":
            argv = (b"DEL", key)
            self._write(host, Mutation(argv, Op.DELETE, (key,), frees_memory=True), act)
        else:
            self.written += 1
            value = b"v%d" % self.written
            mutation = set_mutation(key, value)
            if act.tags:
                mutation = msgspec.structs.replace(mutation, label=act.tags)
            self._write(host, mutation, act)

    def _read(self, host: Host, key: bytes, act: Act) -> None:
        bound_ms = 0.0 if act.what == "zero" else None
        effective_ms = self.setup.bound_ms if bound_ms is None else 0.0
        op = ReadOp(host.name, host.name, host.incarnation, (key,), effective_ms, self.now_ms)
        token = None
        if act.what == "token" and self.tokens_known:
            _, token, op.token_ms = self.tokens_known[-1]
        if act.what == "read":
            entry = host.hit(key)
            if entry is not None:
                self.history.end_hit(op, entry.value, self.now_ms)
                return
        self._opened(host)

        def done(outcome: Outcome) -> None:
            assert isinstance(outcome, ReadResult | Fault)
            self.open[host.name] -= 1
            self.history.end_read(op, outcome, self.now_ms)

        host.submit(Read((key,), bound_ms, token), done)

    def _opened(self, host: Host) -> None:
        self.open[host.name] = self.open.get(host.name, 0) + 1

    def _write(self, host: Host, mutation: Mutation, act: Act) -> None:
        self.written += 1
        mark = mutation.argv[2] if len(mutation.argv) > 2 else b"w%d" % self.written
        op = WriteOp(
            host.name, host.name, host.incarnation, mutation.keys, mark, "write", act.ack,
            self.now_ms,
        )  # fmt: skip
        if not mutation.keys or not mutation.keys[0].startswith(b"l:"):
            self.mark(mutation, mark)
        self._opened(host)

        def done(outcome: Outcome) -> None:
            assert isinstance(outcome, WriteResult | Fault)
            self.open[host.name] -= 1
            self.history.end_write(op, outcome, self.now_ms)
            if isinstance(outcome, WriteResult) and outcome.version is not None and mutation.keys:
                commit_ms = self.truth.committed[mark][-1]
                self.tokens_known.append((mutation.keys[0], outcome.version, commit_ms))

        host.submit(Write((mutation,), ack=act.ack), done)

    # -- what a state is -------------------------------------------------------------------------

    def after_step(self, host: Host) -> None:
        if self.checking:
            super().after_step(host)

    def fingerprint(self) -> int:
        now_ms = self.now_ms
        freeze = Freezer(now_ms)
        parts: list[Any] = [
            self.losses_left,
            self.crashes_left,
            self.failovers_left,
            self.ticks_left,
            tuple(len(acts) for acts in self.todo.values()),
            tuple(self.open.values()),
        ]
        processes = {process: place for place, process in enumerate(self.processes)}
        for process in self.processes:
            parts.append(_frozen_server(freeze, process.server))
        if self.failovers_left:
            parts.extend(_frozen_server(freeze, server) for server in self.copies)
        for place in sorted(self.queues):
            queue = self.queues[place]
            waiting = tuple((c.number, processes[c.process], freeze(a)) for c, _, a in queue)
            parts.append((place, waiting))
        for host in self.hosts.values():
            parts.append(host.sees and processes[host.sees])
            for role, connection in sorted(host.connections.items()):
                listens = connection in connection.process.subscribers
                parts.append((role, processes[connection.process], connection.node_open, listens))
            parts.append(freeze(host.node))
        freeze.exact = True
        for timeline in self.truth.keys.values():
            parts.append(tuple((freeze(s.at_ms), s.value) for s in timeline.states))
        parts.append(tuple(freeze(at_ms) for at_ms in self.truth.losses))
        history = self.history
        parts.append(freeze(history._seen))
        parts.append(freeze(history._acked))
        parts.append(freeze.ranks())
        return hash(repr(parts))


def _frozen_server(freeze: Freezer, server: Server) -> tuple[Any, ...]:
    """All that the server's next answers depend on."""
    return (
        server.fenced,
        freeze(server.lineage),
        tuple((key, item.value) for key, item in server.space.items.items()),
        tuple(freeze(entry.record.tag) for entry in server.log),
        tuple(freeze(incarnation) for incarnation in server.roster),
        server.roster_version,
        tuple((key, freeze(token)) for key, (_, token) in server.marks.on.items()),
        tuple((key, seq, tags) for key, (_, seq, tags) in server.labels.of.items()),
    )
