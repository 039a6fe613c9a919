"""What a suite is given and what it returns."""

from __future__ import annotations

from pathlib import Path

import pytest

from coherenced.bench.model import (
    Context,
    Figure,
    Row,
    Target,
    at_least,
    at_most,
    failed,
    missing,
    skipped,
)


def test_a_figure_is_the_median_and_the_range_of_its_rounds() -> None:
    assert Figure.of("ms", [3.0, 1.0, 9.0]) == Figure(3.0, "ms", 1.0, 9.0)
    assert Figure.of("/s", [7]) == Figure(7, "/s", 7, 7)


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [(at_least(0.6), 0.6, True), (at_least(0.6), 0.59, False), (at_most(2), 2.1, False)],
)
def test_a_target_speaks_of_the_ratio(target: Target, value: float, met: bool) -> None:
    row = Row(name="x", ours=Figure.of("/s", [5]), ratio=Figure.of("ratio", [value]), target=target)
    assert row.met is met
    assert row.as_json()["met"] is met


def test_a_target_may_speak_of_our_own_figure() -> None:
    target = Target(60, "at most", "ours")
    ours, ratio = Figure.of("bytes", [59]), Figure.of("ratio", [1000])
    assert Row(name="x", ours=ours, ratio=ratio, target=target).met is True


def test_what_was_not_measured_has_met_and_missed_nothing() -> None:
    assert Row(name="x").met is None
    assert Row(name="x", target=at_least(1)).met is None
    assert skipped("x", "no time").met is None


def test_why_a_row_is_empty_is_said() -> None:
    assert "lmdb is not installed" in missing("x", "lmdb").note
    assert "coherenced[bench]" in missing("x", "lmdb").note
    assert failed("x", OSError("no socket")).note == "failed: no socket"
    assert failed("x", OSError()).failed and not skipped("x", "no time").failed
    assert skipped("x", "no time").skipped == "no time" and not failed("x", OSError()).skipped


def test_the_time_of_a_measurement_is_shared_by_all_its_turns() -> None:
    context = Context(directory=Path(), seconds=6.0, rounds=3)
    assert context.round_s == 1.0
    assert context.amount(100, 10, 1) == 10
    assert Context(directory=Path(), quick=True).amount(100, 10, 1) == 1
    assert Context(directory=Path(), full=True).amount(100, 10, 1) == 100


def test_repetitions_grow_with_the_time() -> None:
    assert Context(directory=Path(), seconds=3.0).times(5) == 5
    assert Context(directory=Path(), seconds=6.0).times(5) == 10
    assert Context(directory=Path(), seconds=0.3).times(5) == 1
