"""The journal of invalidations that could not be sent: on disk before they are accepted.

Layout: an 8-byte magic, then records `length (4) | crc32 (4) | payload`, big-endian;
the payload is msgpack of `Spooled`. Each append is fsynced before the caller is
answered. A torn last record (the process died while writing it) was never
accepted: it is cut off, and said so. A damaged record before the end is an error
that names the file, the offset, and what to do; nothing is skipped silently.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from coherenced.core.model import Mutation, Op
from coherenced.errors import CoherencedError

MAGIC: Final = b"COHSPL01"
_HEAD: Final = struct.Struct(">II")
MAX_RECORD: Final = 16 * 1024 * 1024


class SpoolError(CoherencedError):
    """The journal cannot be used: full, damaged, or not writable."""


class Spooled(msgspec.Struct, array_like=True, frozen=True):
    """One invalidation as it is journaled."""

    keys: tuple[bytes, ...]
    tags: tuple[bytes, ...]
    prefixes: tuple[bytes, ...]
    everything: bool

    @classmethod
    def of(cls, mutation: Mutation) -> Spooled:
        return cls(mutation.keys, mutation.tags, mutation.prefixes, mutation.everything)

    def mutation(self) -> Mutation:
        return Mutation(
            (),
            op=Op.INVALIDATE,
            keys=self.keys,
            tags=self.tags,
            prefixes=self.prefixes,
            everything=self.everything,
            frees_memory=True,
        )


_decode: Final = msgspec.msgpack.Decoder(Spooled).decode


class Spool:
    """An append-only file of at most `max_bytes`. Opened at start-up; survives kill -9."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.cut_bytes = 0
        """Bytes of a torn last record that were cut off at opening."""
        self._pending: list[Spooled] = []
        self._end = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolError(f"cannot open the journal {path}: {error.strerror}") from None
        try:
            self._load()
        except BaseException:
            os.close(self._fd)
            raise

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def bytes_used(self) -> int:
        return self._end

    def append(self, entries: list[Spooled]) -> None:
        """Journal these, durably; SpoolError (and nothing journaled) when that cannot be done."""
        data = b"".join(_frame(msgspec.msgpack.encode(entry)) for entry in entries)
        if self._end + len(data) > self.max_bytes:
            raise SpoolError(
                f"the journal {self.path} is full ({self._end} of {self.max_bytes} bytes): "
                "the invalidation was not accepted; raise spool.max_bytes or restore Redis"
            )
        try:
            _write_all(self._fd, data, self._end)
        except OSError as error:
            os.ftruncate(self._fd, self._end)
            raise SpoolError(
                f"cannot write the journal {self.path}: {error.strerror}; "
                "the invalidation was not accepted"
            ) from None
        self._end += len(data)
        self._pending.extend(entries)

    def pending(self) -> list[Spooled]:
        """What is journaled, in the order of acceptance."""
        return list(self._pending)

    def sent(self, count: int) -> None:
        """The first `count` entries are committed in Redis: forget them.

        OSError: the file still has them (so a restart would send them once more, which does no
        harm), until a later call succeeds.
        """
        self._pending = rest = self._pending[count:]
        if not rest:  # what a full disk allows, too
            os.ftruncate(self._fd, len(MAGIC))
            self._end = len(MAGIC)
            os.fsync(self._fd)
            return
        data = MAGIC + b"".join(_frame(msgspec.msgpack.encode(entry)) for entry in rest)
        beside = self.path.with_name(self.path.name + ".new")
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, data, 0)
            beside.replace(self.path)
        except BaseException:
            os.close(fd)
            beside.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = fd
        self._end = len(data)

    def close(self) -> None:
        os.close(self._fd)

    def _load(self) -> None:
        size = os.fstat(self._fd).st_size
        data = os.pread(self._fd, size, 0)
        if size < len(MAGIC):
            # New, or torn while it was being created: nothing was ever accepted into it.
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, MAGIC, 0)
            os.fsync(self._fd)
            self.cut_bytes, self._end = size, len(MAGIC)
            return
        if not data.startswith(MAGIC):
            raise SpoolError(f"{self.path} is not a journal of coherenced: move it away")
        at = len(MAGIC)
        while at < size:
            end, payload = _unframe(data, at)
            if payload is None:
                if end < size:
                    raise SpoolError(
                        f"the journal {self.path} is damaged at byte {at}: the invalidations after "
                        "it are unknown. Invalidate everything (coherenced invalidate --all) and "
                        "delete the file"
                    )
                break
            self._pending.append(_decode(payload))
            at = end
        if at < size:
            self.cut_bytes = size - at
            os.ftruncate(self._fd, at)
            os.fsync(self._fd)
        self._end = at


def _write_all(fd: int, data: bytes, at: int) -> None:
    """All of it and durably, or OSError."""
    if os.pwrite(fd, data, at) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(fd)


def _frame(payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), crc32(payload)) + payload


def _unframe(data: bytes, at: int) -> tuple[int, bytes | None]:
    """-> (where the record ends, its payload or None if it is torn or damaged)."""
    if at + _HEAD.size > len(data):
        return len(data), None
    length, checksum = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + length
    if length > MAX_RECORD:
        return at, None
    if end > len(data):
        return len(data), None
    payload = data[at + _HEAD.size : end]
    return end, payload if crc32(payload) == checksum else None
