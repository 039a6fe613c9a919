"""What applies to a key: its namespace's bounds and levels, resolved once per key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

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
    linearizable: bool = False
    spool: bool = False

    @property
    def hit_bound_ms(self) -> float:
        return self.max_staleness_ms if self.max_staleness_ms > 0 else NEVER_BY_AGE


class Namespaces:
    """Key -> Policy. The first namespace in order whose pattern matches the key applies."""

    __slots__ = ("_rules", "default")

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

    def all(self) -> list[Policy]:
        return [self.default, *(policy for _, policy in self._rules)]

    @property
    def largest_bound_ms(self) -> float:
        """The largest B this node ever serves with: what the roster publishes (K2)."""
        return max(policy.max_staleness_ms for policy in self.all())

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
    """`*` any bytes, `?` one byte, `[abc]` one of: Redis's glob, on bytes."""
    out = bytearray()
    raw = pattern.encode("utf-8", "surrogateescape")
    i = 0
    while i < len(raw):
        c = raw[i : i + 1]
        if c == b"*":
            out += b".*"
        elif c == b"?":
            out += b"."
        elif c == b"[" and (end := raw.find(b"]", i + 2)) > 0:
            body = raw[i + 1 : end]
            negated = body.startswith(b"^")
            inner = body[1:] if negated else body
            escaped = inner.replace(b"\\", b"\\\\").replace(b"[", b"\\[").replace(b"^", b"\\^")
            out += (b"[^" if negated else b"[") + escaped + b"]"
            i = end
        else:
            out += re.escape(c)
        i += 1
    return re.compile(bytes(out) + rb"\Z", re.DOTALL)
