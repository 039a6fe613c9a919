"""What the modelled Redis knows of leases (L1): who may load which key, and until when."""

from __future__ import annotations

from typing import Final, NamedTuple

from coherenced.core.calls import Claim, Claims
from coherenced.core.model import Fetched, Mutation, Op, ReplyError
from tests.sim.redis_labels import Labels

LOST: Final = ReplyError("LOST the lease is over, or its key or tag was changed meanwhile")


class Held(NamedTuple):
    """One line: a lease, or (without a token) the knowledge that there is no such thing."""

    ends_ms: int
    given_seq: int
    was_there: bool
    token: bytes | None


class Leases:
    def __init__(self) -> None:
        self.of: dict[bytes, Held] = {}

    def copy(self) -> Leases:
        other = Leases()
        other.of = dict(self.of)
        return other

    def live(self, now_ms: int, labels: Labels, key: bytes) -> Held | None:
        """The line of `key`, unless it is over or a prefix or everything has covered it."""
        held = self.of.get(key)
        if held is None or held.ends_ms <= now_ms or labels.covered_at(key, ()) > held.given_seq:
            return None
        return held

    def claim(
        self, now_ms: int, labels: Labels, call: Claim, found: Fetched, seq: int
    ) -> tuple[int, int]:
        """-> what became of the claim, and the ms left."""
        missing = found.value is None and found.error is None
        if not missing and not 0 <= found.ttl_ms <= call.refresh_ms:
            return Claims.NOTHING, 0
        held = self.live(now_ms, labels, call.key)
        known_absent = held is not None and held.token is None
        if held is not None and held.token != call.token and not (known_absent and not missing):
            state = Claims.NOTHING if known_absent else Claims.HELD
            return state, held.ends_ms - now_ms
        self.of[call.key] = Held(now_ms + call.lease_ms, seq, not missing, call.token)
        return Claims.GRANTED, call.lease_ms

    def refusal(
        self, now_ms: int, labels: Labels, mutation: Mutation, *, exists: bool
    ) -> ReplyError | int | None:
        """What a mutation under a lease is told before it is executed: an error, or (a release)
        its reply."""
        key = mutation.keys[0]
        held = self.live(now_ms, labels, key)
        fine = held is not None and held.token == mutation.lease
        if held is not None and labels.covered_at(key, mutation.label or ()) > held.given_seq:
            fine = False
        if mutation.op == Op.RELEASE:
            return int(fine)
        if not fine or (held is not None and not held.was_there and exists):
            return LOST
        return None

    def any_of(self, keys: tuple[bytes, ...], now_ms: int) -> bool:
        """Whether somebody is loading one of these, or knows that it is not there."""
        return any(key in self.of and self.of[key].ends_ms > now_ms for key in keys)

    def recorded(self, now_ms: int, mutation: Mutation, seq: int) -> None:
        """Whatever changes a key ends its lease; two phases do so in the second."""
        if mutation.op in (Op.PREPARE, Op.ABORT):
            return
        for key in mutation.keys:
            self.of.pop(key, None)
        if mutation.op == Op.RELEASE and mutation.token_ttl_ms:
            ends_ms = now_ms + mutation.token_ttl_ms
            self.of[mutation.keys[0]] = Held(ends_ms, seq, False, None)
