"""Unit costs after a rest: that what was put in is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from coherenced.bench.cost_model import Rested
from coherenced.bench.paces import RECORDS, Curves, Spent, Steady, Warm, solved, steady
from coherenced.bench.rig import Rig

WARM = Warm(each=10.0, record=4.0)
WAKE = Rested([(30.0, 20.0), (10_000.0, 200.0)])
RECORD = Rested([(30.0, 4.0), (10_000.0, 11.0)])


def second(per_s: float, records: int) -> Spent:
    """One whose costs are known."""
    rest_us = 1e6 / per_s
    us = per_s * (WAKE.at(rest_us) + WARM.each + records * RECORD.at(rest_us))
    return Spent(rest_us, per_s, per_s, per_s * records, us)


def test_what_a_turn_and_a_record_cost_is_told_apart() -> None:
    paces = (100.0, 1_000.0, 10_000.0)
    wake, record = solved(
        [second(pace, 1) for pace in paces], [second(pace, RECORDS) for pace in paces], WARM
    )
    for rest_us in (200.0, 3_000.0, 9_000.0):
        assert wake.at(rest_us) == pytest.approx(WAKE.at(rest_us), rel=0.02)
        assert record.at(rest_us) == pytest.approx(RECORD.at(rest_us), rel=0.02)


def test_no_cost_is_negative() -> None:
    free = [Spent(100.0, 10.0, 10.0, 10.0, 1.0)]
    wake, record = solved(free, free, WARM)
    assert (wake.warm, record.warm) == (0.0, WARM.record / 2)


def test_a_node_hears_in_one_turn_what_the_server_sends_in_one() -> None:
    bursts = Steady(1, 1_000.0, 400.0, 500_000.0, (200_000.0,))
    assert (bursts.node_turns, bursts.rest_us, bursts.node_rest_us) == (400, 1_250, 2_000)


def test_each_curve_is_a_row() -> None:
    rows = Curves(WAKE, RECORD, WAKE, WAKE, RECORD).rows()
    assert [row.ours.value for row in rows if row.ours] == [200, 11, 200, 200, 11]
    assert all(len(row.drawing) == 2 for row in rows)


def test_messages_come_at_the_pace_that_is_asked_for(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        found = steady(rig, 3, 200.0, 0.3, [])
        assert found.scripts == pytest.approx(200, rel=0.2)
        assert found.server_us > 0
        assert found.turns > 0
        with rig.talk_to_server() as talk:
            assert int(talk.ask("HGET", "coh:{0}:meta", "s")) % 3 == 0
