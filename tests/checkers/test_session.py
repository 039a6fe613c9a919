"""Own writes, never backwards, tokens."""

from __future__ import annotations

import pytest

from tests.checkers.session import session
from tests.checkers.story import tell

KEPT = {
    "reads its own write": """
        A@n1 write k=a 0 10
        A@n1 read  k=a 11 12
        """,
    "a newer one of someone else": """
        A@n1 write k=a 0 10
        B@n2 write k=b 5 15
        A@n1 read  k=b 11 12
        A@n1 read  k=b 13 14
        """,
    "on another node nothing is promised": """
        A@n1 write k=a 0 10
        A@n2 read  k=- 11 12
        """,
    "another client may lag": """
        A@n1 read k=b 30 31
        B@n1 write k=a 0 10
        B@n1 write k=b 15 20
        C@n1 read k=a 40 41
        """,
    "its own write was unanswered": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 ?
        A@n1 read  k=a 30 31
        A@n1 read  k=b 40 41
        """,
    "its own write was refused": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 25 refused
        A@n1 read  k=a 30 31
        """,
    "ack=none": """
        A@n1 write k=a 0 10
        A@n1 write k=b 20 25 ack=none
        A@n1 read  k=a 30 31
        """,
    "two absences, the later one possible": """
        A@n1 read   k=- 0 1
        B@n2 write  k=a 2 5
        A@n1 read   k=a 6 7
        B@n2 delete k   8 20
        A@n1 read   k=- 9 10
        """,
    "after a loss": """
        A@n1 write k=a 0 10
        A@n1 write k=b 11 20
        N@r  loss      25 30
        A@n1 read  k=a 40 41
        """,
    "a stale answer says so": """
        A@n1 write k=a 0 10
        A@n1 write k=b 11 20
        A@n1 read  k=a 40 41 stale
        A@n1 read  k=b 42 43
        """,
    "an absence that may have been the initial one": """
        B@n2 write  k=a 0 10
        B@n2 delete k  11 20
        A@n1 read   k=- 21 22
        A@n1 read   k=a 23 24
        """,
    "a token kept": """
        A@n1 write k=a 0 10 v=1
        A@n1 write k=b 11 20 v=2
        A@n2 read  k=a 21 22 min=1
        A@n2 read  k=b 23 24 min=2
        """,
    "a token of another epoch": """
        A@n1 write k=a 0 10 v=1
        A@n1 write k=b 11 20 v=2
        A@n2 read  k=a 21 22 min=b:2
        """,
}

BROKEN = {
    "own write missing": """
        A@n1 write k=a 0 10
        A@n1 write k=b 11 20
        A@n1 read  k=a 21 22
        """,
    "own delete missing": """
        A@n1 write  k=a 0 10
        A@n1 delete k  11 20
        A@n1 read   k=a 21 22
        """,
    "own write not there": """
        A@n1 write k=a 0 10
        A@n1 read  k=- 11 12
        """,
    "own write missing though not acknowledged by all": """
        A@n1 write k=a 0 10
        A@n1 write k=b 11 20 ack=all noack
        A@n1 read  k=a 21 22
        """,
    "backwards": """
        B@n2 write k=a 0 10
        B@n2 write k=b 11 20
        A@n1 read  k=b 21 22
        A@n1 read  k=a 23 24
        """,
    "backwards by sequence": """
        B@n2 write k=a 0 20 v=1
        C@n3 write k=b 0 20 v=2
        A@n1 read  k=b 21 22
        A@n1 read  k=a 23 24
        """,
    "backwards in a multi-get": """
        B@n2 mset k=a j=x 0 10
        B@n2 mset k=b j=y 11 20
        A@n1 read k=b     21 22
        A@n1 mget k=a j=y 23 24
        """,
    "absent again": """
        B@n2 write k=a 0 10
        A@n1 read  k=a 11 12
        A@n1 read  k=- 13 14
        """,
    "back from a delete it had seen": """
        B@n2 write  k=a 0 10
        A@n1 read   k=a 11 12
        B@n2 delete k  13 20
        A@n1 read   k=- 21 22
        A@n1 read   k=a 23 24
        """,
    "a token ignored": """
        A@n1 write k=a 0 10 v=1
        A@n1 write k=b 11 20 v=2
        A@n2 read  k=a 21 22 min=2
        """,
    "a token of a later write to another key": """
        A@n1 write k=a 0 10 v=1
        A@n1 write k=b 11 20 v=2
        A@n1 write j=x 21 25 v=3
        A@n2 read  k=a 31 32 min=3
        """,
}


@pytest.mark.parametrize("text", KEPT.values(), ids=list(KEPT))
def test_kept(text: str) -> None:
    verdict = session(tell(text))
    assert not verdict, verdict.story()


@pytest.mark.parametrize("text", BROKEN.values(), ids=list(BROKEN))
def test_broken(text: str) -> None:
    verdict = session(tell(text))
    assert len(verdict) == 1, verdict.story()


def test_the_text_tells_own_writes_from_going_back() -> None:
    own = session(tell(BROKEN["own write missing"]))[0]
    assert "A on n1 does not see its own write" in own.text
    back = session(tell(BROKEN["backwards"]))[0]
    assert "A on n1 went back behind what it had read" in back.text
    assert [op.id for op in back.operations] == [2, 3, 1, 4]
    token = session(tell(BROKEN["a token ignored"]))[0]
    assert "older than its token aaaaaaaaaaaaaaaa:2" in token.text
