"""What applies to a key: its namespace's bounds and levels, resolved once per key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from coherenced.core.life import life_of
from coherenced.core.requests import Level

NEVER_BY_AGE: Final = -1.0
"""An entry with this bound is never a plain hit: B = 0 answers only after a probe (V4)."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one namespace (or the defaults). Times in milliseconds."""

    name: str = ""
    max_staleness_ms: float = 1000.0
    """B. 0 = linearizable: answered from L1 only after a probe sent after the read arrived."""
    ack: int = Level.REDIS
    ack_timeout_ms: float = 3000.0
    stale_if_error_ms: float = 0.0
    max_age_ms: float = 60_000.0
    """F1: an entry is refetched after this, whatever its TTL."""
    negative_max_age_ms: float = 5_000.0
    """F4: the same for "not there"."""
    has_origin: bool = False
    """Its values come from an origin: only while they are fresh may L1 answer them by itself."""
    grace_ms: float = 0.0
    """The last so much of its time in Redis a value from an origin is stale, where it does not say
    so itself (`life`)."""
    early_ms: float = 0.0
    """L1 may not answer from an entry for so long before it is stale, or ends: it is to be looked
    at before."""
    linearizable: bool = False
    spool: bool = False

    @property
    def hit_bound_ms(self) -> float:
        return self.max_staleness_ms if self.max_staleness_ms > 0 else NEVER_BY_AGE

    def fresh_until(self, ttl_ms: float, labels: tuple[bytes, ...]) -> float:
        """How long L1 may answer, by itself, from what Redis keeps for `ttl_ms`."""
        if not self.has_origin:
            return ttl_ms
        life = life_of(labels)
        grace_ms = self.grace_ms if life is None else life.grace_ms
        return ttl_ms - grace_ms - self.early_ms

    def must_be_current(self, bound_ms: float | None) -> bool:
        """Whether a read that gives this bound (None: it gives none) asks for the latest value:
        nothing configured may answer it stale, only what the same call says."""
        return self.linearizable or bound_ms == 0


class Namespaces:
    """Key -> Policy. The first namespace in order whose pattern matches the key applies."""

    __slots__ = ("_rules", "default", "largest_bound_ms", "uniform")

    default: Policy
    largest_bound_ms: float
    """The largest B this node ever serves with: what the roster publishes (K2)."""

    uniform: bool
    """Whether the default applies to every key."""

    def __init__(self, default: Policy, rules: Sequence[tuple[str, Policy]] = ()) -> None:
        self.replace(default, rules)

    def for_key(self, key: bytes) -> Policy:
        for pattern, policy in self._rules:
            if pattern.match(key) is not None:
                return policy
        return self.default

    def replace(self, default: Policy, rules: Sequence[tuple[str, Policy]]) -> None:
        """New rules from now on. The caller drops the entries that were stored under the old."""
        self.default = default
        self._rules = [(_compile(pattern), policy) for pattern, policy in rules]
        self.uniform = not self._rules
        self.largest_bound_ms = max(policy.max_staleness_ms for policy in self.all())

    def all(self) -> list[Policy]:
        return [self.default, *(policy for _, policy in self._rules)]

    @property
    def smallest_bound_ms(self) -> float:
        """The smallest B above zero; infinity when every B is zero."""
        return min(
            (p.max_staleness_ms for p in self.all() if p.max_staleness_ms > 0),
            default=float("inf"),
        )

    @property
    def longest_stale_ms(self) -> float:
        return max(policy.stale_if_error_ms for policy in self.all())


def _compile(pattern: str) -> re.Pattern[bytes]:
    """Redis's glob, on bytes: `*`, `?`, `[abc]`, `[^abc]`, `[a-z]`, and `\\` before a character."""
    raw = pattern.encode("utf-8", "surrogateescape")
    out = bytearray()
    at = 0
    while at < len(raw):
        c = raw[at]
        at += 1
        if c == ord("*"):
            out += b".*"
        elif c == ord("?"):
            out += b"."
        elif c == ord("["):
            chosen, at = _class(raw, at)
            out += chosen
        else:
            if c == ord("\\") and at < len(raw):
                c = raw[at]
                at += 1
            out += re.escape(bytes((c,)))
    return re.compile(bytes(out) + rb"\Z", re.DOTALL)


def _class(raw: bytes, at: int) -> tuple[bytes, int]:
    """The class that begins after `[`: what it matches as an expression, and where it ends."""
    negated = raw[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(raw) and raw[at] != ord("]"):
        if raw[at] == ord("\\") and at + 1 < len(raw):
            at += 1
        low = raw[at]
        if raw[at + 1 : at + 2] == b"-" and at + 2 < len(raw):
            high = raw[at + 2]
            members.update(range(min(low, high), max(low, high) + 1))
            at += 3
        else:
            members.add(low)
            at += 1
    if negated:
        members = set(range(256)) - members
    if not members:
        return b"(?!)", at + 1
    return b"[" + b"".join(re.escape(bytes((m,))) for m in sorted(members)) + b"]", at + 1
