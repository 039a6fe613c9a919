"""GET /v1/invalidations: the live stream of invalidations as Server-Sent Events.

Each applied record is one event, its version is the event's id: a client that was
cut off says `Last-Event-ID` and goes on where it was (also where the node was started since), or
is told by `event: reset` that what came in between is no longer in the log. Beside them stands what
happened on this node (`event: node`: gaps, drops, fencings…), without an id; where it had to drop
its lane and pass over records, a `reset` follows. A listener has a bounded queue; one
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
from coherenced.core.requests import Outcome, Recall, RecallResult
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


def reset(after: Any) -> bytes:
    """The news that not everything after this version is told."""
    return b"event: reset\ndata: %b\n\n" % msgspec.json.encode({"after": after})


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
        if event.get("event") == "lane_dropped" and not self.overflowed:
            # A5: this node has passed over records, or what it had told is of a lost history.
            self._put(reset(event.get("was") or event.get("now")))

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
    after = _last_event(request.headers)
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
        # No await since `stream`: no record falls between the past and the live ones.
        here = context.port.version()
        response = web.StreamResponse(headers=HEADERS)
        response.force_close()
        await response.prepare(request)
        await response.write(b"retry: 1000\n: connected\n\n")
        if after is None or await _catch_up(context, response, after, here):
            await _pump(context, response, listener)
        await response.write_eof()
    finally:
        stop()
        stop_events()
        context.listeners.discard(listener.wake)
        if cut_off is not None:
            cut_off.cancel()
    return response


def _last_event(headers: Mapping[str, str]) -> Version | None:
    text = headers.get("Last-Event-ID", "").strip()
    if not text:
        return None
    try:
        return Version.parse(text)
    except ValueError as error:
        raise bad(str(error), "Last-Event-ID") from None


async def _catch_up(
    context: Context, response: web.StreamResponse, after: Version, here: Version | None
) -> bool:
    """Tell what came between two versions, or that it is not known any more. False: Redis has to
    be asked and does not answer; the stream is to end, and its client asks again."""
    at = after
    while here is None or at != here:
        outcome: Outcome = RecallResult(None)
        if here is not None and at.epoch == here.epoch and at.seq < here.seq:
            outcome = await context.ask(Recall(at, here.seq))
        if not isinstance(outcome, RecallResult):
            await response.write(b": what came since then cannot be read now: ask again\n\n")
            return False
        if not outcome.records:
            await response.write(reset(str(after)))
            return True
        frame, epoch = context.framer.frame, at.epoch
        frames = [frame(one, str(Version(epoch, one.seq))) for one in outcome.records]
        await response.write(b"".join(frames))
        at = Version(epoch, outcome.records[-1].seq)
    return True


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
