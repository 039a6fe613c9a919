"""`AsyncClient`: the daemon from asyncio or uvloop, many calls on few connections."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from coherenced.client.address import parse_address
from coherenced.client.core import Calls, K, Key, Session, documented
from coherenced.client.faults import Lost, TimedOut, indeterminate, silent
from coherenced.client.link import Line
from coherenced.client.replies import Entry, Invalidation, Version
from coherenced.client.stream import Request
from coherenced.client.values import MSGPACK, Serializer
from coherenced.errors import UsageError

T = TypeVar("T")


@documented
class AsyncClient:
    """The cache of this host; the same methods and promises as `Client`, with `await`.

    Calls made at the same time travel together. Reads share one connection and writes
    another, since the daemon answers a connection in order and a write may wait for other
    nodes. A cancelled read is over; a cancelled write may still be applied.

    A client belongs to the event loop that first uses it; under another loop it opens
    connections of its own. See `Client` for the parameters.
    """

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        *,
        timeout: float = 5.0,
        serializer: Serializer | None = MSGPACK,
        max_staleness_ms: float | None = None,
        session: bool = False,
    ) -> None:
        if not timeout > 0:
            raise UsageError("timeout is a number of seconds above 0")
        self._address = None if address is None else parse_address(address)
        self._timeout_s = timeout
        self._calls = Calls(serializer, max_staleness_ms, Session() if session else None)
        self._reads = Line(self._address, timeout)
        self._writes = Line(self._address, timeout)
        self._closed = False

    # -- the methods, described in client/core.py -------------------------------

    async def get(
        self,
        key: Key,
        default: Any = None,
        *,
        max_staleness_ms: float | None = None,
        min_version: str | None = None,
    ) -> Any:
        return await self._run(
            self._calls.get(
                key, default, max_staleness_ms=max_staleness_ms, min_version=min_version
            )
        )

    async def get_entry(
        self,
        key: Key,
        default: Any = None,
        *,
        max_staleness_ms: float | None = None,
        min_version: str | None = None,
    ) -> Entry:
        return await self._run(
            self._calls.get_entry(
                key, default, max_staleness_ms=max_staleness_ms, min_version=min_version
            )
        )

    async def get_many(
        self,
        keys: Iterable[K],
        *,
        max_staleness_ms: float | None = None,
        min_version: str | None = None,
    ) -> dict[K, Any]:
        return await self._run(
            self._calls.get_many(keys, max_staleness_ms=max_staleness_ms, min_version=min_version)
        )

    async def set(
        self,
        key: Key,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Iterable[Key] = (),
        ack: str | int | None = None,
        timeout: float | None = None,
        if_version: str | None = None,
    ) -> Version:
        return await self._run(
            self._calls.set(
                key, value, ttl=ttl, tags=tags, ack=ack, timeout=timeout, if_version=if_version
            )
        )

    async def set_many(
        self,
        items: Mapping[Any, Any],
        *,
        ttl: float | None = None,
        tags: Iterable[Key] = (),
        ack: str | int | None = None,
        timeout: float | None = None,
    ) -> Version:
        return await self._run(
            self._calls.set_many(items, ttl=ttl, tags=tags, ack=ack, timeout=timeout)
        )

    async def delete(
        self, *keys: Key, ack: str | int | None = None, timeout: float | None = None
    ) -> int:
        return await self._run(self._calls.delete(*keys, ack=ack, timeout=timeout))

    async def invalidate(
        self,
        keys: Iterable[Key] = (),
        *,
        tags: Iterable[Key] = (),
        prefixes: Iterable[Key] = (),
        everything: bool = False,
        ack: str | int | None = None,
        timeout: float | None = None,
    ) -> Invalidation:
        return await self._run(
            self._calls.invalidate(
                keys, tags=tags, prefixes=prefixes, everything=everything, ack=ack, timeout=timeout
            )
        )

    async def stats(self) -> dict[str, Any]:
        return await self._run(self._calls.stats())

    async def nodes(self) -> dict[str, Any]:
        return await self._run(self._calls.nodes())

    async def explain(self, key: Key) -> dict[str, Any]:
        return await self._run(self._calls.explain(key))

    async def audit(self, keys: Iterable[Key] = (), *, count: int = 1000) -> dict[str, Any]:
        return await self._run(self._calls.audit(keys, count=count))

    # -- the shell ----------------------------------------------------------------

    async def close(self) -> None:
        """Close the connections; calls after it raise."""
        self._closed = True
        for line in (self._reads, self._writes):
            await line.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, request: Request[T]) -> T:
        if not request.batches:
            return request.decode([])
        if self._closed:
            raise UsageError("this client is closed")
        line = self._writes if request.is_write else self._reads
        while True:
            link = await line.link()
            was_used = link.used
            replies: list[Any] = []
            try:
                for batch in request.batches:
                    replies += await link.exchange(batch, self._timeout_s + request.ack_s)
            except Lost as lost:
                if request.is_write and (lost.sent or replies):
                    raise indeterminate(link.address, lost) from lost
                if not was_used or isinstance(lost, TimedOut):
                    raise silent(link.address, lost) from lost
            else:
                return request.decode(replies)
