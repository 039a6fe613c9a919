"""The answer to an /v1/mget of large values, as it leaves: value by value, in small pieces.

Made as one string it would take two or three times as much memory as the values: their texts, the
JSON, and what it outgrows while it is put together.
"""

from __future__ import annotations

import asyncio
import codecs
from binascii import b2a_base64
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from coherenced.core.requests import Value
from coherenced.serve.http_context import JSON_TYPE
from coherenced.serve.http_schema import Name, found_of

LARGE_BYTES: Final = 1 << 20
"""Values that are more together leave in pieces."""
PIECE_BYTES: Final = 3 * 16_384
"""Of a value; a multiple of three, so that the pieces of its base64 make one."""
TURN_BYTES: Final = 1 << 20
"""So much, and others have their turn."""

_encode: Final = msgspec.json.Encoder().encode


class Rows(web.Response):
    """200, with the values in the order of their keys. `held_bytes`: of values that it holds."""

    def __init__(self, keys: Sequence[Name], values: Sequence[Value], held_bytes: int) -> None:
        super().__init__(body=pieces_of(keys, values), content_type=JSON_TYPE)
        self.held_bytes = held_bytes


async def pieces_of(keys: Sequence[Name], values: Sequence[Value]) -> AsyncIterator[bytes]:
    """The JSON of an `MGetAnswer`."""
    left = list(reversed(values))
    out, since = [b'{"values":['], 0
    for index, key in enumerate(keys):
        value = left.pop()  # when it has left, it is held here no longer
        if index:
            out.append(b",")
        for piece in _row(key, value):
            out.append(piece)
            since += len(piece)
            if len(piece) >= PIECE_BYTES or since >= TURN_BYTES:
                yield b"".join(out)
                out.clear()
            if since >= TURN_BYTES:
                since = 0
                await asyncio.sleep(0)
    out.append(b"]}")
    yield b"".join(out)


def _row(key: Name, value: Value) -> Iterator[bytes]:
    raw = value.value
    if raw is None or len(raw) <= PIECE_BYTES:
        yield _encode(found_of(key, value))
        return
    is_text = _is_text(raw)
    yield _encode(found_of(key, value, with_value=False))[:-1]
    yield b',"value":"' if is_text else b',"value_base64":"'
    yield from _text(raw) if is_text else _base64(raw)
    yield b'"}'


def _slices(raw: bytes) -> Iterator[bytes]:
    for start in range(0, len(raw), PIECE_BYTES):
        yield raw[start : start + PIECE_BYTES]


def _is_text(raw: bytes) -> bool:
    decoder = _decoder()
    try:
        for part in _slices(raw):
            decoder.decode(part)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _text(raw: bytes) -> Iterator[bytes]:
    """The inside of a JSON string."""
    decoder = _decoder()
    for part in _slices(raw):
        yield _encode(decoder.decode(part))[1:-1]


def _base64(raw: bytes) -> Iterator[bytes]:
    for part in _slices(raw):
        yield b2a_base64(part, newline=False)


def _decoder() -> Any:
    return codecs.getincrementaldecoder("utf-8")()
