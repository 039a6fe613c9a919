"""What a record covers: copies to drop, values on their way to void, lines of leases to wake (A4).

A record lists keys, tags and prefixes, or covers everything. All of it is taken out of this
node's hands in one step, in L1 and in the page by which clients prove theirs, whether the record
came over the bus, from the log, or is this node's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from coherenced.core.leases import Leases
from coherenced.core.model import EVERYTHING, Record
from coherenced.core.page import Page
from coherenced.core.tickets import Tickets

MAX_TAGS_REMEMBERED: Final = 100_000
"""Tags of which a lane knows when each was invalidated last; with more, tagged entries go."""


class Covers:
    """Applies records to everything that one node holds."""

    def __init__(self, l1: L1, tickets: Tickets, leases: Leases, page: Page) -> None:
        self.records = self.dropped = 0
        self._l1 = l1
        self._tickets = tickets
        self._leases = leases
        self._lines = leases.lines
        self._page = page

    def cover(self, lane: Lane, records: Sequence[Record]) -> None:
        """Drop and void whatever `records` cover, and is older."""
        self.records += len(records)
        if len(records) == 1:
            self._page.touch(records[0].keys)
        else:
            self._page.touch([key for record in records for key in record.keys])
        l1, asked = self._l1, self._tickets.by_key
        for record in records:
            seq, entries = record.seq, l1.entries
            for key in record.keys:
                # Most keys of most records are neither held nor asked for here: two look-ups.
                entry = entries.get(key)
                if entry is not None and entry.as_of < seq:
                    l1.discard(entry)
                    self.dropped += 1
                if key in asked:
                    self._tickets.hit(key, seq)
            if record.flags & EVERYTHING or record.prefixes or record.tags:
                self._cover_many(lane, record)
            if self._lines:
                self._wake(record)

    def _wake(self, record: Record) -> None:
        """L1: whoever waits in line for one of its keys."""
        for key in record.keys:
            self._leases.on_covered(key, record.seq)
        if record.everything or record.prefixes:
            self._leases.on_wide((b"",) if record.everything else record.prefixes, record.seq)

    def _cover_many(self, lane: Lane, record: Record) -> None:
        """T1: what covers keys that it does not list."""
        seq = record.seq
        if record.everything or record.prefixes:
            self._page.drop()
        if record.tags:
            self._cover_tags(lane, record)
        for prefix in record.prefixes:
            self._l1.end_prefix(prefix, seq)
            self._tickets.hit_prefix(prefix, seq)
        if record.everything:
            if lane.relied_to < seq:
                self.dropped += self._l1.drop_all()
            else:  # something may be held that is as new as the record
                self._l1.end_prefix(b"", seq)
            self._tickets.hit_all(seq)

    def _cover_tags(self, lane: Lane, record: Record) -> None:
        """T1: one record, whatever the number of members: they die by comparison when looked at."""
        if len(lane.tag_seq) + len(record.tags) > MAX_TAGS_REMEMBERED:
            self._l1.end_tagged(record.seq)
            self._tickets.void_all()
            lane.tag_seq.clear()
        self._page.touch_tags(record.tags)
        for tag in record.tags:
            # An own record may have been covered ahead of older ones: never back.
            lane.tag_seq[tag] = max(record.seq, lane.tag_seq.get(tag, 0))
        self._tickets.hit_all(record.seq)  # which tags a value has is not known before it lands
