"""Counters: each acknowledged INCR counts exactly once, each indeterminate one at most once."""

from __future__ import annotations

from collections.abc import Mapping

from tests.checkers.history import History, Kind, Operation, Outcome
from tests.checkers.verdict import Verdict


def counter(history: History, final: Mapping[str, int]) -> Verdict:
    """Check every key that was incremented by one, from 0, against its `final` value.

    acknowledged ≤ final ≤ acknowledged + indeterminate; each answer is unique, none is
    above the final value or below what had been acknowledged before it was sent, and
    answers grow in real time. An acknowledged INCR without a known answer
    (`values` empty) only counts.
    """
    verdict = Verdict("counter")
    by_key: dict[str, list[Operation]] = {}
    for op in history.operations:
        if op.kind == Kind.INCR and op.outcome != Outcome.FAIL:
            by_key.setdefault(op.keys[0], []).append(op)
    for key, ops in by_key.items():
        verdict.checked += len(ops)
        _check(verdict, key, ops, final.get(key, 0))
    return verdict


def _check(verdict: Verdict, key: str, ops: list[Operation], final: int) -> None:
    sure = [op for op in ops if op.outcome == Outcome.OK and op.level != "none"]
    most = len(ops)
    if not len(sure) <= final <= most:
        verdict.add(
            f"{key}: is {final}; {len(sure)} were acknowledged and {most - len(sure)} more "
            "are indeterminate",
            *[op for op in ops if op not in sure][:5],
        )
    answered: dict[int, Operation] = {}
    for op in sure:
        if not op.values or op.values[0] is None:
            continue
        number = int(op.values[0])
        known = answered.setdefault(number, op)
        if known is not op:
            verdict.add(f"{key}: two increments were both answered {number}", known, op)
        if number > final:
            verdict.add(f"{key}: answered {number}, but the final value is {final}", op)
    ordered = sorted(answered.items())
    latest: Operation | None = None
    for number, op in ordered:
        if latest is not None and op.end < latest.start_ns:
            verdict.add(f"{key}: a later increment was answered less than {number}", latest, op)
        if latest is None or op.start_ns > latest.start_ns:
            latest = op
    ends = sorted(op.end for op in sure)
    done = 0
    for op in sorted(answered.values(), key=lambda op: op.start_ns):
        while done < len(ends) and ends[done] < op.start_ns:
            done += 1
        if int(op.values[0] or 0) <= done:
            verdict.add(
                f"{key}: answered {op.values[0]}, though {done} had been acknowledged before", op
            )
