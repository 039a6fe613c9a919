"""Fleets in virtual time: what they do in a second is what the protocol says that they do."""

from __future__ import annotations

import pytest

from coherenced.bench.cost_model import PROBES_A_BOUND, Load, cost, expected
from coherenced.bench.fleet.fleet import GUESSED, JITTER, NETWORK_MS, Fleet
from coherenced.core.requests import Level


def settled(nodes: int) -> Fleet:
    fleet = Fleet(nodes)
    fleet.settle()
    return fleet


def test_an_idle_fleet_only_proves_itself() -> None:
    fleet = settled(8)
    counts = fleet.measure(0, 0, 5.0)
    assert counts.probes == pytest.approx(8 * PROBES_A_BOUND + 8 / 5, rel=0.05)
    assert counts.scripts == counts.acks == counts.copies == 0
    assert not any(member.seen["event gap_found"] for member in fleet.members)


def test_every_node_hears_every_message() -> None:
    fleet = settled(10)
    counts = fleet.measure(500, 10, 1.0)
    assert counts.records == pytest.approx(500, rel=0.2)
    assert counts.copies == 10 * counts.scripts
    fleet.clock.run_until(fleet.clock.now_ms + 10)
    heads = {(member.node.lane.applied, member.node.lane.tag) for member in fleet.members}
    assert heads == {fleet.lane.lineage[1:]}
    least_ms = 2 * NETWORK_MS * (1 - JITTER)
    assert all(took_ms >= least_ms for took_ms in fleet.took_ms)
    assert max(member.node.catchup.from_log for member in fleet.members) == 0


@pytest.mark.parametrize(("nodes", "more"), [(5, 20)])
def test_acknowledgements_grow_with_the_square_when_every_node_writes(
    nodes: int, more: int
) -> None:
    """Probes with the first power, messages too; so acknowledgements are what ends a fleet."""
    few, many = (settled(n).measure(20.0 * n, n, 1.0, Level.ALL) for n in (nodes, more))
    grown = more / nodes
    assert many.probes / few.probes == pytest.approx(grown, rel=0.3)
    assert many.scripts / few.scripts == pytest.approx(grown, rel=0.2)
    for counts in (few, many):
        # One for each message and other node, but for a node that acknowledges many at once.
        assert counts.acks / counts.scripts / (counts.nodes - 1) == pytest.approx(1, rel=0.1)


def test_waiting_for_all_takes_a_broadcast_and_its_answers() -> None:
    fleet = settled(10)
    fleet.measure(100, 10, 1.0, Level.ALL)
    took_ms = sorted(fleet.took_ms)
    assert took_ms[0] >= 4 * NETWORK_MS
    assert took_ms[len(took_ms) // 2] < 10 * NETWORK_MS


def test_one_busy_writer_frames_better_than_many_quiet_ones() -> None:
    one, all_alike = (settled(10).measure(4_000, writers, 0.5) for writers in (1, 10))
    assert one.records / one.scripts > 2
    assert all_alike.records / all_alike.scripts < 1.5


@pytest.mark.parametrize("load", [Load(10, 1_000, 10), Load(20, 2_000, 20), Load(20, 3_000, 1)])
def test_what_is_expected_is_near_what_is_counted(load: Load) -> None:
    counts = settled(load.nodes).measure(load.per_s, load.writers, 0.5)
    told = expected(load, GUESSED)
    assert cost(told, GUESSED).redis == pytest.approx(cost(counts, GUESSED).redis, rel=0.3)


def test_the_same_seed_is_the_same_run() -> None:
    def run() -> object:
        return settled(3).measure(300, 3, 0.5, Level.ALL)

    assert run() == run()
