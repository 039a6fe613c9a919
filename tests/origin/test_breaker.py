"""The breaker's states, as a story and as a table."""

from __future__ import annotations

import pytest

from coherenced.origin.breaker import CLOSED, HALF_OPEN, OPEN, Breaker


def test_it_opens_after_failures_in_a_row_and_lets_one_try_later() -> None:
    breaker = Breaker(3, 1_000.0)
    for at_ms in (0.0, 1.0):
        assert breaker.admits(at_ms)
        breaker.failed(at_ms)
    breaker.succeeded()  # not in a row any more
    for at_ms in (2.0, 3.0, 4.0):
        assert breaker.state == CLOSED and breaker.admits(at_ms)
        breaker.failed(at_ms)
    assert breaker.state == OPEN and breaker.opened == 1
    assert not breaker.admits(1_003.9)
    assert breaker.opens_in_ms(1_003.0) == 1.0

    assert breaker.admits(1_004.0) and breaker.state == HALF_OPEN
    assert not breaker.admits(1_004.0), "one try, not two"
    breaker.failed(1_100.0)
    assert breaker.state == OPEN and breaker.opened == 2
    assert not breaker.admits(2_099.0)

    assert breaker.admits(2_100.0)
    breaker.succeeded()
    assert breaker.state == CLOSED and breaker.in_a_row == 0
    assert breaker.admits(2_101.0) and breaker.admits(2_101.0)


def test_a_try_that_was_given_up_leaves_room_for_another() -> None:
    breaker = Breaker(1, 10.0)
    breaker.failed(0.0)
    assert breaker.admits(10.0)
    breaker.abandoned()
    assert breaker.state == HALF_OPEN and breaker.admits(11.0)


def test_late_failures_of_what_was_sent_before_it_opened_do_not_prolong_it() -> None:
    breaker = Breaker(1, 10.0)
    breaker.failed(0.0)
    breaker.failed(9.0)
    assert breaker.admits(10.0) and breaker.opened == 1


@pytest.mark.parametrize("failures", [0, 100])
def test_without_enough_failures_it_stays_closed(failures: int) -> None:
    breaker = Breaker(failures, 10.0)
    for at_ms in range(99):
        breaker.failed(float(at_ms))
    assert breaker.state == CLOSED and breaker.admits(100.0)
