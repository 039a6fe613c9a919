"""What waits to be sent and what is in flight: the values that `writes` works with.

A *pending* write is one request; a *batch* is what one script carries out: the requests in
it, and what is needed to know what became of them. What an answer means for them (the reply's,
or the log's where the reply was lost) can be said without knowing anything else, and is said here.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from coherenced.core.calls import Logged, Mutated
from coherenced.core.lane import Lane
from coherenced.core.model import (
    EVERYTHING,
    WANT_ACK,
    Done,
    Mutation,
    Op,
    Record,
    Reply,
    ReplyError,
    Set,
)
from coherenced.core.requests import Fault, Level, Write, WriteResult
from coherenced.core.tickets import KeySheaf, Ticket

BATCH_MUTATIONS: Final = 32
"""Mutations in one script, so that their records fit one message of the bus (W6: 4 KB). Only a
transaction is longer: it is one script however long it is allowed to be, and read from the log."""

WRITE_TRIES: Final = 3
"""How often a write is sent that is refused, or surely not applied, before its caller is told."""

_REDIS: Final = Level.REDIS
_NONE: Final = Level.NONE
_WRITE: Final = Op.WRITE

NO_VALUE: Final = ReplyError("ERR the write is committed, but its reply was lost")


class Pending(msgspec.Struct, gc=False, eq=False):
    """One write request."""

    request_id: int
    level: int
    timeout_ms: float
    key: bytes
    is_plain: bool
    """It changes `key`, and that is all that can be said about it. False: it goes by itself."""
    given: Set | None = None
    """What is asked for, if it is that: who asks wants the reply alone."""
    said: Write | None = None
    """What is asked for, as a Write: made of `given` when something needs it."""
    first: int = 0
    tries: int = 0
    answered: bool = False
    """The caller has its answer: with ack=none at acceptance, else when it is known."""
    parked: bool = False
    """Reads of its keys are waiting for it (ack=none)."""
    finished: bool = False

    @property
    def write(self) -> Write:
        if self.said is None:
            assert self.given is not None
            self.said = Write.of(self.given)
        return self.said

    @property
    def replicas(self) -> int:
        return 0 if self.said is None else self.said.replicas


class Batch:
    """What is in flight: its requests, and what is needed to know what became of it."""

    __slots__ = (
        "_mutations",
        "are_sets",
        "call_id",
        "chain",
        "generation",
        "is_plain",
        "keys",
        "lost",
        "pending",
        "reliance",
        "sent_ms",
        "sheaf",
        "started_ms",
        "tags",
        "tickets",
        "told",
        "want_ack",
    )

    def __init__(self, lane: Lane, sent_ms: float) -> None:
        self.pending: list[Pending] = []
        self.want_ack: list[bool] = []
        self.tags: tuple[bytes, ...] = ()
        self.tickets: dict[int, Ticket] = {}
        """F2: which of the mutations have a value to be kept, and theirs; if `are_sets`, all have,
        and these are in `sheaf`."""
        self.sheaf = KeySheaf([])
        self.keys: set[bytes] = set()
        """Those of its plain writes."""
        self.is_plain = True
        """Whether it is nothing but plain writes, so that others may be in flight beside it."""
        self.are_sets = True
        """Whether it is nothing but `Set`, and nobody waits for acknowledgements."""
        self._mutations: list[Mutation] | None = None
        self.lost: str | None = None
        """W3: why its reply will not come."""
        self.told = False
        """The callers have been told that it is indeterminate."""
        self.call_id = 0
        self.reliance = lane.reliance
        self.chain = lane.lineage
        self.generation = lane.generation
        self.sent_ms = sent_ms
        self.started_ms = sent_ms

    @property
    def mutations(self) -> list[Mutation]:
        """All of them, in order; the list is the batch's own."""
        if self._mutations is None:
            self._mutations = [m for pending in self.pending for m in pending.write.mutations]
        return self._mutations

    def take(self, queue: deque[Pending], before: Batch | None = None) -> None:
        """The first of the queue: as many as fit, and may be in flight beside `before` (W4)."""
        keys, want_ack, taken = self.keys, self.want_ack, self.pending
        while queue:
            pending = queue[0]
            if before is not None and not before.is_apart_from(pending):
                break
            number, asks = len(want_ack), pending.level != _REDIS and pending.level != _NONE
            if pending.is_plain:
                if number >= BATCH_MUTATIONS:
                    break
                queue.popleft()
                pending.first = number
                taken.append(pending)
                keys.add(pending.key)
                want_ack.append(asks)
                if asks or pending.given is None:
                    self.are_sets = False
                continue
            write = pending.write
            if number and (number + len(write.mutations) > BATCH_MUTATIONS or write.watch_id):
                break  # a transaction that WATCHes goes alone; any other write may be the first
            queue.popleft()
            pending.first = number
            taken.append(pending)
            self.is_plain = self.are_sets = False
            if write.replicas and not asks:
                # An empty delete waits like another (K5): replicas may lack the one before it.
                want_ack += [m.op == Op.DELETE for m in write.mutations]
            else:
                want_ack += (asks,) * len(write.mutations)
            if write.watch_id:
                break

    def is_apart_from(self, pending: Pending) -> bool:
        """W4: whether `pending` may be in flight beside this batch: another key's plain write."""
        return self.is_plain and pending.is_plain and pending.key not in self.keys

    def is_followed_by(self, answer: Logged) -> bool:
        """W3: whether the log shows all since this was sent: what is absent was not applied."""
        chain = self.chain
        if chain is None or answer.lineage.epoch != chain.epoch:
            return False
        if not answer.records:
            return answer.lineage == chain
        first = answer.records[0]
        if chain.seq == 0:
            return first.seq == 1 and first.prev == chain.tag
        return first.seq == chain.seq and first.tag == chain.tag


def records_of(batch: Batch, answer: Mutated, writer: bytes) -> list[Record]:
    """What the batch has added to the log."""
    told = answer.done
    if batch.are_sets and told[0].seq and told[-1].seq == told[0].seq + len(told) - 1:
        return [
            Record(one.seq, one.prev, one.tag, _WRITE, 0, writer, (pending.key,))
            for pending, one in zip(batch.pending, told, strict=True)
        ]
    records = []
    for mutation, done, asks in zip(batch.mutations, answer.done, batch.want_ack, strict=True):
        if not done.seq:
            continue
        op = mutation.op
        flags = EVERYTHING if mutation.everything or op == Op.FLUSH else 0
        if asks:
            flags |= WANT_ACK
        record = Record(
            done.seq,
            done.prev,
            done.tag,
            op,
            flags,
            writer,
            mutation.keys,
            mutation.tags,
            mutation.prefixes,
        )
        records.append(record)
    return records


def done_by_log(
    batch: Batch, pending: Pending, answer: Logged, found: dict[bytes, int]
) -> tuple[tuple[Done, ...], bool]:
    """W3: what the log says of one request of a batch whose reply was lost, and whether it tells
    every reply. `found`: tag -> index of its record."""
    replies = answer.replies or (None,) * len(answer.records)
    done = []
    known = True
    for index in range(pending.first, pending.first + len(pending.write.mutations)):
        place = found.get(batch.tags[index])
        mutation = batch.mutations[index]
        seq = 0 if place is None else answer.records[place].seq
        reply: Reply = NO_VALUE
        if place is not None and replies[place] is not None:
            reply = replies[place]
        elif place is not None and mutation.reply_is_known:
            reply = mutation.expected_reply
        elif place is None or mutation.argv:
            known = False
        else:
            reply = None
        done.append(Done(reply, seq, batch.tags[index], b""))
    return tuple(done), known


def together(outcomes: list[WriteResult | Fault]) -> WriteResult | Fault:
    """The pieces of one big operation as one outcome: the first fault, else all of them."""
    results: list[WriteResult] = []
    for outcome in outcomes:
        if isinstance(outcome, Fault):
            return outcome
        results.append(outcome)
    names = set.intersection(*(set(r.acknowledged) for r in results))
    return WriteResult(
        tuple(reply for r in results for reply in r.replies),
        max((r.version for r in results if r.version is not None), default=None),
        {name: max(r.acknowledged[name] for r in results) for name in names},
        tuple(dict.fromkeys(name for r in results for name in r.fenced)),
        tuple(dict.fromkeys(name for r in results for name in r.missing)),
        satisfied=all(r.satisfied for r in results),
        replicas=min(r.replicas for r in results),
    )


def plain_key(write: Write) -> bytes | None:
    """The key of a write of one key, if that is all that can be said about it."""
    if len(write.mutations) != 1 or write.watch_id or write.replicas:
        return None
    (m,) = write.mutations
    special = m.tags or m.prefixes or m.everything or m.token or m.lease or m.if_version
    if special or not m.argv or m.op > Op.DELETE or len(m.keys) != 1:
        return None
    return m.keys[0]


def is_wide(mutation: Mutation) -> bool:
    """Whether it covers keys that it does not list."""
    listed = not (mutation.everything or mutation.prefixes or mutation.tags)
    return not listed or mutation.op == Op.FLUSH


def strength(level: int) -> tuple[int, int]:
    """Orders levels: none < redis < 1 < 2 … < quorum < all."""
    ranks = {Level.NONE: 0, Level.REDIS: 1, Level.QUORUM: 3, Level.ALL: 4}
    return (ranks.get(level, 2), level)


def answerable(write: Write) -> bool:
    """ack=none can only answer early what it can answer without Redis."""
    if write.atomic or write.watch_id:
        return False
    return all(
        m.if_version is None
        and (not m.argv or m.op == Op.DELETE or (m.reply_is_known and not m.unchanged))
        for m in write.mutations
    )


def assumed_reply(mutation: Mutation) -> Reply:
    if mutation.reply_is_known:
        return mutation.expected_reply
    return len(mutation.keys) if mutation.op == Op.DELETE else None
