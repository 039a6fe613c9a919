"""What is begun ahead: done once, by whoever, and what breaks is told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests import ahead
from tests.ahead import Ahead, BrokeAhead, Part
from tests.servers import wait_until


def who(number: int) -> tuple[int, int]:
    return number, os.getpid()


def raising() -> None:
    raise ValueError("it broke")


def dying() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def some() -> list[Part]:
    return [Part(who, (number,)) for number in range(7)]


def slow() -> list[Part]:
    return [Part(who, (0,)), *(Part(time.sleep, (3600.0,)) for _ in range(2)), Part(who, (1,))]


def bad() -> list[Part]:
    return [Part(who, (0,)), Part(raising, ())]


def deadly() -> list[Part]:
    return [Part(dying, ())]


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ahead]]:
    """Instead of what this session has begun; and not only while a core is idle."""
    begun: list[Ahead] = []

    def one(*jobs: ahead.Parts, policy: int = os.SCHED_OTHER) -> Ahead:
        begun.append(Ahead(jobs, 2, policy))
        monkeypatch.setattr(ahead, "_ahead", begun[-1])
        return begun[-1]

    yield one
    for here in begun:
        here.remove()
        assert not here.directory.exists()


def test_what_was_done_ahead_is_not_done_again(begin: Callable[..., Ahead]) -> None:
    begin(some, bad).wait()
    found = ahead.results(some)
    assert [number for number, _ in found] == list(range(7))
    assert os.getpid() not in {pid for _, pid in found}
    assert ahead.result(some, 3) == found[3]


def test_what_is_not_done_yet_is_done_when_it_is_asked_for(begin: Callable[..., Ahead]) -> None:
    here = begin(slow)
    wait_until(lambda: len(list(here.directory.glob("*.begun"))) == 3, 30, "both in a slow one")
    assert ahead.result(slow, 0)[1] != os.getpid()
    assert ahead.result(slow, 3) == (1, os.getpid())
    assert [number for number, _ in ahead.results(some)] == list(range(7))


def test_nothing_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_ahead", None)
    assert ahead.result(some, 2) == (2, os.getpid())
    assert [number for number, _ in ahead.results(some)] == list(range(7))
    with pytest.raises(ValueError, match="it broke"):
        ahead.results(bad)


def test_what_raised_is_not_tried_again(begin: Callable[..., Ahead]) -> None:
    begin(bad).wait()
    with pytest.raises(BrokeAhead, match=r"bad, part 1:\n(.|\n)*ValueError: it broke"):
        ahead.results(bad)
    assert [number for number, _ in ahead.results(some)] == list(range(7))


def test_a_process_that_died_is_told(begin: Callable[..., Ahead]) -> None:
    begin(deadly).wait()
    with pytest.raises(BrokeAhead, match=r"ended with -11:\n(.|\n)*in dying"):
        ahead.results(some)


def test_it_is_in_nobodys_way(begin: Callable[..., Ahead]) -> None:
    policies = [os.sched_getscheduler(one.pid) for one in begin(slow)._running]
    assert policies == [os.SCHED_OTHER] * 2
    here = begin(slow, policy=os.SCHED_IDLE)

    def idle() -> bool:
        return {os.sched_getscheduler(one.pid) for one in here._running} == {os.SCHED_IDLE}

    wait_until(idle, 30, "both give way")
