"""A5: a dropped lane is refilled on a budget."""

from __future__ import annotations

from coherenced.core import calls
from coherenced.core.model import Fetched
from coherenced.core.refill import JITTER_MS, SLACK_MS, SMALL, Refill
from tests.core.driver import OTHER_EPOCH, Driver, lineage

ME = b"\0\0\0\x05"  # its turn comes 5 ms after a drop


def test_nothing_is_held_back_without_a_drop() -> None:
    refill = Refill(1000, ME)
    refill.fetching(100, 10.0)
    assert refill.due_ms(10.0) == 10.0


def test_a_small_drop_is_not_worth_it_and_no_bound_is_none() -> None:
    refill = Refill(1000, ME)
    refill.dropped(SMALL - 1, 10.0)
    assert (refill.owed, refill.due_ms(10.0)) == (0, 10.0)
    unbounded = Refill(0, ME)
    unbounded.dropped(10 * SMALL, 10.0)
    assert (unbounded.owed, unbounded.due_ms(10.0)) == (0, 10.0)


def test_it_begins_at_its_own_place_and_keeps_to_its_rate() -> None:
    refill = Refill(1000, ME)
    refill.dropped(5000, 1000.0)
    assert refill.due_ms(1000.0) == 1005.0
    sent, now_ms = 0, 1005.0
    while refill.owed:
        refill.fetching(64, now_ms)
        sent += 64
        now_ms = max(now_ms, refill.due_ms(now_ms))
    assert 5000 <= sent < 5064
    assert abs(now_ms - 1005.0 - sent) < 1e-6 + 64
    assert refill.due_ms(now_ms) == now_ms


def test_an_unused_share_is_used_later_but_not_without_bound() -> None:
    refill = Refill(1000, ME)
    refill.dropped(5000, 1000.0)
    refill.fetching(10, 2000.0)
    assert refill.due_ms(2000.0) == 2000.0 - SLACK_MS + 10


def test_dropped_again_before_the_end() -> None:
    refill = Refill(1000, ME)
    refill.dropped(5000, 1000.0)
    refill.fetching(2000, 1005.0)
    refill.dropped(2000, 1006.0)  # what had been refilled
    assert refill.owed == 3000
    assert refill.due_ms(1006.0) > 1006.0


def test_nodes_begin_apart() -> None:
    starts = set()
    for number in range(50):
        refill = Refill(1000, b"%016x" % (number * 7919))
        refill.dropped(SMALL, 0.0)
        starts.add(refill.due_ms(0.0))
    assert len(starts) > 10
    assert max(starts) < JITTER_MS


def test_A5_reads_after_a_drop_wait_for_their_turn_and_all_get_it() -> None:
    d = Driver(max_bytes=1 << 24)
    node = d.node
    node.flights.refill = Refill(1000, ME)
    keys = [b"k%d" % number for number in range(SMALL)]
    for key in keys:
        d.hold(key)
    d.step(calls.BusLost(0, node.catchup.connection, "x"))
    d.step(calls.Subscribed(0, d.take(calls.Subscribe).connection))
    after = lineage(3, epoch=OTHER_EPOCH)
    d.prove(after)
    assert node.flights.refill.owed == SMALL
    first = d.read(b"k0")
    rest = [d.read(key) for key in keys[1:100]]
    assert not d.has(calls.Fetch)
    d.sleep(5.0)
    call = d.take(calls.Fetch)
    assert len(call.items) == 64
    assert not d.has(calls.Fetch)  # the next share is due 64 ms later
    d.fetched(call, *[Fetched(b"v")] * 64, at=after)
    assert d.value(first) == b"v"
    assert d.sleep(30.0) == [] or not d.has(calls.Fetch)
    d.sleep(40.0)
    call = d.take(calls.Fetch)
    d.fetched(call, *[Fetched(b"v")] * len(call.items), at=after)
    assert [d.value(read) for read in rest] == [b"v"] * 99
    assert node.flights.refill.owed == SMALL - 100
