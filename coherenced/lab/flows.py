"""One proxied connection: two sides, and the flow that governs each direction.

Used through `proxy`, which owns the event loop that all of this runs in.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

HEAD_BYTES: Final = 4096
"""How much of what a client sends first is searched for its name."""
QUEUE_BYTES: Final = 4 << 20
"""Most that a delay holds back per direction before it stops reading."""
WRITE_BUFFER_BYTES: Final = 1 << 20

_NAME = re.compile(rb"\bSETNAME\r\n\$\d+\r\n([^\r\n]+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Flow:
    """What happens to the bytes of one direction. The default passes them on."""

    delay_ms: float = 0.0
    hold: bool = False
    """Nothing is read: it waits in the kernel and arrives when the fault is over."""
    swallow: bool = False
    """Read and lost. Nobody is told, not even of an end."""
    lose_every: int = 0
    """Every n-th chunk is lost and the connection is cut at once. 0: none."""


PASS: Final = Flow()
HOLD: Final = Flow(hold=True)
SWALLOW: Final = Flow(swallow=True)

Selector = Callable[["Connection"], bool]


class Ruling(Protocol):
    """What a rule says: whom it touches, and the flow of each direction (None: as it is)."""

    select: Selector
    up: Flow | None
    down: Flow | None


class Owner(Protocol):
    """What a connection needs of its proxy."""

    loop: asyncio.AbstractEventLoop
    open: dict[int, Connection]
    lost_chunks: int

    @property
    def rules(self) -> Sequence[Ruling]: ...

    def connect(self, connection: Connection) -> None: ...


class Connection:
    """One client's connection and the one to the target that belongs to it."""

    def __init__(self, proxy: Owner, number: int) -> None:
        self.number = number
        self.head = b""
        """The first bytes the client sent."""
        self.name = ""
        """As given with CLIENT SETNAME (or HELLO … SETNAME)."""
        self.lost = False
        """Something was swallowed: what the two ends believe no longer agrees."""
        self.proxy = proxy
        self.client = _Side(self, "up")
        self.server = _Side(self, "down")
        self.client.peer, self.server.peer = self.server, self.client

    @property
    def node(self) -> str:
        """The <node> of `coherenced:<node>:<role>`; '' for others."""
        return self._part(1)

    @property
    def role(self) -> str:
        """The <role> of `coherenced:<node>:<role>`; '' for others."""
        return self._part(2)

    def _part(self, place: int) -> str:
        parts = self.name.split(":")
        return parts[place] if len(parts) == 3 and parts[0] == "coherenced" else ""

    def note(self, data: bytes) -> None:
        """Look for the name in what the client sends first."""
        if len(self.head) >= HEAD_BYTES:
            return
        self.head += data[: HEAD_BYTES - len(self.head)]
        if found := _NAME.search(self.head):
            self.name = found[1].decode(errors="replace")
        self.apply_rules()

    def apply_rules(self) -> None:
        up = down = PASS
        for rule in self.proxy.rules:
            if rule.select(self):
                up, down = rule.up or up, rule.down or down
        self.client.set_flow(up)
        self.server.set_flow(down)
        if self.lost and not up.swallow and not down.swallow:
            self.abort()

    def abort(self) -> None:
        """Reset both ends now."""
        self.client.abort()
        self.server.abort()
        self.forget()

    def forget(self) -> None:
        self.proxy.open.pop(self.number, None)


class _Side(asyncio.Protocol):
    """One end of a connection; `flow` governs the bytes that it receives."""

    def __init__(self, connection: Connection, direction: str) -> None:
        self.connection = connection
        self.direction = direction
        self.peer: _Side
        self.flow = PASS
        self.closed = False
        self.eof_sent = False
        """The other end's end was passed on to this one."""
        self._transport: asyncio.Transport | None = None
        self._paused: set[str] = set()
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._queued_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._chunks = 0

    # -- what the transport calls ------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if self.direction == "up":
            self._paused.add("connecting")
            self.connection.proxy.connect(self.connection)
        elif self.peer.closed:
            self.abort()
            return
        if self._paused:
            self._transport.pause_reading()
        if self.direction == "down":
            self.peer.resume("connecting")

    def data_received(self, data: bytes) -> None:
        if self.direction == "up":
            self.connection.note(data)
        flow = self.flow
        if self.closed:
            return
        if flow.swallow:
            self.connection.lost = True
            return
        if flow.lose_every:
            self._chunks += 1
            if self._chunks % flow.lose_every == 0:
                self.connection.proxy.lost_chunks += 1
                self.connection.abort()
                return
        if flow.delay_ms or flow.hold or self._queue:
            self._enqueue(data)
        else:
            self.peer.write(data)

    def eof_received(self) -> bool:
        if self.flow.swallow:
            self.connection.lost = True
        elif self.flow.delay_ms or self.flow.hold or self._queue:
            self._enqueue(None)
        else:
            self.peer.write_eof()
        return True

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True
        self._transport = None
        if self.flow.swallow:
            self.connection.lost = True  # the other end is not told
        elif self.eof_sent and self.peer.eof_sent:
            self.connection.forget()
        elif not self._queue:
            self.connection.abort()

    def pause_writing(self) -> None:
        self.peer.pause("full")

    def resume_writing(self) -> None:
        self.peer.resume("full")

    # -- what the other end calls -------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        self.eof_sent = True
        if self._transport is None or self._transport.is_closing():
            return
        if self.peer.eof_sent:  # both directions have ended
            self._transport.close()
            self.peer.close()
            return
        with contextlib.suppress(OSError, RuntimeError):
            self._transport.write_eof()

    def close(self) -> None:
        """What is buffered still goes out."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                # Linger 0: close sends RST, as a firewall or a dying host would.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def pause(self, why: str) -> None:
        if not self._paused and self._transport is not None:
            self._transport.pause_reading()
        self._paused.add(why)

    def resume(self, why: str) -> None:
        if why in self._paused:
            self._paused.remove(why)
            if not self._paused and self._transport is not None and not self.closed:
                self._transport.resume_reading()

    def set_flow(self, flow: Flow) -> None:
        if flow == self.flow:
            return
        self.flow = flow
        if flow.hold:
            self.pause("hold")
        else:
            self.resume("hold")
            self._deliver()

    # -- delays ---------------------------------------------------------------------------

    def _enqueue(self, data: bytes | None) -> None:
        now = self.connection.proxy.loop.time()
        self._queue.append((now + self.flow.delay_ms / 1000, data))
        self._queued_bytes += len(data or b"")
        if self._queued_bytes > QUEUE_BYTES:
            self.pause("queue")
        if self._timer is None:
            self._deliver()

    def _deliver(self) -> None:
        """Pass on what is due, and come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = self.connection.proxy.loop
        while self._queue and not self.flow.hold:
            due, data = self._queue[0]
            if due > loop.time():
                self._timer = loop.call_at(due, self._deliver)
                break
            self._queue.popleft()
            if data is None:
                self.peer.write_eof()
            else:
                self._queued_bytes -= len(data)
                self.peer.write(data)
        if self._queued_bytes < QUEUE_BYTES // 2:
            self.resume("queue")
        if not self._queue and self.closed:
            self.connection.abort()
