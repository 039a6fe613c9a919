"""One cached key, and the rings that entries form.

An entry keeps the reply to a GET as it is sent, so that a hit is a look-up and a write. The rings
are threaded through the entries themselves: leaving one is four assignments, whoever is next.
Entries are invisible to the cyclic garbage collector (`gc=False`): a million of them do not
lengthen its pauses, and in return a ring is taken apart by hand.
"""

from __future__ import annotations

from typing import Final, cast

import msgspec

from coherenced.core.bulk import NIL_BULK, value_in
from coherenced.core.lane import Lane
from coherenced.core.life import age_ms
from coherenced.core.model import FOREVER

ENTRY_BYTES: Final = 384
TAG_BYTES: Final = 48
"""What the bookkeeping of an entry, and of a tag, was measured to need: the formula is in `l1`."""
HOLES_SHIFT: Final = 4
"""A sixteenth of each bulk is counted for the holes between bulks of many lengths, see `l1`."""
MAX_FREQUENCY: Final = 2
IN_MAIN: Final = -1
"""In place of `looks`: this entry is in the main queue."""

UNLINKED: Final = cast("Entry", None)


class Entry(msgspec.Struct, gc=False, eq=False):
    """One cached key. What is kept of its value is the reply to a GET as it is sent."""

    key: bytes
    bulk: bytes
    """`bulk_of` the value."""
    lane: Lane
    as_of: int
    """F1: the lane's sequence at which the value was read or written."""
    deadline_ms: float
    """F1: never served at or after this local time."""
    bound_ms: float
    """V3: served only while `now - lane.verified_at_ms <= bound_ms`; negative: never so."""
    tags: tuple[bytes, ...] = ()
    expires_ms: float = FOREVER
    """The local time at which Redis's own time to live ends, counted like the deadline."""
    frequency: int = 0
    """Hits, up to MAX_FREQUENCY, since it was put into its queue or last looked at there."""
    looks: int = 0
    """IN_MAIN: it is in the main queue. Else it is in the small one, with so many looks in hand."""
    prev: Entry = UNLINKED
    """`prev` and `next` are set only while the entry is in a ring: no cycle outlives it."""
    next: Entry = UNLINKED

    def __repr__(self) -> str:
        return f"Entry({self.key!r}, as_of={self.as_of}, {len(self.bulk)} bytes)"

    @property
    def value(self) -> bytes | None:
        bulk = self.bulk
        return None if bulk is NIL_BULK else value_in(bulk)

    @property
    def size(self) -> int:
        """What it counts for in the bound, by the formula in `l1`."""
        bulk_bytes = len(self.bulk)
        size = len(self.key) + bulk_bytes + (bulk_bytes >> HOLES_SHIFT) + ENTRY_BYTES
        if self.tags:
            size += TAG_BYTES + sum(len(tag) + TAG_BYTES for tag in self.tags)
        return size

    @property
    def in_main(self) -> bool:
        return self.looks < 0

    def left_ms(self, now_ms: float) -> float | None:
        """What is left of its time to live in Redis; None: there is no end."""
        return None if self.expires_ms == FOREVER else max(0.0, self.expires_ms - now_ms)

    def known_age_ms(self, now_ms: float) -> float | None:
        """How long ago its origin or loader gave it; None: Redis is its home."""
        return age_ms(self.tags, self.left_ms(now_ms)) if self.tags else None

    def covered(self) -> bool:
        """T1: whether one of its tags was invalidated after it was read."""
        tag_seq = self.lane.tag_seq
        if not tag_seq:
            return False
        as_of = self.as_of
        return any(tag_seq.get(tag, 0) > as_of for tag in self.tags)


_NOWHERE: Final = Lane(-1)


def new_ring() -> Entry:
    """An empty ring: an entry that is no key's, linked to itself."""
    ring = Entry(b"", NIL_BULK, _NOWHERE, 0, 0.0, 0.0)
    ring.prev = ring.next = ring
    return ring


def link(entry: Entry, following: Entry) -> None:
    """Put `entry` into a ring, just before `following` (a ring itself: at its end)."""
    last = following.prev
    last.next = entry
    entry.prev = last
    entry.next = following
    following.prev = entry
