"""The RESP front end: sockets in, `NodePort` out.

Reading order: `wire/commands` (the one table), `resp_connection` (one client: the hot
loop, and the order of replies), `resp_transaction` (MULTI, WATCH), `resp_local` (what the
connection answers itself), `resp_about` (what the daemon tells of itself). This file
accepts connections and counts.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from coherenced.serve.doors import Door
from coherenced.serve.quiet import Poller, Tally
from coherenced.serve.resp_connection import RespConnection
from coherenced.serve.resp_leases import Borrowers
from coherenced.serve.resp_settings import RespSettings
from coherenced.serve.unread import Unread

if TYPE_CHECKING:
    from coherenced.serve.port import NodePort

BACKLOG: Final = 4096
MAX_REFUSED: Final = 256
"""Clients that are being told that there are too many of them: beyond, they are just cut off."""
SAMPLE_EVERY: Final = 256
"""Of so many requests, roughly, the latency of one chunk of hits is measured."""


class RespFront:
    """Every RESP listener of the daemon. Counters are plain integers."""

    def __init__(
        self,
        port: NodePort,
        settings: RespSettings | None = None,
        observe_ms: Callable[[float], None] | None = None,
        door: Door | None = None,
    ) -> None:
        self.port = port
        self.door = door or Door("resp")
        self.settings = settings or RespSettings()
        self.borrowers = Borrowers(port)
        self.connections: dict[int, RespConnection] = {}
        """By the number that CLIENT ID tells."""
        self.since_ms = port.now_ms()
        self.tally = Tally(SAMPLE_EVERY if observe_ms is not None else sys.maxsize)
        self.errors = self.accepted = 0
        self.overflows = 0
        """Connections cut off because their client did not read."""
        self.unread = Unread()
        self.poller: Poller | None = None
        """Once it listens."""
        self._observe_ms = observe_ms
        self._listening: list[asyncio.AbstractServer] = []
        self._refused: set[RespConnection] = set()
        """Too many, and still to be told so."""
        self._empty = asyncio.Event()
        self._next_number = 1

    # -- listening --------------------------------------------------------------------

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on these bound sockets (Unix or TCP); they are closed with the front."""
        loop = asyncio.get_running_loop()
        self.poller = Poller(loop)
        for sock in sockets:
            server: asyncio.AbstractServer
            if sock.family == socket.AF_UNIX:
                # Whoever bound the socket file removes it: it may belong to systemd.
                keep: dict[str, Any] = (
                    {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
                )
                server = await loop.create_unix_server(
                    self.connection, sock=sock, backlog=BACKLOG, **keep
                )
            else:
                server = await loop.create_server(self.connection, sock=sock, backlog=BACKLOG)
            self._listening.append(server)

    def connection(self) -> RespConnection:
        """A new client's protocol object: asyncio's protocol factory."""
        return RespConnection(self)

    def reconfigure(self, settings: RespSettings) -> None:
        """Other bounds from now on, for those who are connected, too."""
        self.settings = settings
        for connection in self.connections.values():
            connection.reconfigured()

    async def stop_accepting(self) -> None:
        """Take no new connections and no new requests; what is under way goes on."""
        for server in self._listening:
            server.close()
        self._listening.clear()
        for connection in tuple(self.connections.values()):
            connection.retire()

    async def close(self, grace_s: float = 5.0) -> None:
        """Stop, let every reply that is still owed go out, at most `grace_s`, then hang up."""
        await self.stop_accepting()
        self._empty.clear()
        if self.connections:
            try:
                await asyncio.wait_for(self._empty.wait(), grace_s)
            except TimeoutError:
                for connection in tuple(self.connections.values()):
                    connection.abort()
        for connection in tuple(self._refused):
            connection.abort()
        self.door.close()
        if self.poller is not None:
            self.poller.close()

    # -- connections ------------------------------------------------------------------

    def enter(self, connection: RespConnection) -> bool:
        """A client has connected; False: there are too many, and it is to be told."""
        if not self.door.admits(len(self.connections), self.settings.max_connections):
            self._refused.add(connection)
            if len(self._refused) > MAX_REFUSED or self.door.is_crowded:
                connection.abort()
            return False
        self.accepted += 1
        connection.number = self._next_number
        connection.since_ms = self.port.now_ms()
        self._next_number += 1
        self.connections[connection.number] = connection
        return True

    def leave(self, connection: RespConnection) -> None:
        self.door.left()
        self._refused.discard(connection)
        self.connections.pop(connection.number, None)
        if not self.connections:
            self._empty.set()

    # -- counting ---------------------------------------------------------------------

    def soon(self, callback: Callable[[], None]) -> None:
        """Call it when everybody who has sent something had a turn."""
        asyncio.get_running_loop().call_soon(callback)

    def later(self, delay_ms: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call it after that time."""
        return asyncio.get_running_loop().call_later(delay_ms / 1e3, callback)

    def sample(self, arrived_ms: float) -> None:
        """Measure one chunk of hits: from its arrival until its replies are handed over."""
        self.tally.sample_at = self.tally.requests + SAMPLE_EVERY
        if self._observe_ms is not None:
            self._observe_ms(self.port.now_ms() - arrived_ms)

    @property
    def requests(self) -> int:
        return self.tally.requests

    def stats(self) -> dict[str, int]:
        """requests, errors, connections, accepted, rejected, overflows."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "connections": len(self.connections),
            "accepted": self.accepted,
            "rejected": self.door.turned_away,
            "overflows": self.overflows,
        }


async def serve_resp(
    port: NodePort,
    sockets: Sequence[socket.socket],
    settings: RespSettings | None = None,
    observe_ms: Callable[[float], None] | None = None,
    door: Door | None = None,
) -> RespFront:
    """Serve `port` on these bound sockets; `close()` what is returned to stop.

    `observe_ms` is given the latency of hits, now and then; clients come in by `door`.
    """
    front = RespFront(port, settings, observe_ms, door)
    await front.listen(sockets)
    return front
