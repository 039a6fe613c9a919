"""The one who sends what a namespace's writes have queued: once per key at a time, the newest.

One node is a namespace's *owner* for as long as its mark in Redis lives. It begins no request
that might outlive the mark, so that the next owner's requests come after its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from coherenced.errors import RedisUnreachable
from coherenced.origin.backlog import Backlog
from coherenced.origin.fetcher import Origin, OriginFault
from coherenced.origin.rules import Rules

MOST_HELD: Final = 10_000
"""Entries that a sender has read and not finished."""
PAGE: Final = 256
POLL_S: Final = 0.1
"""How soon the owner looks for what other nodes have queued."""
STANDBY_S: Final = 0.5
"""How soon the others look whether there is an owner, and how much waits."""
OWNER_SLACK_MS: Final = 2_000.0


class Payload(msgspec.Struct, frozen=True, array_like=True):
    """What a write makes of its key."""

    value: bytes | None
    """None: it is deleted."""
    content_type: str = ""


class Store(Protocol):
    """What waits, in Redis: `upstream.queue.BehindQueue`, or a test's."""

    async def own(self, namespace: str, for_ms: int) -> bool: ...
    async def disown(self, namespace: str) -> None: ...
    async def claim(self, namespace: str) -> Sequence[Any]: ...
    async def read(self, namespace: str, most: int) -> Sequence[Any]: ...
    async def newest(self, namespace: str, key: bytes) -> bytes | None: ...
    async def sent(self, namespace: str, key: bytes, payload: bytes, ids: list[bytes]) -> None: ...
    async def bury(
        self, namespace: str, key: bytes, payload: bytes, why: str, tries: int, ids: list[bytes]
    ) -> None: ...
    async def count(self, namespace: str) -> Any: ...
    async def waiting(self, namespace: str, most: int) -> list[tuple[bytes, bytes]]: ...
    async def dead(self, namespace: str, most: int) -> Sequence[Any]: ...
    async def replay(self, namespace: str, letter: bytes) -> int: ...
    async def drop(self, namespace: str, letter: bytes) -> bool: ...


Drop = Callable[[bytes], None]
"""Drops what is cached of a key, at once or as soon as Redis answers."""


class Sender:
    """Sends one namespace's queue, while this node owns it."""

    def __init__(
        self,
        store: Store,
        origin: Origin,
        drop: Drop,
        now_ms: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.origin = origin
        self.waiting = self.keys = self.dead = 0
        """As Redis was last seen to hold them."""
        self.owner = ""
        self.sent = self.coalesced = self.retries = self.buried = 0
        self.error = ""
        """Why the last attempt failed; empty: it did not."""
        self.store = store
        self._drop = drop
        self._now_ms = now_ms
        self._chance = chance
        self._poked = asyncio.Event()
        self._owned_until_ms = 0.0
        self._broken = False
        """Redis failed in the middle of a send: what it left behind must be claimed anew."""
        self._sends: set[asyncio.Task[None]] = set()
        self._counted_ms = float("-inf")
        self.task = asyncio.get_running_loop().create_task(self._run())

    @property
    def rules(self) -> Rules:
        return self.origin.rules

    def stop(self) -> None:
        self.task.cancel()

    def poke(self) -> None:
        """Something was queued."""
        self._poked.set()

    @property
    def _lease_ms(self) -> int:
        return int(2 * self.rules.hard_timeout_ms + OWNER_SLACK_MS)

    async def _run(self) -> None:
        name = self.rules.name
        try:
            while True:
                try:
                    if await self._own():
                        await self._send_all()
                    else:
                        self.error = ""  # what keeps another from sending, that one tells
                except RedisUnreachable as error:
                    self.error = str(error)
                except (ValueError, TypeError, LookupError) as error:
                    self.error = f"the queue in Redis is not readable: {error}"
                await asyncio.sleep(STANDBY_S)
        finally:
            if self._owned_until_ms > self._now_ms():
                with contextlib.suppress(RedisUnreachable, TimeoutError, asyncio.CancelledError):
                    # The next owner need not wait for the end of our mark.
                    await asyncio.wait_for(asyncio.shield(self.store.disown(name)), 1.0)

    async def _own(self) -> bool:
        """Be the owner, or stay it; counted from before it was asked for."""
        asked_ms = self._now_ms()
        mine = await self.store.own(self.rules.name, self._lease_ms)
        self._owned_until_ms = asked_ms + self._lease_ms if mine else 0.0
        await self._count()
        return mine

    async def _count(self) -> None:
        self._counted_ms = self._now_ms()
        count = await self.store.count(self.rules.name)
        self.waiting, self.keys, self.dead = count.waiting, count.keys, count.dead
        self.owner = count.owner.decode("ascii", "replace")

    async def _send_all(self) -> None:
        """While this node is the owner: read what is queued, send what is due."""
        name, backlog = self.rules.name, Backlog()
        self._broken = False
        for entry in await self.store.claim(name):
            backlog.add(entry.key, entry.id, replayed=entry.replayed)
        try:
            while not self._broken:
                if self._owned_until_ms - self._now_ms() < self._lease_ms / 2:
                    if not await self._own():
                        return
                elif self._now_ms() - self._counted_ms > STANDBY_S * 1e3:
                    await self._count()
                self._poked.clear()
                read = 0
                if backlog.held < MOST_HELD:
                    entries = await self.store.read(name, PAGE)
                    read = len(entries)
                    for entry in entries:
                        backlog.add(entry.key, entry.id, replayed=entry.replayed)
                room = self.rules.max_requests - len(self._sends)
                for key in backlog.begin(self._now_ms(), room):
                    task = asyncio.get_running_loop().create_task(self._send(backlog, key))
                    self._sends.add(task)
                    task.add_done_callback(self._ended)
                if read < PAGE:
                    await self._wait(backlog)
        finally:
            # What was begun ends before another node may begin: order per key.
            if self._sends:
                await asyncio.wait(self._sends, timeout=self.rules.hard_timeout_ms / 1e3 + 0.5)
            for task in tuple(self._sends):
                task.cancel()
                self._owned_until_ms = 0.0  # nobody may begin before our mark has ended
            await asyncio.gather(*self._sends, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._sends.discard(task)
        self._poked.set()
        if not task.cancelled() and task.exception() is not None:
            self._broken = True
            self.error = str(task.exception())

    async def _wait(self, backlog: Backlog) -> None:
        """Until something is queued, done or due."""
        due_s = max(0.0, backlog.next_due_ms() - self._now_ms()) / 1e3
        if len(self._sends) >= self.rules.max_requests:
            due_s = POLL_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._poked.wait(), min(POLL_S, max(due_s, 0.001)))

    async def _send(self, backlog: Backlog, key: bytes) -> None:
        """One key: its newest value, once."""
        name, store, ids = self.rules.name, self.store, backlog.ids(key)
        raw = await store.newest(name, key)
        if raw is None:  # an earlier send has carried it already
            await store.sent(name, key, b"", ids)
            self.coalesced += len(ids)
            backlog.settled(key)
            return
        if self._owned_until_ms - self._now_ms() <= self.rules.hard_timeout_ms:
            backlog.failed(key, self._now_ms(), 0.0, refused=False)  # not ours for long enough
            return
        payload = decode(raw)
        if payload is None:
            await self._bury(backlog, key, raw, "it is not readable", ids)
            return
        try:
            await self._deliver(key, payload, ids[-1])
        except OriginFault as fault:
            self.error = str(fault)
            self.retries += 1
            tries = backlog.tries(key) + fault.refused
            if tries >= self.rules.write_behind_tries:
                await self._bury(backlog, key, raw, str(fault), ids, tries)
            else:
                now_ms, chance = self._now_ms(), self._chance()
                backlog.failed(key, now_ms, chance, refused=fault.refused)
            return
        self.error = ""
        await store.sent(name, key, raw, ids)
        self.sent += 1
        self.coalesced += len(ids) - 1
        replayed = backlog.lines[key].replayed
        backlog.settled(key)
        if replayed:
            self._drop(key)  # what is cached was loaded before it

    async def _deliver(self, key: bytes, payload: Payload, write_id: bytes) -> None:
        headers = {"Coherenced-Write-Id": write_id.decode("ascii", "replace")}
        if payload.value is None:
            await self.origin.delete(key, headers)
            return
        if payload.content_type:
            headers["Content-Type"] = payload.content_type
        await self.origin.put(key, payload.value, headers)

    async def _bury(
        self, backlog: Backlog, key: bytes, raw: bytes, why: str, ids: list[bytes], tries: int = 0
    ) -> None:
        """It becomes a dead letter; what is cached is not what the origin has: drop it."""
        await self.store.bury(self.rules.name, key, raw, why, tries, ids)
        self.buried += 1
        backlog.settled(key)
        self._drop(key)


def encode(payload: Payload) -> bytes:
    return msgspec.msgpack.encode(payload)


def decode(raw: bytes) -> Payload | None:
    """The payload, or None when these bytes are none."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


_decoder: Final = msgspec.msgpack.Decoder(Payload)
