"""How old, how fresh and how stale an answer of an origin's may be, as one request says it
(RFC 9111 5.2.1), and who shares a load with whom then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from math import inf

import pytest

from coherenced.core.requests import Source
from tests.origin.fake_node import read
from tests.origin.test_layer import KEY, Rig, settle

NO_CACHE = {"max_staleness_ms": 0.0, "max_age_ms": 0.0}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    for layer in rig.layers:
        await layer.close()


async def test_no_cache_is_validated_at_the_origin_and_never_stale(rig: Rig) -> None:
    layer, origin = rig.node(if_error_ms=60_000.0, while_revalidate_ms=60_000.0)
    origin.rows[KEY], origin.headers = b"one", {"ETag": '"1"'}
    await read(layer, KEY)
    rig.clock.at_ms += 3_000.0
    value = await read(layer, KEY, **NO_CACHE)
    assert (value.value, value.source, value.age_ms) == (b"one", Source.ORIGIN, 0.0)
    assert origin.asked[-1][1] == {"If-None-Match": '"1"'}, "a 304 is enough"
    origin.rows[KEY], origin.headers = b"two", {"ETag": '"2"'}
    assert (await read(layer, KEY)).value == b"one", "fresh, for whoever does not ask more"
    assert (await read(layer, KEY, **NO_CACHE)).value == b"two"
    assert (await read(layer, KEY)).value == b"two", "which all have from then on"
    origin.fails = "down"
    for _ in range(2):  # also in the second after a failure
        failed = await read(layer, KEY, **NO_CACHE)
        assert failed.error is not None and failed.value is None
    told = await read(layer, KEY, stale_if_error_ms=5_000.0, **NO_CACHE)
    assert (told.value, told.stale) == (b"two", False), "the call itself takes it: in its time"


async def test_no_cache_does_not_share_what_was_asked_before_it(rig: Rig) -> None:
    layer, origin = rig.node()
    origin.rows[KEY], origin.gate = b"old", asyncio.Event()
    first = asyncio.ensure_future(read(layer, KEY, **NO_CACHE))
    await settle(lambda: origin.asked)
    origin.rows[KEY] = b"new"  # no invalidation tells of it
    others = [asyncio.ensure_future(read(layer, KEY, **NO_CACHE)) for _ in range(9)]
    shares = asyncio.ensure_future(read(layer, KEY))
    await settle(lambda: len(layer.loads._loads[KEY].later) == 9)
    origin.gate.set()
    assert (await first).value == (await shares).value == b"old"
    assert {(await other).value for other in others} == {b"new"}
    assert len(origin.asked) == 2, "those who came meanwhile share one"


async def test_no_cache_asks_again_whether_there_is_none(rig: Rig) -> None:
    layer, origin = rig.node(negative_ms=60_000.0)
    assert (await read(layer, KEY)).value is None
    origin.rows[KEY] = b"born"
    assert (await read(layer, KEY)).value is None
    assert (await read(layer, KEY, **NO_CACHE)).value == b"born"


async def test_no_cache_waits_for_another_nodes_load_and_then_asks_itself(rig: Rig) -> None:
    (layer, origin), (other, far) = rig.node(), rig.node()
    origin.rows[KEY] = far.rows[KEY] = b"one"
    await read(layer, KEY)
    origin.gate = asyncio.Event()
    first = asyncio.ensure_future(read(layer, KEY, **NO_CACHE))
    await settle(lambda: len(origin.asked) == 2)
    far.rows[KEY] = b"two"
    second = asyncio.ensure_future(read(other, KEY, **NO_CACHE))
    await asyncio.sleep(0.05)
    assert not far.asked
    origin.gate.set()
    assert [v.value for v in await asyncio.gather(first, second)] == [b"one", b"two"]


async def test_max_age_is_compared_with_the_age_at_the_origin(rig: Rig) -> None:
    layer, origin = rig.node(while_revalidate_ms=60_000.0, if_error_ms=60_000.0)
    origin.rows[KEY], origin.headers = b"one", {"Age": "2", "Cache-Control": "max-age=12"}
    assert (await read(layer, KEY, max_age_ms=1_000.0)).age_ms == 2_000.0, "none is younger"
    rig.clock.at_ms += 3_000.0
    origin.rows[KEY], origin.headers = b"two", {}
    assert (await read(layer, KEY, max_age_ms=5_001.0)).value == b"one"
    assert (await read(layer, KEY, max_age_ms=4_900.0)).value == b"two"
    rig.clock.at_ms += 11_000.0
    origin.fails = "down"
    assert (await read(layer, KEY)).stale, "as configured"
    old = await read(layer, KEY, max_age_ms=60_000.0)
    assert old.error is not None, "it says how old it takes one, and nothing of a stale one"
    assert (await read(layer, KEY, max_age_ms=60_000.0, stale_while_revalidate_ms=inf)).stale


async def test_min_fresh_loads_what_ends_too_soon(rig: Rig) -> None:
    layer, origin = rig.node(if_error_ms=60_000.0)
    origin.rows[KEY] = b"one"
    await read(layer, KEY)
    rig.clock.at_ms += 6_000.0
    origin.rows[KEY] = b"two"
    assert (await read(layer, KEY, min_fresh_ms=3_900.0)).value == b"one"
    assert (await read(layer, KEY, min_fresh_ms=4_000.0)).value == b"two"


async def test_max_stale_takes_what_is_there(rig: Rig) -> None:
    layer, origin = rig.node(if_error_ms=60_000.0)
    origin.rows[KEY] = b"one"
    await read(layer, KEY)
    rig.clock.at_ms += 14_000.0
    origin.rows[KEY], origin.gate = b"two", asyncio.Event()
    taken = await read(layer, KEY, stale_while_revalidate_ms=5_000.0, stale_if_error_ms=5_000.0)
    assert (taken.value, taken.stale, taken.age_ms) == (b"one", True, 14_000.0)
    origin.gate.set()
    assert (await read(layer, KEY)).value == b"two"


async def test_only_if_cached_never_asks_the_origin(rig: Rig) -> None:
    layer, origin = rig.node(if_error_ms=60_000.0, beta=1.0)
    origin.rows[KEY] = b"one"
    assert (await read(layer, KEY, cached_only=True)).value is None and not origin.asked
    await read(layer, KEY)
    assert (await read(layer, KEY, cached_only=True)).value == b"one"
    rig.clock.at_ms += 9_999.0
    rig.clock.dice = 1e-9  # due early
    assert (await read(layer, KEY, cached_only=True)).value == b"one"
    rig.clock.at_ms += 2.0
    assert (await read(layer, KEY, cached_only=True)).value is None, "there is only a stale one"
    stale = await read(layer, KEY, cached_only=True, stale_while_revalidate_ms=inf)
    assert (stale.value, stale.stale) == (b"one", True)
    await asyncio.sleep(0)
    assert len(origin.asked) == 1 and not layer.busy
