"""A5: what was dropped is refilled on a budget, so that no herd follows a drop.

When a lane is dropped, everything that was held is missed at once, and on every node at once:
Redis would be asked for all of it in the same moment. So the keys fetched after a drop are
counted against the number of entries that were dropped, and until as many have been fetched
they leave at a bounded rate, beginning after a delay that is each node's own. A small drop is
not worth it; a reader waits for its turn at most as long as the refill takes.
"""

from __future__ import annotations

from typing import Final

SMALL: Final = 1_000
"""A drop of fewer entries is refilled as fast as it is asked for."""
JITTER_MS: Final = 100
"""Nodes begin within this time of each other, each at its own place in it."""
SLACK_MS: Final = 20.0
"""How much of an unused share may be used later: timers are late by about as much."""


class Refill:
    """The budget of one node. Times in milliseconds."""

    __slots__ = ("_delay_ms", "_keys_per_ms", "_next_ms", "owed")

    def __init__(self, keys_per_s: int, incarnation: bytes) -> None:
        """`keys_per_s` 0: no bound. `incarnation`, random: where this node's turn is."""
        self.owed = 0
        """Keys that are yet to be fetched on the budget."""
        self._keys_per_ms = keys_per_s / 1_000.0
        self._delay_ms = float(int.from_bytes(incarnation, "big") % JITTER_MS)
        self._next_ms = 0.0

    def dropped(self, entries: int, now_ms: float) -> None:
        """So many entries have just become void."""
        if self._keys_per_ms and entries >= SMALL:
            if not self.owed:
                self._next_ms = now_ms + self._delay_ms
            self.owed = max(self.owed, entries)

    def due_ms(self, now_ms: float) -> float:
        """When the next keys may be fetched: not after `now_ms` if they may be now."""
        return self._next_ms if self.owed else now_ms

    def fetching(self, keys: int, now_ms: float) -> None:
        """So many keys are being asked for."""
        if self.owed:
            self.owed = max(0, self.owed - keys)
            self._next_ms = max(self._next_ms, now_ms - SLACK_MS) + keys / self._keys_per_ms
