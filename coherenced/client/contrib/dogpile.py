"""A region backend for dogpile.cache.

    region = make_region().configure(
        "coherenced", expiration_time=300, arguments={"distributed_lock": True}
    )

Registered under the name `coherenced` by an entry point. Arguments, all optional:

    address, timeout, max_staleness_ms, max_connections    as of `Client`
    client                  a `Client` of one's own, made with serializer=None
    redis_expiration_time   seconds after which Redis forgets a value; None: never
    tags                    stored with every value: `cache.invalidate(tags=…)` ends them all
    ack                     of writes and deletes: "redis", "quorum", "all", …
    distributed_lock        one creator in the whole cluster, by a lease; else one a process
    lock_timeout            seconds until the lease of a creator that died ends (30)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dogpile.cache.api import (
    NO_VALUE,
    BackendArguments,
    BytesBackend,
    CacheMutex,
    KeyType,
    SerializedReturnType,
)

from coherenced.client.leases import Granted, lease, releases
from coherenced.client.sync import Client
from coherenced.errors import CoherencedError

LOCK_PREFIX: Final = "dogpile.lock:"
_CLIENT_ARGUMENTS: Final = ("address", "timeout", "max_staleness_ms", "max_connections")


class CoherencedBackend(BytesBackend):
    """Serialized values, as bytes under the region's own keys."""

    def __init__(self, arguments: BackendArguments) -> None:
        given = {name: arguments[name] for name in _CLIENT_ARGUMENTS if name in arguments}
        self.client: Client = arguments.get("client") or Client(serializer=None, **given)
        self._expires_s: float | None = arguments.get("redis_expiration_time")
        self._tags: tuple[str, ...] = tuple(arguments.get("tags", ()))
        self._ack: str | int | None = arguments.get("ack")
        self._is_distributed = bool(arguments.get("distributed_lock", False))
        self._lock_timeout_s = float(arguments.get("lock_timeout", 30.0))

    def has_lock_timeout(self) -> bool:
        return self._is_distributed

    def get_mutex(self, key: KeyType) -> CacheMutex | None:
        if not self._is_distributed:
            return None
        return LeaseMutex(self.client, f"{LOCK_PREFIX}{key}".encode(), self._lock_timeout_s)

    def get_serialized(self, key: KeyType) -> SerializedReturnType:
        value: SerializedReturnType = self.client.get(key, NO_VALUE)
        return value

    def get_serialized_multi(self, keys: Iterable[KeyType]) -> Sequence[SerializedReturnType]:
        wanted = list(keys)
        found = self.client.get_many(wanted)
        return [found.get(key, NO_VALUE) for key in wanted]

    def set_serialized(self, key: KeyType, value: bytes) -> None:
        self.client.set(key, value, ttl=self._expires_s, tags=self._tags, ack=self._ack)

    def set_serialized_multi(self, mapping: Mapping[KeyType, bytes]) -> None:
        self.client.set_many(mapping, ttl=self._expires_s, tags=self._tags, ack=self._ack)

    def delete(self, key: KeyType) -> None:
        self.client.delete(key, ack=self._ack)

    def delete_multi(self, keys: Iterable[KeyType]) -> None:
        self.client.delete(*keys, ack=self._ack)


class LeaseMutex(CacheMutex):
    """A lock for the whole cluster: the lease of a key of which there is never a value.

    Who waits is woken by the release. The lease of a holder that died ends by itself.
    """

    def __init__(self, client: Client, name: bytes, timeout_s: float) -> None:
        self._client = client
        self._name = name
        self._timeout_s = timeout_s
        self._token: bytes | None = None

    def acquire(self, wait: bool = True) -> bool:
        until = time.monotonic() + 4 * self._timeout_s
        wait_s = 0.0
        while True:
            leased = self._client._run(lease(self._name, self._timeout_s, wait_s))
            if isinstance(leased, Granted):
                self._token = leased.token
                return True
            left_s = until - time.monotonic()
            if not wait or left_s <= 0:
                return False
            wait_s = min(self._timeout_s, left_s)

    def release(self) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        try:
            self._client._run(releases([(self._name, token)]))
        except CoherencedError:
            return  # the lease ends by itself

    def locked(self) -> bool:
        leased = self._client._run(lease(self._name, self._timeout_s))
        if isinstance(leased, Granted):
            self._client._run(releases([(self._name, leased.token)]))
            return False
        return True


def register() -> None:
    """Make `coherenced` known to dogpile.cache, where entry points are not read."""
    from dogpile.cache import register_backend

    register_backend("coherenced", __name__, CoherencedBackend.__name__)  # type: ignore[no-untyped-call]
