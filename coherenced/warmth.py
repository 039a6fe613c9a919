"""A daemon that restarts warm: the names of its hottest keys outlive it, in one small file.

Names, not values: after a restart the keys are *read again*, as any client would read them,
hottest first and at a budget, so that nothing is ever served that the log was not asked about.
It happens behind: the daemon is ready before it begins. The file is written when the daemon
stops, and every few minutes, for the case that it is killed.

    MAGIC, then for each key its length (4 bytes, big-endian) and its bytes, then the SHA-256
    of all that

A torn, foreign or damaged file is no file: the daemon starts cold, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Final, Protocol

from coherenced.core.bulk import NIL_BULK
from coherenced.core.entry import Entry
from coherenced.core.l1 import L1
from coherenced.core.requests import Outcome, Read

MAGIC: Final = b"coherenced warm 1\n"
DIGEST_BYTES: Final = 32
MAX_FILE_BYTES: Final = 64 * 1024 * 1024
SAVE_EVERY_S: Final = 300.0
KEYS_PER_READ: Final = 100
ENTRIES_PER_SLICE: Final = 2_000
"""Looked through at once: less than a millisecond."""
NAMES_PER_PART: Final = 2_000
"""Written at once: the same."""
FULL_ENOUGH: Final = 0.9
"""Share of the L1 beyond which reloading would push out what is being used."""
READ_PATIENCE_S: Final = 10.0

_length: Final = struct.Struct(">I")


class Reader(Protocol):
    """The node, as far as reloading needs it."""

    def submit(self, request: Read, done: Callable[[Outcome], None]) -> None: ...


class Damaged(Exception):
    """The file is not one that was written to its end."""


class Warmth:
    """The file, and what is done with it."""

    def __init__(
        self,
        path: Path,
        l1: L1,
        max_keys: int,
        keys_per_s: int,
        report: Callable[[str, dict[str, object]], None],
    ) -> None:
        self.path = path
        self._l1 = l1
        self._max_keys = max_keys
        self._keys_per_s = keys_per_s
        self._report = report
        self._unread: list[bytes] = []
        """Of the last run, and not read again yet: they are saved again by a stop in between."""

    async def run(self, reader: Reader) -> None:
        """Reload what the last run left, then save again and again. Until cancelled."""
        await self.reload(reader)
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            for _ in self._writing(await self.hottest()):
                await asyncio.sleep(0)

    def save(self) -> None:
        """At the end of the daemon's life, when nothing else has to go on."""
        buckets = self._buckets()
        for piece in self._l1.pieces(ENTRIES_PER_SLICE):
            _sort(piece, buckets)
        for _ in self._writing(self._with_unread(_names(buckets, self._max_keys))):
            pass

    def _with_unread(self, names: list[bytes]) -> list[bytes]:
        return list(dict.fromkeys([*names, *self._unread]))[: self._max_keys]

    # -- saving ---------------------------------------------------------------------------

    async def hottest(self) -> list[bytes]:
        """The keys to save, hottest first; looked through in slices, so that nobody waits."""
        buckets = self._buckets()
        for piece in self._l1.pieces(ENTRIES_PER_SLICE):
            _sort(piece, buckets)
            await asyncio.sleep(0)
        return _names(buckets, self._max_keys)

    def _buckets(self) -> list[deque[bytes]]:
        return [deque(maxlen=self._max_keys) for _ in range(8)]

    def _writing(self, names: list[bytes]) -> Iterator[None]:
        """Beside the old file, then in its place: there is always a whole one. In slices."""
        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
                for part in _parts(names):
                    file.write(part)
                    yield
            beside.replace(self.path)
        except OSError as error:
            self._report("warm_not_saved", {"path": str(self.path), "reason": error.strerror or ""})

    # -- reloading ------------------------------------------------------------------------

    async def reload(self, reader: Reader) -> None:
        """Read the saved keys, hottest first, at most `keys_per_s` of them a second."""
        try:
            names = self._read()
        except Damaged as error:
            self._report("warm_file_damaged", {"path": str(self.path), "reason": str(error)})
            return
        loop = asyncio.get_running_loop()
        began, asked = loop.time(), 0
        most_bytes = self._l1.max_bytes * FULL_ENOUGH
        for start in range(0, len(names), KEYS_PER_READ):
            some = names[start : start + KEYS_PER_READ]
            self._unread = names[start:]
            keys = tuple(key for key in some if key not in self._l1.entries)
            if self._l1.bytes_used > most_bytes:
                break
            if not keys:
                continue
            await self._ask(reader, keys)
            asked += len(keys)
            if self._keys_per_s:
                await asyncio.sleep(max(0.0, began + asked / self._keys_per_s - loop.time()))
        self._unread = []
        if names:
            took_ms = round((loop.time() - began) * 1e3, 1)
            self._report("warmed", {"saved": len(names), "read": asked, "ms": took_ms})

    async def _ask(self, reader: Reader, keys: tuple[bytes, ...]) -> None:
        done = asyncio.get_running_loop().create_future()

        def take(outcome: Outcome) -> None:
            if not done.done():
                done.set_result(None)

        # Nobody asks for them yet: no origin is asked for what Redis has not.
        reader.submit(Read(keys, cached_only=True, uncounted=True), take)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done, READ_PATIENCE_S)

    def _read(self) -> list[bytes]:
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Damaged(error.strerror or str(error)) from None
        return unpacked(data)[: self._max_keys]


def _sort(entries: Iterable[Entry], buckets: list[deque[bytes]]) -> None:
    """By heat, as the eviction sees it: lately used or not, in the main queue or on trial."""
    for entry in entries:
        if entry.bulk is not NIL_BULK:
            buckets[min(entry.frequency, 3) * 2 + entry.in_main].append(entry.key)


def _names(buckets: list[deque[bytes]], limit: int) -> list[bytes]:
    """The hottest `limit` of them, within the file's bound; of equal heat the newest first."""
    hottest = chain.from_iterable(reversed(bucket) for bucket in reversed(buckets))
    names = list(dict.fromkeys(islice(hottest, limit)))
    ends = list(accumulate(map(len, names)))
    most_bytes = MAX_FILE_BYTES - len(MAGIC) - DIGEST_BYTES
    if ends and ends[-1] + _length.size * len(names) > most_bytes:
        fits = (end + _length.size * count <= most_bytes for count, end in enumerate(ends, 1))
        del names[sum(fits) :]
    return names


def _parts(names: list[bytes]) -> Iterator[bytes]:
    """The file's content, piece by piece."""
    digest = hashlib.sha256(MAGIC)
    yield MAGIC
    for start in range(0, len(names), NAMES_PER_PART):
        some = names[start : start + NAMES_PER_PART]
        part = b"".join([_length.pack(len(name)) + name for name in some])
        digest.update(part)
        yield part
    yield digest.digest()


def packed(names: Iterable[bytes]) -> bytes:
    """The file's content."""
    return b"".join(_parts(list(names)))


def unpacked(data: bytes) -> list[bytes]:
    """The names in a file's content. Raises `Damaged`."""
    body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if not body.startswith(MAGIC):
        raise Damaged("it is no such file, or of another version")
    if len(data) > MAX_FILE_BYTES or hashlib.sha256(body).digest() != digest:
        raise Damaged("its checksum is wrong")
    names, at = [], len(MAGIC)
    while at < len(body):
        (length,) = _length.unpack_from(body, at)
        at += _length.size + length
        names.append(body[at - length : at])
    return names
