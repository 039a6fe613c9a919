"""Nodes of the real core around one lane's server, in virtual time; and what was counted.

    fleet = Fleet(nodes=100, unit=unit)
    fleet.settle()                           all have joined, and are current
    counts = fleet.measure(per_s=1_000, writers=100, seconds=2.0)

Writers invalidate keys at random moments (Poisson), each node its share. A node's turn takes in
all that has arrived, steps the core, and sends what has gathered: as `host.Host` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final

from coherenced.bench.cost_model import Counts, Rested, UnitCosts
from coherenced.bench.fleet.server import LaneServer
from coherenced.bench.fleet.turns import Clock, Turns
from coherenced.core.calls import (
    AckReceived,
    Answer,
    Call,
    Delivered,
    Fetch,
    Heard,
    Mutate,
    Probe,
    ReadRoster,
    SendAck,
    Subscribe,
    Subscribed,
)
from coherenced.core.inputs import Flush, Input, Start, Submit, Tick
from coherenced.core.model import FOREVER, Message, Mutation, Op
from coherenced.core.node import Node, Settings
from coherenced.core.outbox import Event, Settled
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.requests import Level, Outcome, Request, Write

NETWORK_MS: Final = 0.25
"""Between hosts, one way; on its way anything takes up to JITTER more or less of it."""
JITTER: Final = 0.5
BOUND_MS: Final = 1_000.0
SETTLE_MS: Final = 3_000.0
"""Of a new log, `all` is believed only after one bound."""
KEYS: Final = 10_000
"""What writers choose among."""
GUESSED: Final = UnitCosts(
    wake=Rested([(10_000.0, 50.0), (1.0, 0.0)]),
    script=10.0,
    record=Rested([(1.0, 5.0)]),
    probe=5.0,
    ack=2.0,
    member=0.5,
    push=Rested([(10_000.0, 5.0), (1.0, 1.5)]),
    copy=0.2,
    node_wake=Rested([(10_000.0, 100.0), (1.0, 10.0)]),
    message=5.0,
    applied=Rested([(1.0, 2.0)]),
    sends_ack=5.0,
    hears_ack=5.0,
    idle=5_000.0,
)
"""For who does not care how long a turn takes."""


class Member:
    """One node of the fleet."""

    def __init__(self, fleet: Fleet, incarnation: bytes, settings: Settings) -> None:
        self.incarnation = incarnation
        self.node = Node(settings, fleet.new_id)
        self.turns: Turns[Input] = Turns(fleet.clock, self._turn)
        self.connection = 0
        self.seen: Counter[str] = Counter()
        """What it did, and how often."""
        self.waiting: dict[int, Callable[[Outcome], None]] = {}
        self._fleet = fleet
        self._submitted = 0
        self._up_ms = self._down_ms = 0.0
        self._wake_ms = FOREVER

    def submit(self, request: Request, done: Callable[[Outcome], None]) -> None:
        self._submitted += 1
        self.waiting[self._submitted] = done
        self.turns.arrive(Submit(self._submitted, request))

    def _turn(self, arrived: list[Input]) -> tuple[float, Callable[[], None]]:
        """All that has arrived, then what has gathered. -> ms, and what leaves at the end."""
        node, now_ms, seen = self.node, self._fleet.clock.now_ms, self.seen
        effects: list[Any] = []
        submits = [one for one in arrived if one.__class__ is Submit]
        messages: list[Message] = []
        for given in arrived:
            if given.__class__ is Delivered:
                messages.append(given.message)
                continue
            if messages:
                effects += node.step(Heard(0, self.connection, tuple(messages)), now_ms)
                messages = []
            if given.__class__ is AckReceived:
                seen["acks heard"] += 1
            if given.__class__ is not Submit:
                effects += node.step(given, now_ms)
        if messages:
            effects += node.step(Heard(0, self.connection, tuple(messages)), now_ms)
        if submits or node.has_gathered:
            effects += node.step(Flush(submits), now_ms)
        self._arm()
        return self._took_ms(arrived), partial(self._send, effects)

    def _took_ms(self, arrived: Sequence[Input]) -> float:
        unit = self._fleet.unit
        us = unit.node_wake.warm
        for given in arrived:
            if given.__class__ is Delivered:
                records = len(given.message.records)
                self.seen["messages"] += 1
                self.seen["applied"] += records
                us += unit.message + records * unit.applied.warm
            elif given.__class__ is AckReceived:
                us += unit.hears_ack
        return us / 1e3

    def _send(self, effects: Sequence[Any]) -> None:
        fleet = self._fleet
        for effect in effects:
            if effect.__class__ is Settled:
                done = self.waiting.pop(effect.request_id, None)
                if done is not None:
                    done(effect.outcome)
            elif effect.__class__ is Event:
                self.seen[f"event {effect.name}"] += 1
            elif effect.__class__ is Subscribe:
                self.connection = effect.connection
                fleet.clock.after(2 * NETWORK_MS, fleet.subscribe, self)
            else:
                if effect.__class__ is SendAck:
                    self.seen["acks sent"] += 1
                # As on one connection: in order, however long each takes.
                self._up_ms = max(self._up_ms, fleet.clock.now_ms + fleet.network_ms())
                fleet.clock.at(self._up_ms, fleet.server.arrive, (self, effect))

    def hear(self, given: Input) -> None:
        """The server has sent it."""
        clock = self._fleet.clock
        self._down_ms = max(self._down_ms, clock.now_ms + self._fleet.network_ms())
        clock.at(self._down_ms, self.turns.arrive, given)

    def _arm(self) -> None:
        due_ms = self.node.next_deadline_ms()
        if due_ms < self._wake_ms:
            self._wake_ms = due_ms
            self._fleet.clock.at(max(due_ms, self._fleet.clock.now_ms), self._wake, due_ms)

    def _wake(self, due_ms: float) -> None:
        if due_ms == self._wake_ms:
            self._wake_ms = FOREVER
            self.turns.arrive(Tick())


class Fleet:
    """See the module. `unit`: how long turns take. The same seed, the same run."""

    def __init__(
        self,
        nodes: int,
        unit: UnitCosts = GUESSED,
        *,
        seed: int = 1,
        bound_ms: float = BOUND_MS,
        refill_keys_per_s: int = 0,
        follow_from: int = 8,
    ) -> None:
        self.unit = unit
        self.clock = Clock()
        self.random = Random(f"fleet {seed}")
        self.lane = LaneServer(self.new_id())
        self.server: Turns[tuple[Member, Call]] = Turns(self.clock, self._turn)
        self.seen: Counter[str] = Counter()
        self.subscribers: dict[bytes, Member] = {}
        self.took_ms: list[float] = []
        """How long each write of the last measurement took its caller."""
        self.on_fetch: Callable[[Member, Fetch], None] | None = None
        namespaces = Namespaces(Policy(max_staleness_ms=bound_ms, max_age_ms=1e9))
        self.members = []
        for number in range(nodes):
            incarnation = self.new_id()
            settings = Settings(
                name=f"n{number}",
                incarnation=incarnation,
                namespaces=namespaces,
                refill_keys_per_s=refill_keys_per_s,
                follow_from=follow_from,
                gathers=True,
            )
            member = Member(self, incarnation, settings)
            self.members.append(member)
            # Hosts do not start in the same moment; their beats are spread for ever after.
            start_ms = self.random.random() * min(bound_ms, BOUND_MS)
            self.clock.at(start_ms, member.turns.arrive, Start())

    def new_id(self) -> bytes:
        return b"%016x" % self.random.getrandbits(64)

    def subscribe(self, member: Member) -> None:
        self.subscribers[member.incarnation] = member
        member.hear(Subscribed(0, member.connection))

    def network_ms(self) -> float:
        return NETWORK_MS * (1 - JITTER + 2 * JITTER * self.random.random())

    # -- the server's turns -----------------------------------------------------------------

    def _turn(self, arrived: list[tuple[Member, Call]]) -> tuple[float, Callable[[], None]]:
        unit, seen, now_ms = self.unit, self.seen, self.clock.now_ms
        us = unit.wake.warm
        answers: list[tuple[Member, Answer]] = []
        messages: list[Message] = []
        acked: list[tuple[Member, AckReceived]] = []
        for member, call in arrived:
            if self.on_fetch is not None and isinstance(call, Fetch):
                self.on_fetch(member, call)
            done = self.lane.execute(call, now_ms)
            us += self._counted(call)
            if done.answer is not None:
                answers.append((member, done.answer))
            messages += done.messages
            for writer, ack in done.acks:
                if writer in self.subscribers:
                    acked.append((self.subscribers[writer], AckReceived(ack)))
        copies = len(messages) * len(self.subscribers) + len(acked)
        told = {id(member) for member, _ in acked}
        pushes = len(self.subscribers) if messages else len(told)
        seen.update(copies=copies, pushes=pushes)
        us += copies * unit.copy + pushes * unit.push.warm
        return us / 1e3, partial(self._send, answers, messages, acked)

    def _counted(self, call: Call) -> float:
        unit, seen = self.unit, self.seen
        if isinstance(call, Mutate):
            seen.update(scripts=1, records=len(call.tags))
            return unit.script + len(call.tags) * unit.record.warm
        if isinstance(call, SendAck):
            seen["acks"] += 1
            return unit.ack
        if isinstance(call, ReadRoster):
            seen.update(rosters=1, members=len(self.lane.roster))
            return unit.probe + len(self.lane.roster) * unit.member
        if isinstance(call, Fetch):
            seen.update(fetches=1, fetched=len(call.items))
            return unit.probe + len(call.items)
        if isinstance(call, Probe):
            seen["beats" if call.member is not None else "checks"] += 1
        else:
            seen["logs"] += 1
        return unit.probe

    def _send(
        self,
        answers: Sequence[tuple[Member, Answer]],
        messages: Sequence[Message],
        acked: Sequence[tuple[Member, AckReceived]],
    ) -> None:
        for message in messages:
            for member in self.subscribers.values():
                member.hear(Delivered(0, member.connection, message))
        for member, given in [*answers, *acked]:
            member.hear(given)

    # -- what is done with it ---------------------------------------------------------------

    def settle(self) -> None:
        """Until all have joined and unknown holders are out of the way."""
        self.clock.run_until(self.clock.now_ms + SETTLE_MS)
        assert all(member.node.ready for member in self.members)

    def measure(self, per_s: float, writers: int, seconds: float, ack: int = Level.REDIS) -> Counts:
        """Write for so long; what was done in a second of it."""
        self.took_ms = []
        end_ms = self.clock.now_ms + seconds * 1e3
        for member in self.members[:writers] if per_s else []:
            self._write_on(member, per_s / writers / 1e3, end_ms, ack)
        self._forget()
        self.clock.run_until(end_ms)
        return self.counts(seconds)

    def counts(self, seconds: float) -> Counts:
        """What was done since `_forget`, a second."""
        seen = self.seen
        node_turns = max(member.turns.count for member in self.members)
        busiest = {
            what: max(member.seen[what] for member in self.members)
            for what in ("messages", "applied", "acks sent", "acks heard")
        }
        probes = seen["beats"] + seen["checks"] + seen["rosters"] + seen["logs"] + seen["fetches"]
        each = [
            self.server.count,
            seen["scripts"],
            seen["records"],
            probes,
            seen["acks"],
            seen["members"],
            seen["pushes"],
            seen["copies"],
            seen["fetched"],
            node_turns,
            *busiest.values(),
        ]
        return Counts(len(self.members), *(number / seconds for number in each))

    def _write_on(self, member: Member, per_ms: float, end_ms: float, ack: int) -> None:
        """One invalidation when it is due, and then the next."""
        when_ms = self.clock.now_ms + self.random.expovariate(per_ms)
        if when_ms < end_ms:
            self.clock.at(when_ms, self._write, member, per_ms, end_ms, ack)

    def _write(self, member: Member, per_ms: float, end_ms: float, ack: int) -> None:
        key = b"key:%07d" % self.random.randrange(KEYS)
        mutation = Mutation((), op=Op.INVALIDATE, keys=(key,), frees_memory=True)
        began_ms = self.clock.now_ms

        def done(outcome: Outcome) -> None:
            self.took_ms.append(self.clock.now_ms - began_ms)

        member.submit(Write((mutation,), ack=ack), done)
        self._write_on(member, per_ms, end_ms, ack)

    def _forget(self) -> None:
        self.seen.clear()
        self.server.count, self.server.busy_ms = 0, 0.0
        for member in self.members:
            member.seen.clear()
            member.turns.count, member.turns.busy_ms = 0, 0.0
