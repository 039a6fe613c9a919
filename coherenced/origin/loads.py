"""Loading: one load per key and node, under a lease that is one per key in the whole cluster.

A load goes in rounds. Each asks for the key's lease; whoever gets it asks the origin
and fills the cache under the lease's token; whoever does not is given what somebody
else filled. An invalidation during the load kills the token, and the fill is refused
(LOST): so what was read from the origin before an update can never be cached after it.
Who wants a value that is younger than what is there, or validated now, says with how much left
of its time it is due; whoever wants more than the round under way waits for the next one.

Who gets what (F3): a value that was asked of the origin after a reader came is good
for that reader, stored or not. A reader who came during a round whose fill was lost
may have come after the update, so it waits for the next round. Nobody waits for more
than two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

import msgspec

from coherenced.core.life import life_label, life_of
from coherenced.core.model import Mutation, Op, ReplyError, Version
from coherenced.core.requests import (
    Fault,
    FaultKind,
    Fill,
    Lease,
    LeaseResult,
    Outcome,
    Release,
    Request,
    Source,
    Value,
    Write,
    WriteResult,
)
from coherenced.errors import RedisUnreachable
from coherenced.origin.fetcher import Answer, Origin, OriginFault
from coherenced.origin.freshness import age_ms_of, lifetime
from coherenced.origin.marks import Marks, labels_of, marks_of, renewed
from coherenced.origin.rules import Rules

Ask = Callable[[Request], Awaitable[Outcome]]
"""Asks the node, past this floor."""
Given = Callable[[Value | Fault], None]
Pending = Callable[[bytes], Awaitable[Value | None]]
"""What a write that the origin has not been sent yet makes of a key; None: there is none."""

MOST_LOADS: Final = 20_000
"""Keys being loaded at once."""
LEASE_SLACK_MS: Final = 1_000.0
"""How much longer a lease lives than the load may take."""
LOOK_AGAIN_S: Final = 0.02
"""How soon to look whether another node has refreshed a value."""
THROTTLE_MS: Final = 1_000.0
"""After a failed refresh of a key, its stale value is answered for so long without a new try."""
MOST_THROTTLED: Final = 10_000
ALWAYS_MS: Final = 1e15
"""More than any value has left."""


class Load:
    """One key being loaded by this node, and who waits for it."""

    __slots__ = ("current", "due_ms", "joined", "key", "later", "waiting")

    def __init__(self, key: bytes, current: Value | None, due_ms: float) -> None:
        self.key = key
        self.current = current
        """The value that is to be replaced; None: there is none."""
        self.waiting: list[Given] = []
        """Who came before this round began."""
        self.joined: list[Given] = []
        """Who came since."""
        self.due_ms = due_ms
        """A value with at most this much left, as Redis counts it, is loaded anew for them."""
        self.later: list[tuple[Given, float]] = []
        """Who wants more than the round under way may bring, and what is due for them."""


class Round(msgspec.Struct, frozen=True):
    """What one round brought."""

    outcome: Value | Fault
    sure: bool
    """Nothing has happened to the key meanwhile: it is good for everybody."""


class Loads:
    """All loads of this node."""

    def __init__(
        self,
        ask: Ask,
        now_ms: Callable[[], float],
        chance: Callable[[], float],
        pending: Pending,
    ) -> None:
        self._ask = ask
        self._now_ms = now_ms
        self._chance = chance
        self._pending = pending
        self._loads: dict[bytes, Load] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._throttled: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._loads)

    def throttled(self, key: bytes) -> bool:
        """Whether loading `key` failed so lately that a stale value has to do."""
        until_ms = self._throttled.get(key)
        if until_ms is None:
            return False
        if self._now_ms() < until_ms:
            return True
        del self._throttled[key]
        return False

    def join(
        self,
        key: bytes,
        origin: Origin,
        current: Value | None,
        given: Given | None,
        due_ms: float = 0.0,
    ) -> None:
        """Load `key`; `given` is called once with what came of it (None: nobody waits).

        `due_ms`: with how much left of its time a value is not good enough; infinity: the origin
        is asked after this moment, whatever is there."""
        load = self._loads.get(key)
        if load is None:
            if len(self._loads) >= MOST_LOADS:
                if given is not None:
                    given(
                        Fault(FaultKind.OVERLOADED, f"{MOST_LOADS} keys are being loaded already")
                    )
                return
            load = self._loads[key] = Load(key, current, due_ms)
            task = asyncio.get_running_loop().create_task(self._run(load, origin))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            origin.coalesced += 1
            if given is not None and (due_ms == inf or due_ms > load.due_ms):
                load.later.append((given, due_ms))
                return
        if given is not None:
            load.joined.append(given)

    async def close(self) -> None:
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    # -- one key -----------------------------------------------------------------------------

    async def _run(self, load: Load, origin: Origin) -> None:
        outcome: Value | Fault = Fault(FaultKind.STOPPING, "the daemon is stopping")
        try:
            while True:
                load.waiting += load.joined
                load.joined = []
                found = await self._round(load, origin)
                outcome = found.outcome
                if found.sure:
                    load.waiting += load.joined
                    load.joined = []
                if not load.joined and not load.later:
                    break
                waiting, load.waiting = load.waiting, [given for given, _ in load.later]
                for given in waiting:
                    given(outcome)
                load.due_ms = max((due_ms for _, due_ms in load.later), default=0.0)
                load.later = []
                # If it is not sure, something has happened to whatever there was.
                load.current = outcome if found.sure and isinstance(outcome, Value) else None
        finally:
            if self._loads.get(load.key) is load:
                del self._loads[load.key]
            for given in [*load.waiting, *load.joined, *(given for given, _ in load.later)]:
                given(outcome)

    async def _round(self, load: Load, origin: Origin) -> Round:
        rules, key, current = origin.rules, load.key, load.current
        try:
            queued = await self._pending(key)
        except RedisUnreachable as gone:
            return Round(Fault(FaultKind.UNAVAILABLE, str(gone)), sure=True)
        if queued is not None:
            return Round(queued, sure=True)
        # Due is what has at most this left, as Redis counts it: what this node knows of it may be
        # as old as the answer that brought it.
        due_ms = None if current is None else grace_of(current, rules) + rules.early_ms
        if load.due_ms > 0:
            due_ms = min(max(load.due_ms, due_ms or 0.0), ALWAYS_MS)
        wanted = Lease(
            key,
            lease_ms=int(rules.hard_timeout_ms + LEASE_SLACK_MS),
            wait_ms=rules.hard_timeout_ms,
            refresh_ms=due_ms,
        )
        until_ms = self._now_ms() + rules.hard_timeout_ms
        lease = await self._ask(wanted)
        while (load.waiting or load.joined) and _is_due(lease, due_ms):
            # The old value is not good enough for those who wait: soon there will be a new one.
            if self._now_ms() > until_ms:
                return Round(error("another node is loading it still"), sure=True)
            await asyncio.sleep(LOOK_AGAIN_S)
            lease = await self._ask(wanted)
        if isinstance(lease, Fault):
            return Round(lease, sure=True)
        assert isinstance(lease, LeaseResult)
        absent = lease.value is not None and lease.value.value is None
        if absent and not lease.token and load.due_ms == inf:
            # That there is none has been found out before: what says so is ended, and asked anew.
            await self._ask(dropping(key))
            lease = await self._ask(wanted)
            if isinstance(lease, Fault):
                return Round(lease, sure=True)
            assert isinstance(lease, LeaseResult)
        if not lease.token:
            if lease.value is None:
                return Round(error("another node is loading it still"), sure=True)
            return Round(lease.value, sure=True)
        try:
            return await self._load(load, origin, lease)
        except BaseException:
            # Whoever waits for this lease must not wait for its end.
            await asyncio.shield(self._ask(Release(key, lease.token)))
            raise

    async def _load(self, load: Load, origin: Origin, lease: LeaseResult) -> Round:
        key, old = load.key, lease.value if lease.value is not None else load.current
        rules, respect = origin.rules, origin.rules.respect_cache_control
        if old is not None and old.value is None:
            old = None
        marks = marks_of(old.labels) if old is not None else marks_of(())
        try:
            answer = await origin.get(key, marks.conditions)
        except OriginFault as fault:
            self._throttle(key)
            await self._ask(Release(key, lease.token))
            return Round(error(str(fault)), sure=True)
        self._throttled.pop(key, None)
        version = lease.version or Version(b"", 0)
        if answer.unchanged and old is not None:
            labels = renewed(
                old.labels, answer.headers, answer.took_ms, rules.name, respect=respect
            )
            return await self._keep(
                load, origin, lease.token, answer, old.value or b"", labels, version
            )
        if answer.value is None:
            return await self._absent(load, origin, lease.token, version, there=old is not None)
        labels = labels_of(rules.name, answer.headers, answer.took_ms, respect=respect)
        return await self._keep(load, origin, lease.token, answer, answer.value, labels, version)

    async def _keep(
        self,
        load: Load,
        origin: Origin,
        token: bytes,
        answer: Answer,
        value: bytes,
        labels: tuple[bytes, ...],
        version: Version,
    ) -> Round:
        """Fill the cache with what was loaded, if the origin lets it be kept."""
        rules, key, age_ms = origin.rules, load.key, age_ms_of(answer.headers)
        life = lifetime(
            answer.headers,
            rules.ttl_ms,
            rules.jitter,
            self._chance(),
            respect=rules.respect_cache_control,
        )
        if not life.stored:
            await self._ask(Release(key, token))
            if load.current is not None:
                await self._ask(dropping(key))
            return Round(Value(value, version, Source.ORIGIN, age_ms, labels=labels), sure=False)
        grace_ms = 0.0 if life.strict else max(stale_allowed(marks_of(labels), rules))
        kept_ms = life.ttl_ms + grace_ms
        labels += (life_label(kept_ms, age_ms=age_ms, grace_ms=grace_ms),)
        filled = await self._ask(Fill(key, token, value, int(kept_ms), labels))
        stored = isinstance(filled, WriteResult)
        if isinstance(filled, WriteResult) and filled.version is not None:
            version = filled.version
        return Round(
            Value(
                value,
                version,
                Source.ORIGIN,
                age_ms,
                ttl_ms=life.ttl_ms if stored else None,
                labels=labels,
                expires_in_ms=kept_ms if stored else None,
            ),
            sure=stored,
        )

    async def _absent(
        self, load: Load, origin: Origin, token: bytes, version: Version, *, there: bool
    ) -> Round:
        """The origin has no such thing: tell the whole cluster so, for a while."""
        if there:
            await self._ask(dropping(load.key))
        absent_ms = int(origin.rules.negative_ms)
        told = await self._ask(Release(load.key, token, absent_ms or None))
        sure = isinstance(told, WriteResult) and told.replies[:1] == (1,)
        value = Value(None, version, Source.ORIGIN, 0.0, ttl_ms=float(absent_ms))
        return Round(value, sure=sure or there)

    def _throttle(self, key: bytes) -> None:
        if len(self._throttled) >= MOST_THROTTLED:
            del self._throttled[next(iter(self._throttled))]
        self._throttled[key] = self._now_ms() + THROTTLE_MS


def stale_allowed(marks: Marks, rules: Rules) -> tuple[float, float]:
    """For how long past its time a value may be answered, while it is loaded anew and if that
    fails: as its origin says, else as configured (ms)."""
    while_ms, if_error_ms = marks.while_revalidate_ms, marks.if_error_ms
    return (
        rules.while_revalidate_ms if while_ms is None else while_ms,
        rules.if_error_ms if if_error_ms is None else if_error_ms,
    )


def grace_of(value: Value, rules: Rules) -> float:
    """How long of its time in Redis it is stale: as it was stored, whatever is configured now."""
    life = life_of(value.labels)
    return rules.grace_ms if life is None else life.grace_ms


def _is_due(lease: Outcome, due_ms: float | None) -> bool:
    """Whether somebody else has the lease, and the value is still the one to be replaced."""
    if due_ms is None or not isinstance(lease, LeaseResult) or lease.token:
        return False
    value = lease.value
    if value is None or value.value is None or value.expires_in_ms is None:
        return False
    return value.expires_in_ms <= due_ms


def error(text: str) -> Value:
    """An answer that is an error of the origin's."""
    return Value(None, Version(b"", 0), Source.ORIGIN, 0.0, error=ReplyError(f"ORIGIN {text}"))


def dropping(key: bytes) -> Write:
    """Forget what is cached of `key`, everywhere."""
    return Write((Mutation((), op=Op.INVALIDATE, keys=(key,), frees_memory=True),))
