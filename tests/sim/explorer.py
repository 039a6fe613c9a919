"""Every order of events of a small configuration, on the real core.

Stateless search: a state is reached by replaying its choices from the start, so
nothing of the core needs to be copied. States that look the same are explored
once. What can be chosen is told in `board`, what is explored in `test_explorer`:

    to the end, in every test run            9,959 states of 12 configurations: bounded, B = 0,
                                             tags and linearizable, with one or two writers, a
                                             lost message, a killed reader or writer
    their first 300 states, in every run     15 larger ones: what follows a failover (all at
                                             once, or connection by connection), a failover at
                                             any moment, two lost messages, three nodes, two keys
    under `soak`                             the same up to 250,000 states each

Of each of the larger ones 4,000 to 25,000 states were explored so far, of none of them all, and
no promise broke: that is evidence, not proof.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tests.sim.board import Board, Setup
from tests.sim.history import Violation

LEAST_TICKS: Final = 6
MOST_TICKS: Final = 100
"""Of a board at rest: until its nodes have caught up, and until the last request is answered."""


class Found(msgspec.Struct):
    """What a search came to."""

    setup: Setup
    states: int
    runs: int
    complete: bool
    """Every order was explored."""
    problem: str = ""
    story: tuple[str, ...] = ()
    """The choices that lead to it."""


def explore(setup: Setup, most_states: int = 20_000) -> Found:
    """Search, shortest beginnings first. Stops at the first broken promise, or at the end."""
    seen: set[int] = set()
    found = Found(setup, 0, 0, complete=True)
    stack: deque[list[int]] = deque([[]])
    while stack:
        if len(seen) >= most_states:
            found.complete = False
            break
        prefix = stack.popleft()
        found.runs += 1
        try:
            for branch in _follow(Board(setup), prefix, seen):
                stack.append(branch)
        except (Violation, AssertionError) as problem:
            found.problem = str(problem)
            found.story = _retell(setup, getattr(problem, "path", prefix))
            break
    found.states = len(seen)
    return found


def _follow(board: Board, prefix: list[int], seen: set[int]) -> Iterator[list[int]]:
    """Replay `prefix`, then go on with each first choice; what else could be chosen."""
    path: list[int] = []
    try:
        for place, number in enumerate(prefix, 1):
            board.checking = place == len(prefix)
            path.append(number)
            board.choose(board.choices()[number])
        board.checking = True
        branches: list[list[int]] = []
        while True:
            mark = board.fingerprint()
            if mark in seen:
                break
            seen.add(mark)
            choices = board.choices()
            if not choices:
                _at_rest(board)
                break
            branches.extend([*path, other] for other in range(1, len(choices)))
            path.append(0)
            board.choose(choices[0])
    except (Violation, AssertionError) as problem:
        problem.path = list(path)  # type: ignore[union-attr]
        raise
    yield from branches


def _at_rest(board: Board) -> None:
    """Everything has been delivered: let the probes work, then all nodes agree with Redis."""
    board.end_faults()
    for number in range(MOST_TICKS):
        board.drain()
        if number >= LEAST_TICKS and not any(board.open.values()):
            break
        board.tick()
    if any(board.open.values()):
        raise Violation(f"liveness: requests were never answered: {board.open}")
    for host in board.hosts.values():
        assert host.node is not None
        if board.truth.positions.get(host.node.lane.lineage) != board.truth.index:
            raise Violation(f"eventual: node {host.name} is not at the head of the log")


def _retell(setup: Setup, path: list[int]) -> tuple[str, ...]:
    """The choices of a path, in words."""
    board = Board(setup)
    board.checking = True
    told: list[str] = []
    for number in path:
        choice = board.choices()[number]
        told.append(_words(board, choice))
        try:
            board.choose(choice)
        except (Violation, AssertionError):
            break
    return tuple(told)


def _words(board: Board, choice: tuple[str, Any]) -> str:
    kind, where = choice
    if kind in ("deliver", "lose"):
        _, _, args = board.queues[where][0]
        return f"{kind} to {where[0]} on {where[1]}: {args[-1]}"
    if kind == "act":
        act = board.todo[where][0]
        return f"{where}: {act.what} {act.key}"
    if kind == "fail":
        return f"redis fails over, losing {where} commits"
    if kind == "learn":
        return f"{where[0]} loses {where[1] or 'what it has'} to the old primary"
    if kind == "tick":
        return f"{board.setup.tick_ms:g} ms pass"
    return f"{where} {kind}s"
