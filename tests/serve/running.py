"""A RESP front end on real sockets, beside clients that may block."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import uvloop

from coherenced.serve.listeners import unix_socket
from coherenced.serve.resp import RespFront, serve_resp
from coherenced.serve.resp_settings import RespSettings
from tests.serve.resp_rig import RespPort

T = TypeVar("T")
Serve: TypeAlias = Callable[..., Coroutine[Any, Any, RespFront]]


class Running:
    """A front on a uvloop of its own, in a thread: clients here may block."""

    def __init__(self, path: Path, settings: RespSettings, serve: Serve = serve_resp) -> None:
        self.path = path
        self.serve = serve
        self.port = RespPort()
        self.settings = settings
        self.front: RespFront
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        listening = [unix_socket(self.path, 0o600), socket.create_server(("127.0.0.1", 0))]
        self.tcp_port = listening[1].getsockname()[1]
        self.front = await self.serve(self.port, listening, self.settings)  # type: ignore[arg-type]
        self._ready.set()
        await self._stop.wait()
        await self.front.close(1.0)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(timeout_s)
        try:
            client.connect(str(self.path))
        except OSError:
            client.close()
            raise
        return client

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """The loop does nothing meanwhile."""
        stands, go_on = threading.Event(), threading.Event()
        self.loop.call_soon_threadsafe(lambda: (stands.set(), go_on.wait(10)))
        assert stands.wait(10)
        try:
            yield
        finally:
            go_on.set()

    def call(self, function: Callable[[], T]) -> T:
        """What it returns, called on the loop."""

        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(10)


def read_all(client: socket.socket) -> bytes:
    data = b""
    while chunk := client.recv(1 << 16):
        data += chunk
    return data


def read_some(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = client.recv(count - len(data))
        if not chunk:
            break
        data += chunk
    return data
