"""One lane on Redis, as far as a fleet in good order needs it. Tests hold it to `tests/sim`'s.

answer, messages, acks = lane.execute(call, now_ms)
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from coherenced.core.calls import (
    Answer,
    Call,
    Fetch,
    FetchedAll,
    Leave,
    Left,
    Logged,
    Mutate,
    Mutated,
    Probe,
    Probed,
    ReadLog,
    ReadRoster,
    Reap,
    RosterRead,
    SendAck,
)
from coherenced.core.model import (
    WANT_ACK,
    Acknowledgement,
    Done,
    Fetched,
    Lineage,
    Member,
    Message,
    Query,
    Record,
)

LOG_LENGTH: Final = 10_000


class Executed(NamedTuple):
    """What one call did."""

    answer: Answer | None
    messages: tuple[Message, ...] = ()
    acks: tuple[tuple[bytes, Acknowledgement], ...] = ()
    """(incarnation of the writer, acknowledgement) pairs."""


class LaneServer:
    """See the module. Knows invalidations, plain writes of one key, and fills."""

    def __init__(self, epoch: bytes, value: bytes = b"x" * 100) -> None:
        self.lineage = Lineage(epoch, 0, epoch)
        self.log: deque[Record] = deque(maxlen=LOG_LENGTH)
        self.roster: dict[bytes, Member] = {}
        self.roster_version = 0
        self._value = value
        """What every key holds."""

    def execute(self, call: Call, now_ms: float) -> Executed:
        """Carry out one call, atomically."""
        if isinstance(call, Probe):
            return Executed(self._probe(call, int(now_ms)))
        if isinstance(call, Mutate):
            return self._mutate(call)
        if isinstance(call, Fetch):
            assert not any(isinstance(item, Query) for item in call.items)
            found = (Fetched(self._value),) * len(call.items)
            return Executed(FetchedAll(call.call_id, self.lineage, found))
        if isinstance(call, SendAck):
            return Executed(None, acks=((call.writer, call.ack),))
        if isinstance(call, ReadRoster):
            members = tuple(self.roster.values())
            return Executed(RosterRead(call.call_id, self.roster_version, members))
        if isinstance(call, ReadLog):
            return Executed(self._read_log(call))
        if isinstance(call, Leave):
            self._take_off(call.incarnation)
            return Executed(Left(call.call_id))
        if isinstance(call, Reap):
            member = self.roster.get(call.incarnation)
            if member is not None and member.beat == call.beat:
                self._take_off(call.incarnation)
            return Executed(None)
        raise AssertionError(f"no fleet in good order asks for {call!r:.60}")

    def lose_log(self, epoch: bytes) -> None:
        """Its metadata is gone: another epoch begins, and every node drops what it holds."""
        self.lineage = Lineage(epoch, 0, epoch)
        self.log.clear()

    def _take_off(self, incarnation: bytes) -> None:
        self.roster_version += self.roster.pop(incarnation, None) is not None

    def _probe(self, call: Probe, now_ms: int) -> Probed:
        member = call.member
        if member is not None:
            self.roster_version += member.incarnation not in self.roster
            self.roster[member.incarnation] = msgspec.structs.replace(member, seen_ms=now_ms)
        return Probed(call.call_id, self.lineage, now_ms, self.roster_version, b"fleet")

    def _mutate(self, call: Mutate) -> Executed:
        records, done = [], []
        for mutation, tag, want_ack in zip(call.every, call.tags, call.want_ack, strict=True):
            epoch, seq, prev = self.lineage
            flags = WANT_ACK if want_ack else 0
            record = Record(
                seq + 1, prev, tag, mutation.op, flags, call.writer, mutation.keys,
                mutation.tags, mutation.prefixes,
            )  # fmt: skip
            self.lineage = Lineage(epoch, seq + 1, tag)
            self.log.append(record)
            records.append(record)
            done.append(Done(b"OK", record.seq, tag, prev))
        head = self.lineage
        answer = Mutated(call.call_id, head, self.roster_version, tuple(done), server_id=b"fleet")
        return Executed(answer, (Message(call.lane, *head, tuple(records)),))

    def _read_log(self, call: ReadLog) -> Logged:
        first = self.log[0].seq if self.log else 0
        skipped = max(0, call.start_seq - first)
        found = tuple(islice(self.log, skipped, skipped + call.limit))
        return Logged(call.call_id, self.lineage, found)
