"""A herd after a drop, of a whole fleet: every node loses its lane at once, and is asked for all.

In virtual time, by the real core around one server (`bench/fleet`). What is asserted is the bound:
however many nodes there are and however many ask, Redis is read at most as often as their budgets
allow, and every reader is answered.
"""

from __future__ import annotations

import pytest

from coherenced.bench.fleet.fleet import Fleet
from coherenced.bench.fleet.herd import Herd, herd
from coherenced.core.flights import FETCH_BATCH, FETCHES_OPEN
from coherenced.core.refill import JITTER_MS, SLACK_MS, SMALL

BUDGET = 2_000
"""Keys a second of each node."""


def lost(nodes: int, keys: int, budget: int) -> Herd:
    fleet = Fleet(nodes, refill_keys_per_s=budget)
    fleet.settle()
    return herd(fleet, keys)


@pytest.mark.parametrize("nodes", [1, 4, 12])
def test_redis_is_read_no_faster_than_the_budgets_of_all_nodes(nodes: int) -> None:
    keys = 2 * SMALL
    found = lost(nodes, keys, BUDGET)
    assert found.answered == found.asked == nodes * keys
    assert found.drops == nodes
    assert found.fetched == nodes * keys  # nothing is read twice, whoever asks
    for window_ms, fetched in ((100, found.peak(100)), (500, found.peak(500))):
        # What an unused moment allows later, and the batch that begins it, on top.
        burst = BUDGET * SLACK_MS / 1e3 + FETCH_BATCH
        assert fetched <= nodes * (BUDGET * window_ms / 1e3 + burst)
    seconds = keys / BUDGET
    assert found.took_ms == pytest.approx(seconds * 1e3, abs=JITTER_MS + 100)


def test_without_a_budget_the_herd_comes_at_once() -> None:
    """So that the bound above is no accident of how fast a fleet is."""
    bounded, free = lost(4, 2 * SMALL, BUDGET), lost(4, 2 * SMALL, 0)
    assert free.fetched == bounded.fetched
    assert free.peak(100) > 4 * bounded.peak(100)
    assert free.took_ms < bounded.took_ms / 4


def test_the_nodes_do_not_begin_at_the_same_moment() -> None:
    found = lost(12, 2 * SMALL, BUDGET)
    first = sorted(found.first_ms.values())
    assert len(first) == 12
    assert first[-1] - first[0] > JITTER_MS / 4
    assert found.peak(1) <= 12 * FETCHES_OPEN * FETCH_BATCH / 2
