"""Probes: how often, what they carry, and what their answers say besides the lineage."""

from __future__ import annotations

import pytest

from coherenced.core import calls
from coherenced.core.laws import Laws
from coherenced.core.model import NEVER
from coherenced.core.policy import Policy
from coherenced.core.probes import BEATS_OPEN
from tests.core.driver import (
    ME,
    Driver,
    delete,
    set_to,
)


def test_V1_a_probe_is_sent_every_quarter_of_the_smallest_bound() -> None:
    d = Driver(policy=Policy(max_staleness_ms=400))
    probes = 0
    for _ in range(20):
        probes += sum(isinstance(c, calls.Probe) for c in d.sleep(50))
        d.prove(10)
    assert probes == 10


def test_V2_a_refused_probe_proves_nothing_and_is_reported_once() -> None:
    d = Driver()
    verified_ms = d.node.lane.verified_at_ms
    for _ in range(3):
        d.tick(250)
        d.failed(d.take(calls.Probe))
    assert d.node.lane.verified_at_ms == verified_ms
    assert len(d.event("redis_unreachable")) == 1
    d.tick(250)
    d.prove(10)
    assert len(d.event("redis_reachable")) == 1


def test_probes_that_are_never_answered_do_not_pile_up() -> None:
    d = Driver()
    d.sleep(60_000)
    probes = [c for c in d.open if isinstance(c, calls.Probe)]
    assert len(probes) <= BEATS_OPEN


def test_K2_each_periodic_probe_carries_the_membership_with_the_next_beat() -> None:
    d = Driver()
    beats = []
    for _ in range(3):
        d.tick(250)
        probe = d.take(calls.Probe)
        assert probe.member is not None
        beats.append(probe.member.beat)
        assert (probe.member.incarnation, probe.member.bound_ms) == (ME, 1000)
        d.probed(probe, 10)
    assert beats == sorted(set(beats))


def test_the_epoch_a_probe_offers_is_new_each_time() -> None:
    """W2: two nodes that find the metadata gone must not start the same epoch."""
    d = Driver()
    d.tick(250)
    first = d.take(calls.Probe)
    d.probed(first, 10)
    d.tick(250)
    assert d.take(calls.Probe).new_epoch != first.new_epoch


def test_K2_a_mutation_proves_only_a_node_that_is_surely_on_the_roster() -> None:
    d = Driver()
    d.hold(b"k")
    d.forget(calls.Probe, calls.ReadRoster)
    d.sleep(6_000)  # no beat is answered: somebody may have taken this node off the roster
    d.write(set_to(b"other", b"v"))
    d.mutated(d.take(calls.Mutate), first=11)
    assert d.hit(b"k") is None
    read = d.read(b"k")
    probes = [call for call in d.open if isinstance(call, calls.Probe)]
    assert probes[-1].member is not None  # the proof that the read waits for joins again
    while d.has(calls.Probe):
        d.probed(d.take(calls.Probe), d.node.lane.lineage)  # type: ignore[arg-type]
    assert d.value(read) == b"v"
    d.write(set_to(b"other", b"w"))
    d.sleep(900)
    d.mutated(d.take(calls.Mutate), first=12, prev=d.node.lane.tag)
    assert d.hit(b"k") == b"v"
    d.read(b"k", max_staleness_ms=0)
    assert d.take(calls.Probe) is not None


def test_K2_without_the_law_it_proves_itself_though_nobody_waits_for_it() -> None:
    d = Driver(laws=Laws(member_proves=False))
    d.hold(b"k")
    d.forget(calls.Probe, calls.ReadRoster)
    d.sleep(6_000)
    d.write(set_to(b"other", b"v"))
    d.mutated(d.take(calls.Mutate), first=11)
    assert d.hit(b"k") == b"v"


# -- clocks (V7) ------------------------------------------------------------------------------


def test_V7_when_the_servers_clock_ran_on_and_ours_did_not_nothing_is_proved() -> None:
    d = Driver()
    d.hold(b"k")
    d.tick(250)
    d.probed(d.take(calls.Probe), 10, server_ms=d.now_ms + 500_000 + 10_000)
    assert d.node.catchup.probes.pause_alarms == 1
    assert d.hit(b"k") is None
    assert d.node.lane.verified_at_ms == NEVER
    assert b"k" in d.node.l1.entries, "the position and the entries stay"
    check = d.take(calls.Probe)
    d.probed(check, 10, server_ms=d.now_ms + 500_000 + 10_000)
    assert d.hit(b"k") == b"v"


@pytest.mark.parametrize("skew_ms", [-490, 490])
def test_V7_small_disagreements_are_no_alarm(skew_ms: float) -> None:
    d = Driver()
    d.tick(250)
    d.probed(d.take(calls.Probe), 10, server_ms=d.now_ms + 500_000 + skew_ms)
    assert d.node.catchup.probes.pause_alarms == 0


def test_V7_a_slow_answer_is_no_alarm() -> None:
    d = Driver()
    d.tick(250)
    probe = d.take(calls.Probe)
    server_ms = d.now_ms + 500_000
    d.now_ms += 5000
    d.probed(probe, 10, server_ms=server_ms)
    assert d.node.catchup.probes.pause_alarms == 0


def test_V7_a_mutation_sent_before_the_pause_proves_nothing_after_it() -> None:
    """Its reply carries no clock: it would prove the node current by the time that stood still."""
    d = Driver()
    d.hold(b"k")
    d.write(delete(b"other"))
    mutate = d.take(calls.Mutate)
    d.tick(250)
    d.probed(d.take(calls.Probe), 10, server_ms=d.now_ms + 510_000)
    d.mutated(mutate, first=11, replies=[1])
    assert d.node.lane.applied == 11
    assert d.hit(b"k") is None


def test_V7_without_the_law_nobody_notices() -> None:
    d = Driver(laws=Laws(pause_alarm=False))
    d.hold(b"k")
    d.tick(250)
    d.probed(d.take(calls.Probe), 10, server_ms=d.now_ms + 510_000)
    assert d.hit(b"k") == b"v"
