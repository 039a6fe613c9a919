"""`AsyncClient`: the daemon from asyncio or uvloop, many calls on few connections."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Self, TypeVar, Unpack

from coherenced.client.address import parse_address
from coherenced.client.arguments import Key, connections, silence
from coherenced.client.awaiting import Driver
from coherenced.client.copies import Copy
from coherenced.client.core import ONE_EACH, Calls, K, documented
from coherenced.client.faults import Lost, TimedOut, indeterminate, silent
from coherenced.client.freshness import USUAL, LoadOptions, LoadPolicy
from coherenced.client.hits import look
from coherenced.client.l0 import L0, MAX_BYTES, MAX_ENTRIES, Values
from coherenced.client.link import Line, Spare
from coherenced.client.loading import Tags
from coherenced.client.patterns import NOWHERE, Patterns, draw
from coherenced.client.replies import Entry, Invalidation, Version
from coherenced.client.session import Session
from coherenced.client.stream import Request
from coherenced.client.values import ABSENT, MSGPACK, RAW, Serializer, serializer_of
from coherenced.client.warming import Progress, Warmed
from coherenced.errors import DaemonUnreachable, Unreachable, UsageError

if TYPE_CHECKING:
    from coherenced.client.cached import CachedCoroutine
    from coherenced.client.direct import Direct

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@documented(Calls, Patterns)
class AsyncClient:
    """The cache of this host; the same methods and promises as `Client`, with `await`.

    Calls made at the same time travel together. Reads share one connection and writes
    another, since the daemon answers a connection in order and a write may wait for other
    nodes; calls that wait for somebody else's load have one each, at most `max_connections` at
    once. A cancelled read is over; a cancelled write may still be applied.

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
        max_connections: int = 16,
        on_unavailable: str = "raise",
        redis: str = "",
        load_policy: LoadPolicy = USUAL,
        l0: bool = True,
        l0_max_entries: int = MAX_ENTRIES,
        l0_max_bytes: int = MAX_BYTES,
        l0_values: Values = "copy",
    ) -> None:
        self._address = None if address is None else parse_address(address)
        self._timeout_s = silence(timeout)
        shared = Session() if session else None
        forgives = on_unavailable != "raise"
        self._l0 = None
        if l0:
            self._l0 = L0(
                serializer_of(serializer).loads,
                max_entries=l0_max_entries,
                max_bytes=l0_max_bytes,
                values=l0_values,
                bound_ms=max_staleness_ms,
                token=str if shared is None else lambda: shared.token,
            )
        self._hot: Mapping[Any, Copy] = {} if self._l0 is None or session else self._l0.copies
        """Where `get` looks first. With a session each copy's version counts too."""
        self._calls = Calls(
            serializer, max_staleness_ms, shared, misses_when_unavailable=forgives, l0=self._l0
        )
        exacting = Calls(serializer, max_staleness_ms, shared, l0=self._l0)
        self._patterns = Patterns(
            exacting, load_policy, on_unavailable, time.monotonic, draw, self._l0
        )
        self._driver = Driver(self._run)
        self._goes_past = on_unavailable == "redis"
        self._redis = redis
        self._direct: Direct | None = None
        self._is_raw = self._calls.serializer is RAW
        self._reads = Line(self._address, timeout)
        self._writes = Line(self._address, timeout)
        self._waits = Spare(self._address, connections(max_connections), timeout)
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
        if max_staleness_ms is None and min_version is None:
            value = look(self._hot, key, default, NOWHERE)
            if value is not NOWHERE:
                return value
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
        snapshot: bool = False,
    ) -> dict[K, Any]:
        return await self._run(
            self._calls.get_many(
                keys,
                max_staleness_ms=max_staleness_ms,
                min_version=min_version,
                snapshot=snapshot,
            )
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
        replicas: int = 0,
        if_version: str | None = None,
    ) -> Version:
        return await self._run(
            self._calls.set(
                key,
                value,
                ttl=ttl,
                tags=tags,
                ack=ack,
                timeout=timeout,
                replicas=replicas,
                if_version=if_version,
            )
        )

    async def add(
        self,
        key: Key,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Iterable[Key] = (),
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
    ) -> bool:
        return await self._run(
            self._calls.add(
                key, value, ttl=ttl, tags=tags, ack=ack, timeout=timeout, replicas=replicas
            )
        )

    async def execute(self, *words: Key | int | float, write: bool = True) -> Any:
        return await self._run(self._calls.execute(*words, write=write))

    async def set_many(
        self,
        items: Mapping[Any, Any],
        *,
        ttl: float | None = None,
        tags: Iterable[Key] = (),
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
    ) -> Version:
        return await self._run(
            self._calls.set_many(
                items, ttl=ttl, tags=tags, ack=ack, timeout=timeout, replicas=replicas
            )
        )

    async def delete(
        self,
        *keys: Key,
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
    ) -> int:
        return await self._run(
            self._calls.delete(*keys, ack=ack, timeout=timeout, replicas=replicas)
        )

    async def invalidate(
        self,
        keys: Iterable[Key] = (),
        *,
        tags: Iterable[Key] = (),
        prefixes: Iterable[Key] = (),
        everything: bool = False,
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
    ) -> Invalidation:
        return await self._run(
            self._calls.invalidate(
                keys,
                tags=tags,
                prefixes=prefixes,
                everything=everything,
                ack=ack,
                timeout=timeout,
                replicas=replicas,
            )
        )

    async def get_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
        *,
        tags: Tags = (),
        **options: Unpack[LoadOptions],
    ) -> Any:
        return await self._recall(key, loader, self._patterns.policy_of(options), tags)

    async def get_entry_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
        *,
        tags: Tags = (),
        **options: Unpack[LoadOptions],
    ) -> Entry:
        return await self._driver.run(
            self._patterns.get_entry_or_load(key, loader, tags=tags, **options)
        )

    def cached(
        self,
        *,
        key: str | Callable[..., str] | None = None,
        tags: Iterable[str] = (),
        **options: Unpack[LoadOptions],
    ) -> Callable[[Callable[P, R]], CachedCoroutine[P, R]]:
        """Decorator: the function's results go through `get_or_load`.

        `key`: a template like `user:{id}` over the function's parameters, checked here and
        now, or a function of its arguments; None: its name and its arguments as they print.
        `tags`: templates too. The decorated function has `key_of(…)`, `tags_of(…)`,
        `invalidate(…)` and `uncached`. See `get_or_load` for the options.
        """
        from coherenced.client.cached import Decorator  # loaded only here: most callers need none

        return Decorator(
            self._recall,
            self.invalidate,
            self._patterns.policy_of(options),
            key,
            tags,
            is_async=True,
        )

    async def warm(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Any],
        *,
        tags: Tags = (),
        concurrency: int = 4,
        progress: Progress | None = None,
        **options: Unpack[LoadOptions],
    ) -> Warmed:
        return await self._driver.run(
            self._patterns.warm(
                keys, loader, tags=tags, concurrency=concurrency, progress=progress, **options
            )
        )

    async def stats(self) -> dict[str, Any]:
        return self._patterns.stats(await self._run(self._calls.stats()))

    async def nodes(self) -> dict[str, Any]:
        return await self._run(self._calls.nodes())

    async def explain(self, key: Key) -> dict[str, Any]:
        return await self._run(self._calls.explain(key))

    async def audit(self, keys: Iterable[Key] = (), *, count: int = 1000) -> dict[str, Any]:
        return await self._run(self._calls.audit(keys, count=count))

    # -- the shell ----------------------------------------------------------------

    async def _recall(
        self, key: Key, loader: Callable[[], Any], policy: LoadPolicy, tags: Tags
    ) -> Any:
        """`get_or_load`: what needs no care about its age is one `get` when it is there."""
        plain = policy.is_plain
        if not plain:
            copy = self._patterns.fresh_copy(key, policy)
            if copy is not None:
                return copy.given(None)
        else:
            value = await self.get(key, NOWHERE)
            if value is not NOWHERE:
                return None if self._is_raw and value == ABSENT else value
            if self._patterns.known_absent(key):
                return None
        return await self._driver.run(
            self._patterns.value(key, loader, policy, tags, is_missing=plain)
        )

    async def close(self) -> None:
        """Close the connections; calls after it raise."""
        self._closed = True
        if self._l0 is not None:
            self._l0.close()
        await self._driver.close()
        if self._direct is not None:
            await asyncio.to_thread(self._direct.close)
        for line in (self._reads, self._writes, self._waits):
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

    def __reduce__(self) -> NoReturn:
        raise TypeError(ONE_EACH.format("AsyncClient"))

    async def _run(self, request: Request[T]) -> T:
        try:
            try:
                return await self._ask(request)
            except DaemonUnreachable as gone:
                if not self._goes_past:
                    raise
                return await self._way_past().run_async(request, gone)
        except Unreachable:
            if request.otherwise is None:
                raise
            return request.otherwise()

    def _way_past(self) -> Direct:
        if self._direct is None:
            from coherenced.client.direct import Direct  # loaded only here: it is server code

            self._direct = Direct(self._redis)
        return self._direct

    async def _ask(self, request: Request[T]) -> T:
        if not request.batches:
            return request.decode([])
        if self._closed:
            raise UsageError("this client is closed")
        if request.waits:
            async with self._waits.line() as line:
                return await self._ask_on(line, request)
        return await self._ask_on(self._writes if request.is_write else self._reads, request)

    async def _ask_on(self, line: Line, request: Request[T]) -> T:
        while True:
            link = await line.link()
            was_used = link.used
            if not was_used and self._l0 is not None:
                self._l0.connected(link.address.path)
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
