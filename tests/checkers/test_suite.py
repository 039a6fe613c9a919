"""All checkers over simulated runs: correct ones are never accused, spoiled ones always."""

from __future__ import annotations

import time

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.checkers.history import History, KeyRead, Kind, Operation, Outcome
from tests.checkers.session import session
from tests.checkers.simulate import Shape, correct_history, older_answer
from tests.checkers.staleness import acknowledged_by_all, bounded, nines
from tests.checkers.suite import check_all
from tests.checkers.verdict import report

SHAPES = st.builds(
    Shape,
    sessions=st.integers(1, 8),
    nodes=st.integers(1, 4),
    keys=st.integers(1, 3),
    operations=st.integers(1, 160),
    bound_ms=st.sampled_from([1.0, 20.0, 200.0]),
    versions=st.booleans(),
    unanswered=st.sampled_from([0.0, 0.1, 0.3]),
    expiries=st.sampled_from([0.0, 0.2]),
    flush=st.booleans(),
    loss=st.booleans(),
)
SEEDS = st.integers(0, 10**9)
BOUND_NS = 50_000_000


@settings(max_examples=200, deadline=None)
@given(SEEDS, SHAPES)
def test_a_correct_run_is_never_accused(seed: int, shape: Shape) -> None:
    verdicts = check_all(correct_history(seed, shape))
    assert not any(verdicts), report(verdicts)


def single_reads(history: History) -> list[KeyRead]:
    return [read for read in history.reads() if len(read.operation.keys) == 1]


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_a_value_past_its_bound_is_found(seed: int) -> None:
    history = correct_history(seed, Shape(unanswered=0.2))
    for read in single_reads(history):
        pair = older_answer(history, read, read.operation.start_ns - BOUND_NS)
        if pair is not None:
            read.operation.values = (pair[1],)
            verdict = bounded(history)
            assert any(read.operation in violation.operations for violation in verdict)
            return
    assume(False)


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_an_older_value_after_ack_all_is_found(seed: int) -> None:
    history = correct_history(seed)
    by_all = {op.id for op in history.operations if op.level == "all" and op.satisfied}
    for read in single_reads(history):
        pair = older_answer(history, read, read.operation.start_ns, by=by_all)
        if pair is not None:
            read.operation.values = (pair[1],)
            verdict = acknowledged_by_all(history)
            assert any(read.operation in violation.operations for violation in verdict)
            return
    assume(False)


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_an_own_write_that_is_not_seen_is_found(seed: int) -> None:
    history = correct_history(seed, Shape(operations=200))
    for read in single_reads(history):
        op = read.operation
        own = {o.id for o in history.operations if (o.session, o.node) == (op.session, op.node)}
        pair = older_answer(history, read, op.start_ns, by=own)
        if pair is not None:
            op.values = (pair[1],)
            assert any(op in violation.operations for violation in session(history))
            return
    assume(False)


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_going_back_is_found(seed: int) -> None:
    history = correct_history(seed, Shape(operations=200))
    latest: dict[tuple[str, str, str], KeyRead] = {}
    writes = {op.values[0]: op for op in history.operations if op.kind == Kind.WRITE}
    for read in single_reads(history):
        op = read.operation
        before = latest.get((op.session, op.node, read.key))
        if before is not None and (newer := writes.get(before.value)) is not None:
            older = next((w for w in writes.values() if is_before(w, newer, read.key)), None)
            if older is not None:
                op.values = older.values
                assert any(op in violation.operations for violation in session(history))
                return
        latest[op.session, op.node, read.key] = read
    assume(False)


def is_before(one: Operation, two: Operation, key: str) -> bool:
    return (
        one.keys == (key,)
        and one.outcome == Outcome.OK
        and one.level != "none"
        and one.end < two.start_ns
    )


def test_a_cache_that_never_hears_of_writes_breaks_every_level() -> None:
    history = correct_history(3, Shape(operations=400, sessions=6))
    first: dict[tuple[str, str], str | None] = {}
    for op in history.operations:
        if op.is_read and op.node == "n0":
            op.values = tuple(
                first.setdefault((op.node, key), value)
                for key, value in zip(op.keys, op.values, strict=True)
            )
    broken = {verdict.level for verdict in check_all(history) if verdict}
    assert broken >= {"bounded", "ack=all", "session", "eventual", "linearizable", "versions"}
    assert nines(history).slowest_ms > 1000


def test_a_large_history_is_judged_in_seconds() -> None:
    shape = Shape(sessions=16, keys=12, linearizable_keys=6, operations=12_000)
    history = correct_history(5, shape)
    begun = time.perf_counter()
    verdicts = check_all(history)
    assert not any(verdicts), report(verdicts)
    assert not any(verdict.inconclusive for verdict in verdicts)
    assert time.perf_counter() - begun < 20
