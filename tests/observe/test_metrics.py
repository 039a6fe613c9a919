"""/metrics: Prometheus's own parser reads it, its conventions hold, nothing is left out."""

from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from coherenced.observe.histogram import Histogram
from coherenced.observe.metrics import Metrics
from coherenced.observe.stats import (
    BusSection,
    FrontSection,
    LaneSection,
    Latency,
    NodeSection,
    NodeStats,
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(stats: NodeStats, *, process: bool = False) -> Samples:
    text = Metrics(lambda: stats, process=process).exposition().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def numbered(value: object, next_number: list[int]) -> object:
    """The same structure with a different number in every counter."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            setattr(value, name, numbered(getattr(value, name), next_number))
    elif isinstance(value, list):
        return [numbered(item, next_number) for item in value]
    elif isinstance(value, dict):
        return {key: numbered(item, next_number) for key, item in value.items()}
    elif isinstance(value, int) and not isinstance(value, bool):
        next_number[0] += 1
        return next_number[0]
    return value


def test_every_counter_of_the_statistics_is_exposed() -> None:
    stats = NodeStats(
        lanes=[LaneSection(verified_age_ms=5.0)],
        bus=BusSection(reconnects={"bus": 0}),
        fronts={"http": FrontSection()},
    )
    next_number = [1_000_000]
    numbered(stats, next_number)
    # A lane's number is a label, its head is shown as what it is ahead of the applied.
    values = {str(int(value)) for value in scrape(stats).values()}
    shown = 0
    for section in (stats.l1, stats.l2, stats.origin, stats.writes, stats.acks, stats.bus):
        for name in section.__struct_fields__:
            value = getattr(section, name)
            if isinstance(value, int) and not isinstance(value, bool):
                assert str(value) in values, f"{type(section).__name__}.{name}"
                shown += 1
    for section in (stats.lanes[0], stats.fronts["http"]):
        for name in section.__struct_fields__:
            value = getattr(section, name)
            if name not in ("lane", "head", "errors") and type(value) is int:
                assert str(value) in values, f"{type(section).__name__}.{name}"
                shown += 1
    assert shown > 40


def test_names_and_units_follow_the_conventions() -> None:
    text = Metrics(NodeStats, process=False).exposition().decode()
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("coherenced_")
        assert family.documentation
        assert "_ms" not in family.name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)


def test_tiers_lanes_and_fronts_are_labels() -> None:
    stats = NodeStats(
        node=NodeSection(version="0.1.0", ready=True, nodes_live=3),
        lanes=[
            LaneSection(lane=0, verified_age_ms=250.0, applied=4, head=9, gaps_found=2),
            LaneSection(lane=1, verified_age_ms=None),
        ],
        bus=BusSection(upstream_up=True, reconnects={"bus": 2, "commands": 1}),
        fronts={"http": FrontSection(requests=5), "resp": FrontSection(requests=7)},
    )
    stats.l1.hits, stats.l2.misses = 11, 13
    samples = scrape(stats)
    assert samples["coherenced_hits_total", (("tier", "l1"),)] == 11
    assert samples["coherenced_misses_total", (("tier", "l2"),)] == 13
    assert samples["coherenced_verified_age_seconds", (("lane", "0"),)] == 0.25
    # A lane that has proved nothing has no age; it must not look like a fresh one.
    assert ("coherenced_verified_age_seconds", (("lane", "1"),)) not in samples
    assert samples["coherenced_records_behind", (("lane", "0"),)] == 5
    assert samples["coherenced_gaps_found_total", (("lane", "0"),)] == 2
    assert samples["coherenced_requests_total", (("front", "resp"),)] == 7
    assert samples["coherenced_reconnects_total", (("connection", "commands"),)] == 1
    assert samples["coherenced_nodes", (("state", "live"),)] == 3
    assert samples["coherenced_ready", ()] == 1
    assert samples["coherenced_upstream_up", ()] == 1
    assert samples["coherenced_build_info", (("python", ""), ("version", "0.1.0"))] == 1


def test_histograms_are_cumulative_and_in_seconds() -> None:
    histogram = Histogram()
    for ms in (0.02, 3.0, 3.5, 1e6):
        histogram.observe(ms)
    stats = NodeStats()
    stats.acks.latency = Latency.of(histogram)
    samples = scrape(stats)
    name = "coherenced_acknowledgement_duration_seconds"
    assert samples[f"{name}_bucket", (("le", "2e-05"),)] == 1
    assert samples[f"{name}_bucket", (("le", "0.002"),)] == 1
    assert samples[f"{name}_bucket", (("le", "0.005"),)] == 3
    assert samples[f"{name}_bucket", (("le", "10"),)] == 3
    assert samples[f"{name}_bucket", (("le", "+Inf"),)] == 4
    assert samples[f"{name}_count", ()] == 4
    assert round(samples[f"{name}_sum", ()], 5) == 1000.00652
    tiers = scrape(stats)
    assert tiers["coherenced_read_duration_seconds_count", (("tier", "l2"),)] == 0


def test_the_snapshot_is_taken_once_per_scrape_and_never_before() -> None:
    taken = []

    def snapshot() -> NodeStats:
        taken.append(1)
        return NodeStats()

    metrics = Metrics(snapshot, process=False)
    assert not taken
    metrics.exposition()
    metrics.exposition()
    assert len(taken) == 2


def test_process_metrics_are_prometheus_own() -> None:
    samples = scrape(NodeStats(), process=True)
    assert samples["process_resident_memory_bytes", ()] > 1_000_000
