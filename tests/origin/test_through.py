"""Write-through: what is where when each of the two steps fails, and when two writers meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coherenced.core.model import Mutation, ReplyError
from coherenced.core.requests import Fault, FaultKind, Source, Write
from coherenced.origin.rules import THROUGH
from tests.origin.fake_node import read, write
from tests.origin.test_layer import KEY, Rig, settle


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    for layer in rig.layers:
        await layer.close()


def set_(value: bytes, key: bytes = KEY, *more: bytes, **given: Any) -> Mutation:
    return Mutation((b"SET", key, value, *more), keys=(key,), **given)


def del_(*keys: bytes) -> Mutation:
    return Mutation((b"DEL", *keys), keys=keys)


def errors(outcome: Any) -> str:
    (reply,) = set(outcome.replies)
    assert isinstance(reply, ReplyError) and "\n" not in reply.text
    return reply.text


async def test_a_write_is_at_both_and_cached_like_a_load(rig: Rig) -> None:
    layer, origin = rig.node(mode=THROUGH, if_error_ms=5_000.0)
    origin.headers = {"ETag": '"9"'}
    outcome = await write(layer, set_(b"Ada", label=(b"team",)))
    assert outcome.replies == (b"OK",) and outcome.version is not None
    assert origin.written == [(KEY, b"Ada")]
    value = await read(layer, KEY)
    assert (value.value, value.source, value.expires_in_ms) == (b"Ada", Source.L2, 15_000.0)
    life = b"coh:life=15000/5000"
    assert set(value.labels) == {b"origin=row", b'validators=10\n"9"\n', b"team", life}
    await write(layer, set_(b"Bob", KEY, b"PX", b"700"))
    assert (await read(layer, KEY)).expires_in_ms == 5_700.0
    assert not origin.asked, "nothing had to be loaded"


async def test_a_delete_is_at_both_and_nothing_under_way_brings_it_back(rig: Rig) -> None:
    layer, origin = rig.node(mode=THROUGH)
    origin.rows[KEY] = b"Ada"
    assert (await write(layer, del_(KEY))).replies == (1,)
    assert (await write(layer, del_(KEY))).replies == (0,)
    (writes,) = {len(w.mutations) for w in rig.redis.requests if isinstance(w, Write)}
    assert writes == 2, "the invalidation kills leases even when nothing is there"
    assert KEY not in origin.rows and (await read(layer, KEY)).value is None


async def test_when_the_origin_refuses_nothing_was_done(rig: Rig) -> None:
    layer, origin = rig.node(mode=THROUGH)
    await write(layer, set_(b"one"))
    origin.fails = "the origin answered 409"
    for mutation in (set_(b"two"), del_(KEY)):
        assert errors(await write(layer, mutation)) == "ORIGIN the origin answered 409"
    assert origin.rows[KEY] == b"one" and rig.redis.value(KEY).value == b"one"


async def test_when_redis_fails_after_the_origin_the_key_is_dropped_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coherenced.origin.through.RETRY_S", 0.005)
    layer, origin = rig.node(mode=THROUGH)
    await write(layer, set_(b"one"))
    rig.redis.fail_writes = True
    text = errors(await write(layer, set_(b"two")))
    assert "origin has accepted" in text and "Redis is away" in text
    assert origin.rows[KEY] == b"two" and rig.redis.value(KEY).value == b"one"
    assert KEY in layer.through.to_drop
    rig.redis.fail_writes = False
    await settle(lambda: not layer.through.to_drop)
    assert (await read(layer, KEY)).value == b"two"


async def test_what_cannot_be_dropped_is_given_up_when_it_has_expired(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coherenced.origin.through.RETRY_S", 0.005)
    layer, _ = rig.node(mode=THROUGH)
    rig.redis.fail_writes = True
    await write(layer, set_(b"two"))
    rig.clock.at_ms += 10_001.0
    await settle(lambda: not layer.through.to_drop)


async def test_two_writers_on_two_nodes_leave_nothing_old_behind(rig: Rig) -> None:
    (a, at_a), (b, at_b) = rig.node(mode=THROUGH), rig.node(mode=THROUGH)
    at_b.rows = at_a.rows  # one origin
    at_a.gate = asyncio.Event()
    slow = asyncio.ensure_future(write(a, set_(b"from a")))
    await asyncio.sleep(0.01)
    await write(b, set_(b"from b"))
    assert rig.redis.value(KEY).value == b"from b"
    at_a.gate.set()  # its write reaches the origin last, though it was begun first
    assert (await slow).replies == (b"OK",)
    assert rig.redis.value(KEY).value is None, "who was last is not known: the key is dropped"
    assert (await read(b, KEY)).value == at_a.rows[KEY] == b"from a"


async def test_writes_of_one_key_keep_their_order(rig: Rig) -> None:
    layer, origin = rig.node(mode=THROUGH)
    origin.gate = asyncio.Event()
    pending = [asyncio.ensure_future(write(layer, set_(b"%d" % i))) for i in range(20)]
    await asyncio.sleep(0.01)
    origin.gate.set()
    await asyncio.gather(*pending)
    assert [value for _, value in origin.written] == [b"%d" % i for i in range(20)]
    assert rig.redis.value(KEY).value == b"19" and len(layer.through) == 0


async def test_what_cannot_be_written_through_is_refused_before_anything(rig: Rig) -> None:
    layer, origin = rig.node(mode=THROUGH)
    for mutations in (
        (Mutation((b"INCR", KEY), keys=(KEY,)),),
        (set_(b"x", KEY, b"NX"),),
        (set_(b"x"), set_(b"y", b"other")),
        (del_(KEY, b"row:2"),),
    ):
        assert errors(await write(layer, *mutations)).startswith("ORIGIN ")
    assert not origin.written and not rig.redis.requests
    expire = Mutation((b"PEXPIRE", KEY, b"5"), keys=(KEY,))
    assert (await write(layer, expire)).version is not None, "not the origin's business"


async def test_a_write_that_is_given_up_says_that_nobody_knows(rig: Rig) -> None:
    layer, origin = rig.node(mode=THROUGH)
    origin.gate = asyncio.Event()
    pending = asyncio.ensure_future(write(layer, set_(b"x")))
    await asyncio.sleep(0.01)
    await layer.close()
    outcome = await pending
    assert isinstance(outcome, Fault) and outcome.kind == FaultKind.INDETERMINATE
