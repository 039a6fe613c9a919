"""Python objects to the bytes that are stored, and back.

The default, `MSGPACK`:

- `bytes` are stored as they are, so that every other language (and `redis-cli`) reads
  and writes them unchanged;
- anything else msgpack can hold is stored as one byte 0xC1, which no msgpack document
  and no UTF-8 text contains, followed by its msgpack encoding;
- bytes that themselves begin with 0xC1 are stored in that second form too, so `get`
  always returns what `set` was given.

A stored value that does not begin with 0xC1 therefore comes back as `bytes`. As in every
msgpack, a tuple or a set comes back as a list and a dataclass as a dict.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from coherenced.errors import UsageError

MARKER: Final = b"\xc1"
"""First byte of a stored msgpack document: the one byte that the msgpack format never uses."""


ABSENT: Final = MARKER + b"\xc0"
"""None, as the default serializer stores it, and what a loader returned says with every one."""
NOTHING: Final = MARKER + MARKER
"""Known not to exist (`negative_ttl`), with every serializer: who reads it finds nothing there."""


class Serializer(Protocol):
    """What `serializer=` takes; `pickle` and `json` fit once their text is encoded."""

    def dumps(self, value: Any, /) -> bytes: ...

    def loads(self, stored: bytes, /) -> Any: ...


class Msgpack:
    """The default serializer; see the module's text. msgspec is loaded when first needed."""

    __slots__ = ("_decode", "_encode", "_malformed")

    def __init__(self) -> None:
        self._encode: Callable[[Any], bytes] | None = None
        self._decode: Callable[[bytes], Any] | None = None
        self._malformed: type[Exception] = ValueError

    def dumps(self, value: Any, /) -> bytes:
        """The bytes to store. Raises `UsageError` for what msgpack cannot hold."""
        if isinstance(value, bytes | bytearray | memoryview):
            raw = bytes(value)
            if not raw.startswith(MARKER):
                return raw
            value = raw
        encode = self._encode or self._load()[0]
        try:
            return MARKER + encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UsageError(
                f"a value of type {type(value).__name__} cannot be stored ({error}): "
                "pass bytes, what msgpack can hold, or a serializer= of your own"
            ) from error

    def loads(self, stored: bytes, /) -> Any:
        """The object behind the stored bytes; bytes written by others come back as they are."""
        if not stored.startswith(MARKER):
            return stored
        decode = self._decode or self._load()[1]
        try:
            return decode(stored[1:])
        except (self._malformed, UnicodeDecodeError, RecursionError):
            return stored  # not ours: some other program's bytes that happen to begin with 0xC1

    def _load(self) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
        import msgspec

        # Decoder first: another thread that sees one of them set may use both.
        self._malformed = msgspec.DecodeError
        self._decode = msgspec.msgpack.Decoder().decode
        self._encode = msgspec.msgpack.Encoder().encode
        return self._encode, self._decode


class Raw:
    """`serializer=None`: bytes in, bytes out."""

    __slots__ = ()

    def dumps(self, value: Any, /) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        raise UsageError(
            f"without a serializer a value is bytes, not {type(value).__name__}: encode it first"
        )

    def loads(self, stored: bytes, /) -> bytes:
        """The bytes themselves: what stands for None is for who asked to tell."""
        return stored


class KeepingAbsent:
    """Another serializer, beside which `ABSENT` means None."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Serializer) -> None:
        self._inner = inner

    def dumps(self, value: Any, /) -> bytes:
        return self._inner.dumps(value)

    def loads(self, stored: bytes, /) -> Any:
        return None if stored == ABSENT else self._inner.loads(stored)


def keeping_absent(serializer: Serializer) -> Serializer:
    """`serializer`, if it reads `ABSENT` as None by itself, else in a coat that does."""
    if isinstance(serializer, Msgpack | Raw):
        return serializer
    if not (hasattr(serializer, "dumps") and hasattr(serializer, "loads")):
        raise UsageError(f"serializer= has dumps and loads, {type(serializer).__name__} has not")
    return KeepingAbsent(serializer)


def serializer_of(given: Serializer | None) -> Serializer:
    """What a client uses for `serializer=`."""
    return RAW if given is None else keeping_absent(given)


MSGPACK: Final = Msgpack()
RAW: Final = Raw()
