"""A small cluster on this host for the demo: a private server, and daemons as real processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from coherenced.cli import http
from coherenced.cli.http import Answer
from coherenced.client.sync import Client
from coherenced.embedded import EmbeddedServer, die_with_parent
from coherenced.errors import StartError, Unreachable
from coherenced.paths import HTTP_SOCKET_NAME, SOCKET_NAME

T = TypeVar("T")

START_S: Final = 20.0
STOP_S: Final = 8.0


class Daemon:
    """One daemon process with a runtime directory of its own, and a client for its socket."""

    def __init__(self, name: str, directory: Path, redis_url: str, http_address: str = "") -> None:
        self.name = name
        self.directory = directory
        self.http_address = http_address
        self.socket = directory / SOCKET_NAME
        self.http_socket = directory / HTTP_SOCKET_NAME
        self.client = Client(self.socket)
        self._log = directory / "daemon.log"
        settings = {
            "node.name": name,
            "node.runtime_dir": str(directory),
            "redis.url": redis_url,
            "listen.http": http_address,
            "log.format": "json",
        }
        directory.mkdir()
        (directory / "empty.toml").touch()  # no file of this host shall have a say in the demo
        flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "coherenced", "serve"),
                    *("--config", str(directory / "empty.toml"), *flags),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_plain_environment(),
                start_new_session=True,  # Ctrl-C is for the demo, which stops them in turn
                preexec_fn=die_with_parent(os.getpid()),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_ready(self) -> bool:
        """Serves, having joined the bus. Raises `StartError` when the process has ended."""
        if self._process.poll() is not None:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            raise StartError(
                f"daemon {self.name} ended at once: {lines[-1] if lines else 'it said nothing'}"
            )
        try:
            return http.exchange(str(self.http_socket), "GET", "/readyz").status == 200
        except Unreachable:
            return False

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """HTTP on its socket; `coherenced_ack="all"` becomes the header `coherenced-ack`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.exchange(str(self.http_socket), method, target, body, named)

    def stats(self) -> dict[str, Any]:
        return self.client.stats()

    def begin_stop(self) -> None:
        self.client.close()
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        self.begin_stop()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Cluster:
    """A server and `size` daemons, named a, b, c…; everything is gone when it is left."""

    def __init__(self, size: int, http_address: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="coherenced-demo-"))
        self.server = EmbeddedServer(self.directory)
        self.daemons: list[Daemon] = []
        self._size = size
        self._http_address = http_address

    def start_server(self) -> str:
        return self.server.start()

    def start_daemons(self) -> None:
        """All at once; returns when every one serves. Raises `StartError`."""
        for number in range(self._size):
            name = chr(ord("a") + number)
            http_address = self._http_address if number == 0 else ""
            self.daemons.append(Daemon(name, self.directory / name, self.server.url, http_address))
        for daemon in self.daemons:
            self.wait(daemon.is_ready, f"daemon {daemon.name} to serve", START_S)

    @staticmethod
    def wait(condition: Callable[[], T], what: str, patience_s: float = 5.0) -> T:
        """The first true value of `condition`. Raises `StartError` when there is none in time."""
        until = time.monotonic() + patience_s
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > until:
                raise StartError(f"waited {patience_s:g} s in vain for {what}")
            time.sleep(0.005)

    def tell_server(self, *words: str) -> str:
        """One command to the private server, as an operator would type it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(5.0)
            link.connect(str(self.server.socket))
            link.sendall(f"{' '.join(words)}\r\n".encode())
            return link.recv(1 << 16).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as last:
            last.callback(shutil.rmtree, self.directory, ignore_errors=True)
            last.callback(self.server.stop)
            for daemon in self.daemons:
                last.callback(daemon.stop)
            for daemon in self.daemons:  # all at once, then wait for each
                daemon.begin_stop()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _plain_environment() -> dict[str, str]:
    """This process's environment without what configures or supervises a daemon."""
    unwanted = ("COHERENCED_", "NOTIFY_", "WATCHDOG_", "LISTEN_", "RUNTIME_DIRECTORY")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
