"""`Client`: the daemon from blocking code, from any number of threads, across forks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Self, TypeVar, Unpack

from coherenced.client.address import parse_address
from coherenced.client.arguments import Key, connections, silence
from coherenced.client.blocking import Driver
from coherenced.client.copies import Copy
from coherenced.client.core import ONE_EACH, Calls, K, documented
from coherenced.client.faults import Lost, TimedOut, indeterminate, silent
from coherenced.client.freshness import USUAL, LoadOptions, LoadPolicy
from coherenced.client.hits import hits_first
from coherenced.client.l0 import L0, MAX_BYTES, MAX_ENTRIES, Values
from coherenced.client.loading import Tags
from coherenced.client.patterns import NOWHERE, Patterns, draw
from coherenced.client.replies import Entry, Invalidation, Version
from coherenced.client.session import Session
from coherenced.client.stream import Request
from coherenced.client.transport import Pool
from coherenced.client.values import ABSENT, MSGPACK, RAW, Serializer, serializer_of
from coherenced.client.warming import Progress, Warmed
from coherenced.errors import DaemonUnreachable, Unreachable

if TYPE_CHECKING:
    from coherenced.client.cached import CachedFunction
    from coherenced.client.direct import Direct

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@documented(Calls, Patterns)
class Client:
    """The cache of this host.

    `address`: `unix:///path`, a path, or `tcp://[:password@]host:port`; None finds the
    local daemon (`$COHERENCED_SOCKET`, the runtime directories). Nothing is opened
    before the first call. One client serves all threads of a process, each call on a
    connection of its own, at most `max_connections` at once; after a fork the child
    opens its own.

    `timeout`: seconds the daemon may stay silent, beside what a call allows for
    acknowledgements. A read whose connection turns out to be dead is repeated once on a
    new one; a write never is: once a byte was sent it raises `Indeterminate`.

    `serializer`: an object with `dumps` and `loads`, None for bytes only; the default
    stores bytes as they are and everything else as msgpack.
    `max_staleness_ms`: the bound of all reads that give none.
    `l0`: keep decoded objects in this process (client/l0.py), at most `l0_max_entries` and
    `l0_max_bytes`; a hit is proved from the daemon's shared page, with the same promises as any
    read. Callers are given objects of their own; `l0_values="shared"` gives all the same one.
    `on_unavailable`, when the daemon (or Redis behind it) cannot be reached: "raise"; "load": a
    read is a miss and `get_or_load` calls its loader; "redis": as "load", but first straight to
    Redis, at `redis` (an URL; else what the daemon's configuration says). A write is never lost
    in silence: where it cannot be carried out it raises.
    `load_policy`: what `get_or_load` and its kin do where a call does not say.
    `session`: reads never show anything older than this client's own last write, on
    whichever node it is answered.
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
        self._max_connections = connections(max_connections)
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
        self._pool = self._new_pool()
        self._waits = self._new_pool()  # calls that wait for somebody else's load

    # -- the methods, described in client/core.py -------------------------------

    @hits_first
    def get(
        self,
        key: Key,
        default: Any = None,
        *,
        max_staleness_ms: float | None = None,
        min_version: str | None = None,
    ) -> Any:
        return self._run(
            self._calls.get(
                key, default, max_staleness_ms=max_staleness_ms, min_version=min_version
            )
        )

    def get_entry(
        self,
        key: Key,
        default: Any = None,
        *,
        max_staleness_ms: float | None = None,
        min_version: str | None = None,
    ) -> Entry:
        return self._run(
            self._calls.get_entry(
                key, default, max_staleness_ms=max_staleness_ms, min_version=min_version
            )
        )

    def get_many(
        self,
        keys: Iterable[K],
        *,
        max_staleness_ms: float | None = None,
        min_version: str | None = None,
        snapshot: bool = False,
    ) -> dict[K, Any]:
        return self._run(
            self._calls.get_many(
                keys,
                max_staleness_ms=max_staleness_ms,
                min_version=min_version,
                snapshot=snapshot,
            )
        )

    def set(
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
        return self._run(
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

    def add(
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
        return self._run(
            self._calls.add(
                key, value, ttl=ttl, tags=tags, ack=ack, timeout=timeout, replicas=replicas
            )
        )

    def execute(self, *words: Key | int | float, write: bool = True) -> Any:
        return self._run(self._calls.execute(*words, write=write))

    def set_many(
        self,
        items: Mapping[Any, Any],
        *,
        ttl: float | None = None,
        tags: Iterable[Key] = (),
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
    ) -> Version:
        return self._run(
            self._calls.set_many(
                items, ttl=ttl, tags=tags, ack=ack, timeout=timeout, replicas=replicas
            )
        )

    def delete(
        self,
        *keys: Key,
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
    ) -> int:
        return self._run(self._calls.delete(*keys, ack=ack, timeout=timeout, replicas=replicas))

    def invalidate(
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
        return self._run(
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

    def get_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
        *,
        tags: Tags = (),
        **options: Unpack[LoadOptions],
    ) -> Any:
        return self._recall(key, loader, self._patterns.policy_of(options), tags)

    def get_entry_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
        *,
        tags: Tags = (),
        **options: Unpack[LoadOptions],
    ) -> Entry:
        return self._driver.run(self._patterns.get_entry_or_load(key, loader, tags=tags, **options))

    def cached(
        self,
        *,
        key: str | Callable[..., str] | None = None,
        tags: Iterable[str] = (),
        **options: Unpack[LoadOptions],
    ) -> Callable[[Callable[P, R]], CachedFunction[P, R]]:
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
            is_async=False,
        )

    def warm(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Any],
        *,
        tags: Tags = (),
        concurrency: int = 4,
        progress: Progress | None = None,
        **options: Unpack[LoadOptions],
    ) -> Warmed:
        return self._driver.run(
            self._patterns.warm(
                keys, loader, tags=tags, concurrency=concurrency, progress=progress, **options
            )
        )

    def stats(self) -> dict[str, Any]:
        return self._patterns.stats(self._run(self._calls.stats()))

    def nodes(self) -> dict[str, Any]:
        return self._run(self._calls.nodes())

    def explain(self, key: Key) -> dict[str, Any]:
        return self._run(self._calls.explain(key))

    def audit(self, keys: Iterable[Key] = (), *, count: int = 1000) -> dict[str, Any]:
        return self._run(self._calls.audit(keys, count=count))

    # -- the shell ----------------------------------------------------------------

    def _recall(self, key: Key, loader: Callable[[], Any], policy: LoadPolicy, tags: Tags) -> Any:
        """`get_or_load`: what needs no care about its age is one `get` when it is there."""
        plain = policy.is_plain
        if not plain:
            copy = self._patterns.fresh_copy(key, policy)
            if copy is not None:
                return copy.given(None)
        else:
            value = self.get(key, NOWHERE)
            if value is not NOWHERE:
                return None if self._is_raw and value == ABSENT else value
            if self._patterns.known_absent(key):
                return None
        return self._driver.run(self._patterns.value(key, loader, policy, tags, is_missing=plain))

    def close(self) -> None:
        """Close the connections; calls after it raise."""
        self._driver.close()
        if self._direct is not None:
            self._direct.close()
        if self._l0 is not None:
            self._l0.close()
        self._pool.close()
        self._waits.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(ONE_EACH.format("Client"))

    def _new_pool(self) -> Pool:
        return Pool(self._address, self._max_connections, self._timeout_s)

    def _run(self, request: Request[T]) -> T:
        try:
            try:
                return self._ask(request)
            except DaemonUnreachable as gone:
                if not self._goes_past:
                    raise
                return self._way_past().run(request, gone)
        except Unreachable:
            if request.otherwise is None:
                raise
            return request.otherwise()

    def _way_past(self) -> Direct:
        if self._direct is None:
            from coherenced.client.direct import Direct  # loaded only here: it is server code

            self._direct = Direct(self._redis)
        return self._direct

    def _ask(self, request: Request[T]) -> T:
        if self._pool.pid != os.getpid():
            # A forked child: the parent's connections, and its locks, are not ours.
            for inherited in (self._pool, self._waits):
                inherited.abandon()
            self._pool, self._waits = self._new_pool(), self._new_pool()
            if self._l0 is not None:
                self._l0.forked()
        if not request.batches:
            return request.decode([])
        pool = self._waits if request.waits else self._pool
        while True:
            connection = pool.take()
            if request.is_write and connection.used and not connection.is_quiet():
                pool.discard(connection)  # it died while idle: nothing was sent on it
                continue
            was_used = connection.used
            if not was_used and self._l0 is not None:
                self._l0.connected(connection.address.path)
            replies: list[Any] = []
            try:
                for batch in request.batches:
                    replies += connection.exchange(batch, self._timeout_s + request.ack_s)
            except Lost as lost:
                pool.discard(connection)
                sent = lost.sent or bool(replies)
                if request.is_write and sent:
                    raise indeterminate(connection.address, lost) from lost
                if not was_used or isinstance(lost, TimedOut):
                    raise silent(connection.address, lost) from lost
                pool.discard_idle()
            except BaseException:
                pool.discard(connection)
                raise
            else:
                pool.give_back(connection)
                return request.decode(replies)
