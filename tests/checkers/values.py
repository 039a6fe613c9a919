"""The ground the other promises stand on: every answer was written, and versions tell the truth.

`written`: a read shows only what somebody wrote, not before it was sent, and never
what was refused. `versions`: no two mutations share a version, versions grow with
real time, and a value read *as of* a version is what the log says for it.
"""

from __future__ import annotations

import bisect

from tests.checkers.history import History, KeyRead, Kind, Operation, Outcome
from tests.checkers.order import Event, Lineage, Order, Timeline
from tests.checkers.verdict import Verdict


def written(history: History, order: Order | None = None) -> Verdict:
    """Check that every value read was written, in time, by a write that was not refused."""
    order = order or Order(history)
    verdict = Verdict("written")
    for timeline in order.timelines.values():
        for read in timeline.reads:
            verdict.checked += 1
            event = timeline.by_value.get(read.value) if read.value is not None else None
            op = event.operation if event else None
            if next(order.candidates(read), None) is None:
                why = "before it was written" if event else "which nobody wrote"
                if read.value is None:
                    why = "though nothing had removed it"
                verdict.add(f"{read.key}: read {read.value!r}, {why}", op, read.operation)
            elif op is not None and op.outcome == Outcome.FAIL:
                verdict.add(
                    f"{read.key}: read {read.value!r}, whose write had been refused",
                    op,
                    read.operation,
                )
    return verdict


def versions(history: History, order: Order | None = None) -> Verdict:
    """Check the versions that writes and reads reported against each other and real time."""
    order = order or Order(history)
    verdict = Verdict("versions")
    _check_writes(verdict, order, history)
    for timeline in order.timelines.values():
        numbered: dict[Lineage, list[Event]] = {}
        for event in timeline.events:
            if event.lineage is not None:
                numbered.setdefault(event.lineage, []).append(event)
        for events in numbered.values():
            events.sort(key=lambda e: e.seq)
        for read in timeline.reads:
            _check_read(verdict, order, timeline, numbered, read)
    return verdict


def _check_writes(verdict: Verdict, order: Order, history: History) -> None:
    numbered: dict[Lineage, dict[int, Operation]] = {}
    for op in history.operations:
        epoch, colon, digits = op.version.rpartition(":")
        if op.is_read or not colon or op.outcome != Outcome.OK or op.kind == Kind.LOSS:
            continue
        era = order.era(op.start_ns, op.end)
        if era is None:
            continue
        verdict.checked += 1
        known = numbered.setdefault((era, epoch), {}).setdefault(int(digits), op)
        if known is not op:
            verdict.add(f"two mutations have the version {op.version}", known, op)
    for operations in numbered.values():
        latest: Operation | None = None
        for _, op in sorted(operations.items()):
            if latest is not None and op.end < latest.start_ns:
                verdict.add("a later mutation has the smaller version", latest, op)
            if latest is None or op.start_ns > latest.start_ns:
                latest = op


def _check_read(
    verdict: Verdict,
    order: Order,
    timeline: Timeline,
    numbered: dict[Lineage, list[Event]],
    read: KeyRead,
) -> None:
    op = read.operation
    epoch, colon, digits = op.version.rpartition(":")
    # After a loss an entry from before it may still be served for a while, and its number
    # may be issued a second time: only what ended before the first loss can be judged.
    if not colon or op.stale or len(op.keys) != 1 or order.era(op.start_ns, op.end) != 0:
        return
    lineage, as_of = (0, epoch), int(digits)
    events = numbered.get(lineage, [])
    place = bisect.bisect_right(events, as_of, key=lambda e: e.seq)
    last = events[place - 1] if place else None
    verdict.checked += 1
    seen = timeline.by_value.get(read.value) if read.value is not None else None
    if seen is not None and seen.lineage == lineage and seen.seq > as_of:
        verdict.add(
            f"{read.key}: read as of {op.version}, a value of version {seen.seq}",
            seen.operation,
            op,
        )
    elif last is not None and _older(order, read, seen, last):
        verdict.add(
            f"{read.key}: read as of {op.version}, but not what version {last.seq} had written",
            seen.operation if seen else None,
            last.operation,
            op,
        )


def _older(order: Order, read: KeyRead, seen: Event | None, last: Event) -> bool:
    """Whether what was read certainly precedes `last`, the newest write up to its `as_of`."""
    if read.value is not None:
        return seen is not None and seen.precedes(last)
    return last.value is not None and all(e.precedes(last) for e in order.candidates(read))
