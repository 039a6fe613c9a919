"""Eventual: once writes have stopped and faults are healed, all nodes and Redis agree.

The final reads (`Operation.final`) ask every node, and Redis itself (node `redis`),
for every key. Besides agreeing, what is left must not be older than what had been
acknowledged: that would be a lost update.
"""

from __future__ import annotations

from tests.checkers.history import History, KeyRead
from tests.checkers.order import Order
from tests.checkers.staleness import bounded
from tests.checkers.verdict import Verdict

REDIS = "redis"


def eventual(history: History, order: Order | None = None) -> Verdict:
    """Check the final reads. A history without final reads of Redis is itself a violation."""
    order = order or Order(history)
    verdict = Verdict("eventual")
    finals: dict[str, list[KeyRead]] = {}
    for read in history.reads():
        if read.operation.final:
            finals.setdefault(read.key, []).append(read)
    if not finals:
        verdict.add("nothing was read at the end: nothing is proved")
    for key, reads in finals.items():
        truth = next((read for read in reads if read.operation.node == REDIS), None)
        if truth is None:
            verdict.add(f"{key}: Redis itself was not asked at the end")
            continue
        for read in reads:
            verdict.checked += 1
            if read.value != truth.value:
                verdict.add(
                    f"{key}: {read.operation.node} answers {read.value!r} for good, "
                    f"Redis holds {truth.value!r}",
                    truth.operation,
                    read.operation,
                )
    lost = bounded(
        history.where(lambda op: not op.is_read or (op.final and op.node == REDIS)),
        bound_ms=0,
    )
    for violation in lost:
        verdict.add(f"lost update: {violation.text}", *violation.operations)
    return verdict
