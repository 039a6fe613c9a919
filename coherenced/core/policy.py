"""What applies to a key: its namespace's bounds and levels, resolved once per key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from coherenced.core.globs import compiled
from coherenced.core.life import life_of
from coherenced.core.model import Declared
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
    """Key -> Policy. The first namespace in order whose pattern matches the key applies; and a key
    that any live node declares linearizable is so here, too (K6), whatever is configured here."""

    __slots__ = (
        "_learned",
        "_linear",
        "_rules",
        "declares",
        "default",
        "largest_bound_ms",
        "learned",
        "uniform",
    )

    default: Policy
    largest_bound_ms: float
    """The largest B this node ever serves with: what the roster publishes (K2)."""

    uniform: bool
    """Whether the default applies to every key."""

    declares: Declared
    """K6: what this node tells the lane; () when none of its namespaces is linearizable."""

    learned: frozenset[Declared]
    """K6: what other nodes have told the lane, where it differs from that."""

    def __init__(self, default: Policy, rules: Sequence[tuple[str, Policy]] = ()) -> None:
        self.learned = frozenset()
        self._learned: list[list[tuple[re.Pattern[bytes], bool]]] = []
        self.replace(default, rules)

    def for_key(self, key: bytes) -> Policy:
        found = self.default
        for pattern, policy in self._rules:
            if pattern.match(key) is not None:
                found = policy
                break
        if self._learned and not found.linearizable and self._is_learned(key):
            return self._as_linear(found)
        return found

    def _is_learned(self, key: bytes) -> bool:
        for rules in self._learned:
            for pattern, linearizable in rules:
                if pattern.match(key) is not None:
                    if linearizable:
                        return True
                    break
        return False

    def _as_linear(self, policy: Policy) -> Policy:
        made = self._linear.get(policy)
        if made is None:
            made = self._linear[policy] = msgspec.structs.replace(policy, linearizable=True)
        return made

    def replace(self, default: Policy, rules: Sequence[tuple[str, Policy]]) -> None:
        """New rules from now on. The caller drops the entries that were stored under the old."""
        self.default = default
        self._rules = [(compiled(_raw(pattern)), policy) for pattern, policy in rules]
        self._linear: dict[Policy, Policy] = {}
        told = [(_raw(pattern), policy.linearizable) for pattern, policy in rules]
        told.append((b"*", default.linearizable))
        while told and not told[-1][1]:
            told.pop()  # what follows the last linearizable one says nothing
        self.declares = tuple(told)
        self.uniform = not self._rules and not self._learned
        self.largest_bound_ms = max(policy.max_staleness_ms for policy in self.all())

    def learn(self, learned: Iterable[Declared]) -> None:
        """K6: what the other nodes declare, from now on."""
        self.learned = frozenset(learned)
        self._learned = [[(compiled(p), linear) for p, linear in one] for one in self.learned]
        self.uniform = not self._rules and not self._learned

    @property
    def any_linearizable(self) -> bool:
        return bool(self.declares or self._learned)

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


def _raw(pattern: str) -> bytes:
    return pattern.encode("utf-8", "surrogateescape")
