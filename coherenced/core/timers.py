"""What is due when: the one place where the core asks to be woken."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from coherenced.core.model import FOREVER


class Timers:
    """A heap of (time, callback). A callback that no longer applies must notice so itself."""

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0

    def at(self, when_ms: float, callback: Callable[..., None], *args: Any) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when_ms, self._serial, callback, args))

    def next_ms(self) -> float:
        return self._heap[0][0] if self._heap else FOREVER

    def run(self, now_ms: float) -> None:
        """Call everything due at `now_ms`, in order of time, then of registration."""
        heap = self._heap
        while heap and heap[0][0] <= now_ms:
            _, _, callback, args = heapq.heappop(heap)
            callback(*args)

    def __len__(self) -> int:
        return len(self._heap)
