"""The L1 store: entries bounded in bytes, evicted by use, expired without being read.

The bound is exact to this formula, per entry:

    len(key) + len(bulk) + len(bulk) // 16 + ENTRY_BYTES
    and, where it has tags: TAG_BYTES + sum(len(tag) + TAG_BYTES for tag in tags)

where `bulk` is the stored RESP reply (the value and its framing) and the two
constants are what CPython 3.11 was measured to need for the bookkeeping: the
entry object, its three numbers, two bytes headers, its share of the hash table.
The sixteenth is what malloc cannot give to anybody else: while values of all
lengths come and go, holes stay between them that nothing fits into. Random
lengths up to 2, 16 and 60 KB left 2, 5 and 9 % of them, and it ended there.
The table of lately evicted keys adds GHOST_BYTES for each of its cells.

Eviction starts from Yang et al., "FIFO queues are all you need for cache eviction",
SOSP 2023: a small FIFO filters one-hit wonders, a main FIFO with re-insertion keeps
what is used, and a ghost table remembers what was evicted lately. A hit only
increments a two-bit counter. What differs is who enters the main queue: not whoever
was asked for twice, but whoever wins a challenge. At the end of the small queue an
entry looks at the oldest of the main queue, one after the other. The first that was
not used since it was looked at last is evicted in its favour; the others lose one
hit and stay; with no look left, it goes itself. Its looks are an estimate of how
often it would be used while the main queue turns round once: HIT_LOOKS for each hit
in the small queue, and for one that comes back `age` evictions after it was evicted
as often as `age` fits into the cache. So the members of a loop that does not fit
cannot wash each other out (none of them is used more than those that are held), and
yet what was popular once is soon worn down by the challenges. Chosen by replaying
traces (tests/core/test_eviction.py), as were the constants below and the
first fill of an empty cache going straight to the main queue.

The queues are rings threaded through the entries themselves (`entry`), so an
invalidated entry leaves at once and whole: no tombstones. The ghost table is in
`ghosts`.

Nothing here looks at all entries in one step, for as long as that lasts the daemon
answers nobody. What a prefix covers is marked (`marks`), and gone from then on for
whoever asks `held` or `is_ended`; what is dropped whole is put aside, index and rings.
`sweep` gives the memory of both back, and of what has expired, so many entries at a
time. Until then it is counted; whoever needs room has what is put aside first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from coherenced.core.aside import Aside
from coherenced.core.entry import (
    ENTRY_BYTES,
    HOLES_SHIFT,
    IN_MAIN,
    UNLINKED,
    Entry,
    link,
    new_ring,
)
from coherenced.core.ghosts import GHOST_BYTES, Ghosts
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.marks import Marks
from coherenced.core.model import FOREVER, NEVER

SMALL_SHARE: Final = 0.03
"""Of the bound, for the small queue."""
HIT_LOOKS: Final = 16
"""Entries of the main queue that one hit in the small queue lets an entry look at."""
MOST_RETURN_LOOKS: Final = 16
"""And those that having been evicted lately does, at most."""
GHOST_SHARE: Final = 0.9
"""For how many evictions a ghost is of any worth, as a share of the entries there are."""
SECOND_CHANCES: Final = 100
"""Entries that one eviction may spare because they were used: it must end soon."""
DISCARD_LOOKS: Final = 3
"""How many looks it is worth to forget an entry that a mark covers."""
EVICTION_LOOKS: Final = 16
"""While marks are set, entries that an eviction looks at before it takes one that is alive: so the
walk gets on faster than evictions move entries ahead of it."""


class _Reader:
    """Where somebody is who goes through the store by pieces; UNLINKED: there is no more."""

    __slots__ = ("at",)

    def __init__(self, at: Entry) -> None:
        self.at = at


class L1:
    """Bounded in bytes. Every method is O(1), but `sweep`, which is told how long it may take."""

    __slots__ = (
        "_aside",
        "_ghosts",
        "_hand",
        "_laws",
        "_main",
        "_max_bulk_bytes",
        "_readers",
        "_small",
        "_small_bytes",
        "bytes_used",
        "entries",
        "evictions",
        "expirations",
        "hits",
        "marks",
        "max_bytes",
        "swept",
        "untidy",
    )

    def __init__(self, max_bytes: int, max_value_bytes: int, laws: Laws | None = None) -> None:
        self.max_bytes = max_bytes
        self.entries: dict[bytes, Entry] = {}
        """Another one after each `drop_all`. An entry in it may have been ended: see `held`."""
        self.bytes_used = 0
        """Law: the sum of entry sizes (of those put aside, too) plus GHOST_BYTES per ghost cell,
        never above max_bytes."""
        self.hits = 0
        """By the short path; hits after a proof are counted by `reads`."""
        self.evictions = 0
        self.expirations = 0
        self.swept = 0
        """Entries that were found to be covered by a mark, or replaced before they were."""
        self.marks: Marks | None = None
        """T1: what was invalidated by prefix and has not been looked for to the end."""
        self.untidy = False
        """Whether marks are set or entries put aside: `sweep` has more to do than what expires."""
        self._laws = laws or Laws()
        self._aside = Aside()
        self._readers: list[_Reader] = []
        self._max_bulk_bytes = len(b"$%d\r\n\r\n" % max_value_bytes) + max_value_bytes
        self._small = new_ring()
        self._main = new_ring()
        self._small_bytes = 0
        self._ghosts = Ghosts()
        self._hand: Entry | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def held(self, key: bytes) -> Entry | None:
        """What is held of `key`, unless a record that does not list it has ended it (T1)."""
        entry = self.entries.get(key)
        return None if entry is None or self.is_ended(entry) else entry

    def is_ended(self, entry: Entry) -> bool:
        """T1: whether one of its tags or a prefix of its key was invalidated after it was read."""
        if entry.tags and self._laws.tags_cover and entry.covered():
            return True
        marks = self.marks
        return marks is not None and self._laws.marks_cover and marks.cover(entry)

    def put(self, entry: Entry) -> bool:
        """Store it, replacing an older entry of its key; False if it is too large or outdated."""
        key, bulk_bytes = entry.key, len(entry.bulk)
        size = len(key) + bulk_bytes + (bulk_bytes >> HOLES_SHIFT) + ENTRY_BYTES
        if entry.tags:
            size = entry.size
        if bulk_bytes > self._max_bulk_bytes or size > self.max_bytes:
            self.remove(key)
            return False
        old = self.entries.get(key)
        if old is not None:
            if old.lane is entry.lane and old.as_of > entry.as_of:
                return False  # A6: what is already newer stays
            if self.marks is not None and self.marks.cover(old):
                self.swept += 1
            # A new value is no use: it takes the place of the old one.
            entry.frequency = old.frequency
            entry.looks = old.looks
            following, last = old.next, old.prev
            old.prev = old.next = UNLINKED
            if old is self._hand:
                self._hand = entry
            if self._readers:
                self._lead_on(old, entry)
            old_bytes = len(old.bulk)
            more_bytes = size - len(key) - old_bytes - (old_bytes >> HOLES_SHIFT) - ENTRY_BYTES
            if old.tags:
                more_bytes = size - old.size
        else:
            following = self._small
            if self.evictions:
                entry.looks = self._looks_of_return(key)
            elif self._small_bytes > self.max_bytes * SMALL_SHARE:
                # Until something had to be evicted there is nothing to protect from newcomers.
                entry.looks = IN_MAIN
                following = self._main
            last = following.prev
            more_bytes = size
        self.entries[key] = entry
        self.bytes_used += more_bytes
        if entry.looks >= 0:
            self._small_bytes += more_bytes
        last.next = entry
        entry.prev = last
        entry.next = following
        following.prev = entry
        if self.bytes_used > self.max_bytes:
            self._evict(entry)
            return entry.next is not UNLINKED
        return True

    def renew(
        self,
        key: bytes,
        bulk: bytes,
        lane: Lane,
        as_of: int,
        deadline_ms: float,
        bound_ms: float,
    ) -> Entry | None:
        """`put` a value without tags or expiry where one of the same lane is held: the entry itself
        is changed, and stays where it is. None: nothing was done, it is for `put`."""
        entry = self.entries.get(key)
        if (
            entry is None
            or entry.as_of > as_of
            or entry.tags
            or entry.lane is not lane
            or self.marks is not None
            or lane.lent  # it may be among those: what was lent to it is not to be given back
        ):
            return None
        old_bytes, new_bytes = len(entry.bulk), len(bulk)
        if old_bytes != new_bytes:
            more_bytes = new_bytes - old_bytes
            more_bytes += (new_bytes >> HOLES_SHIFT) - (old_bytes >> HOLES_SHIFT)
            used = self.bytes_used + more_bytes
            if new_bytes > self._max_bulk_bytes or used > self.max_bytes:
                return None
            self.bytes_used = used
            if entry.looks >= 0:
                self._small_bytes += more_bytes
        entry.bulk = bulk
        entry.as_of = as_of
        entry.deadline_ms = deadline_ms
        entry.bound_ms = bound_ms
        entry.expires_ms = FOREVER
        return entry

    def put_all(
        self,
        keys: Sequence[bytes],
        bulks: Sequence[bytes],
        lane: Lane,
        as_of: int,
        deadline_ms: float,
        bound_ms: float,
    ) -> bool:
        """`put` values of different keys, without tags or expiry; False: nothing is done, they are
        to be put one by one. So it is if a key is held, if they do not fit easily, and ever since
        something was evicted: each newcomer is then looked up among the ghosts."""
        sizes, index = list(map(len, bulks)), self.entries
        total = sum(map(len, keys)) + sum(sizes) + ENTRY_BYTES * len(keys)
        total += sum([size >> HOLES_SHIFT for size in sizes])
        small_bytes = self.max_bytes * SMALL_SHARE
        to_main = self._small_bytes > small_bytes
        if (
            self.evictions
            or self.bytes_used + total > self.max_bytes
            or max(sizes) > self._max_bulk_bytes
            or not (to_main or self._small_bytes + total <= small_bytes)
            or not index.keys().isdisjoint(keys)
        ):
            return False
        self.bytes_used += total
        if to_main:
            following, looks = self._main, IN_MAIN
        else:
            following, looks = self._small, 0
            self._small_bytes += total
        last = following.prev
        forever = FOREVER
        for key, bulk in zip(keys, bulks, strict=True):
            entry = Entry(
                key, bulk, lane, as_of, deadline_ms, bound_ms, (), forever, 0, looks, last
            )
            last.next = entry
            index[key] = last = entry
        last.next = following
        following.prev = last
        return True

    def remove(self, key: bytes) -> bool:
        entry = self.entries.get(key)
        if entry is None:
            return False
        self.discard(entry)
        return True

    def end_prefix(self, prefix: bytes, seq: int) -> None:
        """T1: whatever begins with `prefix` and is older than record `seq` is gone from now on."""
        if self.entries:
            self._marked().add(prefix, seq, fresh=self._hand is not None)

    def end_tagged(self, seq: int) -> None:
        """The same for whatever carries tags."""
        if self.entries:
            self._marked().add_tagged(seq, fresh=self._hand is not None)

    def _marked(self) -> Marks:
        if self.marks is None:
            self.marks = Marks()
            self.untidy = True
            self._hand = None  # a round begins
        return self.marks

    def drop_all(self) -> int:
        """Forget all entries (A5), of whatever lane: how many there were."""
        entries = self.entries
        self.marks = self._hand = None
        if entries:
            self._aside.put(entries, (self._small, self._main))
            for reader in self._readers:
                reader.at = UNLINKED
            self.entries = {}
            self.untidy = True
            self._small_bytes = 0
            self._small, self._main = new_ring(), new_ring()
        return len(entries)

    def sweep(self, now_ms: float, keep_stale_ms: float, limit: int) -> int:
        """Look at the next `limit` entries, and forget those that have expired or are covered by a
        mark (the latter count for DISCARD_LOOKS); of those put aside free half as many. How many
        had expired.

        `keep_stale_ms`: how long past its deadline an entry is kept because
        stale-if-error may still serve it.
        """
        for _ in range(limit + 1 >> 1):
            if not self._aside:
                break
            self.bytes_used -= self._aside.free_one()
        expired = self._look(now_ms, keep_stale_ms, limit)
        self.expirations += expired
        self.untidy = self.marks is not None or bool(self._aside)
        return expired

    def _look(self, now_ms: float, keep_stale_ms: float, limit: int) -> int:
        """Go on with the walk: from the start of the small queue to the end of the main one, that
        is one round. Entries move only towards that end, so it sees all that were there when it
        began."""
        expired = 0
        hand, marks = self._hand, self.marks
        visits = len(self.entries) + 2
        while limit > 0 and visits > 0:
            limit -= 1
            visits -= 1
            if hand is None or hand is self._small:
                hand = self._small.next if hand is None else self._main.next
                if hand is self._small:
                    hand = self._main.next
            if hand is self._main:
                hand = None
                if marks is not None and not marks.end_round():
                    self.marks = marks = None
                continue
            following = hand.next
            if now_ms >= hand.deadline_ms + keep_stale_ms:
                self._hand = None
                self.discard(hand)
                expired += 1
            elif marks is not None and marks.cover(hand):
                self._hand = None
                self.discard(hand)
                self.swept += 1
                limit -= DISCARD_LOOKS - 1
            hand = following
        self._hand = hand
        if not self._laws.marks_stay:
            self.marks = None
        return expired

    def pieces(self, limit: int) -> Iterator[list[Entry]]:
        """All that is held, in pieces that were found by `limit` looks each; between two of them
        the store may change. What was there when the first was asked for, and stays, is in one of
        them, or in two: it was moved. The walk ends when everything is dropped."""
        reader = _Reader(self._small.next)
        self._readers.append(reader)
        try:
            left = 2 * len(self.entries) + limit
            while left > 0 and reader.at is not UNLINKED and reader.at is not self._main:
                left -= limit
                yield self._piece(reader, limit)
        finally:
            self._readers.remove(reader)

    def _piece(self, reader: _Reader, limit: int) -> list[Entry]:
        found = []
        at = reader.at
        for _ in range(limit):
            if at is self._small:
                at = self._main.next
            if at is self._main:
                break
            if not self.is_ended(at):
                found.append(at)
            at = at.next
        reader.at = at
        return found

    # -- the rings ---------------------------------------------------------------

    def _unlink(self, entry: Entry) -> None:
        following = entry.next
        if entry is self._hand:
            self._hand = following
        if self._readers:
            self._lead_on(entry, following)
        entry.prev.next = following
        following.prev = entry.prev

    def discard(self, entry: Entry) -> None:
        """Forget one of `entries`."""
        following, preceding, key = entry.next, entry.prev, entry.key
        if entry is self._hand:
            self._hand = following
        if self._readers:
            self._lead_on(entry, following)
        preceding.next = following
        following.prev = preceding
        entry.prev = entry.next = UNLINKED
        del self.entries[key]
        bulk_bytes = len(entry.bulk)
        size = len(key) + bulk_bytes + (bulk_bytes >> HOLES_SHIFT) + ENTRY_BYTES
        if entry.tags:
            size = entry.size
        self.bytes_used -= size
        if entry.looks >= 0:
            self._small_bytes -= size

    def _lead_on(self, entry: Entry, following: Entry) -> None:
        """Whoever is about to read `entry`, which leaves its ring, goes on with `following`."""
        for reader in self._readers:
            if reader.at is entry:
                reader.at = following

    def _looks_of_return(self, key: bytes) -> int:
        """What it is worth that `key` was evicted a while ago and is asked for again."""
        window = int(len(self.entries) * GHOST_SHARE)
        age = self._ghosts.forget(key, window)
        return min(window // age, MOST_RETURN_LOOKS) if age else 0

    def _evict(self, newcomer: Entry) -> None:
        """Make room. What has just been put stays in any case: it is there for a reader."""
        while self._aside and self.bytes_used > self.max_bytes:
            self.bytes_used -= self._aside.free_one()
        if self.marks is not None and self.bytes_used > self.max_bytes:
            self._look(NEVER, 0.0, EVICTION_LOOKS)
        small, main = self._small, self._main
        small_target = self.max_bytes * SMALL_SHARE
        chances = SECOND_CHANCES
        while self.bytes_used > self.max_bytes:
            first, oldest = small.next, main.next
            if first is newcomer:
                first = newcomer.next
            if oldest is newcomer:
                oldest = newcomer.next
            if first is not small and (oldest is main or self._small_bytes > small_target):
                looks = first.looks + first.frequency * HIT_LOOKS if chances > 0 else 0
                if not looks:
                    self._evict_one(first)
                    continue
                main_bytes = self.bytes_used - self._small_bytes + first.size
                if oldest is main or main_bytes <= self.max_bytes - small_target:
                    chances -= 1  # there is room in the main queue's share: nobody need go
                    self._promote(first)
                else:
                    self._challenge(first, looks, newcomer)
            elif oldest is not main:
                if oldest.frequency and chances > 0:
                    chances -= 1
                    self._spare(oldest)
                else:
                    self._evict_one(oldest)
            else:  # nothing is left but the newcomer: even the memory of others gives way
                self.bytes_used -= GHOST_BYTES * len(self._ghosts)
                self._ghosts.clear()

    def _challenge(self, entry: Entry, looks: int, newcomer: Entry) -> None:
        """Evict either `entry` or one of the next `looks` of the main queue, which it replaces."""
        main = self._main
        for _ in range(looks):
            oldest = main.next
            if oldest.frequency or oldest is newcomer:
                self._spare(oldest)
            else:
                self._evict_one(oldest)
                self._promote(entry)
                return
        self._evict_one(entry)

    def _promote(self, entry: Entry) -> None:
        """From the small queue to the main one, where its hits count anew."""
        self._unlink(entry)
        entry.frequency = 0
        entry.looks = IN_MAIN
        self._small_bytes -= entry.size
        link(entry, self._main)

    def _spare(self, entry: Entry) -> None:
        """Once more round the main queue, with one hit less."""
        self._unlink(entry)
        if entry.frequency:
            entry.frequency -= 1
        link(entry, self._main)

    def _evict_one(self, entry: Entry) -> None:
        window = int(len(self.entries) * GHOST_SHARE)
        self.discard(entry)
        self.evictions += 1
        if entry.looks >= 0:
            self.bytes_used += self._ghosts.remember(entry.key, window)

    def measured_bytes(self) -> int:
        """`bytes_used` counted anew, for the invariant check."""
        sizes = sum(entry.size for entry in self.entries.values())
        return sizes + self._aside.measured_bytes() + GHOST_BYTES * len(self._ghosts)

    def __del__(self) -> None:
        # The collector does not see entries: their rings would outlive the store.
        while self._aside:
            self._aside.free_one()
        for ring in (self._small, self._main):
            entry = ring.next
            ring.prev = ring.next = UNLINKED
            while entry is not ring:
                following = entry.next
                entry.prev = entry.next = UNLINKED
                entry = following
