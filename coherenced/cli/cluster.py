"""A small cluster on this host for the demo: a private server, and daemons as real processes."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from coherenced.cli import http
from coherenced.cli.http import Answer
from coherenced.embedded import EmbeddedServer
from coherenced.errors import StartError
from coherenced.lab.daemon import Daemon as ServedDaemon
from coherenced.lab.server import free_port as free_port

T = TypeVar("T")


class Daemon(ServedDaemon):
    """A daemon process, and HTTP to its socket."""

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """HTTP on its socket; `coherenced_ack="all"` becomes the header `coherenced-ack`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.exchange(str(self.http_socket), method, target, body, named)


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
            settings = {
                "redis.url": self.server.url,
                "listen.http": self._http_address if number == 0 else "",
            }
            self.daemons.append(Daemon(name, self.directory / name, settings))
        for daemon in self.daemons:
            daemon.wait_ready()

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
