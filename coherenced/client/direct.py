"""`on_unavailable="redis"`: reads and writes past a daemon that is gone, straight to Redis.

A call that found no daemon is planned as the daemon would have planned it, and carried out by a
writer that is on no roster: a write still leaves its record in the log and is published, so
every node drops what it holds, and `ack` waits for them as always. Reads are Redis's own
answers, at the price of a round trip each. What needs a daemon (leases, statistics, compare-
and-set) stays unavailable: `get_or_load` then calls its loader and stores nothing.

The only module of the client that loads server code, and only when it is used: the daemon is
gone, and the client was told to go on without it. It runs an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, Final, TypeVar

import hiredis

from coherenced.client.replies import error_from
from coherenced.client.stream import Request
from coherenced.config import load
from coherenced.core.model import Fetched, Reply, ReplyError, Version
from coherenced.core.requests import (
    Ask,
    AskResult,
    Level,
    Outcome,
    Read,
    ReadResult,
    Value,
    Write,
    WriteResult,
)
from coherenced.errors import CommandError, DaemonUnreachable, UsageError
from coherenced.upstream.broadcast import Broadcaster
from coherenced.wire import resp
from coherenced.wire.answers import answer
from coherenced.wire.commands import COMMANDS
from coherenced.wire.plan import Bounds

T = TypeVar("T")

BOUNDS: Final = Bounds()


class Direct:
    """The way past the daemon; connects when first used. `url`: as of the daemon's `redis.url`;
    empty: what its configuration file or environment says."""

    def __init__(self, url: str) -> None:
        flags = {"redis.url": url} if url else {}
        self._config = load(flags, None, os.environ).config
        if not self._config.redis.url:
            raise UsageError(
                'on_unavailable="redis" needs a server: give redis="redis://…", or set redis.url'
            )
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: Broadcaster | None = None
        self._connecting: asyncio.Lock | None = None

    def run(self, request: Request[T], gone: DaemonUnreachable) -> T:
        """From blocking code. Raises `gone` for what needs a daemon."""
        done = asyncio.run_coroutine_threadsafe(self._answer(request, gone), self._running())
        return done.result()

    async def run_async(self, request: Request[T], gone: DaemonUnreachable) -> T:
        """The same from a coroutine, on whichever loop."""
        done = asyncio.run_coroutine_threadsafe(self._answer(request, gone), self._running())
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None or self._pid != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(self._disconnect(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)

    # -- the thread -------------------------------------------------------------------------

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._pid, self._writer, self._connecting = os.getpid(), None, None
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_run_loop, args=(self._loop,), name="coherenced-direct", daemon=True
                ).start()
            return self._loop

    async def _connected(self) -> Broadcaster:
        self._connecting = self._connecting or asyncio.Lock()
        async with self._connecting:
            if self._writer is None:
                self._writer = await Broadcaster(self._config.redis, "direct").__aenter__()
            return self._writer

    async def _disconnect(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.__aexit__()

    # -- one call ---------------------------------------------------------------------------

    async def _answer(self, request: Request[T], gone: DaemonUnreachable) -> T:
        writer = await self._connected()
        replies: list[Any] = []
        for batch in request.batches:
            commands = hiredis.Reader(notEnoughData=None)
            commands.feed(batch.data)
            while (argv := commands.gets()) is not None:
                told = hiredis.Reader(replyError=error_from)
                told.feed(await self._carry_out(writer, argv, gone))
                replies.append(told.gets())
        return request.decode(replies)

    async def _carry_out(
        self, writer: Broadcaster, argv: list[bytes], gone: DaemonUnreachable
    ) -> bytes:
        if argv[0] == b"COH.PAGE":
            return resp.error("ERR there is no daemon, and no page")  # asked along with a read
        command = COMMANDS.get(argv[0].upper())
        if command is None or command.plan is None:
            raise gone
        try:
            plan = command.plan(argv, BOUNDS)
        except UsageError as error:
            return resp.error(f"ERR {error}")
        outcomes: list[Outcome] = []
        for request in plan.requests:
            if isinstance(request, Read | Ask):
                outcomes.append(await self._read(writer, request))
            elif isinstance(request, Write) and not _needs_daemon(request):
                outcomes.append(await self._write(writer, request))
            else:
                raise gone
        return answer(plan, outcomes, False)

    async def _read(self, writer: Broadcaster, request: Read | Ask) -> Outcome:
        if isinstance(request, Ask):
            lineage, results = await writer.fetch((request.query,))
            reply = results[0]
            return AskResult(reply.value if isinstance(reply, Fetched) else reply)
        lineage, results = await writer.fetch(request.keys)
        version = Version(lineage.epoch, lineage.seq)
        return ReadResult(tuple(_value(one, version) for one in results))

    async def _write(self, writer: Broadcaster, request: Write) -> Outcome:
        common = self._config.coherence
        level = common.ack_level if request.ack is None else request.ack
        given_ms = request.timeout_ms
        timeout_ms = float(common.ack_timeout_ms) if given_ms is None else given_ms
        if level == Level.NONE:
            level = Level.REDIS  # there is no daemon to do the rest behind
        try:
            done = await writer.send(request.mutations, level, timeout_ms)
        except CommandError as refused:
            raise error_from(str(refused)) from None
        return WriteResult(
            done.replies,
            done.version,
            done.acknowledged,
            done.fenced,
            done.missing,
            done.satisfied,
        )


def _needs_daemon(request: Write) -> bool:
    conditions = any(mutation.if_version or mutation.lease for mutation in request.mutations)
    return conditions or bool(request.watch_id or request.replicas)


def _value(found: Fetched | Reply, version: Version) -> Value:
    if not isinstance(found, Fetched):
        error = found if isinstance(found, ReplyError) else ReplyError("ERR unexpected reply")
        return Value(None, version, "l2", 0.0, error=error)
    left_ms = None if found.value is None or found.ttl_ms < 0 else float(found.ttl_ms)
    return Value(
        found.value,
        version,
        "l2",
        0.0,
        error=found.error,
        labels=found.labels,
        expires_in_ms=left_ms,
    )


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
