"""What is fetched, and what of it gets into L1: deadlines, the fence, no way back."""

from __future__ import annotations

import pytest

from coherenced.core import calls
from coherenced.core.laws import Laws
from coherenced.core.model import Fetched, Query, ReplyError
from coherenced.core.policy import Policy
from coherenced.core.requests import AskResult, Level, Source
from tests.core.driver import (
    COVERING_K,
    OTHER_EPOCH,
    Driver,
    lineage,
    record,
    set_to,
    version,
)

# -- fills (F1, F4) ---------------------------------------------------------------------------


def test_a_miss_is_fetched_answered_and_stored() -> None:
    d = Driver()
    read = d.read(b"k")
    fetch = d.take(calls.Fetch)
    assert fetch.items == (b"k",)
    d.fetched(fetch, b"v", at=12)
    value = d.result(read).values[0]
    assert (value.value, value.version, value.source) == (b"v", version(12), Source.L2)
    assert (value.age_ms, value.stale) == (0.0, False)
    assert d.node.l1.entries[b"k"].as_of == 12


def test_F1_the_deadline_counts_from_before_the_request_was_sent() -> None:
    d = Driver()
    d.read(b"k")
    sent_ms = d.now_ms
    d.now_ms += 30
    d.fetched(d.take(calls.Fetch), Fetched(b"v", ttl_ms=100))
    assert d.node.l1.entries[b"k"].deadline_ms == sent_ms + 100
    d.now_ms = sent_ms + 99.9
    assert d.hit(b"k") == b"v"
    d.now_ms = sent_ms + 100
    assert d.hit(b"k") is None


def test_L1_answers_only_while_a_value_of_an_origin_is_fresh() -> None:
    """For how long that is the value itself tells; what is configured counts where it does not."""
    own = {"has_origin": True, "grace_ms": 2_000, "early_ms": 500}
    d = Driver(policy=Policy(max_age_ms=60_000, **own))
    for labels, until_ms in (
        ((), 7_500),
        ((b"t", b"coh:life=10000/4000"), 5_500),
        ((b"coh:life=10000",), 9_500),
    ):
        d.hold(b"k", ttl_ms=10_000, labels=labels)
        assert d.node.l1.entries[b"k"].deadline_ms == d.now_ms + until_ms
        d.node.l1.remove(b"k")
    d = Driver(policy=Policy(max_age_ms=60_000))
    d.hold(b"k", ttl_ms=10_000, labels=(b"coh:life=10000/4000",))
    assert d.node.l1.entries[b"k"].deadline_ms == d.now_ms + 10_000, "a loader's is its callers'"


def test_F1_there_is_always_a_maximum_age() -> None:
    d = Driver(policy=Policy(max_age_ms=500))
    d.hold(b"forever")
    d.hold(b"long", ttl_ms=10_000)
    assert d.node.l1.entries[b"forever"].deadline_ms == d.now_ms + 500
    assert d.node.l1.entries[b"long"].deadline_ms == d.now_ms + 500


def test_the_real_expiry_is_told_whatever_the_deadline() -> None:
    d = Driver(policy=Policy(max_age_ms=500))
    read = d.read(b"k")
    d.now_ms += 30
    d.fetched(d.take(calls.Fetch), Fetched(b"v", ttl_ms=10_000))
    assert d.result(read).values[0].expires_in_ms == 9970
    d.now_ms += 100
    held = d.result(d.read(b"k")).values[0]
    assert (held.source, held.expires_in_ms, held.ttl_ms) == (Source.L1, 9870, 370)
    d.hold(b"forever")
    assert d.result(d.read(b"forever")).values[0].expires_in_ms is None
    absent = d.read(b"none")
    d.fetched(d.take(calls.Fetch), Fetched(None))
    assert d.result(absent).values[0].expires_in_ms is None


def test_F1_what_is_over_when_it_arrives_is_given_but_not_stored() -> None:
    d = Driver()
    read = d.read(b"k")
    d.now_ms += 50
    d.fetched(d.take(calls.Fetch), Fetched(b"v", ttl_ms=50))
    assert d.value(read) == b"v"
    assert len(d.node.l1) == 0


def test_F1_without_the_law_the_ttl_of_redis_is_outlived() -> None:
    d = Driver(laws=Laws(entry_deadline=False))
    d.hold(b"k", ttl_ms=100)
    d.now_ms += 200
    assert d.hit(b"k") == b"v"


def test_F4_not_there_is_stored_with_a_short_cap_of_its_own() -> None:
    d = Driver(policy=Policy(max_age_ms=60_000, negative_max_age_ms=200))
    read = d.read(b"k")
    d.fetched(d.take(calls.Fetch), None)
    assert d.value(read) is None
    entry = d.node.hit(b"k", d.now_ms)
    assert entry is not None and entry.value is None
    assert entry.deadline_ms == d.now_ms + 200


def test_F4_not_there_does_not_outlive_the_maximum_age() -> None:
    d = Driver(policy=Policy(max_age_ms=100, negative_max_age_ms=5000))
    d.hold(b"k", None)
    assert d.node.l1.entries[b"k"].deadline_ms == d.now_ms + 100


def test_F5_a_fill_is_told_to_nobody() -> None:
    d = Driver()
    before = len(d.open)
    d.read(b"k")
    d.fetched(d.take(calls.Fetch), b"v")
    assert d.open[before:] == []


def test_an_error_is_given_to_the_reader_and_never_stored() -> None:
    d = Driver()
    read = d.read(b"list")
    wrong = ReplyError("WRONGTYPE Operation against a key holding the wrong kind of value")
    d.fetched(d.take(calls.Fetch), Fetched(None, error=wrong))
    assert d.result(read).values[0].error == wrong
    assert len(d.node.l1) == 0


def test_K6_a_pending_key_is_not_stored() -> None:
    for law in (True, False):
        d = Driver(laws=Laws(pending_not_cached=law))
        read = d.read(b"k")
        d.fetched(d.take(calls.Fetch), Fetched(b"v", pending=True))
        assert d.value(read) == b"v"
        assert (b"k" in d.node.l1.entries) is not law


def test_a_value_too_large_for_the_store_is_passed_through() -> None:
    d = Driver(max_value_bytes=10)
    read = d.read(b"k")
    d.fetched(d.take(calls.Fetch), b"x" * 11)
    assert d.value(read) == b"x" * 11
    assert len(d.node.l1) == 0
    assert d.node.fills.stored == 0


# -- the fence (F2) ---------------------------------------------------------------------------


@pytest.mark.parametrize("covering", COVERING_K)
def test_F2_a_fill_overtaken_by_an_invalidation_is_given_but_not_stored(
    covering: dict[str, object],
) -> None:
    d = Driver()
    read = d.read(b"k")
    fetch = d.take(calls.Fetch)
    terms = dict(covering)
    d.deliver(record(11, *terms.pop("keys", ()), **terms))  # type: ignore[misc,arg-type]
    d.fetched(fetch, Fetched(b"old", labels=(b"t",)), at=10)
    assert d.value(read) == b"old", "it was asked before the invalidation"
    assert len(d.node.l1) == 0


def test_F2_a_fill_as_new_as_the_invalidation_is_stored() -> None:
    d = Driver()
    d.read(b"k")
    fetch = d.take(calls.Fetch)
    d.deliver(record(11, b"k"))
    d.fetched(fetch, b"new", at=11)
    assert d.hit(b"k") == b"new"


def test_F2_a_fill_from_before_what_was_applied_is_not_stored_and_is_a_reason_to_probe() -> None:
    d = Driver()
    d.deliver(record(11))
    d.read(b"k")
    d.forget(calls.Probe)
    d.fetched(d.take(calls.Fetch), b"v", at=10)
    assert len(d.node.l1) == 0
    assert d.has(calls.Probe)


def test_F2_a_fill_from_another_epoch_is_not_stored_and_is_a_reason_to_probe() -> None:
    d = Driver()
    read = d.read(b"k")
    d.fetched(d.take(calls.Fetch), b"v", at=lineage(3, epoch=OTHER_EPOCH))
    assert d.value(read) == b"v"
    assert len(d.node.l1) == 0
    assert d.has(calls.Probe)


def test_F2_A5_a_fill_asked_before_the_lane_was_dropped_is_not_stored() -> None:
    d = Driver()
    read = d.read(b"k")
    fetch = d.take(calls.Fetch)
    d.tick(300)
    d.prove(lineage(3, epoch=OTHER_EPOCH))
    d.fetched(fetch, b"old", at=10)
    assert d.value(read) == b"old"
    assert len(d.node.l1) == 0


def test_F2_a_fill_while_a_write_of_this_node_to_the_key_is_accepted_is_not_stored() -> None:
    d = Driver()
    d.read(b"k")
    fetch = d.take(calls.Fetch)
    d.write(set_to(b"k", b"new"), ack=Level.NONE)
    d.fetched(fetch, b"old")
    assert b"k" not in d.node.l1.entries


def test_F2_without_the_law_the_overtaken_fill_is_stored() -> None:
    d = Driver(laws=Laws(fill_fence=False), checked=False)
    d.read(b"k")
    fetch = d.take(calls.Fetch)
    d.deliver(record(11, b"k"))
    d.fetched(fetch, b"old", at=10)
    assert d.hit(b"k") == b"old"


# -- what Redis has shown --------------------------------------------------------------------


def test_what_redis_has_shown_is_never_followed_by_anything_older() -> None:
    """A query answered from ahead of the bus: its keys' older copies go at once."""
    d = Driver()
    d.hold(b"k", b"old")
    d.hold(b"other")
    asked = d.ask(Query((b"STRLEN", b"k"), (b"k",)))
    d.fetched(d.take(calls.Fetch), 7, at=12)
    assert d.result(asked) == AskResult(7)
    assert (d.hit(b"k"), d.hit(b"other")) == (None, b"v")


def test_F2_a_fill_from_ahead_is_dropped_when_the_chain_gets_there_by_another_record() -> None:
    """The old primary answered the fill, a failover lost what it had read."""
    d = Driver()
    d.hold(b"k", b"of the lost branch", at=12)
    d.deliver(record(11))
    d.deliver(record(12, branch=b"b", prev=d.node.lane.tag))
    assert d.hit(b"k") is None
    assert [e["reason"] for e in d.event("lane_dropped")] == ["fork"]
    assert d.node.lane.applied == 12
    d.prove(lineage(12, b"b"))
    d.hold(b"k", b"new", at=lineage(12, b"b"))
    assert d.hit(b"k") == b"new"


def test_F2_an_answer_that_stays_behind_what_is_relied_on_is_a_fork() -> None:
    d = Driver()
    d.hold(b"k", b"of the lost branch", at=12)
    d.tick(250)
    d.prove(10)
    assert b"k" not in d.node.l1.entries
    assert [e["reason"] for e in d.event("lane_dropped")] == ["fork"]


def test_F2_without_the_law_it_is_served_until_its_time_is_over() -> None:
    d = Driver(laws=Laws(reliance_checked=False), checked=False)
    d.hold(b"k", b"of the lost branch", at=12)
    d.tick(250)
    d.prove(10)
    assert d.hit(b"k") == b"of the lost branch"
