"""The cost of fleets: what decides, what is used up first, and what to do then."""

from __future__ import annotations

import pytest

from coherenced.bench.cost_model import (
    MOST_RECORDS,
    Load,
    UnitCosts,
    cost,
    fit,
    records_a_message,
)

UNIT = UnitCosts(
    script=10.0,
    record=5.0,
    wake=10.0,
    delivery_shared=0.25,
    delivery_alone=1.5,
    probe=10.0,
    message=5.0,
    applied=2.5,
)


def test_what_one_node_writes_within_a_round_trip_shares_a_message() -> None:
    assert records_a_message(Load(100, 10_000, 100)) == 1
    assert records_a_message(Load(100, 10_000, 1)) == 10
    assert records_a_message(Load(100, 1_000_000, 1)) == MOST_RECORDS


def test_a_small_fleet_fits() -> None:
    one = cost(Load(10, 1_000, 10), UNIT)
    writing, probing, handed = 1_000 * 15e-6, 40 * 10e-6, 10_000
    assert one.redis_low == pytest.approx(writing + probing + handed * 0.25e-6)
    assert one.redis_high == pytest.approx(writing + probing + handed * 1.5e-6 + 1_000 * 10e-6)
    assert one.node == pytest.approx(1_000 * 7.5e-6)
    assert (one.limit, one.advice) == ("", "")


@pytest.mark.parametrize(
    ("load", "limit", "advice"),
    [
        (Load(1_000, 10_000, 1_000), "Redis's core", "sharded pub/sub"),
        (Load(10, 100_000, 100_000), "Redis's core", "lanes, each on a server of its own"),
        (Load(10, 180_000, 1), "Redis's core", "lanes, each"),
        (Load(3_000, 60_000, 1), "the server's network", "relays"),
    ],
)
def test_what_is_used_up_first_and_what_to_do_then(load: Load, limit: str, advice: str) -> None:
    one = cost(load, UNIT)
    assert one.limit == limit
    assert advice in one.advice
    assert one.advice.startswith("gather longer") is (one.records < MOST_RECORDS / 2)


def test_a_slow_node_is_the_first_limit() -> None:
    slow = UNIT._replace(applied=50.0)
    one = cost(Load(10, 20_000, 1), slow)
    assert one.limit == "each node's core" and "interest" in one.advice


def test_framing_is_what_saves() -> None:
    apart, together = cost(Load(100, 10_000, 100), UNIT), cost(Load(100, 10_000, 1), UNIT)
    assert together.redis_high < apart.redis_high / 3


def test_a_line_through_points() -> None:
    assert fit([(1.0, 3.0), (2.0, 5.0), (3.0, 7.0)]) == (pytest.approx(1.0), pytest.approx(2.0))
    assert fit([(1.0, 5.0), (2.0, 4.0)]) == (pytest.approx(4.5), 0.0)  # no cost is negative
    assert fit([(1.0, 5.0)]) == (5.0, 0.0)
