"""Cache-aside, without its herd and without its stale fill: the machine behind `get_or_load`.

    read ── fresh ──────────────────────────────► answer
      │  └─ stale, within swr ── refresh behind ─► answer, marked stale
      └─ not there ── board (one a process) ── lease (one a cluster)
                                                 │ value: somebody else's ──► answer
                                                 │ neither: wait, woken by the fill
                                                 └ token: load ── fill ─────► answer
                                                            │       └ LOST: once more, then
                                                            │               answer, unstored
                                                            └ fails: token back at once;
                                                              stale if allowed, else its error

A fill is refused when the key (or a tag of it, a prefix, everything) was invalidated after
its token was given. So a database read from before an update is never cached after it. What
was refused may still be *answered*: its call began before the update was over. It is loaded
once more all the same, since a fresh answer costs one load and helps those who wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar, cast

from coherenced.client.arguments import Key, label_list, number
from coherenced.client.core import Calls
from coherenced.client.counters import Counters
from coherenced.client.flights import Flight
from coherenced.client.freshness import Loaded, LoadPolicy, State, Unkept, due_s, state_of
from coherenced.client.leases import (
    Filling,
    Found,
    Granted,
    Lease,
    fills,
    is_refused,
    lease,
    releases,
)
from coherenced.client.replies import Entry, Version
from coherenced.client.steps import Await, Background, Board, Call, Machine
from coherenced.client.stream import Request
from coherenced.client.values import ABSENT, NOTHING, RAW
from coherenced.errors import CoherencedError, LeaseLost, NotAcknowledged, Unreachable, UsageError

T = TypeVar("T")

Tags = Iterable[Key] | Callable[[Any], Iterable[Key]]
"""The tags of a value, or what makes them from it."""

MAX_REMEMBERED: Final = 10_000
"""Keys of which it is remembered how long a load takes, or that it failed."""

_SHORTEST_S: Final = 0.001
_UNCHANGING: Final = frozenset({str, bytes, int, float, bool, type(None)})


class Job(NamedTuple):
    """One call of `get_or_load`."""

    name: bytes
    loader: Callable[[], Any]
    policy: LoadPolicy
    tags: Tags = ()


class _Unavailable(Exception):
    """The cache cannot be reached."""

    def __init__(self, reason: Unreachable) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Brought(NamedTuple):
    """What a loader returned, and as what it is to be stored; `stored_s` 0: not at all."""

    value: Any
    stored: bytes
    stored_s: float
    tags: list[bytes]


class Loads:
    """The machines of one client, and what it remembers of its loads."""

    def __init__(
        self,
        calls: Calls,
        policy: LoadPolicy,
        clock: Callable[[], float],
        random: Callable[[], float],
        loads_when_unavailable: bool,
    ) -> None:
        self.policy = policy.checked()
        self.counters = Counters()
        self._calls = calls
        self._is_raw = calls.serializer is RAW
        self._clock = clock
        self._random = random
        self._loads_when_unavailable = loads_when_unavailable
        self._load_s: dict[bytes, float] = {}
        self._failed_until: dict[bytes, float] = {}

    def entry(self, job: Job, *, is_missing: bool = False) -> Machine[Entry]:
        """The value of the job's key, from wherever it has to come.

        `is_missing`: the caller has just looked, and it is not there.
        """
        until = self._clock() + job.policy.wait
        try:
            while True:
                answer, fallback = None, None
                if not is_missing:
                    answer, fallback = yield from self._look(job)
                if answer is None:
                    answer = yield from self._fly(job, fallback, until)
                if answer is not None:
                    return answer
                is_missing = False
        except _Unavailable as error:
            if not self._loads_when_unavailable:
                raise error.reason from None
        self.counters.add("unavailable")
        return (yield from self._alone(job, None))

    def _look(self, job: Job) -> Machine[tuple[Entry | None, Entry | None]]:
        """What is there: an answer, or else what may be answered if the loader fails."""
        policy = job.policy
        entry: Entry = yield from self._ask(self._calls.get_entry(job.name))
        if not entry.found and entry.expires_in_ms is None:
            return None, None  # what is known not to exist has an end
        state = self._state(job, entry)
        if state is State.FRESH:
            return self._answer(entry), None
        if state is not State.LAST_RESORT:
            yield from self._behind(job, entry)
            return self._answer(entry, stale=state is State.STALE), None
        if _left_s(entry) <= policy.grace - policy.stale_if_error:
            return None, None
        if self._is_left_alone(job.name):
            return self._answer(entry, stale=True), None
        return None, entry

    def _ask(self, request: Request[T]) -> Machine[T]:
        """The cache's answer; its being out of reach told apart from the loader's own errors."""
        try:
            answer: T = yield request
        except Unreachable as error:
            raise _Unavailable(error) from None
        return answer

    # -- one a process ------------------------------------------------------------------

    def _fly(self, job: Job, fallback: Entry | None, until: float) -> Machine[Entry | None]:
        """Load, or wait for who does in this process; None: read again."""
        flight, flies = yield Board(job.name)
        wait_s = max(0.0, until - self._clock())
        soft_s = job.policy.soft_timeout
        if soft_s is not None and fallback is not None:
            wait_s = min(wait_s, soft_s)
            # Led by another, so that this caller can leave it.
            led = flies and (yield Background(self._lead_behind(job, flight, until)))
        else:
            led = False
        if flies and not led:
            try:
                return (yield from self._lead(job, flight, fallback, until))
            finally:
                flight.land()
        if not flies:
            self.counters.add("shared")
        landed = yield Await(flight, wait_s)
        if not landed:
            if led:
                self.counters.add("overtime")
            return (yield from self._alone(job, fallback))
        if flight.error is not None:
            if fallback is not None and not isinstance(flight.error, Unkept):
                return self._answer(fallback, stale=True)
            raise flight.error
        if led:
            return cast(Entry | None, flight.answer)
        return None if flight.result is None else flight.result()

    def _lead_behind(self, job: Job, flight: Flight, until: float) -> Machine[None]:
        """Load for callers that wait only so long; what comes of it is left with the flight."""
        try:
            flight.answer = yield from self._lead(job, flight, None, until)
        except Exception as error:
            flight.error = error
        finally:
            flight.land()

    def _behind(self, job: Job, entry: Entry) -> Machine[None]:
        """Load anew while the caller goes on with what is there."""
        if self._is_left_alone(job.name):
            return
        flight, flies = yield Board(job.name)
        if flies:
            started = yield Background(self._refresh(job, flight, _left_s(entry)))
            if not started:
                flight.land()
                self.counters.add("refreshes_dropped")

    def _refresh(self, job: Job, flight: Flight, left_s: float) -> Machine[None]:
        refresh_s = due_s(job.policy, left_s)
        try:
            leased = yield from self._ask(lease(job.name, job.policy.lease, refresh_s=refresh_s))
            if isinstance(leased, Granted):
                self.counters.add("refreshes")
                yield from self._load(job, flight, leased.token, None)
        except Exception:
            return  # counted; the next caller is answered from what is there, or finds out
        finally:
            flight.land()

    # -- one a cluster ------------------------------------------------------------------

    def _lead(
        self, job: Job, flight: Flight, fallback: Entry | None, until: float
    ) -> Machine[Entry]:
        for is_last in (False, True):
            leased = yield from self._lease(job, until)
            if leased is None:
                return (yield from self._alone(job, fallback))
            if isinstance(leased, Found):
                # Those who wait read it again: when it was read they may not have asked yet.
                return self._found(job, leased)
            started = self._clock()
            answer, lost = yield from self._load(job, flight, leased.token, fallback)
            if not lost or is_last or self._clock() - started >= job.policy.lease:
                return answer
        raise AssertionError("unreachable")

    def _lease(self, job: Job, until: float) -> Machine[Lease]:
        """A value or a token; None when others have been loading for all the time there is."""
        policy = job.policy
        leased = yield from self._ask(lease(job.name, policy.lease, refresh_s=policy.grace))
        if leased is None:
            self.counters.add("waited")
        while leased is None:
            wait_s = until - self._clock()
            if wait_s <= _SHORTEST_S:
                return None
            leased = yield from self._ask(lease(job.name, policy.lease, wait_s, policy.grace))
        return leased

    def _found(self, job: Job, found: Found) -> Entry:
        """Loaded by somebody else, or being loaded anew by them, which makes it stale."""
        grace_ms = job.policy.grace * 1e3
        stale = bool(grace_ms) and found.left_ms is not None and found.left_ms <= grace_ms
        value = None if found.stored is None else self._calls.serializer.loads(found.stored)
        there, left_ms = value is not None, found.left_ms
        entry = Entry(value, there, found.version, "l2", found.age_ms, False, left_ms)
        return self._answer(entry, stale=stale)

    def _load(
        self, job: Job, flight: Flight, token: bytes, fallback: Entry | None
    ) -> Machine[tuple[Entry, bool]]:
        """Call the loader and store what it brings: the answer, and whether the fill was LOST."""
        try:
            brought = yield from self._bring(job)
        except GeneratorExit:
            raise
        except BaseException as error:
            yield from self._give_back(job.name, token)
            if not isinstance(error, Exception):
                raise
            flight.error = error
            if isinstance(error, Unkept):
                raise
            self._leave_alone(job)
            if fallback is None:
                raise
            return self._answer(fallback, stale=True), False
        flight.depart()
        answer = _entry(brought.value, Version())
        if brought.stored_s <= 0:
            yield from self._give_back(job.name, token)
            self.counters.add("not_stored")
            return answer, False
        grace_s = job.policy.grace
        filling = Filling(job.name, token, brought.stored, brought.stored_s, brought.tags, grace_s)
        try:
            [outcome] = yield fills([filling])
        except CoherencedError as error:
            outcome = error
        if isinstance(outcome, NotAcknowledged):
            outcome = Version(outcome.version)  # stored; who has heard of it yet, the level says
        if isinstance(outcome, CoherencedError):
            # The loader did its part: its value is answered, whatever became of the fill.
            lost = isinstance(outcome, LeaseLost)
            self.counters.add("lost" if lost else "not_stored")
            if is_refused(outcome):
                yield from self._give_back(job.name, token)
            return answer, lost
        flight.result = partial(self._for_another, brought, outcome)
        return _entry(brought.value, outcome), False

    def _for_another(self, brought: Brought, version: Version) -> Entry:
        """What was loaded, for one of those who waited: an object of its own, as all who read it
        after them are given. What one of them does to it is nothing to the others."""
        value = brought.value
        if type(value) not in _UNCHANGING:
            value = self._calls.serializer.loads(brought.stored)
        return _entry(value, version)

    def _give_back(self, name: bytes, token: bytes) -> Machine[None]:
        try:
            yield releases([(name, token)])
        except CoherencedError:
            return  # the lease ends by itself

    # -- the loader ---------------------------------------------------------------------

    def _alone(self, job: Job, fallback: Entry | None) -> Machine[Entry]:
        """Without a lease: what is there, if it may be served, else the loader's, not stored."""
        if fallback is not None:
            return self._answer(fallback, stale=True)
        brought = yield from self._bring(job)
        self.counters.add("not_stored")
        return _entry(brought.value, Version())

    def _bring(self, job: Job) -> Machine[Brought]:
        started = self._clock()
        try:
            value = yield Call(job.loader, job.policy.hard_timeout)
        except KeyError:
            if job.policy.negative_ttl is None:
                self.counters.add("load_errors")
                raise
            value = None
        except Unkept:
            raise
        except Exception:
            self.counters.add("load_errors")
            raise
        took_s = self._clock() - started
        self.counters.loaded(took_s)
        self._failed_until.pop(job.name, None)
        if job.policy.early_refresh:
            _remember(self._load_s, job.name, took_s)
        return self.brought(job, value)

    def brought(self, job: Job, value: Any) -> Brought:
        """As what a loader's result is to be stored. Raises `UsageError` for what cannot be."""
        policy, ttl_s, tags = job.policy, job.policy.ttl, [*_tags(job.tags, value)]
        if isinstance(value, Loaded):
            value, given_s, more = value
            tags = [*_tags(job.tags, value), *_tags(more, value)]
            ttl_s = ttl_s if given_s is None else given_s
        elif value is None and policy.negative_ttl is not None:
            ttl_s = policy.negative_ttl
            self.counters.add("absent")
        if not 0 <= number("a loader's ttl", ttl_s) < 1e11:
            raise UsageError(f"a loader's ttl is a number of seconds from 0, not {ttl_s!r}")
        ttl_s *= 1 - policy.jitter * self._random()
        if ttl_s == 0:
            return Brought(value, b"", 0.0, tags)
        if value is None:
            stored = ABSENT if policy.negative_ttl is None else NOTHING
        else:
            stored = self._calls.serializer.dumps(value)
        return Brought(value, stored, ttl_s + policy.grace, tags)

    # -- what is remembered ---------------------------------------------------------------

    def _state(self, job: Job, entry: Entry) -> State:
        load_s = self._load_s.get(job.name) or self.counters.average_s
        left_s = None if entry.expires_in_ms is None else entry.expires_in_ms / 1e3
        return state_of(job.policy, left_s, load_s, self._random)

    def _answer(self, entry: Entry, *, stale: bool = False) -> Entry:
        if stale:
            self.counters.add("stale_answers")
            entry = entry._replace(stale=True)
        if entry.value is None or (self._is_raw and entry.value == ABSENT):
            entry = entry._replace(value=None, found=False)
        return entry

    def _leave_alone(self, job: Job) -> None:
        _remember(self._failed_until, job.name, self._clock() + job.policy.retry_after)

    def _is_left_alone(self, name: bytes) -> bool:
        """The loader failed a moment ago: not again, while there is something to serve."""
        until = self._failed_until.get(name)
        return until is not None and self._clock() < until


def _entry(value: Any, version: Version) -> Entry:
    return Entry(value, value is not None, version, "origin", 0.0, False)


def _left_s(entry: Entry) -> float:
    return float("inf") if entry.expires_in_ms is None else entry.expires_in_ms / 1e3


def _tags(tags: Tags, value: Any) -> list[bytes]:
    return label_list("tag", tags(value) if callable(tags) else tags)


def _remember(table: dict[bytes, float], name: bytes, figure: float) -> None:
    """Bounded: the oldest is forgotten."""
    table.pop(name, None)
    while len(table) >= MAX_REMEMBERED:
        table.pop(next(iter(table)), None)
    table[name] = figure
