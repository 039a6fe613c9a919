"""Values as they are kept: RESP bulk strings, which are what a GET is answered with.

What is kept as it is sent need not be built for each reply; what comes in as such a string
(the last word of a SET) need not be built at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NIL_BULK: Final = b"$-1\r\n"

_HEADS: Final = tuple([b"$%d\r\n" % length for length in range(1024)])
"""How the bulk strings of most lengths begin."""


def bulk_of(value: bytes | None) -> bytes:
    """The RESP bulk string; NIL_BULK means "not there" (F4)."""
    if value is None:
        return NIL_BULK
    length = len(value)
    head = _HEADS[length] if length < len(_HEADS) else b"$%d\r\n" % length
    # Not formatted in one go: that reserves a quarter more and gives it back, which leaves
    # a hole behind each long value that only short ones would fit into.
    return b"".join((head, value, b"\r\n"))


def bulks_of(values: Sequence[bytes | None]) -> list[bytes]:
    """`bulk_of` each of them."""
    try:
        return [b"".join((_HEADS[len(value)], value, b"\r\n")) for value in values]  # type: ignore[arg-type]
    except (TypeError, IndexError):
        return list(map(bulk_of, values))  # some are not there, or long


def value_in(bulk: bytes) -> bytes:
    """The value of a bulk string that is not NIL_BULK."""
    return bulk[bulk.index(b"\n") + 1 : -2]
