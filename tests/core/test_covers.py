"""What a record takes away: keys, prefixes, tags, everything; in one step, and nothing newer."""

from __future__ import annotations

import pytest

from coherenced.core import calls
from coherenced.core.laws import Laws
from coherenced.core.model import EVERYTHING, Lineage
from coherenced.core.policy import Policy
from coherenced.core.requests import Audit, AuditResult, FaultKind, Level
from tests.core.driver import Driver, invalidate, record, set_to, version


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


def slow(**more: object) -> Driver:
    """A node that looks at one entry in a step, and holds more than that."""
    d = Driver(tidy_entries=1, **more)  # type: ignore[arg-type]
    for i in range(9):
        d.hold(b"user:%d" % i)
    d.hold(b"other")
    return d


def test_T1_whoever_looks_finds_what_a_prefix_covers_gone_before_it_was_looked_for() -> None:
    d = slow(policy=Policy(stale_if_error_ms=60_000.0))
    d.deliver(record(11, prefixes=(b"user:",)))
    assert len(d.node.l1) > 8, "hardly any was looked at"
    keys = [b"user:%d" % i for i in range(9)]
    assert [d.hit(key) for key in keys] == [None] * 9
    assert d.node.hits([b"other", *keys], d.now_ms) == [b"$1\r\nv\r\n"]
    assert d.node.reads.provable(keys[-1], None) is None
    assert d.hit(b"other") == b"v"
    several = d.read(b"other", keys[-1])
    snapshot = d.read(b"other", keys[-2], snapshot=True)
    zero = d.read(keys[-3], max_staleness_ms=0.0)
    for call in (d.take(calls.Fetch), d.take(calls.Fetch), d.take(calls.Fetch)):
        d.failed(call)
    assert [d.fault(r).kind for r in (several, snapshot, zero)] == [FaultKind.UNAVAILABLE] * 3
    audit = d.submit(Audit((keys[-1],)))
    assert d.result(audit) == AuditResult()
    d.write(set_to(keys[-1], b"w", if_version=version(10)))
    assert d.take(calls.Mutate).mutations[0].unchanged_since == 10, "not held since then"


def test_T1_it_is_looked_for_behind_and_the_mark_is_forgotten() -> None:
    d = slow()
    d.deliver(record(11, prefixes=(b"user:",)))
    before = len(d.node.l1)
    d.sleep(5)
    assert before - 7 < len(d.node.l1) < before, "one in a millisecond"
    d.sleep(30)
    assert list(d.node.l1.entries) == [b"other"]
    assert d.node.l1.marks is None and not d.node.l1.untidy
    assert d.node.covers.dropped + d.node.l1.swept == 9, "each is counted once"
    due_ms = d.node.next_deadline_ms()
    assert due_ms > d.now_ms + 1, "nothing is left to do"


def test_T1_what_is_read_while_it_is_looked_for_is_held() -> None:
    d = slow()
    d.deliver(record(11, prefixes=(b"user:",)))
    d.read(b"user:8")
    d.fetched(d.take(calls.Fetch), b"new", at=11)
    assert d.hit(b"user:8") == b"new"
    d.sleep(30)
    assert d.hit(b"user:8") == b"new"


def test_T1_a_fill_from_before_the_prefix_is_refused_as_ever() -> None:
    d = slow()
    d.read(b"user:late")
    fetch = d.take(calls.Fetch)
    d.deliver(record(11, prefixes=(b"user:",)))
    d.fetched(fetch, b"old", at=10)
    assert b"user:late" not in d.node.l1.entries


def test_T1_marks_of_several_records_are_all_kept_until_they_were_looked_for() -> None:
    d = slow()
    d.deliver(record(11, prefixes=(b"none",)))
    d.sleep(4)
    d.deliver(record(12, prefixes=(b"user:1", b"user:")), record(13, prefixes=(b"other",)))
    d.read(b"user:1")
    d.fetched(d.take(calls.Fetch), b"new", at=13)
    assert d.hit(b"user:0") is d.hit(b"other") is None
    d.sleep(60)
    assert list(d.node.l1.entries) == [b"user:1"]


@pytest.mark.parametrize("law", ["marks_cover", "marks_stay"])
def test_T1_without_the_law_what_was_invalidated_is_served(law: str) -> None:
    d = slow(laws=Laws(**{law: False}), checked=False)
    d.deliver(record(11, prefixes=(b"user:",)))
    assert d.hit(b"user:8") == b"v"


def test_A4_everything_spares_what_was_read_ahead_of_it() -> None:
    d = slow()
    d.read(b"ahead")
    d.fetched(d.take(calls.Fetch), b"new", at=12)
    d.deliver(record(11, flags=EVERYTHING), record(12, b"x"))
    assert [d.hit(k) for k in (b"ahead", b"other", b"user:8")] == [b"new", None, None]
    d.sleep(60)
    assert list(d.node.l1.entries) == [b"ahead"]


def test_A5_a_dropped_lane_is_gone_at_once_and_taken_apart_behind() -> None:
    d = slow()
    d.deliver(record(11, flags=EVERYTHING))
    l1 = d.node.l1
    assert len(l1) == 0 and l1.untidy and l1.bytes_used
    d.sleep(60)
    assert l1.bytes_used == 0 and not l1.untidy


def test_W5_an_accepted_prefix_is_marked_and_what_follows_it_is_held() -> None:
    d = slow()
    d.write(invalidate(prefixes=(b"user:",)), ack=Level.NONE)
    assert d.hit(b"user:8") is None and len(d.node.l1) > 8
    d.read(b"user:8")
    d.mutated(d.take(calls.Mutate), first=11, replies=[None])
    d.fetched(d.take(calls.Fetch), b"new", at=lineage_at(d))
    assert d.hit(b"user:8") == b"new"
    d.sleep(60)
    assert sorted(d.node.l1.entries) == [b"other", b"user:8"]


def lineage_at(d: Driver) -> Lineage:
    found = d.node.lane.lineage
    assert found is not None
    return found


def test_W5_an_accepted_tag_ends_what_carries_any_and_nothing_else() -> None:
    d = slow()
    d.hold(b"tagged", labels=(b"t",))
    d.write(invalidate(tags=(b"other",)), ack=Level.NONE)
    assert (d.hit(b"tagged"), d.hit(b"other")) == (None, b"v")
    d.sleep(60)
    assert len(d.node.l1) == 10


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
