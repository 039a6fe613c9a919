"""One process in virtual time: the turns of its event loop, one after the other.

What arrives while a turn lasts waits for the next one: so the busier a process is, the more
shares a turn. A turn of a server or node that had nothing to do begins with its waking.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Clock:
    """Virtual time: what is planned happens in order of time, then of planning."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0

    def at(self, when_ms: float, action: Callable[..., None], *args: Any) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when_ms, self._serial, action, args))

    def after(self, delay_ms: float, action: Callable[..., None], *args: Any) -> None:
        self.at(self.now_ms + delay_ms, action, *args)

    def run_until(self, end_ms: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= end_ms:
            self.now_ms, _, action, args = heapq.heappop(heap)
            action(*args)
        self.now_ms = end_ms


class Turns(Generic[T]):
    """`work(arrived)` does what has arrived, and says how long it takes (ms) and what is to happen
    when it is done."""

    __slots__ = ("_arrived", "_busy", "_clock", "_work", "busy_ms", "count")

    def __init__(
        self, clock: Clock, work: Callable[[list[T]], tuple[float, Callable[[], None]]]
    ) -> None:
        self.count = 0
        self.busy_ms = 0.0
        self._clock = clock
        self._work = work
        self._arrived: list[T] = []
        self._busy = False

    def arrive(self, item: T) -> None:
        self._arrived.append(item)
        if not self._busy:
            self._busy = True
            self._clock.after(0.0, self._begin)  # with all that arrives at this moment

    def _begin(self) -> None:
        arrived, self._arrived = self._arrived, []
        self.count += 1
        took_ms, done = self._work(arrived)
        self.busy_ms += took_ms
        self._clock.after(took_ms, self._end, done)

    def _end(self, done: Callable[[], None]) -> None:
        done()
        if self._arrived:
            self._begin()
        else:
            self._busy = False

    @property
    def waiting(self) -> int:
        return len(self._arrived)
