"""A call as bytes: batches to send, and replies out of what arrives. No I/O, no meaning.

`Conversation` is one connection's byte stream. Everything is bounded: a long call
travels as batches, and the next is sent when the replies to the last are in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

import hiredis

from coherenced.client.replies import error_from
from coherenced.errors import ProtocolError

T = TypeVar("T")

BATCH_COMMANDS: Final = 200
"""So many keys or commands travel before their replies are awaited: bounds both sides' buffers."""

BATCH_BYTES: Final = 1 << 20
"""A batch that has grown to this size is sent, however few commands it holds."""

_MORE: Final = object()

# Its stub asks for a tuple of exactly one.
_pack: Final = cast("Callable[[tuple[bytes, ...]], bytes]", hiredis.pack_command)


class Batch(NamedTuple):
    """Bytes to send at once, and how many replies they bring."""

    data: bytes
    replies: int


class Request(Generic[T]):
    """One call: what to send, and how its replies become the result."""

    __slots__ = ("ack_s", "batches", "decode", "is_write", "otherwise", "undo", "waits")

    def __init__(
        self,
        batches: tuple[Batch, ...],
        decode: Callable[[list[Any]], T],
        *,
        is_write: bool = False,
        ack_s: float = 0.0,
        waits: bool = False,
        otherwise: Callable[[], T] | None = None,
        undo: Callable[[T], Request[None] | None] | None = None,
    ) -> None:
        self.batches = batches
        self.decode = decode
        self.is_write = is_write
        """Never sent a second time once a byte of it may have arrived."""
        self.ack_s = ack_s
        """Seconds the daemon may spend on what it is asked to wait for, or on very much, beside the
        client's own timeout."""
        self.waits = waits
        """The daemon may keep it waiting for somebody else: it needs a connection of its own."""
        self.otherwise = otherwise
        """The result when neither the daemon nor Redis can be reached; None: that is an error."""
        self.undo = undo
        """What to send if the caller has gone when the answer comes, for it holds something."""


class Conversation:
    """The bytes of one connection: its opening words, and replies out of what arrives."""

    def __init__(self, password: str = "") -> None:
        self._password = password
        self._reader = hiredis.Reader(
            protocolError=ProtocolError, replyError=error_from, notEnoughData=_MORE
        )

    def opening(self) -> Batch | None:
        """What to send before anything else; its replies go through `checked`."""
        return batch_of([(b"AUTH", self._password.encode())]) if self._password else None

    def received(self, data: bytes) -> list[Any]:
        """The replies that `data` completes. Raises `ProtocolError`: close the connection."""
        reader = self._reader
        reader.feed(data)
        replies = []
        try:
            while (reply := reader.gets()) is not _MORE:
                replies.append(reply)
        except ProtocolError as error:
            raise ProtocolError(
                f"what answers there does not speak RESP ({error}): "
                "is it coherenced.sock, not http.sock?"
            ) from None
        return replies


def parts(items: list[T], size: int = BATCH_COMMANDS) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def batch_of(commands: Iterable[tuple[bytes, ...]]) -> Batch:
    packed = [_pack(command) for command in commands]
    return Batch(packed[0] if len(packed) == 1 else b"".join(packed), len(packed))


def batches_of(commands: Iterable[tuple[bytes, ...]]) -> Iterator[Batch]:
    packed: list[bytes] = []
    size = 0
    for command in commands:
        packed.append(_pack(command))
        size += len(packed[-1])
        if len(packed) == BATCH_COMMANDS or size >= BATCH_BYTES:
            yield Batch(b"".join(packed), len(packed))
            packed, size = [], 0
    if packed:
        yield Batch(b"".join(packed), len(packed))
