"""A node in memory for the tests of the origin layer: leases, fills; time and chance held.

Two layers on one `FakeRedis` are two nodes of a cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from coherenced.core.model import Mutation, ReplyError, Version
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.requests import (
    Fault,
    FaultKind,
    Fill,
    Lease,
    LeaseResult,
    Outcome,
    Read,
    ReadResult,
    Release,
    Request,
    Source,
    Value,
    Write,
    WriteResult,
)
from coherenced.origin.fetcher import Answer, Origin, OriginFault
from coherenced.origin.layer import Origins
from coherenced.origin.rules import Rules

EPOCH = b"0f1e2d3c4b5a6978"


class Clock:
    """Stands still unless it is moved; the dice fall as they are told."""

    def __init__(self) -> None:
        self.at_ms = 1_000_000.0
        self.dice = 1.0

    def now_ms(self) -> float:
        return self.at_ms

    def chance(self) -> float:
        return self.dice


class FakeRedis:
    """What all nodes share."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seq = 0
        self.touched: dict[bytes, int] = {}
        """Key -> sequence of the last record about it."""
        self.held: dict[bytes, tuple[bytes, tuple[bytes, ...], float]] = {}
        """Key -> value, labels, when it ends."""
        self.leases: dict[bytes, bytes] = {}
        self.absent: dict[bytes, float] = {}
        self.waiting: dict[bytes, list[Callable[[], None]]] = {}
        self.fault: Fault | None = None
        self.requests: list[Request] = []
        self.fail_writes = False

    def value(self, key: bytes) -> Value:
        value, labels, ends_ms = self.held.get(key, (None, (), 0.0))
        left_ms: float | None = ends_ms - self.clock.at_ms
        if value is not None and left_ms is not None and left_ms <= 0:
            self.held.pop(key)
            value, labels = None, ()
        version = Version(EPOCH, self.seq)
        left_ms = None if value is None or ends_ms == float("inf") else left_ms
        return Value(value, version, Source.L2, 0.0, labels=labels, expires_in_ms=left_ms)

    def changed(self, key: bytes) -> None:
        """A record about the key: leases die, who waits looks again."""
        self.seq += 1
        self.touched[key] = self.seq
        self.leases.pop(key, None)
        self.absent.pop(key, None)
        self.wake(key)

    def wake(self, key: bytes) -> None:
        for again in self.waiting.pop(key, []):
            again()

    def submit(self, request: Request, done: Callable[[Outcome], None]) -> None:
        self.requests.append(request)
        if self.fault is not None:
            done(self.fault)
        elif isinstance(request, Read):
            done(ReadResult(tuple(self.value(key) for key in request.keys)))
        elif isinstance(request, Lease):
            self._lease(request, done)
        elif isinstance(request, Fill):
            if self.leases.get(request.key) != request.token:
                done(Fault(FaultKind.LOST, "the lease is over"))
                return
            ends_ms = self.clock.at_ms + (request.ttl_ms or float("inf"))
            self.held[request.key] = (request.value, request.tags, ends_ms)
            self.changed(request.key)
            done(WriteResult((b"OK",), Version(EPOCH, self.seq), {}))
        elif isinstance(request, Release):
            alive = self.leases.get(request.key) == request.token
            if alive:
                del self.leases[request.key]
                if request.absent_ms:
                    self.absent[request.key] = self.clock.at_ms + request.absent_ms
                self.wake(request.key)
            done(WriteResult((int(alive),), None, {}))
        elif isinstance(request, Write):
            self._write(request, done)
        else:
            raise NotImplementedError(request)

    def _lease(self, request: Lease, done: Callable[[Outcome], None]) -> None:
        key = request.key
        value = self.value(key)
        version = value.version
        if value.value is not None:
            left_ms = value.expires_in_ms
            due = (
                request.refresh_ms is not None
                and left_ms is not None
                and left_ms <= request.refresh_ms
            )
            if not due or key in self.leases:
                done(LeaseResult(value))
                return
        elif self.absent.get(key, 0.0) > self.clock.at_ms:
            done(LeaseResult(value))
            return
        elif key in self.leases:
            again = lambda: self._lease(request, done)  # noqa: E731
            self.waiting.setdefault(key, []).append(again)
            return
        self.leases[key] = token = b"token%d" % len(self.requests)
        done(LeaseResult(value if value.value is not None else None, token, version))

    def _write(self, request: Write, done: Callable[[Outcome], None]) -> None:
        if self.fail_writes:
            done(Fault(FaultKind.UNAVAILABLE, "Redis is away"))
            return
        replies: list[Any] = []
        for mutation in request.mutations:
            since = mutation.if_version
            if since is not None and self.touched.get(mutation.keys[0], 0) > since.seq:
                replies.append(ReplyError("CONFLICT the key has changed since that version"))
                continue
            for key in mutation.keys:
                if mutation.argv[:1] == (b"SET",):
                    px = mutation.argv.index(b"PX") if b"PX" in mutation.argv else 0
                    ttl_ms = float(mutation.argv[px + 1]) if px else float("inf")
                    ends_ms = self.clock.at_ms + ttl_ms
                    self.held[key] = (mutation.argv[2], mutation.label or (), ends_ms)
                else:
                    self.held.pop(key, None)
                self.changed(key)
            replies.append(b"OK" if mutation.argv[:1] == (b"SET",) else None)
        done(WriteResult(tuple(replies), Version(EPOCH, self.seq), {}))


class Scripted(Origin):
    """An origin that answers from a table, when it is told to."""

    def __init__(self, rules: Rules, clock: Clock) -> None:
        super().__init__(rules, clock.now_ms, "test")
        self.rows: dict[bytes, bytes] = {}
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[bytes, dict[str, str]]] = []
        self.fails = ""
        self.gate: asyncio.Event | None = None
        """While it is not set, nobody is answered."""
        self.took_ms = 10.0
        self.written: list[tuple[bytes, bytes | None]] = []

    async def get(self, key: bytes, conditions: Mapping[str, str] = {}) -> Answer:
        self.asked.append((key, dict(conditions)))
        found = self.rows.get(key)
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            self.errors += 1
            raise OriginFault(self.fails)
        if found is not None and conditions.get("If-None-Match") == self.headers.get("ETag", ""):
            return Answer(None, self.headers, self.took_ms, unchanged=True)
        return Answer(found, self.headers, self.took_ms)

    async def put(self, key: bytes, value: bytes, headers: Mapping[str, str]) -> Answer:
        await self._accept(key, value)
        return Answer(b"", self.headers, self.took_ms)

    async def delete(self, key: bytes, headers: Mapping[str, str]) -> Answer:
        there = key in self.rows
        await self._accept(key, None)
        return Answer(b"" if there else None, {}, self.took_ms)

    async def _accept(self, key: bytes, value: bytes | None) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            raise OriginFault(self.fails, refused=True)
        self.written.append((key, value))
        if value is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value


def node(redis: FakeRedis, rules: Rules) -> tuple[Origins, Scripted]:
    """A node's origin layer over `redis`, and its origin."""
    space = Policy(
        name=rules.name, has_origin=True, grace_ms=rules.grace_ms, early_ms=rules.early_ms
    )
    namespaces = Namespaces(Policy(), [(rules.match, space)])
    layer = Origins(
        [],
        namespaces,
        redis.submit,
        redis.clock,
        "test",
        lambda took_ms: None,
        lambda: Version(EPOCH, redis.seq),
    )
    origin = Scripted(rules, redis.clock)
    layer.origins[rules.name] = origin
    return layer, origin


async def read(layer: Origins, *keys: bytes, **wishes: Any) -> Any:
    """What a client is answered: one value for one key."""
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    request = Read(keys, **wishes)
    told = layer.guard(request, answered.set_result)
    if told is not None:
        layer._submit(request, told)
    outcome = await asyncio.wait_for(answered, 20.0)
    if isinstance(outcome, ReadResult) and len(keys) == 1:
        return outcome.values[0]
    return outcome


async def write(layer: Origins, *mutations: Mutation, **terms: Any) -> Any:
    """What a client is answered."""
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    request = Write(mutations, **terms)
    told = layer.guard(request, answered.set_result)
    if told is not None:
        layer._submit(request, told)
    return await asyncio.wait_for(answered, 20.0)
