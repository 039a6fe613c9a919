"""A latency histogram of plain integers: cheap to feed, read only when somebody looks.

The bounds are fixed and log-spaced (1, 2, 5 per decade from 1 µs to 10 s), so two
histograms of the same kind can be added and a quantile is never off by more than
the width of its bucket.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

# fmt: off
BOUNDS_MS: Final[tuple[float, ...]] = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5,
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0,
    1000.0, 2000.0, 5000.0, 10000.0,
)
# fmt: on
"""Upper, inclusive bounds of the buckets in ms; one more bucket holds what is above."""


class Histogram:
    """Counts of observations per bucket, their sum and their number. Times in milliseconds."""

    __slots__ = ("counts", "sum_ms")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_MS) + 1)
        self.sum_ms = 0.0

    def observe(self, ms: float) -> None:
        """Count one observation. Clock steps can make a difference negative: counted as 0."""
        if ms < 0.0:
            ms = 0.0
        self.counts[bisect_left(BOUNDS_MS, ms)] += 1
        self.sum_ms += ms

    @property
    def count(self) -> int:
        return sum(self.counts)


def quantile_ms(counts: Sequence[int], q: float) -> float | None:
    """The `q` quantile (0 to 1) in ms, interpolated within its bucket; None without observations.

    What lies above the last bound is reported as the last bound.
    """
    total = sum(counts)
    if total == 0:
        return None
    rank = q * total
    below = 0
    for index, count in enumerate(counts):
        if count and below + count >= rank:
            if index >= len(BOUNDS_MS):
                return BOUNDS_MS[-1]
            lower = BOUNDS_MS[index - 1] if index else 0.0
            return lower + (BOUNDS_MS[index] - lower) * max(0.0, rank - below) / count
        below += count
    return BOUNDS_MS[-1]
