"""Answering reads that are not a plain hit: proving, fetching, and storing what was fetched.

For each key wanted, in this order:

    in L1 and provable now                    -> answer
    in L1 but past its bound, or B = 0        -> a small probe, then look again (V4, V5)
    not in L1                                 -> join or start the key's fetch (F3)
    Redis does not answer                     -> stale-if-error, or an error (V6)

Fetches of many keys share a round trip: while some are under way the next ones
gather, and leave together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from coherenced.core.calls import Failed, Failure, Fetch, FetchedAll
from coherenced.core.catchup import Catchup
from coherenced.core.l1 import L1, MAX_FREQUENCY, Entry
from coherenced.core.lane import Lane, Verdict
from coherenced.core.laws import Laws
from coherenced.core.model import (
    FOREVER,
    Fetched,
    Lineage,
    Query,
    Reply,
    ReplyError,
    Version,
    version_of,
)
from coherenced.core.outbox import Outbox
from coherenced.core.page import Page
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.refill import Refill
from coherenced.core.requests import (
    Ask,
    AskResult,
    Fault,
    FaultKind,
    Read,
    ReadResult,
    Source,
    Value,
)
from coherenced.core.tickets import Ticket, Tickets

FETCH_BATCH: Final = 64
"""Keys in one fetch."""
FETCHES_OPEN: Final = 4
"""Fetches of one lane under way at once."""
PROOF_WAIT_MS: Final = 250.0
"""How long a read waits for the lane to catch up before it asks Redis for the value instead."""
FETCH_TRIES: Final = 2


class _Gather(msgspec.Struct, gc=False, eq=False):
    """One read request: its answers as they come."""

    request_id: int
    left: int
    values: list[Value | None]


class _Want(msgspec.Struct, gc=False, eq=False):
    """One key of one read request."""

    gather: _Gather
    index: int
    key: bytes
    policy: Policy
    bound_ms: float
    """K2: never above the bound that this node has published; writers fence it by that."""
    arrived_ms: float
    min_call_id: int
    """V4: only a probe with at least this call id was sent after the read arrived."""
    min_version: Version | None
    skip_l1: bool
    stale_ms: float


class _Flight(msgspec.Struct, gc=False, eq=False):
    """One fetch of one key, and who waits for it."""

    key: bytes
    wants: list[_Want] = []
    ticket: Ticket | None = None
    sent_ms: float | None = None
    tries: int = 0


class _Bundle:
    """S2: fetches that must be executed by one script: a snapshot. Shared with nobody."""

    __slots__ = ("flights",)

    def __init__(self, flights: list[_Flight]) -> None:
        self.flights = flights


class _Question:
    """One query of Redis that L1 does not answer."""

    __slots__ = ("query", "request_id", "tries")

    def __init__(self, request_id: int, query: Query) -> None:
        self.request_id = request_id
        self.query = query
        self.tries = 0


class Errand:
    """Something else that must not be asked before this node's own writes to `key` are there."""

    __slots__ = ("key", "send")

    def __init__(self, key: bytes, send: Callable[[], None]) -> None:
        self.key = key
        self.send = send


_Item = _Flight | _Bundle | _Question | Errand


class Reads:
    """The read side of one lane."""

    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        laws: Laws,
        l1: L1,
        tickets: Tickets,
        catchup: Catchup,
        namespaces: Namespaces,
        new_epoch: Callable[[], bytes],
        page: Page,
        refill: Refill,
    ) -> None:
        self.lane = lane
        self.refill = refill
        self._page = page
        self.namespaces = namespaces
        self.hits = self.misses = self.fetched = self.stale_served = self.negative = 0
        self.stored = self.proofs_waited = self.fetch_failures = 0
        self.fetches = self.coalesced = 0
        self.waiting = 0
        """Requests that have not been answered yet."""
        self._box = box
        self._laws = laws
        self._l1 = l1
        self._tickets = tickets
        self._catchup = catchup
        self._new_epoch = new_epoch
        self._flights: dict[bytes, _Flight] = {}
        self.queue: deque[_Item] = deque()
        self._open = 0
        self._held = False
        """A5: what gathers waits for its budget."""
        self._unproved: list[_Want] = []
        self._parked: dict[bytes, list[_Item]] = {}
        self._unsettled: dict[bytes, int] = {}
        self._unsettled_all = 0

    # -- requests -------------------------------------------------------------------

    def read(self, request_id: int, read: Read) -> None:
        keys = read.keys
        if not keys:
            self._box.settle(request_id, ReadResult(()))
            return
        gather = _Gather(request_id, len(keys), [None] * len(keys))
        self.waiting += 1
        box = self._box
        least = box.next_call_id if self._laws.probe_after_arrival else 0
        wants = []
        for index, key in enumerate(keys):
            policy = self.namespaces.for_key(key)
            bound_ms, stale_ms = read.max_staleness_ms, read.stale_if_error_ms
            if bound_ms is None:
                bound_ms = policy.max_staleness_ms
            elif bound_ms > self.namespaces.largest_bound_ms:
                bound_ms = self.namespaces.largest_bound_ms
            want = _Want(
                gather,
                index,
                key,
                policy,
                bound_ms,
                box.now_ms,
                least,
                read.min_version,
                read.skip_l1,
                policy.stale_if_error_ms if stale_ms is None else stale_ms,
            )
            wants.append(want)
        if read.snapshot and self._laws.snapshot:
            self._look_at_once(wants)
            return
        for want in wants:
            self._look(want)

    def _look_at_once(self, wants: list[_Want]) -> None:
        """S2: all that is held is current at `applied`: if all keys are held, it is one moment."""
        lane, now_ms = self.lane, self._box.now_ms
        entries: list[Entry] = []
        for want in wants:
            entry = None if want.skip_l1 else self._usable(want)
            proved = now_ms - lane.verified_at_ms <= want.bound_ms and want.bound_ms > 0
            if entry is None or not proved or entry.as_of > lane.applied:
                break
            entries.append(entry)
        if len(entries) == len(wants):
            for want, entry in zip(wants, entries, strict=True):
                self._serve(want, entry)
            return
        self.misses += len(wants)
        flights = []
        for want in wants:
            flight = _Flight(want.key)
            flight.wants.append(want)
            flight.tries = FETCH_TRIES  # sent again alone it would show another moment
            flights.append(flight)
        self._enqueue(_Bundle(flights))

    def ask(self, request_id: int, ask: Ask) -> None:
        self.waiting += 1
        self._enqueue(_Question(request_id, ask.query))

    def run(self, errand: Errand) -> None:
        """Have it sent at the end of this step, or when what it must wait for is over."""
        self._enqueue(errand)

    def provable(self, key: bytes, max_staleness_ms: float | None) -> Entry | None:
        """What is held of `key`, if it may be served now (V3). Counted as a hit."""
        entry, now_ms = self._l1.entries.get(key), self._box.now_ms
        if entry is None or (entry.tags and self._laws.tags_cover and entry.covered()):
            return None
        bound_ms = self.namespaces.for_key(key).max_staleness_ms
        if max_staleness_ms is not None:
            bound_ms = min(max_staleness_ms, self.namespaces.largest_bound_ms)
        if not self._laws.staleness_bound:
            bound_ms = FOREVER
        if bound_ms <= 0 or now_ms - self.lane.verified_at_ms > bound_ms:
            return None
        if now_ms >= entry.deadline_ms and self._laws.entry_deadline:
            return None
        self.hits += 1
        if entry.frequency < MAX_FREQUENCY:
            entry.frequency += 1
        return entry

    def _look(self, want: _Want) -> None:
        entry = None if want.skip_l1 else self._usable(want)
        if entry is None:
            self.misses += 1
            self._join(want)
            return
        age_ms = want.arrived_ms - self.lane.verified_at_ms
        bound_ms = want.bound_ms
        if not self._laws.staleness_bound:
            bound_ms = float("inf")
        if (bound_ms > 0 and self._box.now_ms - self.lane.verified_at_ms <= bound_ms) or (
            bound_ms == 0 and not self._laws.probe_after_arrival and age_ms <= 1000
        ):
            self._serve(want, entry)
            return
        self.proofs_waited += 1
        if not self._unproved:
            self._box.timers.at(self._box.now_ms + PROOF_WAIT_MS, self._give_up_proof)
        self._unproved.append(want)
        self._catchup.request_proof()

    def _usable(self, want: _Want) -> Entry | None:
        """The entry, if it is one that a proof would make servable for this want."""
        entry = self._l1.entries.get(want.key)
        if entry is None or (entry.tags and self._laws.tags_cover and entry.covered()):
            return None
        if self._box.now_ms >= entry.deadline_ms and self._laws.entry_deadline:
            return None
        return entry if self._new_enough(want, entry) else None

    def _new_enough(self, want: _Want, entry: Entry) -> bool:
        """S1: not older than the session's token."""
        token, lane = want.min_version, self.lane
        if token is None or not self._laws.min_version:
            return True
        return token.epoch == lane.epoch and max(lane.applied, entry.as_of) >= token.seq

    # -- proofs ---------------------------------------------------------------------

    def on_proved(self) -> None:
        """The lane proved itself anew: look again for everyone whose probe was sent late enough."""
        if not self._unproved:
            return
        proved = self.lane.proved_call_id
        waiting, self._unproved = self._unproved, []
        for want in waiting:
            if want.min_call_id > proved:
                self._unproved.append(want)
                continue
            entry = self._usable(want)
            if entry is not None:
                self._serve(want, entry)
            else:
                self.misses += 1
                self._join(want)

    def on_unproved(self, call_id: int) -> None:
        """That probe failed: whoever relied on it asks for the value itself, on the connection
        for that; if that fails too, they get a stale value or an error (V6)."""
        waiting, self._unproved = self._unproved, []
        for want in waiting:
            if want.min_call_id > call_id:
                self._unproved.append(want)
            else:
                self.misses += 1
                self._join(want)

    def on_dropped(self, entries: int) -> None:
        """A5: so many entries are gone: what waited for their proof must be fetched."""
        self.refill.dropped(entries, self._box.now_ms)
        waiting, self._unproved = self._unproved, []
        for want in waiting:
            self._join(want)

    def _give_up_proof(self) -> None:
        limit_ms = self._box.now_ms - PROOF_WAIT_MS
        waiting, self._unproved = self._unproved, []
        for want in waiting:
            if want.arrived_ms <= limit_ms:
                self._join(want)
            else:
                self._unproved.append(want)
        if self._unproved:
            next_ms = self._unproved[0].arrived_ms + PROOF_WAIT_MS
            self._box.timers.at(max(next_ms, self._box.now_ms + 1.0), self._give_up_proof)

    # -- fetches --------------------------------------------------------------------

    def _join(self, want: _Want) -> None:
        flight = self._flights.get(want.key)
        if flight is None or not self._joinable(flight, want):
            flight = _Flight(want.key)
            self._flights[want.key] = flight
            self._enqueue(flight)
        else:
            self.coalesced += 1
        flight.wants.append(want)

    def _joinable(self, flight: _Flight, want: _Want) -> bool:
        """F3: a fetch already sent is shared only with those it is surely fresh enough for."""
        if flight.sent_ms is None:
            return True
        if want.policy.linearizable:
            return False  # K6: what was asked before may be older than what somebody has seen
        if not self._laws.join_only_fresh_flights:
            return True
        ticket = flight.ticket
        if ticket is None or ticket.void or ticket.hit_seq:
            return False
        if ticket.generation != self.lane.generation or want.skip_l1:
            return False
        if want.min_version is not None and want.min_version.seq > ticket.asked_applied:
            return False
        return want.bound_ms > 0 and want.arrived_ms - flight.sent_ms <= want.bound_ms

    def _enqueue(self, item: _Item) -> None:
        self.queue.append(item)

    def _park(self, item: _Item) -> bool:
        """A write accepted with ack=none is not in Redis yet: its node's readers wait for it."""
        for key in _keys(item):
            if key in self._unsettled:
                self._parked.setdefault(key, []).append(item)
                return True
        return False

    def unsettle(self, key: bytes) -> None:
        self._unsettled[key] = self._unsettled.get(key, 0) + 1

    def unsettle_all(self) -> None:
        """The same for a write that covers keys nobody has listed."""
        self._unsettled_all += 1

    def resettle_all(self) -> None:
        self._unsettled_all -= 1

    def resettle(self, key: bytes) -> None:
        left = self._unsettled.get(key, 0) - 1
        if left > 0:
            self._unsettled[key] = left
            return
        self._unsettled.pop(key, None)
        for item in self._parked.pop(key, ()):
            self._enqueue(item)

    @property
    def sendable(self) -> bool:
        may = self._open < FETCHES_OPEN and not self._unsettled_all and not self._held
        return may and bool(self.queue)

    def flush(self) -> None:
        """Send what has gathered; called at the end of every step."""
        while self.sendable:
            due_ms = self.refill.due_ms(self._box.now_ms)
            if due_ms > self._box.now_ms:
                self._held = True
                self._box.timers.at(due_ms, self._release)
                return
            batch: list[_Flight | _Question] = []
            while self.queue and len(batch) < FETCH_BATCH:
                item = self.queue.popleft()
                if self._unsettled and self._park(item):
                    continue
                if isinstance(item, _Bundle):
                    batch.extend(item.flights)  # never split: one script shows one moment
                elif isinstance(item, Errand):
                    item.send()
                else:
                    batch.append(item)
            if batch:
                self.refill.fetching(len(batch), self._box.now_ms)
                self._send(batch)

    def _release(self) -> None:
        """A5: the budget allows more; it is sent at the end of this step, or of this turn."""
        self._held = False

    def _send(self, batch: list[_Flight | _Question]) -> None:
        self._open += 1
        self.fetches += 1
        sent_ms = self._box.now_ms
        reliance, generation = self.lane.reliance, self.lane.generation
        items: list[bytes | Query] = []
        for item in batch:
            if isinstance(item, _Flight):
                item.sent_ms = sent_ms
                item.ticket = self._tickets.open(item.key)
                items.append(item.key)
            else:
                items.append(item.query)

        def answered(answer: FetchedAll | Failed) -> None:
            self._open -= 1
            if isinstance(answer, Failed):
                self._on_failed(batch, answer)
            else:
                if generation == self.lane.generation:
                    self.suspect(answer.lineage, reliance)
                self._on_fetched(batch, answer, sent_ms)

        number = self._box.new_call_id(answered)
        self._box.emit(Fetch(number, self.lane.index, self._new_epoch(), tuple(items)))

    def suspect(self, lineage: Lineage, reliance: int) -> None:
        """A fetch that is not of this chain proves nothing, but it is a reason to probe."""
        lane = self.lane
        if lineage.seq < reliance or lane.contradicts(lineage, self._laws):
            if self._laws.no_way_back:
                lane.unprove()  # who sees this answer must not be shown an older state by a hit
            self._catchup.request_proof()
        elif lineage.seq > lane.head:
            lane.head = lineage.seq
            self._catchup.expect_bus()

    def _on_fetched(
        self, batch: list[_Flight | _Question], answer: FetchedAll, sent_ms: float
    ) -> None:
        for item, result in zip(batch, answer.results, strict=True):
            if isinstance(item, _Question):
                self.waiting -= 1
                self.shown(item.query.keys, answer.lineage)
                reply = result.error if isinstance(result, Fetched) else result
                self._box.settle(item.request_id, AskResult(reply))
            elif isinstance(result, Fetched):
                self._land(item, result, answer.lineage, sent_ms)
            else:
                self._land(item, Fetched(None, error=_as_error(result)), answer.lineage, sent_ms)

    def _land(self, flight: _Flight, got: Fetched, lineage: Lineage, sent_ms: float) -> None:
        """A fetched value: store it if the fence allows (F2), give it to all who waited."""
        self._end(flight)
        assert flight.ticket is not None
        value = self.store(flight.key, got, lineage, flight.ticket, sent_ms)
        for want in flight.wants:
            token = want.min_version
            wrong = None if token is None else self._session_fault(token, lineage)
            if wrong is None:
                self._give(want, value)
            else:
                self._fault(want, wrong)

    def store(
        self,
        key: bytes,
        got: Fetched,
        lineage: Lineage,
        ticket: Ticket,
        sent_ms: float,
        absent_ms: float | None = None,
    ) -> Value:
        """What Redis has just told of `key`, as an answer; kept in L1 if the fence allows (F2).

        `absent_ms`: for so long a loader has found that there is no such thing (L1).
        """
        self.fetched += 1
        policy, lane, now_ms = self.namespaces.for_key(key), self.lane, self._box.now_ms
        value, bound_ms = got.value, policy.hit_bound_ms
        deadline_ms = self._deadline(got, policy, sent_ms)
        ttl_ms = got.ttl_ms if value is not None else absent_ms or -1
        expires_ms = FOREVER if ttl_ms < 0 else sent_ms + ttl_ms
        if expires_ms < deadline_ms:
            deadline_ms = expires_ms
        seq = lineage.seq
        stored = False
        keep_ms = 0.0
        if got.error is None and not (got.pending and self._laws.pending_not_cached):
            may = self._tickets.may_store(ticket, lineage, got.labels)
            if may and deadline_ms > now_ms:
                entry = Entry(key, value, lane, seq, deadline_ms, bound_ms, got.labels, expires_ms)
                stored = self._l1.put(entry)
                self.stored += stored
                if seq > lane.proved_seq:
                    lane.lend(entry, sent_ms)
                # Seen from ahead of the position, it is news: the page is about to say so.
                if stored and seq <= lane.applied:
                    keep_ms = self._keep_ms(entry)
        if not stored or seq != lane.applied or lineage.tag != lane.tag:
            self.shown((key,), lineage, stored=stored)
        if value is None:
            self.negative += 1
        return Value(
            value,
            version_of((lineage.epoch, seq)),
            Source.L2,
            0.0,
            ttl_ms=deadline_ms - now_ms,
            error=got.error,
            labels=got.labels,
            keep_ms=keep_ms,
            bound_ms=bound_ms,
            expires_in_ms=until(expires_ms, now_ms),
        )

    def shown(self, keys: Collection[bytes], lineage: Lineage, *, stored: bool = False) -> None:
        """Redis has answered about these keys as of `lineage`: a client that has seen that must
        not be shown anything older afterwards, though the records have not arrived yet.

        What is held stays only if it is newer, and surely of the same history; or if it is this
        very answer, just `stored`.
        """
        lane = self.lane
        if not self._laws.no_way_back:
            return
        verdict = lane.judge_lineage(lineage, self._laws)
        unsure = verdict is not Verdict.DUPLICATE
        if unsure or not stored:
            self._page.touch(keys)  # clients may hold what this node does not
        for key in keys:
            entry = None if stored else self._l1.entries.get(key)
            if entry is not None and (unsure or entry.as_of < lineage.seq):
                self._l1.remove(key)
            if verdict is Verdict.AHEAD:
                self._tickets.hit(key, lineage.seq)

    def _deadline(self, got: Fetched, policy: Policy, sent_ms: float) -> float:
        """F1: counted from before the request was sent."""
        if not self._laws.entry_deadline:
            return sent_ms + policy.max_age_ms
        if got.value is None:
            return sent_ms + min(policy.negative_max_age_ms, policy.max_age_ms)
        if got.ttl_ms < 0:
            return sent_ms + policy.max_age_ms
        return sent_ms + min(got.ttl_ms - policy.reserve_ms, policy.max_age_ms)

    def _session_fault(self, token: Version, lineage: Lineage) -> Fault | None:
        """S1: even Redis may be unable to keep a session's promise; then the reader is told."""
        if token.epoch != lineage.epoch:
            return Fault(
                FaultKind.OTHER_LINEAGE,
                f"version {token} is from another lineage; the lane is now at "
                f"{Version(lineage.epoch, lineage.seq)}: Redis lost or replaced its data since",
            )
        if token.seq > lineage.seq:
            return Fault(
                FaultKind.BEHIND,
                f"version {token} is ahead of the lane, which is at "
                f"{Version(lineage.epoch, lineage.seq)}: that write was lost in a failover",
            )
        return None

    def _end(self, flight: _Flight) -> None:
        if flight.ticket is not None:
            self._tickets.close(flight.ticket)
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _on_failed(self, batch: list[_Flight | _Question], answer: Failed) -> None:
        self.fetch_failures += 1
        for item in batch:
            item.tries += 1
            again = answer.failure == Failure.LOST and item.tries < FETCH_TRIES
            if isinstance(item, _Question):
                if again:
                    self.queue.append(item)
                else:
                    self.waiting -= 1
                    fault = Fault(FaultKind.UNAVAILABLE, answer.detail)
                    self._box.settle(item.request_id, fault)
                continue
            if again:
                if item.ticket is not None:
                    self._tickets.close(item.ticket)
                item.ticket = item.sent_ms = None
                self.queue.append(item)
                continue
            self._end(item)
            for want in item.wants:
                self._fall_back(want, answer.detail)

    def _fall_back(self, want: _Want, detail: str) -> None:
        """V6: past the bound, with Redis out of reach."""
        entry = None if want.skip_l1 else self._l1.entries.get(want.key)
        now_ms = self._box.now_ms
        if entry is not None and not self._new_enough(want, entry):
            entry = None
        if entry is not None and want.stale_ms > 0 and not entry.covered():
            age_ms = now_ms - self.lane.verified_at_ms
            old_ms = now_ms - entry.deadline_ms
            if age_ms <= want.bound_ms + want.stale_ms and old_ms < want.stale_ms:
                self.stale_served += 1
                value = self.value_of(entry, stale=True)
                self._give(want, value)
                return
        self._fault(want, Fault(FaultKind.UNAVAILABLE, detail))

    # -- answers --------------------------------------------------------------------

    def _serve(self, want: _Want, entry: Entry) -> None:
        self.hits += 1
        if entry.frequency < MAX_FREQUENCY:
            entry.frequency += 1
        self._give(want, self.value_of(entry))

    def value_of(self, entry: Entry, *, stale: bool = False) -> Value:
        lane, now_ms = self.lane, self._box.now_ms
        return Value(
            entry.value,
            Version(lane.epoch or b"", entry.as_of),
            Source.L1,
            max(0.0, now_ms - lane.verified_at_ms),
            stale=stale,
            ttl_ms=entry.deadline_ms - now_ms,
            labels=entry.tags,
            keep_ms=0.0 if stale else self._keep_ms(entry),
            bound_ms=entry.bound_ms,
            expires_in_ms=until(entry.expires_ms, now_ms),
        )

    def _keep_ms(self, entry: Entry) -> float:
        """§8: what L1 may serve without asking, a client on this host may keep as long."""
        return entry.deadline_ms - self._box.now_ms if entry.bound_ms > 0 else 0.0

    def _give(self, want: _Want, value: Value) -> None:
        gather = want.gather
        if gather.left <= 0:
            return  # the request has already failed as a whole
        gather.values[want.index] = value
        gather.left -= 1
        if gather.left == 0:
            self.waiting -= 1
            done = tuple(gather.values)
            self._box.settle(gather.request_id, ReadResult(done))  # type: ignore[arg-type]

    def _fault(self, want: _Want, fault: Fault) -> None:
        gather = want.gather
        if gather.left <= 0:
            return
        gather.left = 0
        self.waiting -= 1
        self._box.settle(gather.request_id, fault)


def _keys(item: _Item) -> tuple[bytes, ...]:
    if isinstance(item, _Flight | Errand):
        return (item.key,)
    if isinstance(item, _Question):
        return item.query.keys
    return tuple(flight.key for flight in item.flights)


def until(expires_ms: float, now_ms: float) -> float | None:
    """What is left, or None when there is no end."""
    return None if expires_ms == FOREVER else max(0.0, expires_ms - now_ms)


def _as_error(reply: Fetched | Reply) -> ReplyError:
    return reply if isinstance(reply, ReplyError) else ReplyError("ERR unexpected reply from Redis")
