"""A cache backend for Django.

    CACHES = {
        "default": {
            "BACKEND": "coherenced.client.contrib.django.CoherencedCache",
            "LOCATION": "unix:///run/coherenced/coherenced.sock",  # or "": found by itself
            "OPTIONS": {"max_staleness_ms": 0, "ack": "all"},
        }
    }

OPTIONS: `timeout` (seconds the daemon may stay silent), `max_staleness_ms`, `session`,
`max_connections`, `on_unavailable` ("raise" or "load": then what cannot be read is a miss),
`ack` (of writes and deletes), `tags` (of every value), `serializer`.

Values are pickled, as in Django's other backends, and whole numbers stored as digits, so that
`incr` is one atomic step and other languages read them. Each value has the tag
`django:PREFIX`: `clear()` is one invalidation of that tag, whatever the number of keys, and
ends no key of anybody else. A value without timeout lives for 30 days.

Beside Django's own methods: `get_or_set` with a callable runs it once in the whole cluster
(a lease), `invalidate(keys=, tags=, prefixes=, ack=)`, and `set(…, tags=[…])`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any, Final

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from coherenced.client.aio import AsyncClient
from coherenced.client.freshness import Loaded
from coherenced.client.replies import Entry, Invalidation
from coherenced.client.sync import Client
from coherenced.client.values import Serializer
from coherenced.errors import CommandError, UsageError

FOREVER_S: Final = 30 * 86_400.0
"""What `timeout=None` means: values with tags have an end."""

_NOTHING: Final = object()
_SHARED: Final = ("timeout", "max_staleness_ms", "session", "on_unavailable")


class PickleSerializer:
    """Whole numbers as digits, for `incr`; everything else pickled."""

    def __init__(self, protocol: int = pickle.HIGHEST_PROTOCOL) -> None:
        self._protocol = protocol

    def dumps(self, value: Any, /) -> bytes:
        # Not bool, whose kind would be lost; and only what INCRBY can count with.
        if type(value) is int and -(1 << 63) <= value < 1 << 63:
            return b"%d" % value
        return pickle.dumps(value, self._protocol)

    def loads(self, stored: bytes, /) -> Any:
        try:
            return int(stored)
        except ValueError:
            return pickle.loads(stored)


PICKLE: Final = PickleSerializer()

_clients: Final[dict[tuple[Any, ...], tuple[Client, AsyncClient]]] = {}
_lock: Final = Lock()


def _clients_of(
    location: str, serializer: Serializer, max_connections: int, options: dict[str, Any]
) -> tuple[Client, AsyncClient]:
    """Django makes a cache object for every thread: those of one configuration share clients."""
    wanted = (location, serializer, max_connections, *sorted(options.items()))
    with _lock:
        if wanted not in _clients:
            address = location or None
            _clients[wanted] = (
                Client(address, serializer=serializer, max_connections=max_connections, **options),
                AsyncClient(address, serializer=serializer, **options),
            )
        return _clients[wanted]


def close_clients() -> None:
    """Close what all caches of this process share; the next use opens anew."""
    with _lock:
        clients = [*_clients.values()]
        _clients.clear()
    for client, _ in clients:
        client.close()


class CoherencedCache(BaseCache):
    """Django's cache, coherent over all hosts."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = dict(params.get("OPTIONS", {}))
        self._ack: str | int | None = options.pop("ack", None)
        self._tag = f"django:{self.key_prefix}"
        self._tags = [self._tag, *options.pop("tags", ())]
        serializer: Serializer = options.pop("serializer", None) or PICKLE
        for name in ("MAX_ENTRIES", "CULL_FREQUENCY"):
            options.pop(name, None)  # the daemon bounds its memory by itself
        most = options.pop("max_connections", 16)
        if unknown := options.keys() - set(_SHARED):
            known = ", ".join(("ack", "tags", "serializer", "max_connections", *_SHARED))
            raise UsageError(f"no such OPTIONS: {', '.join(sorted(unknown))} (there are: {known})")
        self.client, self.async_client = _clients_of(location, serializer, most, options)

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float | None:
        """Seconds to live; None: none at all, it is to be gone at once."""
        if timeout == DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if timeout is None:
            return FOREVER_S
        return min(timeout, FOREVER_S) if timeout > 0 else None

    # -- reads ----------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return self.client.get(self._name(key, version), default)

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return await self.async_client.get(self._name(key, version), default)

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        names = {self._name(key, version): key for key in keys}
        return {names[name]: value for name, value in self.client.get_many(names).items()}

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        names = {self._name(key, version): key for key in keys}
        found = await self.async_client.get_many(names)
        return {names[name]: value for name, value in found.items()}

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self.client.get(self._name(key, version), _NOTHING) is not _NOTHING

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        return await self.async_client.get(self._name(key, version), _NOTHING) is not _NOTHING

    # -- writes ---------------------------------------------------------------------------

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        name, ttl = self._name(key, version), self.get_backend_timeout(timeout)
        if ttl is None:
            self.client.delete(name, ack=self._ack)
        else:
            self.client.set(name, value, ttl=ttl, tags=[*self._tags, *tags], ack=self._ack)

    async def aset(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        name, ttl = self._name(key, version), self.get_backend_timeout(timeout)
        client = self.async_client
        if ttl is None:
            await client.delete(name, ack=self._ack)
        else:
            await client.set(name, value, ttl=ttl, tags=[*self._tags, *tags], ack=self._ack)

    def add(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        name, ttl = self._name(key, version), self.get_backend_timeout(timeout)
        if ttl is None:
            return not self.has_key(key, version)
        return self.client.add(name, value, ttl=ttl, tags=self._tags, ack=self._ack)

    async def aadd(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        name, ttl = self._name(key, version), self.get_backend_timeout(timeout)
        if ttl is None:
            return not await self.ahas_key(key, version)
        return await self.async_client.add(name, value, ttl=ttl, tags=self._tags, ack=self._ack)

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        items = {self._name(key, version): value for key, value in data.items()}
        ttl = self.get_backend_timeout(timeout)
        if ttl is None:
            self.client.delete(*items, ack=self._ack)
        else:
            self.client.set_many(items, ttl=ttl, tags=self._tags, ack=self._ack)
        return []

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        items = {self._name(key, version): value for key, value in data.items()}
        ttl = self.get_backend_timeout(timeout)
        if ttl is None:
            await self.async_client.delete(*items, ack=self._ack)
        else:
            await self.async_client.set_many(items, ttl=ttl, tags=self._tags, ack=self._ack)
        return []

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return bool(self.client.execute(*self._touching(key, timeout, version)))

    async def atouch(
        self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        return bool(await self.async_client.execute(*self._touching(key, timeout, version)))

    def _touching(self, key: Any, timeout: Any, version: int | None) -> tuple[str | int, ...]:
        name, ttl = self._name(key, version), self.get_backend_timeout(timeout)
        return ("DEL", name) if ttl is None else ("PEXPIRE", name, max(1, round(ttl * 1000)))

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self.client.delete(self._name(key, version), ack=self._ack) > 0

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        return await self.async_client.delete(self._name(key, version), ack=self._ack) > 0

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        self.client.delete(*(self._name(key, version) for key in keys), ack=self._ack)

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        names = [self._name(key, version) for key in keys]
        await self.async_client.delete(*names, ack=self._ack)

    def clear(self) -> None:
        """Everything that was stored under this KEY_PREFIX is gone, on every host."""
        self.client.invalidate(tags=[self._tag], ack=self._ack)

    async def aclear(self) -> None:
        await self.async_client.invalidate(tags=[self._tag], ack=self._ack)

    # -- numbers --------------------------------------------------------------------------

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        name = self._name(key, version)
        _check_number(key, self.client.get_entry(name, max_staleness_ms=0))
        try:
            counted = int(self.client.execute("INCRBY", name, delta))
        except CommandError as error:
            raise _no_number(key, error) from error
        if counted == delta and self.client.execute("PTTL", name, write=False) == -1:
            # Ours always have an end: it expired meanwhile, and this was the start of another.
            self.client.delete(name)
            raise _not_found(key)
        return counted

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        name, client = self._name(key, version), self.async_client
        _check_number(key, await client.get_entry(name, max_staleness_ms=0))
        try:
            counted = int(await client.execute("INCRBY", name, delta))
        except CommandError as error:
            raise _no_number(key, error) from error
        if counted == delta and await client.execute("PTTL", name, write=False) == -1:
            await client.delete(name)
            raise _not_found(key)
        return counted

    # -- more than Django asks for --------------------------------------------------------

    def get_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> Any:
        name, ttl = self._name(key, version), self.get_backend_timeout(timeout)
        load = default if callable(default) else lambda: default
        return self.client.get_or_load(name, _kept(load, ttl), tags=self._tags)

    async def aget_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> Any:
        name, ttl = self._name(key, version), self.get_backend_timeout(timeout)
        load = default if callable(default) else lambda: default
        return await self.async_client.get_or_load(name, _kept(load, ttl), tags=self._tags)

    def invalidate(
        self,
        keys: Iterable[Any] = (),
        *,
        tags: Iterable[str] = (),
        version: int | None = None,
        ack: str | int | None = None,
    ) -> Invalidation:
        """Drop these keys, and whatever was stored with one of these tags, on every host."""
        names = [self._name(key, version) for key in keys]
        return self.client.invalidate(names, tags=tags, ack=ack or self._ack)

    def close(self, **kwargs: Any) -> None:
        """Called after each request: the connections stay, for the next one."""

    def _name(self, key: Any, version: int | None) -> str:
        name: str = self.make_and_validate_key(key, version=version)
        return name


def _kept(load: Callable[[], Any], ttl: float | None) -> Callable[[], Any]:
    """A loader for `get_or_load` whose result lives for `ttl`; None: it is not kept."""

    def loader() -> Loaded:
        return Loaded(load(), ttl=0 if ttl is None else ttl)

    return loader


def _check_number(key: Any, entry: Entry) -> None:
    if not entry.found:
        raise _not_found(key)
    if type(entry.value) is not int:
        raise TypeError(f"the value of '{key}' is no whole number: {entry.value!r}")


def _not_found(key: Any) -> ValueError:
    return ValueError(f"Key '{key}' not found")


def _no_number(key: Any, error: CommandError) -> ValueError:
    return ValueError(f"cannot count with the value of '{key}': {error}")
