"""The shape of the statistics, and the figures derived from them."""

from __future__ import annotations

import json

import msgspec
import pytest

from coherenced.observe.histogram import Histogram
from coherenced.observe.stats import (
    FrontSection,
    L1Section,
    L2Section,
    LaneSection,
    Latency,
    NodeStats,
    WritesSection,
    derive,
    parse,
    report,
)


def example() -> NodeStats:
    histogram = Histogram()
    for ms in (0.3, 0.4, 30.0):
        histogram.observe(ms)
    return NodeStats(
        l1=L1Section(hits=90, misses=10, bytes=25, max_bytes=100),
        l2=L2Section(hits=8, misses=2, fetches=5, latency=Latency.of(histogram)),
        lanes=[
            LaneSection(lane=0, verified_age_ms=40.0, applied=7, head=9),
            LaneSection(lane=1, verified_age_ms=70.0, applied=3, head=3),
        ],
        writes=WritesSection(committed=12, batches=4),
        fronts={"http": FrontSection(requests=5, connections=1), "resp": FrontSection(requests=7)},
    )


def test_a_fresh_node_has_no_rates_and_no_division_by_zero() -> None:
    derived = derive(NodeStats())
    assert derived["hit_rate"] == {"l1": None, "l2": None, "origin": None, "overall": None}
    assert derived["verified_age_ms"] is None
    assert derived["l1_fill"] is None
    assert derived["latency_ms"]["l2"] == {"count": 0, "average": None, "p50": None, "p99": None}


def test_derived_figures() -> None:
    derived = derive(example())
    assert derived["hit_rate"]["l1"] == 0.9
    assert derived["hit_rate"]["l2"] == 0.8
    assert derived["hit_rate"]["overall"] == 0.98
    assert derived["l1_fill"] == 0.25
    assert derived["keys_per_fetch"] == 2
    assert derived["mutations_per_batch"] == 3
    assert derived["verified_age_ms"] == 70.0
    assert derived["records_behind"] == 2
    assert derived["requests"] == 12
    latency = derived["latency_ms"]["l2"]
    assert latency["count"] == 3
    assert latency["average"] == pytest.approx(30.7 / 3)
    assert 0.2 < latency["p50"] <= 0.5
    assert 20 < latency["p99"] <= 50


def test_one_lane_that_has_proved_nothing_makes_the_whole_age_unknown() -> None:
    stats = example()
    stats.lanes[0].verified_age_ms = None
    assert derive(stats)["verified_age_ms"] is None


def test_a_report_is_json_and_can_be_read_back() -> None:
    stats = example()
    told = json.loads(json.dumps(report(stats)))
    assert told["derived"]["hit_rate"]["l1"] == 0.9
    assert parse(told) == stats


def test_reports_of_other_versions_can_be_read() -> None:
    stats = parse({"node": {"name": "b", "new_field": 1}, "new_section": {}})
    assert stats.node.name == "b"
    assert stats.l1.hits == 0
    with pytest.raises(msgspec.ValidationError):
        parse({"l1": {"hits": "many"}})
