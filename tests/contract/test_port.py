"""What the protocol needs of a server, said once and held against every implementation."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from coherenced.core.calls import (
    Failed,
    Failure,
    Fetch,
    FetchedAll,
    Leave,
    Logged,
    Mutate,
    Mutated,
    Probe,
    Probed,
    ReadLog,
    ReadRoster,
    Reap,
    Resolve,
    RosterRead,
    SendAck,
)
from coherenced.core.model import (
    EVERYTHING,
    WANT_ACK,
    Acknowledgement,
    Fetched,
    Lineage,
    Member,
    Message,
    Mutation,
    Op,
    Query,
    ReplyError,
    Version,
)
from tests.contract.ports import INCARNATION, Port

E1, E2, E3 = b"e" * 15 + b"1", b"e" * 15 + b"2", b"e" * 15 + b"3"
WRITER = b"writer-in-tests-"
A, B = b"node-a----------", b"node-b----------"
_numbers = itertools.count(1)


def _id() -> bytes:
    return b"%016x" % next(_numbers)


def set_(key: bytes, value: bytes, **more: Any) -> Mutation:
    return Mutation((b"SET", key, value), keys=(key,), **more)


def delete(*keys: bytes) -> Mutation:
    return Mutation((b"DEL", *keys), Op.DELETE, keys, unchanged=b"z", frees_memory=True)


def member(incarnation: bytes, beat: int = 1) -> Member:
    return Member(incarnation, incarnation.decode()[:6], 1000, beat, "0.1", 0)


async def mutate(
    port: Port, *mutations: Mutation, new_epoch: bytes = E1, want_ack: bool = False
) -> Mutated:
    call = Mutate(
        next(_numbers),
        0,
        new_epoch,
        WRITER,
        (want_ack,) * len(mutations),
        mutations,
        tuple(_id() for _ in mutations),
    )
    answer = await port.ask(call)
    assert isinstance(answer, Mutated), answer
    return answer


async def fetch(port: Port, *items: bytes | Query, new_epoch: bytes = E1) -> FetchedAll:
    answer = await port.ask(Fetch(next(_numbers), 0, new_epoch, items))
    assert isinstance(answer, FetchedAll), answer
    return answer


async def probe(port: Port, who: Member | None = None, new_epoch: bytes = E1) -> Probed:
    answer = await port.ask(Probe(next(_numbers), 0, new_epoch, who))
    assert isinstance(answer, Probed), answer
    return answer


async def log(port: Port, start: int, limit: int = 1000) -> Logged:
    answer = await port.ask(ReadLog(next(_numbers), 0, start, limit))
    assert isinstance(answer, Logged), answer
    return answer


async def test_the_first_call_starts_an_epoch_and_later_ones_keep_it(port: Port) -> None:
    first = await probe(port, new_epoch=E1)
    assert first.lineage == Lineage(E1, 0, E1)
    assert (await fetch(port, b"k", new_epoch=E2)).lineage == first.lineage
    assert (await mutate(port, set_(b"k", b"v"), new_epoch=E2)).lineage.epoch == E1


@pytest.mark.parametrize("want_ack", [False, True])
@pytest.mark.parametrize(
    "nothing",
    [
        delete(b"k"),
        Mutation((b"unlink", b"k", b"j"), Op.DELETE, (b"k", b"j"), unchanged=b"z"),
        Mutation((b"GETDEL", b"k"), keys=(b"k",), unchanged=b"n"),
    ],
    ids=["del", "unlink", "getdel"],
)
async def test_a_delete_of_nothing_is_recorded_if_it_is_to_be_acknowledged(
    port: Port, nothing: Mutation, want_ack: bool
) -> None:
    """Others may still hold what an earlier delete has removed (K5)."""
    await mutate(port, set_(b"a", b"v"))
    (one,) = (await mutate(port, nothing, want_ack=want_ack)).done
    assert one.seq == (2 if want_ack else 0)
    assert not one.reply
    assert [r.wants_ack for r in (await log(port, 2)).records] == [True] * want_ack
    (other,) = (await mutate(port, missing_expire(), want_ack=True)).done
    assert other.seq == 0, "what only changes what is there has nothing to be acknowledged"


def missing_expire() -> Mutation:
    return Mutation((b"EXPIRE", b"k", b"9"), keys=(b"k",), unchanged=b"z")


async def test_a_mutation_is_recorded_executed_and_published_in_one_step(port: Port) -> None:
    done = await mutate(port, set_(b"k", b"v"), want_ack=True)
    (one,) = done.done
    assert (one.reply, one.seq, one.prev) == (b"OK", 1, E1)
    assert done.lineage == Lineage(E1, 1, one.tag)
    read = await log(port, 0)
    assert [r.tag for r in read.records] == [one.tag]
    assert read.records[0].flags == WANT_ACK
    assert read.records[0].writer == WRITER
    message = Message(0, E1, 1, one.tag, read.records)
    assert await port.published() == [message]


async def test_a_batch_is_a_chain_and_one_message(port: Port) -> None:
    done = await mutate(port, set_(b"a", b"1"), set_(b"b", b"2"), delete(b"a"))
    tags = [one.tag for one in done.done]
    assert [one.prev for one in done.done] == [E1, *tags[:2]]
    (message,) = await port.published()
    assert isinstance(message, Message)
    assert [record.tag for record in message.records] == tags
    assert message.seq == 3


async def test_what_changes_nothing_is_not_recorded(port: Port) -> None:
    nx = Mutation((b"SET", b"k", b"2", b"NX"), keys=(b"k",), unchanged=b"n")
    before = await mutate(port, set_(b"k", b"1"))
    await port.published()
    wrong = Mutation((b"INCR", b"list"), keys=(b"list",))
    await port.foreign(b"RPUSH", b"list", b"x")
    done = await mutate(port, nx, delete(b"gone"), wrong)
    assert [one.seq for one in done.done] == [0, 0, 0]
    assert done.done[0].reply is None
    assert isinstance(done.done[2].reply, ReplyError)
    assert done.lineage == before.lineage
    assert await port.published() == []


async def test_a_read_inside_a_batch_sees_what_came_before_it(port: Port) -> None:
    look = Mutation((b"GET", b"k"), keys=(b"k",), is_write=False)
    done = await mutate(port, look, set_(b"k", b"v"), look)
    assert [one.reply for one in done.done] == [None, b"OK", b"v"]
    assert [one.seq for one in done.done] == [0, 1, 0]


async def test_a_large_record_is_announced_without_its_keys(port: Port) -> None:
    keys = tuple(b"%0100d" % number for number in range(60))
    done = await mutate(port, Mutation((), Op.INVALIDATE, keys, frees_memory=True))
    assert await port.published() == [Message(0, *done.lineage, ())]
    assert (await log(port, 1)).records[0].keys == keys


async def test_the_log_is_read_inclusively_with_its_head_and_replies(port: Port) -> None:
    incr = Mutation((b"INCR", b"n"), keys=(b"n",), exact_integer=True)
    done = await mutate(port, incr, incr, incr)
    read = await log(port, 2)
    assert [record.seq for record in read.records] == [2, 3]
    assert read.lineage == done.lineage
    assert read.replies == (2, 3)
    assert [record.seq for record in (await log(port, 1, limit=2)).records] == [1, 2]
    assert (await log(port, 4)).records == ()
    resolved = await port.ask(Resolve(next(_numbers), 0, 987_654, 2))
    assert isinstance(resolved, Logged)
    assert (resolved.records, resolved.replies) == (read.records, read.replies)


async def test_without_metadata_there_is_no_log(port: Port) -> None:
    answer = await port.ask(ReadLog(next(_numbers), 0, 0, 10))
    assert isinstance(answer, Failed)
    assert answer.failure == Failure.UNREACHABLE


async def test_trimming_takes_the_oldest(port: Port) -> None:
    await mutate(port, *[set_(b"k", b"%d" % number) for number in range(5)])
    await port.trim(2)
    assert [record.seq for record in (await log(port, 1)).records] == [4, 5]


async def test_lost_metadata_is_a_new_epoch_and_takes_the_log_with_it(port: Port) -> None:
    await mutate(port, set_(b"k", b"v"))
    await port.lose_metadata()
    after = await fetch(port, b"k", new_epoch=E2)
    assert after.lineage == Lineage(E2, 0, E2)
    assert after.results == (Fetched(b"v"),)
    assert (await log(port, 0)).records == ()


async def test_a_flush_by_an_operator_is_a_new_epoch(port: Port) -> None:
    await mutate(port, set_(b"k", b"v"))
    await probe(port, member(A))
    await port.flush_all()
    done = await mutate(port, set_(b"k", b"w"), new_epoch=E3)
    assert done.lineage[:2] == (E3, 1)
    assert done.done[0].prev == E3


async def test_a_flush_through_us_keeps_the_lane_and_the_roster(port: Port) -> None:
    await probe(port, member(A))
    await mutate(port, set_(b"k", b"v"))
    flush = Mutation((b"FLUSHDB",), Op.FLUSH, everything=True, frees_memory=True)
    done = await mutate(port, flush)
    assert done.lineage[:2] == (E1, 2)
    (record,) = (await log(port, 2)).records
    assert record.flags & EVERYTHING
    assert (await fetch(port, b"k")).results == (Fetched(None),)
    read = await port.ask(ReadRoster(next(_numbers), 0))
    assert isinstance(read, RosterRead)
    assert [m.incarnation for m in read.members] == [A]


@pytest.mark.parametrize("lost", ["", "roster", "a line", "metadata", "everything"])
async def test_a_roster_tells_whether_it_names_all_who_joined(port: Port, lost: str) -> None:
    async def is_whole() -> bool:
        read = await port.ask(ReadRoster(next(_numbers), 0))
        assert isinstance(read, RosterRead)
        return read.is_whole

    assert not await is_whole(), "who was there before the metadata is not known"
    await probe(port, member(A))
    await probe(port, member(B))
    if lost in ("roster", "a line"):
        await port.lose_roster(keep=lost == "a line")
    elif lost == "metadata":
        await port.lose_metadata()
    elif lost:
        await port.flush_all()
    assert await is_whole() is (not lost)
    await probe(port, member(A, beat=2))
    assert await is_whole(), "a new epoch: nobody knows who was there before it"


async def test_joining_and_leaving_move_the_version_of_the_roster(port: Port) -> None:
    first = (await probe(port, member(A))).roster_version
    assert (await probe(port, member(A, beat=2))).roster_version == first
    second = (await probe(port, member(B))).roster_version
    assert second == first + 1
    await port.ask(Leave(next(_numbers), 0, A))
    read = await port.ask(ReadRoster(next(_numbers), 0))
    assert isinstance(read, RosterRead)
    assert [m.incarnation for m in read.members] == [B]
    assert read.roster_version == second + 1


async def test_a_silent_node_is_taken_off_only_at_the_beat_that_was_seen(port: Port) -> None:
    async def names() -> list[bytes]:
        read = await port.ask(ReadRoster(next(_numbers), 0))
        assert isinstance(read, RosterRead)
        return [m.incarnation for m in read.members]

    await probe(port, member(A, beat=7))
    await port.ask(Reap(0, A, 6))
    assert await names() == [A]
    await port.ask(Reap(0, A, 7))
    assert await names() == []


async def test_a_lost_roster_is_a_new_epoch(port: Port) -> None:
    await probe(port, member(A))
    await mutate(port, set_(b"k", b"v"))
    await port.lose_roster()
    assert (await probe(port, None, E2)).lineage.epoch == E1
    assert (await probe(port, member(B), E2)).lineage == Lineage(E2, 1, E2)


async def test_so_is_one_that_lacks_a_line_whoever_beats_next(port: Port) -> None:
    for joined in (member(A), member(B)):
        await probe(port, joined)
    await mutate(port, set_(b"k", b"v"))
    await port.lose_roster(keep=1)
    assert (await probe(port, member(A, beat=2), E2)).lineage == Lineage(E2, 1, E2)
    assert (await probe(port, member(B, beat=2), E3)).lineage == Lineage(E2, 1, E2)
    assert (await probe(port, member(A, beat=3), E3)).lineage == Lineage(E2, 1, E2)


async def test_an_epoch_that_forked_is_left_once_and_its_versions_hold_no_more(port: Port) -> None:
    written = await mutate(port, set_(b"k", b"v"), set_(b"other", b"v"))
    forked, seq = written.lineage.epoch, written.lineage.seq
    for _ in range(2):  # of two nodes that have seen the fork one is the first
        answer = await port.ask(Probe(next(_numbers), 0, E2, member(A), forked))
        assert isinstance(answer, Probed), answer
        assert answer.lineage == Lineage(E2, seq, E2)
    assert not (await log(port, 0)).records
    assert (await fetch(port, b"k")).results == (Fetched(b"v"),)


async def test_a_server_that_may_not_write_proves_nothing(port: Port) -> None:
    await mutate(port, set_(b"k", b"v"))
    await port.fence(True)
    for call in (
        Probe(next(_numbers), 0, E2, None),
        Probe(next(_numbers), 0, E2, member(A)),
        Fetch(next(_numbers), 0, E2, (b"k",)),
        Mutate(next(_numbers), 0, E2, WRITER, (False,), (set_(b"k", b"w"),), (_id(),)),
        Mutate(next(_numbers), 0, E2, WRITER, (False,), (delete(b"k"),), (_id(),)),
    ):
        answer = await port.ask(call)
        assert isinstance(answer, Failed), answer
        assert answer.failure == Failure.UNREACHABLE
    await port.fence(False)
    assert (await fetch(port, b"k")).results == (Fetched(b"v"),)


async def test_out_of_memory_refuses_the_whole_batch_but_lets_deletes_through(port: Port) -> None:
    await mutate(port, set_(b"k", b"v"))
    await port.fill_memory(True)
    mixed = Mutate(
        next(_numbers), 0, E1, WRITER, (False,) * 2, (delete(b"k"), set_(b"k", b"w")),
        (_id(), _id()),
    )  # fmt: skip
    answer = await port.ask(mixed)
    assert isinstance(answer, Failed)
    assert answer.failure == Failure.OUT_OF_MEMORY
    assert (await fetch(port, b"k")).results == (Fetched(b"v"),)
    assert (await mutate(port, delete(b"k"))).done[0].reply == 1
    assert (await probe(port, member(A))).lineage.seq == 2


async def test_compare_and_set_asks_the_log(port: Port) -> None:
    first = await mutate(port, set_(b"k", b"1"), set_(b"other", b"1"))
    version = Version(E1, 1)
    fine = await mutate(port, set_(b"k", b"2", if_version=version, unchanged_since=1))
    assert fine.done[0].reply == b"OK"
    late = await mutate(port, set_(b"k", b"3", if_version=version, unchanged_since=1))
    assert isinstance(late.done[0].reply, ReplyError)
    assert late.done[0].reply.text.startswith("CONFLICT")
    assert late.done[0].seq == 0
    await mutate(port, set_(b"other", b"2"))
    await port.trim(1)
    unknown = set_(b"k", b"4", if_version=Version(E1, 3), unchanged_since=3)
    assert (await mutate(port, unknown)).done[0].reply == b"OK"
    trimmed = set_(b"k", b"5", if_version=Version(E1, 3), unchanged_since=3)
    await port.trim(1)
    assert isinstance((await mutate(port, trimmed)).done[0].reply, ReplyError)
    assert first.lineage.epoch == E1


async def test_a_tag_ends_the_values_that_carry_it(port: Port) -> None:
    await mutate(port, set_(b"a", b"1", label=(b"red",)), set_(b"b", b"2", label=(b"blue",)))
    await mutate(port, set_(b"plain", b"3"))
    found = await fetch(port, b"a", b"b")
    assert [r.labels for r in found.results if isinstance(r, Fetched)] == [(b"red",), (b"blue",)]
    await mutate(port, Mutation((), Op.INVALIDATE, tags=(b"red",), frees_memory=True))
    after = (await fetch(port, b"a", b"b", b"plain")).results
    assert [r.value for r in after if isinstance(r, Fetched)] == [None, b"2", b"3"]
    await mutate(port, set_(b"a", b"4", label=(b"red",)))
    (again,) = (await fetch(port, b"a")).results
    assert isinstance(again, Fetched)
    assert again.value == b"4"


def append(key: bytes, tail: bytes, most_bytes: int, **more: Any) -> Mutation:
    return Mutation((b"APPEND", key, tail), keys=(key,), most_bytes=most_bytes, **more)


async def test_an_append_that_makes_a_value_too_long_is_refused_when_its_turn_comes(
    port: Port,
) -> None:
    """Of several in one batch, those that still fit; of a labelled value as of a plain one."""
    too_long = ReplyError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    done = (
        await mutate(
            port,
            set_(b"k", b"12"),
            append(b"k", b"34", 5),
            append(b"k", b"56", 5),
            append(b"k", b"5", 5),
        )
    ).done
    assert [one.reply for one in done] == [b"OK", 4, too_long, 5]
    assert [one.seq for one in done] == [1, 2, 0, 3], "what was refused is not recorded"
    await mutate(port, set_(b"a", b"12345", label=(b"red",)))
    (refused,) = (await mutate(port, append(b"a", b"6", 5))).done
    assert refused.reply == too_long
    await mutate(port, Mutation((), Op.INVALIDATE, tags=(b"red",), frees_memory=True))
    (anew,) = (await mutate(port, append(b"a", b"6", 5))).done
    assert anew.reply == 1, "what was there is dead"
    await mutate(port, Mutation((b"RPUSH", b"list", b"x"), keys=(b"list",)))
    (other,) = (await mutate(port, append(b"list", b"6", 5))).done
    assert isinstance(other.reply, ReplyError)
    assert other.reply.text.startswith("WRONGTYPE")


async def test_a_key_between_two_phases_is_marked_and_kept_from_others(port: Port) -> None:
    prepare = Mutation((), Op.PREPARE, (b"k",), token=b"mine", token_ttl_ms=100_000)
    commit = Mutation((b"SET", b"k", b"new"), Op.COMMIT, (b"k",), token=b"mine")
    await mutate(port, set_(b"k", b"old"))
    assert (await mutate(port, prepare)).done[0].seq == 2
    (marked,) = (await fetch(port, b"k")).results
    assert marked == Fetched(b"old", pending=True)
    for other in (
        set_(b"k", b"other"),
        Mutation((), Op.PREPARE, (b"k",), token=b"yours", token_ttl_ms=100_000),
        Mutation((b"SET", b"k", b"x"), Op.COMMIT, (b"k",), token=b"yours"),
    ):
        reply = (await mutate(port, other)).done[0].reply
        assert isinstance(reply, ReplyError)
        assert reply.text.startswith("TRYAGAIN")
    assert (await mutate(port, commit)).done[0].reply == b"OK"
    assert (await fetch(port, b"k")).results == (Fetched(b"new"),)
    late = (await mutate(port, commit)).done[0].reply
    assert isinstance(late, ReplyError)


async def test_compare_and_set_between_two_phases(port: Port) -> None:
    """Its own mark, and those of others that were taken away, are no changes of the key."""
    old = (await mutate(port, set_(b"k", b"old"))).done[0].seq
    await mutate(port, Mutation((), Op.PREPARE, (b"k",), token=b"other", token_ttl_ms=100_000))
    await mutate(port, Mutation((), Op.ABORT, (b"k",), token=b"other"))
    for expected in ("new", "CONFLICT"):
        await mutate(port, Mutation((), Op.PREPARE, (b"k",), token=b"t", token_ttl_ms=100_000))
        commit = Mutation(
            (b"SET", b"k", b"new"), Op.COMMIT, (b"k",), token=b"t", if_version=Version(E1, old)
        )
        reply = (await mutate(port, commit)).done[0].reply
        if expected == "new":
            assert reply == b"OK"
        else:
            assert isinstance(reply, ReplyError)
            assert reply.text.startswith(expected)
    assert (await fetch(port, b"k")).results == (Fetched(b"new"),), "and no mark is left"


async def test_an_aborted_write_leaves_the_old_value(port: Port) -> None:
    await mutate(port, set_(b"k", b"old"))
    await mutate(port, Mutation((), Op.PREPARE, (b"k",), token=b"t", token_ttl_ms=100_000))
    await mutate(port, Mutation((), Op.ABORT, (b"k",), token=b"t"))
    assert (await fetch(port, b"k")).results == (Fetched(b"old"),)


async def test_a_mark_expires_by_itself(port: Port) -> None:
    await mutate(port, set_(b"k", b"old"))
    await mutate(port, Mutation((), Op.PREPARE, (b"k",), token=b"t", token_ttl_ms=0))
    assert (await fetch(port, b"k")).results == (Fetched(b"old"),)
    commit = Mutation((b"SET", b"k", b"new"), Op.COMMIT, (b"k",), token=b"t")
    assert isinstance((await mutate(port, commit)).done[0].reply, ReplyError)


FLUSH = Mutation((b"FLUSHDB",), Op.FLUSH, everything=True, frees_memory=True)


@pytest.mark.parametrize("ttl_ms", [None, 0, 100_000])
@pytest.mark.parametrize("flushes", [False, True])
@pytest.mark.parametrize("leads", [False, True])
async def test_what_goes_with_a_commit_is_done_with_it_or_not_at_all(
    port: Port, ttl_ms: int | None, flushes: bool, leads: bool
) -> None:
    """`leads`: what is not linearizable comes first. A FLUSHDB of the transaction's own takes the
    marks away, and ends nothing."""
    if ttl_ms is not None:
        await mutate(port, Mutation((), Op.PREPARE, (b"k",), token=b"t", token_ttl_ms=ttl_ms))
    commit = Mutation((b"SET", b"k", b"new"), Op.COMMIT, (b"k",), token=b"t")
    with_it = set_(b"plain", b"1", token=b"t", guard=b"k")
    batch = [with_it, commit] if leads else [commit, with_it]
    if flushes:
        batch.insert(1, msgspec.structs.replace(FLUSH, token=b"t", guard=b"k"))
    told = (await mutate(port, *batch)).done
    is_done = bool(ttl_ms)
    assert [one.seq > 0 for one in told] == [is_done] * len(batch)
    if not is_done:
        assert all(str(one.reply).startswith("TRYAGAIN the mark") for one in told)
    found = (await fetch(port, b"k", b"plain")).results
    kept = is_done and not flushes
    last = b"k" if leads else b"plain"
    values = (
        {b"k": b"new", b"plain": b"1"} if kept else {last: batch[-1].argv[2]} if is_done else {}
    )
    assert found == (Fetched(values.get(b"k")), Fetched(values.get(b"plain")))


async def test_a_key_that_a_node_declares_linearizable_changes_in_two_phases(port: Port) -> None:
    lin = ((b"lin:free", False), (b"lin:*", True))
    await port.ask(Probe(next(_numbers), 0, E1, member(A), declares=lin))
    await probe(port, member(B))
    seen = await port.ask(ReadRoster(next(_numbers), 0))
    assert isinstance(seen, RosterRead)
    assert seen.declared == (lin,)
    batch = (set_(b"plain", b"1"), set_(b"lin:x", b"1"))
    call = Mutate(next(_numbers), 0, E1, WRITER, (False,) * 2, batch, (_id(), _id()))
    refused = await port.ask(call)
    assert isinstance(refused, Failed)
    assert refused.failure == Failure.TWO_PHASES
    assert (await probe(port)).lineage.seq == 0
    await mutate(port, set_(b"lin:free", b"1"), Mutation((), Op.INVALIDATE, (b"lin:x",)))
    await mutate(port, Mutation((), Op.PREPARE, (b"lin:x",), token=b"t", token_ttl_ms=100_000))
    commit = Mutation((b"SET", b"lin:x", b"2"), Op.COMMIT, (b"lin:x",), token=b"t")
    assert (await mutate(port, commit)).done[0].reply == b"OK"
    await port.ask(Leave(next(_numbers), 0, A))
    assert (await mutate(port, set_(b"lin:x", b"3"))).done[0].reply == b"OK"


async def test_acknowledgements_reach_the_writer_they_are_for(port: Port) -> None:
    ack = Acknowledgement(A, "node-a", 0, E1, 7, E1)
    await port.ask(SendAck(0, b"somebody-else---", ack))
    await port.ask(SendAck(0, INCARNATION, ack))
    assert await port.published() == [ack]


async def test_a_fetch_is_one_moment_and_keeps_the_order_asked(port: Port) -> None:
    await mutate(port, set_(b"a", b"1"))
    await port.foreign(b"RPUSH", b"list", b"x")
    exists = Query((b"EXISTS", b"a"), (b"a",))
    found = await fetch(port, b"a", exists, b"gone", b"list")
    a, count, gone, wrong = found.results
    assert (a, count, gone) == (Fetched(b"1"), 1, Fetched(None))
    assert isinstance(wrong, Fetched)
    assert wrong.error is not None
    assert wrong.error.text.startswith("WRONGTYPE")
