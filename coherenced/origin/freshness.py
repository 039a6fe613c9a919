"""How long an answer of an origin is good for, and when it is loaded anew. Pure.

A value is kept in Redis for its *time to live* and a *grace* after it (the longer
of stale-while-revalidate and stale-if-error). So what is left until Redis drops it
tells every node, by the server's clock alone, how fresh it is:

    more than the grace left     fresh
    less                         stale: answered while it is loaded anew, or if that fails
    nothing                      not there

Time and chance are arguments here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from coherenced.wire.header import field

_DIRECTIVE: Final = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:=(?:\"([^\"]*)\"|([^\s,\"]*)))?\s*(?:,|$)"
)
STRICT: Final = frozenset({"must-revalidate", "proxy-revalidate", "s-maxage"})
"""Of a response: a shared cache must not answer it stale."""
LEAST_TTL_MS: Final = 1.0
MOST_TTL_MS: Final = 30 * 86_400_000.0
"""A value with labels is kept no longer (the scripts see to it)."""


class Lifetime(NamedTuple):
    """What is to become of one answer."""

    ttl_ms: float
    """How long it is fresh; 0: it may be given to those who asked, and is not kept."""
    strict: bool = False
    """It is never to be answered stale, whatever is configured (RFC 9111 4.2.4)."""

    @property
    def stored(self) -> bool:
        return self.ttl_ms > 0


NOT_KEPT: Final = Lifetime(0.0)


def directives(value: str | None) -> dict[str, str]:
    """Cache-Control's directives, names in lower case."""
    found: dict[str, str] = {}
    for match in _DIRECTIVE.finditer(value or ""):
        found[match[1].lower()] = match[2] if match[2] is not None else (match[3] or "")
    return found


def lifetime(
    headers: Mapping[str, str], ttl_ms: float, jitter: float, chance: float, *, respect: bool
) -> Lifetime:
    """How long an answer with these headers is fresh.

    `ttl_ms`: the namespace's own, where the origin says nothing or is not listened to.
    `chance`: 0 to 1; a time to live is shortened by up to `jitter` of itself.
    """
    told = directives(field(headers, "Cache-Control")) if respect else {}
    said_ms = _said_ms(headers, told) if respect else None
    if said_ms is not None and said_ms <= 0:
        return NOT_KEPT
    chosen_ms = ttl_ms if said_ms is None else said_ms
    return Lifetime(
        jittered(min(chosen_ms, MOST_TTL_MS), jitter, chance), not STRICT.isdisjoint(told)
    )


def jittered(ttl_ms: float, jitter: float, chance: float) -> float:
    """`ttl_ms` less a random share of up to `jitter`: what was stored together ends apart."""
    return max(LEAST_TTL_MS, ttl_ms * (1.0 - jitter * chance))


def _said_ms(headers: Mapping[str, str], told: dict[str, str]) -> float | None:
    """What RFC 9111 lets a shared cache take for the freshness lifetime; None: not said."""
    if "no-store" in told or "private" in told or "no-cache" in told:
        return 0.0
    if "*" in map(str.strip, (field(headers, "Vary") or "").split(",")):
        return 0.0
    for name in ("s-maxage", "max-age"):
        text = told.get(name)
        if text is not None:
            # RFC 9111 4.2.1: a value that is none means stale, the safe side.
            seconds = float(text) if text.isascii() and text.isdigit() else 0.0
            return max(0.0, seconds - _age_s(headers)) * 1000.0
    expires = headers.get("Expires")
    if expires is None:
        return None
    try:
        # Both were written by the origin: no two hosts' clocks are compared (A7).
        until = parsedate_to_datetime(expires)
        since = parsedate_to_datetime(headers["Date"])
        return max(0.0, (until - since).total_seconds() - _age_s(headers)) * 1000.0
    except KeyError:
        return None
    except (ValueError, TypeError):
        return 0.0


def age_ms_of(headers: Mapping[str, str]) -> float:
    """How old an answer with these headers was when it came: it may come out of a cache."""
    return _age_s(headers) * 1000.0


def _age_s(headers: Mapping[str, str]) -> float:
    text = headers.get("Age", "").strip()
    return float(text[:10]) if text.isascii() and text.isdigit() else 0.0


# -- what a reader is given -----------------------------------------------------------------


FRESH: Final = "fresh"
EARLY: Final = "early"
"""Fresh, and this read is the one that has it loaded anew ahead of its end (XFetch)."""
REVALIDATE: Final = "revalidate"
"""Stale; may be answered at once while it is loaded anew."""
STALE: Final = "stale"
"""Stale; answered only if loading fails or takes longer than the soft timeout."""


def state(
    expires_in_ms: float | None,
    grace_ms: float,
    while_revalidate_ms: float,
    *,
    beta: float = 0.0,
    load_ms: float = 0.0,
    chance: float = 1.0,
) -> str:
    """What a value that Redis keeps for another `expires_in_ms` (None: for ever) is worth.

    `load_ms`: how long loading it took last time; `chance`: above 0, up to 1.
    """
    if expires_in_ms is None:
        return FRESH
    left_ms = expires_in_ms - grace_ms
    if left_ms > 0:
        return EARLY if is_due_early(left_ms, load_ms, beta, chance) else FRESH
    return REVALIDATE if -left_ms <= while_revalidate_ms else STALE


def is_due_early(left_ms: float, load_ms: float, beta: float, chance: float) -> bool:
    """XFetch (Vattani, Chierichetti, Lowenstein, VLDB 2015): load anew now, ahead of the end?

    Each reader throws its own dice; the nearer the end and the longer a load takes, the
    likelier; so that, of many readers, about one begins in time for the new value to be there
    before the old one ends.
    """
    if beta <= 0:
        return False
    return load_ms * beta * -math.log(max(chance, 1e-300)) >= left_ms
