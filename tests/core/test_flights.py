"""Fetches under way: who shares one, what waits for this node's own writes."""

from __future__ import annotations

import pytest

from coherenced.core import calls
from coherenced.core.flights import (
    CAREFUL_FETCHES,
    CAREFUL_OPEN,
    FETCH_BATCH,
    FETCHES_OPEN,
    STEP,
)
from coherenced.core.laws import Laws
from coherenced.core.model import Fetched, Query
from coherenced.core.policy import Policy
from coherenced.core.requests import AskResult, Get, Level
from tests.core.driver import (
    COVERING_K,
    Driver,
    invalidate,
    record,
    set_to,
    version,
)

# -- one fetch for all who ask (F3) -----------------------------------------------------------


def test_F3_one_fetch_per_key_serves_all_who_ask() -> None:
    d = Driver()
    reads = [d.read(b"k") for _ in range(100)]
    assert sum(isinstance(c, calls.Fetch) for c in d.open) == 1
    d.fetched(d.take(calls.Fetch), b"v")
    assert [d.value(r) for r in reads] == [b"v"] * 100
    assert d.node.flights.coalesced == 99


@pytest.mark.parametrize("covering", COVERING_K)
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


# -- own writes on their way (W5 with ack=none) -----------------------------------------------


def test_what_an_answer_that_became_large_leaves_out_is_asked_for_again_first_and_with_care() -> (
    None
):
    d = Driver()
    keys = [b"k%d" % number for number in range(10)]
    gets = d.turn(*map(Get, keys))
    first = d.take(calls.Fetch)
    assert (first.items, first.step) == (tuple(keys), STEP)
    later = [d.read(b"l%d" % number) for number in range(FETCHES_OPEN - 1)]
    waiting = d.read(b"last")
    d.fetched(first, *[b"v"] * 3)
    assert [d.outcomes[number] for number in gets[:3]] == [b"$1\r\nv\r\n"] * 3
    assert d.hit(b"k2") == b"v" and not any(number in d.outcomes for number in gets[3:])
    for read in later[: FETCHES_OPEN - CAREFUL_OPEN]:
        assert [c.items for c in d.open if isinstance(c, calls.Fetch) and c.step == 1] == []
        d.fetched(d.take(calls.Fetch), b"v")
        assert d.value(read) == b"v"
    again = [c for c in d.open if isinstance(c, calls.Fetch) and c.step == 1]
    assert [c.items for c in again] == [(*keys[3:], b"last")]
    d.deliver(record(11, b"k4"))
    d.open.remove(again[0])
    d.fetched(again[0], *[b"w"] * 8, at=10)
    assert [d.outcomes[number] for number in gets[3:]] == [b"$1\r\nw\r\n"] * 7
    assert d.value(waiting) == b"w"
    assert d.hit(b"k3") == b"w" and d.hit(b"k4") is None, "it was overtaken (F2)"
    d.fetched(d.take(calls.Fetch), b"v", at=11)
    assert d.node.waiting == 0 and not len(d.node.tickets)


def test_it_takes_some_whole_answers_until_large_values_are_not_reckoned_with() -> None:
    d = Driver()
    d.read(b"a", b"b")
    d.fetched(d.take(calls.Fetch), b"v")
    for number in range(CAREFUL_FETCHES):
        call = d.take(calls.Fetch)
        assert call.step == 1
        d.fetched(call, b"v")
        d.read(b"k%d" % number)
    assert d.take(calls.Fetch).step == STEP


def test_S2_a_snapshot_is_one_moment_however_large_and_shares_no_fetch() -> None:
    d = Driver()
    d.read(b"a", b"b")
    d.fetched(d.take(calls.Fetch), b"v")
    for _ in range(CAREFUL_OPEN - 1):
        d.read(b"c")  # nothing more leaves now
    d.read(b"d")
    snapshot = d.read(b"x", b"y", snapshot=True)
    d.read(b"e")
    sent = []
    while d.has(calls.Fetch):
        call = d.take(calls.Fetch)
        sent.append((call.items, call.step))
        d.fetched(call, *[b"v"] * len(call.items))
    assert sent == [((b"b",), 1), ((b"c",), 1), ((b"d",), 1), ((b"x", b"y"), 0), ((b"e",), 1)]
    assert [v.value for v in d.result(snapshot).values] == [b"v", b"v"]


def test_keys_come_before_questions() -> None:
    d = Driver()
    d.turn(*(Get(b"%d" % number) for number in range(FETCHES_OPEN * FETCH_BATCH)))
    asked = d.ask(Query((b"TTL", b"t"), (b"t",)))
    read = d.read(b"k")
    d.fetched(d.take(calls.Fetch), *[b"v"] * FETCH_BATCH)
    call = next(c for c in d.open if isinstance(c, calls.Fetch) and b"k" in c.items)
    assert call.items == (b"k", Query((b"TTL", b"t"), (b"t",)))
    d.open.remove(call)
    d.fetched(call, b"v")
    assert d.value(read) == b"v" and asked not in d.outcomes
    while d.has(calls.Fetch):
        call = d.take(calls.Fetch)
        d.fetched(call, *(7 if isinstance(item, Query) else b"v" for item in call.items))
    assert d.result(asked) == AskResult(7)


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
    (event,) = [e for e in d.events if e.name == "accepted_write_failed"]
    assert event.write is not None  # who journals invalidations takes it from here
    assert event.write.mutations[0].keys == (b"k",)
