"""What Redis has just told of a key becomes an answer, and if the fence allows an entry of L1.

`keep` is the only place where something fetched gets into L1 (F1 its deadline, F2 the fence);
`shown` is its other half: whatever Redis has told somebody, nothing older is shown afterwards.
`told` makes an answer of what has just been fetched, `value_of` of what is held already.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import repeat

from coherenced.core.bulk import NIL_BULK, bulk_of, bulks_of
from coherenced.core.entry import Entry
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane, Verdict
from coherenced.core.laws import Laws
from coherenced.core.life import age_ms
from coherenced.core.model import FOREVER, Fetched, Lineage, PlainValues, Version, version_of
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

    def keep(
        self,
        tickets: Sequence[Ticket],
        found: Sequence[Fetched],
        lineage: Lineage,
        sent_ms: float,
        absent_ms: float | None = None,
    ) -> list[Entry]:
        """What Redis has just told of the keys of these tickets, which end by it; in L1 if the
        fence allows (F2).

        `absent_ms`: for so long a loader has found that there is no such thing (L1).
        """
        self.fetched += len(tickets)
        lane, now_ms, seq = self.lane, self._box.now_ms, lineage.seq
        put = self._l1.put
        allowed = self._tickets.redeem_all(tickets, lineage, [got.labels for got in found])
        is_current = seq == lane.applied and lineage.tag == lane.tag
        policy, is_uniform = self.namespaces.default, self.namespaces.uniform
        bound_ms, until_ms = policy.hit_bound_ms, sent_ms + policy.max_age_ms
        entries = []
        for ticket, got, is_allowed in zip(tickets, found, allowed, strict=True):
            key, value, labels = ticket.key, got.value, got.labels
            if not is_uniform:
                policy = self.namespaces.for_key(key)
                bound_ms, until_ms = policy.hit_bound_ms, sent_ms + policy.max_age_ms
            deadline_ms, expires_ms = until_ms, FOREVER  # as `_times` says of most values
            if got.ttl_ms >= 0 or value is None:
                deadline_ms, expires_ms = self._times(got, policy, sent_ms, absent_ms)
            bulk = bulk_of(value)
            entry = Entry(key, bulk, lane, seq, deadline_ms, bound_ms, labels, expires_ms)
            entries.append(entry)
            stored = (
                is_allowed
                and got.error is None
                and not (got.pending and self._laws.pending_not_cached)
                and deadline_ms > now_ms
                and put(entry)
            )
            if stored:
                self.stored += 1
                if seq > lane.proved_seq:
                    lane.lend(entry, sent_ms)
            if not (stored and is_current):
                self.shown((key,), lineage, stored=stored)
            if value is None:
                self.negative += 1
        return entries

    def keep_all(
        self, keys: Sequence[bytes], found: PlainValues, lineage: Lineage, sent_ms: float
    ) -> Sequence[bytes]:
        """`keep` for what the fence allows and nothing else is to be said of, read as of a place
        that this lane's chain came through: what each is answered with (`bulk_of`)."""
        lane, now_ms, seq = self.lane, self._box.now_ms, lineage.seq
        values, ttls_ms = found.values, found.ttls_ms
        policy, is_uniform = self.namespaces.default, self.namespaces.uniform
        bound_ms, until_ms = policy.hit_bound_ms, sent_ms + policy.max_age_ms
        bulks = bulks_of(values)
        absent = bulks.count(NIL_BULK)
        self.fetched += len(keys)
        self.negative += absent
        put_all, put = self._l1.put_all, self._l1.put
        if (
            (is_uniform and not absent and ttls_ms is None)
            and until_ms > now_ms
            and put_all(keys, bulks, lane, seq, until_ms, bound_ms)
        ):
            self.stored += len(keys)
            if seq > lane.proved_seq:
                for key in keys:
                    lane.lend(self._l1.entries[key], sent_ms)
            return bulks
        ttls = repeat(-1, len(keys)) if ttls_ms is None else ttls_ms
        for key, value, bulk, ttl_ms in zip(keys, values, bulks, ttls, strict=True):
            if not is_uniform:
                policy = self.namespaces.for_key(key)
                bound_ms, until_ms = policy.hit_bound_ms, sent_ms + policy.max_age_ms
            deadline_ms, expires_ms = until_ms, FOREVER
            if value is None or (ttl_ms >= 0 and policy.has_origin):
                got = Fetched(value, ttl_ms)
                deadline_ms, expires_ms = self._times(got, policy, sent_ms, None)
            elif ttl_ms >= 0:  # the same as `_times` says
                expires_ms = sent_ms + ttl_ms
                deadline_ms = expires_ms if expires_ms < until_ms else until_ms
            entry = Entry(key, bulk, lane, seq, deadline_ms, bound_ms, (), expires_ms)
            if deadline_ms > now_ms and put(entry):
                self.stored += 1
                if seq > lane.proved_seq:
                    lane.lend(entry, sent_ms)
            else:
                self.shown((key,), lineage)
        return bulks

    def told(
        self,
        entry: Entry,
        got: Fetched,
        lineage: Lineage,
        sent_ms: float,
        absent_ms: float | None = None,
    ) -> Value:
        """What `keep` has just made an entry of, as an answer."""
        key, labels, now_ms = entry.key, got.labels, self._box.now_ms
        # The entry's own deadline may be a nearer one, for the time being (`Lane.lend`).
        deadline_ms, _ = self._times(got, self.namespaces.for_key(key), sent_ms, absent_ms)
        left_ms, keep_ms = entry.left_ms(now_ms), 0.0
        # Seen from ahead of the position, it is news: the page is about to say so.
        if entry.as_of <= self.lane.applied and self._l1.held(key) is entry:
            keep_ms = self._keep_ms(entry)
        return Value(
            got.value,
            version_of((lineage.epoch, entry.as_of)),
            Source.L2,
            (age_ms(labels, left_ms) or 0.0) if labels else 0.0,
            ttl_ms=deadline_ms - now_ms,
            error=got.error,
            labels=labels,
            keep_ms=keep_ms,
            bound_ms=entry.bound_ms,
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

    def _times(
        self, got: Fetched, policy: Policy, sent_ms: float, absent_ms: float | None
    ) -> tuple[float, float]:
        """Until when L1 may answer from it (F1), and when Redis's own time to live ends; both
        counted from before the request was sent."""
        ttl_ms = absent_ms or -1 if got.value is None else got.ttl_ms
        expires_ms = FOREVER if ttl_ms < 0 else sent_ms + ttl_ms
        age_ms = policy.max_age_ms
        if self._laws.entry_deadline:
            if got.value is None:
                age_ms = min(policy.negative_max_age_ms, age_ms)
            elif ttl_ms >= 0:
                age_ms = min(policy.fresh_until(ttl_ms, got.labels), age_ms)
        return min(sent_ms + age_ms, expires_ms), expires_ms

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
