"""Write-through: a write goes to the origin first, and then to Redis, with its record.

    the origin refuses             nothing was done; the caller is told `ORIGIN ...`
    both accept                    the cache holds the new value, every node has dropped the old
    somebody else changed the      which of the two writes reached the origin last is not known:
    key in between                 the key is dropped everywhere, the next reader loads the truth
    Redis fails after the origin   the caller is told so; the key is dropped as soon as Redis
    has accepted                   answers, and tried until what is cached has expired by itself

Writes of one key from this node go one after the other, in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from coherenced.core.life import life_label
from coherenced.core.model import Mutation, Op, Reply, ReplyError, Version
from coherenced.core.requests import Fault, FaultKind, Outcome, Request, Write, WriteResult
from coherenced.origin.fetcher import Answer, Origin, OriginFault
from coherenced.origin.freshness import jittered
from coherenced.origin.intents import MOST_TTL_MS, Intent, Refused, intents_of
from coherenced.origin.loads import dropping
from coherenced.origin.marks import labels_of

Done = Callable[[Outcome], None]

MOST_WRITES: Final = 10_000
"""Writes under way, and keys that wait to be dropped."""
RETRY_S: Final = 0.5
"""How soon a key that could not be dropped is tried again."""


class WriteThrough:
    """The write-through of one node."""

    def __init__(
        self,
        origin_of: Callable[[bytes], Origin | None],
        submit: Callable[[Request, Done], None],
        ask: Callable[[Request], Awaitable[Outcome]],
        now_ms: Callable[[], float],
        chance: Callable[[], float],
        version: Callable[[], Version | None],
    ) -> None:
        self._origin_of = origin_of
        self._submit = submit
        self._ask = ask
        self._now_ms = now_ms
        self._chance = chance
        self._version = version
        self._last: dict[bytes, asyncio.Task[None]] = {}
        """Key -> the newest write of it that is under way: the next one waits for that."""
        self.to_drop: dict[bytes, float] = {}
        """Keys that must be dropped, and when what is cached of them has expired by itself."""
        self._dropper: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._last)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Of each key, the last write that is under way."""
        return list(self._last.values())

    async def close(self) -> None:
        """Wait for nothing: what has reached the origin is dropped by its time to live."""
        tasks = [*self._last.values(), *([self._dropper] if self._dropper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def take(self, write: Write, done: Done) -> None:
        """Carry it out; `done` is called once."""
        try:
            intent, origin = self._judge(write)
        except Refused as refused:
            done(refusal(len(write.mutations), f"refused: {refused}"))
            return
        if intent is None or origin is None:
            self._submit(write, done)  # how long the cache keeps it is nothing to the origin
            return
        if len(self._last) >= MOST_WRITES:
            done(Fault(FaultKind.OVERLOADED, f"{MOST_WRITES} writes wait for origins already"))
            return
        key = intent.key
        before = self._last.get(key)
        task = asyncio.get_running_loop().create_task(
            self._run(before, origin, intent, write, done)
        )
        self._last[key] = task

        def ended(task: asyncio.Task[None]) -> None:
            if self._last.get(key) is task:
                del self._last[key]
            if task.cancelled() or task.exception() is not None:
                text = "the daemon gave the write up: the origin may have taken it or not"
                done(Fault(FaultKind.INDETERMINATE, text))

        task.add_done_callback(ended)

    def _judge(self, write: Write) -> tuple[Intent | None, Origin | None]:
        if len(write.mutations) > 1 or write.watch_id:
            raise Refused("a key that is written through to its origin is written by itself")
        found = intents_of(write.mutations[0])
        if found is None:
            return None, None
        if len(found) > 1:
            raise Refused("keys that are written through to their origin are written one by one")
        return found[0], self._origin_of(found[0].key)

    async def _run(
        self,
        before: asyncio.Task[None] | None,
        origin: Origin,
        intent: Intent,
        write: Write,
        done: Done,
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        since = self._version()
        try:
            if intent.value is None:
                answer = await origin.delete(intent.key, {})
            else:
                answer = await origin.put(intent.key, intent.value, intent.headers)
        except OriginFault as fault:
            done(refusal(1, str(fault)))
            return
        done(await self._second(origin, intent, write, answer, since))

    async def _second(
        self,
        origin: Origin,
        intent: Intent,
        write: Write,
        answer: Answer,
        since: Version | None,
    ) -> Outcome:
        """The origin has accepted: now Redis."""
        kept_ms = (intent.ttl_ms or origin.rules.ttl_ms) + origin.rules.grace_ms
        if intent.value is None:
            outcome = await self._ask(_with(write, deleting(intent.key), atomic=True))
            if isinstance(outcome, WriteResult):
                return _told(outcome, int(answer.value is not None or outcome.replies[:1] == (1,)))
        else:
            if since is not None:
                storing = stored_form(origin, intent, answer, self._chance(), since)
                outcome = await self._ask(_with(write, (storing,)))
                if isinstance(outcome, WriteResult) and not _is_error(outcome):
                    return outcome
            outcome = await self._ask(_with(write, dropping(intent.key).mutations))
            if isinstance(outcome, WriteResult):
                return _told(outcome, b"OK")
        self.drop(intent.key, kept_ms)
        detail = outcome.detail if isinstance(outcome, Fault) else "it gave no answer"
        return refusal(
            1,
            "the origin has accepted the write, but Redis has not taken it up: "
            f"what is cached will be dropped as soon as it can be ({detail})",
        )

    # -- what could not be dropped -----------------------------------------------------------

    def drop(self, key: bytes, kept_ms: float = MOST_TTL_MS) -> None:
        """Drop what is cached of `key`, tried until that has expired by itself."""
        if len(self.to_drop) >= MOST_WRITES:
            del self.to_drop[next(iter(self.to_drop))]  # the oldest: the first to expire by itself
        self.to_drop[key] = self._now_ms() + kept_ms
        if self._dropper is None or self._dropper.done():
            self._dropper = asyncio.get_running_loop().create_task(self._drop_all())

    async def _drop_all(self) -> None:
        while self.to_drop:
            for key, until_ms in list(self.to_drop.items()):
                outcome = await self._ask(dropping(key))
                if isinstance(outcome, WriteResult) or self._now_ms() > until_ms:
                    self.to_drop.pop(key, None)
                    continue
                await asyncio.sleep(RETRY_S)
                break


def stored_form(
    origin: Origin,
    intent: Intent,
    answer: Answer | None,
    chance: float,
    since: Version | None = None,
) -> Mutation:
    """How a value that was written is kept: like one that was loaded, with its time and grace."""
    rules, value = origin.rules, intent.value
    assert value is not None
    ttl_ms = intent.ttl_ms
    if ttl_ms is None:
        ttl_ms = jittered(rules.ttl_ms, rules.jitter, chance)
    kept_ms = ttl_ms + rules.grace_ms
    headers = {"ETag": answer.headers["ETag"]} if answer and "ETag" in answer.headers else {}
    labels = labels_of(rules.name, headers, answer.took_ms if answer else 0.0)
    life = life_label(kept_ms, grace_ms=rules.grace_ms)
    return Mutation(
        (b"SET", intent.key, value, b"PX", b"%d" % int(max(1.0, kept_ms))),
        keys=(intent.key,),
        label=tuple(dict.fromkeys((*labels, *intent.labels, life))),
        if_version=since,
        keeps=value,
        keeps_ttl_ms=kept_ms,
        expected_reply=b"OK",
        reply_is_known=True,
    )


def deleting(key: bytes) -> tuple[Mutation, ...]:
    """Delete it, recorded even when nothing is there: no load under way may bring it back."""
    return (
        Mutation(
            (b"DEL", key),
            op=Op.DELETE,
            keys=(key,),
            unchanged=b"z",
            frees_memory=True,
            expected_reply=1,
            reply_is_known=True,
        ),
        Mutation((), op=Op.INVALIDATE, keys=(key,), frees_memory=True),
    )


def refusal(count: int, text: str) -> WriteResult:
    """Nothing was done (or what `text` says): an error reply for each of `count` mutations."""
    return WriteResult((ReplyError(f"ORIGIN {text}"),) * count, None, {})


def _with(write: Write, mutations: tuple[Mutation, ...], *, atomic: bool = False) -> Write:
    """`mutations` on the terms of `write`."""
    return msgspec.structs.replace(write, mutations=mutations, atomic=atomic)


def _told(outcome: WriteResult, reply: Reply) -> WriteResult:
    if _is_error(outcome):
        return outcome
    return msgspec.structs.replace(outcome, replies=(reply,))


def _is_error(outcome: WriteResult) -> bool:
    return any(isinstance(reply, ReplyError) for reply in outcome.replies)
