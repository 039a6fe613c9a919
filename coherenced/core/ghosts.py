"""A memory of what was evicted lately, in eight bytes a key."""

from __future__ import annotations

from array import array
from typing import Final
from zlib import crc32

GHOST_BYTES: Final = 8
"""One cell."""


class Ghosts:
    """Which keys were evicted lately, as hashes: eight bytes a cell, two cells to choose from.

    A cell holds when (counted in evictions) and what; forgetting happens by
    being overwritten or by being too old. A wrong answer (two keys of one hash)
    costs a place in the main queue, nothing else.
    """

    __slots__ = ("_cells", "_clock")

    def __init__(self) -> None:
        self._cells: array[int] = array("Q")
        self._clock = 0

    def __len__(self) -> int:
        """Cells, full or not."""
        return len(self._cells)

    def remember(self, key: bytes, window: int) -> int:
        """`key` has been evicted. `window`: how many evictions it is to be remembered for. -> how
        many bytes the memory has grown by."""
        cells, clock, mark = self._cells, self._clock + 1, crc32(key)
        number = before = len(cells)
        if window > number:
            number = 1 << max(window - 1, 15).bit_length()
            self._cells = cells = _zeros(number)
        if clock >> 32:
            self._cells, clock = (cells := _zeros(number)), 1
        self._clock = clock
        place = mark & (number - 1)
        if cells[place ^ 1] < cells[place]:
            place ^= 1
        cells[place] = clock << 32 | mark
        return GHOST_BYTES * (number - before)

    def forget(self, key: bytes, window: int) -> int:
        """How many evictions ago `key` was evicted, its own counted; then it is forgotten.

        0: it was not among the last `window`.
        """
        cells = self._cells
        if not cells:
            return 0
        mark = crc32(key)
        too_old = max(self._clock - window, 0)
        place = mark & (len(cells) - 1)
        for at in (place, place ^ 1):
            cell = cells[at]
            if cell & 0xFFFFFFFF == mark and cell >> 32 > too_old:
                cells[at] = 0
                return self._clock + 1 - (cell >> 32)
        return 0

    def clear(self) -> None:
        self._cells = array("Q")


def _zeros(count: int) -> array[int]:
    return array("Q", bytes(8 * count))
