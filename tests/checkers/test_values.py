"""Every answer was written; versions tell the truth."""

from __future__ import annotations

import pytest

from tests.checkers.story import tell
from tests.checkers.values import versions, written

WRITTEN = {
    "written": "A@n1 write k=a 0 10\n B@n2 read k=a 5 6",
    "unanswered": "A@n1 write k=a 0 ?\n B@n2 read k=a 500 501",
    "absent at first": "A@n1 write k=a 10 20\n B@n2 read k=- 5 6",
    "a delete under way": "A@n1 write k=a 0 1\n A@n1 delete k 2 9\n B@n2 read k=- 3 4",
}
NOT_WRITTEN = {
    "nobody wrote it": "A@n1 write k=a 0 10\n B@n2 read k=x 5 6",
    "too early": "A@n1 write k=a 10 20\n B@n2 read k=a 5 6",
    "refused": "A@n1 write k=a 0 10 refused\n B@n2 read k=a 15 16",
    "another key's value": "A@n1 write j=a 0 10\n B@n2 read k=a 15 16",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=list(WRITTEN))
def test_written(text: str) -> None:
    assert not written(tell(text))


@pytest.mark.parametrize("text", NOT_WRITTEN.values(), ids=list(NOT_WRITTEN))
def test_not_written(text: str) -> None:
    assert len(written(tell(text))) == 1


def test_absent_though_it_was_there_from_the_start() -> None:
    history = tell("B@n2 read k=- 5 6\n B@n2 read j=x 7 8", initial={"k": "i", "j": "x"})
    assert len(written(history)) == 1


TRUE = {
    "in order": """
        A@n1 write k=a 0 10 v=1
        B@n2 write k=b 11 20 v=2
        C@n3 read  k=a 21 22 v=1
        C@n3 read  k=b 23 24 v=9
        """,
    "concurrent, any order": """
        A@n1 write k=a 0 10 v=2
        B@n2 write k=b 0 10 v=1
        C@n3 read  k=a 11 12 v=2
        """,
    "another epoch starts anew": """
        A@n1 write k=a 0 10 v=7
        B@n2 write k=b 11 20 v=b:1
        """,
    "numbers issued again after a loss": """
        A@n1 write k=a 0 10 v=7
        N@r  loss 20 30
        B@n2 write k=b 31 40 v=7
        C@n3 read  k=b 41 42 v=7
        """,
    "absent before the first": """
        A@n1 write k=a 0 10 v=3
        C@n3 read  k=- 11 12 v=2
        """,
}
FALSE = {
    "twice the same": "A@n1 write k=a 0 10 v=1\n B@n2 write j=b 0 10 v=1",
    "backwards": "A@n1 write k=a 0 10 v=2\n B@n2 write j=b 11 20 v=1",
    "a value newer than its version": """
        A@n1 write k=a 0 10 v=1
        A@n1 write k=b 11 20 v=2
        C@n3 read  k=b 21 22 v=1
        """,
    "a value older than its version": """
        A@n1 write k=a 0 10 v=1
        A@n1 write k=b 11 20 v=2
        C@n3 read  k=a 15 22 v=2
        """,
    "absent though its version had it": """
        A@n1 write k=a 0 10 v=1
        C@n3 read  k=- 5 22 v=1
        """,
}


@pytest.mark.parametrize("text", TRUE.values(), ids=list(TRUE))
def test_true_versions(text: str) -> None:
    verdict = versions(tell(text))
    assert not verdict, verdict.story()


@pytest.mark.parametrize("text", FALSE.values(), ids=list(FALSE))
def test_false_versions(text: str) -> None:
    assert len(versions(tell(text))) == 1
