"""One asyncio connection to the daemon, on which any number of calls are pipelined in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, cast

from coherenced.client.address import Address, find_daemon
from coherenced.client.faults import Lost, TimedOut, silent, unreachable
from coherenced.client.replies import checked
from coherenced.client.stream import Batch, Conversation
from coherenced.errors import ProtocolError

MAX_IN_FLIGHT: Final = 4096
"""Batches awaiting replies on one connection; further callers wait for room."""


class _Slot:
    """The replies of one batch, as they come in."""

    __slots__ = ("future", "replies", "sent_s", "wanted")

    def __init__(self, future: asyncio.Future[list[Any]], wanted: int, sent_s: float) -> None:
        self.future = future
        self.wanted = wanted
        self.sent_s = sent_s
        self.replies: list[Any] = []


class Link(asyncio.Protocol):
    """Calls go out in the order they are made, those of one turn of the loop together;
    replies come back in that order. A caller that gave up leaves its slot: its replies are
    counted off when they come, so that the others' still fit.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, address: Address) -> None:
        self.loop = loop
        self.address = address
        self.used = False
        """Has answered a call before: it may have died since, unnoticed."""
        self._conversation = Conversation(address.password)
        self._transport: asyncio.Transport | None = None
        self._gone: asyncio.Future[None] = loop.create_future()
        self._waiting: deque[_Slot] = deque()
        self._outgoing: list[bytes] = []
        self._gathering = False
        self._room: deque[asyncio.Future[None]] = deque()
        self._paused = False
        self._deadline_s = 0.0
        self._heard_s = loop.time()

    @classmethod
    async def open(cls, address: Address | None, timeout_s: float) -> Link:
        """Connect and say the opening words. Raises `DaemonUnreachable`."""
        where = address or find_daemon()
        loop = asyncio.get_running_loop()
        link = cls(loop, where)
        try:
            async with asyncio.timeout(timeout_s):
                if where.path:
                    await loop.create_unix_connection(lambda: link, where.path)
                else:
                    await loop.create_connection(lambda: link, where.host, where.port)
        except OSError as error:  # TimeoutError is one
            raise unreachable(where, error) from error
        opening = link._conversation.opening()
        if opening is not None:
            try:
                for reply in await link.exchange(opening, timeout_s):
                    checked(reply)
                link.used = False
            except Lost as lost:
                await link.close()
                raise silent(where, lost) from lost
            except BaseException:
                await link.close()
                raise
        return link

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, batch: Batch, timeout_s: float) -> list[Any]:
        """Send, and await the batch's replies. Raises `Lost`, `TimedOut` or `ProtocolError`."""
        if self._is_full:
            await self._wait_for_room(timeout_s)
        if not self.is_open:
            raise Lost(False, "the daemon closed the connection")
        now_s = self.loop.time()
        if not self._waiting:
            self._deadline_s = 0.0
        # Answers come in order: a call is not late before those ahead of it are.
        self._deadline_s = max(self._deadline_s, now_s + timeout_s)
        slot = _Slot(self.loop.create_future(), batch.replies, now_s)
        deadline = self.loop.call_at(self._deadline_s, self._expire, slot, timeout_s)
        self._waiting.append(slot)
        self._send(batch.data)
        try:
            return await slot.future
        finally:
            deadline.cancel()

    async def close(self) -> None:
        """Closed at once, whatever is still in flight."""
        if self._transport is not None:
            self._transport.abort()
            await asyncio.shield(self._gone)

    @property
    def _is_full(self) -> bool:
        return self._paused or len(self._waiting) >= MAX_IN_FLIGHT

    async def _wait_for_room(self, timeout_s: float) -> None:
        """First come, first served; each reply that frees a place wakes one."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.is_open and self._is_full:
                    turn = self.loop.create_future()
                    self._room.append(turn)
                    try:
                        await turn
                    except asyncio.CancelledError:
                        self._wake_one()  # the place may have been meant for this caller
                        raise
        except TimeoutError as error:
            raise TimedOut(False, f"no room to send for {timeout_s:g} s") from error

    def _wake_one(self) -> None:
        while self._room:
            turn = self._room.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _send(self, data: bytes) -> None:
        """At once, for a single caller's sake; what follows in this turn of the loop, together."""
        if self._gathering:
            self._outgoing.append(data)
        elif self._transport is not None:
            self._gathering = True
            self.loop.call_soon(self._flush)
            self._transport.write(data)

    def _flush(self) -> None:
        self._gathering = False
        if not self._outgoing:
            return
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(outgoing))

    def _expire(self, slot: _Slot, timeout_s: float) -> None:
        if slot.future.done():
            return
        slot.future.set_exception(TimedOut(True, f"no answer within {timeout_s:g} s"))
        if self._heard_s <= slot.sent_s and self._transport is not None:
            self._transport.abort()  # silent for all that time: half open, or the daemon stands

    def _fail(self, reason: Exception) -> None:
        """Everyone who waits gets the same reason, each in an exception of their own."""
        kept_kind = isinstance(reason, ProtocolError)
        waiting, self._waiting = self._waiting, deque()
        for slot in waiting:
            if not slot.future.done():
                text = str(reason)
                slot.future.set_exception(ProtocolError(text) if kept_kind else Lost(True, text))
        while self._room:
            self._wake_one()

    # -- asyncio.Protocol -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard_s = self.loop.time()
        self.used = True
        try:
            for reply in self._conversation.received(data):
                self._take(reply)
        except ProtocolError as error:
            self._fail(error)
            if self._transport is not None:
                self._transport.abort()

    def _take(self, reply: Any) -> None:
        if not self._waiting:
            raise ProtocolError(f"the daemon at {self.address} sent more replies than asked for")
        slot = self._waiting[0]
        slot.replies.append(reply)
        if len(slot.replies) == slot.wanted:
            self._waiting.popleft()
            if not slot.future.done():
                slot.future.set_result(slot.replies)
            if self._room and not self._paused:
                self._wake_one()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("the daemon closed the connection"))
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        for _ in range(len(self._room)):
            self._wake_one()


class Line:
    """One link, kept open: who finds it closed opens it anew, and the others wait for that."""

    def __init__(self, address: Address | None, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._link: Link | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()

    async def link(self) -> Link:
        """The open link. Raises `DaemonUnreachable`."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Another loop than before (or the first): its locks and transports are not ours.
            self._loop, self._link, self._opening = loop, None, asyncio.Lock()
        link = self._link
        if link is not None and link.is_open:
            return link
        async with self._opening:
            if self._link is None or not self._link.is_open:
                self._link = await Link.open(self._address, self._timeout_s)
            return self._link

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None and link.loop is asyncio.get_running_loop():
            await link.close()


class Spare:
    """At most `limit` lines, lent to one call at a time: it may be kept waiting, and nobody behind
    it. Further such calls wait for a line."""

    def __init__(self, address: Address | None, limit: int, timeout_s: float) -> None:
        self._address = address
        self._limit = limit
        self._timeout_s = timeout_s
        self._idle: list[Line] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room = asyncio.Semaphore(limit)

    @contextlib.asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._idle, self._room = loop, [], asyncio.Semaphore(self._limit)
        async with self._room:
            line = self._idle.pop() if self._idle else Line(self._address, self._timeout_s)
            try:
                yield line
            except BaseException:
                await line.close()  # its answer may still come: the daemon is to know
                raise
            self._idle.append(line)

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for line in idle:
            await line.close()
