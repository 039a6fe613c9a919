"""How old an answer may be: bounded(B), `ack=all`, and the nines.

**bounded(B)**: a read begun more than B after a write was committed sees that write
or a newer one. Commit is taken as the earliest time by which the write had surely
been applied (it returned, or its value was read): a node that proves itself current
up to B ago has seen everything committed before that, returned or not.
**ack=all**: a read begun after such a write returned, its level reached, sees it or
a newer one: staleness 0, on every node.
**nines(M)**: the share of writes after which no node answered anything older once M
had passed. Reported, not judged.

An answer that is marked stale promises nothing and is not checked.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.checkers.history import History, KeyRead, Outcome
from tests.checkers.order import Event, Floor, Order, Timeline
from tests.checkers.verdict import Verdict

NS_PER_MS = 1_000_000


def bounded(
    history: History,
    bound_ms: float | None = None,
    margin_ms: float = 0.0,
    order: Order | None = None,
) -> Verdict:
    """Check every read against its own bound, or `bound_ms`, or the history's.

    `margin_ms` is added to each bound. After a loss of data, all answers that are
    still from before it must, once B has passed, agree with each other.
    """
    order = order or Order(history)
    default_ms = history.bound_ms if bound_ms is None else bound_ms
    verdict = Verdict("bounded")

    def allowance_ns(read: KeyRead) -> float:
        asked_ms = read.operation.max_staleness_ms
        return ((default_ms if asked_ms is None else asked_ms) + margin_ms) * NS_PER_MS

    for timeline in order.timelines.values():
        duties = _Duties((e.hi, e) for e in timeline.events if e.definite)
        for read in timeline.reads:
            if read.operation.stale:
                continue
            verdict.checked += 1
            found = order.behind(read, duties.at(read.operation.start_ns - allowance_ns(read)))
            if found is not None:
                _tell(verdict, read, found)
        _agree_after_loss(verdict, order, timeline, allowance_ns)
    return verdict


def acknowledged_by_all(history: History, order: Order | None = None) -> Verdict:
    """Check that nobody reads anything older than an `ack=all` write that has returned.

    Only writes whose level was reached count (each node acknowledged, or fenced by time).
    """
    order = order or Order(history)
    verdict = Verdict("ack=all")
    for timeline in order.timelines.values():
        duties = _Duties(
            (e.operation.end, e)
            for e in timeline.events
            if e.definite  # an expiry belongs to its write, but is not certain
            and e.operation is not None
            and e.operation.level == "all"
            and e.operation.satisfied
            and e.operation.outcome == Outcome.OK
        )
        if not duties.times:
            continue
        for read in timeline.reads:
            if read.operation.stale or read.operation.start_ns <= duties.times[0]:
                continue
            verdict.checked += 1
            found = order.behind(read, duties.at(read.operation.start_ns))
            if found is not None:
                _tell(verdict, read, found)
    return verdict


@dataclass(frozen=True)
class Nines:
    """Of `writes` whose spread was watched, `within[M]` were visible everywhere M ms after
    their return: no answer begun later than that was older."""

    writes: int
    within: dict[float, float]
    """M in ms -> share, 1.0 being all."""
    slowest_ms: float


def nines(
    history: History,
    limits_ms: Sequence[float] = (0, 1, 10, 100, 1000, 10_000, 60_000),
    order: Order | None = None,
) -> Nines:
    """How fast writes became visible everywhere, in so far as reads were there to see it."""
    order = order or Order(history)
    lags_ms: list[float] = []
    for timeline in order.timelines.values():
        events = sorted((e for e in timeline.events if _counts(e)), key=_returned)
        duties = _Duties((_returned(e), e) for e in events)
        lag_ns = [0.0] * len(events)
        for read in timeline.reads:
            start = read.operation.start_ns
            place = bisect.bisect_left(duties.times, start) - 1
            while place >= 0 and order.behind(read, duties.floors[place]) is not None:
                single = Floor()
                single.raise_to(events[place])
                if order.behind(read, single) is not None:
                    lag_ns[place] = max(lag_ns[place], start - duties.times[place])
                place -= 1
        lags_ms += [lag / NS_PER_MS for lag in lag_ns]
    total = len(lags_ms)
    within = {
        limit: sum(lag <= limit for lag in lags_ms) / total if total else 1.0 for limit in limits_ms
    }
    return Nines(total, within, max(lags_ms, default=0.0))


class _Duties:
    """Events and the time after which each must be seen; the floor at any time."""

    def __init__(self, due: Iterable[tuple[float, Event]]) -> None:
        self.times: list[float] = []
        self.floors: list[Floor] = []
        floor = Floor()
        for time_ns, event in sorted(due, key=lambda item: item[0]):
            floor = floor.raised_to(event)
            self.times.append(time_ns)
            self.floors.append(floor)

    def at(self, time_ns: float) -> Floor:
        """What must be seen by a read that may be no older than `time_ns`."""
        place = bisect.bisect_left(self.times, time_ns) - 1
        return self.floors[place] if place >= 0 else Floor()


def _agree_after_loss(
    verdict: Verdict,
    order: Order,
    timeline: Timeline,
    allowance_ns: Callable[[KeyRead], float],
) -> None:
    """After a loss each key has one restored value: every answer from before the loss that is
    given later than B after it must be that one. This is what catches a node that mistakes a
    fork of the log for what it knows and keeps a lost value for ever."""
    for place, loss in enumerate(order.losses):
        following = order.losses[place + 1].lo if place + 1 < len(order.losses) else float("inf")
        first: KeyRead | None = None
        for read in timeline.reads:
            op = read.operation
            if op.stale or op.start_ns <= loss.hi + allowance_ns(read) or op.end >= following:
                continue
            if not _only_from_before(order, read, loss):
                continue
            if first is None:
                first = read
            elif first.value != read.value:
                verdict.add(
                    f"{read.key}: after the loss one answer is {first.value!r}, another "
                    f"{read.value!r}; at most one of them can have been restored",
                    loss.operation,
                    first.operation,
                    op,
                )
                break


def _only_from_before(order: Order, read: KeyRead, loss: Event) -> bool:
    if read.value is not None:
        event = order.timelines[read.key].by_value.get(read.value)
        return event is not None and event.hi < loss.lo
    return all(
        event.hi < loss.lo or event is loss or event in order.losses
        for event in order.candidates(read)
    )


def _counts(event: Event) -> bool:
    op = event.operation
    return event.definite and op is not None and op.outcome == Outcome.OK and op.level != "none"


def _returned(event: Event) -> float:
    assert event.operation is not None
    return event.operation.end


def _tell(verdict: Verdict, read: KeyRead, found: tuple[Event | None, Event]) -> None:
    seen, missed = found
    age_ms = (read.operation.start_ns - missed.hi) / NS_PER_MS
    verdict.add(
        f"{read.key}: read {_name(read.value)}, though {_name(missed.value)} was committed "
        f"{age_ms:.3f} ms before the read began",
        seen.operation if seen else None,
        missed.operation,
        read.operation,
    )


def _name(value: str | None) -> str:
    return "absent" if value is None else repr(value)
