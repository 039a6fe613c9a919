"""Reads that are not a plain hit: proving, asking, falling back."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import pytest

from coherenced.core import calls
from coherenced.core.bulk import bulk_of
from coherenced.core.flights import FETCH_BATCH, FETCHES_OPEN
from coherenced.core.inputs import Stop
from coherenced.core.laws import Laws
from coherenced.core.model import Fetched, Query, ReplyError
from coherenced.core.page import NoPage
from coherenced.core.policy import Policy
from coherenced.core.reads import PROOF_WAIT_MS
from coherenced.core.requests import AskResult, FaultKind, Get, Level, Read, ReadResult, Source
from tests.core.driver import (
    COVERING_K,
    OTHER_EPOCH,
    Driver,
    delete,
    lineage,
    record,
    set_to,
    version,
)

# -- multi-get --------------------------------------------------------------------------------


def test_an_empty_read_is_answered_empty() -> None:
    d = Driver()
    assert d.result(d.read()) == ReadResult(())


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


def test_no_more_is_held_for_one_read_than_it_may_be_answered_with() -> None:
    d = Driver()
    d.hold(b"held", b"12345")
    read = d.read(b"held", b"a", b"b", b"c", most_bytes=10)
    call = d.take(calls.Fetch)
    d.fetched(call, b"12345", b"1", b"1")
    fault = d.fault(read)
    assert (fault.kind, "more than 10 bytes" in fault.detail) == (FaultKind.TOO_LARGE, True)
    fits = d.read(b"held", b"a", most_bytes=10)
    assert [v.value for v in d.result(fits).values] == [b"12345", b"12345"]
    assert d.node.waiting == 0


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
    d.fetched(d.take(calls.Fetch), *[b"v"] * (FETCH_BATCH - 1))
    batch = d.take(calls.Fetch)
    assert (batch.items, batch.step) == (keys, 0)


def test_S2_W5_a_snapshot_behind_what_waits_for_a_write_is_whole_and_nothing_else_is() -> None:
    d = Driver()
    for key in (b"k", b"s"):
        d.write(set_to(key, b"v"), ack=Level.NONE)
    for _ in range(2):
        if d.has(calls.Mutate):
            d.forget(calls.Mutate)
    d.turn(Read((b"k",)), Read((b"a", b"b"), snapshot=True))
    assert [(c.items, c.step) for c in d.open if isinstance(c, calls.Fetch)] == [((b"a", b"b"), 0)]
    d.turn(Read((b"s", b"c"), snapshot=True), Read((b"d",)))
    assert [(c.items, c.step) for c in d.open if isinstance(c, calls.Fetch)][1:] == [((b"d",), 8)]


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


def test_V5_an_earlier_probe_serves_who_waits_as_soon_as_it_serves_who_comes() -> None:
    """Else the later one of a client's two reads is shown what is held, and the earlier one what
    a later probe has shown to be newer."""
    d = Driver()
    d.hold(b"k")
    d.tick(250)
    early = d.take(calls.Probe)
    d.now_ms += 900
    assert d.hit(b"k") is None
    read = d.read(b"k")
    assert read not in d.outcomes
    d.probed(early, 10)
    assert d.hit(b"k") == b"v"
    assert d.value(read) == b"v"


def test_S1_what_a_later_fetch_is_under_way_for_is_not_held_from_an_earlier_one() -> None:
    """Who asked after an invalidation waits for the later; who comes after him must not be
    answered with the earlier: one client of both would see the key go back in time."""
    d = Driver()
    first = d.read(b"k")
    earlier = d.take(calls.Fetch)
    d.deliver(record(11, b"k"))
    second = d.read(b"k")
    later = d.take(calls.Fetch)
    d.fetched(earlier, b"new", at=11)
    assert d.value(first) == b"new"
    assert d.hit(b"k") is None
    d.fetched(later, b"new", at=11)
    assert d.value(second) == b"new"
    assert d.hit(b"k") == b"new"


def test_V5_what_is_fetched_anew_serves_who_waits_for_a_proof_of_the_old() -> None:
    d = Driver()
    d.hold(b"k")
    d.now_ms += 1001
    impatient = d.read(b"k")
    d.take(calls.Probe)  # which does not come back
    d.now_ms += 200
    waiting = d.read(b"k")
    d.tick(50)
    assert waiting not in d.outcomes
    d.fetched(d.take(calls.Fetch), b"v", at=10)
    assert d.value(impatient) == d.value(waiting) == b"v"


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


@pytest.mark.parametrize(
    ("policy", "read"),
    [
        (Policy(stale_if_error_ms=500), {"max_staleness_ms": 0}),
        (Policy(stale_if_error_ms=500, linearizable=True), {}),
        (Policy(stale_if_error_ms=500, linearizable=True), {"max_staleness_ms": 1000}),
    ],
)
def test_V6_a_linearizable_read_is_answered_stale_only_if_the_call_says_so(
    policy: Policy, read: dict[str, Any]
) -> None:
    def outcome(**wishes: Any) -> Any:
        d = Driver(policy=policy)
        d.hold(b"k")
        d.now_ms += 1200
        request = d.read(b"k", **read, **wishes)
        d.refuse_probes()
        d.failed(d.take(calls.Fetch))
        return d.outcomes[request]

    assert outcome().kind == FaultKind.UNAVAILABLE
    assert outcome(stale_if_error_ms=5000).values[0].stale


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


# -- Get: the same as a Read of its key -------------------------------------------------------


def test_gets_of_one_turn_are_fetched_stored_and_answered_together() -> None:
    d = Driver()
    first = d.turn(*[Get(b"%d" % i) for i in range(FETCH_BATCH + 2)])
    assert [len(call.items) for call in d.open if isinstance(call, calls.Fetch)] == [FETCH_BATCH, 2]
    assert len(d.node.tickets) == d.node.waiting == FETCH_BATCH + 2
    while d.has(calls.Fetch):
        fetch = d.take(calls.Fetch)
        d.fetched(fetch, *[b"v" + key if isinstance(key, bytes) else None for key in fetch.items])
    assert d.together == FETCH_BATCH + 2
    assert [d.outcomes[n] for n in first] == [bulk_of(b"v%d" % i) for i in range(FETCH_BATCH + 2)]
    assert d.hit(b"7") == b"v7"
    assert len(d.node.tickets) == d.node.waiting == 0


def test_gets_wait_for_room_together_and_others_join_them() -> None:
    d = Driver()
    for i in range(FETCHES_OPEN):
        d.read(b"busy%d" % i)
    early = [*d.turn(Get(b"a"), Get(b"b")), *d.turn(Get(b"c"))]
    d.fetched(d.take(calls.Fetch), b"v")
    assert d.open[-1].items == (b"a", b"b", b"c")
    late = d.turn(Get(b"b"))
    d.fetched(d.open.pop(), b"A", b"B", b"C")
    assert [d.outcomes[n] for n in early + late] == [*map(bulk_of, (b"A", b"B", b"C", b"B"))]
    assert d.together == 0


class Seen(NoPage):
    """What a page is told."""

    def __init__(self) -> None:
        self.touched: list[bytes] = []

    def touch(self, keys: Iterable[bytes]) -> None:
        self.touched += keys


def test_gets_whose_answer_comes_after_its_time_are_answered_and_nothing_is_kept() -> None:
    d = Driver(policy=Policy(max_age_ms=100))
    asked = d.turn(Get(b"a"), Get(b"b"))
    d.now_ms += 100
    d.fetched(d.take(calls.Fetch), b"A", b"B")
    assert [d.outcomes[n] for n in asked] == [bulk_of(b"A"), bulk_of(b"B")]
    assert d.together == 2 and not d.node.l1.entries


def test_gets_to_a_node_that_stops_are_refused_and_too_many_wait_for_none() -> None:
    d = Driver(max_waiting=2)
    d.turn(Get(b"a"), Get(b"b"))
    (late,) = d.turn(Get(b"c"))
    assert d.fault(late).kind == FaultKind.OVERLOADED
    d = Driver()
    d.step(Stop())
    refused = d.turn(Get(b"a"), Get(b"b"))
    assert [d.fault(n).kind for n in refused] == [FaultKind.STOPPING] * 2


USUAL_CASES = (
    "reliance_checked",
    "fill_fence",
    "fill_not_backwards",
    "tags_cover",
    "chain_check",
    "no_way_back",
    "entry_deadline",
    "join_only_fresh_flights",
    "pending_not_cached",
    "probe_after_arrival",
    "own_write_drops",
)


@pytest.mark.parametrize("seed", range(30))
def test_gets_of_one_turn_are_answered_as_reads_and_leave_the_same_behind(seed: int) -> None:
    """As below, with several at once, of which most are found plainly; whichever law is off."""
    random = Random(seed)
    off = {law: False for law in USUAL_CASES if random.random() < 0.15 * (seed % 2)}
    given: dict[str, Any] = {
        "laws": Laws(**off),
        "checked": not off,
        "policy": Policy(max_age_ms=900, negative_max_age_ms=300, stale_if_error_ms=400),
        "rules": (("z*", Policy(max_staleness_ms=0)), ("l*", Policy(linearizable=True)))
        if seed % 5 == 0
        else (),
        "max_waiting": 40 if seed % 7 == 0 else 1000,
        "max_bytes": 6000 if seed % 6 == 0 else 1 << 20,
        "max_value_bytes": 50,
    }
    pages = Seen(), Seen()
    gets, reads = (Driver(**given, page=page) for page in pages)
    pairs: list[tuple[int, int]] = []
    named = [b"%c%d" % (first, second) for first in b"azl" for second in range(200)]
    head = 10
    for _ in range(120):
        keys = random.choices(named, k=random.choice((1, 2, 5, 5, 20, 80)))
        what, wait_ms = random.random(), random.choice((1.0, 60.0, 400.0))
        at = max(0, head + random.choice((-1, 0, 0, 0, 0, 0, 0, 1)))
        values = (b"", None, b"v", b"w" * 40, b"too long" * 9)
        found = {key: Fetched(random.choice(values), random.choice((-1, -1, 50))) for key in named}
        if random.random() < 0.6:
            found = {key: Fetched(b"plain") for key in named}
        if random.random() < 0.2:
            found[keys[0]] = Fetched(b"v", labels=(b"t",), pending=random.random() < 0.5)
        written = random.random() < 0.5
        if what < 0.3:
            mine = gets.turn(*map(Get, keys))
            pairs += zip(mine, reads.turn(*[Read((key,)) for key in keys]), strict=True)
            continue
        if 0.45 <= what < 0.55:
            head += 1
        for d in (gets, reads):
            if what < 0.37:
                d.turn(Read(tuple(keys[:3])), Read(tuple(keys[:1]), max_staleness_ms=0))
            elif what < 0.4:
                d.write(set_to(keys[0], b"n"), ack=Level.NONE if written else Level.REDIS)
            elif what < 0.45:
                d.sleep(wait_ms)
            elif what < 0.55:
                d.deliver(record(head, keys[0]))
            elif what < 0.65:
                for _ in range(3):
                    if d.has(calls.Probe):
                        d.probed(d.take(calls.Probe), head)
            elif d.has(calls.Fetch):
                fetch = d.take(calls.Fetch)
                if what < 0.7:
                    d.failed(fetch, calls.Failure.LOST if written else calls.Failure.UNREACHABLE)
                else:
                    d.fetched(fetch, *[found[key] for key in fetch.items], at=at)
    assert [told(gets, mine) for mine, _ in pairs] == [told(reads, other) for _, other in pairs]
    assert gets.open == reads.open and gets.node.waiting == reads.node.waiting
    assert left_behind(gets) == left_behind(reads)
    assert pages[0].touched == pages[1].touched
    assert reads.together == 0


@pytest.mark.parametrize("seed", range(30))
def test_a_get_is_answered_as_a_read_of_its_key_and_leaves_the_same_behind(seed: int) -> None:
    """Two nodes live through the same; where one is asked a Get, the other is asked a Read."""
    random = Random(seed)
    rules = (("z*", Policy(max_staleness_ms=0)), ("l*", Policy(linearizable=True)))
    policy = Policy(
        max_age_ms=900, negative_max_age_ms=300, stale_if_error_ms=random.choice((0, 400))
    )
    given: dict[str, Any] = {"policy": policy, "rules": rules[: random.randint(0, 2)]}
    gets, reads = Driver(**given), Driver(**given)
    pairs: list[tuple[int, int]] = []
    head = 10
    for _ in range(150):
        key = random.choice((b"a", b"b", b"z", b"l"))
        what = random.random()
        at = max(0, head + random.choice((-1, 0, 0, 0, 0, 0, 0, 1)))
        found = Fetched(
            random.choice((None, b"", b"v%d" % random.randint(0, 9))),
            random.choice((-1, -1, 50, 5000)),
            random.choice(((), (), (b"t",))),
            pending=random.random() < 0.1,
            error=ReplyError("WRONGTYPE x") if random.random() < 0.1 else None,
        )
        lost = random.choice((calls.Failure.LOST, calls.Failure.UNREACHABLE))
        covering = random.choice(COVERING_K)
        wait_ms = random.choice((1.0, 60.0, 400.0))
        if what < 0.4:
            pairs.append((gets.submit(Get(key)), reads.read(key)))
            continue
        if 0.55 <= what < 0.65:
            head += 1
        for d in (gets, reads):
            if what < 0.5:
                d.read(key, b"b", max_staleness_ms=0 if what < 0.45 else None)
            elif what < 0.55:
                d.sleep(wait_ms)
            elif what < 0.65:
                covered = {"keys": (key,)} if what < 0.6 else dict(covering)
                d.deliver(record(head, *covered.pop("keys", ()), **covered))  # type: ignore[arg-type]
            elif what < 0.7:
                d.prove(head)
            elif d.has(calls.Fetch):
                fetch = d.take(calls.Fetch)
                if what < 0.75:
                    d.failed(fetch, lost)
                else:
                    d.fetched(fetch, *[found] * len(fetch.items), at=at)
    assert [told(gets, mine) for mine, _ in pairs] == [told(reads, other) for _, other in pairs]
    assert any(isinstance(gets.outcomes.get(mine), bytes) for mine, _ in pairs)
    assert gets.open == reads.open and gets.node.waiting == reads.node.waiting
    assert left_behind(gets) == left_behind(reads)


def told(d: Driver, request: int) -> object:
    """What a client sees of the answer to a GET."""
    outcome = d.outcomes.get(request)
    if isinstance(outcome, ReadResult):
        (value,) = outcome.values
        return value.error or bulk_of(value.value)
    return outcome


def left_behind(d: Driver) -> object:
    node = d.node
    held = {
        key: (e.bulk, e.as_of, e.deadline_ms, e.bound_ms, e.tags, e.expires_ms, e.frequency)
        for key, e in node.l1.entries.items()
    }
    reads, fills, flights = node.reads, node.fills, node.flights
    counted = (reads.hits, reads.misses, reads.stale_served, reads.proofs_waited, fills.fetched)
    more = (fills.stored, fills.negative, flights.fetches, flights.coalesced, node.tickets.refused)
    lane = node.lane
    rings = [e.key for part in node.l1.pieces(1000) for e in part], node.l1.bytes_used
    return held, rings, counted, more, len(node.tickets), lane.verified_at_ms, len(lane.lent)
