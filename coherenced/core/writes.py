"""The write side of one lane: group commit.

What arrives while a batch is in flight leaves together in the next: one script and
one PUBLISH of many mutations. Enough of them need not wait for the reply, so that the
server works while this node does: a second batch follows on the same connection. Only
plain writes do that, and only to other keys than those in flight: whatever becomes of
the first batch (refused, lost, sent again), no write overtakes another of its key (W4).

What becomes of a batch: `keeping` (its values), `settling` (its callers), `lost` (where the reply
does not come).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from coherenced.core.batches import (
    BATCH_MUTATIONS,
    WRITE_TRIES,
    Batch,
    Pending,
    answerable,
    plain_key,
    records_of,
    strength,
    together,
)
from coherenced.core.calls import Failed, Failure, Mutate, Mutated
from coherenced.core.catchup import Catchup
from coherenced.core.entry import Entry
from coherenced.core.fills import Fills
from coherenced.core.keeping import Keeping
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.lost import LostReplies
from coherenced.core.model import (
    Mutation,
    Record,
    Set,
    Version,
)
from coherenced.core.outbox import Outbox
from coherenced.core.policy import Namespaces
from coherenced.core.requests import Fault, FaultKind, Level, Outcome, Write, WriteResult
from coherenced.core.settling import Settling
from coherenced.core.tickets import Ticket, Tickets

BATCHES_OPEN: Final = 2
"""Batches in flight at once."""


class Writes:
    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        laws: Laws,
        l1: L1,
        tickets: Tickets,
        fills: Fills,
        catchup: Catchup,
        keeping: Keeping,
        settling: Settling,
        namespaces: Namespaces,
        incarnation: bytes,
        new_tag: Callable[[], bytes],
        cover: Callable[[Lane, Sequence[Record]], None],
        follow_from: int,
        has_to_wait: Callable[[Write], bool],
        start_phases: Callable[[int, Write], None],
        ask_declared: Callable[[Callable[[], None]], None],
    ) -> None:
        """`ask_declared`: K6, read what is linearizable; it is called back when that is known."""
        self.batches = 0
        self.one_phase_refused = 0
        """K6: batches refused, since a key of theirs is linearizable and this node did not know."""
        self.namespaces = namespaces
        self._lane = lane
        self._box = box
        self._laws = laws
        self._l1 = l1
        self._tickets = tickets
        self._fills = fills
        self._catchup = catchup
        self._keeping = keeping
        self._settling = settling
        self._incarnation = incarnation
        self._new_tag = new_tag
        self._cover = cover
        self.queue: deque[Pending] = deque()
        self._follow_from = follow_from
        """So many must have gathered for a second batch."""
        self._flying: list[Batch] = []
        """What is in flight, in the order sent."""
        self.lost = LostReplies(
            lane,
            box,
            laws,
            catchup,
            keeping,
            settling,
            cover,
            self.queue,
            self._flying,
            self._rest,
        )
        self._has_to_wait = has_to_wait
        self._start_phases = start_phases
        self._ask_declared = ask_declared
        self._asking = False
        self._at_rest: Callable[[], None] | None = None
        """What is to be done as soon as nothing is in flight; until then nothing is sent."""

    @property
    def idle(self) -> bool:
        return not self._flying and not self.queue

    # -- accepting ------------------------------------------------------------------

    def write(self, request_id: int, write: Write) -> None:
        if not write.mutations:
            self._box.settle(request_id, WriteResult((), None, {}))
            return
        if len(write.mutations) > BATCH_MUTATIONS and not write.atomic and not write.watch_id:
            self._in_pieces(request_id, write)
            return
        level, timeout_ms = self._terms(write)
        if level == Level.NONE and write.replicas:
            level = Level.REDIS  # `none` is of nodes; whoever asks for replicas waits for them
        key = plain_key(write)
        pending = Pending(request_id, level, timeout_ms, key or b"", key is not None, said=write)
        self._settling.waiting += 1
        if level == Level.NONE and answerable(write):
            self._accept(pending)
        self.queue.append(pending)

    def set(self, request_id: int, given: Set) -> None:
        """What most writes are."""
        key, policy = given.key, self.namespaces.default
        if not self.namespaces.uniform:
            policy = self.namespaces.for_key(key)
        level = policy.ack
        pending = Pending(request_id, level, policy.ack_timeout_ms, key, True, given)
        self._settling.waiting += 1
        if level == Level.NONE:
            self._accept(pending)
        self.queue.append(pending)

    def _in_pieces(self, request_id: int, write: Write) -> None:
        """W6: a big operation is several bounded scripts; its answer is theirs, put together."""
        starts = range(0, len(write.mutations), BATCH_MUTATIONS)
        outcomes: list[WriteResult | Fault | None] = [None] * len(starts)

        def collect(place: int, outcome: Outcome) -> None:
            assert isinstance(outcome, WriteResult | Fault)
            outcomes[place] = outcome
            if all(o is not None for o in outcomes):
                self._box.settle(request_id, together([o for o in outcomes if o is not None]))

        for place, start in enumerate(starts):
            piece = write.mutations[start : start + BATCH_MUTATIONS]
            inner = self._box.internal(partial(collect, place))
            self.write(inner, msgspec.structs.replace(write, mutations=piece))

    def _terms(self, write: Write) -> tuple[int, float]:
        """The strongest level of the keys' namespaces, unless the call names one."""
        default = self.namespaces.default
        if self.namespaces.uniform:
            level = default.ack if write.ack is None else write.ack
            return level, default.ack_timeout_ms if write.timeout_ms is None else write.timeout_ms
        keyed = [self.namespaces.for_key(k) for m in write.mutations for k in m.keys]
        policies = keyed or [default]
        asked = write.ack
        level = max((p.ack for p in policies), key=strength) if asked is None else asked
        timeout_ms = write.timeout_ms
        if timeout_ms is None:
            timeout_ms = max(p.ack_timeout_ms for p in policies)
        return level, timeout_ms

    def _accept(self, pending: Pending) -> None:
        """ack=none: drop the own copies, answer, and let the rest happen behind."""
        if pending.given is not None:
            self._keeping.forget_keys((pending.key,))
        else:
            for mutation in pending.write.mutations:
                self._keeping.forget(mutation)
        self._settling.accept(pending)

    # -- sending --------------------------------------------------------------------

    @property
    def sendable(self) -> bool:
        if not self.queue or self._asking or self._at_rest is not None:
            return False
        flying = self._flying
        if not flying:
            return True
        if len(flying) >= BATCHES_OPEN or len(self.queue) < self._follow_from:
            return False
        return flying[0].lost is None and flying[0].is_apart_from(self.queue[0])

    def flush(self) -> None:
        """Send what may be sent; called at the end of every step."""
        while self.sendable:
            batch = Batch(self._lane, self._box.now_ms)
            batch.take(self.queue, self._flying[0] if self._flying else None)
            self._send(batch)

    def _send(self, batch: Batch) -> None:
        self._flying.append(batch)
        self.batches += 1
        new_tag = self._new_tag
        batch.tags = tuple([new_tag() for _ in batch.want_ack])
        sets: tuple[Set, ...] = ()
        mutations: tuple[Mutation, ...] = ()
        if batch.are_sets:
            sets = tuple([pending.given for pending in batch.pending])  # type: ignore[misc]
            batch.sheaf.keys = list(batch.keys)
            self._tickets.admit_all(batch.sheaf)
        else:
            mutations = self._prepared(batch)
            self._tickets.admit(*batch.tickets.values())

        def answered(answer: Mutated | Failed) -> None:
            self._on_answer(batch, answer)

        batch.call_id = self._box.new_call_id(answered)
        call = Mutate(
            batch.call_id,
            self._lane.index,
            new_tag(),
            self._incarnation,
            tuple(batch.want_ack),
            mutations,
            batch.tags,
            0 if sets else batch.pending[0].write.watch_id,
            sets,
        )
        self._box.emit(call)

    def _prepared(self, batch: Batch) -> tuple[Mutation, ...]:
        """A batch's mutations as they are sent, and tickets for what is to be kept of them."""
        mutations = batch.mutations
        for index, mutation in enumerate(mutations):
            if mutation.keeps is not None:
                batch.tickets[index] = Ticket(mutation.keys[0])
            if mutation.if_version is not None:
                mutations[index] = self._bounded(mutation, mutation.if_version)
        return tuple(mutations)

    def _bounded(self, mutation: Mutation, version: Version) -> Mutation:
        """Compare-and-set: tell the script from which sequence on it has to look."""
        since = version.seq
        entry = self._l1.held(mutation.keys[0])
        held = entry is not None and entry.as_of <= since
        if held and version.epoch == self._lane.epoch:
            since = max(since, self._lane.applied)  # held since then: untouched up to here (A4)
        return msgspec.structs.replace(mutation, unchanged_since=since)

    # -- answers --------------------------------------------------------------------

    def _on_answer(self, batch: Batch, answer: Mutated | Failed) -> None:
        if isinstance(answer, Failed) and answer.failure == Failure.LOST:
            self.lost.look_up(batch, answer.detail)
            return
        self._flying.remove(batch)
        if isinstance(answer, Mutated):
            self._on_mutated(batch, answer)
        elif answer.failure == Failure.OUT_OF_MEMORY:
            self._on_out_of_memory(batch, answer.detail)
        elif answer.failure == Failure.TWO_PHASES:
            self._on_one_phase_refused(batch, answer.detail)
        else:
            self._keeping.close(batch)
            self._settling.give_up_all(batch, Fault(FaultKind.UNAVAILABLE, answer.detail))
        if self._flying:
            self.lost.resolve()
        self._rest()

    def _on_mutated(self, batch: Batch, answer: Mutated) -> None:
        if answer.aborted:
            self._keeping.close(batch)
            for pending in batch.pending:
                self._settling.settle(pending, WriteResult((), None, {}, aborted=True))
            return
        epoch = answer.lineage.epoch
        records = records_of(batch, answer, self._incarnation)
        lane, catchup = self._lane, self._catchup
        kept: list[Entry] | None = None
        if self._laws.own_write_drops:
            if catchup.follows_own(epoch, records):
                # Kept first, so that each takes its old one's place; covered before the proof, by
                # which whoever waits for one is shown what is held.
                kept = self._keeping.keep(batch, answer)
                self._cover(lane, records)
            elif early := catchup.own_records(epoch, records):
                self._cover(lane, early)
        known = batch.reliance if batch.generation == lane.generation else 0
        catchup.own_reply(batch.call_id, batch.sent_ms, known, answer.lineage, answer.server_id)
        if kept is None:
            kept = self._keeping.keep(batch, answer)
        if kept and kept[-1].as_of > lane.proved_seq:
            for entry in dict.fromkeys(kept):  # a batch may have written one twice
                lane.lend(entry, batch.sent_ms)
        if len(records) < len(batch.tags):
            for mutation, outcome in zip(batch.mutations, answer.done, strict=True):
                if outcome.seq == 0:
                    self._fills.shown(mutation.keys, answer.lineage)
        if batch.is_plain:
            self._settling.conclude_plain(batch, answer)
            return
        outcomes, roster_version = answer.done, answer.roster_version
        for pending in batch.pending:
            first = pending.first
            done = outcomes[first : first + len(pending.write.mutations)]
            self._settling.conclude(pending, epoch, done, roster_version)

    def _on_out_of_memory(self, batch: Batch, detail: str) -> None:
        """Refused before anything was done: what frees memory goes again by itself."""
        self._keeping.close(batch)
        again: list[Pending] = []
        mixed = not all(m.frees_memory for m in batch.mutations)
        for pending in batch.pending:
            if mixed and all(m.frees_memory for m in pending.write.mutations):
                again.append(pending)
            else:
                self._settling.give_up(pending, Fault(FaultKind.OUT_OF_MEMORY, detail))
        self.queue.extendleft(reversed(again))

    # -- linearizable keys (K6) -------------------------------------------------------

    def _on_one_phase_refused(self, batch: Batch, detail: str) -> None:
        """Nothing was done, since a key of it is linearizable: another node says so. What has to
        takes two phases once it is known which keys are; the rest goes again."""
        self.one_phase_refused += 1
        self._keeping.close(batch)
        again: list[Pending] = []
        for pending in batch.pending:
            pending.tries += 1
            if pending.said is not None and pending.said.watch_id:
                # Its connection watches nothing any more. Like after a change: the client, which
                # has to reckon with that, begins anew.
                self._settling.settle(pending, WriteResult((), None, {}, aborted=True))
            elif pending.tries < WRITE_TRIES:
                again.append(pending)
            else:
                text = f"{detail}; the write was not applied: try again"
                self._settling.give_up(pending, Fault(FaultKind.CONTENDED, text))
        self.queue.extendleft(reversed(again))
        if not self._asking:
            self._asking = True
            self._ask_declared(self._on_declared)

    def _on_declared(self) -> None:
        self._asking = False

    def at_rest(self, then: Callable[[], None]) -> None:
        """Do this when nothing is in flight, at once if nothing is; a later one replaces it."""
        self._at_rest = then
        self._rest()

    def _rest(self) -> None:
        if self._at_rest is not None and not self._flying:
            then, self._at_rest = self._at_rest, None
            then()

    def divert(self) -> None:
        """Writes that have two phases, as is known now, were accepted for one; and what came after
        one of them and writes a key of it is to come after it still (W4)."""
        queued = list(self.queue)
        self.queue.clear()
        for pending in queued:
            if self._has_to_wait(pending.write):
                done = partial(self._diverted, pending)
                self._start_phases(self._box.internal(done), pending.write)
            else:
                self.queue.append(pending)

    def _diverted(self, pending: Pending, outcome: Outcome) -> None:
        if isinstance(outcome, Fault):
            self._settling.tell(pending, outcome)  # the phases have counted it
        else:
            assert isinstance(outcome, WriteResult)
            self._settling.settle(pending, outcome)
