"""How long a loaded value is fresh, and what may be done with it after that.

A value is stored for `ttl` plus a grace, the longer of `stale_while_revalidate` and
`stale_if_error`; so what is left of its time in Redis tells every process of every
language the same, and no two hosts' clocks are compared:

    |<------------- ttl ------------->|<-- swr -->|                     |
    |             fresh               |   stale   |  only if the loader  |
    |                    (early |ref.)|           |        fails         |
    |------------------- time to live in Redis --------------------------|

All callers of a key should therefore give the same figures; `@cached` and a client's
`load_policy` see to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from math import log
from typing import Any, Final, NamedTuple, TypedDict

from coherenced.client.arguments import Key, number
from coherenced.errors import UsageError

LONGEST_S = 86_400.0 * 365


class LoadPolicy(NamedTuple):
    """How `get_or_load` treats a key; times in seconds. A client has one, a call may differ."""

    ttl: float = 60.0
    """Fresh for so long after it was loaded."""
    stale_while_revalidate: float = 0.0
    """For so long after that it is answered stale, at once, while one process loads it anew."""
    stale_if_error: float = 0.0
    """For so long after `ttl` it is answered stale when the loader fails."""
    negative_ttl: float | None = None
    """None and `KeyError` from the loader are cached, as None, for so long. None: None is a
    value like another, and `KeyError` an error like another."""
    jitter: float = 0.0
    """Each `ttl` is shortened by up to this share of it, so that what was loaded together does
    not expire together."""
    early_refresh: float = 0.0
    """XFetch's beta: above 0 a fresh value is loaded anew, behind, with a probability that
    rises towards the end of its `ttl` and with how long a load takes. 1 is usual."""
    lease: float = 10.0
    """A load that takes longer is given up for dead: another process may try, and what it
    brings is not stored."""
    wait: float = 20.0
    """How long to wait for another's load before calling the loader without a lease."""
    retry_after: float = 1.0
    """After the loader failed it is left alone for so long where a stale value can be served."""
    soft_timeout: float | None = None
    """The loader takes longer: whoever may be given a stale value (`stale_if_error`) is, and the
    load goes on behind; its late result is stored. None: they wait."""
    hard_timeout: float | None = None
    """The loader takes longer: it is given up, with `LoadTimeout`, and a late result is not looked
    at. A coroutine is cancelled. A blocking loader cannot be: it runs in a thread of its own (of a
    bounded number), which goes on to its end. None: a loader may take its time."""

    @property
    def grace(self) -> float:
        """How much longer than `ttl` it stays in Redis."""
        return max(self.stale_while_revalidate, self.stale_if_error)

    @property
    def is_plain(self) -> bool:
        """Whatever is there is fresh, and nothing is to be done about it."""
        return not (self.stale_while_revalidate or self.stale_if_error or self.early_refresh)

    def checked(self) -> LoadPolicy:
        """Itself. Raises `UsageError` for what cannot be."""
        for what, value in zip(self._fields, self, strict=True):
            if value is not None or what not in _OPTIONAL:
                number(what, value)
        for what in ("ttl", "lease", "wait"):
            if not 0 < getattr(self, what) <= LONGEST_S:
                raise UsageError(f"{what} is a number of seconds above 0, at most a year")
        for what in ("stale_while_revalidate", "stale_if_error", "retry_after", "early_refresh"):
            if not 0 <= getattr(self, what) <= LONGEST_S:
                raise UsageError(f"{what} is 0 or more, at most a year of seconds")
        if self.negative_ttl is not None and not 0 <= self.negative_ttl <= LONGEST_S:
            raise UsageError("negative_ttl is a number of seconds (0: not cached), or None")
        for what in ("soft_timeout", "hard_timeout"):
            limit_s = getattr(self, what)
            if limit_s is not None and not 0 < limit_s <= LONGEST_S:
                raise UsageError(f"{what} is a number of seconds above 0, at most a year, or None")
        if self.hard_timeout is not None and self.hard_timeout > self.lease:
            raise UsageError("hard_timeout is at most lease: what comes after that is not stored")
        if not 0 <= self.jitter < 1:
            raise UsageError("jitter is a share of the ttl: 0 or more, and below 1")
        return self

    def but(self, options: LoadOptions) -> LoadPolicy:
        """With the options that are not None changed, checked."""
        given: dict[str, Any] = {n: value for n, value in options.items() if value is not None}
        if unknown := given.keys() - set(self._fields):
            known = ", ".join(self._fields)
            raise TypeError(f"no such option: {', '.join(sorted(unknown))} (there are: {known})")
        return self._replace(**given).checked() if given else self


_OPTIONAL: Final = ("negative_ttl", "soft_timeout", "hard_timeout")
USUAL: Final = LoadPolicy()


class LoadOptions(TypedDict, total=False):
    """The fields of `LoadPolicy` as the options of a call; None: as the client's policy says."""

    ttl: float | None
    stale_while_revalidate: float | None
    stale_if_error: float | None
    negative_ttl: float | None
    jitter: float | None
    early_refresh: float | None
    lease: float | None
    wait: float | None
    retry_after: float | None
    soft_timeout: float | None
    hard_timeout: float | None


class Loaded(NamedTuple):
    """What a loader may return instead of the bare value: the value and how to keep it."""

    value: Any
    ttl: float | None = None
    """Fresh for so many seconds instead of the call's `ttl`; 0: not cached at all."""
    tags: Iterable[Key] = ()
    """Beside those of the call."""


class Unkept(Exception):
    """Raised by a loader: there is a result, which must not be kept, nor given to anybody else.

    The caller gets this error; those who waited for the load get it too, and go their own way
    at the same time instead of one after the other. Nothing stale is served for it.
    """


MOST_LATE_S: Final = 0.25
"""How long an answer about a value may have been under way, for an early refresh to be granted."""


class State(Enum):
    """Of a value that is there."""

    FRESH = "fresh"
    EARLY = "early"
    """Fresh, but this call is to load it anew, behind."""
    STALE = "stale"
    """Within stale_while_revalidate."""
    LAST_RESORT = "last resort"
    """Within the grace: only if the loader fails, and only if stale_if_error allows it."""


def state_of(
    policy: LoadPolicy, left_s: float | None, load_s: float, random: Callable[[], float]
) -> State:
    """`left_s`: what is left of its time in Redis, None for ever. `load_s`: how long a load takes.

    Early: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede
    Prevention", VLDB 2015.
    """
    if left_s is None:
        return State.FRESH
    fresh_s = left_s - policy.grace
    if fresh_s > 0:
        if policy.early_refresh:
            gap_s = load_s * policy.early_refresh * -log(1.0 - random())
            if gap_s >= fresh_s:
                return State.EARLY
        return State.FRESH
    if fresh_s > -policy.stale_while_revalidate:
        return State.STALE
    return State.LAST_RESORT


def due_s(policy: LoadPolicy, left_s: float) -> float:
    """With how much left to live, as Redis counts it, the value is the one that was seen.

    What a reader knows of it, `left_s`, is less than what Redis knows, by as long as the answer
    took to arrive. One that another has stored meanwhile has about a whole `ttl` left, and is
    not to be loaded again.
    """
    if left_s <= policy.grace:
        return policy.grace
    anew_s = policy.ttl * (1 - policy.jitter) + policy.grace
    return left_s + max(0.0, min(MOST_LATE_S, (anew_s - left_s) / 2))
