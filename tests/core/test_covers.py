"""What a record takes away: keys, prefixes, tags, everything; in one step, and nothing newer."""

from __future__ import annotations

import pytest

from coherenced.core import calls
from coherenced.core.model import EVERYTHING
from tests.core.driver import Driver, record


def test_A4_all_keys_of_a_record_are_dropped_in_one_step() -> None:
    d = Driver()
    for key in (b"a", b"b", b"c"):
        d.hold(key)
    d.deliver(record(11, b"a", b"b"))
    assert [d.hit(k) for k in (b"a", b"b", b"c")] == [None, None, b"v"]


def test_A4_what_is_as_new_as_the_record_stays() -> None:
    d = Driver()
    d.read(b"k")
    d.fetched(d.take(calls.Fetch), b"new", at=11)
    d.deliver(record(11, b"k"))
    assert d.hit(b"k") == b"new"


def test_A4_everything_is_one_record() -> None:
    d = Driver()
    for i in range(20):
        d.hold(b"%d" % i)
    d.deliver(record(11, flags=EVERYTHING))
    assert len(d.node.l1) == 0


def test_T1_a_prefix_is_one_record_whatever_the_number_of_keys() -> None:
    d = Driver()
    for i in range(10):
        d.hold(b"user:%d" % i)
    d.hold(b"other")
    d.deliver(record(11, prefixes=(b"user:",)))
    assert list(d.node.l1.entries) == [b"other"]


def test_T1_what_is_remembered_of_tags_is_bounded_and_forgetting_kills_what_carries_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coherenced.core.covers.MAX_TAGS_REMEMBERED", 10)
    d = Driver()
    d.hold(b"tagged", labels=(b"x",))
    d.hold(b"plain")
    d.read(b"late")
    fetch = d.take(calls.Fetch)
    for i in range(30):
        d.deliver(record(11 + i, tags=(b"t%d" % i,)))
    assert len(d.node.lane.tag_seq) <= 10
    assert (d.hit(b"tagged"), d.hit(b"plain")) == (None, b"v")
    d.fetched(fetch, calls.Fetched(b"v", labels=(b"t0",)), at=10)
    assert b"late" not in d.node.l1.entries
