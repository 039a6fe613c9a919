"""Clients: seeded workloads, one request at a time each, everything they see checked.

Every written value is unique, so the truth can say when it was committed and
until when Redis held it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import msgspec

from coherenced.core.model import Mutation, Op, Set, Version
from coherenced.core.requests import (
    Fault,
    Fill,
    Get,
    Lease,
    LeaseResult,
    Level,
    Outcome,
    Read,
    ReadResult,
    Release,
    Request,
    Write,
    WriteResult,
)
from tests.sim.history import ReadOp, WriteOp
from tests.sim.host import Host
from tests.sim.mix import COUNTER, TAGS, Mix, set_mutation
from tests.sim.world import FILLER, World

LEASES_MS: Final = (20, 300)
"""For how long clients want a lease."""


class Client:
    """One session on one host."""

    def __init__(self, world: World, name: str, host: Host, keys: list[bytes], mix: Mix) -> None:
        self.world = world
        self.name = name
        self.host = host
        self.keys = [key for key in keys if not key.startswith(COUNTER)]
        """Keys that it sets; it reads the counters too."""
        self.readable = keys
        self.mix = mix
        self.random = Random(f"client {name} {world.seed}")
        self.stopped = False
        self.done = 0
        self.last_version: dict[bytes, Version] = {}
        self.waits_for: ReadOp | WriteOp | None = None
        self._written = 0
        self._brief_every = 4 if name.endswith(("0", "2", "4", "6", "8")) else 1
        """Of its plain writes, those that are asked for by the short way."""
        self.process = len(host.clients)
        """Which of the host's processes it lives in."""
        host.clients.append(self)
        kinds: dict[Callable[[], None], float] = {
            self._read: mix.reads,
            self._read_zero: mix.zero_reads,
            self._read_many: mix.multi_reads,
            self._read_token: mix.token_reads,
            self._read_loosely: mix.loose_reads,
            self._read_snapshot: mix.snapshots,
            self._set: mix.sets,
            self._set_ttl: mix.ttl_sets,
            self._set_tagged: mix.tagged_sets,
            self._delete: mix.deletes,
            self._increment: mix.increments,
            self._invalidate: mix.invalidations,
            self._invalidate_many: mix.large_invalidations,
            self._invalidate_tag: mix.tag_invalidations,
            self._invalidate_prefix: mix.prefix_invalidations,
            self._invalidate_everything: mix.everything,
            self._flush: mix.flushes,
            self._transaction: mix.transactions,
            self._compare_and_set: mix.compare_and_set,
            self._append: mix.appends,
            self._load: mix.loads,
        }
        self._kinds = list(kinds)
        self._weights = list(kinds.values())

    def start(self) -> None:
        self.world.after(self.random.random() * self.mix.think_ms, self.next)

    def next(self) -> None:
        if self.stopped:
            return
        host = self.host
        if host.node is None or not host.node.ready:
            self.world.after(5.0, self.next)  # it serves its sockets only once it is ready
            return
        self.random.choices(self._kinds, self._weights)[0]()

    def _again(self) -> None:
        self.done += 1
        think_ms = self.random.expovariate(1.0 / self.mix.think_ms)
        self.world.after(think_ms, self.next)

    def _key(self) -> bytes:
        # Some keys are hot: the first is as likely as all others together.
        return self.keys[0] if self.random.random() < 0.4 else self.random.choice(self.keys)

    # -- reads -------------------------------------------------------------------------

    def _read(self) -> None:
        self.read((self._readable(),), None)

    def _read_zero(self) -> None:
        self.read((self._readable(),), 0.0)

    def _read_many(self) -> None:
        self.read(self._several(), self.random.choice((None, 0.0)))

    def _read_snapshot(self) -> None:
        self.read(self._several(), None, snapshot=True)

    def _several(self) -> tuple[bytes, ...]:
        most = min(4, len(self.readable))
        return tuple(self.random.sample(self.readable, self.random.randint(min(2, most), most)))

    def _readable(self) -> bytes:
        return self._key() if self.random.random() < 0.8 else self.random.choice(self.readable)

    def _read_loosely(self) -> None:
        self.read((self._readable(),), 5.0 * self.world.namespaces.largest_bound_ms)

    def _read_token(self) -> None:
        if not self.world.tokens:
            self.read((self._key(),), None)
            return
        key, version, commit_ms = self.random.choice(self.world.tokens)
        self.read((key,), None, version, commit_ms)

    def read(
        self,
        keys: tuple[bytes, ...],
        bound_ms: float | None,
        token: Version | None = None,
        token_ms: float = float("-inf"),
        *,
        snapshot: bool = False,
    ) -> None:
        host, world = self.host, self.world
        bounds = [world.namespaces.for_key(key).max_staleness_ms for key in keys]
        effective_ms = max(bounds) if bound_ms is None else bound_ms
        op = ReadOp(self.name, host.name, host.incarnation, keys, effective_ms, world.now_ms)
        op.token_ms = token_ms
        op.snapshot = snapshot
        op.stale_ms = world.namespaces.longest_stale_ms
        world.history.unanswered += 1
        request: Request = Read(
            keys, max_staleness_ms=bound_ms, min_version=token, snapshot=snapshot
        )
        plain = bound_ms is None and token is None and not snapshot and len(keys) == 1
        if plain and self.random.random() < 0.5 and not host.paused:
            entry = host.hit(keys[0])  # a client of another language
            if entry is not None:
                world.history.end_hit(op, entry.value, world.now_ms)
                self._again()
                return
            request = Get(keys[0])

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, bytes):
                world.history.end_get(op, outcome, world.now_ms)
                self._again()
                return
            assert isinstance(outcome, ReadResult | Fault)
            world.history.end_read(op, outcome, world.now_ms)
            if isinstance(outcome, ReadResult):
                for key, value in zip(keys, outcome.values, strict=True):
                    self.last_version[key] = value.version
            self._again()

        delay_ms = self.random.choice((0.0, 0.0, self.random.expovariate(1.0)))
        host.ask(request, self._once(op, done), self.process, delay_ms)

    # -- writes ------------------------------------------------------------------------

    def _value(self) -> bytes:
        self._written += 1
        return f"{self.name}.{self._written}".encode()

    def _level(self) -> int:
        return self.random.choice(self.mix.levels)

    def _set(self) -> None:
        value = self._value()
        self.write("set", (set_mutation(self._key(), value),), value)

    def _set_ttl(self) -> None:
        value = self._value()
        ttl_ms = self.random.randint(1, 400)
        self.write("set", (set_mutation(self._key(), value, ttl_ms),), value)

    def _set_tagged(self) -> None:
        value = self._value()
        tags = tuple(self.random.sample(TAGS, self.random.randint(1, 2)))
        plain = set_mutation(self._key(), value)
        self.write("set tagged", (msgspec.structs.replace(plain, label=tags),), value)

    def _delete(self) -> None:
        keys = tuple(self.random.sample(self.keys, min(len(self.keys), self.random.randint(1, 2))))
        mutation = Mutation((b"DEL", *keys), Op.DELETE, keys, unchanged=b"z", frees_memory=True)
        self.write("delete", (mutation,), self._value())

    def _increment(self) -> None:
        key = COUNTER + b"%d" % self.random.randint(1, 2)
        mutation = Mutation((b"INCR", key), keys=(key,), exact_integer=True)
        self.write("incr", (mutation,), self._value())

    def _append(self) -> None:
        key = self._key()
        mutation = Mutation((b"APPEND", key, b"+"), keys=(key,))
        self.write("append", (mutation,), self._value())

    def _invalidate(self) -> None:
        mutation = Mutation((), Op.INVALIDATE, (self._key(),), frees_memory=True)
        self.write("invalidate", (mutation,), self._value())

    def _invalidate_many(self) -> None:
        keys = (self._key(), *(FILLER + b"%050d" % number for number in range(90)))
        mutation = Mutation((), Op.INVALIDATE, keys, frees_memory=True)
        self.write("invalidate many", (mutation,), self._value())

    def _invalidate_tag(self) -> None:
        tag = self.random.choice(TAGS)
        mutation = Mutation((), Op.INVALIDATE, tags=(tag,), frees_memory=True)
        self.write("invalidate tag", (mutation,), self._value())

    def _invalidate_prefix(self) -> None:
        several = self.mix.prefixes
        prefixes = several if len(several) == 1 else (self.random.choice(several),)
        mutation = Mutation((), Op.INVALIDATE, prefixes=prefixes, frees_memory=True)
        self.write("invalidate prefix", (mutation,), self._value())

    def _invalidate_everything(self) -> None:
        mutation = Mutation((), Op.INVALIDATE, everything=True, frees_memory=True)
        self.write("invalidate all", (mutation,), self._value())

    def _flush(self) -> None:
        mutation = Mutation(
            (b"FLUSHDB",), Op.FLUSH, everything=True, frees_memory=True,
            expected_reply=b"OK", reply_is_known=True,
        )  # fmt: skip
        self.write("flushdb", (mutation,), self._value())

    def _transaction(self) -> None:
        value = self._value()
        chosen = self.random.sample(self.keys, min(len(self.keys), 2))
        mutations = tuple(set_mutation(key, value + b"/" + key) for key in chosen)
        self.write("transaction", mutations, mutations[0].argv[2], atomic=True)

    def _compare_and_set(self) -> None:
        key = self._key()
        version = self.last_version.get(key)
        if version is None:
            self._read()
            return
        value = self._value()
        mutation = msgspec.structs.replace(set_mutation(key, value), if_version=version)
        self.write("compare-and-set", (mutation,), value)

    # -- loads -------------------------------------------------------------------------

    def _load(self) -> None:
        host, world, key = self.host, self.world, self._key()
        if key.startswith(world.history.linearizable):
            self._read()  # what was loaded ends by an invalidation, and that has one phase only
            return
        bound_ms = world.namespaces.for_key(key).max_staleness_ms
        op = ReadOp(self.name, host.name, host.incarnation, (key,), bound_ms, world.now_ms)
        world.history.unanswered += 1
        lease_ms = self.random.choice(LEASES_MS)
        refresh_ms = self.random.choice((None, None, 200.0))
        wait_ms = self.random.choice((0.0, 30.0))

        def done(outcome: Outcome) -> None:
            assert isinstance(outcome, LeaseResult | Fault)
            told = isinstance(outcome, LeaseResult)
            if isinstance(outcome, LeaseResult) and outcome.value is not None:
                world.history.end_read(op, ReadResult((outcome.value,)), world.now_ms)
            elif isinstance(outcome, Fault):
                world.history.end_read(op, outcome, world.now_ms)
            else:
                world.history.unanswered -= 1
            if not told or not outcome.token:
                self._again()
                return
            loading_ms = self.random.expovariate(1.0 / 15.0)
            granted_ms, incarnation = world.now_ms, host.incarnation

            def loaded() -> None:
                if self.stopped or host.incarnation != incarnation:
                    self._again()
                elif self.random.random() < 0.2:
                    self._give_back(key, outcome.token)
                else:
                    self._fill(key, outcome.token, granted_ms)

            world.after(loading_ms, loaded)

        request = Lease(key, lease_ms=lease_ms, wait_ms=wait_ms, refresh_ms=refresh_ms)
        host.submit(request, self._once(op, done))

    def _fill(self, key: bytes, token: bytes, granted_ms: float) -> None:
        host, world, value = self.host, self.world, self._value()
        keys = (key,)
        op = WriteOp(
            self.name, host.name, host.incarnation, keys, value, "fill", Level.REDIS, world.now_ms
        )
        op.tags = tuple(self.random.sample(TAGS, self.random.choice((0, 0, 1))))
        # A claim is for the time of whoever is first in line; if that one has gone when it is
        # granted, the token is given to the next, who may have asked for less.
        op.granted_ms, op.lapses_ms = granted_ms, granted_ms + max(LEASES_MS)
        world.history.unanswered += 1

        def done(outcome: Outcome) -> None:
            assert isinstance(outcome, WriteResult | Fault)
            world.history.end_write(op, outcome, world.now_ms)
            self._again()

        ttl_ms = self.random.choice((None, 300))
        fill = Fill(key, token, value, ttl_ms, op.tags, Level.REDIS)
        host.submit(fill, self._once(op, done))

    def _give_back(self, key: bytes, token: bytes) -> None:
        host, world = self.host, self.world
        op = WriteOp(
            self.name, host.name, host.incarnation, (key,), b"", "give back", Level.REDIS,
            world.now_ms,
        )  # fmt: skip
        world.history.unanswered += 1

        def done(outcome: Outcome) -> None:
            assert isinstance(outcome, WriteResult | Fault)
            world.history.end_write(op, outcome, world.now_ms)
            self._again()

        absent_ms = self.random.choice((None, 100))
        host.submit(Release(key, token, absent_ms), self._once(op, done))

    def write(
        self, what: str, mutations: tuple[Mutation, ...], mark: bytes, *, atomic: bool = False
    ) -> None:
        host, world = self.host, self.world
        keys = tuple(dict.fromkeys(key for m in mutations for key in m.keys))
        level = self._level()
        two_phased = any(key.startswith(world.history.linearizable) for key in keys)
        if two_phased and mutations[0].argv[:1] != (b"SET",):
            mark = b""  # rewritten on its way: only its value would tell it
        op = WriteOp(self.name, host.name, host.incarnation, keys, mark, what, level, world.now_ms)
        for number, mutation in enumerate(mutations):
            if mutation.if_version is None and not two_phased:
                world.mark(mutation, mark if number == 0 else mark + b"#%d" % number)
        world.history.unanswered += 1

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, bytes):  # the reply alone: that it is done, but not where
                outcome = WriteResult((outcome,), Version(b"", 0), {})
            else:
                assert isinstance(outcome, WriteResult | Fault)
                self._remember(op, outcome)
            world.history.end_write(op, outcome, world.now_ms)
            self._again()

        request: Request = Write(mutations, atomic=atomic, ack=level)
        is_usual = bool(keys) and level == world.namespaces.for_key(keys[0]).ack
        is_brief = is_usual and self._written % self._brief_every == 0
        if is_brief and mutations == (set_mutation(keys[0], mark),):
            request = Set.to(keys[0], mark)  # a client that wants no more than the reply
        host.submit(request, self._once(op, done))

    def _remember(self, op: WriteOp, outcome: WriteResult | Fault) -> None:
        times = self.world.truth.committed.get(op.value) if op.value else None
        if isinstance(outcome, WriteResult) and outcome.version is not None and times and op.keys:
            self.world.tokens.append((op.keys[0], outcome.version, times[-1]))

    def _once(
        self, op: ReadOp | WriteOp, done: Callable[[Outcome], None]
    ) -> Callable[[Outcome], None]:
        answered = False

        def once(outcome: Outcome) -> None:
            nonlocal answered
            if answered:
                raise AssertionError(f"answered twice: {op}")
            answered = True
            self.waits_for = None
            done(outcome)

        self.waits_for = op
        return once

    def host_crashed(self) -> None:
        """The request under way will never be answered: the client goes on all the same."""
        if self.waits_for is not None:
            self.waits_for = None
            self.world.history.unanswered -= 1
            self._again()
