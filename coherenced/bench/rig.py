"""What is measured: a private server, daemons as real processes, and programs beside them.

    with Rig(directory) as rig:
        daemon = rig.daemons(1)[0]
        with Talk(daemon.socket) as talk: ...

Everything it has started is gone when it is left.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from coherenced.bench.processes import Program
from coherenced.bench.talk import Talk
from coherenced.embedded import EmbeddedServer
from coherenced.errors import StartError
from coherenced.lab.daemon import COHERENCED
from coherenced.lab.daemon import Daemon as Daemon

LASTING: Final = {"l1.max_age_ms": 600_000}
"""For what measures hits: no entry reaches its greatest age meanwhile."""


class Rig:
    """A directory, a private server in it, and what is started on top."""

    def __init__(self, parent: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(dir=parent))
        self.server = EmbeddedServer(self.directory)
        self._started: list[Daemon] = []
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        try:
            self.server.start()
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as last:
            last.callback(shutil.rmtree, self.directory, ignore_errors=True)
            last.callback(self.server.stop)
            for daemon in self._started:
                last.callback(daemon.stop)
            for program in self._programs:
                last.callback(program.stop)
            for daemon in self._started:  # all at once, then wait for each
                daemon.begin_stop()

    def daemons(
        self,
        count: int,
        settings: Mapping[str, object] | None = None,
        command: Sequence[str] = COHERENCED,
    ) -> list[Daemon]:
        """So many nodes, named a, b, c…, ready to serve."""
        told = {"redis.url": self.server.url, **(settings or {})}
        first = len(self._started)
        names = [chr(ord("a") + number) for number in range(first, first + count)]
        added = [Daemon(name, self.directory / name, told, command) for name in names]
        self._started += added
        for daemon in added:
            daemon.wait_ready()
        return added

    def program(self, name: str, spec: Mapping[str, Any]) -> Program:
        """A program that runs until it is stopped, or the rig is left."""
        program = Program(name, spec, self.log)
        self._programs.append(program)
        return program

    @property
    def log(self) -> Path:
        """Where programs complain."""
        return self.directory / "programs.log"

    def talk_to_server(self) -> Talk:
        return Talk(self.server.socket)

    def server_name(self) -> str:
        """`Valkey 9.1.2`."""
        with self.talk_to_server() as talk:
            info = talk.info("server")
        return f"Valkey {info.get('valkey_version') or info.get('redis_version', '?')}"

    @property
    def server_pid(self) -> int:
        pid = self.server.pid
        assert pid is not None  # the directory is new: nobody else's server is there to be joined
        return pid


def wait_until(condition: Callable[[], bool], what: str, patience_s: float = 30.0) -> None:
    """Until `condition` holds. `StartError` when it does not in time."""
    until_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > until_s:
            raise StartError(f"waited {patience_s:g} s in vain for {what}")
        time.sleep(0.005)
