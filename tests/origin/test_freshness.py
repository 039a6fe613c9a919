"""How long an answer is good for and when it is loaded anew, as tables."""

from __future__ import annotations

import math

import pytest
from multidict import CIMultiDict

from coherenced.origin.freshness import (
    EARLY,
    FRESH,
    MOST_TTL_MS,
    NOT_KEPT,
    REVALIDATE,
    STALE,
    directives,
    is_due_early,
    jittered,
    lifetime,
    state,
)

DATE = "Tue, 03 Jun 2025 10:00:00 GMT"
LATER = "Tue, 03 Jun 2025 10:01:30 GMT"


@pytest.mark.parametrize(
    ("headers", "ttl_ms"),
    [
        ({}, 60_000.0),
        ({"Cache-Control": "public"}, 60_000.0),
        ({"Cache-Control": "max-age=5"}, 5_000.0),
        ({"Cache-Control": 'Max-Age="5"'}, 5_000.0),
        ({"Cache-Control": "max-age=5, s-maxage=9"}, 9_000.0),
        ({"Cache-Control": "max-age=5", "Age": "2"}, 3_000.0),
        ({"Cache-Control": "max-age=5", "Expires": LATER, "Date": DATE}, 5_000.0),
        ({"Expires": LATER, "Date": DATE}, 90_000.0),
        ({"Expires": LATER}, 60_000.0),
        ({"Cache-Control": "max-age=99999999999"}, MOST_TTL_MS),
    ],
)
def test_the_origin_may_say_how_long(headers: dict[str, str], ttl_ms: float) -> None:
    assert lifetime(headers, 60_000.0, 0.0, 0.5, respect=True).ttl_ms == ttl_ms


@pytest.mark.parametrize(
    "headers",
    [
        {"Cache-Control": "no-store"},
        {"Cache-Control": "private, max-age=60"},
        {"Cache-Control": "no-cache"},
        {"Cache-Control": "max-age=0"},
        {"Cache-Control": "max-age=5", "Age": "5"},
        {"Cache-Control": "max-age=soon"},
        {"Cache-Control": "max-age=-1"},
        {"Expires": "0", "Date": DATE},
        {"Expires": DATE, "Date": LATER},
        {"Vary": "*"},
        {"Vary": "Accept, *"},
        CIMultiDict([("Cache-Control", "max-age=60"), ("Cache-Control", "no-store")]),
        CIMultiDict([("Cache-Control", "private"), ("Cache-Control", "max-age=60")]),
        CIMultiDict([("Vary", "Accept"), ("Vary", "*")]),
    ],
    ids=str,
)
def test_what_must_not_be_kept_is_not(headers: dict[str, str]) -> None:
    assert lifetime(headers, 60_000.0, 0.0, 0.5, respect=True) == NOT_KEPT
    assert lifetime(headers, 60_000.0, 0.0, 0.5, respect=False).ttl_ms == 60_000.0


@pytest.mark.parametrize(
    ("jitter", "chance", "ttl_ms"),
    [(0.0, 1.0, 1000.0), (0.1, 0.0, 1000.0), (0.1, 0.5, 950.0), (0.9, 1.0, 100.0)],
)
def test_jitter_only_ever_shortens(jitter: float, chance: float, ttl_ms: float) -> None:
    assert jittered(1000.0, jitter, chance) == pytest.approx(ttl_ms)


def test_directives_are_names_and_values() -> None:
    assert directives('no-cache, max-age=5, x="a, b"') == {
        "no-cache": "",
        "max-age": "5",
        "x": "a, b",
    }
    assert directives(None) == {}


@pytest.mark.parametrize(
    ("expires_in_ms", "found"),
    [
        (None, FRESH),
        (10_001.0, FRESH),
        (10_000.0, REVALIDATE),
        (7_000.0, REVALIDATE),
        (6_999.0, STALE),
        (0.0, STALE),
    ],
)
def test_what_is_left_in_redis_tells_how_fresh(expires_in_ms: float | None, found: str) -> None:
    # Grace 10 s (stale-if-error), of which the first 3 s allow stale-while-revalidate.
    assert state(expires_in_ms, 10_000.0, 3_000.0) == found


@pytest.mark.parametrize(
    ("left_ms", "load_ms", "beta", "chance", "due"),
    [
        (100.0, 50.0, 0.0, 1e-9, False),  # off
        (100.0, 50.0, 1.0, 1.0, False),  # never on the best throw
        (100.0, 50.0, 1.0, math.exp(-2.0) * 1.001, False),  # -ln = just below 2: 2 * 50 < 100
        (100.0, 50.0, 1.0, math.exp(-2.0) * 0.999, True),
        (100.0, 50.0, 2.0, math.exp(-1.0) * 0.999, True),  # beta scales it
        (100.0, 500.0, 1.0, 0.8, True),  # what takes long to load begins early
        (100.0, 0.0, 9.0, 1e-9, False),  # what takes no time need not
        (100.0, 50.0, 1.0, 0.0, True),  # a throw of nothing is the earliest
    ],
)
def test_xfetch(left_ms: float, load_ms: float, beta: float, chance: float, due: bool) -> None:
    assert is_due_early(left_ms, load_ms, beta, chance) is due
    early = state(5_000.0 + left_ms, 5_000.0, 0.0, beta=beta, load_ms=load_ms, chance=chance)
    assert early == (EARLY if due else FRESH)
