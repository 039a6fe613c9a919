"""The daemon's side of the shared page: made whole, then named; counted in with plain stores."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from zlib import crc32

from coherenced.errors import StartError
from coherenced.page import layout
from coherenced.page.layout import (
    APPLIED_AT,
    BOUND_AT,
    EPOCH_AT,
    GENERATION_AT,
    MOVED_AT,
    TABLE_AT,
    TAG_SEED,
    TAGS_AT,
    VERIFIED_AT,
    WORD,
)

_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_now_ns: Final = time.clock_gettime_ns
_LAST: Final = (1 << 64) - 1
_LEAP: Final = 1 << 32
"""How far another daemon's counter is moved on, so that it comes back to no value it ever had."""


class Counters:
    """What the core tells (`core.page.Page`), as stores into the words of a page."""

    def __init__(self, words: memoryview, slots: int) -> None:
        self.touched = 0
        """Counters moved: keys and tags, each time they were named."""
        self.drops = 0
        self._words = words
        self._mask = slots - 1
        self._verified_ns = 0
        self._epoch: bytes | None = None
        self._applied = 0

    def touch(self, keys: Iterable[bytes]) -> None:
        words, mask = self._words, self._mask
        for key in keys:
            slot = TABLE_AT + (crc32(key) & mask)
            words[slot] = words[slot] + 1 & _LAST
            self.touched += 1

    def touch_tags(self, tags: Iterable[bytes]) -> None:
        words, mask = self._words, self._mask
        words[TAGS_AT] = words[TAGS_AT] + 1 & _LAST  # before their slots: see the layout
        for tag in tags:
            slot = TABLE_AT + (crc32(tag, TAG_SEED) & mask)
            words[slot] = words[slot] + 1 & _LAST
            self.touched += 1

    def drop(self) -> None:
        words = self._words
        words[GENERATION_AT] = words[GENERATION_AT] + 1 & _LAST
        self.drops += 1

    def publish(self, verified_at_ms: float, epoch: bytes | None, applied: int) -> None:
        words = self._words
        verified_ns = int(verified_at_ms * 1e6) if verified_at_ms > 0 else 0
        if verified_ns < self._verified_ns:
            self.drop()  # clients go on with a proof until its end: it must end now
        if epoch is not self._epoch:
            self._epoch = epoch
            words[EPOCH_AT] = 0 if epoch is None else layout.number_of(epoch)
        if applied != self._applied:
            self._applied = applied
            words[MOVED_AT] = _now_ns(_BOOTTIME)
            words[APPLIED_AT] = applied  # after its time: who sees the position sees when
        if verified_ns != self._verified_ns:
            self._verified_ns = verified_ns
            words[VERIFIED_AT] = verified_ns

    def bound(self, bound_ms: float) -> None:
        """The daemon's largest B has become smaller."""
        self._words[BOUND_AT] = int(bound_ms * 1e6)


class PageWriter(Counters):
    """A new page under `path`.

    The file is made under another name and renamed when it is whole. Its blocks are reserved
    first: a full disk is told here, in one line (`StartError`), and not by a signal later.
    """

    def __init__(
        self, path: Path, incarnation: bytes, slots: int, bound_ms: float, mode: int = 0o660
    ) -> None:
        self.path = path
        self.incarnation = incarnation
        self.slots = rounded(slots)
        bound_ns = int(bound_ms * 1e6)
        try:
            self._map, self._inode = _make(path, incarnation, self.slots, bound_ns, mode)
        except OSError as error:
            raise StartError(
                f"the shared page {path} cannot be made: {error.strerror or error}"
            ) from None
        super().__init__(memoryview(self._map).cast("Q"), self.slots)

    def close(self) -> None:
        """Nothing is proved by it any more; its name goes, unless another daemon has taken it."""
        self.drop()
        self._words[VERIFIED_AT] = 0
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        self._words.release()
        self._map.close()


def _make(
    path: Path, incarnation: bytes, slots: int, bound_ns: int, mode: int
) -> tuple[mmap.mmap, int]:
    """The new file, mapped and under its name; what had the name before is void."""
    size = layout.file_bytes(slots)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(handle, 0, size)
        os.pwrite(handle, layout.header(incarnation, slots, bound_ns), 0)
        mapped = mmap.mmap(handle, size)
        # Who may use the socket may read; nobody but the daemon writes.
        os.fchmod(handle, 0o600 | (mode & 0o022) << 1)
        void(path)
        new.rename(path)
        return mapped, os.fstat(handle).st_ino
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    finally:
        os.close(handle)


def rounded(slots: int) -> int:
    """The next power of two that a table may have."""
    return min(max(layout.MIN_SLOTS, 1 << max(slots - 1, 0).bit_length()), layout.MAX_SLOTS)


def retire(path: Path) -> None:
    """A daemon without a page starts: none that another has left is to be believed."""
    void(path)
    with contextlib.suppress(OSError):
        path.unlink()


def void(path: Path) -> None:
    """End what a page of another daemon says, for those who have it mapped. For one that was
    killed: its proof would last for a bound, and who writes through us expects to be seen.

    Written, not mapped: whatever the file is, and whoever shortens it, this does no harm.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        head = os.pread(handle, WORD * (VERIFIED_AT + 1), 0)
        if len(head) < WORD * (VERIFIED_AT + 1):
            return
        words = memoryview(head).cast("Q")
        if words[layout.MAGIC_AT] != layout.MAGIC or words[layout.VERSION_AT] != layout.VERSION:
            return
        generation = words[GENERATION_AT] + _LEAP & _LAST
        os.pwrite(handle, struct.pack("=Q", generation), WORD * GENERATION_AT)
        os.pwrite(handle, struct.pack("=Q", 0), WORD * VERIFIED_AT)
    except OSError:
        return
    finally:
        os.close(handle)
