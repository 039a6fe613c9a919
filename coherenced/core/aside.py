"""What L1 has dropped whole: taken apart behind, an entry at a time.

To free a million entries takes a third of a second, in which a daemon would answer nobody. So a
store that is emptied puts its index and its rings aside as they are and begins with new ones; the
memory comes back piece by piece, and is counted until then.
"""

from __future__ import annotations

from coherenced.core.entry import UNLINKED, Entry


class Aside:
    """Indexes and the rings that their entries are in, each of at least one entry."""

    __slots__ = ("_dropped",)

    def __init__(self) -> None:
        self._dropped: list[tuple[dict[bytes, Entry], tuple[Entry, ...]]] = []

    def __len__(self) -> int:
        """How many are not taken apart to the end."""
        return len(self._dropped)

    def put(self, entries: dict[bytes, Entry], rings: tuple[Entry, ...]) -> None:
        self._dropped.append((entries, rings))

    def free_one(self) -> int:
        """Let one entry go: what it counted for. There must be one."""
        entries, rings = self._dropped[-1]
        _, entry = entries.popitem()
        following, preceding = entry.next, entry.prev
        preceding.next = following
        following.prev = preceding
        entry.prev = entry.next = UNLINKED
        if not entries:
            for ring in rings:
                ring.prev = ring.next = UNLINKED
            self._dropped.pop()
        return entry.size

    def measured_bytes(self) -> int:
        """What all of it counts for, for the invariant check."""
        return sum(entry.size for entries, _ in self._dropped for entry in entries.values())
