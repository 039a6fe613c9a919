"""Answering reads that are not a plain hit: proving, asking for it, falling back.

For each key wanted, in this order:

    in L1 and provable now                    -> answer
    in L1 but past its bound, or B = 0        -> a small probe, then look again (V4, V5)
    not in L1                                 -> join or start the key's fetch (F3)
    Redis does not answer                     -> stale-if-error, or an error (V6)

How fetches are shared and sent is told in `flights`, what becomes of a fetched value in `fills`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from coherenced.core.calls import FetchedAll
from coherenced.core.catchup import Catchup
from coherenced.core.entry import MAX_FREQUENCY, Entry
from coherenced.core.fills import Fills
from coherenced.core.flights import (
    FETCH_TRIES,
    Asked,
    Batch,
    Bundle,
    Flight,
    Flights,
    Flock,
    Gather,
    Question,
    Terms,
    Want,
)
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.model import FOREVER, Fetched, Lineage, PlainValues, Reply, ReplyError, Version
from coherenced.core.outbox import Outbox, Settled, SettledAll
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.refill import Refill
from coherenced.core.requests import Ask, AskResult, Fault, FaultKind, Get, Read, ReadResult, Value
from coherenced.core.tickets import Tickets

PROOF_WAIT_MS: Final = 250.0
"""How long a read waits for the lane to catch up before it asks Redis for the value instead."""

_PLAIN: Final = Read(())
_KEYS_ONLY: Final = {Flight, Fetched}


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
        fills: Fills,
        refill: Refill,
    ) -> None:
        self.lane = lane
        self.namespaces = namespaces
        self.hits = self.misses = self.stale_served = self.proofs_waited = 0
        self.waiting = 0
        """Requests that have not been answered yet."""
        self.flights = Flights(
            lane,
            box,
            laws,
            tickets,
            catchup,
            new_epoch,
            refill,
            self._on_fetched,
            self._on_given_up,
        )
        self._box = box
        self._laws = laws
        self._l1 = l1
        self._tickets = tickets
        self._probes = catchup.probes
        self._fills = fills
        self._unproved: list[Want] = []
        self._join = self.flights.join
        self._get_terms = self._terms(namespaces.default, _PLAIN, as_sent=True)
        """Those of the latest `Get`."""

    # -- requests -------------------------------------------------------------------

    def read(self, request_id: int, read: Read) -> None:
        keys = read.keys
        if not keys:
            self._box.settle(request_id, ReadResult(()))
            return
        self.waiting += 1
        gather = None
        if len(keys) > 1:
            gather = Gather(len(keys), [None] * len(keys), read.most_bytes)
        wants = []
        for index, key in enumerate(keys):
            terms = self._terms(self.namespaces.for_key(key), read)
            wants.append(Want(request_id, key, terms, gather, index))
        if read.snapshot and self._laws.snapshot:
            self._look_at_once(wants)
            return
        hits, misses = self.hits, self.misses
        for want in wants:
            self._look(want)
        if read.uncounted:
            self.hits, self.misses = hits, misses

    def get(self, request_id: int, get: Get) -> None:
        """`read`, of one key and nothing else said."""
        key, namespaces = get.key, self.namespaces
        terms = self._terms_of_get(
            namespaces.default if namespaces.uniform else namespaces.for_key(key)
        )
        self.waiting += 1
        if key in self._l1.entries:
            self._look(Want(request_id, key, terms))
            return
        self.misses += 1
        if self.flights.is_asked(key):
            self._join(Want(request_id, key, terms))
        else:
            self.flights.start((key,), (request_id,), terms)

    def get_all(self, ids: Sequence[int], keys: Sequence[bytes]) -> None:
        """`get` for each of them."""
        named = dict.fromkeys(keys)
        if (
            self.namespaces.uniform
            and len(named) == len(keys)
            and self._l1.entries.keys().isdisjoint(named)
            and not self.flights.are_asked(named)
        ):
            self.waiting += len(keys)
            self.misses += len(keys)
            self.flights.start(keys, ids, self._terms_of_get(self.namespaces.default))
            return
        for request_id, key in zip(ids, keys, strict=True):
            self.get(request_id, Get(key))

    def _terms_of_get(self, policy: Policy) -> Terms:
        """What comes at once shares its terms."""
        box, terms = self._box, self._get_terms
        if (
            terms.min_call_id != box.next_call_id
            or terms.arrived_ms != box.now_ms
            or terms.policy is not policy
        ):
            self._get_terms = terms = self._terms(policy, _PLAIN, as_sent=True)
        return terms

    def _terms(self, policy: Policy, read: Read, *, as_sent: bool = False) -> Terms:
        """On what terms a key of this policy is wanted by a request that has just arrived."""
        bound_ms, stale_ms = read.max_staleness_ms, read.stale_if_error_ms
        if stale_ms is None:
            strict = policy.must_be_current(bound_ms) or read.is_particular
            stale_ms = 0.0 if strict else policy.stale_if_error_ms
        if bound_ms is None:
            bound_ms = policy.max_staleness_ms
        elif bound_ms > self.namespaces.largest_bound_ms:
            bound_ms = self.namespaces.largest_bound_ms
        return Terms(
            policy,
            bound_ms,
            self._box.now_ms,
            self._box.next_call_id if self._laws.probe_after_arrival else 0,
            read.min_version,
            read.skip_l1,
            stale_ms,
            as_sent,
        )

    def _look_at_once(self, wants: list[Want]) -> None:
        """S2: all that is held is current at `applied`: if all keys are held, it is one moment."""
        lane, now_ms = self.lane, self._box.now_ms
        entries: list[Entry] = []
        for want in wants:
            terms = want.terms
            entry = None if terms.skip_l1 else self._usable(want)
            proved = now_ms - lane.verified_at_ms <= terms.bound_ms and terms.bound_ms > 0
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
            flight = Flight(want.key, wants=[want])
            flight.tries = FETCH_TRIES  # sent again alone it would show another moment
            flights.append(flight)
        self.flights.enqueue(Bundle(flights))

    def ask(self, request_id: int, ask: Ask) -> None:
        self.waiting += 1
        self.flights.enqueue(Question(request_id, ask.query))

    def provable(self, key: bytes, max_staleness_ms: float | None) -> Entry | None:
        """What is held of `key`, if it may be served now (V3). Counted as a hit."""
        entry, now_ms = self._l1.held(key), self._box.now_ms
        if entry is None:
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

    def _look(self, want: Want) -> None:
        terms = want.terms
        entry = None if terms.skip_l1 else self._usable(want)
        if entry is None:
            self.misses += 1
            self._join(want)
            return
        age_ms = terms.arrived_ms - self.lane.verified_at_ms
        bound_ms = terms.bound_ms
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
        self._probes.request()

    def _usable(self, want: Want) -> Entry | None:
        """The entry, if it is one that a proof would make servable for this want."""
        entry = self._l1.held(want.key)
        if entry is None:
            return None
        if self._box.now_ms >= entry.deadline_ms and self._laws.entry_deadline:
            return None
        return entry if self._new_enough(want, entry) else None

    def _new_enough(self, want: Want, entry: Entry) -> bool:
        """S1: not older than the session's token."""
        token, lane = want.terms.min_version, self.lane
        if token is None or not self._laws.min_version:
            return True
        return token.epoch == lane.epoch and max(lane.applied, entry.as_of) >= token.seq

    # -- proofs ---------------------------------------------------------------------

    def on_proved(self) -> None:
        """The lane proved itself anew: look again for everyone whose probe was sent late enough."""
        if not self._unproved:
            return
        proved, age_ms = self.lane.proved_call_id, self._box.now_ms - self.lane.verified_at_ms
        waiting, self._unproved = self._unproved, []
        for want in waiting:
            # Whoever comes next is served what is held if the proof is within his bound: so is who
            # waits, for an answer to him that is newer would let a client of both see the key go
            # back in time.
            bound_ms = want.terms.bound_ms
            if want.terms.min_call_id > proved and not 0 < bound_ms >= age_ms:
                self._unproved.append(want)
                continue
            entry = self._usable(want)
            if entry is not None:
                self._serve(want, entry)
            else:
                self.misses += 1
                self._join(want)

    def _serve_waiting(self, fetched: Mapping[bytes, Entry], sent_ms: float) -> None:
        """What was fetched anew serves who waits for a proof of what was held before, as it does
        whoever comes next: if it is what is held now. What the fence did not let in leaves what
        was held before, of which nothing is proved."""
        age_ms = self._box.now_ms - sent_ms
        waiting, self._unproved = self._unproved, []
        for want in waiting:
            entry = fetched.get(want.key)
            fits = 0 < want.terms.bound_ms >= age_ms
            if entry is not None and fits and self._usable(want) is entry:
                self._serve(want, entry)
            else:
                self._unproved.append(want)

    def on_unproved(self, call_id: int) -> None:
        """That probe failed: whoever relied on it asks for the value itself, on the connection
        for that; if that fails too, they get a stale value or an error (V6)."""
        waiting, self._unproved = self._unproved, []
        for want in waiting:
            if want.terms.min_call_id > call_id:
                self._unproved.append(want)
            else:
                self.misses += 1
                self._join(want)

    def on_dropped(self) -> None:
        """A5: the entries are gone: what waited for their proof must be fetched."""
        waiting, self._unproved = self._unproved, []
        for want in waiting:
            self._join(want)

    def _give_up_proof(self) -> None:
        limit_ms = self._box.now_ms - PROOF_WAIT_MS
        waiting, self._unproved = self._unproved, []
        for want in waiting:
            if want.terms.arrived_ms <= limit_ms:
                self._join(want)
            else:
                self._unproved.append(want)
        if self._unproved:
            next_ms = self._unproved[0].terms.arrived_ms + PROOF_WAIT_MS
            self._box.timers.at(max(next_ms, self._box.now_ms + 1.0), self._give_up_proof)

    # -- what was fetched -------------------------------------------------------------

    def _on_fetched(self, batch: Batch, answer: FetchedAll, sent_ms: float) -> None:
        if isinstance(batch, Flock):
            if self._land_flock(batch, answer, sent_ms):
                return
            batch = list[Asked](self.flights.scatter(batch))
        lineage, results = answer.lineage, tuple(answer.results)
        if {*map(type, batch), *map(type, results)} == _KEYS_ONLY:
            self._land(batch, results, lineage, sent_ms)  # type: ignore[arg-type]
            return
        for item, result in zip(batch, results, strict=True):
            if isinstance(item, Question):
                self.waiting -= 1
                self._fills.shown(item.query.keys, lineage)
                reply = result.error if isinstance(result, Fetched) else result
                self._box.settle(item.request_id, AskResult(reply))
            elif isinstance(result, Fetched):
                self._land((item,), (result,), lineage, sent_ms)
            else:
                found = Fetched(None, error=_as_error(result))
                self._land((item,), (found,), lineage, sent_ms)

    def _land_flock(self, flock: Flock, answer: FetchedAll, sent_ms: float) -> bool:
        """`_land`, in the usual case; False: it is another, and nothing is done."""
        lineage, found = answer.lineage, answer.results
        if flock.told or not isinstance(found, PlainValues):
            return False
        if not self._tickets.redeem_sheaf(flock, lineage):
            return False
        self.flights.end_all(flock)
        self.waiting -= len(flock.keys)
        bulks = self._fills.keep_all(flock.keys, found, lineage, sent_ms)
        if self._unproved:
            held = map(self._l1.entries.get, flock.keys)
            self._serve_waiting(
                {
                    entry.key: entry
                    for entry, bulk in zip(held, bulks, strict=True)
                    if entry is not None and entry.bulk is bulk and entry.as_of == lineage.seq
                },
                sent_ms,
            )
        self._box.effects.append(SettledAll(flock.ids, bulks))
        return True

    def _land(
        self,
        flights: Sequence[Flight],
        found: Sequence[Fetched],
        lineage: Lineage,
        sent_ms: float,
    ) -> None:
        """Fetched values: store them if the fence allows (F2), give them to all who waited."""
        self.flights.end(flights)
        fills, effects = self._fills, self._box.effects
        entries = fills.keep(flights, found, lineage, sent_ms)
        for flight in flights:
            if self.flights.is_asked(flight.key):
                # A later fetch of it is under way, for those who asked after an invalidation. Who
                # comes after them must not be shown this one before they are shown that one.
                self._l1.remove(flight.key)
        if self._unproved:
            self._serve_waiting({entry.key: entry for entry in entries}, sent_ms)
        for flight, got, entry in zip(flights, found, entries, strict=True):
            value: Value | None = None
            for want in flight.wants:
                terms = want.terms
                token = terms.min_version
                wrong = None if token is None else self._session_fault(token, lineage)
                if wrong is not None:
                    self._fault(want, wrong)
                elif terms.as_sent and got.error is None:
                    self.waiting -= 1
                    effects.append(Settled(want.request_id, entry.bulk))  # never an internal one
                else:
                    value = value or fills.told(entry, got, lineage, sent_ms)
                    self._give(want, value)

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

    def _on_given_up(self, item: Asked, detail: str) -> None:
        """Redis does not answer, or has not answered twice."""
        if isinstance(item, Question):
            self.waiting -= 1
            self._box.settle(item.request_id, Fault(FaultKind.UNAVAILABLE, detail))
            return
        self.flights.end((item,))
        self._tickets.close(item)
        for want in item.wants:
            self._fall_back(want, detail)

    def _fall_back(self, want: Want, detail: str) -> None:
        """V6: past the bound, with Redis out of reach."""
        terms, now_ms = want.terms, self._box.now_ms
        entry = None if terms.skip_l1 else self._l1.held(want.key)
        if entry is not None and not self._new_enough(want, entry):
            entry = None
        if entry is not None and terms.stale_ms > 0:
            age_ms = now_ms - self.lane.verified_at_ms
            old_ms = now_ms - entry.deadline_ms
            if age_ms <= terms.bound_ms + terms.stale_ms and old_ms < terms.stale_ms:
                self.stale_served += 1
                self._give(want, self._fills.value_of(entry, stale=True))
                return
        self._fault(want, Fault(FaultKind.UNAVAILABLE, detail))

    # -- answers --------------------------------------------------------------------

    def _serve(self, want: Want, entry: Entry) -> None:
        self.hits += 1
        if entry.frequency < MAX_FREQUENCY:
            entry.frequency += 1
        if want.terms.as_sent:
            self.waiting -= 1
            self._box.settle(want.request_id, entry.bulk)
        else:
            self._give(want, self._fills.value_of(entry))

    def _give(self, want: Want, value: Value) -> None:
        gather = want.gather
        if gather is None:
            self.waiting -= 1
            self._box.settle(want.request_id, ReadResult((value,)))
            return
        if gather.left <= 0:
            return  # the request has already failed as a whole
        if gather.most_bytes and value.value is not None:
            gather.held_bytes += len(value.value)
            if gather.held_bytes > gather.most_bytes:
                text = (
                    f"the values have more than {gather.most_bytes} bytes together: ask for fewer"
                )
                self._fault(want, Fault(FaultKind.TOO_LARGE, text))
                return
        gather.values[want.index] = value
        gather.left -= 1
        if gather.left == 0:
            self.waiting -= 1
            done = tuple(gather.values)
            self._box.settle(want.request_id, ReadResult(done))  # type: ignore[arg-type]

    def _fault(self, want: Want, fault: Fault) -> None:
        gather = want.gather
        if gather is not None:
            if gather.left <= 0:
                return
            gather.left = 0
            gather.values.clear()
        self.waiting -= 1
        self._box.settle(want.request_id, fault)


def _as_error(reply: Fetched | Reply) -> ReplyError:
    return reply if isinstance(reply, ReplyError) else ReplyError("ERR unexpected reply from Redis")
