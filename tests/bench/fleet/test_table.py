"""Tables of fleets: which are counted, which expected, and what more lanes are worth."""

from __future__ import annotations

from pathlib import Path

import pytest

from coherenced.bench.cost_model import FEWER, Load, Rested, cost, expected
from coherenced.bench.fleet.fleet import GUESSED
from coherenced.bench.fleet.table import LANES, capacity, cells, fleet_of, fleets, nearness
from coherenced.bench.model import Context


def test_what_can_be_run_is_counted() -> None:
    told = fleet_of(Load(10, 1_000, 10), GUESSED, 3_000)
    assert told.counted_s == pytest.approx(0.3)
    assert 0 < told.waited_ms[0] <= told.waited_ms[1]
    assert nearness(told, GUESSED) == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("load", [Load(1_000, 100_000, 1_000), Load(10, 200_000, 10)])
def test_what_cannot_be_run_or_served_is_expected(load: Load) -> None:
    told = fleet_of(load, GUESSED._replace(script=100.0), 100_000)
    assert told.counted_s == 0
    assert told.counts == expected(load, GUESSED._replace(script=100.0))
    assert told.cost.limit


def test_a_writer_that_cannot_keep_up_is_named() -> None:
    """It has one batch of invalidations under way, and the next leaves when that is answered."""
    told = fleet_of(Load(3, 200_000, 1), GUESSED, 60_000)
    assert told.counts.records < 100_000
    assert "were done, a batch a round trip" in cells(told)[-1]
    assert "only" not in cells(fleet_of(Load(3, 2_000, 1), GUESSED, 6_000))[-1]


def test_a_capacity_is_where_the_first_limit_lies() -> None:
    for writers, ack_all in ((None, False), (1, False), (None, True)):
        most = capacity(100, writers, GUESSED, ack_all=ack_all)
        below, above = (
            cost(expected(Load(100, per_s, writers or 100, ack_all), GUESSED), GUESSED)
            for per_s in (most, 1.05 * most)
        )
        assert not below.limit
        assert above.limit
    assert capacity(100, 1, GUESSED) > 2 * capacity(100, None, GUESSED)
    assert capacity(100, None, GUESSED, ack_all=True) < capacity(100, None, GUESSED)


def test_the_rows_of_fleets(tmp_path: Path) -> None:
    unit = GUESSED._replace(push=Rested([(1.0, 5.0)]))
    rows = {row.name: row for row in fleets(Context(directory=tmp_path, quick=True), unit)}
    table = rows["100 nodes, all nodes write alike: invalidations a second that fit"].drawing
    assert len(table) == 1 + 9
    assert any("Redis's core first" in line for line in table)
    acknowledged = "100 nodes, all nodes write alike, acknowledged by all: invalidations a second"
    assert any(FEWER in line for line in rows[f"{acknowledged} that fit"].drawing)
    lanes = rows["100 nodes, 10,000 invalidations/s on 8 lanes: each server's CPU"]
    assert lanes.ratio is not None
    assert lanes.ratio.value < 0.7
    assert [line.split()[0] for line in lanes.drawing[1:]] == [str(number) for number in LANES]
    grown = [row for name, row in rows.items() if name.startswith("acknowledgements a second")]
    assert "to the power" in grown[0].note
