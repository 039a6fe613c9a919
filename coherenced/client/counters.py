"""What one client has loaded, counted: the `origin` part of its `stats()`."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Any, Final

REMEMBERED: Final = 1024
"""Loads whose times the quantiles are taken from."""

_COUNTS: Final = {
    "loads": "loaders that returned",
    "load_errors": "loaders that raised",
    "refreshes": "loads behind the back of a caller who was answered at once",
    "refreshes_dropped": "not begun, since too many were under way",
    "shared": "calls that waited for a load of the same process",
    "waited": "calls that waited for a load elsewhere",
    "overtime": "loads that went on behind, past the soft timeout",
    "stale_answers": "answers past their ttl",
    "absent": "loads that found nothing, and were cached so",
    "lost": "fills refused, since the key was invalidated during the load",
    "not_stored": "loaded values that were answered and not stored",
    "unavailable": "calls that loaded by themselves, since the cache could not be reached",
}


class Counters:
    """Safe for threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._took_s: deque[float] = deque(maxlen=REMEMBERED)
        self._sum_s = 0.0

    def add(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def loaded(self, took_s: float) -> None:
        with self._lock:
            self._counts["loads"] += 1
            self._sum_s += took_s
            self._took_s.append(took_s)

    def __getitem__(self, what: str) -> int:
        return self._counts[what]

    @property
    def average_s(self) -> float:
        """How long a load takes; 0 before the first."""
        loads = self._counts["loads"]
        return self._sum_s / loads if loads else 0.0

    def as_json(self) -> dict[str, Any]:
        with self._lock:
            counts, times = dict(self._counts), sorted(self._took_s)
            average_ms = self._sum_s / counts["loads"] * 1e3 if counts["loads"] else None
        latency = {
            "count": counts["loads"],
            "average": average_ms,
            "p50": _quantile_ms(times, 0.5),
            "p99": _quantile_ms(times, 0.99),
        }
        return {**counts, "load_latency_ms": latency}


def _quantile_ms(times_s: list[float], share: float) -> float | None:
    if not times_s:
        return None
    return times_s[min(len(times_s) - 1, int(share * len(times_s)))] * 1e3
