"""What a reader of a key with an origin is given, case by case: time and chance are the test's."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from coherenced.core.model import ReplyError
from coherenced.core.policy import Policy
from coherenced.core.requests import (
    Fault,
    FaultKind,
    Get,
    Lease,
    LeaseResult,
    Read,
    ReadResult,
    Source,
)
from coherenced.origin.layer import Origins
from coherenced.origin.rules import Rules
from tests.origin.fake_node import Clock, FakeRedis, Scripted, node, read

KEY = b"row:1"


class Rig:
    """One or more nodes on one Redis."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.redis = FakeRedis(self.clock)
        self.layers: list[Origins] = []

    def node(self, **given: Any) -> tuple[Origins, Scripted]:
        rules = {"name": "row", "match": "row:*", "url": "http://o/{key}", "ttl_ms": 10_000.0}
        made = node(self.redis, Rules(**(rules | {"jitter": 0.0} | given)))
        self.layers.append(made[0])
        return made


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    for layer in rig.layers:
        await layer.close()


async def settle(condition: Callable[[], Any]) -> None:
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to that")


async def test_what_is_not_there_is_loaded_and_kept(rig: Rig) -> None:
    layer, origin = rig.node(if_error_ms=5_000.0)
    origin.rows[KEY] = b"Ada"
    value = await read(layer, KEY)
    assert (value.value, value.source, value.stale) == (b"Ada", Source.ORIGIN, False)
    assert value.ttl_ms == 10_000.0
    kept = rig.redis.value(KEY)
    assert kept.value == b"Ada" and kept.expires_in_ms == 15_000.0, "its time, and the grace"
    assert kept.labels[0] == b"origin=row"
    again = await read(layer, KEY)
    assert (again.value, again.source) == (b"Ada", Source.L2) and len(origin.asked) == 1


async def test_keys_without_an_origin_are_nobodys_business_here(rig: Rig) -> None:
    layer, origin = rig.node()
    assert (await read(layer, b"other")).value is None
    mixed = await read(layer, b"other", KEY, b"row:2")
    assert [v.value for v in mixed.values] == [None, None, None] and len(origin.asked) == 2
    for wishes in ({"snapshot": True}, {"skip_l1": True}):
        assert (await read(layer, KEY, **wishes)).value is None
    assert len(origin.asked) == 2


async def test_a_get_is_a_read_where_there_is_an_origin(rig: Rig) -> None:
    layer, origin = rig.node()
    origin.rows[KEY] = b"Ada"
    answers: list[Any] = []
    assert layer.guard(Get(b"other"), answers.append) == answers.append
    assert layer.guard(Get(KEY), answers.append) is None
    await settle(lambda: answers)
    assert answers[0].values[0].value == b"Ada" and len(origin.asked) == 1


async def test_many_readers_on_three_nodes_are_one_load(rig: Rig) -> None:
    nodes = [rig.node() for _ in range(3)]
    gate = asyncio.Event()
    for _, origin in nodes:
        origin.rows[KEY], origin.gate = b"Ada", gate
    readers = [asyncio.ensure_future(read(layer, KEY)) for layer, _ in nodes for _ in range(100)]
    await settle(lambda: sum(len(origin.asked) for _, origin in nodes))
    gate.set()
    assert {v.value for v in await asyncio.gather(*readers)} == {b"Ada"}
    assert sum(len(origin.asked) for _, origin in nodes) == 1


async def test_not_there_is_believed_for_a_while_by_every_node(rig: Rig) -> None:
    (layer, origin), (other, far) = rig.node(negative_ms=500.0), rig.node(negative_ms=500.0)
    assert (await read(layer, KEY)).value is None
    origin.rows[KEY] = far.rows[KEY] = b"born"
    assert (await read(layer, KEY)).value is None and (await read(other, KEY)).value is None
    assert len(origin.asked) == 1 and not far.asked
    rig.clock.at_ms += 501.0
    assert (await read(other, KEY)).value == b"born"


async def test_an_update_during_a_load_is_not_cached_over(rig: Rig) -> None:
    layer, origin = rig.node()
    origin.rows[KEY], origin.gate = b"old", asyncio.Event()
    first = asyncio.ensure_future(read(layer, KEY))
    await settle(lambda: origin.asked)
    origin.rows[KEY] = b"new"
    rig.redis.changed(KEY)  # the invalidation that follows the update
    late = asyncio.ensure_future(read(layer, KEY))  # may not be given what was asked before it
    await settle(lambda: layer.loads._loads[KEY].joined)
    origin.gate.set()
    assert (await first).value == b"old" and (await late).value == b"new"
    assert rig.redis.value(KEY).value == b"new" and len(origin.asked) == 2


async def test_stale_while_revalidate_answers_at_once_and_says_so(rig: Rig) -> None:
    layer, origin = rig.node(while_revalidate_ms=2_000.0)
    origin.rows[KEY] = b"one"
    await read(layer, KEY)
    origin.rows[KEY], origin.gate = b"two", asyncio.Event()
    rig.clock.at_ms += 11_500.0
    value = await read(layer, KEY)
    assert (value.value, value.stale) == (b"one", True) and value.age_ms == 11_500.0
    assert value.ttl_ms == -1_500.0
    origin.gate.set()
    await settle(lambda: not layer.loads)
    fresh = await read(layer, KEY)
    assert (fresh.value, fresh.stale) == (b"two", False) and len(origin.asked) == 2
    rig.clock.at_ms += 12_001.0  # past the grace there is nothing to answer with
    assert (await read(layer, KEY)).source == Source.ORIGIN


async def test_stale_if_error_waits_then_answers_stale_and_throttles(rig: Rig) -> None:
    layer, origin = rig.node(if_error_ms=60_000.0)
    origin.rows[KEY] = b"one"
    await read(layer, KEY)
    rig.clock.at_ms += 10_001.0
    origin.fails = "the origin answered 500"
    for _ in range(3):
        value = await read(layer, KEY)
        assert (value.value, value.stale) == (b"one", True)
    assert len(origin.asked) == 2, "after a failure the next second does without the origin"
    rig.clock.at_ms += 1_001.0
    origin.fails = ""
    value = await read(layer, KEY)
    assert (value.value, value.stale, value.source) == (b"one", False, Source.ORIGIN)
    assert origin.stale_served == 3


async def test_past_the_soft_timeout_stale_is_answered_and_the_late_result_kept(rig: Rig) -> None:
    layer, origin = rig.node(if_error_ms=60_000.0, soft_timeout_ms=20.0)
    origin.rows[KEY] = b"one"
    await read(layer, KEY)
    rig.clock.at_ms += 10_001.0
    origin.rows[KEY], origin.gate = b"two", asyncio.Event()
    value = await read(layer, KEY)
    assert (value.value, value.stale) == (b"one", True) and origin.late == 0
    origin.gate.set()
    await settle(lambda: rig.redis.value(KEY).value == b"two")
    await settle(lambda: origin.late == 1)
    assert (await read(layer, KEY)).stale is False


async def test_without_anything_stale_a_failure_is_one_clear_error(rig: Rig) -> None:
    layer, origin = rig.node()
    origin.fails = "the origin answered 500"
    value = await read(layer, KEY)
    assert value.error == ReplyError("ORIGIN the origin answered 500")
    assert not rig.redis.leases, "the lease is given back at once"
    origin.fails = ""
    assert (await read(layer, KEY)).value is None, "the next one asks again"


async def test_a_call_may_say_how_stale(rig: Rig) -> None:
    layer, origin = rig.node(if_error_ms=60_000.0)
    origin.rows[KEY] = b"one"
    await read(layer, KEY)
    rig.clock.at_ms += 12_000.0
    origin.fails = "gone"
    assert (await read(layer, KEY, stale_if_error_ms=1_000.0)).error is not None
    assert (await read(layer, KEY, stale_while_revalidate_ms=3_000.0)).stale


@pytest.mark.parametrize("linearizable", [False, True])
async def test_a_linearizable_read_is_answered_stale_only_if_the_call_says_so(
    rig: Rig, linearizable: bool
) -> None:
    layer, origin = rig.node(if_error_ms=60_000.0, while_revalidate_ms=60_000.0)
    asks: dict[str, Any] = {} if linearizable else {"max_staleness_ms": 0.0}
    if linearizable:
        policy = Policy(name="row", linearizable=True)
        layer._namespaces.replace(Policy(), (("row:*", policy),))
    origin.rows[KEY] = b"one"
    await read(layer, KEY)
    origin.fails = "gone"
    for past_ms in (10_000.0, 1.0, 1.0):  # also while a failure lies not long ago
        rig.clock.at_ms += past_ms
        assert (await read(layer, KEY, **asks)).error is not None
    assert (await read(layer, KEY, stale_if_error_ms=3_000.0, **asks)).stale
    assert (await read(layer, KEY, stale_while_revalidate_ms=3_000.0, **asks)).stale
    await settle(lambda: not layer.loads)
    origin.fails, origin.rows[KEY] = "", b"two"
    assert (await read(layer, KEY, **asks)).value == b"two"


async def test_a_304_keeps_the_value_and_gives_it_new_time(rig: Rig) -> None:
    layer, origin = rig.node(if_error_ms=60_000.0)
    origin.rows[KEY], origin.headers = b"one", {"ETag": '"7"', "Coherenced-Tags": "team"}
    await read(layer, KEY)
    rig.clock.at_ms += 10_001.0
    origin.headers = {"ETag": '"7"'}
    value = await read(layer, KEY)
    assert origin.asked[1][1] == {"If-None-Match": '"7"'}
    assert (value.value, value.stale) == (b"one", False) and b"team" in value.labels
    assert rig.redis.value(KEY).expires_in_ms == 70_000.0


async def test_what_the_origin_has_lost_is_dropped(rig: Rig) -> None:
    layer, origin = rig.node(while_revalidate_ms=60_000.0)
    origin.rows[KEY] = b"one"
    await read(layer, KEY)
    del origin.rows[KEY]
    rig.clock.at_ms += 10_001.0
    assert (await read(layer, KEY)).value == b"one"
    await settle(lambda: not layer.loads)
    assert rig.redis.value(KEY).value is None
    assert (await read(layer, KEY)).value is None


async def test_what_must_not_be_kept_is_given_and_not_kept(rig: Rig) -> None:
    layer, origin = rig.node()
    origin.rows[KEY], origin.headers = b"mine", {"Cache-Control": "private"}
    for asked in (1, 2):
        assert (await read(layer, KEY)).value == b"mine" and len(origin.asked) == asked
    assert rig.redis.value(KEY).value is None and not rig.redis.leases


@pytest.mark.parametrize("word", ["must-revalidate", "proxy-revalidate", "s-maxage=10"])
async def test_what_must_be_revalidated_is_never_stale_whatever_is_configured(
    rig: Rig, word: str
) -> None:
    layer, origin = rig.node(while_revalidate_ms=60_000.0, if_error_ms=60_000.0)
    origin.rows[KEY], origin.headers = b"one", {"Cache-Control": f"max-age=10, {word}"}
    assert (await read(layer, KEY)).ttl_ms == 10_000.0
    assert rig.redis.value(KEY).expires_in_ms == 10_000.0, "and no grace"
    rig.clock.at_ms += 9_999.0
    assert not (await read(layer, KEY)).stale and len(origin.asked) == 1
    origin.fails = "down"
    rig.clock.at_ms += 2.0
    assert (await read(layer, KEY)).error is not None
    # Where the origin is not listened to, it says nothing.
    deaf, other = rig.node(while_revalidate_ms=60_000.0, respect_cache_control=False)
    other.rows[KEY], other.headers = b"one", origin.headers
    await read(deaf, KEY)
    rig.clock.at_ms += 10_001.0
    assert (await read(deaf, KEY)).stale


async def test_the_origin_may_say_how_stale_its_values_are_answered(rig: Rig) -> None:
    layer, origin = rig.node(if_error_ms=60_000.0)
    text = "max-age=10, stale-while-revalidate=2, stale-if-error=5"
    origin.rows[KEY], origin.headers = b"one", {"Cache-Control": text}
    await read(layer, KEY)
    assert rig.redis.value(KEY).expires_in_ms == 15_000.0
    rig.clock.at_ms += 11_500.0
    origin.gate = asyncio.Event()
    assert (await read(layer, KEY)).stale, "at once, though nothing of it is configured"
    origin.fails = "down"
    origin.gate.set()
    await settle(lambda: not layer.loads)
    rig.clock.at_ms += 2_000.0
    assert (await read(layer, KEY)).stale, "for the origin fails"
    rig.clock.at_ms += 1_501.0
    assert (await read(layer, KEY)).error is not None, "not for a minute: its origin says less"


async def test_a_value_keeps_the_grace_it_was_stored_with(rig: Rig) -> None:
    (before, origin), (after, _) = rig.node(if_error_ms=5_000.0), rig.node(if_error_ms=60_000.0)
    origin.rows[KEY] = b"one"
    await read(before, KEY)
    rig.clock.at_ms += 9_000.0
    assert not (await read(after, KEY)).stale, "it is fresh for a second still"


async def test_times_to_live_are_the_origins_and_jittered(rig: Rig) -> None:
    layer, origin = rig.node(jitter=0.2)
    origin.rows |= {b"row:%d" % i: b"x" for i in range(50)}
    origin.headers = {"Cache-Control": "max-age=100"}
    ends = []
    for i in range(50):
        rig.clock.dice = (i + 1) / 50
        await read(layer, b"row:%d" % i)
        ends.append(rig.redis.value(b"row:%d" % i).expires_in_ms or 0.0)
    assert ends == sorted(ends, reverse=True) and len(set(ends)) == 50
    assert min(ends) >= 80_000.0 and max(ends) <= 100_000.0


@pytest.mark.parametrize("early", [False, True])
async def test_xfetch_loads_ahead_of_the_end(rig: Rig, early: bool) -> None:
    layer, origin = rig.node(beta=2.0)
    origin.rows[KEY], origin.took_ms = b"one", 100.0
    await read(layer, KEY)
    rig.clock.at_ms += 9_500.0  # 500 ms left; -ln(dice) * 2 * 100 ms must reach that
    rig.clock.dice = math.exp(-2.5) * (0.999 if early else 1.001)
    origin.rows[KEY] = b"two"
    value = await read(layer, KEY)
    assert (value.value, value.stale) == (b"one", False), "nobody waits for it"
    await settle(lambda: not layer.loads)
    assert (await read(layer, KEY)).value == (b"two" if early else b"one")
    assert origin.early == early and len(origin.asked) == 1 + early


async def test_another_node_that_refreshes_is_waited_for(rig: Rig) -> None:
    (layer, origin), (other, far) = (
        rig.node(if_error_ms=60_000.0, soft_timeout_ms=5_000.0) for _ in range(2)
    )
    origin.rows[KEY] = b"one"
    await read(layer, KEY)
    rig.clock.at_ms += 10_001.0
    origin.rows[KEY], origin.gate = b"two", asyncio.Event()
    first = asyncio.ensure_future(read(layer, KEY))
    await settle(lambda: len(origin.asked) == 2)
    second = asyncio.ensure_future(read(other, KEY))
    await asyncio.sleep(0.05)
    origin.gate.set()
    assert [v.value for v in await asyncio.gather(first, second)] == [b"two", b"two"]
    assert not far.asked


async def test_who_wants_to_be_the_loader_is_given_what_the_origin_has(rig: Rig) -> None:
    layer, origin = rig.node(negative_ms=0.0)
    origin.rows[KEY] = b"Ada"

    async def lease(key: bytes) -> Any:
        answered = asyncio.get_running_loop().create_future()
        told = layer.guard(Lease(key), answered.set_result)
        return "nobody's business here" if told is not None else await answered

    found = await lease(KEY)
    assert isinstance(found, LeaseResult) and not found.token
    assert found.value is not None and found.value.value == b"Ada"
    none = await lease(b"row:2")
    assert none.value.value is None and not none.token, "also where that is not remembered"
    assert await lease(b"other") == "nobody's business here"
    rig.redis.fault = Fault(FaultKind.UNAVAILABLE, "Redis is away")
    assert await lease(KEY) == rig.redis.fault


async def test_faults_of_redis_are_told_as_such(rig: Rig) -> None:
    layer, origin = rig.node()
    rig.redis.fault = Fault(FaultKind.UNAVAILABLE, "Redis is away")
    assert await read(layer, KEY) == rig.redis.fault and not origin.asked


async def test_who_still_waits_when_the_daemon_stops_is_told(rig: Rig) -> None:
    layer, origin = rig.node()
    origin.gate = asyncio.Event()
    waiting = asyncio.ensure_future(read(layer, KEY))
    await settle(lambda: origin.asked)
    assert layer.busy
    await layer.close()
    assert (await waiting).kind == FaultKind.STOPPING and not rig.redis.leases


async def test_a_hit_costs_no_task(rig: Rig) -> None:
    layer, origin = rig.node()
    origin.rows[KEY] = b"one"
    await read(layer, KEY)
    answers: list[Any] = []
    told = layer.guard(Read((KEY,)), answers.append)
    assert told is not None
    told(ReadResult((rig.redis.value(KEY),)))
    assert len(answers) == 1 and not layer.busy
