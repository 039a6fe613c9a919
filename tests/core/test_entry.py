"""One cached key: the reply it holds, its size, its tags; seen by no collector."""

from __future__ import annotations

import gc

import pytest

from coherenced.core.bulk import NIL_BULK
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from tests.core.entries import entry, formula


@pytest.mark.parametrize(
    "value", [b"", b"x", b"x\r\ny", b"\n", b"\x00\xff" * 500, b"$3\r\nabc\r\n"]
)
def test_an_entry_holds_the_reply_as_it_is_sent_and_gives_the_value_back(value: bytes) -> None:
    made = entry(b"k", value)
    assert made.bulk == b"$%d\r\n%b\r\n" % (len(value), value)
    assert made.value == value


def test_F4_not_there_is_a_value_with_redis_own_reply() -> None:
    absent = entry(b"k", None)
    assert absent.bulk is NIL_BULK
    assert absent.value is None
    assert entry(b"k", b"").value == b""


@pytest.mark.parametrize("tags", [(), (b"a",), (b"a", b"longer" * 9)])
@pytest.mark.parametrize("value", [None, b"", b"v" * 1000])
def test_the_size_of_an_entry_is_the_documented_formula(
    value: bytes | None, tags: tuple[bytes, ...]
) -> None:
    assert entry(b"key", value, tags=tags).size == formula(b"key", value, tags)


def test_T1_an_entry_is_covered_by_a_tag_invalidated_after_it_was_read() -> None:
    lane = Lane(0)
    tagged = entry(b"k", as_of=5, tags=(b"a", b"b"), lane=lane)
    assert not tagged.covered()
    lane.tag_seq[b"b"] = 5
    assert not tagged.covered()
    lane.tag_seq[b"b"] = 6
    assert tagged.covered()
    assert not entry(b"k", as_of=5, tags=(b"c",), lane=lane).covered()
    assert not entry(b"k", as_of=5, lane=lane).covered()


def test_printing_an_entry_does_not_print_its_ring() -> None:
    store = L1(100_000, 100)
    store.put(entry(b"a"))
    store.put(entry(b"b"))
    assert repr(store.entries[b"a"]) == "Entry(b'a', as_of=1, 7 bytes)"


def test_entries_do_not_lengthen_the_garbage_collectors_pauses() -> None:
    store = L1(100_000, 100)
    store.put(entry(b"a"))
    assert not gc.is_tracked(store.entries[b"a"])
