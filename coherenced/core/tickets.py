"""The fence between fetching a value and storing it (F2).

A reply and the invalidations travel on different connections, so a value can
arrive after the news that it is old. Whoever is about to store something holds
a *ticket* from before the request is sent; every record that covers the key
leaves its sequence on the ticket; and a value read at `as_of` is stored only
if nothing newer than `as_of` was left there. (Nishtala et al., "Scaling
Memcache at Facebook", NSDI 2013, solve the same race with leases.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import repeat

import msgspec

from coherenced.core.lane import Lane, Verdict
from coherenced.core.laws import Laws
from coherenced.core.model import Done, Lineage, lineage_of


class Ticket(msgspec.Struct, gc=False, eq=False):
    key: bytes
    generation: int = -1
    """Until it is opened: one that never was."""
    asked_applied: int = 0
    """F2: what this node had applied when it asked; a value older than that is not stored."""
    hit_seq: int = 0
    """F2: the newest record that covered the key since the ticket was opened."""
    void: bool = False
    """A write of this node to the key is accepted or lost: whatever comes is not stored."""
    also: Ticket | None = None
    """Another one of the key, which was opened before."""


class Sheaf(msgspec.Struct, gc=False, eq=False):
    """The tickets of many keys, opened together: one, for as long as nothing happens to any."""

    keys: list[bytes]
    generation: int = -1
    asked_applied: int = 0

    def apart(self, key: bytes) -> Ticket:
        """The ticket of one of the keys, which has a fate of its own from now on."""
        raise NotImplementedError


class KeySheaf(Sheaf, gc=False, eq=False):
    """One of which nothing is to be known but its keys, each named once."""

    told: dict[bytes, Ticket] = msgspec.field(default_factory=dict)

    def apart(self, key: bytes) -> Ticket:
        ticket = self.told.get(key)
        if ticket is None:
            ticket = self.told[key] = Ticket(key, self.generation, self.asked_applied)
        return ticket


class Tickets:
    """The open tickets of one lane. As many as there are fills and writes in flight."""

    __slots__ = ("_lane", "_laws", "by_key", "refused")

    def __init__(self, lane: Lane, laws: Laws) -> None:
        self._lane = lane
        self._laws = laws
        self.by_key: dict[bytes, Ticket | Sheaf] = {}
        """The one of each key that was opened last."""
        self.refused = 0

    def __len__(self) -> int:
        return sum(
            1 if isinstance(found, Sheaf) else sum(1 for _ in self._of(key))
            for key, found in self.by_key.items()
        )

    def _of(self, key: bytes) -> Iterator[Ticket]:
        ticket = self._newest(key)
        while ticket is not None:
            yield ticket
            ticket = ticket.also

    def _newest(self, key: bytes) -> Ticket | None:
        found = self.by_key.get(key)
        return found.apart(key) if isinstance(found, Sheaf) else found

    def open(self, key: bytes) -> Ticket:
        ticket = Ticket(key)
        self.admit(ticket)
        return ticket

    def admit(self, *tickets: Ticket) -> None:
        """Open these, whatever has become of them before."""
        lane, by_key = self._lane, self.by_key
        generation, reliance = lane.generation, lane.reliance
        for ticket in tickets:
            ticket.generation = generation
            ticket.asked_applied = reliance
            ticket.hit_seq = 0
            ticket.void = False
            key = ticket.key
            if key in by_key:
                ticket.also = self._newest(key)
            by_key[key] = ticket

    def admit_all(self, sheaf: Sheaf) -> None:
        """`admit` the tickets of its keys, none of which has been told apart."""
        lane, by_key, keys = self._lane, self.by_key, sheaf.keys
        sheaf.generation, sheaf.asked_applied = lane.generation, lane.reliance
        if by_key.keys().isdisjoint(keys):
            by_key.update(dict.fromkeys(keys, sheaf))
            return
        for key in keys:
            if key in by_key:
                self.admit(sheaf.apart(key))
            else:
                by_key[key] = sheaf

    def close(self, *tickets: Ticket) -> None:
        by_key = self.by_key
        for ticket in tickets:
            key = ticket.key
            if by_key.get(key) is not ticket:
                self._close_older(ticket)
            elif ticket.also is None:
                del by_key[key]
            else:
                by_key[key], ticket.also = ticket.also, None

    def _close_older(self, ticket: Ticket) -> None:
        key = ticket.key
        for newer in self._of(key):
            if newer.also is ticket:
                newer.also, ticket.also = ticket.also, None
                return
            if newer is ticket:  # of a sheaf, which stands for it
                del self.by_key[key]
                return

    def redeem(self, ticket: Ticket, as_of: Lineage, tags: Collection[bytes]) -> bool:
        """`close` it, and tell whether what it was opened for `may_store`."""
        self.close(ticket)
        return self.may_store(ticket, as_of, tags)

    def redeem_all(
        self, tickets: Sequence[Ticket], as_of: Lineage, tags: Iterable[Collection[bytes]]
    ) -> list[bool]:
        """`redeem` each of them, with its value's tags, as of one place."""
        self.close(*tickets)
        lane, (epoch, seq, tag) = self._lane, as_of
        generation, verdicts = lane.generation, []
        is_known = epoch == lane.epoch and seq <= lane.applied and lane.recent.get(seq) == tag
        for ticket, labels in zip(tickets, tags, strict=True):
            if (
                is_known
                and ticket.asked_applied <= seq
                and ticket.generation == generation
                and ticket.hit_seq <= seq
                and not (ticket.void or labels)
            ):
                verdicts.append(True)  # the usual case, as in `may_store`
            else:
                verdicts.append(self.may_store(ticket, as_of, labels))
        return verdicts

    def redeem_own(
        self, sheaf: KeySheaf, epoch: bytes, keys: Iterable[bytes], done: Sequence[Done]
    ) -> Iterable[bool]:
        """`redeem` its tickets, with values that this node has written itself and no tags: which of
        them may be stored. Of each its key, and what became of it; what has no record is not."""
        lane, by_key = self._lane, self.by_key
        first, last = done[0], done[-1]
        if (
            not sheaf.told
            and epoch == lane.epoch
            and sheaf.generation == lane.generation
            and sheaf.asked_applied <= first.seq
            and 0 < first.seq == last.seq - len(done) + 1
            and lane.recent.get(last.seq) == last.tag
        ):
            # The usual case, as in `may_store`: the chain came through the last of them, so through
            # all.
            for key in sheaf.keys:
                del by_key[key]
            return repeat(True, len(done))
        tickets = [sheaf.apart(key) for key in keys]
        self.close(*sheaf.told.values())
        return [
            one.seq > 0 and self.may_store(ticket, lineage_of((epoch, one.seq, one.tag)), ())
            for ticket, one in zip(tickets, done, strict=True)
        ]

    def redeem_sheaf(self, sheaf: Sheaf, as_of: Lineage) -> bool:
        """`redeem` all of its tickets, for values without tags, none of which has been told apart:
        True if each may be stored. False: it is to be said of one after the other, and nothing is
        closed."""
        lane, (epoch, seq, tag) = self._lane, as_of
        if not (
            epoch == lane.epoch
            and sheaf.asked_applied <= seq <= lane.applied
            and sheaf.generation == lane.generation
            and lane.recent.get(seq) == tag
        ):
            return False  # not the usual case, as in `may_store`
        by_key = self.by_key
        for key in sheaf.keys:
            del by_key[key]
        return True

    def hit(self, key: bytes, seq: int) -> None:
        """A4: a record covers `key`."""
        for ticket in self._of(key):
            if seq > ticket.hit_seq:
                ticket.hit_seq = seq

    def hit_prefix(self, prefix: bytes, seq: int) -> None:
        for key in self.by_key:
            if key.startswith(prefix):
                self.hit(key, seq)

    def hit_all(self, seq: int) -> None:
        for key in self.by_key:
            self.hit(key, seq)

    def void(self, key: bytes) -> None:
        for ticket in self._of(key):
            ticket.void = True

    def void_all(self) -> None:
        for key in self.by_key:
            self.void(key)

    def may_store(self, ticket: Ticket, as_of: Lineage, tags: Collection[bytes]) -> bool:
        """F2, all of it but the pending mark. A refusal is counted."""
        lane, (epoch, seq, tag) = self._lane, as_of
        if (
            epoch == lane.epoch
            and ticket.asked_applied <= seq <= lane.applied
            and ticket.generation == lane.generation
            and ticket.hit_seq <= seq
            and lane.recent.get(seq) == tag
            and not (ticket.void or tags)
        ):
            return True  # the usual case, which no law refuses
        allowed = self._judge(ticket, as_of, tags)
        if not allowed:
            self.refused += 1
        return allowed

    def _judge(self, ticket: Ticket, as_of: Lineage, tags: Collection[bytes]) -> bool:
        lane, laws = self._lane, self._laws
        if lane.epoch is None:
            return False
        if laws.fill_not_backwards:
            if ticket.generation != lane.generation or as_of.epoch != lane.epoch:
                return False
            if as_of.seq < ticket.asked_applied:
                return False
            if lane.judge_lineage(as_of, laws) not in (Verdict.DUPLICATE, Verdict.AHEAD):
                return False
        if laws.fill_fence and (ticket.void or ticket.hit_seq > as_of.seq):
            return False
        if laws.tags_cover and any(lane.tag_seq.get(t, 0) > as_of.seq for t in tags):
            return False
        return not laws.reliance_checked or lane.rely(as_of.seq, as_of.tag)
