"""The memory of what was evicted lately: bounded, and seldom wrong."""

from __future__ import annotations

from coherenced.core.bulk import bulk_of
from coherenced.core.entry import Entry
from coherenced.core.ghosts import Ghosts
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane


def test_a_ghost_is_remembered_once_and_for_as_many_evictions_as_asked() -> None:
    ghosts = Ghosts()
    assert not ghosts.forget(b"a", 10)
    ghosts.remember(b"a", 1024)
    assert ghosts.forget(b"a", 10)
    assert not ghosts.forget(b"a", 10)
    for later, known in ((9, True), (10, False)):
        ghosts.remember(b"a", 1024)
        for i in range(later):
            ghosts.remember(b"%d" % i, 1024)
        assert ghosts.forget(b"a", 10) == (10 if known else 0)


def test_most_ghosts_are_found_again() -> None:
    ghosts = Ghosts()
    keys = [b"key:%d" % i for i in range(10_000)]
    for key in keys:
        ghosts.remember(key, len(keys))
    assert sum(ghosts.forget(key, len(keys)) for key in keys) > 0.85 * len(keys)


def test_the_ghost_table_is_bounded_by_the_window() -> None:
    ghosts = Ghosts()
    for i in range(5000):
        ghosts.remember(b"%d" % i, 1000)
    assert len(ghosts) == 1024
    ghosts.remember(b"x", 1025)
    assert len(ghosts) == 2048
    ghosts.clear()
    assert len(ghosts) == 0 and not ghosts.forget(b"x", 1025)


def test_the_clock_of_the_ghosts_starts_again_before_it_overflows() -> None:
    ghosts = Ghosts()
    ghosts.remember(b"old", 16)
    ghosts._clock = (1 << 32) - 1
    ghosts.remember(b"new", 16)
    assert ghosts.forget(b"new", 16)
    assert not ghosts.forget(b"old", 16)


def test_the_empty_key_is_a_key_like_any_other() -> None:
    ghosts = Ghosts()
    ghosts.remember(b"other", 16)
    assert not ghosts.forget(b"", 16)
    ghosts.remember(b"", 16)
    assert ghosts.forget(b"", 16)
    store = L1(100_000, 100)
    assert store.put(Entry(b"", bulk_of(b"v"), Lane(0), 1, 1e9, 1000.0))
    assert store.remove(b"")
