"""Writes that an origin is sent behind, as they stand in Redis: one namespace's queue.

A stream with a consumer group holds which keys were written, in order; a hash holds the
newest payload of each. Both are added to within the script of the write itself (W1, see
`enqueuing`), so a write that is committed is queued, and one that is not is not. One
node at a time, the owner, sends; what it had read and not finished when it died, the
next owner claims (XAUTOCLAIM).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import hiredis

from coherenced.core.model import Mutation
from coherenced.errors import RedisUnreachable
from coherenced.upstream.connection import pack
from coherenced.upstream.faults import Lost, Unsent, plain
from coherenced.upstream.line import Changed, Line
from coherenced.upstream.scripts import QUEUE
from coherenced.upstream.settings import ServerSettings

GROUP: Final = b"senders"
PAGE: Final = 100
MOST_DEAD: Final = 10_000
"""Dead letters that are kept, about; the oldest go first."""


class Queued(NamedTuple):
    """One entry of the stream."""

    id: bytes
    key: bytes
    replayed: bool
    """It was a dead letter: what is cached may be older than it."""


class DeadLetter(NamedTuple):
    """A write that the origin refused too often."""

    id: bytes
    key: bytes
    payload: bytes
    why: str
    tries: int


class Count(NamedTuple):
    """How much there is."""

    waiting: int
    keys: int
    dead: int
    owner: bytes
    """The incarnation of the node that sends; empty: nobody does."""


class QueueNames(NamedTuple):
    stream: bytes
    newest: bytes
    dead: bytes
    owner: bytes


def queue_names(namespace: str) -> QueueNames:
    """What the queue of a namespace is called. In the lane's slot, with our prefix."""
    base = b"coh:{0}:behind:" + namespace.encode()
    return QueueNames(base, base + b":newest", base + b":dead", base + b":owner")


def enqueuing(namespace: str, key: bytes, payload: bytes) -> tuple[Mutation, ...]:
    """What queues a write of `key`, to be put before the write itself into one atomic step."""
    names = queue_names(namespace)
    return (
        Mutation((b"HSET", names.newest, key, payload), is_write=False),
        Mutation((b"XADD", names.stream, b"*", b"k", key), is_write=False),
    )


class BehindQueue:
    """The queues of this node's namespaces, on a connection of their own."""

    def __init__(
        self, settings: ServerSettings, node: str, incarnation: bytes, changed: Changed
    ) -> None:
        self._incarnation = incarnation
        self._line = Line(settings, "behind", node, changed)

    async def close(self) -> None:
        await self._line.close()

    # -- sending ---------------------------------------------------------------------------

    async def own(self, namespace: str, for_ms: int) -> bool:
        """Be the one who sends, from now on for so long; False: another node is."""
        return bool(await self._step(namespace, b"own", self._incarnation, for_ms) == 1)

    async def disown(self, namespace: str) -> None:
        await self._step(namespace, b"disown", self._incarnation)

    async def claim(self, namespace: str) -> list[Queued]:
        """All that earlier owners (or this one) had read and not finished."""
        names = queue_names(namespace)
        await self._group(names)
        found: list[Queued] = []
        start = b"0-0"
        while True:
            start, entries, *_ = await self._ask(
                b"XAUTOCLAIM", names.stream, GROUP, self._incarnation, 0, start, "COUNT", PAGE
            )
            found += [_queued(entry) for entry in entries if entry and entry[1]]
            if start == b"0-0":
                return found

    async def read(self, namespace: str, most: int) -> list[Queued]:
        """The next entries that nobody has read."""
        names = queue_names(namespace)
        reply = await self._ask(
            b"XREADGROUP", b"GROUP", GROUP, self._incarnation,
            b"COUNT", most, b"STREAMS", names.stream, b">",
        )  # fmt: skip
        return [_queued(entry) for entry in reply[0][1]] if reply else []

    async def newest(self, namespace: str, key: bytes) -> bytes | None:
        """What the newest write of `key` that waits makes of it; None: none waits."""
        found = await self._ask(b"HGET", queue_names(namespace).newest, key)
        return found if isinstance(found, bytes) else None

    async def sent(self, namespace: str, key: bytes, payload: bytes, ids: list[bytes]) -> None:
        """The origin has accepted `payload`, which settles these entries."""
        await self._step(namespace, b"sent", key, payload, *ids)

    async def bury(
        self, namespace: str, key: bytes, payload: bytes, why: str, tries: int, ids: list[bytes]
    ) -> None:
        """The origin has refused `payload` too often."""
        await self._step(namespace, b"bury", key, payload, why.encode(), tries, MOST_DEAD, *ids)

    # -- for people --------------------------------------------------------------------------

    async def count(self, namespace: str) -> Count:
        waiting, keys, dead, owner = await self._step(namespace, b"count")
        return Count(waiting, keys, dead, owner)

    async def waiting(self, namespace: str, most: int) -> list[tuple[bytes, bytes]]:
        """(id, key) of the oldest entries that wait."""
        entries = await self._ask(
            b"XRANGE", queue_names(namespace).stream, b"-", b"+", b"COUNT", most
        )
        return [(entry[0], _queued(entry).key) for entry in entries]

    async def dead(self, namespace: str, most: int) -> list[DeadLetter]:
        """The oldest dead letters."""
        entries = await self._ask(
            b"XRANGE", queue_names(namespace).dead, b"-", b"+", b"COUNT", most
        )
        letters = []
        for entry_id, fields in entries or ():  # nil for COUNT 0
            told = dict(zip(fields[::2], fields[1::2], strict=True))
            why = told[b"e"].decode("utf-8", "replace")
            letters.append(DeadLetter(entry_id, told[b"k"], told[b"p"], why, int(told[b"n"])))
        return letters

    async def replay(self, namespace: str, letter: bytes) -> int:
        """Queue a dead letter anew: 1 done, 2 a newer write of its key waits, 0 no such letter."""
        return int(await self._step(namespace, b"replay", letter))

    async def drop(self, namespace: str, letter: bytes) -> bool:
        """Forget a dead letter; False: there is none."""
        return bool(await self._ask(b"XDEL", queue_names(namespace).dead, letter))

    # -- asking --------------------------------------------------------------------------------

    async def _group(self, names: QueueNames) -> None:
        try:
            await self._ask(b"XGROUP", b"CREATE", names.stream, GROUP, b"0", b"MKSTREAM")
        except QueueError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _step(self, namespace: str, what: bytes, *args: Any) -> Any:
        names = queue_names(namespace)
        words: tuple[Any, ...] = (QUEUE.sha, len(names), *names, what, *args)
        try:
            return await self._ask(b"EVALSHA", *words)
        except QueueError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            return await self._ask(b"EVAL", QUEUE.text, *words[1:])

    async def _ask(self, *words: Any) -> Any:
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def take(reply: Any) -> None:
            if not answered.done():
                answered.set_result(reply)

        self._line.send(pack(words), take)
        reply = await answered
        if isinstance(reply, Lost | Unsent):
            raise RedisUnreachable(reply.reason)
        if isinstance(reply, hiredis.ReplyError):
            raise QueueError(plain(str(reply)))
        return reply


class QueueError(RedisUnreachable):
    """Redis answered a step of the queue with an error."""


def _queued(entry: list[Any]) -> Queued:
    entry_id, fields = entry
    told = dict(zip(fields[::2], fields[1::2], strict=True))
    return Queued(entry_id, told.get(b"k", b""), b"r" in told)
