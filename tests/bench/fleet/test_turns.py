"""Turns of an event loop in virtual time: who waits shares the next one."""

from __future__ import annotations

from collections.abc import Callable

from coherenced.bench.fleet.turns import Clock, Turns


def test_what_arrives_during_a_turn_shares_the_next() -> None:
    clock = Clock()
    seen: list[tuple[float, list[str]]] = []

    def work(arrived: list[str]) -> tuple[float, Callable[[], None]]:
        return 2.0, lambda: seen.append((clock.now_ms, arrived))

    turns = Turns(clock, work)
    for when_ms, item in ((0.0, "a"), (0.0, "b"), (0.5, "c"), (1.5, "d"), (9.0, "e")):
        clock.at(when_ms, turns.arrive, item)
    clock.run_until(3.0)
    assert (seen, turns.waiting) == ([(2.0, ["a", "b"])], 0)
    clock.run_until(20.0)
    assert seen[1:] == [(4.0, ["c", "d"]), (11.0, ["e"])]
    assert (turns.count, turns.busy_ms, clock.now_ms) == (3, 6.0, 20.0)


def test_the_same_moment_keeps_its_order() -> None:
    clock = Clock()
    seen: list[int] = []
    for number in range(5):
        clock.after(1.0, seen.append, number)
    clock.run_until(1.0)
    assert seen == [0, 1, 2, 3, 4]
