"""What came after a version: from what is held, or from the log."""

from __future__ import annotations

import pytest

from coherenced.core.calls import ReadLog
from coherenced.core.model import Record, Version
from coherenced.core.recall import PAGE
from coherenced.core.requests import Fault, Recall
from tests.core.driver import EPOCH, OTHER_EPOCH, Driver, lineage, record


def recall(d: Driver, after: int, until: int | None = None, epoch: bytes = EPOCH) -> int:
    return d.submit(Recall(Version(epoch, after), d.node.lane.applied if until is None else until))


def seqs(d: Driver, asked: int) -> list[int] | None:
    records = d.result(asked).records
    return None if records is None else [one.seq for one in records]


def test_what_is_held_is_told_without_asking() -> None:
    d = Driver()
    d.deliver(*(record(seq, b"k") for seq in range(11, 11 + PAGE + 5)))
    assert seqs(d, recall(d, 10)) == list(range(11, 11 + PAGE))
    assert seqs(d, recall(d, 10 + PAGE)) == list(range(11 + PAGE, 16 + PAGE))
    assert seqs(d, recall(d, 12, until=14)) == [13, 14]
    assert seqs(d, recall(d, 14, until=14)) == []
    assert not d.has(ReadLog)


def test_what_came_before_the_start_is_read_from_the_log() -> None:
    d = Driver()  # stands at 10, and has applied nothing itself
    d.deliver(record(11))
    asked = recall(d, 7)
    call = d.take(ReadLog)
    assert (call.start_seq, call.limit) == (8, 4)
    assert d.node.waiting == 1
    d.logged(call, *(record(seq) for seq in range(8, 12)), at=11)
    assert seqs(d, asked) == [8, 9, 10, 11]
    assert d.node.waiting == 0


def test_a_page_of_the_log_is_bounded() -> None:
    d = Driver(at=10 * PAGE)
    recall(d, 5)
    assert d.take(ReadLog).limit == PAGE


@pytest.mark.parametrize(
    "found",
    [
        (),  # trimmed, all of it
        (record(9), record(10)),  # trimmed in part
        (record(8), record(10)),  # a hole
        (record(8), record(9, branch=b"b"), record(10)),  # not one chain
        (record(8, branch=b"b"), record(9, branch=b"b"), record(10, branch=b"b")),  # not ours
    ],
)
def test_a_log_that_does_not_lead_here_tells_nothing(found: tuple[Record, ...]) -> None:
    d = Driver()
    asked = recall(d, 7)
    d.logged(d.take(ReadLog), *found, at=10)
    assert seqs(d, asked) is None


def test_another_epoch_and_what_is_ahead_are_not_known() -> None:
    d = Driver()
    assert seqs(d, recall(d, 7, epoch=OTHER_EPOCH)) is None
    assert seqs(d, recall(d, 7, until=11)) is None
    asked = recall(d, 7)
    d.logged(d.take(ReadLog), record(8), at=lineage(8, epoch=OTHER_EPOCH))
    assert seqs(d, asked) is None


def test_a_log_that_cannot_be_read_is_a_fault() -> None:
    d = Driver()
    asked = recall(d, 7)
    d.failed(d.take(ReadLog))
    assert isinstance(d.outcomes[asked], Fault)
