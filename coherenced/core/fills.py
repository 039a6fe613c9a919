"""What Redis has just told of a key becomes an answer, and if the fence allows an entry of L1.

`store` is the only place where something fetched gets into L1 (F1 its deadline, F2 the fence);
`shown` is its other half: whatever Redis has told somebody, nothing older is shown afterwards.
`value_of` makes an answer of what is held already.
"""

from __future__ import annotations

from collections.abc import Collection

from coherenced.core.entry import Entry, bulk_of
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane, Verdict
from coherenced.core.laws import Laws
from coherenced.core.life import age_ms
from coherenced.core.model import FOREVER, Fetched, Lineage, Version, version_of
from coherenced.core.outbox import Outbox
from coherenced.core.page import Page
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.requests import Source, Value
from coherenced.core.tickets import Ticket, Tickets


class Fills:
    """How values get into one lane's part of L1, and out of it as answers."""

    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        laws: Laws,
        l1: L1,
        tickets: Tickets,
        namespaces: Namespaces,
        page: Page,
    ) -> None:
        self.lane = lane
        self.namespaces = namespaces
        self.fetched = self.negative = self.stored = 0
        self._box = box
        self._laws = laws
        self._l1 = l1
        self._tickets = tickets
        self._page = page

    def store(
        self,
        key: bytes,
        got: Fetched,
        lineage: Lineage,
        ticket: Ticket,
        sent_ms: float,
        absent_ms: float | None = None,
    ) -> Value:
        """What Redis has just told of `key`, as an answer; kept in L1 if the fence allows (F2).

        `absent_ms`: for so long a loader has found that there is no such thing (L1).
        """
        self.fetched += 1
        policy, lane, now_ms = self.namespaces.for_key(key), self.lane, self._box.now_ms
        value, bound_ms = got.value, policy.hit_bound_ms
        if value is not None and got.ttl_ms < 0:
            deadline_ms, expires_ms = sent_ms + policy.max_age_ms, FOREVER
        else:
            deadline_ms = self._deadline(got, policy, sent_ms)
            ttl_ms = got.ttl_ms if value is not None else absent_ms or -1
            expires_ms = FOREVER if ttl_ms < 0 else sent_ms + ttl_ms
            if expires_ms < deadline_ms:
                deadline_ms = expires_ms
        seq = lineage.seq
        stored = False
        keep_ms = 0.0
        if got.error is None and not (got.pending and self._laws.pending_not_cached):
            may = self._tickets.may_store(ticket, lineage, got.labels)
            if may and deadline_ms > now_ms:
                entry = Entry(
                    key, bulk_of(value), lane, seq, deadline_ms, bound_ms, got.labels, expires_ms
                )
                stored = self._l1.put(entry)
                self.stored += stored
                if seq > lane.proved_seq:
                    lane.lend(entry, sent_ms)
                # Seen from ahead of the position, it is news: the page is about to say so.
                if stored and seq <= lane.applied and bound_ms > 0:
                    keep_ms = entry.deadline_ms - now_ms
        if not stored or seq != lane.applied or lineage.tag != lane.tag:
            self.shown((key,), lineage, stored=stored)
        if value is None:
            self.negative += 1
        left_ms = None if expires_ms == FOREVER else max(0.0, expires_ms - now_ms)
        return Value(
            value,
            version_of((lineage.epoch, seq)),
            Source.L2,
            (age_ms(got.labels, left_ms) or 0.0) if got.labels else 0.0,
            ttl_ms=deadline_ms - now_ms,
            error=got.error,
            labels=got.labels,
            keep_ms=keep_ms,
            bound_ms=bound_ms,
            expires_in_ms=left_ms,
        )

    def shown(self, keys: Collection[bytes], lineage: Lineage, *, stored: bool = False) -> None:
        """Redis has answered about these keys as of `lineage`: a client that has seen that must
        not be shown anything older afterwards, though the records have not arrived yet.

        What is held stays only if it is newer, and surely of the same history; or if it is this
        very answer, just `stored`.
        """
        lane = self.lane
        if not self._laws.no_way_back:
            return
        verdict = lane.judge_lineage(lineage, self._laws)
        unsure = verdict is not Verdict.DUPLICATE
        if unsure or not stored:
            self._page.touch(keys)  # clients may hold what this node does not
        for key in keys:
            entry = None if stored else self._l1.entries.get(key)
            if entry is not None and (unsure or entry.as_of < lineage.seq):
                self._l1.remove(key)
            if verdict is Verdict.AHEAD:
                self._tickets.hit(key, lineage.seq)

    def _deadline(self, got: Fetched, policy: Policy, sent_ms: float) -> float:
        """F1: counted from before the request was sent."""
        if not self._laws.entry_deadline:
            return sent_ms + policy.max_age_ms
        if got.value is None:
            return sent_ms + min(policy.negative_max_age_ms, policy.max_age_ms)
        return sent_ms + min(policy.fresh_until(got.ttl_ms, got.labels), policy.max_age_ms)

    def value_of(self, entry: Entry, *, stale: bool = False) -> Value:
        lane, now_ms = self.lane, self._box.now_ms
        proved_ms = max(0.0, now_ms - lane.verified_at_ms)
        known_ms = entry.known_age_ms(now_ms)
        return Value(
            entry.value,
            Version(lane.epoch or b"", entry.as_of),
            Source.L1,
            proved_ms if known_ms is None else known_ms,
            stale=stale,
            ttl_ms=entry.deadline_ms - now_ms,
            labels=entry.tags,
            keep_ms=0.0 if stale else self._keep_ms(entry),
            bound_ms=entry.bound_ms,
            expires_in_ms=entry.left_ms(now_ms),
            proved_ms=proved_ms,
        )

    def _keep_ms(self, entry: Entry) -> float:
        """P2: what L1 may serve without asking, a client on this host may keep as long."""
        return entry.deadline_ms - self._box.now_ms if entry.bound_ms > 0 else 0.0
