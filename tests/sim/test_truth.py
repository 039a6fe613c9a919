"""The judge itself: what two commits at one time, and one commit of two keys, let be read."""

from __future__ import annotations

import pytest

from tests.sim.history import History, ReadOp, Violation
from tests.sim.redis_model import Server
from tests.sim.truth import Truth


class Story:
    """What one server held, and reads of it."""

    def __init__(self) -> None:
        self.truth = Truth()
        self._server = Server()
        self.commit(1.0, a=b"1", b=b"1")

    def commit(self, at_ms: float, **values: bytes) -> None:
        for name, value in values.items():
            self._server.foreign(b"SET", name.encode(), value)
        self.truth.observe(self._server, [name.encode() for name in values], at_ms)

    def allows(self, *values: bytes) -> bool:
        """Whether a snapshot of a and b may be these, asked and answered at 6 ms."""
        op = ReadOp("c", "n", 1, (b"a", b"b"), 3.0, 6.0)
        op.values, op.end_ms = values, 6.0
        try:
            History(self.truth)._check_snapshot(op)
        except Violation:
            return False
        return True


@pytest.fixture
def story() -> Story:
    return Story()


def test_of_two_commits_at_one_time_one_was_first(story: Story) -> None:
    story.commit(5.0, a=b"2")
    story.commit(5.0, b=b"2")
    assert [story.allows(*v) for v in ((b"1", b"1"), (b"2", b"1"), (b"2", b"2"))] == [True] * 3
    assert not story.allows(b"1", b"2")


def test_a_commit_of_two_keys_is_one_moment(story: Story) -> None:
    story.commit(5.0, a=b"2", b=b"2")
    assert story.allows(b"1", b"1")
    assert story.allows(b"2", b"2")
    assert not story.allows(b"2", b"1")
    assert not story.allows(b"1", b"2")


def test_a_snapshot_is_no_older_than_its_bound(story: Story) -> None:
    story.commit(2.0, a=b"2", b=b"2")
    assert not story.allows(b"1", b"1")


def test_what_was_held_for_a_moment_may_have_been_read(story: Story) -> None:
    story.commit(5.0, a=b"2")
    story.commit(5.0, a=b"3")
    story.commit(8.0, a=b"4")
    held = story.truth.timeline(b"a")
    assert held.when_was(b"2", 4.0, 6.0) == 5.0
    assert held.when_was(b"2", 5.5, 6.0) is None
    assert held.when_was(b"3", 4.0, 6.0) == 5.0
    assert held.when_was(b"3", 8.0, 9.0) is None, "up to the next commit, not including it"
