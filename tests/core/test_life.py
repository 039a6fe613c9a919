"""The mark that tells how old a value is: written, read, and what is made of it."""

from __future__ import annotations

import pytest

from coherenced.core import calls
from coherenced.core.life import LONGEST_MS, Life, age_ms, fresh_ms, life_label, life_of, with_life
from coherenced.core.model import Fetched
from coherenced.core.policy import Policy
from tests.core.driver import Driver


def test_what_is_written_is_read() -> None:
    assert life_label(60_000.9) == b"coh:life=60000"
    assert life_label(60_000, age_ms=5_000, grace_ms=20_000) == b"coh:life=65000/20000"
    assert life_label(1e15, age_ms=7) == b"coh:life=%d" % (LONGEST_MS + 7), "Redis keeps no longer"
    assert life_of(with_life((), 60_000 + 1e15, 1e15)) == Life(LONGEST_MS, LONGEST_MS - 60_000), (
        "fresh as long as was asked, though stale no longer than Redis keeps it"
    )
    assert with_life((b"t",), None) == (b"t",)
    assert life_of(with_life((b"t",), 500)) == Life(500.0, 0.0)
    assert life_of((b"t", b"coh:life=65000/20000")) == Life(65_000.0, 20_000.0)


@pytest.mark.parametrize("odd", [b"", b"x", b"-1", b"1/x", b"1/2/3", b"1.5", "١".encode()])
def test_what_is_no_mark_says_nothing(odd: bytes) -> None:
    assert life_of((b"coh:life=" + odd,)) is None


def test_age_and_freshness() -> None:
    labels = (b"origin=x", life_label(10_000, age_ms=2_000, grace_ms=3_000))
    assert age_ms(labels, 10_000) == 2_000.0 and fresh_ms(labels, 10_000) == 7_000.0
    assert age_ms(labels, 1_000) == 11_000.0 and fresh_ms(labels, 1_000) == -2_000.0
    assert age_ms(labels, 99_000) == 0.0, "never below zero"
    assert age_ms(labels, None) is None and fresh_ms(labels, None) is None
    assert age_ms((b"t",), 500) is None and fresh_ms((b"t",), 500) == 500
    assert age_ms((), 500) is None


def test_a_value_is_as_old_as_its_mark_says_in_L1_too() -> None:
    d = Driver(policy=Policy(max_age_ms=60_000))
    labels = (b"t", life_label(10_000))
    read = d.read(b"k")
    d.fetched(d.take(calls.Fetch), Fetched(b"v", ttl_ms=4_000, labels=labels))
    first = d.result(read).values[0]
    assert (first.source, first.age_ms, first.proved_ms) == ("l2", 6_000.0, 0.0)
    d.now_ms += 300
    entry = d.node.l1.entries[b"k"]
    assert entry.known_age_ms(d.now_ms) == 6_300.0 and entry.left_ms(d.now_ms) == 3_700.0
    again = d.result(d.read(b"k")).values[0]
    assert (again.source, again.age_ms) == ("l1", 6_300.0)
    assert again.proved_ms == 300.0, "which is another question"


def test_a_plain_value_is_as_old_as_its_last_proof() -> None:
    d = Driver()
    d.hold(b"k")
    d.now_ms += 200
    assert d.node.l1.entries[b"k"].known_age_ms(d.now_ms) is None
    value = d.result(d.read(b"k")).values[0]
    assert value.age_ms == value.proved_ms == 200.0
