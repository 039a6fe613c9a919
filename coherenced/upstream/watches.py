"""Connections of their own for WATCH and WAIT, which say something about one connection.

There are at most `watch_connections`; idle ones are kept for the next. A WATCH ends with
the transaction, with `unwatch`, or with its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis

from coherenced.core.requests import Fault, FaultKind
from coherenced.errors import RedisUnreachable
from coherenced.upstream.connection import Pipe, dial, pack
from coherenced.upstream.faults import Lost, Unsent, plain
from coherenced.upstream.settings import ServerSettings

_UNWATCH = pack((b"UNWATCH",))


class Watches:
    """The bounded pool of dedicated connections, and which WATCH holds which."""

    def __init__(self, settings: ServerSettings, node: str) -> None:
        self._settings = settings
        self._title = f"coherenced:{node}:watch"
        self._idle: list[Pipe] = []
        self._held: dict[int, Pipe] = {}
        self._open = 0
        """Connections that exist or are being made."""
        self._next_id = 1
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> int:
        """How many WATCHes are under way."""
        return len(self._held)

    def watch(
        self, watch_id: int, keys: tuple[bytes, ...], done: Callable[[int | Fault], None]
    ) -> None:
        """WATCH `keys`; `watch_id` 0 opens a connection. `done` gets the id, or why not."""
        if watch_id:
            pipe = self._held.get(watch_id)
            if pipe is None:
                done(Fault(FaultKind.UNAVAILABLE, "the WATCH connection to Redis was lost"))
            else:
                self._send(pipe, watch_id, keys, done)
            return

        def lent(pipe: Pipe | Fault) -> None:
            if isinstance(pipe, Fault):
                done(pipe)
                return
            own_id = self._next_id
            self._next_id += 1
            self._held[own_id] = pipe
            self._send(pipe, own_id, keys, done)

        self.lend(lent)

    def unwatch(self, watch_id: int) -> None:
        """Give the connection of `watch_id` back. Harmless when it is gone."""
        pipe = self._held.pop(watch_id, None)
        if pipe is not None:
            pipe.send(_UNWATCH, lambda reply: None)
            self.give_back(pipe)  # at once: what is sent next comes after the UNWATCH

    def take(self, watch_id: int) -> Pipe | None:
        """The connection of `watch_id` for its EXEC; it is no longer watching after that."""
        return self._held.pop(watch_id, None)

    def lend(self, done: Callable[[Pipe | Fault], None]) -> None:
        """A dedicated connection, to be given back with `give_back`."""
        while self._idle:
            pipe = self._idle.pop()
            if not pipe.lost.done():
                done(pipe)
                return
        if self._open >= self._settings.watch_connections:
            text = f"{self._open} connections for WATCH are in use: raise redis.watch_connections"
            done(Fault(FaultKind.OVERLOADED, text))
            return
        self._open += 1
        task = asyncio.get_running_loop().create_task(self._dial(done), name="watch-dial")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def give_back(self, pipe: Pipe, reply: Any = None) -> None:
        """Keep `pipe` for the next one, unless what was said last on it went wrong."""
        pipe.extra_ms = 0.0
        if isinstance(reply, Lost | Unsent | hiredis.ReplyError):
            pipe.close("its last command failed")
        elif not pipe.lost.done():
            self._idle.append(pipe)

    async def close(self) -> None:
        """End all of them."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pipe in (*self._idle, *self._held.values()):
            await pipe.aclose("this daemon is stopping")
        self._idle.clear()
        self._held.clear()

    def _send(
        self,
        pipe: Pipe,
        watch_id: int,
        keys: tuple[bytes, ...],
        done: Callable[[int | Fault], None],
    ) -> None:
        def answered(reply: Any) -> None:
            if isinstance(reply, Lost | Unsent):
                self._held.pop(watch_id, None)
                done(Fault(FaultKind.UNAVAILABLE, reply.reason))
            elif isinstance(reply, hiredis.ReplyError):
                self.unwatch(watch_id)
                done(Fault(FaultKind.UNAVAILABLE, plain(str(reply))))
            else:
                done(watch_id)

        pipe.send(pack((b"WATCH", *keys)), answered)

    async def _dial(self, done: Callable[[Pipe | Fault], None]) -> None:
        try:
            pipe = await dial(self._settings, self._title)
        except RedisUnreachable as error:
            self._open -= 1
            done(Fault(FaultKind.UNAVAILABLE, str(error)))
            return
        except BaseException:
            self._open -= 1
            raise
        pipe.lost.add_done_callback(self._ended)
        done(pipe)

    def _ended(self, _: asyncio.Future[str]) -> None:
        self._open -= 1
