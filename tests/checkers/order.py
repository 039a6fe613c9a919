"""Which write came before which, as far as the history proves it.

Each thing that set a key to a value is an `Event` with an interval `[lo, hi]` in
which Redis must have applied it. The interval starts as the operation's own and is
narrowed by everything that is certain: a value was applied before the first read
that saw it had returned; sequence numbers of one lineage grow with time, over all
keys of the lane. `a` *precedes* `b` for certain iff their sequence numbers say so or
`a.hi < b.lo`; in every other case nothing is known, and no checker may accuse.

A read of a value names its event; a read of absence may have seen any of several
(`Order.candidates`), and is wrong only if all of them are impossible. After a loss
of data (`Kind.LOSS`) any older value may be back: the loss is one more candidate.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.checkers.history import (
    MAKES_ABSENT,
    SETS,
    History,
    KeyRead,
    Kind,
    Operation,
    Outcome,
)

NEVER: Final = float("-inf")
FOREVER: Final = float("inf")
EXPIRY_SLACK_NS: Final = 100_000_000
"""How late after its time an expiry may still take effect in Redis (its clock ticks)."""

Lineage = tuple[int, str]
"""(era, epoch): eras are separated by losses, since those may issue a number twice."""


@dataclass(slots=True, eq=False)
class Event:
    """One thing that set `key` to `value` (None: absent)."""

    key: str
    value: str | None
    operation: Operation | None
    """None: the initial state."""
    lo: float
    hi: float
    definite: bool
    """Surely applied. Else it may have been, or may yet be, or never."""
    lineage: Lineage | None = None
    seq: int = 0

    def precedes(self, other: Event) -> bool:
        """Whether it was certainly applied before `other`."""
        if self.hi < other.lo:
            return True
        return self.lineage is not None and self.lineage == other.lineage and self.seq < other.seq


@dataclass(slots=True)
class Floor:
    """The newest state that somebody must not go behind: a set of events, summarised."""

    lo: float = NEVER
    by: Event | None = None
    sequences: dict[Lineage, Event] = field(default_factory=dict)

    def raise_to(self, event: Event) -> None:
        """Nothing that certainly precedes `event` may be seen any more."""
        if event.lo > self.lo:
            self.lo, self.by = event.lo, event
        if event.lineage is not None:
            known = self.sequences.get(event.lineage)
            if known is None or known.seq < event.seq:
                self.sequences[event.lineage] = event

    def raised_to(self, event: Event) -> Floor:
        """A copy, raised."""
        floor = Floor(self.lo, self.by, dict(self.sequences))
        floor.raise_to(event)
        return floor

    def above(self, event: Event) -> Event | None:
        """The event of this floor that `event` certainly precedes, if there is one."""
        if event.lineage is not None:
            known = self.sequences.get(event.lineage)
            if known is not None and event.seq < known.seq:
                return known
        return self.by if event.hi < self.lo else None


@dataclass(slots=True)
class Timeline:
    """Everything that happened to one key."""

    key: str
    events: list[Event] = field(default_factory=list)
    by_value: dict[str, Event] = field(default_factory=dict)
    reads: list[KeyRead] = field(default_factory=list)
    _absent: list[Event] = field(default_factory=list)
    """Makers of absence with a known latest time, by `lo`."""
    _absent_hi: list[float] = field(default_factory=list)
    """Largest `hi` among the first n+1 of them."""
    _absent_open: list[Event] = field(default_factory=list)
    """Makers of absence that may take effect at any later time."""

    def add(self, event: Event) -> None:
        self.events.append(event)
        if event.value is not None:
            self.by_value[event.value] = event

    def index_absences(self) -> None:
        absent = sorted((e for e in self.events if e.value is None), key=lambda e: e.lo)
        self._absent = [e for e in absent if e.hi < FOREVER]
        self._absent_open = [e for e in absent if e.hi == FOREVER]
        highest = NEVER
        for event in self._absent:
            highest = max(highest, event.hi)
            self._absent_hi.append(highest)

    def absences(self, until: float, floor_lo: float) -> Iterator[Event]:
        """Makers of absence that may be seen by a read that ended at `until`, latest first,
        without those whose `hi` is below `floor_lo`."""
        yield from (e for e in self._absent_open if e.lo <= until)
        place = bisect.bisect_right(self._absent, until, key=lambda e: e.lo) - 1
        while place >= 0 and self._absent_hi[place] >= floor_lo:
            if self._absent[place].hi >= floor_lo:
                yield self._absent[place]
            place -= 1


class Order:
    """The proven order of a whole history, key by key."""

    def __init__(self, history: History) -> None:
        self.history = history
        ended = [op for op in history.operations if op.kind == Kind.LOSS]
        self.losses: list[Event] = [
            Event("*", None, op, op.start_ns, op.end, definite=True)
            for op in sorted(ended, key=lambda op: op.start_ns)
        ]
        self.timelines: dict[str, Timeline] = {}
        self._build()
        self._observe()
        self._narrow_by_sequence()
        self._add_expiries()
        for timeline in self.timelines.values():
            timeline.index_absences()

    # -- reading it ------------------------------------------------------------------

    def candidates(self, read: KeyRead, floor_lo: float = NEVER) -> Iterator[Event]:
        """The events this read may have seen, without absences that end before `floor_lo`.

        Empty for a value that nobody can have written by then (see `values`).
        """
        timeline = self.timelines[read.key]
        until = read.operation.end
        if read.value is None:
            yield from timeline.absences(until, floor_lo)
            yield from (loss for loss in self.losses if loss.lo <= until)
            return
        event = timeline.by_value.get(read.value)
        if event is None or event.lo > until:
            return
        yield event
        for loss in self.losses:
            if event.lo <= loss.hi and loss.lo <= until:
                yield loss

    def behind(self, read: KeyRead, floor: Floor) -> tuple[Event | None, Event] | None:
        """None when this read may be at or above `floor`; else what it saw and what it missed.

        What it saw is None when it saw an absence that is older than every maker of one.
        """
        found: tuple[Event | None, Event] | None = None
        for event in self.candidates(read, floor.lo):
            newer = floor.above(event)
            if newer is None:
                return None
            found = found or (event, newer)
        if found is None and floor.by is not None and read.value is None:
            oldest = next(self.candidates(read), None)
            return (oldest, floor.by) if oldest is not None else None
        return found

    def era(self, start: float, end: float) -> int | None:
        """How many losses were over before `start`; None when one overlaps the interval."""
        era = 0
        for loss in self.losses:
            if loss.hi < start:
                era += 1
            elif loss.lo <= end:
                return None
        return era

    # -- building it -----------------------------------------------------------------

    def _build(self) -> None:
        operations = self.history.operations
        keys = dict.fromkeys(self.history.initial)
        for op in operations:
            if op.kind != Kind.INCR:
                keys.update(dict.fromkeys(op.keys))
        for key in keys:
            timeline = self.timelines[key] = Timeline(key)
            value = self.history.initial.get(key)
            timeline.add(Event(key, value, None, NEVER, NEVER, definite=True))
        for op in operations:
            if op.outcome == Outcome.FAIL and op.kind not in SETS:
                continue
            if op.kind in SETS:
                self._add(op, zip(op.keys, op.values, strict=True))
            elif op.kind in MAKES_ABSENT:
                self._add(op, ((key, None) for key in op.keys))
            elif op.kind == Kind.FLUSH:
                self._add(op, ((key, None) for key in op.keys or keys))
        for read in self.history.reads():
            self.timelines[read.key].reads.append(read)

    def _add(self, op: Operation, items: Iterable[tuple[str, str | None]]) -> None:
        # With ack=none the answer comes before the write: it is as open as an unanswered one.
        applied = op.outcome == Outcome.OK and op.level != "none"
        hi = op.end if applied else FOREVER
        lineage: Lineage | None = None
        seq = 0
        epoch, colon, digits = op.version.rpartition(":")
        if applied and colon:
            era = self.era(op.start_ns, hi)
            if era is not None:
                lineage, seq = (era, epoch), int(digits)
        for key, value in items:
            self.timelines[key].add(Event(key, value, op, op.start_ns, hi, applied, lineage, seq))

    def _observe(self) -> None:
        """A value that was read had been applied before that read returned."""
        for timeline in self.timelines.values():
            for read in timeline.reads:
                if read.value is not None and (event := timeline.by_value.get(read.value)):
                    event.hi = min(event.hi, read.operation.end)
                    event.definite = True

    def _narrow_by_sequence(self) -> None:
        numbered: dict[Lineage, list[Event]] = {}
        for timeline in self.timelines.values():
            for event in timeline.events:
                if event.lineage is not None:
                    numbered.setdefault(event.lineage, []).append(event)
        for events in numbered.values():
            events.sort(key=lambda e: e.seq)
            lo = NEVER
            for event in events:
                lo = event.lo = max(event.lo, lo)
            hi = FOREVER
            for event in reversed(events):
                hi = event.hi = min(event.hi, hi)

    def _add_expiries(self) -> None:
        for timeline in self.timelines.values():
            for event in list(timeline.events):
                op = event.operation
                if op is not None and op.ttl_ms is not None and event.value is not None:
                    lo = op.start_ns + op.ttl_ms * 1_000_000
                    hi = event.hi + op.ttl_ms * 1_000_000 + EXPIRY_SLACK_NS
                    timeline.add(Event(event.key, None, op, lo, hi, definite=False))
