"""Entries for tests, and their documented size."""

from __future__ import annotations

from coherenced.core.bulk import bulk_of
from coherenced.core.entry import ENTRY_BYTES, TAG_BYTES, Entry
from coherenced.core.lane import Lane

LANE = Lane(0)


def entry(
    key: bytes,
    value: bytes | None = b"v",
    *,
    as_of: int = 1,
    deadline_ms: float = 1e9,
    tags: tuple[bytes, ...] = (),
    lane: Lane = LANE,
) -> Entry:
    return Entry(key, bulk_of(value), lane, as_of, deadline_ms, 1000.0, tags)


def formula(key: bytes, value: bytes | None, tags: tuple[bytes, ...] = ()) -> int:
    """The documented size of an entry, written down a second time."""
    bulk = 5 if value is None else 1 + len(str(len(value))) + 2 + len(value) + 2
    size = len(key) + bulk + bulk // 16 + ENTRY_BYTES
    if tags:
        size += TAG_BYTES
    for tag in tags:
        size += len(tag) + TAG_BYTES
    return size
