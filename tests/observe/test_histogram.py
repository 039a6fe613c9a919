"""Histograms: where an observation is counted, and what a quantile says about it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coherenced.observe.histogram import BOUNDS_MS, Histogram, quantile_ms


def test_bounds_rise_and_are_inclusive() -> None:
    assert list(BOUNDS_MS) == sorted(set(BOUNDS_MS))
    for index, bound in enumerate(BOUNDS_MS):
        histogram = Histogram()
        histogram.observe(bound)
        assert histogram.counts[index] == 1


def test_what_is_below_and_above_all_bounds_is_counted() -> None:
    histogram = Histogram()
    for ms in (-5.0, 0.0, 1e9):
        histogram.observe(ms)
    assert histogram.counts[0] == 2
    assert histogram.counts[-1] == 1
    assert histogram.count == 3
    assert histogram.sum_ms == 1e9


def test_quantiles_of_nothing_and_of_the_far_end() -> None:
    histogram = Histogram()
    assert quantile_ms(histogram.counts, 0.5) is None
    histogram.observe(1e9)
    assert quantile_ms(histogram.counts, 0.5) == BOUNDS_MS[-1]


@given(st.lists(st.floats(0.0005, 9_000.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.99]))
@settings(max_examples=60, deadline=None)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    rank = max(1, -(-len(values) * q // 1))
    true = sorted(values)[int(rank) - 1]
    found = quantile_ms(histogram.counts, q)
    assert found is not None
    upper = next(bound for bound in BOUNDS_MS if bound >= true)
    lower = max((bound for bound in BOUNDS_MS if bound < true), default=0.0)
    assert lower <= found <= upper


def test_quantiles_rise() -> None:
    random.seed(1)
    histogram = Histogram()
    for _ in range(1000):
        histogram.observe(random.lognormvariate(0, 2))
    quantiles = [quantile_ms(histogram.counts, q / 100) for q in range(101)]
    assert quantiles == sorted(q for q in quantiles if q is not None)
    assert quantiles[50] == pytest.approx(1.0, rel=0.5)
