"""Following one lane: the bus, the log, what probes find, and what to do when they disagree.

    subscribe -> confirmed -> probe -> anchor -> apply what the bus brings
                                 ^                     | gap, fork, silence
                                 +---- read the log <--+

The bus only makes it fast. What makes it right is the probe (where the log is: `probes`)
and the log itself (what was missed): with the bus cut, a node follows at the
pace of its probes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from coherenced.core.calls import (
    BusLost,
    Failed,
    Logged,
    ReadLog,
    Subscribe,
    Subscribed,
)
from coherenced.core.lane import Lane, Verdict
from coherenced.core.laws import Laws
from coherenced.core.model import NEVER, Declared, Lineage, Member, Message, Record
from coherenced.core.outbox import Applied, Outbox
from coherenced.core.probes import Probes

LOG_PAGE: Final = 2000
"""Records asked of the log at once."""
BUS_GRACE_MS: Final = 5.0
"""How long a record that a probe has shown to exist may still be on its way over the bus."""
RETRY_MS: Final = 50.0
GAP_TOLD_EVERY_MS: Final = 1_000.0
BUFFER_RECORDS: Final = 20_000
"""Records held while the log is being read; beyond it they are let go and read from the log."""


class Catchup:
    """Keeps `lane` at the head of its log. One instance per lane."""

    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        laws: Laws,
        *,
        new_epoch: Callable[[], bytes],
        member: Callable[[], Member],
        declares: Callable[[], Declared],
        beat_every_ms: float,
        own_bound_ms: Callable[[], float],
        largest_bound_ms: Callable[[], float],
        apply: Callable[[Lane, Sequence[Record]], None],
        drop: Callable[[Lane], None],
        proved: Callable[[Lane], None],
        quarantined: Callable[[Lane], None],
        unproved: Callable[[Lane, int], None],
    ) -> None:
        self.lane = lane
        self.connection = 0
        self.subscribed = self.was_subscribed = False
        self.streaming = False
        self.gaps = self.repaired = self.drops = self.forks = self.duplicates = 0
        self.from_log = 0
        """Records that the log told, since the bus had not (yet) brought them."""
        self.stale_messages = 0
        self.probes = Probes(
            lane,
            box,
            laws,
            new_epoch=new_epoch,
            member=member,
            declares=declares,
            beat_every_ms=beat_every_ms,
            own_bound_ms=own_bound_ms,
            unproved=unproved,
            seen=self._lineage_seen,
            server_changed=self._quarantine,
        )
        self._box = box
        self._laws = laws
        self._largest_bound_ms = largest_bound_ms
        self._apply = apply
        self._drop = drop
        self._proved = proved
        self._quarantined = quarantined
        self._reading = False
        self._gap_open = False
        self._gap_told_ms = NEVER
        self._grace_armed = False
        self._buffer: list[tuple[bytes, Record]] = []
        self._asked_buffer = self._asked_head = 0
        """What was buffered, and the head, when the log was asked: its answer knows better."""
        self._stopped = False

    def start(self) -> None:
        self._resubscribe()
        self.probes.start()

    def stop(self) -> None:
        """Serve nothing from now on: the node leaves the roster."""
        self._stopped = True
        self.probes.stop()
        self.lane.unprove()

    # -- the bus ------------------------------------------------------------------

    def _resubscribe(self) -> None:
        self.connection += 1
        self.subscribed = False
        self._box.emit(Subscribe(self.lane.index, self.connection))

    def on_subscribed(self, answer: Subscribed) -> None:
        if answer.connection != self.connection:
            return
        self.subscribed = self.was_subscribed = True
        self._box.event("bus_connected", lane=self.lane.index)
        self.probes.send(beat=True)  # A3: only after the confirmation

    def on_bus_lost(self, answer: BusLost) -> None:
        if answer.connection != self.connection or self._stopped:
            return
        if self.subscribed:
            self._box.event("bus_lost", lane=self.lane.index, reason=answer.reason)
            self._gap_open = True  # whatever is missed from here on is worth a line
        self._resubscribe()

    def on_delivered(self, connection: int, message: Message) -> None:
        lane = self.lane
        if connection != self.connection and self._laws.old_connection_ignored:
            self.stale_messages += 1  # A3
            return
        if lane.epoch is None:
            return
        if message.epoch != lane.epoch:
            self.probes.send(beat=False)
            return
        if lane.recent.get(message.seq) == message.tag and message.seq <= lane.applied:
            self.duplicates += len(message.records)  # A6
            return
        if self._follow(message.records):
            self._apply(lane, message.records)
        else:
            for record in message.records:
                self._odd(message.epoch, record)
        self._heard_of(message.seq)
        if lane.proofs:
            self._settle()

    def on_heard(self, connection: int, messages: Sequence[Message]) -> None:
        """`on_delivered` of several that came at once: mostly each follows the one before it, and
        they are applied as one. Not while a proof waits: it is good for just where it was made."""
        lane = self.lane
        epochs = {told.epoch for told in messages}
        if connection == self.connection and epochs == {lane.epoch} and not lane.proofs:
            records = [record for told in messages for record in told.records]
            if self._follow(records):
                self._apply(lane, records)
                self._heard_of(max([told.seq for told in messages]))
                return
        for told in messages:
            self.on_delivered(connection, told)

    def _heard_of(self, seq: int) -> None:
        """The lane goes at least as far."""
        lane = self.lane
        if seq > lane.head:
            lane.head = seq
        if seq > lane.applied:
            self._read_log()  # W6: too large for the bus, or a gap

    def _follow(self, records: Sequence[Record]) -> bool:
        """Move along these in one go, if they are what comes next, as mostly they are: the caller
        applies them. False: nothing was done."""
        lane = self.lane
        if not records or self.streaming or not lane.is_followed_by(records):
            return False
        lane.advance_along(records)
        return True

    def _step(self, record: Record) -> None:
        lane = self.lane
        as_relied_on = lane.advance(record)
        self._apply(lane, (record,))
        if not as_relied_on:
            self._contradicted()
        if self.streaming and lane.epoch is not None:
            self._box.emit(Applied(lane.index, lane.epoch, record))

    def _odd(self, epoch: bytes, record: Record) -> None:
        lane = self.lane
        verdict = lane.judge_record(epoch, record, self._laws)
        if verdict is Verdict.NEXT:
            self._step(record)
        elif verdict is Verdict.DUPLICATE:
            self.duplicates += 1
        elif verdict is Verdict.AHEAD:
            if not self._reading:
                self._gap_found(record.seq)
            if record.seq > lane.head:
                lane.head = record.seq
            if len(self._buffer) >= BUFFER_RECORDS:
                self._buffer.clear()
                self._asked_buffer = 0
            self._buffer.append((epoch, record))
            self._read_log()
        else:
            # A fork, a forged message, or too far back to tell: only the log can say which.
            self._read_log()

    def follows_own(self, epoch: bytes, records: list[Record]) -> bool:
        """Move along what this node's own mutation reply told, if it is what comes next: the caller
        applies it. False: nothing was done, it is for `own_records`."""
        return epoch == self.lane.epoch and self._follow(records)

    def own_records(self, epoch: bytes, records: list[Record]) -> list[Record]:
        """Apply what this node's own mutation reply told; return those that are not next yet."""
        lane = self.lane
        early: list[Record] = []
        if epoch != lane.epoch:
            return early
        for record in records:
            if lane.judge_record(epoch, record, self._laws) is Verdict.NEXT:
                self._step(record)
            elif record.seq > lane.applied:
                early.append(record)
        return early

    def own_reply(
        self, call_id: int, sent_ms: float, known_then: int, lineage: Lineage, server_id: bytes
    ) -> None:
        """V1: a node's own mutation reply is a probe too."""
        self.probes.server_seen(server_id)
        lane = self.lane
        if (
            lineage.seq == lane.applied
            and lineage.tag == lane.tag
            and lineage.epoch == lane.epoch
            and call_id >= lane.anchored_call_id
            and known_then <= lane.applied >= lane.relied_to
            and not (lane.proofs or lane.unconfirmed or self._stopped)
        ):
            # The usual case, for which all the judging below would come to the same.
            if self.probes.vouches(call_id, sent_ms, NEVER):
                before = lane.proved_call_id
                lane.prove(call_id, sent_ms, lane.applied)
                if lane.proved_call_id > before:
                    self._proved(lane)
            if lane.head > lane.applied:
                self.expect_bus()
            return
        self._lineage_seen(call_id, sent_ms, known_then, lineage)

    # -- proofs -------------------------------------------------------------------

    def _quarantine(self) -> None:
        """K7: for one bound there may be holders that no roster knows; this node may be one."""
        self.probes.forget_joined()
        until_ms = self._box.now_ms + fence_after_ms(self._largest_bound_ms())
        self.lane.quarantined_until_ms = until_ms
        self._quarantined(self.lane)

    def _lineage_seen(
        self,
        call_id: int,
        sent_ms: float,
        known_then: int,
        lineage: Lineage,
        joined_ms: float = NEVER,
    ) -> None:
        """Judge an atomic answer, and take it as proof if it is of this chain (V1).

        `joined_ms`: when the call was sent, if it carried this node's membership.
        """
        lane = self.lane
        if call_id < lane.anchored_call_id or self._stopped:
            return
        if lane.epoch is None:
            self._anchor(lineage, call_id, "first contact")
            self._take_proof(call_id, sent_ms, lineage, joined_ms)
            return
        verdict = lane.judge_lineage(lineage, self._laws)
        backwards = lineage.seq < known_then and self._laws.chain_check
        if verdict is Verdict.OTHER_EPOCH:
            self._anchor(lineage, call_id, "new epoch")
        elif verdict is Verdict.FORK or backwards:
            self.forks += 1
            self._anchor(lineage, call_id, "fork")
        elif verdict is Verdict.UNKNOWN:
            self.probes.joined(joined_ms)
            self._read_log()
            return
        self._take_proof(call_id, sent_ms, lineage, joined_ms)

    def _take_proof(self, call_id: int, sent_ms: float, lineage: Lineage, joined_ms: float) -> None:
        if joined_ms > NEVER:
            self.probes.joined(joined_ms)
        if self.probes.vouches(call_id, sent_ms, joined_ms):
            self.lane.offer_proof(call_id, sent_ms, lineage)
        self._settle()
        if self.lane.head > self.lane.applied:
            self.expect_bus()

    def _settle(self) -> None:
        lane = self.lane
        before = lane.proved_call_id
        verdict = lane.settle_proofs(self._laws)
        if verdict is not Verdict.DUPLICATE:
            self._read_log()
        if lane.proved_call_id > before:
            self._proved(lane)

    def expect_bus(self) -> None:
        """Records are known to exist: give the bus a moment, then read the log (V4)."""
        if not self.subscribed:
            self._read_log()
        elif not self._grace_armed and not self._reading:
            self._grace_armed = True
            self._box.timers.at(
                self._box.now_ms + BUS_GRACE_MS, self._grace_over, self.lane.applied
            )

    def _grace_over(self, applied_then: int) -> None:
        self._grace_armed = False
        lane = self.lane
        if lane.head <= lane.applied or self._stopped:
            return
        if lane.applied > applied_then:
            self.expect_bus()  # it is moving; only what stands still was lost
        else:
            self._gap_found(lane.head)
            self._read_log()

    def _gap_found(self, head: int) -> None:
        """Records are missing. All are counted; a late bus is told once a second."""
        self.gaps += 1
        if self._box.now_ms >= self._gap_told_ms + GAP_TOLD_EVERY_MS:
            self._gap_told_ms = self._box.now_ms
            self._gap_open = True
            self._box.event("gap_found", lane=self.lane.index, applied=self.lane.applied, head=head)

    # -- the log ------------------------------------------------------------------

    def _read_log(self) -> None:
        lane = self.lane
        if self._reading or lane.epoch is None or self._stopped:
            return
        self._reading = True
        self._asked_buffer, self._asked_head = len(self._buffer), lane.head
        start, tag, generation = lane.applied, lane.tag, lane.generation
        number = 0

        def answered(answer: Logged | Failed) -> None:
            self._on_logged(answer, number, start, tag, generation)

        number = self._box.new_call_id(answered)
        self._box.emit(ReadLog(number, lane.index, start, LOG_PAGE))

    def _on_logged(
        self, answer: Logged | Failed, call_id: int, start: int, tag: bytes, generation: int
    ) -> None:
        self._reading = False
        lane = self.lane
        if self._stopped:
            return
        if isinstance(answer, Failed):
            self._box.timers.at(self._box.now_ms + RETRY_MS, self._retry_log, generation)
            return
        if generation != lane.generation or call_id < lane.anchored_call_id:
            if lane.head > lane.applied:
                self._read_log()
            return
        if answer.lineage.epoch != lane.epoch:
            self._anchor(answer.lineage, call_id, "new epoch")
            self.probes.send(beat=False)
            return
        verdict = self._judge_log(answer, start, tag)
        if verdict is not None:
            self._anchor(answer.lineage, call_id, verdict)
            self.probes.send(beat=False)
            return
        self._apply_log(answer, start)

    def _judge_log(self, answer: Logged, start: int, tag: bytes) -> str | None:
        """A2: the log must reach back to my position, and hold my record there. -> why not."""
        records, head = answer.records, answer.lineage
        if not records:
            if head.seq == start and (head.tag == tag or not self._laws.chain_check):
                return None
            trimmed = "log trimmed" if head.seq > start else "fork"
            return trimmed if self._laws.drop_on_trimmed else None
        first = records[0]
        if start == 0:
            fits, mine = first.seq == 1, first.prev
        else:
            fits, mine = first.seq == start, first.tag
        if not fits:
            if head.seq < start:
                return "fork"
            return "log trimmed" if self._laws.drop_on_trimmed else None
        if mine != tag and self._laws.chain_check:
            self.forks += 1
            return "fork"
        return None

    def _apply_log(self, answer: Logged, start: int) -> None:
        lane = self.lane
        epoch = answer.lineage.epoch
        applied_before = lane.applied
        for record in answer.records:
            verdict = lane.judge_record(epoch, record, self._laws)
            if verdict is Verdict.NEXT or (
                verdict is Verdict.AHEAD and not self._laws.drop_on_trimmed
            ):
                self._step(record)
            elif verdict is Verdict.AHEAD:
                self._anchor(answer.lineage, answer.call_id, "log has a hole")
                self.probes.send(beat=False)
                return
            elif verdict is Verdict.FORK:
                self._anchor(answer.lineage, answer.call_id, "fork")
                self.probes.send(beat=False)
                return
        if not self._laws.drop_on_trimmed and lane.applied < answer.lineage.seq:
            lane.applied, lane.tag = answer.lineage.seq, answer.lineage.tag
        self.from_log += lane.applied - applied_before
        if lane.applied > applied_before:
            self.repaired += 1
        if lane.applied > applied_before and self._gap_open:
            self._gap_open = False
            self._box.event("gap_repaired", lane=lane.index, records=lane.applied - applied_before)
        self._correct_head(answer.lineage.seq)
        buffered, self._buffer = self._buffer, []
        for place, (buffered_epoch, record) in enumerate(buffered):
            if place >= self._asked_buffer or record.seq <= answer.lineage.seq:
                self._odd(buffered_epoch, record)
        # The bus may have moved the position past the page meanwhile; only a log that shows
        # nothing after the very position it was asked from has a hole there.
        if lane.applied == start < answer.lineage.seq:
            self._anchor(answer.lineage, answer.call_id, "log has a hole")
            self.probes.send(beat=False)
        elif lane.applied < answer.lineage.seq:
            self._read_log()
        elif lane.head > lane.applied:
            self.expect_bus()
        self._settle()

    def _correct_head(self, head: int) -> None:
        """What had arrived before the log was asked, and is not in it, is not of this log: it
        was lost in a failover, or forged. Only what arrived since may be beyond the answer."""
        lane = self.lane
        if lane.head == self._asked_head:
            lane.head = max(head, lane.applied)
        elif head > lane.head:
            lane.head = head

    def _retry_log(self, generation: int) -> None:
        if generation == self.lane.generation and self.lane.head > self.lane.applied:
            self._read_log()

    def _contradicted(self) -> None:
        """The chain came through by another record than something stored relied on: what was read
        ahead is of a history that was lost. The position is right; what is held is not."""
        lane = self.lane
        self.drops += 1
        self.forks += 1
        self._box.event("lane_dropped", lane=lane.index, reason="fork", now=str(lane.applied))
        lane.generation += 1
        lane.relied.clear()
        lane.relied_to = 0
        lane.unprove()
        self._drop(lane)
        self._quarantine()
        self._leave_epoch(reason="fork")
        self.probes.send(beat=False)

    # -- starting over ----------------------------------------------------------------

    def _anchor(self, lineage: Lineage, call_id: int, reason: str) -> None:
        """A5: drop the lane and take the position of this one atomic answer."""
        lane = self.lane
        first = lane.epoch is None
        if not first:
            self.drops += 1
            self._box.event(
                "lane_dropped",
                lane=lane.index,
                reason=reason,
                was=f"{(lane.epoch or b'').decode()}:{lane.applied}",
                now=f"{lineage.epoch.decode()}:{lineage.seq}",
            )
        self._drop(lane)
        self._buffer.clear()
        lane.anchor(lineage, call_id)
        self._gap_open = False
        # K7: whoever holds older values may be missing from the roster; one bound outlives them.
        if reason != "log trimmed" and reason != "log has a hole":
            self._quarantine()
        self._leave_epoch(reason)
        if self.probes.forked:
            self.probes.send(beat=False)

    def _leave_epoch(self, reason: str) -> None:
        """S1: the same `epoch:seq` has named two writes, so versions of this epoch say nothing any
        more: the next probe begins another, and what was written under this one is another
        lineage for sessions and for compare-and-set."""
        renews = reason == "fork" and self._laws.new_epoch_after_fork
        self.probes.forked = (self.lane.epoch or b"") if renews else b""


def fence_after_ms(bound_ms: float) -> float:
    """K3: how long after a commit a node with bound B surely serves nothing older.

    Its verified-at is from before the commit, so B is enough on a perfect clock;
    one percent and 5 ms more cover two clocks that run apart.
    """
    return bound_ms * 1.01 + 5.0
