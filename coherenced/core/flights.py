"""Fetches under way: who shares one (F3), what must wait before it is asked, how they are sent.

    join -> queue -> flush -> Fetch of up to FETCH_BATCH keys -> fetched, or sent again, or given up

Fetches of many keys share a round trip: while some are under way the next ones
gather, and leave together. How large their values are nobody knows: the server ends its
answer where it has become large, and the rest is asked for again, with care for a while.
So neither side holds much more at once than the largest values themselves.

What asks about a key that this node has accepted a write to is parked until that write
is in Redis (W5). What an answer means is not known here: it is handed to `reads`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from coherenced.core.calls import Failed, Failure, Fetch, FetchedAll
from coherenced.core.catchup import Catchup
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.model import Lineage, Query, Version
from coherenced.core.outbox import Outbox
from coherenced.core.policy import Policy
from coherenced.core.refill import Refill
from coherenced.core.requests import Value
from coherenced.core.tickets import Sheaf, Ticket, Tickets

FETCH_BATCH: Final = 64
"""Keys in one fetch."""
FETCHES_OPEN: Final = 4
"""Fetches of one lane under way at once."""
FETCH_TRIES: Final = 2
STEP: Final = 8
"""Keys that the server reads before it looks how large they were."""
CAREFUL_FETCHES: Final = 64
"""After an answer that was ended, so many whole ones until it is taken for an exception."""
CAREFUL_OPEN: Final = 2
"""FETCHES_OPEN meanwhile; each is looked at key by key."""


class Gather(msgspec.Struct, gc=False, eq=False):
    """A read request of several keys: its answers as they come."""

    left: int
    values: list[Value | None]
    most_bytes: int = 0
    held_bytes: int = 0


class Terms(msgspec.Struct, gc=False, eq=False, frozen=True):
    """On what terms a key is wanted; wants of one moment share them."""

    policy: Policy
    bound_ms: float
    """K2: never above the bound that this node has published; writers fence it by that."""
    arrived_ms: float
    min_call_id: int
    """V4: only a probe with at least this call id was sent after the read arrived."""
    min_version: Version | None
    skip_l1: bool
    stale_ms: float
    as_sent: bool
    """The reply as it is sent will do for an answer, see `Get`."""


class Want(msgspec.Struct, gc=False, eq=False):
    """One key of one read request."""

    request_id: int
    key: bytes
    terms: Terms
    gather: Gather | None = None
    """None: the request is about this key alone."""
    index: int = 0


class Flight(Ticket, gc=False, eq=False):
    """One fetch of one key, and who waits for it. Open as a ticket while it is under way."""

    wants: list[Want] = msgspec.field(default_factory=list)
    sent_ms: float | None = None
    """None: it is not under way."""
    tries: int = 0


class Flock(Sheaf, gc=False, eq=False):
    """Fetches of several keys, each wanted by one `Get`, that nothing tells apart: three lists in
    place of three objects for each key. As soon as anything happens to one of them it gets a
    Flight of its own; what is none of the usual cases is done with Flights (`Flights.scatter`)."""

    ids: list[int] = msgspec.field(default_factory=list)
    """Of the requests."""
    terms: list[Terms] = msgspec.field(default_factory=list)
    told: dict[bytes, Flight] = msgspec.field(default_factory=dict)
    """Those that have been told apart, by their keys. Only these may have been replaced where
    flights and tickets are looked up by key: for all others the flock stands there."""
    sent_ms: float | None = None
    """None: it is not under way."""

    def apart(self, key: bytes) -> Flight:
        return self.told.get(key) or self.tell(self.keys.index(key))

    def tell(self, place: int) -> Flight:
        """`apart` for the key at this place, which was not told apart yet."""
        key = self.keys[place]
        wants = [Want(self.ids[place], key, self.terms[place])]
        flight = Flight(key, self.generation, self.asked_applied, wants=wants, sent_ms=self.sent_ms)
        self.told[key] = flight
        return flight


class Bundle:
    """S2: fetches that must be executed by one script: a snapshot. Shared with nobody."""

    __slots__ = ("flights",)

    def __init__(self, flights: list[Flight]) -> None:
        self.flights = flights


class Question:
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


Asked = Flight | Question
"""What one fetch asks for."""
Batch = list[Asked] | Flock
Item = Flight | Flock | Bundle | Question | Errand


class Flights:
    """The fetches of one lane."""

    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        laws: Laws,
        tickets: Tickets,
        catchup: Catchup,
        new_epoch: Callable[[], bytes],
        refill: Refill,
        fetched: Callable[[Batch, FetchedAll, float], None],
        given_up: Callable[[Asked, str], None],
    ) -> None:
        """`fetched`: what was asked, the answer, and when it was sent (ms). `given_up`: what
        will not be asked again, and why."""
        self.lane = lane
        self.refill = refill
        self.fetches = self.coalesced = self.fetch_failures = 0
        self.queue: deque[Item] = deque()
        self._box = box
        self._laws = laws
        self._tickets = tickets
        self._catchup = catchup
        self._new_epoch = new_epoch
        self._fetched = fetched
        self._given_up = given_up
        self._flights: dict[bytes, Flight | Flock] = {}
        self._open = 0
        self._careful = 0
        """So many whole answers are to come before large values are not reckoned with any more."""
        self._held = False
        """A5: what gathers waits for its budget."""
        self._parked: dict[bytes, list[Item]] = {}
        self._unsettled: dict[bytes, int] = {}
        self._unsettled_all = 0

    # -- who shares a fetch -----------------------------------------------------------

    def join(self, want: Want) -> None:
        """Wait for the key's fetch with others, or start one."""
        key = want.key
        flight = self._flights.get(key)
        if isinstance(flight, Flock):
            flight = flight.apart(key)
        if flight is not None and self._joinable(flight, want.terms):
            self.coalesced += 1
            flight.wants.append(want)
        else:
            self._flights[key] = flight = Flight(key, wants=[want])
            self.queue.append(flight)

    def is_asked(self, key: bytes) -> bool:
        """Whether there is a fetch of `key` that others may be able to join."""
        return key in self._flights

    def are_asked(self, keys: Iterable[bytes]) -> bool:
        """Whether there is one of any of them."""
        return not self._flights.keys().isdisjoint(keys)

    def start(self, keys: Sequence[bytes], ids: Sequence[int], terms: Terms) -> None:
        """`join` for `Get`s on the same terms, of different keys, of which none `is_asked`."""
        queue, at, number = self.queue, 0, len(keys)
        if not queue and number <= FETCH_BATCH:
            flock = Flock(list(keys), ids=list(ids), terms=[terms] * number)
            queue.append(flock)
            self._flights.update(dict.fromkeys(keys, flock))
            return
        while at < number:
            last = queue[-1] if queue else None
            if isinstance(last, Flock) and len(last.keys) < FETCH_BATCH:
                flock = last
            else:
                flock = Flock([])
                queue.append(flock)
            end = at + FETCH_BATCH - len(flock.keys)
            some = keys[at:end]
            flock.keys += some
            flock.ids += ids[at:end]
            flock.terms += [terms] * len(some)
            self._flights.update(dict.fromkeys(some, flock))
            at = end

    def scatter(self, flock: Flock) -> list[Flight]:
        """The flights of a flock, each by itself from now on. Tickets that are open stay so."""
        current, told, flights = self._flights, flock.told, []
        for place, key in enumerate(flock.keys):
            flight = told.get(key) or flock.tell(place)
            flights.append(flight)
            if current.get(key) is flock:
                current[key] = flight
        return flights

    def _joinable(self, flight: Flight, terms: Terms) -> bool:
        """F3: a fetch already sent is shared only with those it is surely fresh enough for."""
        if flight.sent_ms is None:
            return True
        if terms.policy.linearizable:
            return False  # K6: what was asked before may be older than what somebody has seen
        if not self._laws.join_only_fresh_flights:
            return True
        if flight.void or flight.hit_seq:
            return False
        if flight.generation != self.lane.generation or terms.skip_l1:
            return False
        if terms.min_version is not None and terms.min_version.seq > flight.asked_applied:
            return False
        return terms.bound_ms > 0 and terms.arrived_ms - flight.sent_ms <= terms.bound_ms

    def enqueue(self, item: Item) -> None:
        """It leaves with the next `flush` that has room for it."""
        self.queue.append(item)

    def run(self, errand: Errand) -> None:
        """Have it sent at the end of this step, or when what it must wait for is over."""
        self.enqueue(errand)

    def end(self, flights: Sequence[Flight]) -> None:
        """They have been answered, or given up: the next one who wants the key starts another.
        Their tickets are not closed by that."""
        current = self._flights
        for flight in flights:
            key = flight.key
            if current.get(key) is flight:
                del current[key]

    def end_all(self, flock: Flock) -> None:
        """The same for a flock of which none was told apart."""
        current = self._flights
        for key in flock.keys:
            del current[key]

    # -- what waits for a write of this node (W5) ----------------------------------------

    def _park(self, item: Flight | Bundle | Question | Errand) -> bool:
        """A write accepted with ack=none is not in Redis yet: its node's readers wait for it."""
        for key in _keys(item):
            if key in self._unsettled:
                self._parked.setdefault(key, []).append(item)
                return True
        return False

    def unsettle(self, key: bytes) -> None:
        """A write to `key` is accepted: nothing is asked about it until `resettle`."""
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
            self.enqueue(item)

    # -- sending ----------------------------------------------------------------------

    @property
    def sendable(self) -> bool:
        most = CAREFUL_OPEN if self._careful else FETCHES_OPEN
        may = self._open < most and not self._unsettled_all and not self._held
        return may and bool(self.queue)

    def on_dropped(self, entries: int) -> None:
        """A5: so many entries are gone: what is asked for again leaves on a budget."""
        self.refill.dropped(entries, self._box.now_ms)

    def flush(self) -> None:
        """Send what has gathered; called at the end of every step."""
        while self.sendable:
            due_ms = self.refill.due_ms(self._box.now_ms)
            if due_ms > self._box.now_ms:
                self._held = True
                self._box.timers.at(due_ms, self._release)
                return
            batch, is_one = self._next_batch()
            step = 0 if is_one else 1 if self._careful else STEP
            if isinstance(batch, Flock):
                self.refill.fetching(len(batch.keys), self._box.now_ms)
                batch.sent_ms = self._box.now_ms
                self._tickets.admit_all(batch)
                self._send(batch, tuple(batch.keys), step)
            elif batch:
                self.refill.fetching(len(batch), self._box.now_ms)
                flights = [item for item in batch if isinstance(item, Flight)]
                if 0 < len(flights) < len(batch):
                    batch.sort(key=lambda item: item.__class__ is Question)
                for flight in flights:
                    flight.sent_ms = self._box.now_ms
                self._tickets.admit(*flights)
                items = [item.key if isinstance(item, Flight) else item.query for item in batch]
                self._send(batch, tuple(items), step)

    def _next_batch(self) -> tuple[Batch, bool]:
        """What leaves together: the first of the queue, except what is parked; and whether it has
        to be read as of one moment."""
        queue: deque[Item] = self.queue
        first = queue[0]
        if (
            isinstance(first, Flock)
            and (len(first.keys) >= FETCH_BATCH or len(queue) == 1)
            and not (first.told or self._unsettled)
        ):
            queue.popleft()
            return first, False
        batch: list[Asked] = []
        while queue and len(batch) < FETCH_BATCH:
            if isinstance(queue[0], Bundle) and batch:
                break
            item = queue.popleft()
            if isinstance(item, Flock):
                queue.extendleft(reversed(self.scatter(item)))
                continue
            if self._unsettled and self._park(item):
                continue
            if isinstance(item, Flight) or item.__class__ is Question:
                batch.append(item)
            elif isinstance(item, Bundle):
                return list(item.flights), True  # never split, nor shared
            elif isinstance(item, Errand):
                item.send()
        return batch, False

    def _release(self) -> None:
        """A5: the budget allows more; it is sent at the end of this step, or of this turn."""
        self._held = False

    def _send(self, batch: Batch, items: tuple[bytes | Query, ...], step: int) -> None:
        self._open += 1
        self.fetches += 1
        sent_ms = self._box.now_ms
        reliance, generation = self.lane.reliance, self.lane.generation

        def answered(answer: FetchedAll | Failed) -> None:
            self._open -= 1
            if isinstance(answer, Failed):
                self._on_failed(batch, answer)
            else:
                if generation == self.lane.generation:
                    self.suspect(answer.lineage, reliance)
                read = batch
                if len(answer.results) < len(items):
                    read = self._read_of(batch, len(answer.results))
                    self._careful = CAREFUL_FETCHES
                elif self._careful:
                    self._careful -= 1
                self._fetched(read, answer, sent_ms)

        number = self._box.new_call_id(answered)
        self._box.emit(Fetch(number, self.lane.index, self._new_epoch(), items, step))

    def _read_of(self, batch: Batch, read: int) -> Batch:
        """The first `read` of a batch; the others are asked for again, before all else."""
        items: list[Asked] = [*self.scatter(batch)] if isinstance(batch, Flock) else batch
        rest = items[read:]
        for item in rest:
            if isinstance(item, Flight):
                self._tickets.close(item)
                item.sent_ms = None
        self.queue.extendleft(reversed(rest))
        return items[:read]

    def suspect(self, lineage: Lineage, reliance: int) -> None:
        """A fetch that is not of this chain proves nothing, but it is a reason to probe."""
        lane = self.lane
        if lineage.seq < reliance or lane.contradicts(lineage, self._laws):
            if self._laws.no_way_back:
                lane.unprove()  # who sees this answer must not be shown an older state by a hit
            self._catchup.probes.request()
        elif lineage.seq > lane.head:
            lane.head = lineage.seq
            self._catchup.expect_bus()

    def _on_failed(self, batch: Batch, answer: Failed) -> None:
        self.fetch_failures += 1
        if answer.failure == Failure.LOST:
            self._careful = CAREFUL_FETCHES  # it may have been too large to arrive in time
        for item in self.scatter(batch) if isinstance(batch, Flock) else batch:
            item.tries += 1
            again = answer.failure == Failure.LOST and item.tries < FETCH_TRIES
            if not again:
                self._given_up(item, answer.detail)
                continue
            if isinstance(item, Flight):
                self._tickets.close(item)
                item.sent_ms = None
            self.queue.append(item)


def _keys(item: Flight | Bundle | Question | Errand) -> tuple[bytes, ...]:
    if isinstance(item, Flight | Errand):
        return (item.key,)
    if isinstance(item, Question):
        return item.query.keys
    return tuple(flight.key for flight in item.flights)
