"""Between the front ends and the node: which requests concern an origin, and what becomes of them.

A read goes to the node first. What it answers decides, key by key:

    fresh                 that is the answer
    fresh, due early      that is the answer, and it is loaded anew behind (XFetch)
    stale, revalidate     that is the answer, marked stale, and it is loaded anew behind
    stale                 it is loaded; if that fails or takes long, the stale value, marked so
    not there             it is loaded, and the answer is what the origin said

Keys without an origin pass through untouched, and so does a hit of L1, which never
gets here: L1 holds a value only while it is fresh (`Policy.fresh_until`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Final, Protocol

import msgspec

from coherenced.core.life import age_ms, life_of
from coherenced.core.model import Version
from coherenced.core.policy import Namespaces
from coherenced.core.requests import (
    Get,
    Lease,
    LeaseResult,
    Outcome,
    Read,
    ReadResult,
    Request,
    Value,
    Write,
)
from coherenced.origin.behind import Enqueue, WriteBehind
from coherenced.origin.fetcher import Origin
from coherenced.origin.freshness import EARLY, FRESH, REVALIDATE, STALE, state
from coherenced.origin.loads import Loads, grace_of, stale_allowed
from coherenced.origin.marks import Marks, is_loaded, marks_of
from coherenced.origin.rules import BEHIND, THROUGH, Rules
from coherenced.origin.sender import Store
from coherenced.origin.through import WriteThrough, refusal
from coherenced.origin.waits import Gather, StaleWait

Done = Callable[[Outcome], None]

NOT_STALE_MS: Final = -1.0
"""Less than zero past its time: not even at the very moment at which it becomes stale."""


class Clock(Protocol):
    """Time and chance, so that tests can hold both."""

    def now_ms(self) -> float: ...

    def chance(self) -> float:
        """A random number above 0, up to 1."""


class Origins:
    """All origins of this node. `submit` asks the node itself."""

    def __init__(
        self,
        rules: Sequence[Rules],
        namespaces: Namespaces,
        submit: Callable[[Request, Done], None],
        clock: Clock,
        agent: str,
        took: Callable[[float], None],
        version: Callable[[], Version | None] = lambda: None,
    ) -> None:
        """`version`: where the lane's log stands, as far as this node has applied it."""
        self.origins: dict[str, Origin] = {}
        self.behind: WriteBehind | None = None
        self._namespaces = namespaces
        self._submit = submit
        self._clock = clock
        self._agent = agent
        self._took = took
        self._version = version
        self._closing: set[asyncio.Task[None]] = set()
        self.replace(rules)
        self.loads = Loads(self.ask, clock.now_ms, clock.chance, self._pending)
        self.through = WriteThrough(
            self.origin_of, submit, self.ask, clock.now_ms, clock.chance, version
        )

    def replace(self, rules: Sequence[Rules]) -> None:
        """New rules from now on; an origin whose rules stay keeps its connections and counts."""
        before, self.origins = self.origins, {}
        for one in rules:
            kept = before.pop(one.name, None)
            if kept is None or kept.rules != one:
                if kept is not None:
                    before[one.name] = kept
                kept = Origin(one, self._clock.now_ms, self._agent)
                kept.took = self._took
            self.origins[one.name] = kept
        for gone in before.values():
            task = asyncio.get_running_loop().create_task(gone.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if self.behind is not None:
            self.behind.replace(self.origins)

    def write_behind(self, store: Store, enqueue: Enqueue) -> None:
        """Take and send writes of namespaces whose origin is written behind."""
        self.behind = WriteBehind(
            store,
            enqueue,
            self.origin_of,
            self._submit,
            self.through.drop,
            self._clock.now_ms,
            self._clock.chance,
            self._version,
        )
        self.behind.replace(self.origins)

    @property
    def busy(self) -> bool:
        """Whether somebody's request is under way at an origin."""
        return len(self.loads) + len(self.through) > 0

    async def finish(self, patience_ms: float) -> None:
        """Wait for what is under way at origins, at most `patience_ms`."""
        under_way = {*self.loads.tasks, *self.through.tasks}
        if under_way:
            await asyncio.wait(under_way, timeout=patience_ms / 1e3)

    async def close(self) -> None:
        await self.loads.close()
        await self.through.close()
        if self.behind is not None:
            await self.behind.close()
        for origin in self.origins.values():
            await origin.close()

    async def ask(self, request: Request) -> Outcome:
        """What the node says, past this floor."""
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not answered.done():
                answered.set_result(outcome)

        self._submit(request, done)
        return await answered

    def origin_of(self, key: bytes) -> Origin | None:
        """The origin of `key`'s namespace."""
        return self.origins.get(self._namespaces.for_key(key).name)

    def guard(self, request: Request, done: Done) -> Done | None:
        """Who is to be told the node's answer to `request`; None: it is taken care of here."""
        if isinstance(request, Read):
            # A snapshot, or a read under WATCH, is about Redis: nothing is loaded for it.
            if request.snapshot or request.skip_l1:
                return done
            origins = [self.origin_of(key) for key in request.keys]
            if not any(origins):
                return done
            return partial(self._complete, request, origins, done)
        if isinstance(request, Get):
            return self._guard_get(request, done)
        if isinstance(request, Write):
            return self._guard_write(request, done)
        if isinstance(request, Lease):
            return self._guard_lease(request, done)
        return done

    def _guard_get(self, get: Get, done: Done) -> Done | None:
        """What has an origin is a read like any other."""
        if self.origin_of(get.key) is None:
            return done
        read = Read((get.key,))
        told = self.guard(read, done)
        assert told is not None
        self._submit(read, told)
        return None

    def _guard_lease(self, lease: Lease, done: Done) -> Done | None:
        """A key has one home: what has an origin is loaded from there, and by nobody else. Whoever
        asks to be its loader is given what a read would be."""
        origin = self.origin_of(lease.key)
        if origin is None:
            return done

        def told(outcome: Outcome) -> None:
            done(LeaseResult(outcome.values[0]) if isinstance(outcome, ReadResult) else outcome)

        read = Read((lease.key,), lease.max_staleness_ms)
        self._submit(read, partial(self._complete, read, [origin], told))
        return None

    # -- reads ---------------------------------------------------------------------------

    def _complete(
        self, read: Read, origins: list[Origin | None], done: Done, outcome: Outcome
    ) -> None:
        """The node has answered: load what it could not answer well enough."""
        if not isinstance(outcome, ReadResult):
            done(outcome)
            return
        gather = Gather(outcome.values, done)
        for index, (key, origin, value) in enumerate(
            zip(read.keys, origins, outcome.values, strict=True)
        ):
            if origin is not None and value.error is None and not value.stale:
                self._look(gather, index, key, origin, value, read)
        gather.close()

    def _look(
        self, gather: Gather, index: int, key: bytes, origin: Origin, value: Value, read: Read
    ) -> None:
        rules, given = origin.rules, partial(gather.put, index)
        if value.value is None:
            if not read.cached_only:
                gather.await_one()
                self.loads.join(key, origin, None, given, 0.0 if read.max_age_ms != 0 else inf)
            return
        if not is_loaded(value.labels):
            return  # an application has written it: it is what it is until it expires
        marks = marks_of(value.labels)
        while_ms, if_error_ms = self._allowed(key, rules, marks, read)
        grace_ms = grace_of(value, rules)
        due_ms = due_of(read, grace_ms, value)
        found = state(
            value.expires_in_ms,
            due_ms,
            while_ms,
            beta=rules.beta,
            load_ms=marks.load_ms,
            chance=self._clock.chance() if rules.beta else 1.0,
        )
        if found == FRESH:
            return
        if found == EARLY:
            if read.cached_only:
                return
            origin.early += 1
            self.loads.join(key, origin, value, None)
            return
        stale = as_stale(value, grace_ms)
        if read.cached_only:
            nothing = msgspec.structs.replace(value, value=None, labels=())
            gather.values[index] = stale if found == REVALIDATE else nothing
            return
        limit_ms = grace_ms if due_ms == inf else due_ms
        past_ms = max(0.0, limit_ms - (value.expires_in_ms or 0.0))
        throttled = past_ms <= if_error_ms and self.loads.throttled(key)
        if found == REVALIDATE or throttled:
            origin.stale_served += 1
            gather.values[index] = stale
            if not self.loads.throttled(key):
                self.loads.join(key, origin, value, None)
            return
        assert found == STALE
        gather.await_one()
        if past_ms > if_error_ms:
            self.loads.join(key, origin, value, given, due_ms)
            return
        wait = StaleWait(gather, index, origin, stale)
        self.loads.join(key, origin, value, wait.loaded, due_ms)
        wait.begin()

    def _allowed(self, key: bytes, rules: Rules, marks: Marks, read: Read) -> tuple[float, float]:
        """How long past its time `read` may be given a value: while it is loaded anew, and if
        that fails. What the call says counts before what the origin says, and is configured."""
        while_ms, if_error_ms = stale_allowed(marks, rules)
        strict = self._namespaces.for_key(key).must_be_current(read.max_staleness_ms)
        if strict or read.is_particular:
            while_ms = if_error_ms = NOT_STALE_MS
        if read.stale_while_revalidate_ms is not None:
            while_ms = read.stale_while_revalidate_ms
        if read.stale_if_error_ms is not None:
            if_error_ms = read.stale_if_error_ms
        return while_ms, if_error_ms

    async def _pending(self, key: bytes) -> Value | None:
        origin = self.origin_of(key)
        if self.behind is None or origin is None or origin.rules.mode != BEHIND:
            return None
        return await self.behind.newest(key)

    # -- writes ----------------------------------------------------------------------------

    def _guard_write(self, write: Write, done: Done) -> Done | None:
        modes = set()
        for mutation in write.mutations:
            if mutation.is_write and mutation.argv:
                for key in mutation.keys:
                    origin = self.origin_of(key)
                    modes.add(None if origin is None else origin.rules.mode)
        if THROUGH in modes:
            self.through.take(write, done)
            return None
        if BEHIND in modes:
            if self.behind is None:
                done(refusal(len(write.mutations), "write-behind begins with the next start"))
            else:
                self.behind.take(write, done)
            return None
        return done


def due_of(read: Read, grace_ms: float, value: Value) -> float:
    """With how much left of its time in Redis the value has to be loaded anew for this reader (ms;
    infinity: in any case)."""
    due_ms = grace_ms + (read.min_fresh_ms or 0.0)
    if read.max_age_ms is None:
        return due_ms
    life = life_of(value.labels)
    if read.max_age_ms == 0 or life is None:
        return inf
    return max(due_ms, life.life_ms - read.max_age_ms)


def as_stale(value: Value, grace_ms: float) -> Value:
    """`value`, past its time: marked so. As old as it says, or at least as long as it is past.
    One that is only older than a reader wanted it is given as it is."""
    past_ms = grace_ms - (value.expires_in_ms or 0.0)
    if past_ms < 0:
        return value
    known_ms = age_ms(value.labels, value.expires_in_ms)
    old_ms = value.age_ms + past_ms if known_ms is None else known_ms
    return msgspec.structs.replace(value, stale=True, age_ms=old_ms, ttl_ms=-past_ms)


class SystemClock:
    """The node's own clock, and chance."""

    def __init__(self, now_ms: Callable[[], float]) -> None:
        self.now_ms = now_ms

    @staticmethod
    def chance() -> float:
        return 1.0 - random.random()


def open_origins(
    rules: Sequence[Rules],
    namespaces: Namespaces,
    submit: Callable[[Request, Done], None],
    now_ms: Callable[[], float],
    agent: str,
    took: Callable[[float], None],
    version: Callable[[], Version | None],
) -> Origins:
    """The origins of a running node; close what is returned."""
    return Origins(rules, namespaces, submit, SystemClock(now_ms), agent, took, version)
