"""A daemon whose garbage collections are timed: a program, `python -m coherenced.bench.watched`.

It takes the arguments of `coherenced`. Each collection is one line `generation began_s took_ms
collected` in the file that BENCH_COLLECTIONS names; the times are of the monotonic clock, so
that others can say what happened meanwhile. SIGUSR2 asks for a full collection.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

FILE: Final = "BENCH_COLLECTIONS"


def command(path: Path) -> Sequence[str]:
    """How it is started, to write to `path`."""
    return ("env", f"{FILE}={path}", sys.executable, "-m", "coherenced.bench.watched")


class Collection(NamedTuple):
    """One run of the collector: everything stood still while it lasted."""

    generation: int
    began_s: float
    took_ms: float
    collected: int


def watch(path: Path) -> None:
    """Note every collection of this process from now on."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    began_s = 0.0

    def note(phase: str, info: dict[str, Any]) -> None:
        nonlocal began_s
        now_s = time.monotonic()
        if phase == "start":
            began_s = now_s
            return
        took_ms = (now_s - began_s) * 1e3
        line = f"{info['generation']} {began_s} {took_ms} {info['collected']}\n"
        os.write(number, line.encode())

    gc.callbacks.append(note)


def collections(path: Path, since_s: float = 0.0) -> list[Collection]:
    """Those that began at `since_s` or later."""
    found = []
    for line in path.read_text().splitlines():
        generation, began_s, took_ms, collected = line.split()
        one = Collection(int(generation), float(began_s), float(took_ms), int(collected))
        if one.began_s >= since_s:
            found.append(one)
    return found


if __name__ == "__main__":
    watch(Path(os.environ[FILE]))
    signal.signal(signal.SIGUSR2, lambda *_: gc.collect())
    runpy.run_module("coherenced", run_name="__main__")
