"""The L1 store: entries bounded in bytes, evicted by S3-FIFO, expired without being read.

The bound is exact to this formula, per entry:

    len(key) + len(bulk) + ENTRY_BYTES + sum(len(tag) + TAG_BYTES for tag in tags)

where `bulk` is the stored RESP reply (the value and its framing) and the two
constants are what CPython 3.11 was measured to need for the bookkeeping (the
entry object, its numbers, two bytes headers, its share of the hash table).
Each remembered evicted key costs GHOST_BYTES more.

Eviction: Yang et al., "FIFO queues are all you need for cache eviction", SOSP
2023: a small FIFO (a tenth of the bytes) filters one-hit wonders, a main FIFO
with re-insertion keeps what is used, and a ghost list remembers what left the
small queue. A hit only increments a two-bit counter.

The queues are rings threaded through the entries themselves, so an invalidated
entry leaves at once and whole: no tombstones.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from zlib import crc32

from coherenced.core.lane import Lane

ENTRY_BYTES: Final = 368
TAG_BYTES: Final = 48
GHOST_BYTES: Final = 120
SMALL_SHARE: Final = 0.1
MAX_FREQUENCY: Final = 3

NIL_BULK: Final = b"$-1\r\n"


class Entry:
    """One cached key. `bulk` is its RESP reply as it is sent; NIL_BULK means "not there" (F4)."""

    __slots__ = (
        "as_of",
        "bound_ms",
        "bulk",
        "deadline_ms",
        "frequency",
        "in_main",
        "key",
        "lane",
        "next",
        "prev",
        "size",
        "tags",
    )

    prev: Entry
    next: Entry

    def __init__(
        self,
        key: bytes,
        value: bytes | None,
        lane: Lane,
        as_of: int,
        deadline_ms: float,
        bound_ms: float,
        tags: tuple[bytes, ...] = (),
    ) -> None:
        self.key = key
        self.bulk = NIL_BULK if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
        self.lane = lane
        self.as_of = as_of
        """F1: the lane's sequence at which the value was read or written."""
        self.deadline_ms = deadline_ms
        """F1: never served at or after this local time."""
        self.bound_ms = bound_ms
        """V3: served only while `now - lane.verified_at_ms <= bound_ms`; negative: never so."""
        self.tags = tags
        self.size = len(key) + len(self.bulk) + ENTRY_BYTES
        if tags:
            self.size += sum(len(tag) + TAG_BYTES for tag in tags)
        self.frequency = 0
        self.in_main = False
        # `prev` and `next` exist only while the entry is in a ring: no cycle outlives it.

    @property
    def value(self) -> bytes | None:
        bulk = self.bulk
        if bulk is NIL_BULK:
            return None
        return bulk[bulk.index(b"\n") + 1 : -2]

    def covered(self) -> bool:
        """T1: whether one of its tags was invalidated after it was read."""
        tag_seq = self.lane.tag_seq
        as_of = self.as_of
        return any(tag_seq.get(tag, 0) > as_of for tag in self.tags)


def _ring(lane: Lane) -> Entry:
    ring = Entry(b"", None, lane, 0, 0.0, 0.0)
    ring.prev = ring.next = ring
    return ring


class L1:
    """Bounded in bytes. Every method is O(1) but `drop_prefix`, `drop_lane` and `sweep`."""

    __slots__ = (
        "_ghosts",
        "_hand",
        "_main",
        "_small",
        "_small_bytes",
        "bytes_used",
        "entries",
        "evictions",
        "expirations",
        "max_bytes",
        "max_value_bytes",
    )

    def __init__(self, max_bytes: int, max_value_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.max_value_bytes = max_value_bytes
        self.entries: dict[bytes, Entry] = {}
        self.bytes_used = 0
        """Law: equals the sum of entry sizes plus GHOST_BYTES per ghost, never above max_bytes."""
        self.evictions = 0
        self.expirations = 0
        anchor = Lane(-1)
        self._small = _ring(anchor)
        self._main = _ring(anchor)
        self._small_bytes = 0
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._hand: Entry | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def put(self, entry: Entry) -> bool:
        """Store it, replacing an older entry of its key; False if it is too large or outdated."""
        if len(entry.bulk) > self.max_value_bytes + 32 or entry.size > self.max_bytes:
            self.remove(entry.key)
            return False
        old = self.entries.get(entry.key)
        if old is not None:
            if old.lane is entry.lane and old.as_of > entry.as_of:
                return False  # A6: what is already newer stays
            entry.frequency = old.frequency
            to_main = old.in_main
            self._discard(old)
        else:
            to_main = self._forget_ghost(crc32(entry.key))
        self.entries[entry.key] = entry
        self.bytes_used += entry.size
        self._link(self._main if to_main else self._small, entry)
        entry.in_main = to_main
        if not to_main:
            self._small_bytes += entry.size
        if self.bytes_used > self.max_bytes:
            self._evict()
        return True

    def remove(self, key: bytes) -> bool:
        entry = self.entries.get(key)
        if entry is None:
            return False
        self._discard(entry)
        return True

    def drop(self, key: bytes, seq: int) -> bool:
        """A4: forget `key` if what is held is older than record `seq`."""
        entry = self.entries.get(key)
        if entry is None or entry.as_of >= seq:
            return False
        self._discard(entry)
        return True

    def drop_prefix(self, lane: Lane, prefix: bytes, seq: int | None = None) -> int:
        """Forget the lane's keys under `prefix` (those older than record `seq`, if given)."""
        doomed = [
            e
            for key, e in self.entries.items()
            if key.startswith(prefix) and e.lane is lane and (seq is None or e.as_of < seq)
        ]
        for entry in doomed:
            self._discard(entry)
        return len(doomed)

    def drop_tagged(self, lane: Lane) -> int:
        doomed = [e for e in self.entries.values() if e.tags and e.lane is lane]
        for entry in doomed:
            self._discard(entry)
        return len(doomed)

    def drop_lane(self, lane: Lane, seq: int | None = None) -> int:
        """Forget the lane's entries (A5), or those older than `seq` (a record for everything)."""
        doomed = [
            e for e in self.entries.values() if e.lane is lane and (seq is None or e.as_of < seq)
        ]
        for entry in doomed:
            self._discard(entry)
        return len(doomed)

    def sweep(self, now_ms: float, keep_stale_ms: float, limit: int) -> int:
        """Visit the next `limit` entries and forget the expired ones.

        `keep_stale_ms`: how long past its deadline an entry is kept because
        stale-if-error may still serve it.
        """
        expired = 0
        hand = self._hand
        for _ in range(min(limit, len(self.entries) + 2)):
            if hand is None or hand is self._small:
                hand = self._small.next if hand is None else self._main.next
                if hand is self._small:
                    hand = self._main.next
            if hand is self._main:
                hand = None
                continue
            following = hand.next
            if now_ms >= hand.deadline_ms + keep_stale_ms:
                self._hand = None
                self._discard(hand)
                expired += 1
            hand = following
        self._hand = hand
        self.expirations += expired
        return expired

    # -- the rings ---------------------------------------------------------------

    def _link(self, ring: Entry, entry: Entry) -> None:
        last = ring.prev
        last.next = entry
        entry.prev = last
        entry.next = ring
        ring.prev = entry

    def _unlink(self, entry: Entry) -> None:
        if entry is self._hand:
            self._hand = entry.next
        entry.prev.next = entry.next
        entry.next.prev = entry.prev
        if not entry.in_main:
            self._small_bytes -= entry.size

    def _discard(self, entry: Entry) -> None:
        self._unlink(entry)
        del entry.prev, entry.next
        del self.entries[entry.key]
        self.bytes_used -= entry.size

    def _evict(self) -> None:
        small_target = self.max_bytes * SMALL_SHARE
        while self.bytes_used > self.max_bytes:
            if self._small_bytes > small_target or self._main.next is self._main:
                if self._small.next is self._small:
                    self._drop_oldest_ghost()
                    continue
                self._evict_small()
            else:
                self._evict_main()

    def _evict_small(self) -> None:
        entry = self._small.next
        if entry.frequency > 1:
            self._unlink(entry)
            entry.in_main = True
            entry.frequency = 0
            self._link(self._main, entry)
            return
        self._discard(entry)
        self.evictions += 1
        self._remember_ghost(crc32(entry.key))

    def _evict_main(self) -> None:
        entry = self._main.next
        if entry.frequency > 0:
            entry.frequency -= 1
            self._unlink(entry)
            self._link(self._main, entry)
            return
        self._discard(entry)
        self.evictions += 1

    # -- the ghosts: hashes of keys that left the small queue unused ------------------

    def _remember_ghost(self, mark: int) -> None:
        if mark in self._ghosts:
            return
        self._ghosts[mark] = None
        self.bytes_used += GHOST_BYTES
        if len(self._ghosts) > max(len(self.entries), 16):
            self._drop_oldest_ghost()

    def _forget_ghost(self, mark: int) -> bool:
        if mark not in self._ghosts:
            return False
        del self._ghosts[mark]
        self.bytes_used -= GHOST_BYTES
        return True

    def _drop_oldest_ghost(self) -> None:
        if self._ghosts:
            self._ghosts.popitem(last=False)
            self.bytes_used -= GHOST_BYTES

    def measured_bytes(self) -> int:
        """`bytes_used` counted anew, for the invariant check."""
        return sum(e.size for e in self.entries.values()) + GHOST_BYTES * len(self._ghosts)
