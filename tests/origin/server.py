"""A real HTTP origin for tests, in a thread of its own: a table behind GET, PUT and DELETE.

    with OriginServer() as origin:
        origin.rows["42"] = b"Ada"              # GET /rows/42
        origin.delay_s = 0.5; origin.status = 500
        origin.requests                          # what it was asked

Every mood is a plain attribute, changed from the test's thread between requests.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote
from zlib import crc32

from aiohttp import web


class Asked(NamedTuple):
    """One request."""

    method: str
    name: str
    body: bytes
    headers: dict[str, str]
    at_s: float


class OriginServer:
    """GET, PUT, DELETE /rows/NAME. On a loopback port, or on a Unix socket."""

    def __init__(self, unix_path: Path | None = None) -> None:
        self.rows: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        """Sent with every value."""
        self.etags = False
        """Values carry an ETag, and If-None-Match is answered 304."""
        self.delay_s = 0.0
        self.status = 0
        """Not 0: what every request is answered with."""
        self.statuses: dict[str, int] = {}
        """The same for single rows."""
        self.requests: list[Asked] = []
        self.history: dict[str, list[bytes | None]] = {}
        """What each row was written to be, in order."""
        self.unix_path = unix_path
        self.port = 0
        self._loop: asyncio.AbstractEventLoop
        self._runner: web.AppRunner | None = None
        self._thread: threading.Thread | None = None

    # -- life ------------------------------------------------------------------------------

    def start(self) -> Self:
        """Serve; again on the same address after `stop`."""
        self._loop = asyncio.new_event_loop()
        up = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(up,), daemon=True)
        self._thread.start()
        assert up.wait(20.0)
        return self

    def stop(self) -> None:
        """Be gone: connections are refused."""
        if self._thread is None:
            return

        async def end() -> None:
            assert self._runner is not None
            await self._runner.cleanup()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            asyncio.get_running_loop().stop()

        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(end()))
        self._thread.join(20.0)
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, up: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def begin() -> None:
            app = web.Application(client_max_size=1 << 28)
            app.router.add_route("*", "/rows/{name}", self._handle)
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await self._runner.setup()
            site: Any
            if self.unix_path is not None:
                self.unix_path.unlink(missing_ok=True)
                site = web.UnixSite(self._runner, str(self.unix_path))
            else:
                site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
            await site.start()
            if self.unix_path is None:
                self.port = site._server.sockets[0].getsockname()[1]
            up.set()

        self._loop.run_until_complete(begin())
        self._loop.run_forever()
        self._loop.close()

    # -- what it is -----------------------------------------------------------------------

    def url(self, place: str = "{rest}") -> str:
        """For `namespace.*.origin`."""
        if self.unix_path is not None:
            return f"http+unix://{quote(str(self.unix_path), safe='')}/rows/{place}"
        return f"http://127.0.0.1:{self.port}/rows/{place}"

    def count(self, method: str = "GET", name: str | None = None) -> int:
        return sum(a.method == method and name in (None, a.name) for a in list(self.requests))

    def counts(self) -> Counter[str]:
        return Counter(asked.method for asked in list(self.requests))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        name, body = request.match_info["name"], await request.read()
        self.requests.append(
            Asked(request.method, name, body, dict(request.headers), time.monotonic())
        )
        found = self.rows.get(name)  # before the delay: an answer may be old when it arrives
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        status = self.statuses.get(name) or self.status
        if status:
            return web.Response(status=status)
        if request.method == "PUT":
            self.rows[name] = body
            self.history.setdefault(name, []).append(body)
            return web.Response(status=204, headers=self._validators(body))
        if request.method == "DELETE":
            found = self.rows.pop(name, None)
            self.history.setdefault(name, []).append(None)
            return web.Response(status=404 if found is None else 204)
        if found is None:
            return web.Response(status=404)
        headers = {"Content-Type": "text/plain", **self.headers, **self._validators(found)}
        if self.etags and request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=self._validators(found))
        return web.Response(body=found, headers=headers)

    def _validators(self, value: bytes) -> dict[str, str]:
        return {"ETag": f'"{crc32(value):x}"'} if self.etags else {}
