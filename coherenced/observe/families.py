"""One number, or some with a label, as a Prometheus family: names, units, buckets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric

from coherenced.observe.stats import Latency

PREFIX: Final = "coherenced_"
Labelled = Sequence[tuple[str, float]]
"""Label value and number."""


def counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def counters(name: str, text: str, label: str, rows: Labelled) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for value, number in rows:
        family.add_metric([value], number)
    return family


def gauges(name: str, text: str, label: str, rows: Labelled) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for value, number in rows:
        family.add_metric([value], number)
    return family


def histogram(name: str, text: str, rows: Sequence[tuple[str, Latency]], label: str = "") -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text, labels=[label] if label else [])
    for value, latency in rows:
        buckets: list[tuple[str, float]] = []
        seen = 0
        for bound_ms, count in zip(latency.bounds_ms, latency.counts, strict=False):
            seen += count
            buckets.append((_seconds(bound_ms), seen))
        buckets.append(("+Inf", latency.count))
        family.add_metric([value] if label else [], buckets, sum_value=latency.sum_ms / 1000.0)
    return family


def _seconds(ms: float) -> str:
    """A bucket's bound as text, without the noise of binary fractions (0.02 ms -> 2e-05)."""
    return f"{ms / 1000.0:.12g}"
