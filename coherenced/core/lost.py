"""The truth about lost replies (W3).

When a reply is lost nothing more is sent until the truth is known, about the later batch
first, so that what must be sent again stands in the queue as it was accepted. A batch's tags
are in the log, or they are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from coherenced.core.batches import WRITE_TRIES, Batch, Pending, done_by_log
from coherenced.core.calls import Failed, Logged, Resolve
from coherenced.core.catchup import Catchup
from coherenced.core.keeping import Keeping
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.model import Record, Version
from coherenced.core.outbox import Outbox
from coherenced.core.requests import Fault, FaultKind
from coherenced.core.settling import Settling

RESOLVE_RETRY_MS: Final = 100.0
RESOLVE_PATIENCE_MS: Final = 2_000.0
"""How long callers wait for the truth about a lost reply before they are told *indeterminate*."""


class LostReplies:
    """Those of one lane's batches."""

    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        laws: Laws,
        catchup: Catchup,
        keeping: Keeping,
        settling: Settling,
        cover: Callable[[Lane, Sequence[Record]], None],
        queue: deque[Pending],
        flying: list[Batch],
        rest: Callable[[], None],
    ) -> None:
        """`queue`, `flying`: what waits to be sent, and what is in flight in the order sent; it
        takes from both, and puts back. `rest`: called when a batch is not in flight any more."""
        self.resolved = 0
        self._lane = lane
        self._box = box
        self._laws = laws
        self._catchup = catchup
        self._keeping = keeping
        self._settling = settling
        self._cover = cover
        self._queue = queue
        self._flying = flying
        self._rest = rest
        self._resolving = False

    def look_up(self, batch: Batch, detail: str) -> None:
        """Its reply will not come: find out what became of it."""
        # Until the truth is known nothing of this node's may be served or stored for these keys.
        for mutation in batch.mutations:
            if mutation.is_write:
                self._keeping.forget(mutation)
        batch.lost = detail
        batch.started_ms = self._box.now_ms
        self.resolve()

    def resolve(self) -> None:
        """Begin with the latest, once it is known of all whether their replies are lost."""
        flying = self._flying
        if not flying or self._resolving or any(b.lost is None for b in flying):
            return
        if self._laws.resolve_lost_reply:
            self._resolving = True
            self._resolve(flying[-1], flying[-1].lost or "")
            return
        while flying:
            self._again(flying.pop())

    def _resolve(self, batch: Batch, detail: str) -> None:
        start = batch.chain.seq if batch.chain is not None else 0

        def answered(answer: Logged | Failed) -> None:
            self._on_resolved(batch, answer, detail)

        number = self._box.new_call_id(answered)
        self._box.emit(Resolve(number, self._lane.index, batch.call_id, start))

    def _on_resolved(self, batch: Batch, answer: Logged | Failed, detail: str) -> None:
        if isinstance(answer, Failed):
            # The old connection may still be alive: no later write may overtake it (W4).
            if self._box.now_ms - batch.started_ms > RESOLVE_PATIENCE_MS:
                for lost in self._flying:
                    if not lost.told:
                        lost.told = True
                        self._tell_indeterminate(lost, detail)
                self._refuse_queued(answer.detail)
            retry_ms = self._box.now_ms + RESOLVE_RETRY_MS
            self._box.timers.at(retry_ms, self._resolve, batch, detail)
            return
        self._flying.remove(batch)
        self._resolving = False
        self.resolved += 1
        self._catchup.probes.server_seen(answer.server_id)
        found = {record.tag: index for index, record in enumerate(answer.records)}
        if any(tag in found for tag in batch.tags):
            self._found(batch, answer, found)
        elif answer.severed and batch.is_followed_by(answer):
            self._box.event("lost_write_not_applied", lane=self._lane.index, detail=detail)
            self._again(batch)
        else:
            if not batch.told:
                self._tell_indeterminate(batch, detail)
            self._keeping.close(batch)
        self.resolve()
        self._rest()

    def _found(self, batch: Batch, answer: Logged, found: dict[bytes, int]) -> None:
        """Applied: a batch is one atomic step, so what is not in the log changed nothing."""
        self._keeping.close(batch)
        self._box.event("lost_write_was_applied", lane=self._lane.index)
        epoch = answer.lineage.epoch
        records = [answer.records[found[t]] for t in batch.tags if t in found]
        if early := self._catchup.own_records(epoch, records):
            self._cover(self._lane, early)
        for pending in batch.pending:
            done, known = done_by_log(batch, pending, answer, found)
            last = max(d.seq for d in done)
            if known:
                self._settling.conclude(pending, epoch, done, -1)
            elif last:
                text = "the write is committed, but its reply was lost"
                fault = Fault(FaultKind.APPLIED_UNKNOWN_REPLY, text, Version(epoch, last))
                self._settling.give_up(pending, fault)
            else:
                text = "the reply was lost; nothing was changed"
                self._settling.give_up(pending, Fault(FaultKind.UNAVAILABLE, text))

    def _again(self, batch: Batch) -> None:
        """Surely not applied: send it again, ahead of what came later."""
        self._keeping.close(batch)
        again: list[Pending] = []
        for pending in batch.pending:
            if pending.finished:
                continue  # its caller was told that nobody can tell
            pending.tries += 1
            if pending.tries < WRITE_TRIES and not pending.write.watch_id:
                again.append(pending)
            else:
                text = "the connection to Redis broke; the write was not applied"
                self._settling.give_up(pending, Fault(FaultKind.UNAVAILABLE, text))
        self._queue.extendleft(reversed(again))

    def _tell_indeterminate(self, batch: Batch, detail: str) -> None:
        text = f"the write was sent, its reply was lost, and the log cannot tell ({detail})"
        self._settling.give_up_all(batch, Fault(FaultKind.INDETERMINATE, text))
        self._box.event("write_indeterminate", lane=self._lane.index, detail=detail)

    def _refuse_queued(self, detail: str) -> None:
        """What was never sent is surely not applied."""
        queued = list(self._queue)
        self._queue.clear()
        for pending in queued:
            self._settling.give_up(pending, Fault(FaultKind.UNAVAILABLE, detail))
