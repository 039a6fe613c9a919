"""The end of a run: what is final is what all agree on, and what they do not is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
import pytest

from tests.checkers.eventual import eventual
from tests.checkers.history import Recorder
from tests.cluster.daemons import Cluster
from tests.cluster.run import finish
from tests.cluster.steps import Load

LOAD = Load(plain_keys=1, tags=0, groups=0)
UNAVAILABLE = hiredis.ReplyError("UNAVAILABLE Redis cannot be reached")
Answer = Callable[[int], Any]
"""Round -> what is answered."""


class Answering:
    """A node, or a server, that answers from a script."""

    def __init__(self, node: str, answer: Answer) -> None:
        self.node = node
        self.rounds = 0
        self._answer = answer

    def command(self, *argv: str) -> Any:
        self.rounds += 1
        return self._answer(self.rounds)

    def commands(self, *batch: Sequence[str]) -> list[Any]:
        if batch and batch[0][0] == "PTTL":
            return [-1 for _ in batch]
        return [self.command(*argv) for argv in batch]


class Scripted:
    """As much of a cluster as the end of a run has to do with."""

    def __init__(self, node: Answer, server: Answer) -> None:
        self.daemons = [Answering("n1", node)]
        self.primary = Answering("redis", server)


def end(node: Answer, server: Answer, patience_s: float = 20.0) -> tuple[Recorder, Scripted]:
    recorder, cluster = Recorder(), Scripted(node, server)
    finish(cast(Cluster, cluster), recorder, LOAD, patience_s)
    return recorder, cluster


def test_a_write_that_lands_between_two_reads_of_a_round_is_no_disagreement() -> None:
    """It was accepted with ack=none, say: the node was right when it answered, and so was Redis."""
    recorder, cluster = end(
        lambda number: [b"old" if number == 1 else b"new"], lambda number: b"new"
    )
    assert [op.final for op in recorder.operations] == [False, False, True, True]
    assert [op.values for op in recorder.operations][::2] == [("old",), ("new",)]
    history = recorder.history()
    assert not [v for v in eventual(history) if "for good" in v.text]
    assert cluster.primary.rounds == 2


def test_a_node_that_does_not_answer_yet_is_asked_again() -> None:
    recorder, _ = end(lambda number: UNAVAILABLE if number < 4 else [b"x"], lambda number: b"x")
    assert [op.outcome for op in recorder.operations if op.node == "n1"] == ["fail"] * 3 + ["ok"]


def test_a_node_that_never_answers_is_told() -> None:
    with pytest.raises(AssertionError, match="n1 still does not answer: UNAVAILABLE"):
        end(lambda number: UNAVAILABLE, lambda number: b"x", 0.1)


def test_a_node_that_stays_wrong_is_told() -> None:
    recorder, _ = end(lambda number: [b"old"], lambda number: b"new", 0.1)
    (told,) = [v for v in eventual(recorder.history()) if "for good" in v.text]
    assert "n1 answers 'old' for good, Redis holds 'new'" in told.text
