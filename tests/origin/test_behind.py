"""Taking writes that are sent behind: what becomes of them on the way to Redis, and of replies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from coherenced.core.model import Mutation, Op, ReplyError
from coherenced.core.requests import Fault, FaultKind, Write, WriteResult
from coherenced.origin.behind import MOST_QUEUED
from coherenced.origin.loads import dropping
from coherenced.origin.rules import BEHIND
from coherenced.origin.sender import decode
from coherenced.upstream.queue import Count, enqueuing
from tests.origin.fake_node import read, write
from tests.origin.test_layer import KEY, Rig, settle
from tests.origin.test_through import del_, errors, set_


class Store:
    """A queue that another node owns."""

    def __init__(self) -> None:
        self.newest_of: dict[bytes, bytes] = {}

    async def own(self, namespace: str, for_ms: int) -> bool:
        return False

    async def count(self, namespace: str) -> Count:
        return Count(3, 2, 1, b"2" * 16)

    async def newest(self, namespace: str, key: bytes) -> bytes | None:
        return self.newest_of.get(key)

    async def disown(self, namespace: str) -> None: ...


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    for layer in rig.layers:
        await layer.close()


def behind(rig: Rig, store: Any) -> Any:
    layer, origin = rig.node(mode=BEHIND, if_error_ms=5_000.0)
    layer.write_behind(store, enqueuing)
    return layer, origin


async def test_a_write_is_one_atomic_step_that_queues_first(rig: Rig) -> None:
    layer, origin = behind(rig, Store())
    outcome = await write(layer, set_(b"Ada", label=(b"content-type=a/b", b"team")))
    assert outcome.replies == (b"OK",), "what was put before it is nobody's business"
    request = rig.redis.requests[-1]
    assert isinstance(request, Write) and request.atomic
    hset, xadd, stored = request.mutations
    assert [m.argv[0] for m in request.mutations] == [b"HSET", b"XADD", b"SET"]
    assert not hset.is_write and not xadd.is_write and hset.argv[2] == KEY
    payload = decode(hset.argv[3])
    assert payload is not None and (payload.value, payload.content_type) == (b"Ada", "a/b")
    assert stored.argv[3:4] == (b"PX",) and stored.label is not None
    assert {b"origin=row", b"content-type=a/b", b"team"} <= set(stored.label)
    assert not origin.written


async def test_a_delete_is_recorded_even_if_nothing_is_there(rig: Rig) -> None:
    layer, _ = behind(rig, Store())
    await write(layer, del_(KEY, b"row:2"))
    mutations = rig.redis.requests[-1].mutations  # type: ignore[union-attr]
    assert [m.argv[:1] for m in mutations] == [
        (b"HSET",), (b"XADD",), (b"HSET",), (b"XADD",), (b"DEL",), (),
    ]  # fmt: skip
    assert mutations[-1].op == Op.INVALIDATE and mutations[-1].keys == (KEY, b"row:2")


async def test_replies_are_those_of_the_mutations_that_were_asked_for(rig: Rig) -> None:
    layer, _ = behind(rig, Store())
    plain = Mutation((b"SET", b"plain", b"1"), keys=(b"plain",))
    lookup = Mutation((b"GET", KEY), keys=(KEY,), is_write=False)
    outcome = await write(layer, lookup, set_(b"x"), plain, atomic=True)
    assert outcome.replies == (None, b"OK", b"OK")
    aborted = WriteResult((), None, {}, aborted=True)
    layer.behind._submit = lambda request, done: done(aborted)
    assert await write(layer, set_(b"x"), atomic=True) == aborted


async def test_what_waits_is_what_is_read(rig: Rig) -> None:
    store = Store()
    layer, origin = behind(rig, store)
    origin.rows[KEY] = b"old"
    await write(layer, set_(b"new"))
    store.newest_of[KEY] = rig.redis.requests[-1].mutations[0].argv[3]  # type: ignore[union-attr]
    rig.redis.held.clear()
    assert (await read(layer, KEY)).value == b"new" and not origin.asked
    await write(layer, del_(KEY))
    store.newest_of[KEY] = rig.redis.requests[-1].mutations[0].argv[3]  # type: ignore[union-attr]
    assert (await read(layer, KEY)).value is None and not origin.asked
    store.newest_of.clear()
    assert (await read(layer, KEY)).value == b"old"


async def test_too_much_that_waits_and_what_cannot_be_sent_are_refused(rig: Rig) -> None:
    layer, _ = behind(rig, Store())
    assert "INCR" in errors(await write(layer, Mutation((b"INCR", KEY), keys=(KEY,))))
    layer.behind.senders["row"].waiting = MOST_QUEUED
    outcome = await write(layer, set_(b"x"))
    assert isinstance(outcome, Fault) and outcome.kind == FaultKind.OVERLOADED
    assert not any(isinstance(request, Write) for request in rig.redis.requests)


async def test_a_broken_queue_is_told_and_what_was_committed_is_dropped(rig: Rig) -> None:
    layer, _ = behind(rig, Store())
    wrong = ReplyError("WRONGTYPE it is a string")
    answer = WriteResult((wrong, b"1-0", b"OK"), None, {})
    layer.behind._submit = lambda request, done: done(answer)
    assert "could not be queued: WRONGTYPE" in errors(await write(layer, set_(b"x")))
    await settle(lambda: rig.redis.requests[-1:] == [dropping(KEY)])


async def test_without_a_queue_yet_a_write_is_refused_not_lost(rig: Rig) -> None:
    layer, _ = rig.node(mode=BEHIND)  # a reload has made it so
    assert "next start" in errors(await write(layer, set_(b"x")))
    assert rig.redis.value(KEY).value is None
