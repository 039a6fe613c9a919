"""Where this node stands in one lane's log, and what it can prove about it.

The position is a chain: each record names the tag of the one before it, so
"the next record" is decided by sequence *and* tag (A1), and a log that was
rewritten under the same numbers by a failover is recognised as a fork.

Proof (V1): a probe's answer says where the log was at some moment after the
probe was sent. Once everything up to there is applied along a matching chain,
this node has seen every invalidation up to the time the probe was sent:
`verified_at_ms` moves there. Nothing else moves it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Final, Protocol

from coherenced.core.laws import Laws
from coherenced.core.model import NEVER, Lineage, Record

RECENT_TAGS: Final = 4096
"""How many sequence numbers back a tag is remembered, to tell a duplicate from a fork."""
HISTORY: Final = 1000
"""Recent records kept for event streams that resume."""
PENDING_PROOFS: Final = 16
MOST_RELIED: Final = 4096
"""Positions ahead that stored entries may rely on at once."""


class Lent(Protocol):
    """As much of an L1 entry as a lane has to do with."""

    as_of: int
    bound_ms: float
    deadline_ms: float


class Verdict(Enum):
    """What a record or a lineage is, seen from this position."""

    NEXT = "next"
    DUPLICATE = "duplicate"
    AHEAD = "ahead"  # there are records in between: a gap
    FORK = "fork"  # same numbers, another history
    OTHER_EPOCH = "other epoch"
    UNKNOWN = "unknown"  # too far back to tell: ask the log


class Lane:
    """Position and proof for one lane. Pure bookkeeping: `catchup.Catchup` acts on it."""

    __slots__ = (
        "anchored_call_id",
        "applied",
        "epoch",
        "generation",
        "head",
        "history",
        "index",
        "lent",
        "proofs",
        "proved_call_id",
        "proved_seq",
        "quarantined_until_ms",
        "recent",
        "relied",
        "relied_to",
        "tag",
        "tag_seq",
        "unconfirmed",
        "verified_at_ms",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.generation = 0
        """+1 whenever the lane is dropped (A5): fills of an earlier generation are void."""
        self.epoch: bytes | None = None
        """None until anchored: nothing is known, nothing may be stored or served."""
        self.applied = 0
        """A1: every record up to this sequence of `epoch` has been applied, along the chain."""
        self.tag = b""
        """The tag of record `applied`."""
        self.head = 0
        """The highest sequence of this epoch that is known to exist."""
        self.verified_at_ms: float = NEVER
        """V1: this node has seen every invalidation committed before this local time."""
        self.proved_call_id = 0
        """V4: the latest probe by which verified-at was proved; proofs are ordered by it."""
        self.proved_seq = 0
        """V1: the position that verified-at was proved for."""
        self.lent: list[tuple[Lent, float]] = []
        """Entries from beyond the proved position, with the deadlines they get once it covers
        them. As many as there are fills between two proofs."""
        self.recent: dict[int, bytes] = {}
        self.history: deque[Record] = deque(maxlen=HISTORY)
        self.tag_seq: dict[bytes, int] = {}
        """T1: tag -> the sequence at which it was last invalidated, as far back as entries live."""
        self.proofs: deque[tuple[int, float, Lineage]] = deque()
        """Probe answers that wait for records to be applied: (call id, sent at, lineage)."""
        self.relied: dict[int, bytes] = {}
        """Sequence -> tag beyond the position that a stored entry was read or written at: the
        chain must come through there, else the entry is of a history that was lost."""
        self.relied_to = 0
        """The highest of them, ever since the lane was anchored."""
        self.unconfirmed: tuple[int, float, int] | None = None
        """(call id, sent at, position): a proof from behind this position, to be confirmed."""
        self.anchored_call_id = 0
        """The call whose answer set the position: answers to older calls cannot move it back."""
        self.quarantined_until_ms: float = NEVER
        """K7: until then there may be holders of the old lineage that the roster does not know."""

    @property
    def lineage(self) -> Lineage | None:
        return None if self.epoch is None else Lineage(self.epoch, self.applied, self.tag)

    def anchor(self, lineage: Lineage, call_id: int) -> None:
        """Take a position from one atomic answer. The caller has dropped every entry (A5)."""
        self.generation += 1
        self.epoch, self.applied, self.tag = lineage
        self.head = lineage.seq
        self.verified_at_ms = NEVER
        self.proved_call_id = 0
        self.recent = {lineage.seq: lineage.tag}
        self.history.clear()
        self.tag_seq.clear()
        self.proofs.clear()
        self.proved_seq = 0
        self.lent.clear()
        self.unconfirmed = None
        self.relied.clear()
        self.relied_to = 0
        self.anchored_call_id = call_id

    @property
    def reliance(self) -> int:
        """The highest sequence that something held here depends on: an answer from behind it
        proves nothing yet, and one asked for afterwards shows a fork."""
        return self.relied_to if self.relied_to > self.applied else self.applied

    def rely(self, seq: int, tag: bytes) -> bool:
        """Something is about to be stored as of `(seq, tag)`; False: it must not be."""
        if seq <= self.applied:
            return True  # judged against the chain already
        if self.relied.get(seq, tag) != tag or len(self.relied) >= MOST_RELIED:
            return False
        self.relied[seq] = tag
        self.relied_to = max(seq, self.relied_to)
        return True

    def judge_record(self, epoch: bytes, record: Record, laws: Laws) -> Verdict:
        if epoch != self.epoch:
            return Verdict.OTHER_EPOCH
        if record.seq == self.applied + 1:
            if record.prev == self.tag or not laws.chain_check:
                return Verdict.NEXT
            return Verdict.FORK
        if record.seq > self.applied:
            return Verdict.AHEAD if laws.gap_check else Verdict.NEXT
        return self._judge_past(record.seq, record.tag, laws)

    def judge_lineage(self, lineage: Lineage, laws: Laws) -> Verdict:
        """Where an atomic answer stands relative to this position."""
        if lineage.epoch != self.epoch:
            return Verdict.OTHER_EPOCH
        if lineage.seq > self.applied:
            return Verdict.AHEAD
        return self._judge_past(lineage.seq, lineage.tag, laws)

    def contradicts(self, lineage: Lineage, laws: Laws) -> bool:
        """Whether an answer from there is of another history than this position, or than
        something held that was read ahead of it; or from too far back to tell."""
        verdict = self.judge_lineage(lineage, laws)
        if verdict is Verdict.AHEAD:
            return self.relied.get(lineage.seq, lineage.tag) != lineage.tag
        return verdict is not Verdict.DUPLICATE

    def _judge_past(self, seq: int, tag: bytes, laws: Laws) -> Verdict:
        if not laws.chain_check:
            return Verdict.DUPLICATE
        known = self.recent.get(seq)
        if known is None:
            return Verdict.UNKNOWN
        return Verdict.DUPLICATE if known == tag else Verdict.FORK

    def advance(self, record: Record) -> bool:
        """Move onto `record`, which `judge_record` called NEXT.

        False: something is stored that relied on another record being here.
        """
        self.applied = seq = record.seq
        self.tag = record.tag
        recent = self.recent
        recent[seq] = record.tag
        recent.pop(seq - RECENT_TAGS, None)
        self.history.append(record)
        if seq > self.head:
            self.head = seq
        return not self.relied or self.relied.pop(seq, record.tag) == record.tag

    def is_followed_by(self, records: Sequence[Record]) -> bool:
        """Whether each of them is NEXT after the one before it, and nothing is relied on."""
        seq, tag = self.applied, self.tag
        for record in records:
            seq += 1
            if record.seq != seq or record.prev != tag:
                return False
            tag = record.tag
        return not self.relied

    def advance_along(self, records: Sequence[Record]) -> None:
        """`advance` for those by which this position `is_followed_by`; at least one."""
        recent = self.recent
        for record in records:
            seq = record.seq
            recent[seq] = record.tag
            recent.pop(seq - RECENT_TAGS, None)
        self.history.extend(records)
        last = records[-1]
        self.applied, self.tag = last.seq, last.tag
        if last.seq > self.head:
            self.head = last.seq

    def offer_proof(self, call_id: int, sent_ms: float, lineage: Lineage) -> None:
        """V1: remember that the log stood at `lineage` some time after `sent_ms`."""
        if len(self.proofs) == PENDING_PROOFS:
            self.proofs.pop()  # the older ones come true sooner
        self.proofs.append((call_id, sent_ms, lineage))
        if lineage.seq > self.head:
            self.head = lineage.seq

    def settle_proofs(self, laws: Laws) -> Verdict:
        """Use every proof whose records are applied; FORK or UNKNOWN if one contradicts them."""
        remaining: deque[tuple[int, float, Lineage]] = deque()
        verdict = Verdict.DUPLICATE
        for proof in self.proofs:
            call_id, sent_ms, lineage = proof
            if lineage.seq > self.applied and laws.verified_after_applied:
                remaining.append(proof)
                continue
            if lineage.seq <= self.applied:
                judged = self._judge_past(lineage.seq, lineage.tag, laws)
                if judged is not Verdict.DUPLICATE:
                    verdict = judged
                    continue
                reliance = self.reliance if laws.reliance_checked else self.applied
                if lineage.seq < reliance and laws.confirm_position:
                    self._hold(call_id, sent_ms, lineage.seq, reliance)
                    continue
            self.prove(call_id, sent_ms, min(lineage.seq, self.applied))
        self.proofs = remaining
        return verdict

    def _hold(self, call_id: int, sent_ms: float, seq: int, reliance: int) -> None:
        """An answer at `seq`, behind the position: it confirms what is held up to there, and is
        itself held until an answer from this position or later confirms it."""
        if self.unconfirmed is not None:
            held_id, held_ms, position = self.unconfirmed
            if seq < position or call_id < held_id:
                return
            self.prove(held_id, held_ms, position)
        self.unconfirmed = (call_id, sent_ms, reliance)

    def lend(self, entry: Lent, sent_ms: float) -> None:
        """`entry` has just been stored; its value was asked for at `sent_ms`.

        A value from beyond the proved position is fresh because it was just read, not because
        of verified-at: until a proof covers it, it is served for one bound from its own request.
        (It may come from a server that has been replaced, over a connection that does not know.)
        """
        if entry.as_of > self.proved_seq and entry.bound_ms > 0:
            self.lent.append((entry, entry.deadline_ms))
            entry.deadline_ms = min(entry.deadline_ms, sent_ms + entry.bound_ms)

    def _return_lent(self) -> None:
        waiting = []
        for entry, deadline_ms in self.lent:
            if entry.as_of <= self.proved_seq:
                entry.deadline_ms = deadline_ms
            else:
                waiting.append((entry, deadline_ms))
        self.lent = waiting

    def prove(self, call_id: int, sent_ms: float, seq: int) -> None:
        """V1: this node had seen every invalidation up to `seq`, and that was all, at some moment
        after `sent_ms`."""
        if seq > self.proved_seq:
            self.proved_seq = seq
            if self.lent:
                self._return_lent()
        if sent_ms > self.verified_at_ms:
            self.verified_at_ms = sent_ms
        if call_id > self.proved_call_id:
            self.proved_call_id = call_id
        if self.unconfirmed is not None and self.unconfirmed[0] <= call_id:
            self.unconfirmed = None

    def unprove(self) -> None:
        """V7: what was proved can no longer be trusted; the position stays."""
        self.verified_at_ms = NEVER
        self.proofs.clear()
        self.unconfirmed = None
