"""Replies as bytes: RESP2 and RESP3, the same value for either.

Small functions from values to bytes; nothing is kept between calls. Where the
two protocols differ (nil, maps, pushes, verbatim text) the caller says which one
the connection speaks. Requests are read by `framing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from coherenced.core.model import Reply, ReplyError

OK: Final = b"+OK\r\n"
PONG: Final = b"+PONG\r\n"
QUEUED: Final = b"+QUEUED\r\n"
NIL2: Final = b"$-1\r\n"
NIL3: Final = b"_\r\n"
NIL_ARRAY2: Final = b"*-1\r\n"
EMPTY_ARRAY: Final = b"*0\r\n"

_ONE_LINE: Final = str.maketrans("\r\n", "  ")


class Status(bytes):
    """Bytes that `encode` writes as a simple string, as Redis does for `OK` and for flags."""

    __slots__ = ()


def integer(number: int) -> bytes:
    return b":%d\r\n" % number


def status(text: bytes) -> bytes:
    """A simple string; `text` must be one line."""
    return b"+%b\r\n" % text


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def nil(resp3: bool) -> bytes:
    return NIL3 if resp3 else NIL2


def nil_array(resp3: bool) -> bytes:
    """What an aborted EXEC is answered with."""
    return NIL3 if resp3 else NIL_ARRAY2


def error(text: str) -> bytes:
    """An error line: `text` starts with its code (`ERR …`). Line ends in it become spaces."""
    return b"-%b\r\n" % text.translate(_ONE_LINE).encode("utf-8", "surrogateescape")


def array(items: Sequence[bytes]) -> bytes:
    """An array of replies that are bytes already."""
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def push(items: Sequence[bytes]) -> bytes:
    """An out-of-band message (RESP3 only) of replies that are bytes already."""
    return b">%d\r\n%b" % (len(items), b"".join(items))


def verbatim(text: bytes, resp3: bool) -> bytes:
    """Text for people: RESP3 marks it as such, RESP2 sends a bulk string."""
    if resp3:
        return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text)
    return bulk(text)


class Set(tuple["Value", ...]):
    """What `encode` writes as a set in RESP3 and as an array in RESP2."""

    __slots__ = ()


Value = None | bool | int | float | bytes | str | Sequence["Value"] | Mapping[bytes, "Value"]


def encode(value: Value, resp3: bool) -> bytes:
    """Any nested value; a dict is a map in RESP3 and a flat array in RESP2."""
    if value is None:
        return nil(resp3)
    if isinstance(value, Status):
        return status(value)
    if isinstance(value, bytes):
        return bulk(value)
    if isinstance(value, str):
        return bulk(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, float):
        return bulk(repr(value).encode())
    if isinstance(value, Mapping):
        parts: Iterable[Value] = (part for pair in value.items() for part in pair)
        body = b"".join(encode(part, resp3) for part in parts)
        return (
            b"%%%d\r\n%b" % (len(value), body)
            if resp3
            else b"*%d\r\n%b"
            % (
                2 * len(value),
                body,
            )
        )
    items = [encode(item, resp3) for item in value]
    if resp3 and isinstance(value, Set):
        return b"~%d\r\n%b" % (len(items), b"".join(items))
    return array(items)


def reply(value: Reply, resp3: bool) -> bytes:
    """A Redis reply whose bytes are bulk strings (see `answers` for statuses)."""
    if value is None:
        return NIL3 if resp3 else NIL2
    if value.__class__ is bytes:
        return b"$%d\r\n%b\r\n" % (len(value), value)
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, ReplyError):
        return error(value.text)
    if isinstance(value, bytes):
        return bulk(value)
    return array([reply(item, resp3) for item in value])
