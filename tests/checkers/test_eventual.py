"""At the end everyone agrees, and nothing acknowledged was lost."""

from __future__ import annotations

import pytest

from tests.checkers.eventual import eventual
from tests.checkers.story import tell

AGREE = {
    "the last write": """
        A@n1 write k=a 0 10
        A@n1 write k=b 11 20
        F@n1 read k=b 100 101 final
        F@n2 read k=b 102 103 final
        F@redis read k=b 104 105 final
        """,
    "either of two concurrent ones": """
        A@n1 write k=a 0 20
        B@n1 write k=b 0 20
        F@n1 read k=a 100 101 final
        F@redis read k=a 104 105 final
        """,
    "a loss": """
        A@n1 write k=a 0 10
        A@n1 write k=b 11 20
        N@r  loss 30 40
        F@n1 read k=a 100 101 final
        F@redis read k=a 104 105 final
        """,
}

DISAGREE = {
    "a node is stale for good": """
        A@n1 write k=a 0 10
        A@n1 write k=b 11 20
        F@n1 read k=b 100 101 final
        F@n2 read k=a 102 103 final
        F@redis read k=b 104 105 final
        """,
    "a node keeps what was deleted": """
        A@n1 write k=a 0 10
        A@n1 delete k 11 20
        F@n2 read k=a 102 103 final
        F@redis read k=- 104 105 final
        """,
    "an acknowledged write was lost": """
        A@n1 write k=a 0 10
        A@n1 write k=b 11 20
        F@n1 read k=a 100 101 final
        F@redis read k=a 104 105 final
        """,
    "Redis was not asked": """
        A@n1 write k=a 0 10
        F@n1 read k=a 100 101 final
        """,
    "nothing was asked": "A@n1 write k=a 0 10",
}


@pytest.mark.parametrize("text", AGREE.values(), ids=list(AGREE))
def test_agree(text: str) -> None:
    verdict = eventual(tell(text))
    assert not verdict, verdict.story()
    assert verdict.checked


@pytest.mark.parametrize("text", DISAGREE.values(), ids=list(DISAGREE))
def test_disagree(text: str) -> None:
    assert len(eventual(tell(text))) == 1
