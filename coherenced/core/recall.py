"""What came after a version, for an event stream that goes on where it was cut off.

The last records are held (`Lane.history`). What is older, or came before this node was started, is
in the log, as far back as that reaches: it is read a page at a time, and believed as far as it is
one chain of this epoch, and this node's own where the two overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from coherenced.core.calls import Failed, Logged, ReadLog
from coherenced.core.lane import Lane
from coherenced.core.model import Record
from coherenced.core.outbox import Outbox
from coherenced.core.requests import Fault, FaultKind, Recall, RecallResult

PAGE: Final = 100
"""Records told at once."""
GONE: Final = RecallResult(None)


class Recalls:
    """The past of one lane."""

    def __init__(self, lane: Lane, box: Outbox) -> None:
        self.waiting = 0
        """Requests that have not been answered yet."""
        self._lane = lane
        self._box = box

    def start(self, request_id: int, recall: Recall) -> None:
        lane, after = self._lane, recall.after
        if after.epoch != lane.epoch or recall.until > lane.applied:
            self._box.settle(request_id, GONE)
            return
        history = lane.history
        if after.seq >= recall.until or (history and history[0].seq <= after.seq + 1):
            self._box.settle(request_id, RecallResult(tuple(self._held(recall))))
            return
        self.waiting += 1

        def answered(answer: Logged | Failed) -> None:
            self.waiting -= 1
            if isinstance(answer, Failed):
                self._box.settle(request_id, Fault(FaultKind.UNAVAILABLE, answer.detail))
            else:
                self._box.settle(request_id, self._judged(recall, answer))

        number = self._box.new_call_id(answered)
        limit = min(PAGE, recall.until - after.seq)
        self._box.emit(ReadLog(number, lane.index, after.seq + 1, limit))

    def _held(self, recall: Recall) -> Iterator[Record]:
        history, first = self._lane.history, recall.after.seq + 1
        start = max(0, first - history[0].seq) if history else 0
        for at in range(start, min(start + PAGE, len(history))):
            if history[at].seq <= recall.until:
                yield history[at]

    def _judged(self, recall: Recall, answer: Logged) -> RecallResult:
        lane, seq = self._lane, recall.after.seq
        if answer.lineage.epoch != recall.after.epoch or lane.epoch != recall.after.epoch:
            return GONE
        tag: bytes | None = None
        for record in answer.records:
            seq += 1
            if record.seq != seq or tag not in (None, record.prev):
                return GONE
            tag = record.tag
            if lane.recent.get(seq, tag) != tag:
                return GONE
        return RecallResult(answer.records) if answer.records else GONE
