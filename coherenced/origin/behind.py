"""Write-behind: a write is committed in Redis and queued there in one atomic step, and sent behind.

What waits is not this daemon's: it is in Redis (see `upstream.queue`), so a daemon that is
killed loses nothing, and another one sends on. One node at a time sends for a namespace, its
*owner*, for as long as its mark in Redis lives; it begins no request that might outlive it.

    accepted                             the newest value of the key is at the origin
    refused (an error status)            tried again, later each time; after so many tries it
                                         becomes a dead letter, and what is cached is dropped
    not there, overloaded, too slow      tried again, for as long as it takes

At least once: what was sent when a daemon was killed is sent again. `Coherenced-Write-Id`
carries the place in the queue, so an origin can refuse what is older than what it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from coherenced.core.model import Mutation, Op, Reply, ReplyError, Version
from coherenced.core.requests import (
    Fault,
    FaultKind,
    Outcome,
    Request,
    Source,
    Value,
    Write,
    WriteResult,
)
from coherenced.origin.fetcher import Origin
from coherenced.origin.intents import Refused, intents_of
from coherenced.origin.marks import CONTENT_TYPE
from coherenced.origin.rules import BEHIND
from coherenced.origin.sender import Drop, Payload, Sender, Store, decode, encode
from coherenced.origin.through import refusal, stored_form

Done = Callable[[Outcome], None]

MOST_QUEUED: Final = 1_000_000
"""Writes of one namespace that may wait; past it further ones are refused."""
Enqueue = Callable[[str, bytes, bytes], tuple[Mutation, ...]]
"""Namespace, key, payload -> what queues it, within the write's own atomic step."""


class WriteBehind:
    """The write-behind of one node: takes writes, and sends those of namespaces that it owns."""

    def __init__(
        self,
        store: Store,
        enqueue: Enqueue,
        origin_of: Callable[[bytes], Origin | None],
        submit: Callable[[Request, Done], None],
        drop: Drop,
        now_ms: Callable[[], float],
        chance: Callable[[], float],
        version: Callable[[], Version | None],
    ) -> None:
        self.store = store
        self.senders: dict[str, Sender] = {}
        self._enqueue = enqueue
        self._origin_of = origin_of
        self._submit = submit
        self._drop = drop
        self._now_ms = now_ms
        self._chance = chance
        self._version = version

    def replace(self, origins: dict[str, Origin]) -> None:
        """Send for these namespaces from now on; a sender whose origin stays goes on."""
        before, self.senders = self.senders, {}
        for name, origin in origins.items():
            if origin.rules.mode != BEHIND:
                continue
            sender = before.pop(name, None)
            if sender is None or sender.origin is not origin:
                if sender is not None:
                    sender.stop()
                sender = Sender(self.store, origin, self._drop, self._now_ms, self._chance)
            self.senders[name] = sender
        for gone in before.values():
            gone.stop()

    async def close(self) -> None:
        for sender in self.senders.values():
            sender.stop()
        await asyncio.gather(*(s.task for s in self.senders.values()), return_exceptions=True)

    # -- reads ------------------------------------------------------------------------------

    async def newest(self, key: bytes) -> Value | None:
        """What the newest write that waits makes of `key`; None: none waits."""
        origin = self._origin_of(key)
        if origin is None:
            return None
        raw = await self.store.newest(origin.rules.name, key)
        if raw is None:
            return None
        payload = decode(raw)
        if payload is None:
            return None
        labels = (CONTENT_TYPE + payload.content_type.encode(),) if payload.content_type else ()
        version = self._version() or Version(b"", 0)
        return Value(payload.value, version, Source.L2, 0.0, labels=labels)

    # -- writes -----------------------------------------------------------------------------

    def take(self, write: Write, done: Done) -> None:
        """Commit and queue it in one step; `done` is called once."""
        mutations: list[Mutation] = []
        places: list[int] = []
        """For each mutation that was asked for, which of the replies is its own."""
        names: set[str] = set()
        keys: set[bytes] = set()
        try:
            for mutation in write.mutations:
                places.append(self._add(mutations, mutation, names, keys))
        except Refused as refused:
            done(refusal(len(write.mutations), f"refused: {refused}"))
            return
        for name in names:
            sender = self.senders.get(name)
            if sender is not None and sender.waiting >= MOST_QUEUED:
                text = f"{sender.waiting} writes wait for the origin of {name} already"
                done(Fault(FaultKind.OVERLOADED, text))
                return

        def told(outcome: Outcome) -> None:
            for name in names:
                if name in self.senders:
                    self.senders[name].poke()
            done(self._told(outcome, places, keys))

        changed = msgspec.structs.replace(write, mutations=tuple(mutations), atomic=True)
        self._submit(changed, told)

    def _add(
        self, mutations: list[Mutation], mutation: Mutation, names: set[str], keys: set[bytes]
    ) -> int:
        """Add what `mutation` becomes; -> the place of its reply."""
        found = intents_of(mutation) if self._concerns(mutation) else None
        if not found:
            mutations.append(mutation)
            return len(mutations) - 1
        deletes = found[0].value is None
        for intent in found:
            origin = self._origin_of(intent.key)
            if origin is None or origin.rules.mode != BEHIND:
                if not deletes:
                    mutations.append(
                        Mutation((b"SET", intent.key, intent.value or b""), keys=(intent.key,))
                    )
                continue
            names.add(origin.rules.name)
            keys.add(intent.key)
            kind = intent.headers.get("Content-Type", "")
            payload = encode(Payload(intent.value, kind))
            mutations += self._enqueue(origin.rules.name, intent.key, payload)
            if not deletes:
                mutations.append(stored_form(origin, intent, None, self._chance()))
        if deletes:
            mutations.append(mutation)
            # Recorded even when nothing was there: no load under way may bring it back.
            mutations.append(Mutation((), op=Op.INVALIDATE, keys=mutation.keys, frees_memory=True))
            return len(mutations) - 2
        return len(mutations) - 1

    def _concerns(self, mutation: Mutation) -> bool:
        origins = (self._origin_of(key) for key in mutation.keys)
        return any(origin is not None and origin.rules.mode == BEHIND for origin in origins)

    def _told(self, outcome: Outcome, places: list[int], keys: set[bytes]) -> Outcome:
        if not isinstance(outcome, WriteResult) or outcome.aborted or not outcome.replies:
            return outcome
        shown = {*places}
        broken = [
            reply
            for place, reply in enumerate(outcome.replies)
            if place not in shown and isinstance(reply, ReplyError)
        ]
        if broken:
            # The queue itself is broken: what was committed must not be shown as if it were kept.
            for key in keys:
                self._drop(key)
            return refusal(len(places), f"the write could not be queued: {broken[0].text}")
        replies: tuple[Reply, ...] = tuple(outcome.replies[place] for place in places)
        return msgspec.structs.replace(outcome, replies=replies)
