"""One node of the coherence protocol, pure: inputs and the time go in, effects come out.

    step(input, now_ms) -> [effects]        everything that changes state
    hit(key, now_ms)    -> entry or None    a read that hits: one call, no effect
    hits(keys, now_ms)  -> replies          the same for several, as far as they hit
    next_deadline_ms()                      when it wants to be woken with a Tick

The node composes small machines, one per concern (read them in this order):
`lane` where a log stands, `probes` asking for that, `catchup` following it, `tickets`
the fence around storing, `l1` the store, `fills` what gets into it, `flights` what is
being fetched, `reads`, `writes`, `covers` what a record takes away, `roster`, `acks`,
`leases`. It knows no clock, no socket and no random number: the daemon and the
simulator drive the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from coherenced.core.acks import Acks
from coherenced.core.audit import Audits
from coherenced.core.calls import (
    AckReceived,
    BusLost,
    Delivered,
    Failed,
    Heard,
    Leave,
    Left,
    SendAck,
    Subscribed,
)
from coherenced.core.catchup import Catchup
from coherenced.core.covers import Covers
from coherenced.core.entry import MAX_FREQUENCY, Entry
from coherenced.core.fills import Fills
from coherenced.core.inputs import Drain, Flush, Forget, Input, Start, Stop, Submit, Tick
from coherenced.core.keeping import Keeping
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.leases import Leases
from coherenced.core.model import (
    WANT_ACK,
    Acknowledgement,
    Declared,
    Member,
    Message,
    Mutation,
    Op,
    Record,
    Set,
)
from coherenced.core.outbox import Effect, Event, Outbox
from coherenced.core.page import LatePage, NoPage, Page
from coherenced.core.phases import TwoPhase
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.reads import Reads
from coherenced.core.recall import Recalls
from coherenced.core.refill import Refill
from coherenced.core.requests import (
    Ask,
    AskMembers,
    Audit,
    Fault,
    FaultKind,
    Fill,
    Get,
    Lease,
    MembersResult,
    Read,
    Recall,
    Release,
    Write,
)
from coherenced.core.roster import Members, Roster
from coherenced.core.settling import Settling
from coherenced.core.tickets import Tickets
from coherenced.core.writes import Writes

SWEEP_EVERY_MS: Final = 100.0
SWEEP_FLOOR: Final = 200
"""Entries looked at per sweep, at least; a whole round takes at most a minute."""
SWEEPS_PER_ROUND: Final = 600
TIDY_EVERY_MS: Final = 1.0
"""Between two pieces of looking for what is gone already."""
BEATS_PER_BOUND: Final = 4.0
"""V1: a probe at least every B/4."""
SLOWEST_BEAT_MS: Final = 1_000.0
FASTEST_BEAT_MS: Final = 20.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is given once and for all."""

    name: str
    incarnation: bytes
    """Random, new at every start: 16 hex digits."""
    namespaces: Namespaces
    version: str = ""
    l1_max_bytes: int = 256 * 1024 * 1024
    l1_max_value_bytes: int = 1024 * 1024
    refill_keys_per_s: int = 0
    """A5: at most so many keys a second are fetched again after a drop. 0: no bound."""
    max_waiting: int = 100_000
    follow_from: int = 8
    """So many writes must have gathered to leave while a batch of others is still in flight."""
    tidy_entries: int = 400
    """T1, A5: so many entries are looked at in one step, at most, for what an invalidated prefix
    covers, or freed of what was dropped whole."""
    gathers: bool = False
    """What is to be sent waits for a `Flush`, so that one turn of the shell's loop leaves together.
    False: it is sent at the end of each step."""


class Node:
    """See the module. `new_id` yields 16 random hex digits per call: epochs and tags."""

    def __init__(
        self,
        settings: Settings,
        new_id: Callable[[], bytes],
        laws: Laws | None = None,
        page: Page | None = None,
    ) -> None:
        self.settings = settings
        self.laws = laws or Laws()
        self._page: Page = page or NoPage()
        self._late: LatePage | None = None
        if not self.laws.page_before_ack:
            self._page = self._late = LatePage(self._page)
        self._published: tuple[float, int, int] | None = None
        self.box = Outbox()
        self.l1 = L1(settings.l1_max_bytes, settings.l1_max_value_bytes, self.laws)
        self.lane = Lane(0)
        self.namespaces = settings.namespaces
        self.stopped = False
        self._gathers = settings.gathers
        self.acks_sent = 0
        self._beat = 0
        self._seen_applied = self._seen_generation = 0
        self._acks_unseen = not self.laws.ack_after_applied
        self._ack_writers: dict[bytes, None] = {}
        self._tidying = False
        """A timer is set for the next piece of it."""
        self._bound_off = not self.laws.staleness_bound
        namespaces = settings.namespaces
        self.roster = Roster(self.box, settings.incarnation, declared=self._declared)
        self.tickets = Tickets(self.lane, self.laws)
        self.catchup = Catchup(
            self.lane,
            self.box,
            self.laws,
            new_epoch=new_id,
            member=self._member,
            declares=lambda: self.namespaces.declares,
            beat_every_ms=beat_every_ms(namespaces),
            own_bound_ms=lambda: self.namespaces.largest_bound_ms,
            largest_bound_ms=self._largest_bound_ms,
            apply=self._apply,
            drop=self._drop,
            proved=lambda lane: self.reads.on_proved(),
            quarantined=self._quarantined,
            unproved=lambda lane, call_id: self.reads.on_unproved(call_id),
        )
        self.fills = Fills(
            self.lane, self.box, self.laws, self.l1, self.tickets, namespaces, self._page
        )
        self.reads = Reads(
            self.lane,
            self.box,
            self.laws,
            self.l1,
            self.tickets,
            self.catchup,
            namespaces,
            new_id,
            self.fills,
            Refill(settings.refill_keys_per_s, settings.incarnation),
        )
        self.flights = self.reads.flights
        self.leases = Leases(
            self.lane,
            self.box,
            self.laws,
            self.tickets,
            self.reads,
            self.fills,
            new_id,
            self._write,
        )
        self.covers = Covers(self.l1, self.tickets, self.leases, self._page)
        self._cover = self.covers.cover
        self.acks = Acks(self.box, self.laws, self.roster, self._member(), self._ack_settled)
        self.settling = Settling(self.lane, self.box, self.acks, self.flights)
        self.keeping = Keeping(self.lane, self.box, self.l1, self.tickets, namespaces, self._page)
        self.writes = Writes(
            self.lane,
            self.box,
            self.laws,
            self.l1,
            self.tickets,
            self.fills,
            self.catchup,
            self.keeping,
            self.settling,
            namespaces,
            settings.incarnation,
            new_id,
            self._cover,
            settings.follow_from,
            self._has_to_wait,
            self._write,
            self._ask_declared,
        )
        self.phases = TwoPhase(self.box, self.laws, self.writes.write, namespaces, new_id)
        self.audits = Audits(self.lane, self.box, self.l1, new_id, self._forget)
        self.recalls = Recalls(self.lane, self.box)
        self._takers: dict[type, Callable[[int, Any], None]] = {
            Get: self.reads.get,
            Read: self.reads.read,
            Ask: self.reads.ask,
            AskMembers: self._members,
            Audit: self.audits.start,
            Recall: self.recalls.start,
            Lease: self.leases.lease,
            Fill: self.leases.fill,
            Release: self.leases.release,
        }
        self._route()
        self._others: dict[type, Callable[[Any], None]] = {
            Subscribed: self.catchup.on_subscribed,
            BusLost: self.catchup.on_bus_lost,
            AckReceived: lambda given: self.acks.on_ack(given.ack),
            Start: self._start,
            Drain: lambda _: self.leases.stop(),
            Stop: self._stop,
            Forget: self._forget_all,
        }
        """What is done with inputs that are neither requests nor answers to calls."""

    # -- the short path ---------------------------------------------------------------

    def hit(self, key: bytes, now_ms: float) -> Entry | None:
        """V3: the entry, iff it may be served now. Look-up, proof and deadline in one step."""
        l1 = self.l1
        entry = l1.entries.get(key)
        if entry is None:
            return None
        if now_ms - entry.lane.verified_at_ms > entry.bound_ms and not self._bound_off:
            return None
        if now_ms >= entry.deadline_ms and self.laws.entry_deadline:
            return None
        if entry.tags and self.laws.tags_cover and entry.covered():
            return None
        if l1.marks is not None and l1.is_ended(entry):
            return None
        if entry.frequency < MAX_FREQUENCY:
            entry.frequency += 1
        l1.hits += 1
        return entry

    def hits(self, keys: Sequence[bytes], now_ms: float) -> list[bytes]:
        """V3 for several: the replies to the first of `keys`, as far as they hit."""
        bulks: list[bytes] = []
        if self.l1.marks is not None:
            return self._hits_by_one(keys, now_ms)
        often, age_ms = MAX_FREQUENCY, now_ms - self.lane.verified_at_ms
        counted = 0
        for entry in map(self.l1.entries.get, keys):
            if entry is None:
                break
            if (
                entry.frequency != often
                or age_ms > entry.bound_ms
                or now_ms >= entry.deadline_ms
                or entry.tags
            ):
                # Not the usual case, which no law refuses and which leaves no trace.
                if self.hit(keys[len(bulks)], now_ms) is None:
                    break
                counted += 1
            bulks.append(entry.bulk)
        self.l1.hits += len(bulks) - counted
        return bulks

    def _hits_by_one(self, keys: Sequence[bytes], now_ms: float) -> list[bytes]:
        """T1: as long as there are marks, each entry is compared with them."""
        bulks: list[bytes] = []
        for key in keys:
            entry = self.hit(key, now_ms)
            if entry is None:
                break
            bulks.append(entry.bulk)
        return bulks

    # -- everything else --------------------------------------------------------------

    def step(self, given: Input, now_ms: float) -> list[Effect]:
        """Take one input at `now_ms` (this node's own clock); return what is to be done."""
        box = self.box
        box.now_ms = now_ms
        if self._late is not None:
            self._late.begin(now_ms)
        box.timers.run(now_ms)
        kind = given.__class__
        if kind is Delivered:
            if self._acks_unseen:
                self._acknowledge_unseen(given.message)  # type: ignore[union-attr]
            self.catchup.on_delivered(given.connection, given.message)  # type: ignore[union-attr]
        elif kind is Heard:
            if self._acks_unseen:
                for message in given.messages:  # type: ignore[union-attr]
                    self._acknowledge_unseen(message)
            self.catchup.on_heard(given.connection, given.messages)  # type: ignore[union-attr]
        elif kind is Submit:
            self._submit((given,))  # type: ignore[arg-type]
        elif kind is Flush:
            if given.keys:  # type: ignore[union-attr]
                self._get_all(given.ids, given.keys)  # type: ignore[union-attr]
            self._submit(given.submits)  # type: ignore[union-attr]
        elif kind is not Tick:
            other = self._others.get(kind)
            if other is None:
                box.answer(given.call_id, given)  # type: ignore[union-attr,arg-type]
            else:
                other(given)
        self._after()
        if kind is Flush:
            self._flush()
        return box.take()

    def next_deadline_ms(self) -> float:
        return self.box.timers.next_ms()

    def stream(self, on: bool) -> None:
        """Whether `Applied` effects are wanted: somebody follows the invalidations."""
        self.catchup.streaming = on

    @property
    def ready(self) -> bool:
        """Subscribed, on the roster, and proved current at least once in this lineage."""
        joined = self.lane.proved_call_id > 0 and self.catchup.was_subscribed
        return joined and not self.stopped

    @property
    def waiting(self) -> int:
        reads = self.reads.waiting + self.audits.waiting + self.leases.waiting
        return reads + self.recalls.waiting + self.settling.waiting + self.phases.waiting

    def bound_waiting(self, max_waiting: int) -> None:
        """From now on at most so many requests wait for Redis."""
        self.settings = msgspec.structs.replace(self.settings, max_waiting=max_waiting)

    def _get_all(self, ids: Sequence[int], keys: Sequence[bytes]) -> None:
        if self.stopped or self.waiting + len(keys) > self.settings.max_waiting:
            self._submit([Submit(number, Get(key)) for number, key in zip(ids, keys, strict=True)])
        else:
            self.reads.get_all(ids, keys)

    def _submit(self, submits: Sequence[Submit]) -> None:
        takers, room = self._takers, 0
        for given in submits:
            request_id, request = given.request_id, given.request
            if room <= 0:
                room = self.settings.max_waiting - self.waiting
            if self.stopped:
                fault = Fault(FaultKind.STOPPING, "the daemon is stopping")
                self.box.settle(request_id, fault)
            elif room <= 0:
                text = (
                    f"{self.waiting} requests are waiting for Redis already: try again later, wait "
                    "for replies (ack=redis) before sending more, or raise "
                    "limits.max_waiting_requests"
                )
                self.box.settle(request_id, Fault(FaultKind.OVERLOADED, text))
            else:
                room -= 1
                takers[request.__class__](request_id, request)

    def _set(self, request_id: int, given: Set) -> None:
        self._write(request_id, Write.of(given))

    def _write(self, request_id: int, write: Write) -> None:
        if not self._has_to_wait(write):
            self.writes.write(request_id, write)
            return
        timeout_ms = write.timeout_ms
        if timeout_ms is None:
            timeout_ms = max(p.ack_timeout_ms for p in self._policies(write))
        self.phases.start(request_id, write, timeout_ms)

    def _policies(self, write: Write) -> list[Policy]:
        for_key = self.namespaces.for_key
        return [for_key(k) for m in write.mutations if m.is_write for k in m.keys]

    def _is_phased(self, write: Write) -> bool:
        """K6: whether it is to be written in two phases, and is not itself one of them."""
        if not self.namespaces.any_linearizable:
            return False
        if not any(m.argv for m in write.mutations) or any(m.token for m in write.mutations):
            return False
        return any(policy.linearizable for policy in self._policies(write))

    def _has_to_wait(self, write: Write) -> bool:
        """Whether it has two phases, or comes behind one that has and writes a key of it (W4)."""
        return self._is_phased(write) or self.phases.is_before(write)

    def _knows_linearizable(self, keys: tuple[bytes, ...]) -> bool:
        return any(self.namespaces.for_key(key).linearizable for key in keys)

    def _route(self) -> None:
        """Who takes a write: where no key is linearizable, nobody has to look at its keys."""
        phased = self.namespaces.any_linearizable
        self._takers[Set] = self._set if phased else self.writes.set
        self._takers[Write] = self._write if phased else self.writes.write

    # -- what other nodes declare (K6) --------------------------------------------------

    def _ask_declared(self, then: Callable[[], None]) -> None:
        """A write was refused that has but one phase: learn which keys that are, then go on."""
        self.roster.read(lambda members: then())

    def _declared(self, lines: tuple[Declared, ...]) -> None:
        learned = frozenset(lines) - {self.namespaces.declares}
        before = self.namespaces.learned
        if learned == before or (self.phases.waiting and not learned >= before):
            return  # what has lapsed is forgotten when no write is in line, at a later reading
        self.writes.at_rest(lambda: self._learn(learned))

    def _learn(self, learned: frozenset[Declared]) -> None:
        """In between batches, so that no write overtakes another of its key (W4)."""
        self.namespaces.learn(learned)
        self._route()
        self.writes.divert()
        patterns = {p.decode("utf-8", "replace") for one in learned for p, linear in one if linear}
        self.box.event("linearizable_learned", lane=self.lane.index, patterns=sorted(patterns))

    def _members(self, request_id: int, _: AskMembers) -> None:
        def read(members: Members | None) -> None:
            if members is None:
                fault = Fault(FaultKind.UNAVAILABLE, "the roster could not be read from Redis")
                self.box.settle(request_id, fault)
                return
            listed = tuple((m, self.roster.is_live(m)) for m in members.values())
            self.box.settle(request_id, MembersResult(listed))

        self.roster.read(read)

    def _start(self, _: Start) -> None:
        self.catchup.start()
        self.roster.start()
        self.box.timers.at(self.box.now_ms + SWEEP_EVERY_MS, self._sweep)

    def _forget_all(self, given: Forget) -> None:
        for mutation in given.mutations:
            self.keeping.forget(mutation)

    def _after(self) -> None:
        """The end of a step: acknowledge what was applied, send what has gathered."""
        lane = self.lane
        if lane.applied != self._seen_applied or lane.generation != self._seen_generation:
            self._seen_applied, self._seen_generation = lane.applied, lane.generation
            if self.acks.waits:
                self.acks.on_advanced(lane)
            if self.audits.waiting:
                self.audits.look()
        now = (lane.verified_at_ms, lane.applied, lane.generation)
        if now != self._published:
            self._published = now
            self._page.publish(lane.verified_at_ms, lane.epoch, lane.applied)
        if self._ack_writers:
            self._send_acks()
        if self.l1.untidy and not self._tidying:
            self._tidy()
        if not self._gathers:
            self._flush()

    def _flush(self) -> None:
        if self.flights.queue:
            self.flights.flush()
        if self.writes.queue:
            self.writes.flush()

    @property
    def has_gathered(self) -> bool:
        """Whether a `Flush` would send something."""
        flights, writes = self.flights, self.writes
        return bool((flights.queue and flights.sendable) or (writes.queue and writes.sendable))

    def _stop(self, _: Stop) -> None:
        if self.stopped:
            return
        self.stopped = True
        self.catchup.stop()
        self.roster.stop()
        self.leases.stop()

        def left(answer: Left | Failed) -> None:
            self.box.emit(Event("left", {"clean": isinstance(answer, Left)}))

        number = self.box.new_call_id(left)
        self.box.emit(Leave(number, self.lane.index, self.settings.incarnation))

    def _ack_settled(self) -> None:
        self.settling.waiting -= 1

    def _largest_bound_ms(self) -> float:
        """Of all nodes that are or were known: how long an unknown holder may still serve (K7)."""
        known = (member.bound_ms for member in self.roster.members.values())
        return max(self.namespaces.largest_bound_ms, *known, 0.0)

    def _member(self) -> Member:
        self._beat += 1
        settings = self.settings
        bound_ms = int(self.namespaces.largest_bound_ms)
        return Member(
            settings.incarnation, settings.name, bound_ms, self._beat, settings.version, 0
        )

    # -- applying records ---------------------------------------------------------------

    def _apply(self, lane: Lane, records: Sequence[Record]) -> None:
        """A4: the lane has moved along `records`; drop and void what they cover, in one step."""
        self._cover(lane, records)
        for record in records:
            if record.flags & WANT_ACK and record.writer != self.settings.incarnation:
                self._ack_writers[record.writer] = None
                if record.op == Op.PREPARE and not self._knows_linearizable(record.keys):
                    self.roster.read(lambda members: None)

    def _forget(self, key: bytes) -> None:
        """This node's copy of one key is not to be used any more."""
        self.keeping.forget(Mutation((), op=Op.INVALIDATE, keys=(key,)))

    def _quarantined(self, lane: Lane) -> None:
        """K7: rosters read before are worth nothing; writes that wait, wait it out."""
        self.roster.forget()
        self.acks.on_quarantined(lane)

    def _drop(self, lane: Lane) -> None:
        """A5: everything of this lane is void."""
        self._page.drop()
        dropped = self.l1.drop_all()
        self.covers.dropped += dropped
        self.tickets.void_all()
        self.roster.forget()
        self.acks.on_dropped(lane)
        self.flights.on_dropped(dropped)
        self.reads.on_dropped()
        self.leases.on_dropped()

    def let_go(self) -> None:
        """Forget all copies, here and in the clients: they carry rules that have changed."""
        self._page.drop()
        self.l1.drop_all()
        self._route()

    def _send_acks(self) -> None:
        """K1: one cumulative acknowledgement per writer that asked, however many records."""
        lane = self.lane
        writers, self._ack_writers = self._ack_writers, {}
        if lane.epoch is None:
            return
        ack = Acknowledgement(
            self.settings.incarnation,
            self.settings.name,
            lane.index,
            lane.epoch,
            lane.applied,
            lane.tag,
        )
        for writer in writers:
            self.acks_sent += 1
            self.box.emit(SendAck(lane.index, writer, ack))

    def _acknowledge_unseen(self, message: Message) -> None:
        """What K1 forbids: to acknowledge what has arrived but is not applied."""
        settings = self.settings
        for record in message.records:
            if record.wants_ack and record.writer != settings.incarnation:
                ack = Acknowledgement(
                    settings.incarnation,
                    settings.name,
                    message.lane,
                    message.epoch,
                    record.seq,
                    record.tag,
                )
                self.box.emit(SendAck(message.lane, record.writer, ack))

    def _sweep(self) -> None:
        if self.stopped:
            return
        limit = max(SWEEP_FLOOR, len(self.l1) // SWEEPS_PER_ROUND)
        self.l1.sweep(self.box.now_ms, self.namespaces.longest_stale_ms, limit)
        self.box.timers.at(self.box.now_ms + SWEEP_EVERY_MS, self._sweep)

    def _tidy(self) -> None:
        """T1, A5: look for what is gone already, a piece at a time; few entries are one piece."""
        self._tidying = False
        if self.stopped:
            return
        now_ms = self.box.now_ms
        self.l1.sweep(now_ms, self.namespaces.longest_stale_ms, self.settings.tidy_entries)
        if self.l1.untidy:
            self._tidying = True
            self.box.timers.at(now_ms + TIDY_EVERY_MS, self._tidy)


def beat_every_ms(namespaces: Namespaces) -> float:
    """V1: a quarter of the smallest bound, within reason."""
    every_ms = namespaces.smallest_bound_ms / BEATS_PER_BOUND
    return min(max(every_ms, FASTEST_BEAT_MS), SLOWEST_BEAT_MS)
