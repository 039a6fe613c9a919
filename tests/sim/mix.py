"""What the clients of a run do, and how often."""

from __future__ import annotations

from typing import Final

import msgspec

from coherenced.core.model import Mutation
from coherenced.core.requests import Level

TAGS: Final = (b"red", b"blue")
COUNTER: Final = b"n:"
"""Keys with this prefix are only ever incremented."""


def set_mutation(key: bytes, value: bytes, ttl_ms: int | None = None) -> Mutation:
    argv: tuple[bytes, ...] = (b"SET", key, value)
    if ttl_ms is not None:
        argv += (b"PX", b"%d" % ttl_ms)
    return Mutation(
        argv,
        keys=(key,),
        keeps=value,
        keeps_ttl_ms=ttl_ms,
        expected_reply=b"OK",
        reply_is_known=True,
    )


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """What a client does, as weights, and how often."""

    think_ms: float = 8.0
    reads: float = 60.0
    zero_reads: float = 8.0
    multi_reads: float = 4.0
    token_reads: float = 4.0
    snapshots: float = 4.0
    loose_reads: float = 4.0
    """Reads that allow more staleness than the node's own bound."""
    sets: float = 12.0
    ttl_sets: float = 3.0
    tagged_sets: float = 2.0
    deletes: float = 2.0
    increments: float = 3.0
    invalidations: float = 2.0
    large_invalidations: float = 1.0
    """Records too large for a message of the bus: it says where the log is, and no more (W6)."""
    tag_invalidations: float = 1.0
    prefix_invalidations: float = 0.5
    prefixes: tuple[bytes, ...] = (b"k",)
    everything: float = 0.2
    flushes: float = 0.1
    transactions: float = 2.0
    compare_and_set: float = 2.0
    appends: float = 1.0
    loads: float = 8.0
    """A value that is missing, or due, is loaded under a lease and filled, or the lease is given
    back."""
    levels: tuple[int, ...] = (Level.REDIS, Level.REDIS, Level.ALL, Level.NONE, 2, Level.QUORUM)
