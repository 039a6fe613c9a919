"""Requests out of a byte stream: arrays of bulk strings, or inline commands, within bounds.

Two readers of the same grammar. The quick one is hiredis' C parser: it takes a
chunk that starts at a request's start and looks harmless, which is all but all
of them. The careful one is plain Python, knows every bound and Redis's error
texts, and takes what the quick one must not see or cannot finish:

* a request that is not complete yet: its announced lengths are checked as soon
  as they are read, so nothing beyond a bound is ever waited for or kept;
* array headers of a million elements and more: hiredis would allocate the list
  before its first element arrives (3 thousand million of them take 24 GB of
  address space and seconds to free);
* verbatim strings: of them hiredis reads four bytes more than there are;
* inline commands, empty and nil arrays, nested types, malformed frames.

After each chunk hiredis holds nothing: whether a chunk ended inside a request is
seen by counting its asterisks, since every request needs one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
import msgspec

from coherenced.wire.inline import split_words

MAX_LINE_BYTES: Final = 64 * 1024
"""Of an inline command or of a length line, as in Redis."""
LARGE_BYTES: Final = 64 * 1024
"""A longer argument is kept in the parts in which it comes, and put together once."""
SMALL_BYTES: Final = 8 * 1024
"""Smaller parts are gathered first: nobody shall make us keep a million of them."""
UNAUTHENTICATED_ARGUMENTS: Final = 10
UNAUTHENTICATED_BULK_BYTES: Final = 16_384

_MORE: Final = object()
_STAR: Final = ord("*")
_pack: Final[Callable[[tuple[bytes, ...]], bytes]] = cast(Any, hiredis.pack_command)
_UNUSUAL: Final = re.compile(rb"\*(?![1-9]\r)")
"""No array header of one to nine elements: cheaper to look for than the next, and rare."""
_SUSPICIOUS: Final = re.compile(rb"\*(?:\d{7}|[^1-9])")
_INTEGER: Final = re.compile(rb"-?[1-9]\d{0,17}\Z|0\Z")


class FrameLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one request."""

    max_arguments: int = 1_048_576
    max_bulk_bytes: int = 64 * 1024 * 1024
    """Of one argument: the largest value."""
    max_query_bytes: int = 128 * 1024 * 1024
    """Of one request as a whole."""


class RequestReader:
    """One connection's requests. `error` is set by the first malformed one, for good."""

    __slots__ = (
        "_arguments",
        "_before",
        "_buffer",
        "_feed",
        "_gets",
        "_left",
        "_length",
        "_missing",
        "_need",
        "_parts",
        "_position",
        "error",
        "idle",
        "limits",
        "trusted",
    )

    def __init__(self, limits: FrameLimits, trusted: bool = True) -> None:
        self.limits = limits
        self.trusted = trusted
        """False until the client has authenticated: small requests only."""
        self.error = ""
        """`Protocol error: …` as Redis words it; nothing is read any more."""
        self.idle = True
        """Whether the next byte begins a request."""
        self._buffer = bytearray()
        """What the careful reader holds; empty: the quick one may take the next chunk."""
        self._position = 0
        self._need = 0
        """The careful reader can go no further before the buffer has this length."""
        self._before = 0
        """Bytes of the request under way that were already taken out of the buffer; negative: where
        in the buffer it begins. With the position it makes how long the request is so far."""
        self._left = 0
        """Arguments that are still to come; 0: at a request's start."""
        self._length = -1
        """Of the argument under way; -1: not known yet."""
        self._arguments: list[bytes] = []
        self._parts: list[bytes] = []
        """Of a large argument, about as they came; the buffer then gathers the small ones."""
        self._missing = 0
        """Bytes of it that are still to come, its line end counted."""
        self._renew()

    def _renew(self) -> None:
        reader = hiredis.Reader(notEnoughData=_MORE)
        self._feed, self._gets = reader.feed, reader.gets

    def forget(self) -> None:
        """Give back what is held of a request that will not be read to its end."""
        self._buffer.clear()
        self._parts.clear()
        self._arguments.clear()

    @property
    def held_bytes(self) -> int:
        """Of a request that is not complete yet."""
        return self._before + sum(map(len, self._parts)) + len(self._buffer) - self._position

    def feed(self, data: bytes) -> list[list[bytes]]:
        """The requests that `data` completes, in order. Look at `error` afterwards.

        Before the client is trusted only the first of them: call again with b"" for the next.

        A request of the quick reader may hold things that are no bytes: see `malformed`. (It
        also takes a simple string for a bulk string, which Redis does not, and harms nobody.)
        """
        if not self.idle or not data:
            return self._resume(data)
        stars = data.count(b"*")
        if (
            data[0] != _STAR
            or (_UNUSUAL.search(data) is not None and _SUSPICIOUS.search(data) is not None)
            or b">" in data
            or b"~" in data
            or b"\n=" in data
            or not self.trusted
        ):
            return self._careful(data)
        self._feed(data)
        try:
            requests = list(iter(self._gets, _MORE))
        except (hiredis.HiredisError, MemoryError, UnicodeError):
            self._renew()
            return self._careful(data)
        if len(data) > self.limits.max_bulk_bytes and self._has_oversized(requests):
            return self._careful(data)
        if len(requests) == stars:
            return requests
        return self._split(data, requests, stars)

    def _has_oversized(self, requests: list[list[bytes]]) -> bool:
        """Whether an argument is larger than allowed: that can only be where a chunk is."""
        bound = self.limits.max_bulk_bytes
        words = (word for request in requests if request.__class__ is list for word in request)
        if any(word.__class__ is bytes and len(word) > bound for word in words):
            self._renew()
            return True
        return False

    def _split(self, data: bytes, requests: list[list[bytes]], stars: int) -> list[list[bytes]]:
        """The chunk ends inside a request, or there are asterisks in arguments.

        With exactly one asterisk too many, and none in the last complete request, the
        last asterisk begins either that request or the incomplete one.
        """
        self._renew()
        tail = data.rfind(b"*")
        if len(requests) == stars - 1:
            last = requests[-1] if requests else []
            plain = last.__class__ is list and all(
                argument.__class__ is bytes and b"*" not in argument for argument in last
            )
            if not last or (plain and not data.startswith(pack(last), tail)):
                return requests + self._careful(data[tail:])
        return self._careful(data)

    # -- the careful reader -----------------------------------------------------------

    def _resume(self, data: bytes) -> list[list[bytes]]:
        """Finish the request under way; the quick reader takes what follows it."""
        if self.error:
            return []
        if self._missing:
            data = self._large(data)
            if self._missing:
                return []
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._need:
            return []
        requests = self._parse(1)
        if self.trusted and buffer and not self._left and not self._need:
            rest = bytes(buffer)
            buffer.clear()
            self.idle = True
            requests += self.feed(rest)
        return requests

    def _large(self, data: bytes) -> bytes:
        """One more part of a large argument; what follows it, when it is complete."""
        parts, staged = self._parts, self._buffer
        part = data[: self._missing]
        self._missing -= len(part)
        if staged or len(part) < SMALL_BYTES:
            staged += part
            if len(staged) >= LARGE_BYTES or not self._missing:
                parts.append(bytes(staged))
                staged.clear()
        else:
            parts.append(part)
        if self._missing:
            return b""
        line_end = 2
        while line_end:
            last = parts.pop()
            if len(last) > line_end:
                parts.append(last[:-line_end])
            line_end -= min(line_end, len(last))
        self._arguments.append(b"".join(parts))
        parts.clear()
        self._before += self._length + 2
        self._left -= 1
        self._length = -1
        return data[len(part) :]

    def _careful(self, data: bytes) -> list[list[bytes]]:
        self._buffer += data
        return self._parse(len(data) if self.trusted else 1)

    def _parse(self, limit: int) -> list[list[bytes]]:
        """At most `limit` requests; the buffer then starts with what was not taken."""
        requests: list[list[bytes]] = []
        try:
            while len(requests) < limit:
                request = self._next()
                if request is None:
                    break
                self._before = self._need = 0
                if request:
                    requests.append(request)
        except _Malformed as malformed:
            self.error = f"Protocol error: {malformed}"
            self._buffer.clear()
            self._arguments = []
            self._position = self._before = self._left = 0
            self.idle = False
            return requests
        taken = self._position
        if self._left:
            self._before += taken
        if self._need:
            self._need -= taken
        del self._buffer[:taken]
        self._position = 0
        self.idle = not self._buffer and not self._left
        return requests

    def _next(self) -> list[bytes] | None:
        """One request ([] for one that asks nothing); None: more bytes are needed."""
        buffer = self._buffer
        if not self._left and not self._arguments:
            start = self._position
            if start == len(buffer):
                return None
            if buffer[start] != _STAR:
                return self._inline()
            line = self._line("too big mbulk count string")
            if line is None:
                return None
            count = _number(line[1:])
            if count is None or count > self.limits.max_arguments:
                raise _Malformed("invalid multibulk length")
            if count > UNAUTHENTICATED_ARGUMENTS and not self.trusted:
                raise _Malformed("unauthenticated multibulk length")
            if count <= 0:
                return []
            self._left = count
            self._arguments = []
            self._before = -start
        while self._left:
            argument = self._argument()
            if argument is None:
                return None
            self._arguments.append(argument)
            self._left -= 1
        request, self._arguments = self._arguments, []
        return request

    def _argument(self) -> bytes | None:
        if self._length < 0:
            line = self._line("too big bulk count string")
            if line is None:
                return None
            if line[:1] != b"$":
                got = line[:1] or b"\r"
                raise _Malformed(f"expected '$', got '{got.decode('latin-1')}'")
            self._length = self._checked_length(line)
        end = self._position + self._length
        if len(self._buffer) < end + 2:
            if self._length > LARGE_BYTES:
                self._parts.append(bytes(self._buffer[self._position :]))
                self._missing = end + 2 - len(self._buffer)
                del self._buffer[self._position :]
            else:
                self._need = end + 2
            return None
        argument = _slice(self._buffer, self._position, end)
        self._position = end + 2
        self._length = -1
        return argument

    def _checked_length(self, line: bytes) -> int:
        length = _number(line[1:])
        limits = self.limits
        if length is None or length < 0:
            raise _Malformed("invalid bulk length")
        if length > UNAUTHENTICATED_BULK_BYTES and not self.trusted:
            raise _Malformed("unauthenticated bulk length")
        if length > limits.max_bulk_bytes:
            raise _Malformed(
                f"invalid bulk length: {length} bytes are more than "
                f"limits.max_value_bytes ({limits.max_bulk_bytes})"
            )
        if self._before + self._position + length > limits.max_query_bytes:
            raise _Malformed(
                f"request larger than listen.max_query_bytes ({limits.max_query_bytes})"
            )
        return length

    def _line(self, too_long: str) -> bytes | None:
        """Up to the next line end; None: it has not arrived."""
        buffer, start = self._buffer, self._position
        end = buffer.find(b"\r\n", start, start + MAX_LINE_BYTES)
        if end < 0:
            if len(buffer) - start > MAX_LINE_BYTES:
                raise _Malformed(too_long)
            self._need = len(buffer) + 1
            return None
        self._position = end + 2
        return bytes(buffer[start:end])

    def _inline(self) -> list[bytes] | None:
        buffer, start = self._buffer, self._position
        end = buffer.find(b"\n", start, start + MAX_LINE_BYTES)
        if end < 0:
            if len(buffer) - start > MAX_LINE_BYTES:
                raise _Malformed("too big inline request")
            self._need = len(buffer) + 1
            return None
        self._position = end + 1
        words = split_words(bytes(buffer[start:end]).removesuffix(b"\r"))
        if words is None:
            raise _Malformed("unbalanced quotes in request")
        return words


class _Malformed(Exception):
    """Redis's words for what is wrong with the frame."""


def pack(arguments: list[bytes]) -> bytes:
    """The request as a client sends it."""
    return _pack(tuple(arguments))


def malformed(request: Any) -> str:
    """Why a request of the quick reader is none: `Protocol error: …`; '' when it is one."""
    if request.__class__ is not list:
        return "Protocol error: expected '*'"
    for argument in request:
        if argument is None:
            return "Protocol error: invalid bulk length"
        if argument.__class__ is not bytes:
            return f"Protocol error: expected '$', got '{_type_byte(argument)}'"
    return ""


def _type_byte(argument: object) -> str:
    kinds = ((bool, "#"), (int, ":"), (float, ","), (dict, "%"), (list, "*"), (Exception, "-"))
    return next((byte for kind, byte in kinds if isinstance(argument, kind)), "?")


def _number(text: bytes) -> int | None:
    """A whole number as Redis reads it: no spaces, no plus, no leading zeros."""
    return int(text) if _INTEGER.match(text) is not None else None


def _slice(buffer: bytearray, start: int, end: int) -> bytes:
    if end - start < 4096:
        return bytes(buffer[start:end])
    with memoryview(buffer) as view:
        return bytes(view[start:end])
