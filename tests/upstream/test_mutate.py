"""mutate.lua: what is recorded, what is published, and what happens when something is wrong."""

from __future__ import annotations

import itertools
import re

import msgspec
import pytest

from coherenced.core.model import EVERYTHING, Fetched, Mutation, Op, Query, ReplyError, Version
from coherenced.upstream import codec
from coherenced.upstream.codec import MOST_WORDS
from coherenced.upstream.scripts import CLAIM
from tests.servers import Server, ServerError
from tests.upstream import lanes
from tests.upstream.lanes import (
    EPOCH,
    FLUSH,
    NAMES,
    WRITER,
    Lane,
    Listener,
    as_sets,
    delete,
    incr,
    invalidate,
    member,
    set_,
    write,
)

CONFLICT = ReplyError("CONFLICT the key has changed since that version")
OTHER_EPOCH = b"f" * 16


# -- records -------------------------------------------------------------------------


def test_the_first_mutation_starts_the_epoch(lane: Lane) -> None:
    answer = lane.mutate(set_(b"a", b"1"))
    assert answer.lineage.epoch == EPOCH
    assert answer.lineage.seq == 1
    (done,) = answer.done
    assert (done.reply, done.seq, done.prev) == (b"OK", 1, EPOCH)
    assert done.tag == answer.lineage.tag
    assert lane.server.command("GET", "a") == b"1"


def test_records_are_chained_by_their_tags(lane: Lane) -> None:
    first = lane.mutate(set_(b"a", b"1"), set_(b"b", b"2"))
    second = lane.mutate(delete(b"a"))
    head, records, _ = lane.log()
    assert [r.seq for r in records] == [1, 2, 3]
    assert [r.prev for r in records] == [EPOCH, records[0].tag, records[1].tag]
    assert [r.keys for r in records] == [(b"a",), (b"b",), (b"a",)]
    assert [r.op for r in records] == [Op.WRITE, Op.WRITE, Op.DELETE]
    assert {r.writer for r in records} == {WRITER}
    assert head == second.lineage
    assert second.done[0].prev == first.lineage.tag
    assert [d.tag for d in (*first.done, *second.done)] == [r.tag for r in records]


def test_one_message_a_batch_carries_all_its_records(lane: Lane, listener: Listener) -> None:
    answer = lane.mutate(set_(b"a", b"1"), set_(b"b", b"2"), delete(b"c"))
    message = listener.message()
    assert (message.lane, message.epoch) == (0, EPOCH)
    assert (message.seq, message.tag) == (answer.lineage.seq, answer.lineage.tag)
    assert list(message.records) == lane.log()[1]
    assert len(message.records) == 2  # nothing was deleted


def test_a_message_that_would_be_too_long_carries_no_records(
    lane: Lane, listener: Listener
) -> None:
    keys = [b"k" * 100 + b"%d" % i for i in range(40)]
    answer = lane.mutate(*(set_(key, b"") for key in keys))
    message = listener.message()
    assert message.records == ()
    assert message.seq == answer.lineage.seq == 40
    assert [r.keys for r in lane.log()[1]] == [(key,) for key in keys]


def test_a_message_just_within_the_bound_carries_its_records(
    lane: Lane, listener: Listener
) -> None:
    lane.mutate(*(set_(b"key:%d" % i, b"") for i in range(45)))
    assert len(listener.message().records) == 45


def test_what_changed_nothing_is_not_recorded(lane: Lane, listener: Listener) -> None:
    lane.mutate(set_(b"a", b"1"))
    nothing = lane.mutate(
        delete(b"missing"),
        write(b"SET", b"a", b"2", b"NX", unchanged=b"n"),
        write(b"EXPIRE", b"missing", b"9", unchanged=b"z"),
    )
    assert [d.reply for d in nothing.done] == [0, None, 0]
    assert [d.seq for d in nothing.done] == [0, 0, 0]
    assert nothing.lineage.seq == 1
    assert len(listener.messages(lane.server)) == 1


def test_an_error_is_given_to_its_mutation_only(lane: Lane) -> None:
    lane.server.command("LPUSH", "list", "x")
    answer = lane.mutate(set_(b"a", b"1"), incr(b"list"), set_(b"b", b"2"))
    ok, wrong, also_ok = answer.done
    assert ok.seq == 1
    assert isinstance(wrong.reply, ReplyError)
    assert wrong.reply.text.startswith("WRONGTYPE Operation against a key")
    assert wrong.seq == 0
    assert (also_ok.seq, also_ok.prev) == (2, ok.tag)


def test_reads_in_a_batch_see_what_was_written_before_them(lane: Lane) -> None:
    read = Mutation((b"GET", b"a"), keys=(b"a",), is_write=False)
    size = Mutation((b"DBSIZE",), is_write=False)
    answer = lane.mutate(read, set_(b"a", b"1"), read, size)
    assert [d.reply for d in answer.done] == [None, b"OK", b"1", 1]
    assert [d.seq for d in answer.done] == [0, 1, 0, 0]


def test_binary_keys_and_values(lane: Lane) -> None:
    key, value = bytes(range(256)), b"\r\n$5\r\n\x00\xff"
    lane.mutate(set_(key, value))
    assert lane.fetch(key).value == value
    assert lane.log()[1][0].keys == (key,)


def test_a_long_key_is_recorded_whole(lane: Lane) -> None:
    key = b"k" * 70_000
    lane.mutate(set_(key, b"1", label=(b"t",)))
    lane.mutate(set_(key, b"2"))
    assert lane.log()[1][1].keys == (key,)


def test_the_log_is_trimmed_about_its_length(server: Server) -> None:
    lane = Lane(server, log_length=200)
    for _ in range(10):
        lane.mutate(*(set_(b"a", b"1") for _ in range(100)))
    _, records, _ = lane.log()
    lane.close()
    assert 200 <= len(records) <= 310
    assert records[-1].seq == 1000


def test_too_many_words_are_refused_without_touching_the_rest(lane: Lane) -> None:
    keys = tuple(b"%d" % i for i in range(MOST_WORDS))
    answer = lane.mutate(set_(b"a", b"1"), delete(*keys), set_(b"b", b"2"))
    assert [d.seq for d in answer.done] == [1, 0, 2]
    refused = answer.done[1].reply
    assert isinstance(refused, ReplyError)
    assert "words in one atomic command" in refused.text


def test_as_many_words_as_allowed(lane: Lane) -> None:
    keys = tuple(b"%d" % i for i in range(MOST_WORDS - 1))
    lane.mutate(set_(keys[-1], b"1"))
    assert lane.reply(delete(*keys)) == 1


def test_an_empty_batch_answers_the_lineage(lane: Lane) -> None:
    assert lane.mutate().lineage == lane.lineage()


# -- integers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start", [0, 2**53 - 2, 2**53, 2**53 + 1, 2**63 - 3, -(2**53) - 3, -(2**63) + 1]
)
def test_64_bit_integers_are_exact(lane: Lane, start: int) -> None:
    lane.server.command("SET", "n", start)
    assert lane.reply(incr(b"n")) == start + 1
    assert lane.reply(incr(b"n")) == start + 2
    assert lane.log()[2] == [start + 1, start + 2]  # W3: a lost reply can be told


def test_an_overflow_is_the_servers_own_error(lane: Lane) -> None:
    lane.server.command("SET", "n", 2**63 - 1)
    done = lane.done(incr(b"n"))
    assert done.reply == ReplyError("ERR increment or decrement would overflow")
    assert done.seq == 0


def test_integer_replies_stand_in_the_log(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"1"), write(b"APPEND", b"a", b"xyz"), delete(b"a"))
    assert lane.log()[2] == [None, 4, 1]


# -- W2: metadata that is missing or damaged ---------------------------------------------


def test_flushall_starts_a_new_epoch(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"1"))
    lane.server.command("FLUSHALL")
    answer = lane.mutate(set_(b"a", b"2"), new_epoch=OTHER_EPOCH)
    assert answer.lineage[:2] == (OTHER_EPOCH, 1)
    assert answer.done[0].prev == OTHER_EPOCH


def test_missing_metadata_starts_a_new_epoch_and_ends_the_old_log(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"1"), set_(b"b", b"1"))
    lane.server.command("DEL", NAMES.meta)
    answer = lane.mutate(set_(b"c", b"1"), new_epoch=OTHER_EPOCH)
    assert answer.lineage[:2] == (OTHER_EPOCH, 1)
    assert [r.keys for r in lane.log()[1]] == [(b"c",)]


@pytest.mark.parametrize("field", ["e", "s", "t"])
def test_half_the_metadata_is_none(lane: Lane, field: str) -> None:
    lane.mutate(set_(b"a", b"1"))
    lane.server.command("HDEL", NAMES.meta, field)
    assert lane.mutate(set_(b"a", b"2"), new_epoch=OTHER_EPOCH).lineage.epoch == OTHER_EPOCH


@pytest.mark.parametrize("field", ["e", "t"])
def test_an_epoch_or_tag_of_another_length_is_none(lane: Lane, field: str) -> None:
    lane.mutate(set_(b"a", b"1"))
    lane.server.command("HSET", NAMES.meta, field, "short")
    assert lane.mutate(set_(b"a", b"2"), new_epoch=OTHER_EPOCH).lineage.epoch == OTHER_EPOCH


@pytest.mark.parametrize("name", [NAMES.meta, NAMES.log])
def test_a_wrong_type_of_ours_starts_a_new_epoch(lane: Lane, name: bytes) -> None:
    lane.mutate(set_(b"a", b"1"))
    lane.server.command("SET", name, "nonsense")
    answer = lane.mutate(set_(b"a", b"2"), new_epoch=OTHER_EPOCH)
    assert answer.lineage.epoch == OTHER_EPOCH
    assert answer.done[0].seq == answer.lineage.seq
    assert lane.server.command("GET", "a") == b"2"
    after = lane.mutate(set_(b"a", b"3"))
    assert after.lineage[:2] == (OTHER_EPOCH, answer.lineage.seq + 1)
    assert [r.seq for r in lane.log()[1]][-1] == after.lineage.seq


def test_a_log_ahead_of_the_metadata_starts_a_new_epoch(lane: Lane, listener: Listener) -> None:
    lane.mutate(*(set_(b"a", b"1") for _ in range(5)))
    lane.server.command("HSET", NAMES.meta, "s", "2")
    answer = lane.mutate(set_(b"a", b"2"), set_(b"b", b"2"), new_epoch=OTHER_EPOCH)
    assert answer.lineage.epoch == OTHER_EPOCH
    assert [d.seq for d in answer.done] == [3, 4]
    message = listener.messages(lane.server)[-1]
    assert (message.epoch, message.records) == (OTHER_EPOCH, ())


def test_a_lost_log_is_started_again(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"1"))
    lane.server.command("DEL", NAMES.log)
    answer = lane.mutate(set_(b"a", b"2"))
    assert answer.lineage[:2] == (EPOCH, 2)  # who was behind finds its place gone, and drops
    assert [r.seq for r in lane.log(1)[1]] == [2]


def test_a_new_epoch_keeps_the_roster_and_a_version_it_never_had(lane: Lane) -> None:
    lane.probe(member("a"))
    before = lane.roster()[0]
    lane.server.command("DEL", NAMES.meta)
    lane.mutate(set_(b"a", b"1"), new_epoch=OTHER_EPOCH)
    version, members = lane.roster()
    assert set(members) == {"a"}
    assert version >= before - 1000  # from the server's clock, in whole seconds
    lane.probe(member("b"))
    assert lane.roster()[0] == version + 1


@pytest.mark.parametrize("part", [b"dead", b"prefixes", b"pending", b"nodes", b"label:a"])
@pytest.mark.parametrize(
    "mutation",
    [
        set_(b"a", b"2"),
        set_(b"a", b"2", label=(b"t",)),
        incr(b"a"),
        invalidate(b"a", tags=(b"t",), prefixes=(b"p",)),
        FLUSH,
    ],
    ids=["set", "label", "incr", "invalidate", "flush"],
)
def test_other_damage_of_ours_fails_safe(lane: Lane, part: bytes, mutation: Mutation) -> None:
    lane.probe(member("a"))
    lane.mutate(set_(b"a", b"1", label=(b"t",)), prepare(b"z", b"T"))
    name = b"coh:{0}:" + part
    lane.server.commands(["DEL", name], ["LPUSH", name, "nonsense"])
    assert isinstance(lane.fetch(b"a").value, bytes | None)
    answer = lane.mutate(set_(b"b", b"1"), mutation, set_(b"c", b"1"), new_epoch=OTHER_EPOCH)
    assert answer.lineage == lane.lineage()
    again = lane.mutate(set_(b"b", b"1"), mutation, set_(b"c", b"1"))
    assert [d.seq > 0 for d in again.done] == [True, True, True]
    # Nothing is half done: the log ends where the metadata says.
    assert lane.log()[1][-1].seq == again.lineage.seq == lane.lineage().seq
    assert lane.fetch(b"c").value == b"1"


# -- memory ---------------------------------------------------------------------------


def test_out_of_memory_is_refused_before_anything_is_done(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"1"))
    lane.server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(ServerError, match=r"^OOM"):
            lane.mutate(set_(b"a", b"2"), delete(b"a"))
        assert lane.fetch(b"a").value == b"1"
        assert lane.lineage().seq == 1
        freed = lane.mutate(delete(b"a"), invalidate(b"b", tags=(b"t",)))
        assert [d.seq for d in freed.done] == [2, 3]
        assert lane.fetch(b"a").value is None
    finally:
        lane.server.command("CONFIG", "SET", "maxmemory", "0")


# -- compare and set ------------------------------------------------------------------


def if_version(key: bytes, version: Version, since: int, **more: object) -> Mutation:
    return set_(key, b"new", if_version=version, unchanged_since=since, **more)


def test_compare_and_set(lane: Lane) -> None:
    read = Version(EPOCH, lane.mutate(set_(b"a", b"1")).lineage.seq)
    lane.mutate(set_(b"other", b"1"), incr(b"n"))
    done = lane.done(if_version(b"a", read, read.seq))
    assert (done.reply, done.seq) == (b"OK", 4)
    again = lane.done(if_version(b"a", read, read.seq))
    assert (again.reply, again.seq) == (CONFLICT, 0)
    assert lane.lineage().seq == 4


def test_compare_and_set_with_nothing_newer(lane: Lane) -> None:
    read = Version(EPOCH, lane.mutate(set_(b"a", b"1")).lineage.seq)
    assert lane.done(if_version(b"a", read, read.seq)).seq == 2


def test_compare_and_set_conflicts(lane: Lane) -> None:
    read = Version(EPOCH, lane.mutate(set_(b"a", b"1")).lineage.seq)
    assert lane.reply(if_version(b"a", Version(OTHER_EPOCH, 1), 1)) == CONFLICT
    assert lane.reply(if_version(b"a", Version(EPOCH, 99), 99)) == CONFLICT
    lane.mutate(invalidate(everything=True))
    assert lane.reply(if_version(b"a", read, read.seq)) == CONFLICT
    lane.mutate(set_(b"b", b"1"))
    lane.server.command("XTRIM", NAMES.log, "MAXLEN", "1")
    assert lane.reply(if_version(b"a", read, read.seq)) == CONFLICT
    assert lane.reply(if_version(b"a", Version(EPOCH, 3), 2)) == b"OK"


def test_compare_and_set_looks_at_a_bounded_number_of_records(lane: Lane) -> None:
    read = Version(EPOCH, lane.mutate(set_(b"a", b"1")).lineage.seq)
    lane.mutate(*(set_(b"b", b"1") for _ in range(1001)))
    assert lane.reply(if_version(b"a", read, read.seq)) == CONFLICT
    assert lane.reply(if_version(b"a", read, read.seq + 1)) == b"OK"


def test_tags_are_a_conflict_only_where_values_have_labels(lane: Lane) -> None:
    read = Version(EPOCH, lane.mutate(set_(b"a", b"1")).lineage.seq)
    lane.mutate(invalidate(tags=(b"t",)))
    assert lane.reply(if_version(b"a", read, read.seq)) == b"OK"
    read = Version(EPOCH, lane.mutate(set_(b"a", b"1", label=(b"u",))).lineage.seq)
    lane.mutate(invalidate(prefixes=(b"x",)))
    assert lane.reply(if_version(b"a", read, read.seq)) == CONFLICT


def test_a_log_that_cannot_be_read_is_a_conflict(lane: Lane) -> None:
    read = Version(EPOCH, lane.mutate(set_(b"a", b"1")).lineage.seq)
    lane.mutate(set_(b"b", b"1"))
    lane.server.command("DEL", NAMES.log)
    lane.server.command("XADD", NAMES.log, "2-0", "p", "x", "t", "y", "b", "junk")
    assert lane.reply(if_version(b"a", read, read.seq)) == CONFLICT
    assert lane.lineage().epoch == EPOCH


# -- FLUSHDB ---------------------------------------------------------------------------


def test_flushdb_keeps_what_is_ours(lane: Lane, listener: Listener) -> None:
    lane.probe(member("a"))
    lane.probe(member("b"))
    roster = lane.roster()
    lane.mutate(set_(b"a", b"1", label=(b"t",)), set_(b"b", b"1"))
    answer = lane.mutate(FLUSH, set_(b"c", b"1"))
    assert [d.reply for d in answer.done] == [b"OK", b"OK"]
    assert answer.lineage[:2] == (EPOCH, 4)
    assert lane.roster() == roster
    assert lane.lineage() == answer.lineage
    assert lane.query(b"DBSIZE") == 1
    _, records, _ = lane.log()
    assert [(r.seq, r.flags & EVERYTHING) for r in records] == [(3, EVERYTHING), (4, 0)]
    assert records == list(listener.messages(lane.server)[-1].records)
    lane.probe(member("b", beat=2))
    assert lane.roster()[0] == roster[0]
    assert lane.server.command("HGET", NAMES.meta, "lb") in (None, b"0")


def test_flushdb_async(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"1"))
    flush = Mutation((b"FLUSHDB", b"ASYNC"), op=Op.FLUSH, everything=True, frees_memory=True)
    assert lane.reply(flush) == b"OK"
    assert lane.fetch(b"a").value is None
    assert lane.lineage().seq == 2


# -- K6: two phases --------------------------------------------------------------------


def prepare(key: bytes, token: bytes, ttl_ms: int = 60_000) -> Mutation:
    return Mutation((), op=Op.PREPARE, keys=(key,), token=token, token_ttl_ms=ttl_ms)


def commit(key: bytes, value: bytes, token: bytes) -> Mutation:
    return set_(key, value, op=Op.COMMIT, token=token)


def abort(key: bytes, token: bytes) -> Mutation:
    return Mutation((), op=Op.ABORT, keys=(key,), token=token)


def refused(reply: object) -> bool:
    return isinstance(reply, ReplyError) and reply.text.startswith("TRYAGAIN ")


def test_prepare_commit(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"old"))
    assert lane.done(prepare(b"a", b"T")).seq == 2
    found = lane.fetch(b"a")
    assert (found.value, found.pending) == (b"old", True)
    assert not lane.fetch(b"b").pending
    assert lane.done(commit(b"a", b"new", b"T")).seq == 3
    found = lane.fetch(b"a")
    assert (found.value, found.pending) == (b"new", False)
    assert lane.server.command("HGET", NAMES.meta, "pd") is None
    assert [r.op for r in lane.log()[1]] == [Op.WRITE, Op.PREPARE, Op.COMMIT]


def test_a_pending_key_is_refused_to_others(lane: Lane) -> None:
    lane.mutate(prepare(b"a", b"T"))
    assert refused(lane.reply(set_(b"a", b"x")))
    assert refused(lane.reply(prepare(b"a", b"U")))
    assert refused(lane.reply(commit(b"a", b"x", b"U")))
    assert refused(lane.reply(abort(b"a", b"U")))
    assert lane.lineage().seq == 1
    assert lane.done(prepare(b"a", b"T")).seq == 2  # its own again
    assert lane.done(set_(b"b", b"1")).seq == 3
    assert lane.done(invalidate(b"a")).seq == 4


def test_abort_takes_the_mark_away(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"old"), prepare(b"a", b"T"))
    assert lane.done(abort(b"a", b"T")).seq == 3
    found = lane.fetch(b"a")
    assert (found.value, found.pending) == (b"old", False)
    assert refused(lane.reply(commit(b"a", b"new", b"T")))


def test_an_expired_mark_is_none(lane: Lane) -> None:
    lane.mutate(prepare(b"a", b"T", ttl_ms=0))
    assert not lane.fetch(b"a").pending
    assert refused(lane.reply(commit(b"a", b"new", b"T")))
    assert lane.reply(set_(b"a", b"1")) == b"OK"


def test_two_commands_of_one_commit_may_be_about_one_key(lane: Lane) -> None:
    lane.mutate(prepare(b"n", b"T"))
    more = write(b"INCR", b"n", op=Op.COMMIT, token=b"T", exact_integer=True)
    answer = lane.mutate(commit(b"n", b"5", b"T"), more)
    assert [d.reply for d in answer.done] == [b"OK", 6]
    assert not lane.fetch(b"n").pending


def test_a_commit_that_changes_nothing_still_takes_the_mark_away(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"old"), prepare(b"a", b"T"))
    nothing = write(b"SET", b"a", b"x", b"NX", unchanged=b"n", op=Op.COMMIT, token=b"T")
    assert lane.done(nothing).seq == 0
    assert not lane.fetch(b"a").pending


def test_a_new_epoch_takes_every_mark_away(lane: Lane) -> None:
    lane.mutate(prepare(b"a", b"T"))
    lane.server.command("DEL", NAMES.meta)
    answer = lane.mutate(commit(b"a", b"new", b"T"), new_epoch=OTHER_EPOCH)
    assert refused(answer.done[0].reply)


def test_marks_of_dead_writers_are_swept(lane: Lane) -> None:
    for i in range(200):
        lane.mutate(prepare(b"k%d" % i, b"T", ttl_ms=0))
    assert lane.server.command("HLEN", b"coh:{0}:pending") <= 65


def test_labels_survive_the_phases_until_the_commit(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"old", label=(b"t",)), prepare(b"a", b"T"))
    assert lane.fetch(b"a").labels == (b"t",)
    assert lane.fetch(b"a").value == b"old"
    lane.mutate(commit(b"a", b"new", b"T"))
    assert lane.fetch(b"a").labels == ()


def test_queries_and_fills_come_back_in_the_order_asked(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"1"), set_(b"b", b"22", b"PX", b"60000"))
    found = lane.fetch_all(
        Query((b"STRLEN", b"b"), (b"b",)), b"a", Query((b"EXISTS", b"a", b"x"), (b"a", b"x")), b"b"
    )
    strlen, a, exists, b = found.results
    assert (strlen, exists) == (2, 1)
    assert (a.value, a.ttl_ms) == (b"1", -1)
    assert b.value == b"22"
    assert 0 < b.ttl_ms <= 60_000
    assert found.lineage.seq == 2


# -- nothing but SETs ----------------------------------------------------------------


def everything_but_times(server: Server) -> dict[bytes, object]:
    """What is in the server, the log and the metadata included."""
    found: dict[bytes, object] = {}
    for key in server.command("KEYS", "*"):
        kind = server.command("TYPE", key)
        if kind == b"string":
            found[key] = (server.command("GET", key), server.command("TTL", key) > 0)
        elif kind == b"hash":
            pairs = server.command("HGETALL", key)
            fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
            fields.pop(b"rv", None)
            found[key] = {name: re.sub(rb"^\d+ ", b"", value) for name, value in fields.items()}
        elif kind == b"stream":
            found[key] = server.command("XRANGE", key, "-", "+")
        else:
            found[key] = kind
    return found


PLAIN_SETS = (set_(b"a", b"1"), set_(b"b", b"\r\n\x00"), set_(b"a", b""))
LONG_SETS = tuple(set_(b"k" * 200 + b"%d" % number, b"v") for number in range(30))
ONE_BY_ONE = ("labels", "pending", "lease", "no MSET")


@pytest.mark.parametrize(
    "before",
    [
        "",
        "other types",
        "expiry",
        "lost log",
        "log ahead",
        "no metadata",
        "long keys",
        *ONE_BY_ONE,
    ],
)
def test_nothing_but_sets_does_what_one_by_one_does(
    lane: Lane, listener: Listener, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = lane.server
    told, replies = [], []
    for is_short in (True, False):
        server.command("FLUSHALL")
        monkeypatch.setattr(lanes, "_numbers", itertools.count(1))  # the same tags again
        lane.mutate(incr(b"first"))
        if before == "other types":
            server.commands(["SADD", "a", "x"], ["HSET", "b", "x", "y"])
        elif before == "expiry":
            server.commands(["SET", "a", "old", "EX", "100"], ["SET", "b", "old", "EX", "100"])
        elif before == "labels":
            lane.mutate(set_(b"a", b"old", label=(b"t",)), set_(b"z", b"old", label=(b"t",)))
        elif before == "pending":
            lane.mutate(prepare(b"b", b"T"))
        elif before == "lease":
            lane.run(CLAIM, [EPOCH, b"a", b"t" * 16, 60_000, -1])
        elif before == "lost log":
            server.command("DEL", NAMES.log)
        elif before == "log ahead":
            server.command("XADD", NAMES.log, "900-0", "p", "x")
        elif before == "no metadata":
            server.command("DEL", NAMES.meta)
        call = lane.mutate_call(*(LONG_SETS if before == "long keys" else PLAIN_SETS))
        if is_short:
            call = as_sets(call)
            assert call.sets
        server.command("ACL", "SETUSER", "default", "-mset" if before == "no MSET" else "+mset")
        try:
            reply = lane.run(*codec.mutate_words(call, NAMES, 100))
        finally:
            server.command("ACL", "SETUSER", "default", "+mset")
        replies.append(len(reply))
        answer = msgspec.structs.replace(codec.mutated(call, reply), roster_version=0)
        told.append((answer, listener.messages(server)[-1], everything_but_times(server)))
    assert told[0] == told[1]
    assert (replies[0] == 6) == (before not in ONE_BY_ONE)


@pytest.mark.parametrize("labels", [None, (b"t",)])
def test_a_fetch_ends_where_it_has_become_large(
    lane: Lane, labels: tuple[bytes, ...] | None
) -> None:
    large, small = b"x" * (3 << 20), [b"s%d" % number for number in range(5)]
    for key in (b"l0", b"l1", b"l2", b"l3", b"l4"):
        lane.mutate(set_(key, large))
    lane.mutate(set_(b"s0", b"v", b"PX", b"60000", label=labels))
    keys = [b"l0", b"l1", b"none", b"l2", b"l3", b"l4"]
    length = Query((b"STRLEN", b"l0"), (b"l0",))
    # One, and then eight together; but where there are labels, each by itself.
    read = len(lane.fetch_all(*keys, *small, step=8).results)
    assert read == (9 if labels is None else 4)
    found = lane.fetch_all(*small, *keys, length, step=1).results
    assert [f.value for f in found[:5]] == [b"v", None, None, None, None]  # type: ignore[union-attr]
    assert 0 < found[0].ttl_ms <= 60_000 and len(found) == 9  # type: ignore[union-attr]
    assert len(lane.fetch_all(*keys, length).results) == 7, "a snapshot is whole"
    get = Query((b"GET", b"l0"), (b"l0",))
    assert len(lane.fetch_all(b"s0", get, get, get, get, step=8).results) == 4


def test_a_fetch_of_more_keys_than_a_command_has_room_for(lane: Lane) -> None:
    lane.mutate(set_(b"8500", b"v"))
    found = lane.fetch_all(*(b"%d" % number for number in range(9_000))).results
    assert [number for number, got in enumerate(found) if got != Fetched(None)] == [8500]
