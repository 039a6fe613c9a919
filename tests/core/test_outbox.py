"""The surroundings of a step: effects come out once, answers find who asked."""

from __future__ import annotations

from coherenced.core.calls import Failed, Failure, Left
from coherenced.core.outbox import Event, Outbox, Settled
from coherenced.core.requests import AskResult


def test_effects_are_taken_once_and_in_order() -> None:
    box = Outbox()
    box.event("first", lane=0)
    box.settle(7, AskResult(1))
    assert box.take() == [Event("first", {"lane": 0}), Settled(7, AskResult(1))]
    assert box.take() == []


def test_an_answer_goes_to_who_made_the_call_and_only_once() -> None:
    box, heard = Outbox(), []
    first, second = box.new_call_id(heard.append), box.new_call_id(heard.append)
    assert box.calls_open == 2
    box.answer(second, Left(second))
    box.answer(second, Left(second))
    assert heard == [Left(second)]
    assert box.calls_open == 1
    box.answer(first, Failed(first, Failure.LOST, ""))
    assert box.calls_open == 0


def test_an_answer_nobody_waits_for_is_dropped() -> None:
    Outbox().answer(99, Left(99))


def test_call_ids_grow_so_that_later_means_larger() -> None:
    """V4 rests on it: a probe with at least this id was sent after now."""
    box = Outbox()
    promised = box.next_call_id
    assert box.new_call_id(lambda answer: None) == promised
    assert box.next_call_id > promised


def test_an_outcome_of_the_cores_own_request_stays_inside() -> None:
    box, heard = Outbox(), []
    own = box.internal(heard.append)
    box.settle(own, AskResult(1))
    assert heard == [AskResult(1)]
    assert box.take() == []
    assert box.internal(heard.append) != own
