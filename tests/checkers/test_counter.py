"""INCR counts exactly what was acknowledged, and at most what is indeterminate besides."""

from __future__ import annotations

from random import Random

import pytest

from tests.checkers.counter import counter
from tests.checkers.history import History, Kind, Operation, Outcome
from tests.checkers.story import tell

THREE = """
    A@n1 incr c=1 0 10
    B@n2 incr c=2 5 15
    A@n1 incr c=3 20 30
    """


@pytest.mark.parametrize(
    ("text", "final"),
    [
        (THREE, 3),
        (THREE + "A@n1 incr c=- 40 ?", 3),
        (THREE + "A@n1 incr c=- 40 ?", 4),
        (THREE + "A@n1 incr c=- 40 50 refused", 3),
        (THREE + "A@n1 incr c=- 40 50", 4),  # applied, the answer unknown
        ("A@n1 incr c=2 0 10\n B@n2 incr c=1 0 10", 2),
    ],
)
def test_kept(text: str, final: int) -> None:
    verdict = counter(tell(text), {"c": final})
    assert not verdict, verdict.story()


@pytest.mark.parametrize(
    ("text", "final", "words"),
    [
        (THREE, 2, "3 were acknowledged"),
        (THREE, 4, "3 were acknowledged"),
        (THREE + "A@n1 incr c=- 40 ?", 5, "1 more are indeterminate"),
        (THREE + "A@n1 incr c=- 40 45 refused", 4, "0 more"),
        ("A@n1 incr c=1 0 10\n B@n2 incr c=1 5 15", 2, "both answered 1"),
        ("A@n1 incr c=2 0 10\n B@n2 incr c=1 11 15", 2, "a later increment"),
        ("A@n1 incr c=- 0 10\n B@n2 incr c=1 11 15", 2, "1 had been acknowledged before"),
        ("A@n1 incr c=5 0 10", 1, "the final value is 1"),
    ],
)
def test_broken(text: str, final: int, words: str) -> None:
    verdict = counter(tell(text), {"c": final})
    assert any(words in violation.text for violation in verdict), verdict.story()


@pytest.mark.parametrize("seed", range(20))
def test_correct_runs_pass_and_one_double_count_does_not(seed: int) -> None:
    random = Random(seed)
    ops: list[Operation] = []
    instants: list[tuple[float, Operation]] = []
    for session in range(4):
        now = 0.0
        for _ in range(30):
            start, end = now, now + random.expovariate(1 / 5)
            now = end + random.expovariate(1)
            op = Operation(
                id=len(ops),
                session=f"s{session}",
                node="n",
                kind=Kind.INCR,
                keys=("c",),
                start_ns=int(start * 1e6),
                end_ns=int(end * 1e6) + 1,
                outcome=random.choice([Outcome.OK] * 8 + [Outcome.FAIL, Outcome.UNKNOWN]),
            )
            ops.append(op)
            if op.outcome == Outcome.UNKNOWN:
                op.end_ns = None
            if op.outcome == Outcome.OK or (
                op.outcome == Outcome.UNKNOWN and random.random() < 0.5
            ):
                instants.append((random.uniform(start, end), op))
    for number, (_, op) in enumerate(sorted(instants, key=lambda item: item[0]), 1):
        op.values = (str(number),) if op.outcome == Outcome.OK else ()
    history = History(operations=ops)
    assert not counter(history, {"c": len(instants)})
    maximum = sum(op.outcome != Outcome.FAIL for op in ops)
    assert counter(history, {"c": maximum + 1})
