"""What L0 keeps of one key: its object, and the counters of the shared page that prove it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


class Copy:
    """One kept object. What it was kept under does not change; `until_s` and `hits` do."""

    __slots__ = (
        "born_ns",
        "bound_ns",
        "count",
        "deadline_ns",
        "expires_ns",
        "found",
        "fresh",
        "generation",
        "hits",
        "seen_hits",
        "size",
        "slot",
        "stale_ns",
        "tags",
        "until_s",
        "value",
        "version",
        "words",
    )

    def __init__(self, note: Note, deadline_ns: int, bound_ns: int) -> None:
        self.words = note.page.words
        self.slot = note.slot
        self.count = note.count
        self.generation = note.generation
        self.deadline_ns = deadline_ns
        self.bound_ns = bound_ns
        self.until_s = 0.0
        """The end of what has been proved: its deadline, or a bound after the verified-at that
        was last read. Proofs that move back move the lane's counter too, so a hit before this
        time needs to look at the counters only."""
        self.tags: tuple[tuple[int, int], ...] = ()
        """(slot, counter) of each tag."""
        self.found = False
        self.value: Any = None
        self.fresh: Callable[[], Any] | None = None
        """Makes what a caller is given; None: that is `value` itself."""
        self.version = Version()
        self.expires_ns: int | None = None
        """When Redis lets it expire, whatever the deadline."""
        self.born_ns: int | None = None
        """When its origin or loader gave it; None: it is as old as the daemon's last proof."""
        self.stale_ns: int | None = None
        """From when on it is stale; None: as long as it is there, it is not."""
        self.size = 0
        self.hits = 0
        self.seen_hits = 0

    def holds(self) -> bool:
        """P1: none of its counters has moved."""
        words = self.words
        return (
            words[self.slot] == self.count
            and words[GENERATION_AT] == self.generation
            and all(words[slot] == count for slot, count in self.tags)
        )

    def given(self, default: Any) -> Any:
        """What a caller gets."""
        if self.fresh is not None:
            return self.fresh()
        return self.value if self.found else default
