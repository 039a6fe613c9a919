"""How old a value is: the mark beside it that says how long its whole life is. Pure.

A value that an origin or a loader gave is kept in Redis for a time. That time is written
beside it, and what is left of it Redis tells with every answer; the difference is the
value's age, on every node, by one clock (A7: no two hosts' clocks are compared):

    |<-- age at receipt -->|<----------------- kept in Redis ----------------->|
    |<-------------------------------- life ---------------------------------->|
    |<------------- age ------------>|<----------------- left ---------------->|
                                     |<------ fresh ------>|<----- grace ----->|

The mark is one of the value's labels, so it travels and ends with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

OWN: Final = b"coh:"
"""Labels that begin so are ours: nobody's tags do."""
LIFE: Final = OWN + b"life="
LONGEST_MS: Final = 30 * 86_400_000
"""A value with labels is kept no longer (the scripts see to it)."""


class Life(NamedTuple):
    """Times in milliseconds."""

    life_ms: float
    """How long it was to be kept, and how old it was by then."""
    grace_ms: float = 0.0
    """The last so much of it, it is stale."""


def life_label(kept_ms: float, *, age_ms: float = 0.0, grace_ms: float = 0.0) -> bytes:
    """The mark of a value that is stored now for `kept_ms`, at the age of `age_ms`."""
    # What is kept less long than was asked loses the end of its grace, and is fresh no shorter.
    cut_ms = max(0.0, kept_ms - LONGEST_MS)
    life_ms, grace_ms = int(kept_ms - cut_ms + age_ms), max(0.0, grace_ms - cut_ms)
    return b"%b%d/%d" % (LIFE, life_ms, grace_ms) if grace_ms else b"%b%d" % (LIFE, life_ms)


def with_life(
    labels: tuple[bytes, ...], ttl_ms: float | None, grace_ms: float = 0.0
) -> tuple[bytes, ...]:
    """`labels`, and the mark, of a value that is stored now with this time to live."""
    return labels if ttl_ms is None else (*labels, life_label(ttl_ms, grace_ms=grace_ms))


def life_of(labels: Sequence[bytes]) -> Life | None:
    """What the mark among these labels says; None: there is none."""
    for label in labels:
        if label.startswith(LIFE):
            return _parsed(label)
    return None


@lru_cache(maxsize=256)
def _parsed(label: bytes) -> Life | None:
    life, _, grace = label[len(LIFE) :].partition(b"/")
    if not life.isdigit() or not (grace or b"0").isdigit():
        return None
    return Life(float(life), float(grace or 0))


def age_ms(labels: Sequence[bytes], left_ms: float | None) -> float | None:
    """How long ago the value with these labels was given or validated, where that is known.

    `left_ms`: what is left of its time in Redis; None: there is no end."""
    if left_ms is None or not labels:
        return None
    life = life_of(labels)
    return None if life is None else max(0.0, life.life_ms - left_ms)


def is_past(labels: Sequence[bytes], left_ms: float | None) -> bool:
    """Whether the value is in its grace."""
    life = life_of(labels) if left_ms is not None and labels else None
    return life is not None and life.grace_ms > 0 and (left_ms or 0.0) <= life.grace_ms


def fresh_ms(labels: Sequence[bytes], left_ms: float | None) -> float | None:
    """For how long the value is fresh still; negative: how long it has been stale. None: there
    is no end to it."""
    if left_ms is None:
        return None
    life = life_of(labels)
    return left_ms if life is None else left_ms - life.grace_ms
