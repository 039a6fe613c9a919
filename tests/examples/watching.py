"""The judge of the examples: no read that began after an update returned may be older than it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

Act = Callable[[int, int], int]
"""(which worker, which row) -> the row's revision, as read, or as this update made it."""


class Seen(NamedTuple):
    """What happened; `older`: (row, revision read, revision that had been acknowledged)."""

    reads: int
    updates: int
    older: list[tuple[int, int, int]]


class Watcher:
    """The newest acknowledged revision of each row."""

    def __init__(self, rows: int) -> None:
        self._newest = [0] * rows
        self._lock = threading.Lock()
        self._reads = self._updates = 0
        self._older: list[tuple[int, int, int]] = []

    def acknowledged(self, row: int) -> int:
        return self._newest[row]

    def updated(self, row: int, revision: int) -> None:
        with self._lock:
            self._updates += 1
            self._newest[row] = max(self._newest[row], revision)

    def read(self, row: int, revision: int, at_least: int) -> None:
        with self._lock:
            self._reads += 1
            if revision < at_least:
                self._older.append((row, revision, at_least))

    def seen(self) -> Seen:
        return Seen(self._reads, self._updates, self._older)


def watch(read: Act, update: Act, *, workers: int, rows: int, seconds: float) -> Seen:
    """Each worker reads all rows again and again, and updates one now and then."""
    watcher = Watcher(rows)
    end = time.monotonic() + seconds

    def work(worker: int) -> None:
        turn = 0
        while time.monotonic() < end:
            turn += 1
            for row in range(rows):
                at_least = watcher.acknowledged(row)
                watcher.read(row, read(worker, row), at_least)
            if turn % 5 == 0:
                row = (turn // 5 + worker) % rows
                watcher.updated(row, update(worker, row))

    with ThreadPoolExecutor(workers) as threads:
        for done in [threads.submit(work, worker) for worker in range(workers)]:
            done.result()
    return watcher.seen()
