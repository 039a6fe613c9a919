"""L1, the server's part, held against every implementation: one lease of a key at a time, and
no fill under one that anything has ended."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from coherenced.core.calls import Claim, Claimed, Claims, Failed
from coherenced.core.model import Fetched, Mutation, Op, Query, Reply, ReplyError
from tests.contract.ports import Port
from tests.contract.test_port import E1, E2, delete, fetch, log, mutate, set_

LONG_MS = 100_000
_numbers = itertools.count(5_000_000)


async def claim(port: Port, key: bytes, token: bytes, **more: Any) -> Claimed:
    more.setdefault("lease_ms", LONG_MS)
    answer = await port.ask(Claim(next(_numbers), 0, E1, key, token, **more))
    assert isinstance(answer, Claimed), answer
    return answer


async def state(port: Port, key: bytes, token: bytes, **more: Any) -> int:
    return (await claim(port, key, token, **more)).state


def fill(key: bytes, value: bytes, token: bytes, **more: Any) -> Mutation:
    return Mutation((b"SET", key, value), Op.FILL, (key,), lease=token, **more)


def release(key: bytes, token: bytes, absent_ms: int = 0) -> Mutation:
    return Mutation(
        (), Op.RELEASE, (key,), lease=token, token_ttl_ms=absent_ms,
        unchanged=b"z", frees_memory=True,
    )  # fmt: skip


async def reply(port: Port, mutation: Mutation) -> Reply:
    return (await mutate(port, mutation)).done[0].reply


async def lost(port: Port, mutation: Mutation) -> bool:
    done = (await mutate(port, mutation)).done[0]
    refused = isinstance(done.reply, ReplyError) and done.reply.text.startswith("LOST ")
    assert refused == (done.seq == 0)
    return refused


async def test_one_gets_the_lease_and_the_others_hear_how_long_it_lives(port: Port) -> None:
    first = await claim(port, b"k", b"mine")
    assert (first.found, first.state, first.left_ms) == (Fetched(None), Claims.GRANTED, LONG_MS)
    second = await claim(port, b"k", b"yours")
    assert second.state == Claims.HELD
    assert LONG_MS - 10_000 < second.left_ms <= LONG_MS
    assert await state(port, b"other", b"yours") == Claims.GRANTED
    # Asking again with the same token (its reply may have been lost) is granted again.
    assert await state(port, b"k", b"mine") == Claims.GRANTED


async def test_a_value_needs_no_lease(port: Port) -> None:
    await mutate(port, set_(b"k", b"v"))
    await port.foreign(b"RPUSH", b"list", b"x")
    there = await claim(port, b"k", b"mine")
    assert (there.found, there.state) == (Fetched(b"v"), Claims.NOTHING)
    wrong = await claim(port, b"list", b"mine")
    assert (wrong.state, wrong.found.error is not None) == (Claims.NOTHING, True)


async def test_a_fill_under_the_token_is_stored_recorded_and_ends_the_lease(port: Port) -> None:
    await claim(port, b"k", b"mine")
    done = await mutate(port, fill(b"k", b"loaded", b"mine", label=(b"red",)))
    assert (done.done[0].reply, done.done[0].seq) == (b"OK", 1)
    (record,) = (await log(port, 1)).records
    assert (record.op, record.keys) == (Op.FILL, (b"k",))
    (found,) = (await fetch(port, b"k")).results
    assert isinstance(found, Fetched)
    assert (found.value, found.labels) == (b"loaded", (b"red",))
    assert await lost(port, fill(b"k", b"again", b"mine"))
    await mutate(port, delete(b"k"))
    assert await state(port, b"k", b"yours") == Claims.GRANTED


@pytest.mark.parametrize(
    "change",
    [
        set_(b"k", b"v"),
        Mutation((b"INCR", b"k"), keys=(b"k",), exact_integer=True),
        Mutation((), Op.INVALIDATE, (b"k",), frees_memory=True),
        Mutation((), Op.INVALIDATE, prefixes=(b"",), frees_memory=True),
        Mutation((), Op.INVALIDATE, everything=True, frees_memory=True),
        Mutation((b"FLUSHDB",), Op.FLUSH, everything=True, frees_memory=True),
        Mutation((b"MSET", b"a", b"1", b"k", b"2"), keys=(b"a", b"k")),
        delete(b"k"),
        delete(b"a", b"k"),
        Mutation((b"getdel", b"k"), keys=(b"k",), unchanged=b"n", frees_memory=True),
        Mutation((b"SET", b"k", b"v", b"xx"), keys=(b"k",), unchanged=b"n"),
    ],
    ids=[
        "set", "incr", "key", "prefix", "everything", "flush", "mset",
        "delete", "deletes", "getdel", "set xx",
    ],
)  # fmt: skip
async def test_whatever_changes_the_key_ends_the_lease(port: Port, change: Mutation) -> None:
    await claim(port, b"k", b"mine")
    await mutate(port, change)
    assert await lost(port, fill(b"k", b"old", b"mine"))
    await mutate(port, Mutation((b"DEL", b"k"), Op.DELETE, (b"k",)))
    assert await state(port, b"k", b"yours") == Claims.GRANTED
    assert not await lost(port, fill(b"k", b"new", b"yours"))


async def test_a_change_earlier_in_the_same_batch_counts(port: Port) -> None:
    await claim(port, b"k", b"mine")
    done = await mutate(port, set_(b"k", b"v"), fill(b"k", b"old", b"mine"))
    assert isinstance(done.done[1].reply, ReplyError)
    assert (await fetch(port, b"k")).results == (Fetched(b"v"),)


async def test_changes_of_other_keys_do_not_end_it(port: Port) -> None:
    await claim(port, b"k", b"mine")
    await mutate(port, set_(b"other", b"v"), delete(b"other"))
    await mutate(port, Mutation((), Op.INVALIDATE, prefixes=(b"x",), frees_memory=True))
    await mutate(port, Mutation((), Op.INVALIDATE, tags=(b"blue",), frees_memory=True))
    assert not await lost(port, fill(b"k", b"v", b"mine", label=(b"red",)))


async def test_a_tag_of_the_value_that_was_invalidated_meanwhile_refuses_it(port: Port) -> None:
    await mutate(port, Mutation((), Op.INVALIDATE, tags=(b"red",), frees_memory=True))
    await claim(port, b"k", b"mine")
    await mutate(port, Mutation((), Op.INVALIDATE, tags=(b"red",), frees_memory=True))
    assert await lost(port, fill(b"k", b"old", b"mine", label=(b"blue", b"red")))
    # The lease itself is alive: its holder may release it, which tells those who wait.
    assert await state(port, b"k", b"yours") == Claims.HELD
    assert await reply(port, release(b"k", b"mine")) == 1
    assert await state(port, b"k", b"yours") == Claims.GRANTED
    assert not await lost(port, fill(b"k", b"new", b"yours", label=(b"blue", b"red")))


async def test_a_value_that_came_past_us_is_not_overwritten(port: Port) -> None:
    await claim(port, b"k", b"mine")
    await port.foreign(b"SET", b"k", b"foreign")
    assert await lost(port, fill(b"k", b"old", b"mine"))
    assert (await fetch(port, b"k")).results == (Fetched(b"foreign"),)


async def test_a_lease_ends_by_itself(port: Port) -> None:
    await claim(port, b"k", b"mine", lease_ms=1)
    await asyncio.sleep(0.02)
    assert await lost(port, fill(b"k", b"late", b"mine"))
    assert await state(port, b"k", b"yours") == Claims.GRANTED


async def test_a_release_is_recorded_once_and_only_by_its_holder(port: Port) -> None:
    await claim(port, b"k", b"mine")
    assert await reply(port, release(b"k", b"yours")) == 0
    done = await mutate(port, release(b"k", b"mine"))
    assert (done.done[0].reply, done.done[0].seq) == (1, 1)
    (record,) = (await log(port, 1)).records
    assert (record.op, record.keys) == (Op.RELEASE, (b"k",))
    assert (await log(port, 1)).replies == (1,)
    assert await reply(port, release(b"k", b"mine")) == 0
    assert await state(port, b"k", b"yours") == Claims.GRANTED


async def test_a_delete_of_nothing_is_recorded_where_something_is_loaded(port: Port) -> None:
    """Who deletes has changed the database: what was read there before is old."""
    await claim(port, b"k", b"mine")
    await claim(port, b"over", b"mine", lease_ms=1)
    await asyncio.sleep(0.02)
    for keys, seq in (((b"other",), 0), ((b"over",), 0), ((b"k", b"other"), 1), ((b"k",), 0)):
        done = (await mutate(port, delete(*keys))).done[0]
        assert (done.reply, done.seq) == (0, seq), keys
    (record,) = (await log(port, 1)).records
    assert (record.op, record.keys) == (Op.DELETE, (b"k", b"other"))
    assert await lost(port, fill(b"k", b"old", b"mine"))


async def test_a_loader_may_find_that_there_is_nothing(port: Port) -> None:
    await claim(port, b"k", b"mine")
    assert await reply(port, release(b"k", b"mine", LONG_MS)) == 1
    told = await claim(port, b"k", b"yours")
    assert (told.found, told.state) == (Fetched(None), Claims.NOTHING)
    assert LONG_MS - 10_000 < told.left_ms <= LONG_MS
    assert await lost(port, fill(b"k", b"v", b"-"))
    assert (await fetch(port, b"k")).results == (Fetched(None),)
    await mutate(port, Mutation((), Op.INVALIDATE, (b"k",), frees_memory=True))
    assert await state(port, b"k", b"yours") == Claims.GRANTED
    assert await reply(port, release(b"k", b"yours", LONG_MS)) == 1
    await mutate(port, delete(b"k"))
    assert await state(port, b"k", b"yours") == Claims.GRANTED
    assert await reply(port, release(b"k", b"yours", 1)) == 1
    await asyncio.sleep(0.02)
    assert await state(port, b"k", b"mine") == Claims.GRANTED


@pytest.mark.parametrize("cover", [{"prefixes": (b"k",)}, {"everything": True}])
async def test_what_is_known_not_to_exist_is_forgotten_like_a_value(
    port: Port, cover: dict[str, Any]
) -> None:
    await claim(port, b"k1", b"mine")
    await mutate(port, release(b"k1", b"mine", LONG_MS))
    await mutate(port, Mutation((), Op.INVALIDATE, frees_memory=True, **cover))
    assert await state(port, b"k1", b"yours") == Claims.GRANTED


async def test_a_value_that_is_due_is_leased_beside_itself(port: Port) -> None:
    await mutate(port, Mutation((b"SET", b"k", b"old", b"PX", b"50000"), keys=(b"k",)))
    assert await state(port, b"k", b"mine", refresh_ms=40_000) == Claims.NOTHING
    due = await claim(port, b"k", b"mine", refresh_ms=60_000)
    assert (due.state, due.found.value) == (Claims.GRANTED, b"old")
    assert await state(port, b"k", b"yours", refresh_ms=60_000) == Claims.HELD
    assert not await lost(port, fill(b"k", b"new", b"mine"))
    assert (await fetch(port, b"k")).results == (Fetched(b"new"),)
    assert await state(port, b"k", b"mine", refresh_ms=60_000) == Claims.NOTHING


async def test_a_fill_in_two_phases_keeps_its_lease_until_the_second(port: Port) -> None:
    def prepare(token: bytes) -> Mutation:
        return Mutation((), Op.PREPARE, (b"k",), token=token, token_ttl_ms=LONG_MS)

    def commit(token: bytes, value: bytes, **more: Any) -> Mutation:
        return Mutation((b"SET", b"k", value), Op.COMMIT, (b"k",), token=token, **more)

    await claim(port, b"k", b"mine")
    await mutate(port, prepare(b"t1"))
    assert await reply(port, commit(b"t1", b"loaded", lease=b"mine")) == b"OK"
    await mutate(port, delete(b"k"))
    await claim(port, b"k", b"mine")
    await mutate(port, prepare(b"t2"))
    await mutate(port, Mutation((), Op.ABORT, (b"k",), token=b"t2"))
    assert await state(port, b"k", b"yours") == Claims.HELD  # nothing has changed
    await mutate(port, prepare(b"t3"))
    assert await reply(port, commit(b"t3", b"written")) == b"OK"
    await mutate(port, prepare(b"t4"))
    assert await lost(port, commit(b"t4", b"old", lease=b"mine"))
    # The refused commit has taken its mark away.
    assert await reply(port, set_(b"k", b"free")) == b"OK"


async def test_leases_are_of_one_epoch(port: Port) -> None:
    await claim(port, b"k", b"mine")
    await port.lose_metadata()
    answer = await port.ask(Claim(next(_numbers), 0, E2, b"k", b"yours", LONG_MS))
    assert isinstance(answer, Claimed)
    assert (answer.state, answer.lineage.epoch) == (Claims.GRANTED, E2)
    assert await lost(port, fill(b"k", b"old", b"mine"))


async def test_they_survive_full_memory_and_are_refused_where_writes_are(port: Port) -> None:
    await mutate(port, set_(b"there", b"v"))
    await port.fill_memory(True)
    assert await state(port, b"there", b"mine") == Claims.NOTHING
    assert await state(port, b"k", b"mine") == Claims.GRANTED
    assert await reply(port, release(b"k", b"mine")) == 1
    await port.fill_memory(False)
    await port.fence(True)
    answer = await port.ask(Claim(next(_numbers), 0, E1, b"k", b"mine", LONG_MS))
    assert isinstance(answer, Failed)
    await port.fence(False)


async def test_our_own_keys_are_not_counted_among_the_clients(port: Port) -> None:

    await mutate(port, set_(b"other", b"v"))
    await claim(port, b"k", b"mine")
    assert (await fetch(port, Query((b"DBSIZE",)))).results == (1,)
