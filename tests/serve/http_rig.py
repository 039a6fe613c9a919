"""A running HTTP front end on a Unix socket, and two ways to talk to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from yarl import URL

from coherenced.serve.http import HttpFront, serve_http
from coherenced.serve.http_limits import HttpLimits
from tests.serve.fake_port import FakePort


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes
    json: Any


class Rig:
    """The front end, its node, and a client."""

    def __init__(self, port: FakePort, front: HttpFront, path: str) -> None:
        self.port = port
        self.front = front
        self.path = path
        self.session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path), auto_decompress=False
        )

    async def ask(self, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        """One request; `body` is bytes or something to send as JSON; `_` in header names is `-`."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        skip = ("Content-Type",) if isinstance(body, bytes | None) else ()
        if not isinstance(body, bytes | None):
            body = msgspec.json.encode(body)
            named.setdefault("Content-Type", "application/json")
        data = BytesIO(body) if body is not None else None
        url = URL("http://localhost" + target, encoded=True)
        async with self.session.request(
            method, url, headers=named, skip_auto_headers=skip, data=data
        ) as response:
            raw = await response.read()
            is_json = "json" in response.headers.get("Content-Type", "") and raw
            return Answer(
                response.status,
                response.headers,
                raw,
                await response.json(content_type=None) if is_json else None,
            )

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)


@asynccontextmanager
async def rig(
    tmp_path: Path, port: FakePort | None = None, limits: HttpLimits | None = None
) -> AsyncIterator[Rig]:
    port = port or FakePort()
    path = str(tmp_path / "http.sock")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    front = await serve_http(port, [sock], limits)
    running = Rig(port, front, path)
    try:
        yield running
    finally:
        await running.session.close()
        await front.close(1.0)


async def until(condition: Any, seconds: float = 5.0) -> None:
    """Wait for `condition()`, turn by turn of the loop."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - anything can be a condition
            await asyncio.sleep(0.002)


async def read_response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """One answer with a Content-Length from a raw connection: head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head, await reader.readexactly(length)
