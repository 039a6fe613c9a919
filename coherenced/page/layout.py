"""The shared page as it lies in its file: 64-bit words, in this machine's own byte order.

    words 0–15    header: what never changes while the file has this name
    words 16–31   lane 0: its generation, its proof, its position, when it moved there
    word 512 on   the table: a generation for each slot; a key's or a tag's slot is its hash

One daemon writes, any number of clients on the same host read. A word is read and written as a
whole. The daemon stores in the order *counters, then proof*; a client loads in the order *proof,
then counters*: so a client that sees a proof sees every invalidation that was counted before it.
That order is the processor's to keep. x86-64 does; others may let a later store be seen first,
and Python has no way to forbid it: there the page is not used (`ORDERED`).

A file is never changed in size and never truncated: another daemon makes another file and gives
it the name, so that a mapping stays what it was. (Who truncates it by hand kills its readers,
with SIGBUS.)
"""

from __future__ import annotations

import os
import struct
from typing import Final
from zlib import crc32

MAGIC: Final = int.from_bytes(b"COHPAGE\n", "big")
"""Read in another byte order it is another number."""
VERSION: Final = 1

WORD: Final = 8
MAGIC_AT: Final = 0
VERSION_AT: Final = 1
INCARNATION_AT: Final = 2
SLOTS_AT: Final = 3
LANES_AT: Final = 4
TIME_AT: Final = 5
"""Which clock the daemon reads: two time namespaces of one host do not share CLOCK_BOOTTIME."""
BOUND_AT: Final = 6
"""The daemon's own largest B, in nanoseconds. May fall while it runs, never rise."""

LANE_AT: Final = 16
GENERATION_AT: Final = LANE_AT
"""+1 when all copies of the lane are void, and when its proof moved back."""
VERIFIED_AT: Final = LANE_AT + 1
"""V1, nanoseconds of CLOCK_BOOTTIME; 0: never."""
TAGS_AT: Final = LANE_AT + 2
"""+1 before any tag's slot moves: what tags a value has is known only once it has been read."""
EPOCH_AT: Final = LANE_AT + 3
APPLIED_AT: Final = LANE_AT + 4
"""The sequence in the lane's log up to which everything is counted."""
MOVED_AT: Final = LANE_AT + 5
"""When it was counted so far, nanoseconds of CLOCK_BOOTTIME: from then on neither the daemon nor a
client that reads this page serves anything older. Nobody decides by it: it is for measuring, by
who looks afterwards and so disturbs nobody."""

TABLE_AT: Final = 512
MIN_SLOTS: Final = 1 << 10
MAX_SLOTS: Final = 1 << 26

TAG_SEED: Final = 0x7A6
"""A tag and a key of the same name are not in the same slot."""

ORDERED: Final = os.uname().machine in ("x86_64", "AMD64")


def file_bytes(slots: int) -> int:
    return WORD * (TABLE_AT + slots)


def key_slot(key: bytes, slots: int) -> int:
    """The word that counts for `key`. `slots` is a power of two."""
    return TABLE_AT + (crc32(key) & (slots - 1))


def tag_slot(tag: bytes, slots: int) -> int:
    return TABLE_AT + (crc32(tag, TAG_SEED) & (slots - 1))


def number_of(incarnation: bytes | str) -> int:
    """An incarnation or an epoch, 16 hex digits, as a word."""
    return int(incarnation, 16)


def clock_identity() -> int:
    """The time namespace of this process; 0 where there are none."""
    try:
        return os.stat("/proc/self/ns/time").st_ino  # noqa: PTH116  (no pathlib in clients)
    except OSError:
        return 0


def header(incarnation: bytes, slots: int, bound_ns: int) -> bytes:
    """The first words of a new file."""
    return struct.pack(
        "=7Q", MAGIC, VERSION, number_of(incarnation), slots, 1, clock_identity(), bound_ns
    )
