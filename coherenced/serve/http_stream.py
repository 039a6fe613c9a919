"""GET /v1/invalidations: the live stream of invalidations as Server-Sent Events.

Each applied record is one event, its version is the event's id: a client that was
cut off says `Last-Event-ID` and goes on where it was, or is told by `event: reset`
that what came in between is no longer held. Beside them stands what happened on this
node (`event: node`: gaps, drops, fencings…), without an id. A listener has a bounded queue; one
that does not keep up gets `event: overflow` and the end of its stream, never a
stream with a hole, and never slows anybody else down.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from coherenced.core.model import Record, Version
from coherenced.serve.http_context import SERVER, Context
from coherenced.serve.http_frames import Framer
from coherenced.serve.problem import Problem, bad

HEADERS: Final = {
    "Server": SERVER,
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back otherwise
}
BURST: Final = 256
"""Events written at once, so that one write to the socket stays small."""


class Listener:
    """One stream's queue. It is offered every record and every event of the node, and never
    waits."""

    __slots__ = (
        "_framer",
        "_max_bytes",
        "_max_events",
        "_on_overflow",
        "_queue",
        "_size",
        "overflowed",
        "wake",
    )

    def __init__(
        self, framer: Framer, max_events: int, max_bytes: int, on_overflow: Callable[[], None]
    ) -> None:
        self._framer = framer
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._on_overflow = on_overflow
        self.overflowed = False
        self.wake = asyncio.Event()

    def offer(self, record: Record, version: str) -> None:
        if not self.overflowed:
            self._put(self._framer.frame(record, version))

    def offer_event(self, event: Mapping[str, Any]) -> None:
        if not self.overflowed:
            self._put(self._framer.event(event))

    def _put(self, frame: bytes) -> None:
        if len(self._queue) >= self._max_events or self._size + len(frame) > self._max_bytes:
            self._queue.clear()
            self._size = 0
            self.overflowed = True
            self._on_overflow()
        else:
            self._queue.append(frame)
            self._size += len(frame)
        self.wake.set()

    def take(self) -> bytes:
        """The next events, b"" when there are none."""
        queue = self._queue
        events = b"".join(queue.popleft() for _ in range(min(len(queue), BURST)))
        self._size -= len(events)
        return events


async def listen(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    limits = context.limits
    if len(context.listeners) >= limits.max_listeners:
        raise Problem("overloaded", f"{limits.max_listeners} event streams are open already")
    after = request.headers.get("Last-Event-ID", "").strip()
    if after:
        _check(after)
    loop = asyncio.get_running_loop()
    cut_off: asyncio.TimerHandle | None = None

    def overflowed() -> None:
        # The reader may never take another byte: then not even the notice gets through.
        nonlocal cut_off
        if request.transport is not None:
            cut_off = loop.call_later(limits.overflow_grace_ms / 1000.0, request.transport.abort)

    listener = Listener(context.framer, limits.listener_queue, limits.listener_bytes, overflowed)
    context.listeners.add(listener.wake)
    stop = context.port.stream(listener.offer)
    stop_events = context.port.stream_events(listener.offer_event)
    try:
        # No await since `stream`: no record falls between the backlog and the live ones.
        start = _backlog(context, after)
        response = web.StreamResponse(headers=HEADERS)
        response.force_close()
        await response.prepare(request)
        await response.write(start)
        await _pump(context, response, listener)
        await response.write_eof()
    finally:
        stop()
        stop_events()
        context.listeners.discard(listener.wake)
        if cut_off is not None:
            cut_off.cancel()
    return response


def _check(after: str) -> None:
    try:
        Version.parse(after)
    except ValueError as error:
        raise bad(str(error), "Last-Event-ID") from None


def _backlog(context: Context, after: str) -> bytes:
    frames = [b"retry: 1000\n: connected\n\n"]
    if after:
        records = context.port.backlog(after)
        if records is None:
            told = msgspec.json.encode({"after": after})
            frames.append(b"event: reset\ndata: %b\n\n" % told)
        else:
            frames += [context.framer.frame(record, version) for record, version in records]
    return b"".join(frames)


async def _pump(context: Context, response: web.StreamResponse, listener: Listener) -> None:
    heartbeat_s = context.limits.heartbeat_ms / 1000.0
    while not context.stopping:
        if listener.overflowed:
            await response.write(b"event: overflow\ndata: {}\n\n")
            return
        if events := listener.take():
            # Waits while the reader is slow; meanwhile `offer` fills the queue, up to its bound.
            await response.write(events)
            continue
        listener.wake.clear()
        try:
            async with asyncio.timeout(heartbeat_s):
                await listener.wake.wait()
        except TimeoutError:
            await response.write(b": beat\n\n")
