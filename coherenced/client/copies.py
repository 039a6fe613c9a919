"""What L0 keeps of one key: its object, and the counters of the shared page that prove it."""

from __future__ import annotations

from typing import Any

from coherenced.client.hits import Kept
from coherenced.client.replies import Version
from coherenced.page.layout import GENERATION_AT, TAGS_AT, key_slot
from coherenced.page.reader import PageReader


class Note:
    """The counters of one key, from before it was asked for."""

    __slots__ = ("asked_s", "count", "generation", "key", "page", "slot", "tags_seen")

    def __init__(self, key: str | bytes, name: bytes, page: PageReader, asked_s: float) -> None:
        words = page.words
        self.key = key
        self.page = page
        self.asked_s = asked_s
        self.slot = key_slot(name, page.slots)
        self.count = words[self.slot]
        self.generation = words[GENERATION_AT]
        self.tags_seen = words[TAGS_AT]


class Copy(Kept):
    """One kept object, with what is looked at when it must be proved anew, and told of it."""

    __slots__ = (
        "born_ns",
        "bound_ns",
        "deadline_ns",
        "expires_ns",
        "seen_hits",
        "size",
        "stale_ns",
        "version",
    )

    def __init__(
        self, note: Note, deadline_ns: int, bound_ns: int, tags: tuple[tuple[int, int], ...]
    ) -> None:
        """`tags`: (slot, counter) of each."""
        key, lane = (note.slot, note.count), (GENERATION_AT, note.generation)
        super().__init__(note.page.words, (key, lane, *tags))
        self.deadline_ns = deadline_ns
        self.bound_ns = bound_ns
        self.version = Version()
        self.expires_ns: int | None = None
        """When Redis lets it expire, whatever the deadline."""
        self.born_ns: int | None = None
        """When its origin or loader gave it; None: it is as old as the daemon's last proof."""
        self.stale_ns: int | None = None
        """From when on it is stale; None: as long as it is there, it is not."""
        self.size = 0
        self.seen_hits = 0

    def given(self, default: Any) -> Any:
        """What a caller gets."""
        if self.fresh is not None:
            return self.fresh()
        return self.value if self.found else default
