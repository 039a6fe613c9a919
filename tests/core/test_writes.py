"""Writes: group commit in order, the own copy dropped first, and the truth about lost replies."""

from __future__ import annotations

from typing import Any

import pytest

from coherenced.core import calls
from coherenced.core.batches import BATCH_MUTATIONS, WRITE_TRIES
from coherenced.core.calls import Failure
from coherenced.core.laws import Laws
from coherenced.core.life import LONGEST_MS
from coherenced.core.lost import RESOLVE_PATIENCE_MS, RESOLVE_RETRY_MS
from coherenced.core.model import (
    EVERYTHING,
    FOREVER,
    WANT_ACK,
    Lineage,
    Mutation,
    Op,
    Record,
    ReplyError,
    Set,
    Version,
)
from coherenced.core.policy import Policy
from coherenced.core.requests import FaultKind, Level, WriteResult
from tests.core.driver import (
    EPOCH,
    ME,
    OTHER_EPOCH,
    PEER,
    Driver,
    delete,
    invalidate,
    lineage,
    member,
    own_record,
    record,
    set_to,
    tag_of,
    version,
)


def incr(key: bytes) -> Mutation:
    return Mutation((b"INCR", key), keys=(key,), exact_integer=True)


def lost(d: Driver) -> tuple[calls.Mutate, calls.Resolve]:
    """The open batch's reply is lost; the node asks for the truth."""
    batch = d.take(calls.Mutate)
    d.failed(batch, Failure.LOST)
    return batch, d.take(calls.Resolve)


# -- committing -------------------------------------------------------------------------------


def test_a_write_is_one_script_and_answered_with_its_version() -> None:
    d = Driver()
    write = d.write(set_to(b"k", b"v"))
    batch = d.take(calls.Mutate)
    assert (batch.writer, batch.want_ack, len(batch.tags)) == (ME, (False,), 1)
    d.mutated(batch, first=11)
    assert d.result(write) == WriteResult((b"OK",), version(11), {})
    assert d.node.waiting == 0


def test_an_empty_write_is_answered_at_once() -> None:
    d = Driver()
    assert d.result(d.write()) == WriteResult((), None, {})


def test_W4_writes_reach_redis_in_the_order_they_were_accepted() -> None:
    """One batch is under way; what arrives meanwhile leaves together, in order."""
    d = Driver()
    first = d.write(set_to(b"k", b"1"))
    later = [d.write(set_to(b"k", b"%d" % i)) for i in range(2, 6)]
    batch = d.take(calls.Mutate)
    assert not d.has(calls.Mutate)
    d.mutated(batch, first=11)
    assert first in d.outcomes
    batch = d.take(calls.Mutate)
    assert [m.keeps for m in batch.mutations] == [b"2", b"3", b"4", b"5"]
    d.mutated(batch, first=12)
    assert [d.result(r).version.seq for r in later] == [12, 13, 14, 15]
    assert d.hit(b"k") == b"5"


def test_W4_what_surely_was_not_applied_goes_again_ahead_of_what_came_later() -> None:
    d = Driver()
    d.write(set_to(b"k", b"1"))
    d.write(set_to(b"k", b"2"))
    _, resolve = lost(d)
    d.logged(resolve, record(10), at=10)
    assert [m.keeps for m in d.take(calls.Mutate).mutations] == [b"1", b"2"]


def test_each_request_of_a_batch_is_given_its_own_replies() -> None:
    d = Driver()
    d.write(set_to(b"first", b""))
    a = d.write(incr(b"a"), incr(b"b"))
    b = d.write(incr(b"c"))
    d.mutated(d.take(calls.Mutate), first=11)
    d.mutated(d.take(calls.Mutate), first=12, replies=[1, 2, 3])
    assert d.result(a).replies == (1, 2)
    assert d.result(b).replies == (3,)
    assert [d.result(r).version.seq for r in (a, b)] == [13, 14]


def test_what_changed_nothing_has_no_version() -> None:
    d = Driver()
    write = d.write(delete(b"absent"))
    batch = d.take(calls.Mutate)
    done = calls.Done(0, 0, b"", b"")
    d.step(calls.Mutated(batch.call_id, lineage(10), 1, (done,)))
    assert d.result(write) == WriteResult((0,), None, {})


def test_an_error_reply_is_the_writers_and_nothing_is_kept() -> None:
    d = Driver()
    write = d.write(set_to(b"k", b"v"), incr(b"text"))
    batch = d.take(calls.Mutate)
    wrong = ReplyError("ERR value is not an integer or out of range")
    answer = (
        calls.Done(b"OK", 11, batch.tags[0], tag_of(10)),
        calls.Done(wrong, 0, b"", b""),
    )
    d.step(calls.Mutated(batch.call_id, Lineage(EPOCH, 11, batch.tags[0]), 1, answer))
    assert d.result(write).replies == (b"OK", wrong)
    assert d.result(write).version == version(11)


def test_W6_a_batch_is_bounded() -> None:
    d = Driver()
    d.write(set_to(b"first", b""))
    d.write(incr(b"n"), incr(b"m"))  # behind which nothing follows
    for i in range(3 * BATCH_MUTATIONS):
        d.write(set_to(b"%d" % i, b""))
    d.mutated(d.take(calls.Mutate), first=11)
    batch = d.take(calls.Mutate)
    assert len(batch.mutations) == BATCH_MUTATIONS


def test_W6_a_big_operation_is_cut_into_bounded_scripts_and_answered_once() -> None:
    d = Driver()
    count = 2 * BATCH_MUTATIONS + 5
    write = d.write(*(set_to(b"%d" % i, b"") for i in range(count)))
    sizes, first = [], 11
    while d.has(calls.Mutate):
        batch = d.take(calls.Mutate)
        sizes.append(len(batch.mutations))
        d.mutated(batch, first=first)
        first += len(batch.mutations)
    assert sizes == [BATCH_MUTATIONS, BATCH_MUTATIONS, 5]
    assert d.result(write).replies == (b"OK",) * count
    assert d.result(write).version == version(10 + count)


def test_W6_a_big_operation_that_fails_in_the_middle_is_a_fault() -> None:
    d = Driver()
    write = d.write(*(set_to(b"%d" % i, b"") for i in range(BATCH_MUTATIONS + 1)))
    d.mutated(d.take(calls.Mutate), first=11)
    d.failed(d.take(calls.Mutate))
    assert d.fault(write).kind == FaultKind.UNAVAILABLE


def test_W6_a_transaction_is_one_script_however_long() -> None:
    d = Driver()
    d.write(*(set_to(b"%d" % i, b"") for i in range(BATCH_MUTATIONS * 2)), atomic=True)
    assert len(d.take(calls.Mutate).mutations) == BATCH_MUTATIONS * 2


def test_a_watched_transaction_travels_alone_and_may_be_aborted() -> None:
    d = Driver()
    d.write(set_to(b"first", b""))
    d.write(set_to(b"a", b""))
    watched = d.write(set_to(b"b", b""), atomic=True, watch_id=7)
    d.write(set_to(b"c", b""))
    d.mutated(d.take(calls.Mutate), first=11)
    batch = d.take(calls.Mutate)
    assert ([m.keys for m in batch.mutations], batch.watch_id) == ([(b"a",)], 0)
    d.mutated(batch, first=12)
    batch = d.take(calls.Mutate)
    assert ([m.keys for m in batch.mutations], batch.watch_id) == ([(b"b",)], 7)
    d.step(calls.Mutated(batch.call_id, lineage(13), 1, (), aborted=True))
    assert d.result(watched).aborted
    assert [m.keys for m in d.take(calls.Mutate).mutations] == [(b"c",)]
    assert d.node.waiting == 1


# -- the own copy (W5, A6) --------------------------------------------------------------------


def test_W5_before_the_writer_is_answered_its_node_has_dropped_the_key() -> None:
    d = Driver()
    d.hold(b"k", b"old")
    write = d.write(delete(b"k"))
    assert d.hit(b"k") == b"old", "not yet"
    d.mutated(d.take(calls.Mutate), first=11, replies=[1])
    assert write in d.outcomes
    assert d.hit(b"k") is None


def test_W5_also_when_others_records_come_between() -> None:
    d = Driver()
    d.hold(b"k", b"old")
    d.write(delete(b"k"))
    d.mutated(d.take(calls.Mutate), first=14, replies=[1])
    assert d.node.lane.applied == 10
    assert d.hit(b"k") is None


def test_W5_and_voided_the_fills_in_flight() -> None:
    d = Driver()
    early = d.read(b"k")
    fetch = d.take(calls.Fetch)
    d.write(delete(b"k"))
    d.mutated(d.take(calls.Mutate), first=14, replies=[1])
    late = d.read(b"k")
    d.fetched(fetch, b"old", at=10)
    assert d.value(early) == b"old"
    assert late not in d.outcomes and b"k" not in d.node.l1.entries


def test_W5_also_when_the_lineage_has_changed_under_the_write() -> None:
    d = Driver()
    d.hold(b"k", b"old")
    d.write(delete(b"k"))
    d.mutated(d.take(calls.Mutate), first=4, epoch=OTHER_EPOCH, replies=[1])
    assert d.hit(b"k") is None
    assert d.node.lane.epoch == OTHER_EPOCH


def test_W5_without_the_law_the_writer_may_read_the_old_value() -> None:
    d = Driver(laws=Laws(own_write_drops=False), checked=False)
    d.hold(b"k", b"old")
    d.write(delete(b"k"))
    d.mutated(d.take(calls.Mutate), first=14, replies=[1])
    assert d.hit(b"k") == b"old"


def test_A6_a_node_keeps_what_it_wrote() -> None:
    d = Driver()
    d.hold(b"k", b"old")
    d.write(set_to(b"k", b"new", keeps_ttl_ms=500.0))
    sent_ms = d.now_ms
    d.now_ms += 5
    d.mutated(d.take(calls.Mutate), first=11)
    entry = d.node.hit(b"k", d.now_ms)
    assert entry is not None
    assert (entry.value, entry.as_of, entry.deadline_ms) == (b"new", 11, sent_ms + 500)


def test_A6_a_key_written_anew_keeps_the_place_that_its_use_has_won() -> None:
    d = Driver()
    d.hold(b"k")
    d.hold(b"later")
    d.hit(b"k")
    before = d.node.l1.entries[b"k"]
    following = before.next
    assert following.key == b"later"
    d.write(set_to(b"k", b"new"))
    d.mutated(d.take(calls.Mutate), first=11)
    after = d.node.l1.entries[b"k"]
    assert after is not before and after.next is following
    assert after.frequency == before.frequency == 1


def test_what_a_node_wrote_tells_its_real_expiry() -> None:
    d = Driver(policy=Policy(max_age_ms=500))
    d.write(set_to(b"k", b"v", keeps_ttl_ms=9000.0))
    d.write(set_to(b"forever", b"v"))
    d.write(set_to(b"labelled", b"v", label=(b"t",)))
    sent_ms = d.now_ms
    d.now_ms += 5
    d.mutated(d.take(calls.Mutate), first=11)
    d.mutated(d.take(calls.Mutate), first=12, replies=[b"OK", b"OK"])
    entries = d.node.l1.entries
    assert (entries[b"k"].expires_ms, entries[b"k"].deadline_ms) == (sent_ms + 9000, sent_ms + 500)
    assert entries[b"forever"].expires_ms == FOREVER
    assert entries[b"labelled"].expires_ms == d.now_ms + LONGEST_MS


def test_A6_unless_something_newer_came_in_between() -> None:
    d = Driver()
    d.write(set_to(b"k", b"mine"))
    batch = d.take(calls.Mutate)
    d.deliver(
        own_record(batch, 0, 11, tag_of(10)),
        Record(12, batch.tags[0], tag_of(12), 0, 0, PEER, (b"k",)),
    )
    d.mutated(batch, first=11)
    assert b"k" not in d.node.l1.entries


def test_A6_what_is_kept_early_outlives_the_records_before_it() -> None:
    d = Driver()
    d.write(set_to(b"k", b"mine"))
    batch = d.take(calls.Mutate)
    d.mutated(batch, first=12, prev=tag_of(11))
    assert d.hit(b"k") == b"mine"
    d.deliver(record(11, b"k"))
    d.deliver(own_record(batch, 0, 12, tag_of(11)))
    assert d.hit(b"k") == b"mine"


def test_A6_of_two_writes_to_a_key_in_one_script_the_last_is_kept() -> None:
    d = Driver()
    d.write(set_to(b"k", b"1"), set_to(b"k", b"2"))
    d.mutated(d.take(calls.Mutate), first=11)
    assert d.hit(b"k") == b"2"


def test_a_refused_set_is_not_kept() -> None:
    d = Driver()
    d.write(set_to(b"k", b"v"))
    batch = d.take(calls.Mutate)
    d.step(calls.Mutated(batch.call_id, lineage(10), 1, (calls.Done(None, 0, b"", b""),)))
    assert len(d.node.l1) == 0


def test_T1_an_own_tag_invalidation_covers_and_stays_covering_when_older_ones_follow() -> None:
    """The own reply came before the bus: the tag is covered from 15 on, whatever 12 says."""
    d = Driver()
    d.write(invalidate(tags=(b"t",)))
    batch = d.take(calls.Mutate)
    d.mutated(batch, first=15, replies=[None])
    d.read(b"k")
    d.forget(calls.Fetch)
    assert d.node.lane.tag_seq[b"t"] == 15
    d.deliver(record(11), record(12, tags=(b"t",)))
    assert d.node.lane.tag_seq[b"t"] == 15


# -- what a batch says about itself -----------------------------------------------------------


def test_records_of_writers_that_wait_ask_for_acknowledgements() -> None:
    d = Driver()
    d.write(set_to(b"first", b""))
    d.write(set_to(b"a", b""), ack=Level.ALL)
    d.write(set_to(b"b", b""))
    d.write(set_to(b"c", b""), set_to(b"d", b""), ack=2)
    d.mutated(d.take(calls.Mutate), first=11)
    assert d.take(calls.Mutate).want_ack == (True, False, True, True)


def test_K1_the_own_record_is_applied_as_the_bus_would_show_it() -> None:
    d = Driver()
    d.node.stream(True)
    d.write(Mutation((b"FLUSHDB",), op=Op.FLUSH, frees_memory=True), ack=Level.ALL)
    d.mutated(d.take(calls.Mutate), first=11)
    assert d.applied[0].record.flags == EVERYTHING | WANT_ACK
    assert d.applied[0].record.writer == ME


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((Level.NONE, Level.REDIS), Level.REDIS),
        ((Level.REDIS, 1), 1),
        ((2, 3), 3),
        ((3, Level.QUORUM), Level.QUORUM),
        ((Level.QUORUM, Level.ALL), Level.ALL),
    ],
)
def test_the_strongest_level_of_the_keys_namespaces_applies(
    levels: tuple[int, int], expected: int
) -> None:
    rules = [("a", Policy(ack=levels[0])), ("b", Policy(ack=levels[1]))]
    for keys in ((b"a", b"b"), (b"b", b"a")):
        d = Driver(rules=rules)
        d.write(delete(*keys))
        assert d.take(calls.Mutate).want_ack == (expected not in (Level.NONE, Level.REDIS),)
        d = Driver(rules=rules)
        write = d.write(*(delete(k) for k in keys))
        batch = d.take(calls.Mutate)
        assert (write in d.outcomes) == (expected == Level.NONE)
        assert len(set(batch.want_ack)) == 1


# -- compare-and-set --------------------------------------------------------------------------


def since(d: Driver, mutation: Mutation) -> int:
    d.write(mutation)
    return d.take(calls.Mutate).mutations[0].unchanged_since


def test_compare_and_set_looks_from_the_given_version_on() -> None:
    assert since(Driver(), set_to(b"k", b"v", if_version=version(5))) == 5


def test_compare_and_set_of_a_key_held_since_then_looks_from_here_on() -> None:
    """A4: held and not dropped means that nothing up to here has touched it."""
    d = Driver()
    d.hold(b"k")
    d.deliver(record(11), record(12))
    assert since(d, set_to(b"k", b"v", if_version=version(10))) == 12


@pytest.mark.parametrize("why", ["newer", "covered", "other epoch"])
def test_compare_and_set_does_not_rely_on_a_copy_that_proves_nothing(why: str) -> None:
    d = Driver()
    d.hold(b"k", labels=(b"t",), at=11 if why == "newer" else 10)
    if why == "covered":
        d.deliver(record(11, tags=(b"t",)))
    asked = version(10, OTHER_EPOCH if why == "other epoch" else EPOCH)
    assert since(d, set_to(b"k", b"v", if_version=asked)) == 10


# -- ack = none -------------------------------------------------------------------------------


def test_none_is_answered_at_once_with_what_redis_would_say() -> None:
    d = Driver()
    d.hold(b"k")
    write = d.write(set_to(b"k", b"v"), delete(b"a", b"b"), ack=Level.NONE)
    assert d.result(write) == WriteResult((b"OK", 2), None, {})
    assert d.hit(b"k") is None
    assert d.node.waiting == 1
    d.mutated(d.take(calls.Mutate), first=11, replies=[b"OK", 0])
    assert d.node.waiting == 0


def test_none_waits_for_a_reply_that_only_redis_knows() -> None:
    d = Driver()
    write = d.write(incr(b"n"), ack=Level.NONE)
    assert write not in d.outcomes
    d.mutated(d.take(calls.Mutate), first=11, replies=[7])
    assert d.result(write).replies == (7,)


def test_none_waits_for_what_becomes_of_a_compare_and_set() -> None:
    d = Driver()
    write = d.write(set_to(b"k", b"v", if_version=version(1)), ack=Level.NONE)
    assert write not in d.outcomes
    conflict = ReplyError("CONFLICT the key has changed")
    d.mutated(d.take(calls.Mutate), first=0, replies=[conflict])
    assert d.result(write).replies == (conflict,)


@pytest.mark.parametrize(
    "wide",
    [
        invalidate(prefixes=(b"k",)),
        invalidate(tags=(b"t",)),
        invalidate(everything=True),
        Mutation((b"FLUSHDB",), op=Op.FLUSH, expected_reply=b"OK", reply_is_known=True),
    ],
)
def test_W5_none_has_dropped_the_own_copies_of_all_that_is_covered(wide: Mutation) -> None:
    d = Driver()
    d.hold(b"k", labels=(b"t",))
    d.read(b"k2")
    fetch = d.take(calls.Fetch)
    write = d.write(wide, ack=Level.NONE)
    assert write in d.outcomes
    assert d.hit(b"k") is None
    d.fetched(fetch, b"old")
    assert b"k2" not in d.node.l1.entries


# -- failures ---------------------------------------------------------------------------------


def test_what_was_never_sent_fails_clearly_and_is_not_repeated() -> None:
    d = Driver()
    write = d.write(set_to(b"k", b"v"))
    d.failed(d.take(calls.Mutate))
    assert d.fault(write).kind == FaultKind.UNAVAILABLE
    assert not d.has(calls.Mutate)
    assert d.node.waiting == 0 and len(d.node.tickets) == 0


def test_out_of_memory_is_told_and_what_frees_memory_goes_again_by_itself() -> None:
    d = Driver()
    d.write(set_to(b"first", b""))
    grows = d.write(set_to(b"k", b"v"))
    frees = d.write(delete(b"a"))
    d.mutated(d.take(calls.Mutate), first=11)
    d.failed(d.take(calls.Mutate), Failure.OUT_OF_MEMORY)
    assert d.fault(grows).kind == FaultKind.OUT_OF_MEMORY
    batch = d.take(calls.Mutate)
    assert [m.op for m in batch.mutations] == [Op.DELETE]
    d.mutated(batch, first=12, replies=[1])
    assert d.result(frees).replies == (1,)


def test_out_of_memory_for_a_delete_alone_does_not_go_round_for_ever() -> None:
    d = Driver()
    d.write(set_to(b"first", b""))
    writes = [d.write(delete(b"a")), d.write(delete(b"b"))]
    d.mutated(d.take(calls.Mutate), first=11)
    for _ in range(10):
        if d.has(calls.Mutate):
            d.failed(d.take(calls.Mutate), Failure.OUT_OF_MEMORY)
    assert all(w in d.outcomes for w in writes)


# -- a second batch in flight (W4) -----------------------------------------------------------------


def keys_of(call: calls.Mutate) -> list[bytes]:
    return [m.keys[0] for m in call.mutations]


def test_W4_enough_plain_writes_to_other_keys_follow_a_batch_in_flight() -> None:
    d = Driver(follow_from=3)
    d.write(set_to(b"a", b""))
    d.write(set_to(b"b", b""))
    d.write(delete(b"c"))
    assert len(d.open) == 1, "too few to be worth a batch"
    d.write(incr(b"d"))
    first, second = d.take(calls.Mutate), d.take(calls.Mutate)
    assert (keys_of(first), keys_of(second)) == ([b"a"], [b"b", b"c", b"d"])
    for i in range(20):
        d.write(set_to(b"%d" % i, b""))
    assert not d.has(calls.Mutate), "two are in flight"
    d.mutated(first, first=11)
    third = d.take(calls.Mutate)
    assert len(third.mutations) == 20
    d.mutated(second, first=12, prev=first.tags[0], replies=[b"OK", 1, 5])
    assert d.node.lane.applied == 14
    assert d.hit(b"b") == b""


def test_W4_a_write_to_a_key_in_flight_waits_and_so_does_all_after_it() -> None:
    d = Driver(follow_from=1)
    d.write(set_to(b"a", b"1"))
    d.write(set_to(b"b", b""))
    first, second = d.take(calls.Mutate), d.take(calls.Mutate)
    d.mutated(first, first=11)
    d.write(set_to(b"b", b"2"))
    d.write(set_to(b"c", b""))
    assert not d.has(calls.Mutate)
    d.mutated(second, first=12, prev=first.tags[0])
    assert keys_of(d.take(calls.Mutate)) == [b"b", b"c"]


@pytest.mark.parametrize(
    ("mutations", "terms"),
    [
        ((incr(b"x"), incr(b"y")), {}),
        ((delete(b"x", b"y"),), {}),
        ((invalidate(b"x"),), {}),
        ((invalidate(tags=(b"t",)),), {}),
        ((set_to(b"x", b"", if_version=version(9)),), {}),
        ((Mutation((b"FLUSHDB",), op=Op.FLUSH, everything=True),), {}),
        ((set_to(b"x", b""),), {"watch_id": 7}),
        ((set_to(b"x", b""),), {"replicas": 1}),
    ],
)
def test_W4_what_is_no_plain_write_neither_follows_nor_is_followed(
    mutations: tuple[Mutation, ...], terms: dict[str, Any]
) -> None:
    d = Driver(follow_from=1)
    d.write(set_to(b"a", b""))
    d.write(*mutations, **terms)
    first = d.take(calls.Mutate)
    assert not d.has(calls.Mutate)
    d.mutated(first, first=11)
    d.write(set_to(b"b", b""))
    assert [m.argv for m in d.take(calls.Mutate).mutations] == [m.argv for m in mutations]
    assert not d.has(calls.Mutate)


def in_flight(d: Driver) -> tuple[list[int], calls.Mutate, calls.Mutate]:
    """Two batches, and a write that waits behind them."""
    writes = [d.write(set_to(key, key)) for key in (b"a", b"b", b"c")]
    return writes, d.take(calls.Mutate), d.take(calls.Mutate)


def test_W3_W4_two_lost_batches_are_resolved_and_sent_again_in_their_order() -> None:
    d = Driver(follow_from=1)
    _, first, second = in_flight(d)
    d.failed(first, calls.Failure.LOST)
    assert not d.has(calls.Resolve), "the fate of the second is not known"
    d.failed(second, calls.Failure.LOST)
    resolve = d.take(calls.Resolve)
    assert resolve.failed_call_id == second.call_id
    d.logged(resolve, record(10), at=10)
    assert not d.has(calls.Mutate)
    resolve = d.take(calls.Resolve)
    assert resolve.failed_call_id == first.call_id
    d.logged(resolve, record(10), at=10)
    assert keys_of(d.take(calls.Mutate)) == [b"a", b"b", b"c"]


def test_W3_of_two_lost_batches_one_was_applied() -> None:
    d = Driver(follow_from=1)
    writes, first, second = in_flight(d)
    d.failed(first, calls.Failure.LOST)
    d.failed(second, calls.Failure.LOST)
    applied = own_record(first, 0, 11, tag_of(10))
    where = Lineage(EPOCH, 11, first.tags[0])
    d.logged(d.take(calls.Resolve), record(10), applied, at=where)
    d.logged(d.take(calls.Resolve), record(10), applied, at=where)
    assert d.result(writes[0]).version == version(11)
    assert writes[1] not in d.outcomes
    assert keys_of(d.take(calls.Mutate)) == [b"b", b"c"]


def test_W3_a_lost_batch_waits_for_the_answer_to_the_one_behind_it() -> None:
    d = Driver(follow_from=1)
    writes, first, second = in_flight(d)
    d.failed(first, calls.Failure.LOST)
    d.mutated(second, first=12)
    assert d.result(writes[1]).version == version(12)
    assert not d.has(calls.Mutate), "what waits may be about the keys of the lost one"
    applied = own_record(first, 0, 11, tag_of(10))
    d.logged(d.take(calls.Resolve), record(10), applied, at=12)
    assert d.result(writes[0]).version == version(11)
    assert keys_of(d.take(calls.Mutate)) == [b"c"]


def test_W3_of_two_lost_batches_nobody_can_tell() -> None:
    d = Driver(follow_from=1)
    writes, first, second = in_flight(d)
    d.failed(first, calls.Failure.LOST)
    d.failed(second, calls.Failure.LOST)
    until_ms = d.now_ms + 3_000
    while d.now_ms < until_ms:
        if d.has(calls.Resolve):
            d.failed(d.take(calls.Resolve))
        d.tick(50)
    kinds = [d.fault(write).kind for write in writes]
    assert kinds == ["indeterminate", "indeterminate", "unavailable"]
    assert not d.has(calls.Mutate)


def test_without_W3_two_lost_batches_are_repeated_in_their_order() -> None:
    d = Driver(follow_from=1, laws=Laws(resolve_lost_reply=False))
    _, first, second = in_flight(d)
    d.failed(first, calls.Failure.LOST)
    d.failed(second, calls.Failure.LOST)
    assert keys_of(d.take(calls.Mutate)) == [b"a", b"b", b"c"]


# -- lost replies (W3) ------------------------------------------------------------------------


def test_W3_a_lost_reply_is_looked_up_and_never_blindly_repeated() -> None:
    d = Driver()
    d.write(incr(b"n"))
    batch, resolve = lost(d)
    assert not d.has(calls.Mutate)
    assert (resolve.failed_call_id, resolve.start_seq) == (batch.call_id, 10)


def test_W3_without_the_law_it_is_repeated() -> None:
    d = Driver(laws=Laws(resolve_lost_reply=False))
    d.write(incr(b"n"))
    d.failed(d.take(calls.Mutate), Failure.LOST)
    assert d.take(calls.Mutate).mutations[0].argv == (b"INCR", b"n")


def test_W3_found_by_its_tag_it_was_applied() -> None:
    d = Driver()
    d.hold(b"k", b"old")
    write = d.write(set_to(b"k", b"new"))
    batch, resolve = lost(d)
    assert d.hit(b"k") is None, "until the truth is known nothing is served for the key"
    mine = own_record(batch, 0, 11, tag_of(10))
    d.logged(resolve, record(10), mine, at=Lineage(EPOCH, 11, batch.tags[0]))
    assert d.result(write) == WriteResult((b"OK",), version(11), {})
    assert not d.has(calls.Mutate)


def test_W3_the_logs_stored_reply_is_the_reply() -> None:
    d = Driver()
    write = d.write(incr(b"n"))
    batch, resolve = lost(d)
    mine = own_record(batch, 0, 11, tag_of(10))
    where = Lineage(EPOCH, 11, batch.tags[0])
    d.logged(resolve, record(10), mine, at=where, replies=(None, 42))
    assert d.result(write).replies == (42,)


def test_W3_applied_but_its_reply_unknown_is_told_with_the_version() -> None:
    d = Driver()
    write = d.write(incr(b"n"))
    batch, resolve = lost(d)
    mine = own_record(batch, 0, 11, tag_of(10))
    d.logged(resolve, record(10), mine, at=Lineage(EPOCH, 11, batch.tags[0]))
    assert d.fault(write).kind == FaultKind.APPLIED_UNKNOWN_REPLY
    assert d.fault(write).version == version(11)


def test_W3_absent_in_the_same_lineage_it_was_not_applied_and_goes_again() -> None:
    d = Driver()
    write = d.write(incr(b"n"))
    _, resolve = lost(d)
    d.logged(resolve, record(10), record(11, b"other"), at=11)
    batch = d.take(calls.Mutate)
    d.mutated(batch, first=12, replies=[1], prev=tag_of(11))
    assert d.result(write).replies == (1,)
    assert len(d.event("lost_write_not_applied")) == 1


def test_W3_it_is_tried_a_bounded_number_of_times() -> None:
    d = Driver()
    write = d.write(incr(b"n"))
    for _ in range(WRITE_TRIES):
        _, resolve = lost(d)
        d.logged(resolve, record(10), at=10)
    assert d.fault(write).kind == FaultKind.UNAVAILABLE
    assert "not applied" in d.fault(write).detail


@pytest.mark.parametrize(
    ("records", "head", "severed"),
    [
        ([record(10)], lineage(10), False),
        ([record(12)], lineage(12), True),
        ([], lineage(3, epoch=OTHER_EPOCH), True),
        ([record(10, branch=b"b")], lineage(10, b"b"), True),
        ([], lineage(9), True),
    ],
    ids=["old connection alive", "log trimmed", "new epoch", "fork", "lost the position"],
)
def test_W3_else_the_caller_is_told_that_nobody_can_tell(
    records: list[Record], head: Lineage, severed: bool
) -> None:
    d = Driver()
    write = d.write(incr(b"n"))
    _, resolve = lost(d)
    d.step(calls.Logged(resolve.call_id, head, tuple(records), (), severed))
    assert d.fault(write).kind == FaultKind.INDETERMINATE
    assert not d.has(calls.Mutate)
    assert d.node.waiting == 0 and len(d.node.tickets) == 0


def test_W3_a_write_sent_before_the_first_position_cannot_be_told_absent() -> None:
    d = Driver(at=None)
    write = d.write(incr(b"n"))
    _, resolve = lost(d)
    d.logged(resolve, at=0)
    assert d.fault(write).kind == FaultKind.INDETERMINATE


def test_W3_the_first_write_of_a_log_is_found_absent() -> None:
    d = Driver(at=0)
    d.write(incr(b"n"))
    _, resolve = lost(d)
    d.logged(resolve, record(1), at=1)
    assert d.has(calls.Mutate)


def test_W3_of_a_batch_each_caller_is_told_its_own_truth() -> None:
    d = Driver()
    d.write(set_to(b"first", b""))
    changed = d.write(set_to(b"a", b"1"))
    unchanged = d.write(delete(b"absent"))
    d.mutated(d.take(calls.Mutate), first=11)
    batch, resolve = lost(d)
    before = d.node.lane.tag
    mine = own_record(batch, 0, 12, before)
    at_11 = Record(11, tag_of(10), before, 0, 0, ME, (b"first",))
    d.logged(resolve, at_11, mine, at=Lineage(EPOCH, 12, batch.tags[0]))
    assert d.result(changed).version == version(12)
    assert d.fault(unchanged).kind == FaultKind.UNAVAILABLE
    assert "nothing was changed" in d.fault(unchanged).detail


def test_W3_W4_while_the_truth_is_not_known_no_later_write_overtakes() -> None:
    d = Driver()
    d.write(incr(b"n"))
    later = d.write(set_to(b"n", b"5"))
    _, resolve = lost(d)
    d.failed(resolve)
    assert not d.has(calls.Mutate)
    d.sleep(RESOLVE_RETRY_MS)
    d.logged(d.take(calls.Resolve), record(10), at=10)
    assert [m.argv[0] for m in d.take(calls.Mutate).mutations] == [b"INCR", b"SET"]
    assert later not in d.outcomes


def test_W3_patience_has_an_end_and_the_callers_are_told_once() -> None:
    d = Driver()
    unknown = d.write(incr(b"n"))
    queued = d.write(set_to(b"n", b"5"))
    _, resolve = lost(d)
    d.failed(resolve)
    waited = 0.0
    while waited < RESOLVE_PATIENCE_MS + 10 * RESOLVE_RETRY_MS:
        d.forget(calls.Probe, calls.ReadRoster)
        d.sleep(RESOLVE_RETRY_MS)
        waited += RESOLVE_RETRY_MS
        d.failed(d.take(calls.Resolve))
    assert d.fault(unknown).kind == FaultKind.INDETERMINATE
    assert d.fault(queued).kind == FaultKind.UNAVAILABLE, "never sent: surely not applied"
    assert len(d.event("write_indeterminate")) == 1
    assert d.node.waiting == 0
    d.sleep(RESOLVE_RETRY_MS)
    d.logged(d.take(calls.Resolve), record(10), at=10)
    assert not d.has(calls.Mutate), "its caller was told that nobody can tell: not again"
    after = d.write(set_to(b"n", b"6"))
    d.mutated(d.take(calls.Mutate), first=11)
    assert d.result(after).version == version(11)


def test_W3_until_the_truth_is_known_fills_of_the_keys_are_void() -> None:
    d = Driver()
    d.read(b"k")
    fetch = d.take(calls.Fetch)
    d.write(delete(b"k"))
    lost(d)
    d.fetched(fetch, b"old")
    assert b"k" not in d.node.l1.entries


def test_W3_K3_a_write_found_applied_waits_for_a_roster_read_after_it() -> None:
    """Its version at the commit is unknown: the one that is held may be too old."""
    d = Driver()
    d.sleep(5100)
    d.prove(10)
    d.roster(member(ME, "me"))
    write = d.write(set_to(b"k", b"v"), ack=Level.ALL)
    batch, resolve = lost(d)
    mine = own_record(batch, 0, 11, tag_of(10))
    d.logged(resolve, record(10), mine, at=Lineage(EPOCH, 11, batch.tags[0]))
    assert write not in d.outcomes
    d.roster(member(ME, "me"), member(PEER, "peer"), version=2)
    assert write not in d.outcomes, "the peer has not acknowledged"
    d.ack(PEER, "peer", 11, batch.tags[0])
    assert sorted(d.result(write).acknowledged) == ["me", "peer"]


def test_an_outcome_says_a_version_that_can_be_read_back() -> None:
    d = Driver()
    write = d.write(set_to(b"k", b"v"))
    d.mutated(d.take(calls.Mutate), first=11)
    result: Any = d.result(write)
    assert Version.parse(str(result.version)) == version(11)


def test_V1_what_one_batch_writes_twice_is_lent_its_time_once() -> None:
    """Nobody vouches for the reply, so the value is lent one bound until a proof covers it."""
    d = Driver()
    d.write(set_to(b"first", b""))
    twice = [d.submit(Set.to(b"k", value)) for value in (b"1", b"2", b"3")]
    first = d.take(calls.Mutate)
    d.mutated(first, first=11)
    d.node.catchup.probes.forget_joined()
    d.mutated(d.take(calls.Mutate), first=12, prev=first.tags[0])
    assert [d.result(request) for request in twice] == [b"OK"] * 3
    entry = d.node.l1.entries[b"k"]
    assert (entry.value, entry.as_of) == (b"3", 14)
    assert entry.deadline_ms == d.now_ms + 1000.0
    d.node.lane.prove(99, d.now_ms, 14)
    assert entry.deadline_ms == d.now_ms + Policy().max_age_ms


def test_what_is_accepted_with_ack_none_is_held_once_until_it_is_sent() -> None:
    """As a `Set`: the Write that it means has its value once more."""
    d = Driver(policy=Policy(ack=Level.NONE))
    told = [d.submit(Set.to(b"k", value)) for value in (b"1", b"2", b"3")]
    assert len(d.outcomes) == 3 and len(d.node.writes.queue) == 2
    assert all(pending.said is None for pending in d.node.writes.queue)
    for first, number in ((11, 1), (12, 2)):
        call = d.take(calls.Mutate)
        assert len(call.sets) == number
        d.mutated(call, first=first)
    assert [d.result(request).replies for request in told] == [(b"OK",)] * 3
    assert d.node.waiting == 0 and d.hit(b"k") == b"3"
