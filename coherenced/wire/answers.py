"""Outcomes of the core as replies: what went wrong first, then the command's own shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from coherenced.core.model import Reply
from coherenced.core.requests import (
    AskResult,
    Fault,
    FaultKind,
    Outcome,
    ReadResult,
    WriteResult,
)
from coherenced.wire import resp
from coherenced.wire.plan import Plan, merge

OUT_OF_MEMORY: Final = "OOM command not allowed when used memory > 'maxmemory'."

_WORDS: Final = {
    FaultKind.INDETERMINATE: "INDETERMINATE",
    FaultKind.CONTENDED: "TRYAGAIN",  # a word of Redis's own, after which clients do
    FaultKind.CONFLICT: "CONFLICT",
    FaultKind.LOST: "LOST",
    FaultKind.OTHER_LINEAGE: "LINEAGE",
    FaultKind.BEHIND: "BEHIND",
    FaultKind.TOO_LARGE: "ERR",  # for the caller to ask for less: no miss
}
"""The other kinds mean that nothing was done and none of it is the caller's doing: UNAVAILABLE."""


def answer(plan: Plan, outcomes: Sequence[Outcome], resp3: bool) -> bytes:
    """The reply to one command."""
    refused = refusal(outcomes)
    if refused is not None:
        return refused
    if plan.compose is not None:
        return plan.compose(outcomes[0], resp3)
    replies = [reply for outcome in outcomes for reply in replies_of(outcome)]
    gather = plan.gather or merge
    return plan.shape(gather(replies), resp3)


def refusal(outcomes: Sequence[Outcome]) -> bytes | None:
    """The error reply of an outcome that is none, or of a level that was not reached."""
    for outcome in outcomes:
        if isinstance(outcome, Fault):
            return resp.error(fault_text(outcome))
        if isinstance(outcome, WriteResult) and not outcome.satisfied:
            return resp.error(not_acknowledged_text(outcome))
    return None


def replies_of(outcome: Outcome) -> Sequence[Reply]:
    if isinstance(outcome, ReadResult):
        return [v.value if v.error is None else v.error for v in outcome.values]
    if isinstance(outcome, WriteResult):
        return outcome.replies
    assert isinstance(outcome, AskResult)
    return [outcome.reply]


def fault_text(fault: Fault) -> str:
    """One line: a code that says what became of the request, then why."""
    if fault.kind == FaultKind.OUT_OF_MEMORY:
        return fault.detail if fault.detail.startswith("OOM ") else OUT_OF_MEMORY
    if fault.kind == FaultKind.APPLIED_UNKNOWN_REPLY:
        return f"APPLIED {fault.version or ''} {fault.detail}"
    return f"{_WORDS.get(fault.kind, 'UNAVAILABLE')} {fault.detail}"


def not_acknowledged_text(result: WriteResult) -> str:
    what = "journaled" if result.version is None else f"committed {result.version}"
    text = f"NOACK {what} missing={','.join(result.missing)}"
    if result.acknowledged:
        text += f" acknowledged={','.join(result.acknowledged)}"
        text += f" after_ms={','.join(f'{ms:.3f}' for ms in result.acknowledged.values())}"
    if result.fenced:
        text += f" fenced={','.join(result.fenced)}"
    return text
