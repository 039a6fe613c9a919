"""No half of a multi-key write in a snapshot."""

from __future__ import annotations

import pytest

from tests.checkers.snapshot import snapshot
from tests.checkers.story import tell

WHOLE = {
    "all of one": """
        A@n1 mset k=a j=x 0 10
        B@n2 mget k=a j=x 11 12 snapshot
        """,
    "all of an old one": """
        A@n1 mset k=a j=x 0 10
        A@n1 mset k=b j=y 20 30
        B@n2 mget k=a j=x 31 32 snapshot
        """,
    "a later single write on one key": """
        A@n1 mset  k=a j=x 0 10
        C@n1 write j=y     20 30
        B@n2 mget  k=a j=y 31 32 snapshot
        """,
    "a concurrent delete on one key": """
        A@n1 mset   k=a j=x 0 50
        C@n1 delete j       5 40
        B@n2 mget   k=a j=- 60 61 snapshot
        """,
    "nobody asked for a snapshot": """
        A@n1 mset k=a j=x 0 10
        A@n1 mset k=b j=y 20 30
        B@n2 mget k=a j=y 31 32
        """,
    "a loss in between": """
        A@n1 mset k=a j=x 0 10
        A@n1 mset k=b j=y 20 30
        N@r  loss         40 50
        B@n2 mget k=a j=y 45 60 snapshot
        """,
}

HALF = {
    "two concurrent writes": """
        A@n1 mset k=a j=x 0 50
        C@n1 mset k=b j=y 0 50
        B@n2 mget k=a j=y 60 61 snapshot
        """,
    "the old one on the second key": """
        A@n1 mset k=a j=x 0 10
        A@n1 mset k=b j=y 20 30
        B@n2 mget k=b j=x 31 32 snapshot
        """,
    "absent on the second key": """
        A@n1 mset k=a j=x 0 10
        B@n2 mget k=a j=- 5 12 snapshot
        """,
    "an older single write on the second key": """
        C@n1 write j=w     0 5
        A@n1 mset  k=a j=x 10 20
        B@n2 mget  k=a j=w 15 25 snapshot
        """,
}


@pytest.mark.parametrize("text", WHOLE.values(), ids=list(WHOLE))
def test_whole(text: str) -> None:
    verdict = snapshot(tell(text))
    assert not verdict, verdict.story()


@pytest.mark.parametrize("text", HALF.values(), ids=list(HALF))
def test_half(text: str) -> None:
    verdict = snapshot(tell(text))
    assert len(verdict) == 1, verdict.story()
