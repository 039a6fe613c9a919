"""One host of the world: a node of the real core, its clock, and its connections.

It does what a daemon's shell does, and no more: carries out calls, brings the
answers back, re-arms one timer. A stopped host's inputs queue up; its clock
goes on (CLOCK_BOOTTIME), unless the whole machine is frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from coherenced.core.calls import (
    AckReceived,
    Answer,
    BusLost,
    Claim,
    Delivered,
    Failed,
    Failure,
    Fetch,
    Heard,
    Mutate,
    Reap,
    Resolve,
    SendAck,
    Subscribe,
    Subscribed,
    WaitReplicas,
)
from coherenced.core.entry import Entry
from coherenced.core.inputs import Input, Start, Stop, Submit, Tick
from coherenced.core.invariants import Watch
from coherenced.core.model import NEVER, Acknowledgement, Message
from coherenced.core.node import Node, Settings
from coherenced.core.outbox import Applied, Effect, Event, Settled, SettledAll
from coherenced.core.requests import Fault, FaultKind, Outcome, Read, ReadResult, Request
from tests.sim.copies import Copies
from tests.sim.network import BUS, CONTROL, READS, WRITES, Connection, Process

if TYPE_CHECKING:
    from tests.sim.clients import Client
    from tests.sim.world import World

COMMAND_TIMEOUT_MS: Final = 1_000.0
REFUSED_MS: Final = 1.0
"""How soon a connection attempt that is refused fails."""
CONNECT_TIMEOUT_MS: Final = 300.0
RECONNECT_MS: Final = 50.0
KEEPALIVE_MS: Final = 2_500.0
"""How long a half-open bus connection can go unnoticed."""
MOST_STEPS_AT_ONCE: Final = 2_000
"""More steps of one node at one instant than this is a node that spins."""
ROLE_OF: Final = {Fetch: READS, Claim: READS, Mutate: WRITES, WaitReplicas: WRITES}
QUIET: Final = (SendAck, Reap)
"""Calls that want no answer."""


class Host:
    def __init__(self, world: World, name: str, *, offset_ms: float = 0.0, rate: float = 1.0):
        self.world = world
        self.name = name
        self.offset_ms = offset_ms
        self.rate = rate
        self.node: Node | None = None
        self.watch: Watch
        """Checks the node's invariants."""
        self.proved_ms = NEVER
        """The latest verified-at of the node, on its own clock, that has been checked."""
        self.checked: dict[bytes, tuple[Entry, int]] = {}
        """key -> the entry of the node that was found right, and at which commit."""
        self.is_plain = False
        """Whether it is configured without the namespaces of the others."""
        self.incarnation = 0
        """+1 at each start; the node's own incarnation is random."""
        self.paused = False
        self.sees: Process | None = None
        """The server that it takes for the primary; None: whichever is."""
        self.blocked: set[str] = set()
        """Roles for which no connection is to be had."""
        self.reachable = True
        """False: a partition; nothing new gets through to any server."""
        self.connections: dict[str, Connection] = {}
        self._made: dict[str, list[Connection]] = {}
        """Role -> the connections that the server may still hear, the present one last."""
        self.events: list[Event] = []
        self.clients: list[Client] = []
        self.copies = Copies()
        """What the processes on this host hold themselves."""
        self.settled: dict[int, Callable[[Outcome], None]] = {}
        self._inbox: list[Callable[[], None]] = []
        self._piled: tuple[int, int, list[Message]] | None = None
        """The messages that were the last to come while it stood: how long the inbox was with
        them, of which bus connection, and they."""
        self._open: dict[int, Connection] = {}
        """call id -> the connection on which its answer is awaited."""
        self._wake_at_ms = float("inf")
        self._next_request = 1
        self._steps_at = (-1.0, 0)
        self._settings: Settings | None = None

    # -- the clock -------------------------------------------------------------------

    def local_ms(self) -> float:
        return self.offset_ms + self.world.now_ms * self.rate

    def world_ms(self, local_ms: float) -> float:
        return (local_ms - self.offset_ms) / self.rate

    # -- life ------------------------------------------------------------------------

    def start(self) -> None:
        assert self.node is None
        self.incarnation += 1
        self.proved_ms = NEVER
        self.checked.clear()
        self._settings = self.world.settings_of(self)
        page = self.copies.restarted(self._settings.namespaces.largest_bound_ms)
        self.node = Node(self._settings, self.world.new_id, self.world.laws, page)
        self.watch = Watch(self.node)
        self.world.incarnations[self._settings.incarnation] = self
        self.feed(Start())

    def crash(self) -> None:
        """kill -9: everything in memory is gone; its sockets close."""
        self.node = None
        self.paused = False
        for connection in self.connections.values():
            self.world.close_by_node(connection)
        self.connections.clear()
        self._made.clear()
        self._open.clear()
        self._inbox.clear()
        self._piled = None
        self._wake_at_ms = float("inf")
        self.settled.clear()
        for client in self.clients:
            client.host_crashed()
        if self._settings is not None:
            self.world.incarnations.pop(self._settings.incarnation, None)

    def stop_cleanly(self) -> None:
        self.feed(Stop())

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """SIGCONT: what queued up is taken in, in the order it arrived."""
        if not self.paused:
            return
        self.paused = False
        inbox, self._inbox = self._inbox, []
        self._piled = None
        for action in inbox:
            action()
        if self.node is not None:
            self.feed(Tick())

    def freeze(self, pause_ms: float) -> None:
        """A hypervisor pause: nothing runs and even the clock stands still for `pause_ms`."""
        self.paused = True
        self.offset_ms -= pause_ms * self.rate
        self.world.after(pause_ms, self.resume)

    # -- what clients call -------------------------------------------------------------

    def ask(
        self, request: Request, done: Callable[[Outcome], None], who: int, delay_ms: float = 0.0
    ) -> None:
        """As a process of this host does: its own copy, or the daemon's answer, perhaps kept.

        `delay_ms`: how long question and answer are each on their way.
        """
        copies = self.copies
        if not isinstance(request, Read):
            self.submit(request, done)
            return
        held = copies.find(request, who, self.local_ms())
        if held is not None:
            done(ReadResult((held,)))
            return
        note = copies.note(request, who, self.local_ms())

        def answered(outcome: Outcome) -> None:
            if note is not None:
                copies.keep(note, who, outcome)
            done(outcome)

        if not delay_ms:
            self.submit(request, answered)
            return
        world, incarnation = self.world, self.incarnation

        def connected(then: Callable[..., None], *words: object) -> None:
            if self.node is not None and self.incarnation == incarnation:
                then(*words)  # else the connection broke

        def arrived() -> None:
            self.submit(
                request, lambda outcome: world.after(delay_ms, connected, answered, outcome)
            )

        world.after(delay_ms, connected, arrived)

    def submit(self, request: Request, done: Callable[[Outcome], None]) -> None:
        if self.paused:
            self._inbox.append(lambda: self.submit(request, done))
            return
        if self.node is None:
            done(Fault(FaultKind.STOPPING, "the daemon is not running"))
            return
        number = self._next_request
        self._next_request += 1
        self.settled[number] = done
        self.feed(Submit(number, request))

    def hit(self, key: bytes) -> Entry | None:
        """The short path; only for a host that runs."""
        assert self.node is not None
        assert not self.paused
        return self.node.hit(key, self.local_ms())

    # -- the node ----------------------------------------------------------------------

    def feed(self, given: Input) -> None:
        if self.paused:
            incarnation = self.incarnation
            self._inbox.append(lambda: self._feed_later(given, incarnation))
            return
        node = self.node
        if node is None:
            return
        self._spin_guard()
        effects = node.step(given, self.local_ms())
        self.world.steps += 1
        self.world.trace_step(self, given, effects)
        self.world.after_step(self)
        for effect in effects:
            self._carry_out(effect)
        self._arm()

    def _feed_later(self, given: Input, incarnation: int) -> None:
        if incarnation == self.incarnation:
            self.feed(given)

    def _spin_guard(self) -> None:
        at_ms, count = self._steps_at
        count = count + 1 if at_ms == self.world.now_ms else 1
        self._steps_at = (self.world.now_ms, count)
        if count > MOST_STEPS_AT_ONCE:
            raise AssertionError(f"node {self.name} spins at {self.world.now_ms}")

    def _arm(self) -> None:
        node = self.node
        if node is None:
            return
        deadline_ms = node.next_deadline_ms()
        if deadline_ms == float("inf"):
            return
        wake_ms = max(self.world_ms(deadline_ms) + 1e-6, self.world.now_ms)
        if wake_ms < self._wake_at_ms or self._wake_at_ms < self.world.now_ms:
            self._wake_at_ms = wake_ms
            self.world.at(wake_ms, self._wake, self.incarnation, wake_ms)

    def _wake(self, incarnation: int, wake_ms: float) -> None:
        if incarnation != self.incarnation or wake_ms != self._wake_at_ms:
            return
        self._wake_at_ms = float("inf")
        node = self.node
        if node is None or self.paused:
            return
        if node.next_deadline_ms() <= self.local_ms():
            self.feed(Tick())
        else:
            self._arm()

    # -- effects -----------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Settled):
            done = self.settled.pop(effect.request_id)
            done(effect.outcome)
        elif isinstance(effect, SettledAll):
            for request_id, outcome in zip(effect.request_ids, effect.outcomes, strict=True):
                self.settled.pop(request_id)(outcome)
        elif isinstance(effect, Event):
            self.events.append(effect)
            self.world.note_event(self, effect)
        elif isinstance(effect, Applied):
            return
        elif isinstance(effect, Subscribe):
            self._subscribe(effect)
        else:
            self._call(effect)

    def _subscribe(self, call: Subscribe) -> None:
        """Open another bus connection; the node ignores what the earlier one still brings."""
        world = self.world
        connection = world.connect(self, BUS, call.connection)
        if connection is None:
            retry_ms = max(self._refused_ms(), RECONNECT_MS)
            world.after(retry_ms, self._bus_lost, call.connection, "refused", self.incarnation)
            return
        old = self.connections.get(BUS)
        if old is not None:
            world.retire_bus(old)
        self.connections[BUS] = connection
        world.send_up(connection, lambda: self._subscribed_at_server(connection))

    def _subscribed_at_server(self, connection: Connection) -> None:
        connection.process.subscribers.append(connection)
        self.world.send_down(connection, self.feed, Subscribed(0, connection.number))

    def _call(self, call: object) -> None:
        world = self.world
        role = ROLE_OF.get(type(call), CONTROL)
        connection = self.connections.get(role)
        if connection is None or not connection.node_open:
            connection = world.connect(self, role, 0)
            if connection is None:
                self.connections.pop(role, None)
                if not isinstance(call, QUIET):
                    failed = Failed(call.call_id, Failure.UNREACHABLE, "connection refused")
                    world.after(self._refused_ms(), self._give, failed, self.incarnation)
                return
            self.connections[role] = connection
            self._made.setdefault(role, []).append(connection)
        if not isinstance(call, QUIET):
            self._open[call.call_id] = connection
            world.after(COMMAND_TIMEOUT_MS, self._timed_out, call.call_id, self.incarnation)
        if isinstance(call, Mutate):
            world.sent_mutations[(self.name, self.incarnation, call.call_id)] = connection
        world.send_up(connection, lambda: world.execute(self, connection, call))

    def end_earlier(self, connection: Connection) -> None:
        """Something arrives on `connection`; the word that the earlier ones are over came first."""
        made = self._made.get(connection.role, [])
        while connection in made and made[0] is not connection:
            earlier = made.pop(0)
            if earlier.process is connection.process:
                earlier.server_open = False

    def _refused_ms(self) -> float:
        return REFUSED_MS if self.reachable else CONNECT_TIMEOUT_MS

    def _give(self, answer: Answer, incarnation: int) -> None:
        if incarnation == self.incarnation:
            self.feed(answer)

    def answer(self, answer: Answer) -> None:
        """The reply of a call has arrived on its connection."""
        if self._open.pop(answer.call_id, None) is not None:
            self.feed(answer)

    def deliver(self, connection: Connection, message: Message) -> None:
        """What one after the other has come for a process that stands, it then reads at once."""
        if not self.paused:
            self.feed(Delivered(0, connection.number, message))
        elif self._piled is not None and self._piled[:2] == (len(self._inbox), connection.number):
            self._piled[2].append(message)
        else:
            together = [message]
            incarnation, number = self.incarnation, connection.number
            self._inbox.append(lambda: self._deliver_all(number, together, incarnation))
            self._piled = (len(self._inbox), number, together)

    def _deliver_all(self, connection: int, messages: list[Message], incarnation: int) -> None:
        if len(messages) == 1:
            self._feed_later(Delivered(0, connection, messages[0]), incarnation)
        else:
            self._feed_later(Heard(0, connection, tuple(messages)), incarnation)

    def deliver_ack(self, ack: Acknowledgement) -> None:
        self.feed(AckReceived(ack))

    # -- failures ------------------------------------------------------------------------

    def _timed_out(self, call_id: int, incarnation: int) -> None:
        """No reply in time: the shell closes the connection and says so for all calls on it."""
        if incarnation != self.incarnation or call_id not in self._open:
            return
        if self.paused:
            self._inbox.append(lambda: self._timed_out(call_id, incarnation))
            return
        connection = self._open[call_id]
        self.world.close_by_node(connection)
        self.lost(connection, "timed out")

    def lost(self, connection: Connection, reason: str) -> None:
        """The node has learned that this connection is gone."""
        connection.node_open = False
        if self.connections.get(connection.role) is connection:
            del self.connections[connection.role]
        if connection.role == BUS:
            self._bus_lost(connection.number, reason, self.incarnation)
            return
        gone = [call_id for call_id, on in self._open.items() if on is connection]
        for call_id in gone:
            del self._open[call_id]
        for call_id in gone:
            self.feed(Failed(call_id, Failure.LOST, reason))

    def _bus_lost(self, number: int, reason: str, incarnation: int) -> None:
        if incarnation == self.incarnation:
            self.feed(BusLost(0, number, reason))

    def resolve_target(self, call: Resolve) -> Connection | None:
        return self.world.sent_mutations.get((self.name, self.incarnation, call.failed_call_id))
