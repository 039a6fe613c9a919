"""A client's side of the shared page: opened only if it is what it says it is."""

from __future__ import annotations

import mmap
import os
import stat
from typing import Final

from coherenced.page import layout
from coherenced.page.layout import (
    BOUND_AT,
    INCARNATION_AT,
    LANES_AT,
    MAGIC_AT,
    MAX_SLOTS,
    MIN_SLOTS,
    SLOTS_AT,
    TABLE_AT,
    TIME_AT,
    VERSION_AT,
    WORD,
)


class Unusable(Exception):
    """This file is no page for this client; its one line says why."""


_HEAD_BYTES: Final = WORD * TABLE_AT


class PageReader:
    """One daemon's page, mapped read-only. The mapping lives as long as somebody holds `words`."""

    __slots__ = ("_device", "_inode", "incarnation", "path", "slots", "words")

    def __init__(self, path: str, incarnation: str) -> None:
        """Map `path`; `Unusable` unless it is the page of the daemon of this incarnation."""
        if not layout.ORDERED:
            raise Unusable("this processor may reorder stores, and Python cannot forbid it")
        self.path = path
        self.incarnation = incarnation
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}") from None
        try:
            status = os.fstat(handle)
            self._device, self._inode = status.st_dev, status.st_ino
            self.slots = _checked(handle, status, incarnation)
            size = layout.file_bytes(self.slots)
            mapped = mmap.mmap(handle, size, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise Unusable(f"{path}: {error}") from None
        finally:
            os.close(handle)
        self.words = memoryview(mapped).cast("Q")

    @property
    def bound_ns(self) -> int:
        """The daemon's own largest B: nobody believes its proof for longer."""
        return self.words[BOUND_AT]

    def is_named(self) -> bool:
        """Whether the file still has its name: another daemon gives the name to another file."""
        try:
            status = os.stat(self.path)  # noqa: PTH116  (no pathlib in clients)
        except OSError:
            return False
        return status.st_ino == self._inode and status.st_dev == self._device


def _checked(handle: int, status: os.stat_result, incarnation: str) -> int:
    """How many slots it has; ValueError when it is foreign, old, torn, or another daemon's."""
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file")
    head = os.pread(handle, _HEAD_BYTES, 0)
    if len(head) < _HEAD_BYTES:
        raise ValueError("too short for a page")
    words = memoryview(head).cast("Q")
    if words[MAGIC_AT] != layout.MAGIC:
        raise ValueError("not a shared page of coherenced")
    if words[VERSION_AT] != layout.VERSION:
        raise ValueError(f"layout {words[VERSION_AT]}, this client reads {layout.VERSION}")
    slots = words[SLOTS_AT]
    if not MIN_SLOTS <= slots <= MAX_SLOTS or slots & (slots - 1):
        raise ValueError(f"a table of {slots} slots")
    if status.st_size != layout.file_bytes(slots):
        raise ValueError("not of the size that its header tells")
    if words[LANES_AT] != 1:
        raise ValueError(f"{words[LANES_AT]} lanes, this client knows one")
    if words[INCARNATION_AT] != layout.number_of(incarnation):
        raise ValueError("the page of another daemon")
    if words[TIME_AT] != layout.clock_identity():
        raise ValueError("its daemon reads another clock (a time namespace)")
    return slots
