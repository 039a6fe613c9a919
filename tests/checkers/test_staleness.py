"""bounded(B), ack=all and the nines: valid histories pass, broken ones are told."""

from __future__ import annotations

import pytest

from tests.checkers.staleness import acknowledged_by_all, bounded, nines
from tests.checkers.story import tell

WITHIN = {
    "old value within the bound": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30
        B@n2 read  k=a 129 131
        """,
    "the write has not returned": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 ?
        B@n2 read  k=a 900 901
        """,
    "either order of two concurrent writes": """
        A@n1 write k=a 0 50
        B@n1 write k=b 0 50
        C@n2 read  k=a 900 901
        C@n2 read  k=b 902 903
        """,
    "a refused write need not be seen": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30 refused
        C@n2 read  k=a 900 901
        """,
    "absence by a delete that may have come last": """
        A@n1 delete k  0 500
        B@n1 write  k=b 20 30
        C@n2 read   k=- 900 901
        """,
    "absence by an unanswered delete": """
        A@n1 delete k   0 ?
        B@n1 write  k=b 20 30
        C@n2 read   k=- 900 901
        C@n2 read   k=b 902 903
        """,
    "an expired value": """
        A@n1 write k=a 0 10 ttl=200
        B@n2 read  k=a 150 151
        B@n2 read  k=- 210 211
        """,
    "a stale answer that says so": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30
        B@n2 read  k=a 900 901 stale
        """,
    "a loss may bring back anything": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30
        N@r  loss      500 600
        B@n2 read  k=a 900 901
        """,
    "a flush": """
        A@n1 write k=a 0 10
        N@r  flush     500 510
        B@n2 read  k=a 550 551
        B@n2 read  k=- 900 901
        """,
    "a flush of some keys": """
        A@n1 write k=a 0 10
        A@n1 write j=x 0 10
        N@r  flush j   500 510
        B@n2 read  k=a 900 901
        B@n2 read  j=- 900 901
        """,
    "a longer bound asked for": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30
        B@n2 read  k=a 900 901 max=5000
        """,
    "ack=none may come late": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30 ack=none
        B@n2 read  k=a 900 901
        """,
}

TOO_OLD = {
    "old value past the bound": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30
        B@n2 read  k=a 131 132
        """,
    "a write that someone has read counts though it never returned": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 ?
        B@n1 read  k=b 30 40
        C@n2 read  k=a 200 201
        """,
    "order by sequence": """
        A@n1 write k=a 0 50 v=1
        B@n1 write k=b 0 50 v=2
        C@n2 read  k=a 900 901
        """,
    "initial absence": """
        A@n1 write k=a 0 10
        B@n2 read  k=- 900 901
        """,
    "a deleted value": """
        A@n1 write  k=a 0 10
        A@n1 delete k  20 30
        B@n2 read   k=a 900 901
        """,
    "an old absence": """
        A@n1 write  k=a 0 10
        A@n1 delete k  20 30
        A@n1 write  k=b 40 50
        B@n2 read   k=- 900 901
        """,
    "an invalidated value": """
        A@n1 write      k=a 0 10
        A@n1 invalidate k  20 30
        B@n2 read       k=a 900 901
        """,
    "B = 0": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30
        B@n2 read  k=a 31 32 max=0
        """,
    "one key of a multi-get": """
        A@n1 mset k=a j=x 0 10
        A@n1 mset k=b j=y 20 30
        B@n2 mget k=b j=x 900 901
        """,
    "after a flush": """
        A@n1 write k=a 0 10
        N@r  flush     500 510
        B@n2 read  k=a 900 901
        """,
    "a write after the loss": """
        A@n1 write k=a 0 10
        N@r  loss      500 600
        A@n1 write k=b 610 620
        B@n2 read  k=a 900 901
        """,
    "two answers from before the loss": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30
        N@r  loss      500 600
        B@n2 read  k=a 900 901
        C@n3 read  k=b 900 901
        """,
    "a value and an absence from before the loss": """
        A@n1 write k=a 0 10
        N@r  loss      500 600
        B@n2 read  k=a 900 901
        C@n3 read  k=- 900 901
        """,
}


@pytest.mark.parametrize("text", WITHIN.values(), ids=list(WITHIN))
def test_kept_within_the_bound(text: str) -> None:
    verdict = bounded(tell(text))
    assert not verdict, verdict.story()


@pytest.mark.parametrize("text", TOO_OLD.values(), ids=list(TOO_OLD))
def test_too_old_is_told(text: str) -> None:
    verdict = bounded(tell(text))
    assert len(verdict) == 1, verdict.story()
    assert verdict[0].operations


def test_the_margin_is_added_to_the_bound() -> None:
    history = tell(TOO_OLD["old value past the bound"])
    assert len(bounded(history)) == 1
    assert not bounded(history, margin_ms=5)
    assert not bounded(history, bound_ms=200)


def test_the_story_shows_what_was_seen_and_what_was_missed() -> None:
    verdict = bounded(tell(TOO_OLD["old value past the bound"]))
    assert str(verdict[0]).splitlines() == [
        "bounded: k: read 'a', though 'b' was committed 101.000 ms before the read began",
        "       0.000 –      10.000 ms  A@n1         write      k = a",
        "      20.000 –      30.000 ms  A@n1         write      k = b",
        "     131.000 –     132.000 ms  B@n2         read       k → a",
    ]


ALL_KEPT = {
    "seen at once": """
        A@n1 write k=a 0 10 ack=all
        B@n2 read  k=a 11 12
        """,
    "not yet returned": """
        A@n1 write k=a 0 10 ack=all
        A@n1 write k=b 20 30 ack=all
        B@n2 read  k=a 29 31
        """,
    "the level was not reached": """
        A@n1 write k=a 0 10 ack=all
        A@n1 write k=b 20 30 ack=all noack
        B@n2 read  k=a 40 41
        """,
    "another level": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30 ack=quorum
        B@n2 read  k=a 40 41
        """,
    "a newer one is fine": """
        A@n1 write k=a 0 10 ack=all
        A@n1 write k=b 20 30
        B@n2 read  k=b 40 41
        """,
}

ALL_BROKEN = {
    "older after the return": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30 ack=all
        B@n2 read  k=a 31 32
        """,
    "a delete": """
        A@n1 write  k=a 0 10
        A@n1 delete k  20 30 ack=all
        B@n2 read   k=a 31 32
        """,
    "a delete that found nothing": """
        A@n1 write  k=a 0 10
        B@n2 delete k  12 15 v=2
        A@n1 delete k  20 30 ack=all
        C@n3 read   k=a 31 32
        """,
    "an invalidation": """
        A@n1 write      k=a 0 10
        A@n1 invalidate k  20 30 ack=all
        B@n2 read       k=a 31 32
        """,
    "a multi-key write": """
        A@n1 mset k=a j=x 0 10
        A@n1 mset k=b j=y 20 30 ack=all
        B@n2 read  j=x 31 32
        """,
}


@pytest.mark.parametrize("text", ALL_KEPT.values(), ids=list(ALL_KEPT))
def test_all_kept(text: str) -> None:
    verdict = acknowledged_by_all(tell(text))
    assert not verdict, verdict.story()


@pytest.mark.parametrize("text", ALL_BROKEN.values(), ids=list(ALL_BROKEN))
def test_all_broken(text: str) -> None:
    verdict = acknowledged_by_all(tell(text))
    assert len(verdict) == 1, verdict.story()


def test_nines_count_the_last_older_answer() -> None:
    history = tell(
        """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 30
        A@n1 write k=c 40 50
        B@n2 read  k=a 35 36
        B@n2 read  k=b 120 121
        B@n2 read  k=c 130 131
        """
    )
    found = nines(history, limits_ms=(0, 10, 100))
    assert found.writes == 3
    # a at once; b: an older answer 5 ms later; c: one 70 ms later.
    assert found.within == {0: 1 / 3, 10: 2 / 3, 100: 1.0}
    assert found.slowest_ms == 70


def test_nines_of_nothing() -> None:
    assert nines(tell("")).within[0] == 1.0
