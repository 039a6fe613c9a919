"""Snapshot: a multi-get that asks for one instant shows no half of a multi-key write.

Writers set several keys to values of one operation. A snapshot that shows part of
such a write must show, for each of its other keys, that write or something newer;
and two multi-key writes that both cover two keys cannot be seen one on each.
"""

from __future__ import annotations

from tests.checkers.history import READS, SETS, History, KeyRead, Operation, Outcome
from tests.checkers.order import Event, Floor, Order
from tests.checkers.verdict import Verdict


def snapshot(history: History, order: Order | None = None) -> Verdict:
    """Check every multi-get that is marked as a snapshot."""
    order = order or Order(history)
    verdict = Verdict("snapshot")
    for op in history.operations:
        if op.kind in READS and op.snapshot and op.outcome == Outcome.OK and not op.stale:
            verdict.checked += 1
            _check(verdict, order, op)
    return verdict


def _check(verdict: Verdict, order: Order, op: Operation) -> None:
    reads = {key: KeyRead(op, key, value) for key, value in zip(op.keys, op.values, strict=True)}
    writers: dict[str, Operation] = {}
    for key, read in reads.items():
        event = order.timelines[key].by_value.get(read.value) if read.value is not None else None
        # After a loss an old value may be back on one key of its write only.
        if event is None or event.operation is None or event.operation.kind not in SETS:
            continue
        if not any(loss.hi >= event.lo and loss.lo <= op.end for loss in order.losses):
            writers[key] = event.operation
    for key, writer in writers.items():
        for other in writer.keys:
            if other == key or other not in reads or writers.get(other) is writer:
                continue
            rival = writers.get(other)
            if rival is not None and key in rival.keys:
                _tell(verdict, op, key, writer, other, rival)
                return
            floor = Floor()
            floor.raise_to(_event(order, other, writer))
            found = order.behind(reads[other], floor)
            if found is not None:
                _tell(verdict, op, key, writer, other, found[0].operation if found[0] else None)
                return


def _event(order: Order, key: str, writer: Operation) -> Event:
    value = writer.values[writer.keys.index(key)]
    assert value is not None
    return order.timelines[key].by_value[value]


def _tell(
    verdict: Verdict,
    op: Operation,
    key: str,
    writer: Operation,
    other: str,
    rival: Operation | None,
) -> None:
    verdict.add(
        f"one answer shows {key} of a multi-key write, but {other} from before it",
        writer,
        rival,
        op,
    )
