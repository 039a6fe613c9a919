"""Comparing what this node holds with what Redis holds, while both go on changing.

An entry says: "this is the value as of my sequence, and no record since has touched
it". So it is asked for once more, past L1 (one atomic read, which says as of which
sequence S it answers); once every record up to S has been applied here, an entry that
is still the same object, and not of after S, has been touched by none of them since it
was read or written anew (`L1.renew`), and must equal the answer. What was dropped,
replaced or written anew after S has moved: it says nothing.

A value that differs is a *divergence*: a broken promise, or a program that writes to
Redis past coherenced. It is reported, and this node's copy is dropped.

(The idea of auditing a cache against its store in production, not in a test, is that of
Meta's Polaris: "Cache made consistent", 2022.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from coherenced.core.calls import Failed, Fetch, FetchedAll
from coherenced.core.entry import Entry
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from coherenced.core.model import Fetched, Reply, Version
from coherenced.core.outbox import Outbox
from coherenced.core.requests import Audit, AuditResult, Divergence, Fault, FaultKind

PATIENCE_MS: Final = 1_000.0
"""How long the records up to the answer may take to arrive before nothing can be said."""
EXPIRY_SLACK_MS: Final = 100.0
"""Redis and this node count down an expiry on two clocks: near its end they may disagree."""


class _Open:
    """One comparison under way: what was held when it was asked, and the answer."""

    __slots__ = ("answer", "generation", "held", "request_id", "until_ms")

    def __init__(self, request_id: int, held: list[Entry], generation: int) -> None:
        self.request_id = request_id
        self.held = held
        self.generation = generation
        self.answer: FetchedAll | None = None
        self.until_ms = 0.0


class Audits:
    """The comparisons of one lane. `forget(key)` drops this node's copy."""

    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        l1: L1,
        new_epoch: Callable[[], bytes],
        forget: Callable[[bytes], None],
    ) -> None:
        self.agreed = self.moved = self.diverged = 0
        self.waiting = 0
        """Audits that have not been answered yet."""
        self._lane = lane
        self._box = box
        self._l1 = l1
        self._new_epoch = new_epoch
        self._forget = forget
        self._open: list[_Open] = []
        """Answered, and waiting for the records before the answer."""

    def start(self, request_id: int, audit: Audit) -> None:
        """Compare those of the keys that are held. -> AuditResult, or a Fault."""
        now_ms = self._box.now_ms
        found = [e for e in map(self._l1.held, audit.keys) if e is not None]
        held = [e for e in found if now_ms < e.deadline_ms]
        if not held:
            self._box.settle(request_id, AuditResult())
            return
        self.waiting += 1
        this = _Open(request_id, held, self._lane.generation)
        number = self._box.new_call_id(partial(self._answered, this))
        keys = tuple(entry.key for entry in held)
        self._box.emit(Fetch(number, self._lane.index, self._new_epoch(), keys))

    def _answered(self, this: _Open, answer: FetchedAll | Failed) -> None:
        if isinstance(answer, Failed):
            self._settle(this, Fault(FaultKind.UNAVAILABLE, answer.detail))
            return
        this.answer = answer
        this.until_ms = self._box.now_ms + PATIENCE_MS
        self._open.append(this)
        self.look()
        if this in self._open:
            self._box.timers.at(this.until_ms, self.look)

    def _settle(self, this: _Open, outcome: AuditResult | Fault) -> None:
        self.waiting -= 1
        self._box.settle(this.request_id, outcome)

    def look(self) -> None:
        """The lane has moved, or time has passed: conclude what can be concluded."""
        lane, now_ms = self._lane, self._box.now_ms
        for this in list(self._open):
            answer = this.answer
            assert answer is not None
            same = this.generation == lane.generation and answer.lineage.epoch == lane.epoch
            if same and lane.applied < answer.lineage.seq and now_ms < this.until_ms:
                continue
            self._open.remove(this)
            caught_up = same and lane.applied >= answer.lineage.seq
            self._settle(this, self._judge(this, answer, caught_up))

    def _judge(self, this: _Open, answer: FetchedAll, caught_up: bool) -> AuditResult:
        agreed = moved = 0
        diverged: list[Divergence] = []
        for entry, got in zip(this.held, answer.results, strict=True):
            if not caught_up or not self._comparable(entry, got, answer.lineage.seq):
                moved += 1
            elif isinstance(got, Fetched) and got.error is None and got.value == entry.value:
                agreed += 1
            else:
                diverged.append(self._report(entry, got, answer))
        self.agreed += agreed
        self.moved += moved
        self.diverged += len(diverged)
        return AuditResult(agreed, moved, tuple(diverged))

    def _comparable(self, entry: Entry, got: Fetched | Reply, seq: int) -> bool:
        """Whether the answer must be what is held: nothing has touched the key in between."""
        if self._l1.held(entry.key) is not entry or entry.as_of > seq:
            return False
        if not isinstance(got, Fetched):
            return True
        ends_soon = entry.deadline_ms - self._box.now_ms < EXPIRY_SLACK_MS
        return not (got.pending or (got.value is None and ends_soon))

    def _report(self, entry: Entry, got: Fetched | Reply, answer: FetchedAll) -> Divergence:
        epoch, seq, _ = answer.lineage
        found = got.value if isinstance(got, Fetched) and got.error is None else None
        divergence = Divergence(
            entry.key,
            Version(epoch, entry.as_of),
            Version(epoch, seq),
            None if entry.value is None else len(entry.value),
            None if found is None else len(found),
        )
        self._box.event(
            "audit_diverged",
            lane=self._lane.index,
            key=entry.key,
            held_as_of=str(divergence.held),
            redis_as_of=str(divergence.found),
        )
        self._forget(entry.key)
        return divergence
