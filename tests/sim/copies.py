"""The client processes of one host: the real L0 over the real counters, in virtual time.

The page is a piece of memory instead of a file; all else is what `coherenced.client.l0` and
`coherenced.page.writer` do in earnest. Each host has two such processes, so that what one has
seen the other may still hold.
"""

from __future__ import annotations

from typing import Any, Final

from coherenced.client.copies import Note
from coherenced.client.l0 import L0
from coherenced.client.replies import Entry, Version
from coherenced.core.requests import Outcome, Read, ReadResult, Value
from coherenced.page.layout import BOUND_AT, GENERATION_AT, MIN_SLOTS, VERIFIED_AT, file_bytes
from coherenced.page.writer import Counters

PROCESSES: Final = 2
BASE_MS: Final = 1e9
"""A host's clock may be below zero; the page's is not."""


class Page(Counters):
    """One incarnation's page."""

    def __init__(self, bound_ms: float) -> None:
        self.slots = MIN_SLOTS
        self.words = memoryview(bytearray(file_bytes(self.slots))).cast("Q")
        self.words[BOUND_AT] = int(bound_ms * 1e6)
        super().__init__(self.words, self.slots)

    def publish(self, verified_at_ms: float, epoch: bytes | None, applied: int) -> None:
        super().publish(verified_at_ms + BASE_MS, epoch, applied)

    @property
    def bound_ns(self) -> int:
        return self.words[BOUND_AT]

    def void(self) -> None:
        """The next daemon's first deed."""
        self.words[GENERATION_AT] += 1 << 32
        self.words[VERIFIED_AT] = 0


class Copies:
    """What the processes of one host hold."""

    def __init__(self) -> None:
        self.hits = 0
        self.page: Page | None = None
        self._processes = [L0(bytes) for _ in range(PROCESSES)]

    def restarted(self, bound_ms: float) -> Page:
        """A daemon starts: its page, under which copies are kept from now on."""
        if self.page is not None:
            self.page.void()
        self.page = Page(bound_ms)
        for process in self._processes:
            process.leave("another daemon")
            process.use(self.page)  # type: ignore[arg-type]  # as much of a reader as L0 needs
        return self.page

    def find(self, read: Read, who: int, local_ms: float) -> Value | None:
        """A process's own copy, iff it may answer this read."""
        if len(read.keys) != 1 or read.snapshot or read.skip_l1:
            return None
        bound_ms, token = read.max_staleness_ms, read.min_version
        if bound_ms is not None and bound_ms <= 0:
            return None
        process = self._processes[who % PROCESSES]
        now_ns = int((local_ms + BASE_MS) * 1e6)
        copy = process.find(read.keys[0], bound_ms, str(token or ""), now_ns)
        if copy is None:
            return None
        self.hits += 1
        epoch, _, seq = copy.version.partition(":")
        version = _version(epoch, seq)
        return Value(copy.given(None), version, "l0", 0.0)

    def note(self, read: Read, who: int, local_ms: float) -> Note | None:
        """Before the daemon is asked."""
        if len(read.keys) != 1 or read.snapshot or read.skip_l1:
            return None
        key = read.keys[0]
        return self._processes[who % PROCESSES].note(key, key, (local_ms + BASE_MS) / 1e3)

    def keep(self, note: Note, who: int, outcome: Outcome) -> None:
        if not isinstance(outcome, ReadResult) or outcome.values[0].error is not None:
            return
        value = outcome.values[0]
        version = Version(str(value.version))
        entry = Entry(value.value, value.value is not None, version, "", 0.0, value.stale)
        terms: list[Any] = [int(value.keep_ms), int(value.bound_ms), *value.labels]
        self._processes[who % PROCESSES].keep(note, value.value, entry, terms)


def _version(epoch: str, seq: str) -> Any:
    from coherenced.core.model import Version as CoreVersion

    return CoreVersion(epoch.encode(), int(seq))
