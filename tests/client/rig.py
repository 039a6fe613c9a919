"""A daemon's page that the test itself writes, and an L0 that reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coherenced.client.replies import Entry, Version
from coherenced.client.values import MSGPACK
from coherenced.errors import DaemonUnreachable
from coherenced.page.layout import MIN_SLOTS
from coherenced.page.reader import PageReader
from coherenced.page.writer import PageWriter
from tests.client.forms import Form

MINE = b"00000000000000aa"
EPOCH = "00000000000000e1"
BOUND_MS = 10_000


class Rig:
    """A daemon's page, and an L0 that reads it."""

    def __init__(self, directory: Path, form: Form, **options: Any) -> None:
        self.form = form
        self.path = directory / "page.shm"
        self.page = PageWriter(self.path, MINE, MIN_SLOTS, BOUND_MS)
        self.prove()
        self.l0 = form.l0.L0(MSGPACK.loads, **options)
        self.l0.use(PageReader(str(self.path), MINE.decode()))

    def prove(self, age_ms: float = 0.0, applied: int = 10) -> None:
        self.page.publish(now_ms() - age_ms, EPOCH.encode(), applied)

    def keep(self, key: str | bytes, value: Any, **terms: Any) -> None:
        note = self.l0.note(key, key.encode() if isinstance(key, str) else key)
        assert note is not None
        self.answer(note, value, **terms)

    def answer(
        self,
        note: Any,
        value: Any,
        *,
        ms: int = 60_000,
        bound_ms: int = BOUND_MS,
        tags: tuple[bytes, ...] = (),
        seq: int = 10,
    ) -> None:
        stored = None if value is None else MSGPACK.dumps(value)
        version = Version(f"{EPOCH}:{seq}")
        entry = Entry(value, value is not None, version, "l1", 0.0, False)
        self.l0.keep(note, stored, entry, [ms, bound_ms, *tags])

    def race(self, look: Callable[[], int | None], updates: int) -> tuple[list[Any], int]:
        """Four threads look at key "k" (None: not there) while it is counted up, as by a daemon.
        What was seen though it was over before it was asked for, and how often anything was."""
        done, wrong, seen = threading.Event(), [], [0]
        newest = [0]
        self.keep("k", 0)

        def read() -> None:
            while not done.is_set():
                floor = newest[0]
                if (value := look()) is not None:
                    seen[0] += 1
                    if value < floor:
                        wrong.append((floor, value))

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for number in range(1, updates):
            note = self.l0.note("k", b"k")
            self.answer(note, number - 1)  # an answer of before
            self.page.touch((b"k",))
            newest[0] = number
            self.keep("k", number)
        done.set()
        for reader in readers:
            reader.join()
        return wrong, seen[0]

    def has(self, key: str | bytes, *terms: Any) -> bool:
        return self.l0.find(key, *terms) is not None


def now_ms() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) * 1e3


def is_asked(client: Any, key: str, **terms: Any) -> bool:
    """Whether the daemon would be asked (there is none)."""
    try:
        client.get(key, **terms)
    except DaemonUnreachable:
        return True
    return False
