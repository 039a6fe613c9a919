"""The store: exact in bytes, whole after any sequence of operations, and true to its order."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coherenced.core.bulk import bulk_of
from coherenced.core.entry import ENTRY_BYTES, MAX_FREQUENCY, Entry
from coherenced.core.ghosts import GHOST_BYTES
from coherenced.core.l1 import DISCARD_LOOKS, HIT_LOOKS, L1, MOST_RETURN_LOOKS, SECOND_CHANCES
from coherenced.core.lane import Lane
from coherenced.core.model import FOREVER
from tests.core.entries import entry, formula


def ring(start: Entry) -> Iterator[Entry]:
    """Walk a ring, making sure at every step that it is one in both directions."""
    at = start
    while True:
        assert at.next.prev is at
        assert at.prev.next is at
        at = at.next
        if at is start:
            return
        yield at


def check(store: L1) -> None:
    """Everything that must hold of a store between any two calls."""
    small, main = list(ring(store._small)), list(ring(store._main))
    assert len(small) + len(main) == len(store.entries) == len(store)
    assert {id(e) for e in small + main} == {id(e) for e in store.entries.values()}
    assert all(store.entries[e.key] is e for e in small + main)
    assert not any(e.in_main for e in small) and all(e.in_main for e in main)
    aside = [e for entries, _ in store._aside._dropped for e in entries.values()]
    counted = sum(formula(e.key, e.value, e.tags) for e in (*store.entries.values(), *aside))
    assert store.bytes_used == counted + GHOST_BYTES * len(store._ghosts) == store.measured_bytes()
    assert store.bytes_used <= store.max_bytes
    assert store._small_bytes == sum(e.size for e in small)
    hand = store._hand
    assert hand is None or hand in (store._small, store._main) or store.entries[hand.key] is hand


# -- memory -----------------------------------------------------------------------------------


def of_a_lane_of_its_own() -> tuple[L1, Lane, weakref.ref[Lane]]:
    """A store, the lane of its nine entries, and a way to see whether that is still there."""

    class Marked(Lane):
        __slots__ = ("__weakref__",)

    lane = Marked(0)
    store = L1(100_000, 100)
    for i in range(9):
        store.put(entry(b"%d" % i, lane=lane))
    return store, lane, weakref.ref(lane)


def test_a_store_that_is_let_go_takes_its_entries_along() -> None:
    """The collector does not see the rings: the store takes them apart itself."""

    store, lane, gone = of_a_lane_of_its_own()
    del lane, store
    gc.collect()
    assert gone() is None


GROW = """
import os
from coherenced.core.bulk import bulk_of
from coherenced.core.entry import Entry
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from coherenced.core.model import FOREVER

def resident():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss"))

store, lane = L1(24 << 20, 1 << 20), Lane(0)
before = resident()
for i in range(150_000):  # three times what it holds: every key, value, deadline distinct
    key, value = b"key:%016d" % i, b"x%099d" % i
    store.put(Entry(key, bulk_of(value), lane, i + 1000, i * 1.5 + 0.25, 1000.0))
print((resident() - before) / store.bytes_used, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_counted_bytes_are_what_the_process_really_takes() -> None:
    """In the steady state, filled and evicting; the hash table is between a third and a sixth
    full then, which alone is worth a few percent either way."""
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True)
    assert 0.85 < float(done.stdout) < 1.07


HOLES = (
    GROW.split("store, lane")[0]
    + """
import random
store, lane, draw = L1(24 << 20, 1 << 20), Lane(0), random.Random(3).randrange
before = resident()
for i in range(120_000):  # of three times as many keys as there is room for, in any order
    key = b"key:%016d" % draw(30_000)
    if key not in store.entries:
        store.put(Entry(key, bulk_of(bytes(2000)), lane, i + 1000, i * 1.5 + 0.25, 1000.0))
    if not i % 20:
        store.remove(b"key:%016d" % draw(30_000))
print((resident() - before) / store.bytes_used, flush=True)
os._exit(0)
"""
)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_long_values_leave_no_holes_behind_them() -> None:
    """Formatted in one go, each would take half as much again."""
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert 0.85 < float(done.stdout) < 1.12


# -- the bound --------------------------------------------------------------------------------


def test_an_entry_just_at_the_bound_is_kept_alone_and_a_larger_one_is_passed_through() -> None:
    store = L1(formula(b"k", b"x" * 1000), 10_000)
    assert store.put(entry(b"k", b"x" * 1000))
    assert store.bytes_used == store.max_bytes
    assert not store.put(entry(b"k", b"x" * 1001))
    assert len(store) == store.bytes_used == 0
    check(store)


def test_a_value_larger_than_a_bound_of_its_own_is_not_cached_to_the_byte() -> None:
    store = L1(100_000, 1000)
    assert store.put(entry(b"k", b"x" * 1000))
    assert not store.put(entry(b"k", b"x" * 1001))
    assert b"k" not in store.entries, "the older value must not stay either"
    check(store)


def test_what_has_just_been_put_is_not_what_is_evicted() -> None:
    store = L1(20 * formula(b"00", b"v" * 50), 1 << 20)
    for i in range(100):
        assert store.put(entry(b"%02d" % i, b"v" * 50))
        assert b"%02d" % i in store.entries
        check(store)
    big = b"v" * ((19 * formula(b"00", b"v" * 50) - ENTRY_BYTES) * 16 // 17)
    assert store.put(entry(b"big", big))
    assert b"big" in store.entries
    check(store)


def test_replacing_in_place_may_evict_others_but_not_itself() -> None:
    store = L1(10 * formula(b"0", b"v"), 1 << 20)
    for i in range(10):
        store.put(entry(b"%d" % i))
    for key in [b"0", b"9", b"5"]:
        assert store.put(
            entry(key, b"v" * ((store.max_bytes - formula(key, b"") - 4) * 16 // 17), as_of=2)
        )
        assert list(store.entries) == [key]
        check(store)


def test_A6_what_is_already_newer_stays() -> None:
    store = L1(100_000, 100)
    assert store.put(entry(b"k", b"new", as_of=5))
    assert not store.put(entry(b"k", b"old", as_of=4))
    assert store.entries[b"k"].value == b"new"
    assert store.put(entry(b"k", b"same", as_of=5))
    assert store.entries[b"k"].value == b"same"


def test_another_lanes_sequences_are_not_compared() -> None:
    store = L1(100_000, 100)
    store.put(entry(b"k", b"theirs", as_of=50))
    assert store.put(entry(b"k", b"ours", as_of=4, lane=Lane(1)))
    assert store.entries[b"k"].value == b"ours"


@pytest.mark.parametrize("seed", range(40))
def test_what_is_put_together_is_put_as_if_one_by_one(seed: int) -> None:
    """Into any store: nearly empty or full, with marks, being read, or with some of it aside."""
    random = Random(seed)
    max_bytes = 100_000 if seed % 2 else 3_000
    stores = L1(max_bytes, 60), L1(max_bytes, 60)
    together = 0
    for at in range(60):
        what = random.random()
        names = random.sample(range(60), random.randint(1, 9))
        lengths = [random.choice((0, 1, 20, 40, 61)) if what < 0.2 else 9 for _ in names]
        given = [
            [
                entry(b"%d" % n, b"v" * size, as_of=at)
                for n, size in zip(names, lengths, strict=True)
            ]
            for _ in stores
        ]
        if what < 0.7:
            keys, bulks = [e.key for e in given[0]], [e.bulk for e in given[0]]
            if stores[0].put_all(keys, bulks, given[0][0].lane, at, 1e9, 1000.0):
                together += 1
            else:
                for one in given[0]:
                    stores[0].put(one)
            for one in given[1]:
                stores[1].put(one)
        for store in stores:
            if what >= 0.9:
                store.remove(b"%d" % names[0])
            elif what >= 0.85:
                store.end_prefix(b"1", at)
            elif what >= 0.75:
                store.sweep(0.0, 0.0, 7)
            elif 0.72 <= what < 0.73:
                store.drop_all()
            check(store)
        orders = [
            [[(e.key, e.looks) for e in ring(start)] for start in (s._small, s._main)]
            for s in stores
        ]
        assert orders[0] == orders[1]
        assert stores[0].bytes_used == stores[1].bytes_used
    assert together or not seed % 2


# -- dropping ---------------------------------------------------------------------------------


def tidied(store: L1, limit: int = 1000) -> None:
    """Swept to the end."""
    while store.untidy:
        store.sweep(0.0, 0.0, limit)


def test_T1_a_prefix_ends_what_is_older_at_once_and_is_looked_for_behind() -> None:
    store = L1(100_000, 100)
    store.put(entry(b"a:1", as_of=5))
    store.put(entry(b"a:2", as_of=7))
    store.put(entry(b"b:1", as_of=5))
    store.end_prefix(b"a:", 7)
    assert [store.held(key) is not None for key in (b"a:1", b"a:2", b"b:1")] == [False, True, True]
    assert len(store) == 3 and store.untidy
    check(store)
    tidied(store, 1)
    assert sorted(store.entries) == [b"a:2", b"b:1"]
    assert store.swept == 1 and store.marks is None
    check(store)


def test_what_is_put_after_a_mark_is_held_and_a_covered_one_gives_it_its_place() -> None:
    store = L1(100_000, 100)
    for i in range(3):
        store.put(entry(b"a:%d" % i, as_of=5))
    store.sweep(0.0, 0.0, 1)
    store.end_prefix(b"a:", 7)
    assert store.put(entry(b"a:1", b"new", as_of=7))
    assert store.held(b"a:1") is not None
    tidied(store, 1)
    assert list(store.entries) == [b"a:1"]
    check(store)


@pytest.mark.parametrize("walked", range(7))
def test_a_mark_set_within_a_round_is_looked_for_in_the_whole_next_one(walked: int) -> None:
    """Entries behind the hand are not missed."""
    store = L1(100_000, 100)
    for i in range(6):
        store.put(entry(b"%d" % i, as_of=5))
    store.end_prefix(b"none", 6)
    store.sweep(0.0, 0.0, walked)
    store.end_prefix(b"", 6)
    assert not any(store.held(b"%d" % i) for i in range(6))
    tidied(store, 1)
    assert len(store) == store.bytes_used == 0
    check(store)


def test_without_anything_held_nothing_is_marked() -> None:
    store = L1(100_000, 100)
    store.end_prefix(b"a", 7)
    store.end_tagged(7)
    assert store.marks is None and not store.untidy


def test_A5_what_is_dropped_is_gone_at_once_and_its_memory_comes_back_by_pieces() -> None:
    store = L1(100_000, 100)
    for i in range(50):
        store.put(entry(b"%02d" % i, as_of=i))
    store.end_prefix(b"1", 60)
    used = store.bytes_used
    assert store.drop_all() == 50
    assert len(store) == 0 and store.marks is None
    assert store.bytes_used == used
    store.put(entry(b"new"))
    check(store)
    store.sweep(0.0, 0.0, 40)
    assert store.untidy and store.bytes_used == used - 20 * formula(b"00", b"v") + formula(
        b"new", b"v"
    )
    assert store.drop_all() == 1
    tidied(store, 7)
    assert store.bytes_used == 0 == store.drop_all()
    check(store)


def test_who_needs_room_has_what_was_put_aside_first() -> None:
    store = L1(20 * formula(b"00", b"v"), 100)
    for i in range(20):
        store.put(entry(b"%02d" % i))
    store.drop_all()
    for i in range(20):
        store.put(entry(b"%02d" % i, b"w"))
        check(store)
    assert store.evictions == 0
    tidied(store)
    assert len(store) == 20 and not store._aside


def test_what_a_mark_covers_makes_room_before_what_is_alive() -> None:
    store = full(40)
    for i in range(38):
        store.put(entry(b"%02d" % i, as_of=1 + i % 2))
    store.end_prefix(b"", 2)
    for i in range(19):
        store.put(entry(b"n%d" % (i % 10) if i < 10 else b"m%d" % (i % 10), as_of=3))
        check(store)
    assert sum(e.as_of == 2 for e in store.entries.values()) == 19, "all that are alive stay"


def test_entries_moved_by_evictions_are_not_missed() -> None:
    """They move to the end of the main queue, which the walk has yet to reach."""
    store = full(60)
    for i in range(58):
        store.put(entry(b"%02d" % i, as_of=5))
    for used in store.entries.values():
        used.frequency = MAX_FREQUENCY
    store.end_prefix(b"", 6)
    for i in range(100, 140):
        store.put(entry(b"%d" % i, as_of=6))
        store.sweep(0.0, 0.0, 1)
        check(store)
    tidied(store, 1)
    assert all(e.as_of == 6 for e in store.entries.values())


def test_a_store_that_is_let_go_with_entries_put_aside_takes_them_along() -> None:
    store, lane, gone = of_a_lane_of_its_own()
    store.drop_all()
    store.put(entry(b"k", lane=lane))
    store.sweep(0.0, 0.0, 4)
    del lane, store
    gc.collect()
    assert gone() is None


def test_it_is_read_by_pieces_while_it_changes() -> None:
    store = full(60)
    for i in range(58):
        store.put(entry(b"%02d" % i, as_of=5))
    for used in store.entries.values():
        used.frequency = MAX_FREQUENCY
    there = dict(store.entries)
    seen: set[bytes] = set()
    for place, piece in enumerate(store.pieces(5)):
        assert len(piece) <= 5
        seen |= {one.key for one in piece}
        store.put(entry(b"new%02d" % place, as_of=6))
        store.remove(b"%02d" % (place * 3))
        store.put(entry(b"%02d" % (place * 5 + 5), as_of=6))  # where the reader is, or was
        check(store)
    assert seen >= {key for key, one in there.items() if store.entries.get(key) is one}
    assert store._readers == []


def test_who_reads_by_pieces_is_not_shown_what_was_ended_and_ends_with_a_drop() -> None:
    store = L1(100_000, 100)
    for i in range(20):
        store.put(entry(b"%d" % (i % 2) + b"%d" % i, as_of=5))
    store.end_prefix(b"0", 6)
    assert {one.key[:1] for piece in store.pieces(3) for one in piece} == {b"1"}
    reading = store.pieces(3)
    next(reading)
    store.drop_all()
    store.put(entry(b"later"))
    assert list(reading) == []
    assert list(L1(100, 100).pieces(3)) == [[]] and not store._readers
    next(store.pieces(1))
    assert store._readers == [], "whoever lets it go has ended it"


def test_only_tagged_entries_are_ended_by_end_tagged() -> None:
    store = L1(100_000, 100)
    store.put(entry(b"plain", as_of=5))
    store.put(entry(b"tagged", tags=(b"t",), as_of=5))
    store.put(entry(b"newer", tags=(b"t",), as_of=6))
    store.end_tagged(6)
    assert store.held(b"tagged") is None
    tidied(store)
    assert sorted(store.entries) == [b"newer", b"plain"]
    check(store)


# -- expiry -----------------------------------------------------------------------------------


def test_expired_entries_leave_without_being_read_F1() -> None:
    store = L1(100_000, 100)
    for i in range(10):
        store.put(entry(b"%d" % i, deadline_ms=100.0 + i))
    assert store.sweep(104.0, 0.0, 100) == 5
    assert sorted(store.entries) == [b"5", b"6", b"7", b"8", b"9"]
    assert store.expirations == 5
    check(store)


def test_the_sweep_keeps_what_stale_if_error_may_still_serve() -> None:
    store = L1(100_000, 100)
    store.put(entry(b"k", deadline_ms=100.0))
    assert store.sweep(149.9, 50.0, 100) == 0
    assert store.sweep(150.0, 50.0, 100) == 1


def test_the_sweep_goes_on_where_it_stopped_and_visits_both_queues() -> None:
    store = L1(40 * formula(b"00", b"v"), 100)
    for i in range(80):
        store.put(entry(b"%02d" % i, deadline_ms=100.0))
    assert {e.in_main for e in store.entries.values()} == {True, False}
    before = len(store)
    rounds = 0
    while len(store):
        assert store.sweep(100.0, 0.0, 7) <= 7
        check(store)
        rounds += 1
    assert rounds <= before // 5 + 2


def test_the_hand_survives_that_the_entry_it_points_at_is_removed() -> None:
    store = L1(100_000, 100)
    for i in range(6):
        store.put(entry(b"%d" % i))
    store.sweep(0.0, 0.0, 2)
    assert store._hand is not None
    for key in list(store.entries):
        store.remove(key)
        check(store)
    assert store.sweep(0.0, 0.0, 10) == 0


def test_sweeping_an_empty_store_ends() -> None:
    assert L1(1000, 100).sweep(0.0, 0.0, 10) == 0


# -- the order of leaving ---------------------------------------------------------------------


def full(count: int = 40) -> L1:
    """A store with room for `count` entries of the smallest kind and their ghosts."""
    return L1(count * formula(b"00", b"v") + 2 * count * GHOST_BYTES, 100)


def test_a_key_seen_once_leaves_before_a_key_that_was_hit() -> None:
    store = full()
    for i in range(40):
        store.put(entry(b"%02d" % i))
    store.entries[b"00"].frequency = 1
    for i in range(40, 90):
        store.put(entry(b"%02d" % i))
    assert b"00" in store.entries
    assert b"01" not in store.entries


def test_an_evicted_key_that_comes_back_soon_may_challenge_the_main_queue() -> None:
    store = full()
    for i in range(60):
        store.put(entry(b"%02d" % i))
    evicted = next(b"%02d" % i for i in range(60) if b"%02d" % i not in store.entries)
    store.put(entry(evicted))
    assert store.entries[evicted].looks > 0
    store.put(entry(b"new!"))
    assert store.entries[evicted].in_main  # nobody there had been used
    assert store.entries[evicted].looks < 0
    check(store)


def test_the_later_it_comes_back_the_less_it_may_do() -> None:
    looks = []
    for age in (1, 10, 20, 30, 60):
        store = full()
        for i in range(45):
            store.put(entry(b"%02d" % i))
        evicted = next(b"%02d" % i for i in range(44, -1, -1) if b"%02d" % i not in store.entries)
        for i in range(age - 1):
            store.put(entry(b"%02d" % (100 + i)))
        store.put(entry(evicted))
        looks.append(store.entries[evicted].looks)
    assert looks == sorted(looks, reverse=True)
    assert looks[0] == MOST_RETURN_LOOKS and looks[-1] == 0


def test_who_loses_a_challenge_leaves_and_wears_the_others_down() -> None:
    store = full()
    for i in range(45):
        store.put(entry(b"%02d" % i))
    challenger = next(ring(store._small))
    for held in ring(store._main):
        held.frequency = MAX_FREQUENCY
    challenger.frequency, challenger.looks = 0, 5
    store.put(entry(b"new!"))
    assert challenger.key not in store.entries
    worn = [e for e in ring(store._main) if e.frequency == MAX_FREQUENCY - 1]
    assert len(worn) == 5 and worn == list(ring(store._main))[-5:]
    check(store)


def test_where_the_main_queue_has_room_nobody_need_go_for_a_challenger() -> None:
    store = full()
    for i in range(45):
        store.put(entry(b"%02d" % i))
    for held in list(ring(store._main))[:20]:
        store.remove(held.key)
    while store.bytes_used + formula(b"00", b"v") <= store.max_bytes:
        store.put(entry(b"more%02d" % len(store)))
    held = list(ring(store._main))
    first = next(ring(store._small))
    first.frequency = 1
    store.put(entry(b"new!"))
    assert first.in_main and all(e.key in store.entries for e in held)
    check(store)


def test_a_new_value_keeps_the_place_and_the_use_of_the_old_one() -> None:
    store = L1(100_000, 100)
    for i in range(3):
        store.put(entry(b"%d" % i))
    store.entries[b"1"].frequency = 2
    store.put(entry(b"1", b"new", as_of=2))
    assert [e.key for e in ring(store._small)] == [b"0", b"1", b"2"]
    assert store.entries[b"1"].frequency == 2


def test_one_eviction_ends_soon_however_hot_everything_is() -> None:
    store = full(2000)
    for i in range(3000):
        store.put(entry(b"%04d" % i))
    for held in store.entries.values():
        held.frequency = MAX_FREQUENCY
    order = [e.key for e in ring(store._main)]
    store.put(entry(b"new!"))
    moved = sum(1 for a, b in zip(order, ring(store._main), strict=False) if a != b.key)
    assert b"new!" in store.entries
    spared = [e for e in store.entries.values() if e.frequency != MAX_FREQUENCY]
    assert len(spared) <= max(SECOND_CHANCES, MAX_FREQUENCY * HIT_LOOKS + MOST_RETURN_LOOKS) + 1
    assert moved
    check(store)


# -- against a naive store --------------------------------------------------------------------

KEYS = st.integers(0, 11).map(lambda i: b"%s%02d" % (b"ab"[i % 2 :][:1], i))
VALUES = st.one_of(st.none(), st.integers(0, 400).map(lambda n: b"v" * n))
TAGS = st.sampled_from([(), (), (b"t",), (b"t", b"user:1")])


class StoreAgainstDict(RuleBasedStateMachine):
    """The store may forget by eviction what a dict would hold, and must do nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = [Lane(0), Lane(1)]
        self.store = L1(5000, 300)
        self.naive: dict[bytes, Entry] = {}
        """What is held."""
        self.ended: dict[bytes, Entry] = {}
        """What the store may have still, but nobody is to see."""
        self.covers: list[Callable[[Entry], bool]] = []
        """What was ended while the store looks for it."""
        self.gone = 0

    @rule(key=KEYS, value=VALUES, as_of=st.integers(0, 9), ttl=st.integers(0, 9), tags=TAGS)
    def put(
        self, key: bytes, value: bytes | None, as_of: int, ttl: int, tags: tuple[bytes, ...]
    ) -> None:
        lane = self.lanes[key[0] == ord("b")]
        new = Entry(key, bulk_of(value), lane, as_of, 100.0 + ttl, 1.0, tags)
        if any(covers(new) for covers in self.covers):
            return  # the fence around storing lets no such value through
        old = self.store.entries.get(key)
        stored = self.store.put(new)
        self.gone += stored and key in self.ended  # it was replaced, and counts
        if value is not None and len(value) > 300:
            assert not stored
            self.forget(key)
            assert key not in self.store.entries
        elif old is not None and old.as_of > as_of:
            assert not stored
            assert self.store.entries[key] is old
        else:
            assert stored
            assert self.store.held(key) is new
            self.ended.pop(key, None)
            self.naive[key] = new

    @rule(key=KEYS, size=st.integers(0, 400), as_of=st.integers(0, 9), lends=st.booleans())
    def renew(self, key: bytes, size: int, as_of: int, lends: bool) -> None:
        lane = self.lanes[key[0] == ord("b")]
        lane.lent = [(entry(b"lent"), 0.0)] if lends else []
        old, naive = self.store.entries.get(key), self.naive.get(key)
        bulk, place = bulk_of(b"w" * size), naive and [e.key for e in ring(self.ring_of(naive))]
        before = (self.store.bytes_used, old and (old.bulk, old.as_of))
        more = 0 if old is None else old.size
        new = self.store.renew(key, bulk, lane, as_of, 150.0, 2.0)
        lane.lent = []
        if new is None:
            assert before == (self.store.bytes_used, old and (old.bulk, old.as_of))
            possible = naive is not None and naive.as_of <= as_of and not naive.tags
            if possible and not lends and self.store.marks is None and size <= 300:
                assert self.store.bytes_used + len(bulk) + 20 > more + self.store.max_bytes - 400
            return
        assert new is old is naive and not new.tags and size <= 300
        assert before[1] is not None and before[1][1] <= as_of
        assert (new.bulk, new.as_of, new.deadline_ms, new.bound_ms) == (bulk, as_of, 150.0, 2.0)
        assert new.expires_ms == FOREVER
        assert [e.key for e in ring(self.ring_of(new))] == place
        assert self.store.bytes_used == before[0] + new.size - more

    def ring_of(self, held: Entry) -> Entry:
        return self.store._main if held.in_main else self.store._small

    def forget(self, key: bytes) -> None:
        self.naive.pop(key, None)
        self.ended.pop(key, None)

    @rule(key=KEYS)
    def hit(self, key: bytes) -> None:
        held = self.store.held(key)
        if held is not None and held.frequency < MAX_FREQUENCY:
            held.frequency += 1

    @rule(key=KEYS)
    def remove(self, key: bytes) -> None:
        held = key in self.store.entries
        assert self.store.remove(key) == held
        self.forget(key)

    @rule(key=KEYS)
    def discard(self, key: bytes) -> None:
        if (held := self.store.entries.get(key)) is not None:
            self.store.discard(held)
            self.forget(key)

    def ends(self, covers: Callable[[Entry], bool]) -> None:
        for key in [key for key, held in self.naive.items() if covers(held)]:
            self.ended[key] = self.naive.pop(key)
        self.covers.append(covers)

    @rule(prefix=st.sampled_from([b"", b"a", b"a0", b"b1"]), seq=st.integers(0, 10))
    def end_prefix(self, prefix: bytes, seq: int) -> None:
        self.store.end_prefix(prefix, seq)
        self.ends(lambda e: e.key.startswith(prefix) and e.as_of < seq)

    @rule(seq=st.integers(0, 10))
    def end_tagged(self, seq: int) -> None:
        self.store.end_tagged(seq)
        self.ends(lambda e: bool(e.tags) and e.as_of < seq)

    @rule()
    def drop_all(self) -> None:
        assert self.store.drop_all() == len(self.naive) + len(self.ended)
        self.naive.clear()
        self.ended.clear()

    @rule(now=st.integers(95, 112), stale=st.integers(0, 5), limit=st.integers(1, 20))
    def sweep(self, now: int, stale: int, limit: int) -> None:
        before, swept = dict(self.store.entries), self.store.swept
        expired = self.store.sweep(float(now), float(stale), limit)
        left = [e for k, e in before.items() if k not in self.store.entries]
        assert sum(e.deadline_ms + stale <= now for e in left) == expired
        assert len(left) == expired + self.store.swept - swept <= limit
        for one in left:
            assert one.deadline_ms + stale <= now or one.key in self.ended
            self.forget(one.key)
        self.gone += self.store.swept - swept

    @precondition(lambda self: len(self.store) > 0)
    @rule(now=st.integers(95, 112))
    def sweep_whole_rounds(self, now: int) -> None:
        """Three from anywhere see everything, and end every mark."""
        for _ in range(3):
            self.sweep(now, 0, DISCARD_LOOKS * (len(self.store) + 2))
        assert all(e.deadline_ms > now for e in self.store.entries.values())
        assert self.store.marks is None and not self.ended

    @invariant()
    def whole(self) -> None:
        check(self.store)
        cells = len(self.store._ghosts)
        assert cells == 0 or cells & (cells - 1) == 0
        assert cells <= 32
        if self.store.marks is None:
            self.covers.clear()

    @invariant()
    def holds_what_the_dict_holds_but_for_evictions(self) -> None:
        store = self.store
        missing = [k for k in (*self.naive, *self.ended) if k not in store.entries]
        assert len(missing) == store.evictions + store.swept - self.gone
        self.gone = store.evictions + store.swept
        for key in missing:
            self.forget(key)
        assert self.naive.keys() | self.ended.keys() == store.entries.keys()
        assert all(store.held(key) is held for key, held in self.naive.items())
        assert not any(store.held(key) for key in self.ended)


StoreAgainstDict.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None
)
TestStoreAgainstDict = StoreAgainstDict.TestCase


@pytest.mark.parametrize(
    "why", ["", "absent", "newer", "tags", "other lane", "lent", "marks", "large", "full"]
)
def test_a_value_is_renewed_in_place_only_where_nothing_speaks_against_it(why: str) -> None:
    store, lane = L1(3000 if why == "full" else 1 << 20, 2000), Lane(0)
    old = Entry(b"k", bulk_of(b"old"), lane, 7, 50.0, 1.0, (b"t",) if why == "tags" else (), 60.0)
    if why != "absent":
        assert store.put(old)
    old.frequency = 1
    if why == "lent":
        lane.lent.append((old, 90.0))
    if why == "marks":
        store.end_prefix(b"x", 9)
    value = b"v" * {"large": 2001, "full": 1950}.get(why, 30)
    if why == "full":
        assert store.put(Entry(b"other", bulk_of(b"w" * 500), lane, 7, 50.0, 1.0))
    held = Lane(1) if why == "other lane" else lane
    used, order = store.bytes_used, [e.key for e in ring(store._main)]
    new = store.renew(b"k", bulk_of(value), held, 6 if why == "newer" else 7, 80.0, 2.0)
    assert [e.key for e in ring(store._main)] == order
    if why:
        assert new is None
        assert store.bytes_used == used
        assert why == "absent" or (old.bulk, old.as_of) == (bulk_of(b"old"), 7)
        return
    assert new is old is store.held(b"k")
    assert (old.value, old.as_of, old.deadline_ms, old.bound_ms) == (value, 7, 80.0, 2.0)
    assert (old.expires_ms, old.frequency) == (FOREVER, 1)
    check(store)
