"""What one client may rely on: its own writes, and never going backwards.

Per session and node: a read sees the session's earlier writes to that key or newer
ones, and nothing older than an earlier read showed. Across nodes the same holds for
reads that carry a token (`min_version`). Answers marked stale promise nothing.
A write with ack=none is not counted: it may reach Redis after a later read did.
"""

from __future__ import annotations

import bisect

from tests.checkers.history import MAKES_ABSENT, READS, SETS, History, KeyRead, Operation, Outcome
from tests.checkers.order import Event, Floor, Lineage, Order
from tests.checkers.verdict import Verdict


def session(history: History, order: Order | None = None) -> Verdict:
    """Check read-your-writes and monotonic reads, per (session, node) and by token."""
    order = order or Order(history)
    verdict = Verdict("session")
    floors: dict[tuple[str, str, str], Floor] = {}
    tokens = _Tokens(order)
    events = _events_by_operation(order)
    for op in sorted(history.operations, key=lambda op: op.start_ns):
        if op.outcome != Outcome.OK:
            continue
        if op.kind in READS:
            if op.stale:
                continue
            for key, value in zip(op.keys, op.values, strict=True):
                floor = floors.setdefault((op.session, op.node, key), Floor())
                _check_read(verdict, order, KeyRead(op, key, value), floor, tokens)
        elif (op.kind in SETS or op.kind in MAKES_ABSENT) and op.level != "none":
            for event in events.get(id(op), ()):
                floors.setdefault((op.session, op.node, event.key), Floor()).raise_to(event)
    return verdict


def _check_read(
    verdict: Verdict, order: Order, read: KeyRead, floor: Floor, tokens: _Tokens
) -> None:
    verdict.checked += 1
    op = read.operation
    found = order.behind(read, floor)
    if found is not None:
        seen, newer = found
        own = newer.operation is not None and newer.operation.session == op.session
        verdict.add(
            f"{read.key}: {op.session} on {op.node} "
            + ("does not see its own write" if own else "went back behind what it had read"),
            newer.operation,
            _read_of(order, read.key, newer, op),
            seen.operation if seen else None,
            op,
        )
        return
    known = tokens.floor(read)
    if known is not None and (found := order.behind(read, known)) is not None:
        seen, newer = found
        verdict.add(
            f"{read.key}: older than its token {op.min_version}",
            newer.operation,
            seen.operation if seen else None,
            op,
        )
        return
    _raise_by_read(order, read, floor)


def _raise_by_read(order: Order, read: KeyRead, floor: Floor) -> None:
    """What was seen must not be gone behind; of several candidates only what all of them say."""
    possible = [e for e in order.candidates(read, floor.lo) if floor.above(e) is None]
    if len(possible) == 1:
        floor.raise_to(possible[0])
    elif possible:
        oldest = min(possible, key=lambda e: e.lo)
        if oldest.lo > floor.lo:
            floor.lo, floor.by = oldest.lo, oldest


def _events_by_operation(order: Order) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = {}
    for timeline in order.timelines.values():
        for event in timeline.events:
            # An expiry carries its write's operation but is not what the session wrote.
            op = event.operation
            if event.definite and op is not None and (event.value is not None or op.ttl_ms is None):
                found.setdefault(id(op), []).append(event)
    return found


def _read_of(order: Order, key: str, event: Event, before: Operation) -> Operation | None:
    """The read by which this session knew `event`, for the story."""
    return next(
        (
            read.operation
            for read in order.timelines[key].reads
            if read.operation.session == before.session
            and read.operation.start_ns < before.start_ns
            and read.value == event.value
        ),
        None,
    )


class _Tokens:
    """For a read with `min_version`: the newest event of its key at or below that version.

    Only before the first loss: after one, a number may stand for two records.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._events: dict[tuple[str, Lineage], list[Event]] = {}
        for timeline in order.timelines.values():
            for event in timeline.events:
                if event.lineage is not None and event.lineage[0] == 0:
                    self._events.setdefault((timeline.key, event.lineage), []).append(event)
        for events in self._events.values():
            events.sort(key=lambda e: e.seq)

    def floor(self, read: KeyRead) -> Floor | None:
        op = read.operation
        epoch, colon, digits = op.min_version.rpartition(":")
        if not colon or self._order.era(op.start_ns, op.end) != 0:
            return None
        events = self._events.get((read.key, (0, epoch)), [])
        place = bisect.bisect_right(events, int(digits), key=lambda e: e.seq) - 1
        if place < 0:
            return None
        floor = Floor()
        floor.raise_to(events[place])
        return floor
