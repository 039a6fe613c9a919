"""The one place where the core asks to be woken."""

from __future__ import annotations

from coherenced.core.model import FOREVER
from coherenced.core.timers import Timers


def test_without_a_timer_it_never_wants_to_be_woken() -> None:
    assert Timers().next_ms() == FOREVER


def test_what_is_due_is_called_in_order_of_time_then_of_registration() -> None:
    timers, called = Timers(), []
    for when_ms, name in ((30.0, "d"), (10.0, "a"), (20.0, "b"), (20.0, "c"), (31.0, "e")):
        timers.at(when_ms, called.append, name)
    assert timers.next_ms() == 10.0
    timers.run(30.0)
    assert called == ["a", "b", "c", "d"]
    assert timers.next_ms() == 31.0
    assert len(timers) == 1


def test_nothing_is_called_early_or_twice() -> None:
    timers, called = Timers(), []
    timers.at(10.0, called.append, 1)
    timers.run(9.999)
    assert called == []
    timers.run(10.0)
    timers.run(10.0)
    assert called == [1]


def test_a_callback_may_set_timers_and_those_already_due_run_at_once() -> None:
    timers, called = Timers(), []

    def again(left: int) -> None:
        called.append(left)
        if left:
            timers.at(10.0 - left, again, left - 1)

    timers.at(5.0, again, 3)
    timers.run(10.0)
    assert called == [3, 2, 1, 0]
