"""Outcomes as replies."""

from __future__ import annotations

import pytest

from coherenced.core.model import Query, ReplyError, Version
from coherenced.core.requests import Ask, AskResult, Fault, FaultKind, WriteResult
from coherenced.wire.answers import OUT_OF_MEMORY, answer, refusal
from coherenced.wire.plan import Plan

VERSION = Version(b"0f1e2d3c4b5a6978", 42)
PLAN = Plan((Ask(Query((b"X",))),))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(FaultKind.UNAVAILABLE, "down"), "UNAVAILABLE down"),
        (Fault(FaultKind.TOO_LARGE, "ask for fewer"), "ERR ask for fewer"),
        (Fault(FaultKind.CONTENDED, "not its turn"), "TRYAGAIN not its turn"),
        (Fault(FaultKind.OVERLOADED, "busy"), "UNAVAILABLE busy"),
        (Fault(FaultKind.STOPPING, "bye"), "UNAVAILABLE bye"),
        (Fault(FaultKind.INDETERMINATE, "lost"), "INDETERMINATE lost"),
        (Fault(FaultKind.CONFLICT, "changed"), "CONFLICT changed"),
        (Fault(FaultKind.OTHER_LINEAGE, "other"), "LINEAGE other"),
        (Fault(FaultKind.BEHIND, "wait"), "BEHIND wait"),
        (Fault(FaultKind.OUT_OF_MEMORY, "whatever"), OUT_OF_MEMORY),
        (Fault(FaultKind.OUT_OF_MEMORY, "OOM its own words"), "OOM its own words"),
        (
            Fault(FaultKind.APPLIED_UNKNOWN_REPLY, "reply lost", VERSION),
            "APPLIED 0f1e2d3c4b5a6978:42 reply lost",
        ),
        (Fault(FaultKind.UNAVAILABLE, "two\r\nlines"), "UNAVAILABLE two  lines"),
    ],
)
def test_faults(fault: Fault, told: str) -> None:
    assert answer(PLAN, [AskResult(1), fault], False) == f"-{told}\r\n".encode()


def test_every_kind_of_fault_has_a_word() -> None:
    kinds = [v for k, v in vars(FaultKind).items() if not k.startswith("_")]
    for kind in kinds:
        (line,) = [refusal([Fault(kind, "why")])]
        assert line is not None
        assert line.startswith(b"-")
        assert line.startswith(b"-ERR") == (kind == FaultKind.TOO_LARGE), "the caller's own doing"


def test_a_level_that_was_not_reached() -> None:
    late = WriteResult((b"OK",), VERSION, {"a": 0.0}, missing=("b", "c"), satisfied=False)
    assert answer(PLAN, [late], False) == (
        b"-NOACK committed 0f1e2d3c4b5a6978:42 missing=b,c acknowledged=a after_ms=0.000\r\n"
    )
    assert refusal([WriteResult((b"OK",), VERSION, {}, missing=("b",))]) is None


def test_replies_of_parts_are_added_up() -> None:
    assert answer(PLAN, [AskResult(200), AskResult(3)], False) == b":203\r\n"
    assert answer(PLAN, [WriteResult((200, 5), VERSION, {})], False) == b":205\r\n"
    error = ReplyError("ERR no")
    assert answer(PLAN, [WriteResult((200, error), VERSION, {})], False) == b"-ERR no\r\n"
