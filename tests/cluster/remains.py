"""What a run leaves behind when it fails: a directory with everything that tells why.

    with Remains("network-redis8", seed) as remains:
        with Cluster(4, keep=remains.directory) as cluster:
            run = record(cluster, actions, seed=seed, remains=remains, ...)

    run.txt           the seed, the faults and the verdicts, each line written as it is said
    history.jsonl     all operations (`History.load` reads it, `python -m tests.checkers` judges it)
    clients/          the journals of client processes
    n1.log …          what the daemons logged, and `n1.stats.json` what they told at the end
    server.log …      what the servers logged

A run that is killed leaves `run.txt` at least; one that ends well leaves nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.checkers.history import Recorder

KEEP_VARIABLE: Final = "COHERENCED_TEST_HISTORIES"
"""The directory in which those of failed runs are made; by default the one for temporary files."""


class Remains:
    """Of one run. A context manager: leaving it by an exception keeps the directory and names it,
    leaving it otherwise removes it."""

    def __init__(self, name: str, seed: int) -> None:
        self.recorder = Recorder()
        """The run's: what it has recorded until it fails is kept."""
        self.bound_ms = 0.0
        self.notes: dict[str, object] = {"run": name, "seed": seed}
        """Of the history that is kept."""
        parent = os.environ.get(KEEP_VARIABLE) or None
        self.directory = Path(tempfile.mkdtemp(prefix=f"coh-h-{name}-{seed}-", dir=parent))
        self.clients = self.directory / "clients"
        self.clients.mkdir()
        self._file = (self.directory / "run.txt").open("a", buffering=1)
        self.say(f"{name}, seed {seed} (COHERENCED_TEST_SEED={seed} repeats its faults)")

    def say(self, text: str) -> None:
        """Print it, and write it down at once."""
        print(text)
        self._file.write(text + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._file.close()
            shutil.rmtree(self.directory)
            return
        history = self.recorder.history(bound_ms=self.bound_ms, notes=self.notes)
        history.save(self.directory / "history.jsonl")
        self._file.write("".join(traceback.format_exception(kind, error, trace)))
        self.say(f"everything is kept in {self.directory}")
        self._file.close()
