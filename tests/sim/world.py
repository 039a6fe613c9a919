"""The world: virtual time, hosts, connections, and one modelled Redis that may fail over.

Everything that happens is an entry of one heap, ordered by time and then by the
order it was planned in; every draw comes from a generator seeded by the run's
seed. So a run is a function of its seed, and replays exactly.

After every step of every node two things are checked against the truth, beside
the core's own invariants:

    position   what a node may serve is what Redis held at the node's position
    proof      nothing was committed before a node's verified-at that it has not applied
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec

from coherenced.core.calls import Call, Logged, Mutate, Mutated, Resolve
from coherenced.core.inputs import Input
from coherenced.core.laws import Laws
from coherenced.core.model import NEVER, Lineage, Message, Mutation, Op, Version
from coherenced.core.node import Settings
from coherenced.core.outbox import Effect, Event
from coherenced.core.policy import Namespaces, Policy
from tests.sim.history import ROUNDING_MS, History, Violation, describe
from tests.sim.host import KEEPALIVE_MS, Host
from tests.sim.network import BUS, Connection, Delays, Process
from tests.sim.redis_model import Executed, Server, ServerLaws
from tests.sim.truth import Truth

REPLY_LOST_MS: Final = 5.0
"""How long after a reply was lost the node learns that its connection is gone."""
TRACE_LINES: Final = 400
LINEARIZABLE: Final = b"l:"
"""Keys with this prefix are of the linearizable namespace, where a world has one."""
FILLER: Final = b"~"
"""Keys with this prefix only make records large; nobody reads them."""
MAX_EVENTS: Final = 5_000_000


class World:
    def __init__(
        self,
        seed: int,
        *,
        policy: Policy | None = None,
        rules: tuple[tuple[str, Policy], ...] = (),
        laws: Laws | None = None,
        server_laws: ServerLaws | None = None,
        least_delay_ms: float = 0.05,
        most_delay_ms: float = 0.5,
        slow_share: float = 0.0,
        l1_max_bytes: int = 1 << 20,
        tidy_entries: int = 1,
        tracing: bool = False,
    ) -> None:
        self.seed = seed
        self.now_ms = 0.0
        self.laws = laws or Laws()
        self._policy, self._rules = policy or Policy(max_staleness_ms=200.0), rules
        self.namespaces = Namespaces(self._policy, rules)
        self.l1_max_bytes = l1_max_bytes
        self.tidy_entries = tidy_entries
        self.random = Random(f"network {seed}")
        self.delays = Delays(self.random, least_delay_ms, most_delay_ms, slow_share)
        self.primary = Process(Server(server_laws), "redis-1")
        self.processes = [self.primary]
        self.hosts: dict[str, Host] = {}
        self.incarnations: dict[bytes, Host] = {}
        self.sent_mutations: dict[tuple[str, int, int], Connection] = {}
        self.truth = Truth()
        self.history = History(self.truth, LINEARIZABLE)
        self.steps = 0
        self.events = 0
        self.drops: dict[str, int] = {}
        """host -> how many of its next bus messages are lost."""
        self.retire_ms = 20.0
        """How long a bus connection that was replaced may go on bringing messages, at most."""
        self.loss = 0.0
        """Share of all bus messages that are lost."""
        self.marks: dict[int, tuple[Mutation, bytes]] = {}
        """id of a Mutation -> (itself, so that the id stays its own; the mark it is known by)."""
        self.tokens: deque[tuple[bytes, Version, float]] = deque(maxlen=50)
        """(key, version that a write returned, its commit): sessions that move between hosts."""
        self.watch_positions = True
        self.watch_proofs = True
        self.rounding_ms = ROUNDING_MS
        """How exactly the times of two clocks can be compared."""
        self.seen_events: dict[str, int] = {}
        self.tracing = tracing
        self.trace: deque[str] = deque(maxlen=TRACE_LINES)
        self.on_event: Callable[[Host, Event], None] | None = None
        self._ids = Random(f"ids {seed}")
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0

    # -- time ------------------------------------------------------------------------

    def at(self, when_ms: float, action: Callable[..., None], *args: Any) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (max(when_ms, self.now_ms), self._serial, action, args))

    def after(self, delay_ms: float, action: Callable[..., None], *args: Any) -> None:
        self.at(self.now_ms + delay_ms, action, *args)

    def run_until(self, end_ms: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= end_ms:
            self.run_next()
        self.now_ms = end_ms

    def run_next(self) -> None:
        when_ms, _, action, args = heapq.heappop(self._heap)
        self.now_ms = when_ms
        self.events += 1
        if self.events > MAX_EVENTS:
            raise AssertionError("this run never ends")
        action(*args)

    @property
    def next_event_ms(self) -> float:
        return self._heap[0][0] if self._heap else float("inf")

    # -- hosts -----------------------------------------------------------------------

    def new_id(self) -> bytes:
        return b"%016x" % self._ids.getrandbits(64)

    def add_host(
        self, name: str, *, offset_ms: float = 0.0, rate: float = 1.0, is_plain: bool = False
    ) -> Host:
        host = self.hosts[name] = Host(self, name, offset_ms=offset_ms, rate=rate)
        host.is_plain = is_plain
        host.start()
        return host

    def settings_of(self, host: Host) -> Settings:
        return Settings(
            name=host.name,
            incarnation=self.new_id(),
            namespaces=Namespaces(self._policy, () if host.is_plain else self._rules),
            version="sim",
            l1_max_bytes=self.l1_max_bytes,
            tidy_entries=self.tidy_entries,
            follow_from=1,
        )

    # -- connections -----------------------------------------------------------------

    def connect(self, host: Host, role: str, number: int) -> Connection | None:
        process = host.sees or self.primary
        if not host.reachable or not process.up or role in host.blocked:
            return None
        return Connection(host.name, role, process, number, self.delays, self.now_ms)

    def send_up(self, connection: Connection, action: Callable[[], None]) -> None:
        self.at(connection.arrival_up_ms(self.now_ms), self._arrive_up, connection, action)

    def _arrive_up(self, connection: Connection, action: Callable[[], None]) -> None:
        if connection.hold(self._arrive_up, connection, action):
            return
        if connection.server_open and connection.process.up:
            action()

    def send_down(self, connection: Connection, action: Callable[..., None], *args: Any) -> None:
        if connection.mute:
            self.after(REPLY_LOST_MS, self.cut, connection)
            return
        arrival_ms = connection.arrival_down_ms(self.now_ms)
        self.at(arrival_ms, self._arrive_down, connection, action, args)

    def _arrive_down(
        self, connection: Connection, action: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        if connection.hold(self._arrive_down, connection, action, args):
            return
        if connection.node_open:
            action(*args)

    def close_by_node(self, connection: Connection) -> None:
        """The node hangs up. What it had sent before still arrives."""
        connection.node_open = False
        self.send_up(connection, lambda: setattr(connection, "server_open", False))

    def retire_bus(self, connection: Connection) -> None:
        """A new bus connection replaces this one, which may go on bringing messages for a while."""
        self.after(self.random.random() * self.retire_ms, self.close_by_node, connection)

    def cut(self, connection: Connection, *, drain: bool = False, notice: bool = True) -> None:
        """The connection breaks at the server's end.

        `drain`: what is on its way to the node still arrives first (FIN, not RST).
        `notice` False: half open, the node is not told.
        """
        connection.server_open = False
        if not notice:
            if connection.role == BUS:
                self.after(KEEPALIVE_MS, self._node_learns, connection)
            return
        if drain:
            self.send_down(connection, self._node_learns, connection)
        else:
            self._node_learns(connection)

    def _node_learns(self, connection: Connection) -> None:
        host = self.hosts[connection.host]
        if connection.node_open:
            connection.node_open = False
            host.lost(connection, "connection reset")

    # -- the server ------------------------------------------------------------------

    def execute(self, host: Host, connection: Connection, call: Call) -> None:
        """A call has arrived at the server of `connection`."""
        process = connection.process
        server = process.server
        if server.laws.earlier_connection_ended:
            host.end_earlier(connection)
        before = server.lineage
        result = server.execute(call, self.now_ms)
        if isinstance(call, Resolve):
            result = self._sever(host, connection, call, result)
        self.trace_server(process, host, call)
        if process is self.primary:
            self._observe(call, result, before)
        if server.unapplied:
            self.after(3.0, self._apply_late, process)
        for message in result.messages:
            self.publish(process, message)
        for writer, ack in result.acks:
            target = self.incarnations.get(writer)
            bus = target.connections.get(BUS) if target is not None else None
            if target is not None and bus is not None and self._listens(process, bus):
                self.send_down(bus, target.deliver_ack, ack)
        answer = result.answer
        if answer is not None:
            if "server_id" in answer.__struct_fields__:
                answer = msgspec.structs.replace(answer, server_id=process.name.encode())
            self.send_down(connection, host.answer, answer)

    def _sever(
        self, host: Host, connection: Connection, call: Resolve, result: Executed
    ) -> Executed:
        """W3: kill the connection on which the lost call went out, if it is this server's."""
        old = host.resolve_target(call)
        severed = True
        if old is not None:
            if old.process is connection.process:
                old.server_open = False
            severed = not (old.server_open and old.process.up)
        if not isinstance(result.answer, Logged):
            return result
        return Executed(msgspec.structs.replace(result.answer, severed=severed))

    def _observe(self, call: Call, result: Executed, before: Lineage | None) -> None:
        server = self.primary.server
        truth = self.truth
        # Labelled values do not outlive their epoch: a new one may change any key.
        everything = server.lineage is not None and (
            before is None or before.epoch != server.lineage.epoch
        )
        answer = result.answer
        if isinstance(call, Mutate) and isinstance(answer, Mutated):
            for mutation, done in zip(call.every, answer.done, strict=False):
                if mutation.op == Op.DELETE and not done.seq and done.reply == 0:
                    truth.note_cover(mutation, self.now_ms)  # L1: recorded or not
        if not isinstance(answer, Mutated) or not any(done.seq for done in answer.done):
            if everything:
                truth.observe(server, None, self.now_ms)
            truth.place(server)
            return
        everything |= any(m.everything or m.tags or m.prefixes for m in call.every)
        named = (key for mutation in call.every for key in mutation.keys)
        touched = dict.fromkeys(key for key in named if not key.startswith(FILLER))
        truth.observe(server, None if everything else list(touched), self.now_ms)
        for mutation, done in zip(call.every, answer.done, strict=True):
            if done.seq:
                position = Lineage(answer.lineage.epoch, done.seq, done.tag)
                truth.positions.setdefault(position, truth.index)
                truth.by_seq.setdefault(position[:2], []).append(truth.index)
                truth.note_written(self.mark_of(mutation), self.now_ms)
                truth.note_cover(mutation, self.now_ms)

    def mark_of(self, mutation: Mutation) -> bytes:
        known = self.marks.get(id(mutation))
        if known is not None:
            return known[1]
        return mutation.argv[2] if len(mutation.argv) > 2 else b""

    def mark(self, mutation: Mutation, mark: bytes) -> Mutation:
        """Know this mutation by `mark` when it is committed."""
        self.marks[id(mutation)] = (mutation, mark)
        return mutation

    def _apply_late(self, process: Process) -> None:
        process.server.catch_up_data()
        if process is self.primary:
            self.truth.observe(process.server, None, self.now_ms)

    def publish(self, process: Process, message: Message) -> None:
        for connection in process.subscribers:
            if connection.server_open and not self._lose(connection):
                host = self.hosts[connection.host]
                self.send_down(connection, host.deliver, connection, message)

    def _lose(self, connection: Connection) -> bool:
        left = self.drops.get(connection.host, 0)
        if left > 0:
            self.drops[connection.host] = left - 1
            return True
        return self.loss > 0 and self.random.random() < self.loss

    def _listens(self, process: Process, bus: Connection) -> bool:
        return bus.process is process and bus.server_open and bus in process.subscribers

    # -- what happens to the server ------------------------------------------------------

    def take_down(self, process: Process) -> None:
        """The process dies: every connection breaks, nothing more is executed."""
        process.up = False
        for connection in process.connections:
            if connection.server_open:
                self.cut(connection, drain=self.random.random() < 0.5)
        process.connections.clear()
        process.subscribers.clear()

    def promote(self, server: Server) -> None:
        """From now on this is Redis: a restarted server, or a promoted replica."""
        server.fenced = False
        self.primary = Process(server, f"redis-{len(self.processes) + 1}")
        self.processes.append(self.primary)
        self.truth.losses.append(self.now_ms)
        self.truth.observe(server, None, self.now_ms)

    def redirect(self, host: Host, old: Process) -> None:
        """The host learns who is primary; its connections to the old one break by themselves."""
        if host.sees is old:
            host.sees = None
        for connection in list(host.connections.values()):
            if connection.process is old:
                self.cut(connection)

    def flush_all(self) -> None:
        self.primary.server.flush_all()
        self.truth.losses.append(self.now_ms)
        self.truth.observe(self.primary.server, None, self.now_ms)

    def change_past_us(self, *argv: bytes) -> None:
        """Another program, or Redis itself, changes a key; no record tells of it."""
        server = self.primary.server
        server.space.now_ms = int(self.now_ms + server.clock_offset_ms)
        server.foreign(*argv)
        self.truth.note_foreign(server, argv[1], self.now_ms)

    # -- checks ----------------------------------------------------------------------

    def after_step(self, host: Host) -> None:
        node = host.node
        assert node is not None
        broken = host.watch.check()
        if broken:
            raise Violation(f"node {host.name}: " + "; ".join(broken))
        if self.watch_positions and node.lane.epoch is not None:
            self.check_position(host)

    def check_position(self, host: Host) -> None:
        node = host.node
        assert node is not None
        lane = node.lane
        lineage = lane.lineage
        assert lineage is not None
        index = self.truth.positions.get(lineage)
        if index is None:
            if any(lineage == p.server.lineage for p in self.processes):
                return  # a server that is not the authoritative one
            if node.l1.entries or lane.verified_at_ms != NEVER:
                raise Violation(f"node {host.name} is at {lineage}, where the log never stood")
            return
        if lane.verified_at_ms > host.proved_ms and self.watch_proofs:
            host.proved_ms = lane.verified_at_ms
            verified_ms = host.world_ms(lane.verified_at_ms)
            missed_ms = self.truth.next_commit_ms(index)
            if missed_ms < verified_ms - self.rounding_ms:
                raise Violation(
                    f"proof: node {host.name} at {lineage.seq} says that it has seen all up to "
                    f"{verified_ms:.2f}, but not the commit at {missed_ms:.2f}"
                )
        for key, entry in node.l1.entries.items():
            known = host.checked.get(key)
            if known is not None and known[0] is entry and known[1] == index:
                continue  # this very entry was found right at this very position
            if node.l1.is_ended(entry) or host.local_ms() >= entry.deadline_ms:
                continue
            self._check_entry(host, key, entry.value, entry.as_of, index)
            host.checked[key] = (entry, index)

    def _check_entry(
        self, host: Host, key: bytes, value: bytes | None, as_of: int, index: int
    ) -> None:
        if key in self.truth.foreign:
            return  # it may have changed between two commits: only its age is promised
        lineage = host.node.lane.lineage  # type: ignore[union-attr]
        assert lineage is not None
        timeline = self.truth.timeline(key)
        indexes = [index]
        if as_of > lineage.seq:
            indexes = self.truth.by_seq.get((lineage.epoch, as_of), [])
        for at in indexes:
            state = timeline.at_index(at)
            if state.value == value or (value is None and self.now_ms >= state.dies_ms):
                return
        raise Violation(
            f"position: node {host.name} at {lineage.seq} holds {key!r}={value!r} as of {as_of}, "
            f"but there Redis held something else: {describe(self.truth, key)}"
        )

    # -- what people look at -------------------------------------------------------------

    def note_event(self, host: Host, event: Event) -> None:
        self.seen_events[event.name] = self.seen_events.get(event.name, 0) + 1
        if self.on_event is not None:
            self.on_event(host, event)

    def trace_step(self, host: Host, given: Input, effects: list[Effect]) -> None:
        if self.tracing:
            self.trace.append(f"{self.now_ms:10.3f} {host.name} <- {given}")
            self.trace.extend(f"{'':10} {host.name} -> {effect}" for effect in effects)

    def trace_server(self, process: Process, host: Host, call: Call) -> None:
        if self.tracing:
            self.trace.append(f"{self.now_ms:10.3f} {process} executes {type(call).__name__} "
                              f"{call.call_id if hasattr(call, 'call_id') else ''} of {host.name}, "
                              f"now at {process.server.lineage}")  # fmt: skip
