"""What a node holds of what it writes: the values of a committed batch are kept as entries of L1
(A6), and what a write is to end is forgotten before it is known to be committed."""

from __future__ import annotations

from coherenced.core.batches import Batch, is_wide
from coherenced.core.bulk import bulk_of
from coherenced.core.calls import Mutated
from coherenced.core.entry import Entry
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from coherenced.core.life import LONGEST_MS
from coherenced.core.model import FOREVER, Mutation, Op, ReplyError, lineage_of
from coherenced.core.outbox import Outbox
from coherenced.core.page import Page
from coherenced.core.policy import Namespaces
from coherenced.core.tickets import Tickets


class Keeping:
    """One lane's part of L1, and the fills that are on their way to it."""

    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        l1: L1,
        tickets: Tickets,
        namespaces: Namespaces,
        page: Page,
    ) -> None:
        self.namespaces = namespaces
        self._lane = lane
        self._box = box
        self._l1 = l1
        self._tickets = tickets
        self._page = page

    def keep(self, batch: Batch, answer: Mutated) -> list[Entry]:
        """What is stored of a batch, unless something newer came in between (F2); its tickets
        end. The entries are in the order of their records; one may be there twice."""
        return (self._sets if batch.are_sets else self._values)(batch, answer)

    def _sets(self, batch: Batch, answer: Mutated) -> list[Entry]:
        """`_values` for what most batches are."""
        kept: list[Entry] = []
        lane, namespaces = self._lane, self.namespaces
        renew, put = self._l1.renew, self._l1.put
        now_ms, sent_ms, policy = self._box.now_ms, batch.sent_ms, namespaces.default
        deadline_ms, bound_ms = sent_ms + policy.max_age_ms, policy.hit_bound_ms
        keys = (pending.key for pending in batch.pending)
        allowed = self._tickets.redeem_own(batch.sheaf, answer.lineage.epoch, keys, answer.done)
        for pending, done, may in zip(batch.pending, answer.done, allowed, strict=True):
            given = pending.given
            if not may or given is None:
                continue
            key = given.key
            if not namespaces.uniform:
                policy = namespaces.for_key(key)
                deadline_ms, bound_ms = sent_ms + policy.max_age_ms, policy.hit_bound_ms
            if deadline_ms <= now_ms:
                continue
            bulk, seq = given.bulk, done.seq
            entry = renew(key, bulk, lane, seq, deadline_ms, bound_ms)
            if entry is None:
                entry = Entry(key, bulk, lane, seq, deadline_ms, bound_ms)
                if not put(entry):
                    continue
            kept.append(entry)
        return kept

    def _values(self, batch: Batch, answer: Mutated) -> list[Entry]:
        kept: list[Entry] = []
        redeem, put, lane = self._tickets.redeem, self._l1.put, self._lane
        now_ms, sent_ms, epoch = self._box.now_ms, batch.sent_ms, answer.lineage.epoch
        for index, ticket in batch.tickets.items():
            mutation, done = batch.mutations[index], answer.done[index]
            seq, value, label = done.seq, mutation.keeps, mutation.label
            if seq == 0 or value is None or done.reply.__class__ is ReplyError:
                self._tickets.close(ticket)
                continue
            labels = label or ()
            if not redeem(ticket, lineage_of((epoch, seq, done.tag)), labels):
                continue
            key = mutation.keys[0]
            ttl_ms = FOREVER if mutation.keeps_ttl_ms is None else mutation.keeps_ttl_ms
            policy = self.namespaces.for_key(key)
            fresh_ms = policy.max_age_ms
            if label is not None and ttl_ms > LONGEST_MS:
                ttl_ms = LONGEST_MS
            if ttl_ms != FOREVER:
                fresh_ms = min(policy.fresh_until(ttl_ms, labels), fresh_ms)
            if sent_ms + fresh_ms > now_ms:
                deadline_ms, expires_ms = sent_ms + fresh_ms, sent_ms + ttl_ms
                bound_ms = policy.hit_bound_ms
                entry = Entry(
                    key, bulk_of(value), lane, seq, deadline_ms, bound_ms, labels, expires_ms
                )
                if put(entry):
                    kept.append(entry)
        return kept

    def close(self, batch: Batch) -> None:
        """Nothing of it is kept: its tickets end."""
        sheaf = batch.sheaf
        self._tickets.close(*map(sheaf.apart, sheaf.keys), *batch.tickets.values())
        sheaf.keys.clear()
        batch.tickets.clear()

    # -- W5 -----------------------------------------------------------------------------

    def forget_keys(self, keys: tuple[bytes, ...]) -> None:
        self._page.touch(keys)
        for key in keys:
            self._l1.remove(key)
            self._tickets.void(key)

    def forget(self, mutation: Mutation) -> None:
        """W5 without a sequence: what is held or on its way is not to be used any more."""
        self.forget_keys(mutation.keys)
        seq = self._lane.reliance + 1  # newer than all that is held
        for prefix in mutation.prefixes:
            self._l1.end_prefix(prefix, seq)
        if mutation.tags:
            self._page.touch_tags(mutation.tags)
            self._l1.end_tagged(seq)
        if mutation.prefixes or mutation.everything or mutation.op == Op.FLUSH:
            self._page.drop()
        if mutation.everything or mutation.op == Op.FLUSH:
            self._l1.drop_all()
        if is_wide(mutation):
            self._tickets.void_all()
