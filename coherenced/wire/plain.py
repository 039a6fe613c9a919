"""GETs and SETs in the form in which nearly all clients send them: read without a parser.

The beginning of such a request tells how long its key is, so a few look-ups and slices do.
What is of another form, or incomplete, is not recognised: it is the readers' in `framing`, which
would take every request that is read here for the very same.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Final

PLAIN_HEAD: Final = len(b"*2\r\n$3\r\nGET\r\n$10\r\n")
PLAIN_GETS: Final[dict[bytes, int]] = {
    b"*2\r\n$3\r\n%b\r\n$%d\r\n" % (verb, length): PLAIN_HEAD + length + 2
    for verb in (b"GET", b"get")
    for length in range(10, 100)
}
"""The beginning of a GET -> the length of the whole, for keys whose length has two digits.

The key is what follows the beginning, without the last two bytes.
"""

_SET_AT: Final = len(b"*3\r\n$3\r\nSET\r\n")
_PLAIN_SETS: Final[dict[bytes, int]] = {
    head: len(head) + length
    for verb in (b"SET", b"set")
    for length in range(1, 256)
    for head in (b"*3\r\n$3\r\n%b\r\n$%d\r\n" % (verb, length),)
}
"""The beginning of a SET without options -> where its key ends."""


def plain_gets(data: bytes, start: int, limit: int) -> tuple[Sequence[bytes], Sequence[int]]:
    """The keys of the plain GETs that begin in `data[start:limit]`, one after the other, and where
    each of them ends; both are empty where none begins."""
    head = data[start : start + PLAIN_HEAD]
    whole = PLAIN_GETS.get(head)
    if whole is None:
        return (), ()
    size = len(data)
    number = (size - start) // whole
    if size > limit:
        number = min(number, (limit - start + whole - 1) // whole)
    last = start + (number - 1) * whole
    if number > 0 and data.startswith(head, last):
        # Keys are often equally long: then one call takes all apart.
        pieces = _apart(whole - PLAIN_HEAD - 2, number)(data, start)
        if pieces[::2].count(head) == number:
            return pieces[1::2], range(start + whole, last + whole + 1, whole)
    keys: list[bytes] = []
    ends: list[int] = []
    while start < limit:
        key_at = start + PLAIN_HEAD
        whole = PLAIN_GETS.get(data[start:key_at])
        if whole is None:
            break
        start += whole
        if start > size:
            break
        keys.append(data[key_at : start - 2])
        ends.append(start)
    return keys, ends


@functools.lru_cache(maxsize=256)
def _apart(length: int, number: int) -> Callable[[bytes, int], tuple[bytes, ...]]:
    """Takes so many GETs of keys of this length apart: a beginning, a key, a beginning, …"""
    return struct.Struct(f"{PLAIN_HEAD}s{length}s2x" * number).unpack_from


def plain_set(data: bytes) -> tuple[bytes, bytes] | None:
    """The key, and the value as a bulk string, of the one plain SET that `data` is; None: it is
    something else."""
    key_at = PLAIN_HEAD
    key_end = _PLAIN_SETS.get(data[:key_at])
    if key_end is None:  # the length of its key has not two digits, or it is no SET
        key_at = data.find(b"\n", _SET_AT) + 1
        key_end = _PLAIN_SETS.get(data[:key_at])
        if key_end is None:
            return None
    between = _between(len(data) - key_end)
    if not between or not data.startswith(between, key_end) or not data.endswith(b"\r\n"):
        return None
    return data[key_at:key_end], data[key_end + 2 :]


@functools.lru_cache(maxsize=1024)
def _between(size: int) -> bytes:
    """What is between the key and the value of a SET of which `size` bytes follow the key: only
    one length makes them so many; b"" where none does."""
    for digits in range(1, len(str(size)) + 1):
        length = size - digits - len(b"\r\n$\r\n\r\n")
        if length >= 0 and len(str(length)) == digits:
            return b"\r\n$%d\r\n" % length
    return b""
