"""Reads that are not a plain hit: proving, fetching, sharing, storing, falling back."""

from __future__ import annotations

import pytest

from coherenced.core import calls
from coherenced.core.flights import FETCH_BATCH, FETCHES_OPEN
from coherenced.core.laws import Laws
from coherenced.core.model import EVERYTHING, Fetched, Query, ReplyError
from coherenced.core.policy import Policy
from coherenced.core.reads import PROOF_WAIT_MS
from coherenced.core.requests import AskResult, FaultKind, Level, ReadResult, Source
from tests.core.driver import (
    OTHER_EPOCH,
    Driver,
    delete,
    invalidate,
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


def test_an_empty_read_is_answered_empty() -> None:
    d = Driver()
    assert d.result(d.read()) == ReadResult(())


# -- the fence (F2) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "covering",
    [
        {"keys": (b"k",)},
        {"prefixes": (b"k",)},
        {"tags": (b"t",)},
        {"flags": EVERYTHING},
    ],
)
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


# -- one fetch for all who ask (F3) -----------------------------------------------------------


def test_F3_one_fetch_per_key_serves_all_who_ask() -> None:
    d = Driver()
    reads = [d.read(b"k") for _ in range(100)]
    assert sum(isinstance(c, calls.Fetch) for c in d.open) == 1
    d.fetched(d.take(calls.Fetch), b"v")
    assert [d.value(r) for r in reads] == [b"v"] * 100
    assert d.node.flights.coalesced == 99


@pytest.mark.parametrize(
    "covering",
    [
        {"keys": (b"k",)},
        {"prefixes": (b"k",)},
        {"tags": (b"t",)},
        {"flags": EVERYTHING},
    ],
)
def test_F3_nobody_who_asked_after_an_invalidation_is_given_a_fetch_sent_before_it(
    covering: dict[str, object],
) -> None:
    """Of a tag too, although nobody knows the tags of a value that is still on its way."""
    d = Driver()
    early = d.read(b"k")
    first = d.take(calls.Fetch)
    terms = dict(covering)
    d.deliver(record(11, *terms.pop("keys", ()), **terms))  # type: ignore[misc,arg-type]
    late = d.read(b"k")
    second = d.take(calls.Fetch)
    d.fetched(first, Fetched(b"old", labels=(b"t",)), at=10)
    assert d.value(early) == b"old"
    assert late not in d.outcomes
    d.fetched(second, Fetched(b"new", labels=(b"t",)), at=11)
    assert d.value(late) == b"new"
    assert d.hit(b"k") == b"new"


def test_F3_without_the_law_they_are() -> None:
    d = Driver(laws=Laws(join_only_fresh_flights=False))
    d.read(b"k")
    d.deliver(record(11, b"k"))
    late = d.read(b"k")
    d.fetched(d.take(calls.Fetch), b"old", at=10)
    assert d.value(late) == b"old"


def test_F3_a_fetch_sent_longer_ago_than_the_bound_is_not_shared() -> None:
    d = Driver()
    d.read(b"k", max_staleness_ms=50)
    d.now_ms += 51
    d.read(b"k", max_staleness_ms=50)
    d.read(b"k", max_staleness_ms=900)
    assert sum(isinstance(c, calls.Fetch) for c in d.open) == 2


@pytest.mark.parametrize(
    "terms",
    [{"max_staleness_ms": 0}, {"skip_l1": True}, {"min_version": version(11)}],
)
def test_F3_who_needs_a_newer_value_does_not_share(terms: dict[str, object]) -> None:
    d = Driver()
    d.read(b"k")
    d.read(b"k", **terms)
    assert sum(isinstance(c, calls.Fetch) for c in d.open) == 2


def test_F3_a_fetch_that_was_not_sent_yet_is_shared_with_everyone() -> None:
    d = Driver()
    for i in range(FETCHES_OPEN):
        d.read(b"%d" % i)
    waiting = [d.read(b"k"), d.read(b"k", max_staleness_ms=0)]
    fetches = [d.take(calls.Fetch) for _ in range(FETCHES_OPEN)]
    assert not d.has(calls.Fetch)
    d.fetched(fetches[0], b"v")
    d.fetched(d.take(calls.Fetch), b"v")
    assert [d.value(r) for r in waiting] == [b"v", b"v"]


def test_K6_a_linearizable_key_shares_no_fetch_that_was_sent() -> None:
    d = Driver(policy=Policy(linearizable=True))
    d.read(b"k")
    d.read(b"k")
    assert sum(isinstance(c, calls.Fetch) for c in d.open) == 2


def test_many_misses_share_round_trips() -> None:
    d = Driver()
    reads = [d.read(b"%d" % i) for i in range(FETCHES_OPEN + 2 * FETCH_BATCH)]
    fetches = [d.take(calls.Fetch) for _ in range(FETCHES_OPEN)]
    assert not d.has(calls.Fetch), "bounded"
    for fetch in fetches:
        d.fetched(fetch, b"v")
    for _ in range(2):
        fetch = d.take(calls.Fetch)
        assert len(fetch.items) == FETCH_BATCH
        d.fetched(fetch, *[b"v"] * FETCH_BATCH)
    assert all(d.value(r) == b"v" for r in reads)


# -- multi-get --------------------------------------------------------------------------------


def test_a_multi_get_keeps_its_order_whatever_comes_from_where() -> None:
    d = Driver()
    d.hold(b"b", b"B")
    read = d.read(b"a", b"b", b"c", b"a")
    assert d.take(calls.Fetch).items == (b"a", b"c")
    d = Driver()
    d.hold(b"b", b"B")
    read = d.read(b"a", b"b", b"c", b"a")
    d.fetched(d.take(calls.Fetch), b"A", None)
    assert [v.value for v in d.result(read).values] == [b"A", b"B", None, b"A"]
    assert [v.source for v in d.result(read).values] == ["l2", "l1", "l2", "l2"]


def test_a_multi_get_fails_as_a_whole_and_only_once() -> None:
    d = Driver()
    read = d.read(b"a", b"b")
    d.failed(d.take(calls.Fetch))
    assert d.fault(read).kind == FaultKind.UNAVAILABLE
    assert d.node.waiting == 0


def test_S2_a_snapshot_that_is_held_whole_is_one_moment() -> None:
    d = Driver()
    d.hold(b"a")
    d.hold(b"b")
    read = d.read(b"a", b"b", snapshot=True)
    assert [v.source for v in d.result(read).values] == ["l1", "l1"]


@pytest.mark.parametrize("missing", ["absent", "newer", "unproved", "zero bound"])
def test_S2_else_one_script_fetches_all(missing: str) -> None:
    d = Driver()
    terms: dict[str, object] = {}
    d.hold(b"a")
    if missing == "newer":
        d.hold(b"b", at=11)
    elif missing != "absent":
        d.hold(b"b")
    if missing == "unproved":
        d.now_ms += 2000
    if missing == "zero bound":
        terms = {"max_staleness_ms": 0}
    read = d.read(b"a", b"b", snapshot=True, **terms)
    fetch = d.take(calls.Fetch)
    assert fetch.items == (b"a", b"b")
    d.fetched(fetch, b"1", b"1", at=12)
    assert [(v.value, v.version.seq) for v in d.result(read).values] == [(b"1", 12), (b"1", 12)]


def test_S2_a_snapshot_shares_no_fetch_and_is_never_split() -> None:
    d = Driver()
    for i in range(FETCHES_OPEN):
        d.read(b"%d" % i)
    for i in range(FETCH_BATCH - 1):
        d.read(b"x%d" % i)
    keys = tuple(b"s%d" % i for i in range(100))
    d.read(*keys, snapshot=True)
    d.fetched(d.take(calls.Fetch), b"v")
    for _ in range(FETCHES_OPEN - 1):
        d.take(calls.Fetch)
    batch = d.take(calls.Fetch)
    assert batch.items[-100:] == keys


def test_S2_a_snapshot_whose_reply_was_lost_fails_rather_than_shows_two_moments() -> None:
    d = Driver()
    read = d.read(b"a", b"b", snapshot=True)
    d.failed(d.take(calls.Fetch), calls.Failure.LOST)
    assert d.fault(read).kind == FaultKind.UNAVAILABLE


def test_S2_without_the_law_each_key_is_looked_up_alone() -> None:
    d = Driver(laws=Laws(snapshot=False))
    d.hold(b"a")
    read = d.read(b"a", b"b", snapshot=True)
    d.fetched(d.take(calls.Fetch), b"v", at=12)
    assert [v.version.seq for v in d.result(read).values] == [10, 12]


# -- proofs (V3, V4, V5) ----------------------------------------------------------------------


def test_V5_past_the_bound_the_log_is_asked_and_the_entry_is_not_thrown_away() -> None:
    d = Driver()
    d.hold(b"k")
    d.now_ms += 1001
    assert d.hit(b"k") is None
    read = d.read(b"k")
    assert not d.has(calls.Fetch)
    d.prove(10)
    value = d.result(read).values[0]
    assert (value.value, value.source, value.stale) == (b"v", Source.L1, False)
    assert d.hit(b"k") == b"v"


def test_V5_what_changed_meanwhile_is_fetched() -> None:
    d = Driver()
    d.hold(b"k")
    d.now_ms += 1001
    read = d.read(b"k")
    d.prove(11)
    d.deliver(record(11, b"k"))
    assert read not in d.outcomes
    d.fetched(d.take(calls.Fetch), b"new", at=11)
    assert d.value(read) == b"new"


def test_V4_with_a_bound_of_zero_only_a_probe_sent_after_the_read_proves_it() -> None:
    d = Driver()
    d.hold(b"k")
    d.tick(250)
    early = d.take(calls.Probe)
    read = d.read(b"k", max_staleness_ms=0)
    own = d.take(calls.Probe)
    assert own.member is None and own.call_id > early.call_id
    d.probed(early, 10)
    assert read not in d.outcomes
    d.probed(own, 10)
    assert d.value(read) == b"v"


def test_V4_one_probe_serves_all_who_wait_and_those_who_come_later_share_the_next() -> None:
    d = Driver()
    d.hold(b"k")
    first = [d.read(b"k", max_staleness_ms=0) for _ in range(10)]
    probe = d.take(calls.Probe)
    later = [d.read(b"k", max_staleness_ms=0) for _ in range(10)]
    assert not d.has(calls.Probe)
    d.probed(probe, 10)
    assert d.value(first[0]) == b"v"
    assert not any(r in d.outcomes for r in later)
    d.probed(d.take(calls.Probe), 10)
    assert all(d.value(r) == b"v" for r in first + later)
    assert not d.has(calls.Probe)


def test_V4_when_the_lane_moved_on_the_read_waits_for_it() -> None:
    d = Driver()
    d.hold(b"k")
    read = d.read(b"k", max_staleness_ms=0)
    d.probed(d.take(calls.Probe), 11)
    assert read not in d.outcomes
    d.deliver(record(11, b"other"))
    assert d.value(read) == b"v"


def test_V4_when_the_probe_shows_the_key_changed_the_new_value_is_fetched() -> None:
    d = Driver()
    d.hold(b"k")
    read = d.read(b"k", max_staleness_ms=0)
    d.probed(d.take(calls.Probe), 11)
    d.deliver(record(11, b"k"))
    d.fetched(d.take(calls.Fetch), b"new", at=11)
    assert d.value(read) == b"new"


def test_V4_a_mutation_sent_after_the_read_proves_it_too() -> None:
    d = Driver()
    d.hold(b"k")
    read = d.read(b"k", max_staleness_ms=0)
    d.write(delete(b"other"))
    d.mutated(d.take(calls.Mutate), first=11, replies=[1])
    assert d.value(read) == b"v"


def test_V4_a_namespace_with_a_bound_of_zero_has_no_plain_hits() -> None:
    d = Driver(policy=Policy(max_staleness_ms=0))
    d.hold(b"k")
    assert d.hit(b"k") is None
    read = d.read(b"k")
    assert read not in d.outcomes
    d.prove(10)
    assert d.value(read) == b"v"


def test_V4_without_the_law_an_earlier_proof_is_enough() -> None:
    d = Driver(laws=Laws(probe_after_arrival=False))
    d.hold(b"k")
    assert d.value(d.read(b"k", max_staleness_ms=0)) == b"v"


def test_V3_a_shorter_bound_of_one_call_is_kept() -> None:
    d = Driver()
    d.hold(b"k")
    d.now_ms += 100
    assert d.value(d.read(b"k", max_staleness_ms=100)) == b"v"
    read = d.read(b"k", max_staleness_ms=99)
    assert read not in d.outcomes and d.has(calls.Probe)


def test_K3_a_longer_bound_than_the_published_one_is_not_served() -> None:
    """The roster promises writers that after its bound this node serves nothing older."""
    d = Driver(policy=Policy(max_staleness_ms=1000))
    d.hold(b"k")
    d.now_ms += 1001
    read = d.read(b"k", max_staleness_ms=60_000)
    assert read not in d.outcomes
    d.prove(10)
    assert d.value(read) == b"v"


def test_V3_without_the_law_whatever_is_held_is_served() -> None:
    d = Driver(laws=Laws(staleness_bound=False))
    d.hold(b"k")
    d.now_ms += 10_000
    assert d.hit(b"k") == b"v"
    assert d.value(d.read(b"k")) == b"v"


def test_a_read_does_not_wait_for_a_proof_for_ever() -> None:
    d = Driver()
    d.hold(b"k")
    d.now_ms += 1001
    read = d.read(b"k")
    d.forget(calls.Probe)
    d.sleep(PROOF_WAIT_MS)
    d.fetched(d.take(calls.Fetch), b"v", at=10)
    assert d.value(read) == b"v"


def test_A5_who_waits_for_a_proof_of_a_lane_that_is_dropped_is_given_a_fetch() -> None:
    d = Driver()
    d.hold(b"k")
    d.now_ms += 1001
    read = d.read(b"k")
    d.prove(lineage(3, epoch=OTHER_EPOCH))
    d.fetched(d.take(calls.Fetch), b"new", at=lineage(3, epoch=OTHER_EPOCH))
    assert d.value(read) == b"new"


# -- sessions (S1) ----------------------------------------------------------------------------


def test_S1_what_is_held_is_served_when_this_node_has_applied_the_tokens_record() -> None:
    d = Driver()
    d.hold(b"k")
    assert d.value(d.read(b"k", min_version=version(10))) == b"v"
    read = d.read(b"k", min_version=version(11))
    assert d.has(calls.Fetch)
    d.forget(calls.Fetch)
    d.deliver(record(11, b"other"))
    assert read not in d.outcomes
    assert d.value(d.read(b"k", min_version=version(11))) == b"v"


def test_S1_or_when_the_entry_itself_is_as_new_as_the_token() -> None:
    d = Driver()
    d.hold(b"k", at=12)
    assert d.value(d.read(b"k", min_version=version(12))) == b"v"


def test_S1_a_token_of_another_lineage_is_told() -> None:
    d = Driver()
    d.hold(b"k")
    read = d.read(b"k", min_version=version(5, OTHER_EPOCH))
    d.fetched(d.take(calls.Fetch), b"v", at=10)
    assert d.fault(read).kind == FaultKind.OTHER_LINEAGE
    assert "\n" not in d.fault(read).detail


def test_S1_a_token_from_the_future_of_the_lane_is_told() -> None:
    d = Driver()
    read = d.read(b"k", min_version=version(15))
    d.fetched(d.take(calls.Fetch), b"v", at=10)
    assert d.fault(read).kind == FaultKind.BEHIND


def test_S1_without_the_law_something_older_is_served() -> None:
    d = Driver(laws=Laws(min_version=False))
    d.hold(b"k")
    assert d.value(d.read(b"k", min_version=version(11))) == b"v"


# -- Redis out of reach (V6) ------------------------------------------------------------------


def test_V6_within_the_bound_reads_are_served() -> None:
    d = Driver()
    d.hold(b"k")
    d.tick(250)
    d.refuse_probes()
    assert d.hit(b"k") == b"v"
    assert d.value(d.read(b"k")) == b"v"


def test_V6_past_it_there_is_a_clear_error_and_never_a_silent_miss() -> None:
    d = Driver()
    d.hold(b"k")
    d.now_ms += 1001
    read = d.read(b"k")
    d.refuse_probes()
    d.failed(d.take(calls.Fetch))  # past the bound it asks for the value itself
    assert d.fault(read).kind == FaultKind.UNAVAILABLE
    assert d.fault(read).detail == "connection refused"
    miss = d.read(b"other")
    d.failed(d.take(calls.Fetch))
    assert d.fault(miss).kind == FaultKind.UNAVAILABLE


def test_V6_stale_if_error_serves_what_is_held_and_says_so() -> None:
    d = Driver(policy=Policy(stale_if_error_ms=500))
    d.hold(b"k")
    d.now_ms += 1200
    read = d.read(b"k")
    d.refuse_probes()
    d.failed(d.take(calls.Fetch))  # past the bound it asks for the value itself
    value = d.result(read).values[0]
    assert (value.value, value.stale, value.age_ms) == (b"v", True, 1200.0)
    assert d.node.reads.stale_served == 1


def test_V6_stale_if_error_has_an_end() -> None:
    d = Driver(policy=Policy(stale_if_error_ms=500))
    d.hold(b"k")
    d.now_ms += 1501
    read = d.read(b"k")
    d.refuse_probes()
    d.failed(d.take(calls.Fetch))  # past the bound it asks for the value itself
    assert d.fault(read).kind == FaultKind.UNAVAILABLE


def test_V6_an_expired_entry_may_be_stale_if_error_too() -> None:
    d = Driver(policy=Policy(stale_if_error_ms=500))
    d.hold(b"k", ttl_ms=100)
    d.now_ms += 150
    read = d.read(b"k")
    d.failed(d.take(calls.Fetch))
    assert d.result(read).values[0].stale


def test_V6_S1_stale_if_error_keeps_a_sessions_promise() -> None:
    d = Driver(policy=Policy(stale_if_error_ms=500))
    d.hold(b"k")
    read = d.read(b"k", min_version=version(11))
    d.failed(d.take(calls.Fetch))
    assert d.fault(read).kind == FaultKind.UNAVAILABLE


def test_V6_who_must_not_be_answered_from_L1_is_not_answered_stale_either() -> None:
    d = Driver(policy=Policy(stale_if_error_ms=500))
    d.hold(b"k")
    read = d.read(b"k", skip_l1=True)
    d.failed(d.take(calls.Fetch))
    assert d.fault(read).kind == FaultKind.UNAVAILABLE


def test_V6_T1_an_invalidated_value_is_not_served_stale() -> None:
    d = Driver(policy=Policy(stale_if_error_ms=500))
    d.hold(b"k", labels=(b"t",))
    d.deliver(record(11, tags=(b"t",)))
    read = d.read(b"k")
    d.failed(d.take(calls.Fetch))
    assert d.fault(read).kind == FaultKind.UNAVAILABLE


def test_a_lost_fetch_is_sent_once_more_and_then_fails() -> None:
    d = Driver()
    read = d.read(b"k")
    d.failed(d.take(calls.Fetch), calls.Failure.LOST)
    assert read not in d.outcomes
    d.failed(d.take(calls.Fetch), calls.Failure.LOST)
    assert d.fault(read).kind == FaultKind.UNAVAILABLE
    assert not d.has(calls.Fetch)
    assert len(d.node.tickets) == 0


# -- own writes on their way (W5 with ack=none) -----------------------------------------------


def test_W5_readers_wait_for_a_write_that_was_accepted_but_is_not_in_redis_yet() -> None:
    d = Driver()
    d.hold(b"k", b"old")
    write = d.write(set_to(b"k", b"new"), ack=Level.NONE)
    assert write in d.outcomes
    assert d.hit(b"k") is None
    read = d.read(b"k")
    asked = d.ask(Query((b"TTL", b"k"), (b"k",)))
    assert not d.has(calls.Fetch)
    d.mutated(d.take(calls.Mutate), first=11)
    fetch = d.take(calls.Fetch)
    d.fetched(fetch, *(b"new" if i == b"k" else -1 for i in fetch.items), at=11)
    assert d.value(read) == b"new"
    assert d.result(asked) == AskResult(-1)


def test_W5_a_fetch_that_waits_to_be_sent_waits_for_the_accepted_write_too() -> None:
    d = Driver()
    for i in range(FETCHES_OPEN):
        d.read(b"%d" % i)
    fetches = [d.take(calls.Fetch) for _ in range(FETCHES_OPEN)]
    d.read(b"k")
    d.write(set_to(b"k", b"new"), ack=Level.NONE)
    read = d.read(b"k")
    d.fetched(fetches[0], b"v")
    assert not d.has(calls.Fetch), "it would see the value from before the write"
    d.mutated(d.take(calls.Mutate), first=11)
    d.fetched(d.take(calls.Fetch), b"new", at=11)
    assert d.value(read) == b"new"


def test_W5_a_lost_fetch_is_not_sent_again_past_an_accepted_write() -> None:
    d = Driver()
    d.read(b"k")
    fetch = d.take(calls.Fetch)
    d.write(set_to(b"k", b"new"), ack=Level.NONE)
    read = d.read(b"k")
    d.failed(fetch, calls.Failure.LOST)
    assert not d.has(calls.Fetch)
    d.mutated(d.take(calls.Mutate), first=11)
    while d.has(calls.Fetch):
        fetch = d.take(calls.Fetch)
        d.fetched(fetch, *[b"new"] * len(fetch.items), at=11)
    assert d.value(read) == b"new"


@pytest.mark.parametrize(
    "wide",
    [invalidate(prefixes=(b"k",)), invalidate(tags=(b"t",)), invalidate(everything=True)],
)
def test_W5_readers_wait_for_an_accepted_invalidation_of_many(wide: object) -> None:
    d = Driver()
    d.hold(b"k", b"old", labels=(b"t",))
    d.write(wide, ack=Level.NONE)  # type: ignore[arg-type]
    read = d.read(b"k")
    assert not d.has(calls.Fetch)
    d.mutated(d.take(calls.Mutate), first=11, replies=[None])
    d.fetched(d.take(calls.Fetch), b"new", at=11)
    assert d.value(read) == b"new"


def test_readers_are_let_go_when_the_accepted_write_fails() -> None:
    d = Driver()
    d.write(set_to(b"k", b"new"), ack=Level.NONE)
    read = d.read(b"k")
    d.failed(d.take(calls.Mutate))
    d.fetched(d.take(calls.Fetch), b"old")
    assert d.value(read) == b"old"
    assert len(d.event("accepted_write_failed")) == 1


# -- queries ----------------------------------------------------------------------------------


def test_a_query_is_asked_as_it_is_and_its_reply_given_back() -> None:
    d = Driver()
    query = Query((b"PTTL", b"k"), (b"k",))
    asked = d.ask(query)
    fetch = d.take(calls.Fetch)
    assert fetch.items == (query,)
    d.fetched(fetch, 1234)
    assert d.result(asked) == AskResult(1234)


def test_a_query_shares_the_round_trip_of_fills_and_fails_like_them() -> None:
    d = Driver()
    asked = d.ask(Query((b"DBSIZE",)))
    d.failed(d.take(calls.Fetch))
    assert d.fault(asked).kind == FaultKind.UNAVAILABLE
    again = d.ask(Query((b"DBSIZE",)))
    d.failed(d.take(calls.Fetch), calls.Failure.LOST)
    d.fetched(d.take(calls.Fetch), 5)
    assert d.result(again) == AskResult(5)


def test_every_request_is_counted_while_it_waits_and_not_longer() -> None:
    d = Driver()
    d.read(b"a", b"b")
    d.ask(Query((b"DBSIZE",)))
    assert d.node.waiting == 2
    while d.has(calls.Fetch):
        fetch = d.take(calls.Fetch)
        d.fetched(fetch, *(b"v" if isinstance(i, bytes) else 1 for i in fetch.items))
    assert d.node.waiting == 0
    assert len(d.node.tickets) == 0


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
