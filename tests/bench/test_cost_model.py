"""The cost of fleets: what decides, what is used up first, and what to do then."""

from __future__ import annotations

import pytest

from coherenced.bench.cost_model import (
    FEWER,
    MOST_RECORDS,
    Counts,
    Load,
    Rested,
    UnitCosts,
    at_rest,
    cost,
    expected,
    fit,
    redis_parts,
)

UNIT = UnitCosts(
    wake=Rested([(1.0, 0.0), (1_000.0, 100.0)]),
    script=10.0,
    record=Rested([(1.0, 5.0)]),
    probe=10.0,
    ack=1.0,
    member=0.5,
    push=Rested([(1.0, 1.0)]),
    copy=0.25,
    node_wake=Rested([(1.0, 10.0), (1_000.0, 100.0)]),
    message=5.0,
    applied=Rested([(1.0, 2.5)]),
    sends_ack=10.0,
    hears_ack=5.0,
    idle=5_000.0,
)


def test_a_cost_lies_between_those_that_were_measured() -> None:
    curve = Rested([(10.0, 2.0), (1_000.0, 6.0)])
    assert [curve.at(us) for us in (1.0, 10.0, 100.0, 1_000.0, 1e6)] == [2, 2, 4, 6, 6]
    assert curve.warm == 2
    assert [curve.more(1.0).at(us) for us in (1.0, 1e6)] == [3, 7]
    assert Rested([(100.0, 1.0), (101.0, 3.0)]).at(50.0) == 2  # the same rest, measured twice


@pytest.mark.parametrize("each_us", [10.0, 400.0])
def test_rest_is_what_the_work_leaves(each_us: float) -> None:
    rest_us = at_rest(2_000.0, lambda rest_us: 2_000 * each_us / 1e6)
    assert rest_us == pytest.approx(500.0 - each_us, rel=1e-6)


def test_who_has_more_to_do_than_time_does_not_rest() -> None:
    assert at_rest(2_000.0, lambda rest_us: 1.5) == pytest.approx(1.0)


def test_a_lone_message_costs_more_than_one_of_a_stream() -> None:
    def each(per_s: float) -> float:
        counts = Counts(nodes=1, turns=per_s, scripts=per_s, records=per_s)
        return sum(redis_parts(counts, UNIT).values()) / per_s * 1e6

    assert each(100.0) == pytest.approx(115.0, rel=0.01)
    assert each(60_000.0) == pytest.approx(18.0, abs=3)
    # What the model left out when it was 3 times too low at a thousand messages a second:
    assert each(1_000.0) > 5 * (UNIT.script + UNIT.record.warm)


def test_the_parts_are_what_was_counted() -> None:
    counts = Counts(10, 1e4, 1_000, 2_000, 40, 500, 20, 9_000, 10_000)
    parts = redis_parts(counts, UNIT._replace(wake=Rested([(1.0, 0.0)])))
    assert parts["writing"] == pytest.approx(1_000 * 10e-6 + 2_000 * 5e-6)
    assert parts["telling"] == pytest.approx(9_000 * 1e-6 + 9_500 * 0.25e-6)
    assert parts["acknowledging"] == pytest.approx(500 * 1.25e-6)
    assert parts["proving"] == pytest.approx(40 * 10e-6 + 20 * 0.5e-6)


def test_what_one_node_writes_within_a_round_trip_shares_a_message() -> None:
    def records(load: Load) -> float:
        counts = expected(load, UNIT)
        return counts.records / counts.scripts

    assert records(Load(100, 10_000, 100)) == 1
    assert records(Load(100, 10_000, 1)) == pytest.approx(6)
    assert records(Load(100, 1_000_000, 1)) == MOST_RECORDS


def test_a_small_fleet_fits() -> None:
    one = cost(expected(Load(10, 1_000, 10), UNIT), UNIT)
    assert (one.limit, one.advice) == ("", "")
    assert one.share < 1


@pytest.mark.parametrize(
    ("load", "limit", "advice"),
    [
        (Load(1_000, 10_000, 1_000), "Redis's core", "sharded pub/sub"),
        (Load(10, 300_000, 300_000), "Redis's core", "lanes, each on a server of its own"),
        (Load(3_000, 60_000, 1), "the server's network", "relays"),
        (Load(100, 30_000, 100, ack_all=True), "Redis's core", FEWER),
        (Load(3, 60_000, 1, ack_all=True), "each node's core", "interest"),
        (Load(50_000, 10, 1), "Redis's core", "a longer bound"),
    ],
)
def test_what_is_used_up_first_and_what_to_do_then(load: Load, limit: str, advice: str) -> None:
    slow = UNIT if limit != "each node's core" else UNIT._replace(applied=Rested([(1.0, 50.0)]))
    cheap = slow if load.nodes < 3_000 else slow._replace(push=Rested([(1.0, 0.01)]), copy=0.001)
    one = cost(expected(load, cheap), cheap)
    assert one.limit == limit
    assert advice in one.advice


def test_a_node_that_acknowledges_too_much_is_told_so() -> None:
    counts = Counts(nodes=10, node_turns=1_000, messages=2_000, acks_sent=50_000, acks_heard=9_000)
    one = cost(counts, UNIT)
    assert (one.limit, one.advice) == ("each node's core", FEWER)


def test_framing_is_what_saves() -> None:
    apart = cost(expected(Load(100, 10_000, 100), UNIT), UNIT)
    together = cost(expected(Load(100, 10_000, 1), UNIT), UNIT)
    assert together.redis < apart.redis / 2


def test_a_line_through_points() -> None:
    assert fit([(1.0, 3.0), (2.0, 5.0), (3.0, 7.0)]) == (pytest.approx(1.0), pytest.approx(2.0))
    assert fit([(1.0, 5.0), (2.0, 4.0)]) == (pytest.approx(4.5), 0.0)  # no cost is negative
    assert fit([(1.0, 5.0)]) == (5.0, 0.0)
