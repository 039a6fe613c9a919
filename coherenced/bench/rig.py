"""What is measured: a private server, daemons as real processes, and programs beside them.

    with Rig(directory) as rig:
        daemon = rig.daemons(1)[0]
        with Talk(daemon.socket) as talk: ...

Everything it has started is gone when it is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from coherenced.bench.processes import STOP_S, Program, plain_environment
from coherenced.bench.talk import Talk
from coherenced.embedded import EmbeddedServer, die_with_parent
from coherenced.errors import StartError
from coherenced.paths import HTTP_SOCKET_NAME, SOCKET_NAME

START_S: Final = 20.0
LASTING: Final = {"l1.max_age_ms": 600_000}
"""For what measures hits: no entry reaches its greatest age meanwhile."""


class Daemon:
    """One `coherenced serve` process with a runtime directory of its own.

    It announces its readiness as it would to a service manager, so that nobody has to
    ask it again and again while it starts.
    """

    def __init__(self, name: str, directory: Path, settings: Mapping[str, object]) -> None:
        directory.mkdir()
        self.name = name
        self.socket = directory / SOCKET_NAME
        self.http_socket = directory / HTTP_SOCKET_NAME
        self._log = directory / "log"
        self._announced = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._announced.bind(str(directory / "notify"))
        config = directory / "empty.toml"
        config.touch()  # no file of this host has a say in it
        told = {"node.name": name, "node.runtime_dir": directory, "log.format": "json", **settings}
        flags = [word for key, value in told.items() for word in ("--set", f"{key}={value}")]
        self.started_s = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "coherenced", "serve", "--config", str(config), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=plain_environment(NOTIFY_SOCKET=str(directory / "notify")),
                start_new_session=True,  # Ctrl-C is for the benchmark, which stops it in turn
                preexec_fn=die_with_parent(os.getpid()),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> float:
        """Wait until it serves; the seconds from its start. `StartError` when it does not come."""
        until_s = self.started_s + START_S
        self._announced.settimeout(0.2)
        while True:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in self._announced.recv(4096):
                    return time.perf_counter() - self.started_s
            ended = self._process.poll() is not None
            if ended or time.perf_counter() > until_s:
                lines = self._log.read_text(errors="replace").strip().splitlines()
                what = "ended at once" if ended else f"is not ready after {START_S:g} s"
                said = lines[-1] if lines else "it said nothing"
                raise StartError(f"daemon {self.name} {what}: {said}")

    def begin_stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """End it. Harmless when it has ended."""
        self.begin_stop()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._announced.close()


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

    def daemons(self, count: int, settings: Mapping[str, object] | None = None) -> list[Daemon]:
        """So many nodes, named a, b, c…, ready to serve."""
        told = {"redis.url": self.server.url, **(settings or {})}
        first = len(self._started)
        names = [chr(ord("a") + number) for number in range(first, first + count)]
        added = [Daemon(name, self.directory / name, told) for name in names]
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
