"""All checkers over one history: what each level promises, judged in one go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from tests.checkers.counter import counter
from tests.checkers.eventual import eventual
from tests.checkers.history import History
from tests.checkers.linearizable import linearizable
from tests.checkers.order import Order
from tests.checkers.session import session
from tests.checkers.snapshot import snapshot
from tests.checkers.staleness import acknowledged_by_all, bounded
from tests.checkers.values import versions, written
from tests.checkers.verdict import Verdict

LINEARIZABLE_PREFIX = "lin:"
"""Keys of the linearizable namespace, by the convention of `tests/cluster/steps.py`."""


def check_all(
    history: History,
    *,
    margin_ms: float = 0.0,
    counters: Mapping[str, int] | None = None,
    skip: Collection[str] = (),
) -> list[Verdict]:
    """One verdict a level, those in `skip` (by name) left out.

    `counters`: the final value of each key that was incremented.
    """
    order = Order(history)
    checks: dict[str, Callable[[], Verdict]] = {
        "written": lambda: written(history, order),
        "versions": lambda: versions(history, order),
        "eventual": lambda: eventual(history, order),
        "bounded": lambda: bounded(history, margin_ms=margin_ms, order=order),
        "session": lambda: session(history, order),
        "ack=all": lambda: acknowledged_by_all(history, order),
        "linearizable": lambda: linearizable(
            history, keys=lambda key: key.startswith(LINEARIZABLE_PREFIX)
        ),
        "linearizable, B=0": lambda: linearizable(
            history, reads=lambda op: op.max_staleness_ms == 0
        ),
        "snapshot": lambda: snapshot(history, order),
        "counter": lambda: counter(history, counters or {}),
    }
    verdicts = []
    for name, check in checks.items():
        if name not in skip:
            verdict = check()
            verdict.level = name
            verdicts.append(verdict)
    return verdicts
