"""What was invalidated by a prefix, and has not been looked for yet (T1).

Which of the entries a prefix covers is known only by looking at all of them, and while a node looks
at a million keys it answers nobody. So the record leaves a mark, its prefix and its sequence: from
that moment on whoever looks at an entry compares the two, and what the mark covers is gone. The
walk that gives its memory back (`L1.sweep`) comes behind, a few entries at a time. A mark is
forgotten when a whole round of that walk, begun after it was set, has ended.

    round      |<------------- 1 ------------->|<------------- 2 ------------->|<- 3 …
    marks      a (set before it began)          b is looked for from here on    b is forgotten
                          b (set meanwhile)     a is forgotten

Whether a key is covered costs a search among the prefixes, however many there are. The last of
them, in order, that is not behind the key is its prefix, or is a prefix of it away from being so:
any other prefix of the key is a prefix of that one, too, so each knows the next longer one that
it is within. With more than MOST_MARKS of them everything that is older than the newest is taken
for covered: a cache may forget too much.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from coherenced.core.entry import Entry

MOST_MARKS: Final = 4_096


class Marks:
    """The marks of one store. Sequences are those of its lane, in one epoch."""

    __slots__ = ("_fresh", "_fresh_tagged", "_names", "_outer", "_seqs", "newest", "tagged")

    def __init__(self) -> None:
        self.newest = 0
        """The highest sequence of them all: nothing that is as new is covered."""
        self.tagged = 0
        """Whatever carries tags and is older than this is covered."""
        self._names: list[bytes] = []
        """The prefixes, in order."""
        self._seqs: dict[bytes, int] = {}
        self._outer: dict[bytes, bytes | None] = {}
        """Prefix -> the longest other one that it begins with."""
        self._fresh: set[bytes] = set()
        """Those that were set since the round began: it is not theirs."""
        self._fresh_tagged = False

    def __len__(self) -> int:
        return len(self._names) + (self.tagged > 0)

    def add(self, prefix: bytes, seq: int, *, fresh: bool) -> None:
        """What begins with `prefix` and is older than `seq` is covered. `fresh`: the round has
        begun already."""
        self.newest = max(self.newest, seq)
        known = self._seqs.get(prefix)
        if known is None:
            if len(self._names) >= MOST_MARKS:
                self._names, prefix, seq = [], b"", self.newest
                self._seqs, self._outer, self._fresh = {}, {}, set()
            self._insert(prefix)
        self._seqs[prefix] = seq if known is None else max(known, seq)
        if fresh:
            self._fresh.add(prefix)

    def add_tagged(self, seq: int, *, fresh: bool) -> None:
        """Whatever carries tags and is older than `seq` is covered."""
        self.newest = max(self.newest, seq)
        self.tagged = max(self.tagged, seq)
        self._fresh_tagged |= fresh

    def cover(self, entry: Entry) -> bool:
        as_of = entry.as_of
        if as_of >= self.newest:
            return False
        if as_of < self.tagged and entry.tags:
            return True
        names, key = self._names, entry.key
        at = bisect_right(names, key)
        name = names[at - 1] if at else None
        while name is not None:
            if as_of < self._seqs[name] and key.startswith(name):
                return True
            name = self._outer[name]
        return False

    def end_round(self) -> bool:
        """A whole round has ended; the next begins. False: no mark is left."""
        self._names = sorted(self._fresh)
        self._seqs = {name: self._seqs[name] for name in self._names}
        self._outer = {}
        above: list[bytes] = []
        for name in self._names:
            while above and not name.startswith(above[-1]):
                above.pop()
            self._outer[name] = above[-1] if above else None
            above.append(name)
        self._fresh = set()
        if not self._fresh_tagged:
            self.tagged = 0
        self._fresh_tagged = False
        self.newest = max((self.tagged, *self._seqs.values()))
        return self.newest > 0

    def _insert(self, prefix: bytes) -> None:
        names, outer = self._names, self._outer
        at = bisect_left(names, prefix)
        within = names[at - 1] if at else None
        while within is not None and not prefix.startswith(within):
            within = outer[within]
        names.insert(at, prefix)
        outer[prefix] = within
        for inner in range(at + 1, len(names)):
            if not names[inner].startswith(prefix):
                break
            if outer[names[inner]] == within:
                outer[names[inner]] = prefix
