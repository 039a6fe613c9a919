"""The write side of one lane: group commit, and the truth about lost replies.

What arrives while a batch is in flight leaves together in the next: one script and
one PUBLISH of many mutations. Enough of them need not wait for the reply, so that the
server works while this node does: a second batch follows on the same connection. Only
plain writes do that, and only to other keys than those in flight: whatever becomes of
the first batch (refused, lost, sent again), no write overtakes another of its key (W4).

When a reply is lost (W3) nothing more is sent until the truth is known, about the later
batch first, so that what must be sent again stands in the queue as it was accepted. A
batch's tags are in the log, or they are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from coherenced.core.acks import Acks
from coherenced.core.batches import (
    BATCH_MUTATIONS,
    Batch,
    Pending,
    answerable,
    assumed_reply,
    done_by_log,
    is_wide,
    plain_key,
    records_of,
    strength,
    together,
)
from coherenced.core.calls import Failed, Failure, Logged, Mutate, Mutated, Resolve
from coherenced.core.catchup import Catchup
from coherenced.core.entry import Entry
from coherenced.core.fills import Fills
from coherenced.core.flights import Flights
from coherenced.core.keeping import Keeping
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.model import (
    Done,
    Mutation,
    Op,
    Record,
    Reply,
    ReplyError,
    Set,
    Version,
    version_of,
)
from coherenced.core.outbox import Event, Outbox, Settled
from coherenced.core.page import Page
from coherenced.core.policy import Namespaces
from coherenced.core.requests import Fault, FaultKind, Level, Outcome, Write, WriteResult
from coherenced.core.tickets import Ticket, Tickets

BATCHES_OPEN: Final = 2
"""Batches in flight at once."""
_REDIS: Final = Level.REDIS
RESOLVE_RETRY_MS: Final = 100.0
RESOLVE_PATIENCE_MS: Final = 2_000.0
"""How long callers wait for the truth about a lost reply before they are told *indeterminate*."""
WRITE_TRIES: Final = 3


class Writes:
    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        laws: Laws,
        l1: L1,
        tickets: Tickets,
        flights: Flights,
        fills: Fills,
        catchup: Catchup,
        acks: Acks,
        namespaces: Namespaces,
        incarnation: bytes,
        new_tag: Callable[[], bytes],
        cover: Callable[[Lane, Sequence[Record]], None],
        page: Page,
        follow_from: int,
        has_to_wait: Callable[[Write], bool],
        start_phases: Callable[[int, Write], None],
        ask_declared: Callable[[Callable[[], None]], None],
    ) -> None:
        """`ask_declared`: K6, read what is linearizable; it is called back when that is known."""
        self.committed = self.unchanged = self.refused = self.resolved = self.batches = 0
        self.one_phase_refused = 0
        """K6: batches refused, since a key of theirs is linearizable and this node did not know."""
        self.faults: dict[str, int] = {}
        """Failed requests by `FaultKind`."""
        self.waiting = 0
        self.namespaces = namespaces
        self._lane = lane
        self._box = box
        self._laws = laws
        self._l1 = l1
        self._tickets = tickets
        self._flights = flights
        self._fills = fills
        self._catchup = catchup
        self._acks = acks
        self._incarnation = incarnation
        self._new_tag = new_tag
        self._cover = cover
        self._page = page
        self._keeping = Keeping(lane, box, l1, tickets, namespaces)
        self.queue: deque[Pending] = deque()
        self._follow_from = follow_from
        """So many must have gathered for a second batch."""
        self._flying: list[Batch] = []
        """What is in flight, in the order sent."""
        self._resolving = False
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
        self.waiting += 1
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
        self.waiting += 1
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
        replies: tuple[Reply, ...] = (b"OK",)
        if pending.given is not None:  # no Write is made of it: that would hold its value twice
            self._forget_keys((pending.key,))
            self._flights.unsettle(pending.key)
        else:
            for mutation in pending.write.mutations:
                self.forget(mutation)
                for key in mutation.keys:
                    self._flights.unsettle(key)
                if is_wide(mutation):
                    self._flights.unsettle_all()
            replies = tuple(assumed_reply(m) for m in pending.write.mutations)
        pending.answered = pending.parked = True
        self._box.settle(pending.request_id, WriteResult(replies, None, {}))

    def _forget_keys(self, keys: tuple[bytes, ...]) -> None:
        self._page.touch(keys)
        for key in keys:
            self._l1.remove(key)
            self._tickets.void(key)

    def forget(self, mutation: Mutation) -> None:
        """W5 without a sequence: what is held or on its way is not to be used any more."""
        self._forget_keys(mutation.keys)
        seq = self._lane.reliance + 1  # newer than all that is held
        for prefix in mutation.prefixes:
            self._l1.end_prefix(prefix, seq)
        if mutation.tags:
            self._page.touch_tags(mutation.tags)
            self._l1.end_tagged(seq)
        if mutation.prefixes or mutation.everything or mutation.op == Op.FLUSH:
            self._page.drop()
        if mutation.everything or mutation.op == Op.FLUSH:
            self._l1.drop_all()
        if is_wide(mutation):
            self._tickets.void_all()

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
            self._on_lost(batch, answer.detail)
            return
        self._flying.remove(batch)
        if isinstance(answer, Mutated):
            self._on_mutated(batch, answer)
        elif answer.failure == Failure.OUT_OF_MEMORY:
            self._on_out_of_memory(batch, answer.detail)
        elif answer.failure == Failure.TWO_PHASES:
            self._on_one_phase_refused(batch, answer.detail)
        else:
            self._fail(batch, Fault(FaultKind.UNAVAILABLE, answer.detail))
        if self._flying:
            self._resolve_lost()
        self._rest()

    def _on_mutated(self, batch: Batch, answer: Mutated) -> None:
        if answer.aborted:
            self._close_tickets(batch)
            for pending in batch.pending:
                self._settle(pending, WriteResult((), None, {}, aborted=True))
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
            self._conclude_plain(batch, answer)
            return
        outcomes, roster_version = answer.done, answer.roster_version
        for pending in batch.pending:
            first = pending.first
            done = outcomes[first : first + len(pending.write.mutations)]
            self._conclude(pending, epoch, done, roster_version)

    def _conclude_plain(self, batch: Batch, answer: Mutated) -> None:
        """`_conclude` and `_settle` for what most writes are: nobody waits for more."""
        epoch, effects, concluded = answer.lineage.epoch, self._box.effects, 0
        for pending, done in zip(batch.pending, answer.done, strict=True):
            seq, reply = done.seq, done.reply
            if seq == 0 or pending.level != _REDIS:
                self._conclude(pending, epoch, (done,), answer.roster_version)
                continue
            concluded += 1
            pending.answered = pending.finished = True
            if pending.given is not None and reply.__class__ is bytes:
                effects.append(Settled(pending.request_id, reply))  # never an internal one
            else:
                result = WriteResult((reply,), version_of((epoch, seq)), {})
                self._box.settle(pending.request_id, result)
        self.committed += concluded
        self.waiting -= concluded

    def _conclude(
        self, pending: Pending, epoch: bytes, done: tuple[Done, ...], roster_version: int
    ) -> None:
        replies: tuple[Reply, ...]
        if len(done) == 1:
            last, replies = done[0].seq, (done[0].reply,)
        else:
            last = max([d.seq for d in done], default=0)
            replies = tuple([d.reply for d in done])
        if last == 0:
            if any(isinstance(reply, ReplyError) for reply in replies):
                self.refused += 1
            else:
                self.unchanged += 1
            self._settle(pending, WriteResult(replies, None, {}))
            return
        self.committed += 1
        version = version_of((epoch, last))
        level = pending.level
        waits = (level != Level.REDIS and level != Level.NONE) or pending.replicas > 0
        if waits and not pending.answered:
            self._wait(pending, replies, version, roster_version)
        else:
            self._settle(pending, WriteResult(replies, version, {}))

    def _wait(
        self,
        pending: Pending,
        replies: tuple[Reply, ...],
        version: Version,
        roster_version: int,
    ) -> None:
        # From here on the request is the acknowledgements' to answer.
        pending.answered = pending.finished = True
        self._acks.wait(
            pending.request_id,
            replies,
            self._lane,
            version,
            level=Level.REDIS if pending.level == Level.NONE else pending.level,
            timeout_ms=pending.timeout_ms,
            roster_version=roster_version,
            replicas=pending.replicas,
        )

    def _on_out_of_memory(self, batch: Batch, detail: str) -> None:
        """Refused before anything was done: what frees memory goes again by itself."""
        self._close_tickets(batch)
        again: list[Pending] = []
        mixed = not all(m.frees_memory for m in batch.mutations)
        for pending in batch.pending:
            if mixed and all(m.frees_memory for m in pending.write.mutations):
                again.append(pending)
            else:
                self._give_up(pending, Fault(FaultKind.OUT_OF_MEMORY, detail))
        self.queue.extendleft(reversed(again))

    # -- linearizable keys (K6) -------------------------------------------------------

    def _on_one_phase_refused(self, batch: Batch, detail: str) -> None:
        """Nothing was done, since a key of it is linearizable: another node says so. What has to
        takes two phases once it is known which keys are; the rest goes again."""
        self.one_phase_refused += 1
        self._close_tickets(batch)
        again: list[Pending] = []
        for pending in batch.pending:
            pending.tries += 1
            if pending.said is not None and pending.said.watch_id:
                # Its connection watches nothing any more. Like after a change: the client, which
                # has to reckon with that, begins anew.
                self._settle(pending, WriteResult((), None, {}, aborted=True))
            elif pending.tries < WRITE_TRIES:
                again.append(pending)
            else:
                text = f"{detail}; the write was not applied: try again"
                self._give_up(pending, Fault(FaultKind.CONTENDED, text))
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
        queue, self.queue = self.queue, deque()
        for pending in queue:
            if self._has_to_wait(pending.write):
                done = partial(self._diverted, pending)
                self._start_phases(self._box.internal(done), pending.write)
            else:
                self.queue.append(pending)

    def _diverted(self, pending: Pending, outcome: Outcome) -> None:
        if isinstance(outcome, Fault):
            self._tell(pending, outcome)  # the phases have counted it
        else:
            assert isinstance(outcome, WriteResult)
            self._settle(pending, outcome)

    # -- lost replies (W3) ------------------------------------------------------------

    def _on_lost(self, batch: Batch, detail: str) -> None:
        # Until the truth is known nothing of this node's may be served or stored for these keys.
        for mutation in batch.mutations:
            if mutation.is_write:
                self.forget(mutation)
        batch.lost = detail
        batch.started_ms = self._box.now_ms
        self._resolve_lost()

    def _resolve_lost(self) -> None:
        """Begin with the latest, once it is known of all whether their replies are lost."""
        flying = self._flying
        if not flying or self._resolving or any(b.lost is None for b in flying):
            return
        if self._laws.resolve_lost_reply:
            self._resolving = True
            self._resolve(flying[-1], flying[-1].lost or "")
            return
        while flying:
            self._again(flying.pop())

    def _resolve(self, batch: Batch, detail: str) -> None:
        start = batch.chain.seq if batch.chain is not None else 0

        def answered(answer: Logged | Failed) -> None:
            self._on_resolved(batch, answer, detail)

        number = self._box.new_call_id(answered)
        self._box.emit(Resolve(number, self._lane.index, batch.call_id, start))

    def _on_resolved(self, batch: Batch, answer: Logged | Failed, detail: str) -> None:
        if isinstance(answer, Failed):
            # The old connection may still be alive: no later write may overtake it (W4).
            if self._box.now_ms - batch.started_ms > RESOLVE_PATIENCE_MS:
                for lost in self._flying:
                    if not lost.told:
                        lost.told = True
                        self._tell_indeterminate(lost, detail)
                self._refuse_queued(answer.detail)
            retry_ms = self._box.now_ms + RESOLVE_RETRY_MS
            self._box.timers.at(retry_ms, self._resolve, batch, detail)
            return
        self._flying.remove(batch)
        self._resolving = False
        self.resolved += 1
        self._catchup.probes.server_seen(answer.server_id)
        found = {record.tag: index for index, record in enumerate(answer.records)}
        if any(tag in found for tag in batch.tags):
            self._found(batch, answer, found)
        elif answer.severed and batch.is_followed_by(answer):
            self._box.event("lost_write_not_applied", lane=self._lane.index, detail=detail)
            self._again(batch)
        else:
            if not batch.told:
                self._tell_indeterminate(batch, detail)
            self._close_tickets(batch)
        self._resolve_lost()
        self._rest()

    def _found(self, batch: Batch, answer: Logged, found: dict[bytes, int]) -> None:
        """Applied: a batch is one atomic step, so what is not in the log changed nothing."""
        self._close_tickets(batch)
        self._box.event("lost_write_was_applied", lane=self._lane.index)
        epoch = answer.lineage.epoch
        records = [answer.records[found[t]] for t in batch.tags if t in found]
        if early := self._catchup.own_records(epoch, records):
            self._cover(self._lane, early)
        for pending in batch.pending:
            done, known = done_by_log(batch, pending, answer, found)
            last = max(d.seq for d in done)
            if known:
                self._conclude(pending, epoch, done, -1)
            elif last:
                text = "the write is committed, but its reply was lost"
                fault = Fault(FaultKind.APPLIED_UNKNOWN_REPLY, text, Version(epoch, last))
                self._give_up(pending, fault)
            else:
                text = "the reply was lost; nothing was changed"
                self._give_up(pending, Fault(FaultKind.UNAVAILABLE, text))

    def _again(self, batch: Batch) -> None:
        """Surely not applied: send it again, ahead of what came later."""
        self._close_tickets(batch)
        again: list[Pending] = []
        for pending in batch.pending:
            if pending.finished:
                continue  # its caller was told that nobody can tell
            pending.tries += 1
            if pending.tries < WRITE_TRIES and not pending.write.watch_id:
                again.append(pending)
            else:
                text = "the connection to Redis broke; the write was not applied"
                self._give_up(pending, Fault(FaultKind.UNAVAILABLE, text))
        self.queue.extendleft(reversed(again))

    def _tell_indeterminate(self, batch: Batch, detail: str) -> None:
        text = f"the write was sent, its reply was lost, and the log cannot tell ({detail})"
        for pending in batch.pending:
            self._give_up(pending, Fault(FaultKind.INDETERMINATE, text))
        self._box.event("write_indeterminate", lane=self._lane.index, detail=detail)

    def _refuse_queued(self, detail: str) -> None:
        """What was never sent is surely not applied."""
        queued, self.queue = self.queue, deque()
        for pending in queued:
            self._give_up(pending, Fault(FaultKind.UNAVAILABLE, detail))

    def _fail(self, batch: Batch, fault: Fault) -> None:
        self._close_tickets(batch)
        for pending in batch.pending:
            self._give_up(pending, fault)

    def _give_up(self, pending: Pending, fault: Fault) -> None:
        if not pending.finished:
            self.faults[fault.kind] = self.faults.get(fault.kind, 0) + 1
        self._tell(pending, fault)

    def _tell(self, pending: Pending, fault: Fault) -> None:
        if pending.parked:
            fields = {"kind": fault.kind, "detail": fault.detail}
            self._box.emit(Event("accepted_write_failed", fields, pending.write))
        self._settle(pending, fault)

    def _settle(self, pending: Pending, outcome: WriteResult | Fault) -> None:
        """The end of a request: answer it, if it was not answered at acceptance already."""
        if pending.finished:
            return
        if not pending.answered:
            pending.answered = True
            self._box.settle(pending.request_id, outcome)
        self._finish(pending)

    def _finish(self, pending: Pending) -> None:
        pending.finished = True
        self.waiting -= 1
        if pending.parked and pending.given is not None:
            self._flights.resettle(pending.key)
        elif pending.parked:
            for mutation in pending.write.mutations:
                for key in mutation.keys:
                    self._flights.resettle(key)
                if is_wide(mutation):
                    self._flights.resettle_all()

    def _close_tickets(self, batch: Batch) -> None:
        sheaf = batch.sheaf
        self._tickets.close(*map(sheaf.apart, sheaf.keys), *batch.tickets.values())
        sheaf.keys.clear()
        batch.tickets.clear()
