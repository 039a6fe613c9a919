"""The end of a write request: what its caller is told, when, and how often that happened."""

from __future__ import annotations

from typing import Final

from coherenced.core.acks import Acks
from coherenced.core.batches import Batch, Pending, assumed_reply, is_wide
from coherenced.core.calls import Mutated
from coherenced.core.flights import Flights
from coherenced.core.lane import Lane
from coherenced.core.model import Done, Reply, ReplyError, Version, version_of
from coherenced.core.outbox import Event, Outbox, Settled
from coherenced.core.requests import Fault, Level, WriteResult

_REDIS: Final = Level.REDIS


class Settling:
    """Those of one lane. Each is answered once, and finished once: with ack=none in that order."""

    def __init__(self, lane: Lane, box: Outbox, acks: Acks, flights: Flights) -> None:
        self.committed = self.unchanged = self.refused = 0
        self.faults: dict[str, int] = {}
        """Failed requests by `FaultKind`."""
        self.waiting = 0
        """Requests that are not finished, those that wait for acknowledgements among them."""
        self._lane = lane
        self._box = box
        self._acks = acks
        self._flights = flights

    def accept(self, pending: Pending) -> None:
        """ack=none: answer, and let reads of its keys wait for what happens behind."""
        replies: tuple[Reply, ...] = (b"OK",)
        if pending.given is not None:  # no Write is made of it: that would hold its value twice
            self._flights.unsettle(pending.key)
        else:
            for mutation in pending.write.mutations:
                for key in mutation.keys:
                    self._flights.unsettle(key)
                if is_wide(mutation):
                    self._flights.unsettle_all()
            replies = tuple(assumed_reply(m) for m in pending.write.mutations)
        pending.answered = pending.parked = True
        self._box.settle(pending.request_id, WriteResult(replies, None, {}))

    # -- carried out ----------------------------------------------------------------------

    def conclude_plain(self, batch: Batch, answer: Mutated) -> None:
        """`conclude` for what most writes are: nobody waits for more."""
        epoch, effects, concluded = answer.lineage.epoch, self._box.effects, 0
        for pending, done in zip(batch.pending, answer.done, strict=True):
            seq, reply = done.seq, done.reply
            if seq == 0 or pending.level != _REDIS:
                self.conclude(pending, epoch, (done,), answer.roster_version)
                continue
            concluded += 1
            pending.answered = pending.finished = True
            if pending.given is not None and reply.__class__ is bytes:
                effects.append(Settled(pending.request_id, reply))  # never an internal one
            else:
                result = WriteResult((reply,), version_of((epoch, seq)), {})
                self._box.settle(pending.request_id, result)
        self.committed += concluded
        self.waiting -= concluded

    def conclude(
        self, pending: Pending, epoch: bytes, done: tuple[Done, ...], roster_version: int
    ) -> None:
        """Answer it, or have it wait for its acknowledgements. `roster_version`: of the moment
        when it was committed, -1 if that is not known."""
        replies: tuple[Reply, ...]
        if len(done) == 1:
            last, replies = done[0].seq, (done[0].reply,)
        else:
            last = max([d.seq for d in done], default=0)
            replies = tuple([d.reply for d in done])
        if last == 0:
            if any(isinstance(reply, ReplyError) for reply in replies):
                self.refused += 1
            else:
                self.unchanged += 1
            self.settle(pending, WriteResult(replies, None, {}))
            return
        self.committed += 1
        version = version_of((epoch, last))
        level = pending.level
        waits = (level != Level.REDIS and level != Level.NONE) or pending.replicas > 0
        if waits and not pending.answered:
            self._wait(pending, replies, version, roster_version)
        else:
            self.settle(pending, WriteResult(replies, version, {}))

    def _wait(
        self,
        pending: Pending,
        replies: tuple[Reply, ...],
        version: Version,
        roster_version: int,
    ) -> None:
        # From here on the request is the acknowledgements' to answer.
        pending.answered = pending.finished = True
        self._acks.wait(
            pending.request_id,
            replies,
            self._lane,
            version,
            level=Level.REDIS if pending.level == Level.NONE else pending.level,
            timeout_ms=pending.timeout_ms,
            roster_version=roster_version,
            replicas=pending.replicas,
        )

    # -- or not ---------------------------------------------------------------------------

    def give_up_all(self, batch: Batch, fault: Fault) -> None:
        for pending in batch.pending:
            self.give_up(pending, fault)

    def give_up(self, pending: Pending, fault: Fault) -> None:
        """It failed: that is counted, and told."""
        if not pending.finished:
            self.faults[fault.kind] = self.faults.get(fault.kind, 0) + 1
        self.tell(pending, fault)

    def tell(self, pending: Pending, fault: Fault) -> None:
        if pending.parked:
            fields = {"kind": fault.kind, "detail": fault.detail}
            self._box.emit(Event("accepted_write_failed", fields, pending.write))
        self.settle(pending, fault)

    def settle(self, pending: Pending, outcome: WriteResult | Fault) -> None:
        """The end of a request: answer it, if it was not answered at acceptance already."""
        if pending.finished:
            return
        if not pending.answered:
            pending.answered = True
            self._box.settle(pending.request_id, outcome)
        self._finish(pending)

    def _finish(self, pending: Pending) -> None:
        pending.finished = True
        self.waiting -= 1
        if pending.parked and pending.given is not None:
            self._flights.resettle(pending.key)
        elif pending.parked:
            for mutation in pending.write.mutations:
                for key in mutation.keys:
                    self._flights.resettle(key)
                if is_wide(mutation):
                    self._flights.resettle_all()
