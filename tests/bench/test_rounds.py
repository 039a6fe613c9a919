"""Measuring in turns, and what the samples say together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coherenced.bench.model import at_least
from coherenced.bench.rounds import Wanted, alone, compare, duel, latencies, quantile


def test_the_sides_take_turns() -> None:
    turns: list[str] = []

    def turn(who: str) -> dict[str, float]:
        turns.append(who)
        return {"rate": float(len(turns))}

    found = duel(3, lambda: turn("ours"), "Valkey", lambda: turn("theirs"))
    assert turns == ["ours", "theirs"] * 3
    (row,) = found.rows("GET", [Wanted("rate", "", "/s", at_least(0.5))], "loaded so")
    assert (row.name, row.peer, row.note) == ("GET", "Valkey", "loaded so")
    assert row.ours is not None and row.theirs is not None
    assert (row.ours.value, row.theirs.value) == (3.0, 4.0)


def test_a_ratio_is_of_one_round_each() -> None:
    # The machine was ten times slower in the second round: that says nothing about us.
    row = compare("x", "/s", [100, 10, 90], "peer", [200, 20, 180])
    assert row.ratio is not None
    assert (row.ratio.value, row.ratio.low, row.ratio.high) == (0.5, 0.5, 0.5)


def test_a_peer_that_shows_nothing_gives_no_ratio() -> None:
    assert compare("x", "/s", [1], "peer", [0]).ratio is None
    assert alone("x", "/s", [1, 2, 3]).theirs is None


def test_only_what_every_turn_has_measured_becomes_a_row() -> None:
    found = duel(1, lambda: {"p50": 1.0, "p99.9": 2.0}, "peer", lambda: {"p50": 2.0})
    rows = found.rows("x", [Wanted("p99.9", "p99.9", "ms"), Wanted("p50", "p50", "ms")], "note")
    assert [(row.name, row.note) for row in rows] == [("x: p50", "note")]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 2), (0.51, 3), (0.75, 3), (0.99, 4), (1.0, 4)]
)
def test_quantiles(share: float, expected: int) -> None:
    assert quantile([1, 2, 3, 4], share) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_is_a_sample_that_enough_others_do_not_exceed(
    samples: list[float], share: float
) -> None:
    found = quantile(sorted(samples), share)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= share * len(samples)


def test_latencies_are_quantiles_of_one_turn() -> None:
    assert latencies([float(n) for n in range(100, 0, -1)]) == {"p50": 50.0, "p99": 99.0}
