"""What Django's documentation promises of a cache, over real daemons, from two nodes."""

from __future__ import annotations

import asyncio
import time
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.cache import CacheHandler

from coherenced.client.contrib.django import CoherencedCache, PickleSerializer, close_clients
from coherenced.errors import UsageError
from tests.cluster.daemons import Cluster

if not settings.configured:
    settings.configure()
    django.setup()

BACKEND = f"{CoherencedCache.__module__}.{CoherencedCache.__name__}"


@pytest.fixture
def configured(nodes: Cluster) -> dict[str, dict[str, Any]]:
    """Two caches of one site, each on its node; a prefix for each test."""
    common = {
        "BACKEND": BACKEND,
        "KEY_PREFIX": uuid.uuid4().hex[:8],
        "TIMEOUT": 300,
        "OPTIONS": {"ack": "all"},
    }
    one, two = (str(daemon.socket) for daemon in nodes.daemons)
    return {
        "default": {**common, "LOCATION": one},
        "there": {**common, "LOCATION": two},
        "prefixed": {**common, "LOCATION": one, "KEY_PREFIX": "other"},
        "v2": {**common, "LOCATION": one, "VERSION": 2},
    }


@pytest.fixture
def caches(configured: dict[str, dict[str, Any]]) -> Iterator[CacheHandler]:
    yield CacheHandler(configured)
    close_clients()


@pytest.fixture
def cache(caches: CacheHandler) -> CoherencedCache:
    return caches["default"]


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not this one")


VALUES = [
    "text",
    b"bytes",
    b"12",
    "12",
    0,
    -7,
    1 << 70,
    True,
    False,
    None,
    1.5,
    ["a", 1],
    {"a": {1, 2}},
    (1, 2),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_any_value_comes_back_as_it_was(cache: CoherencedCache, value: Any) -> None:
    cache.set("k", value)
    back = cache.get("k", "default")
    assert back == value
    assert type(back) is type(value)


def test_get_of_what_is_not_there(cache: CoherencedCache) -> None:
    assert cache.get("missing") is None
    assert cache.get("missing", "default") == "default"
    assert not cache.has_key("missing")
    assert "missing" not in cache


def test_what_cannot_be_pickled_is_an_error(cache: CoherencedCache) -> None:
    with pytest.raises(TypeError, match="not this one"):
        cache.set("k", Unpicklable())


def test_the_other_node_sees_it_at_once(caches: CacheHandler) -> None:
    here, there = caches["default"], caches["there"]
    for number in range(50):
        here.set("k", number)
        assert there.get("k") == number
        there.delete("k")
        assert here.get("k") is None


def test_add(cache: CoherencedCache) -> None:
    assert cache.add("k", "first") is True
    assert cache.add("k", "second") is False
    assert cache.get("k") == "first"
    assert cache.add("gone", "x", timeout=0) is True
    assert cache.get("gone") is None


def test_one_of_many_adds(caches: CacheHandler) -> None:
    both = [caches["default"], caches["there"]]
    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(lambda n: both[n % 2].add("k", n), range(40)))
    assert done.count(True) == 1
    assert both[0].get("k") == done.index(True)


def test_many(cache: CoherencedCache) -> None:
    assert cache.set_many({"a": 1, "b": None, "c": "x"}) == []
    assert cache.get_many(["a", "b", "c", "d"]) == {"a": 1, "b": None, "c": "x"}
    assert cache.get_many(key for key in ("a",)) == {"a": 1}
    cache.delete_many(["a", "c", "missing"])
    assert cache.get_many(["a", "b", "c"]) == {"b": None}
    cache.delete_many([])
    assert cache.set_many({}) == []
    cache.set_many({"b": 1}, timeout=0)
    assert cache.get_many(["b"]) == {}


def test_delete_tells_whether_it_was_there(cache: CoherencedCache) -> None:
    cache.set("k", 1)
    assert cache.delete("k") is True
    assert cache.delete("k") is False


def test_counting(cache: CoherencedCache) -> None:
    cache.set("n", 41)
    assert cache.incr("n") == 42
    assert cache.incr("n", 10) == 52
    assert cache.decr("n", 2) == 50
    assert cache.incr("n", -60) == -10
    assert cache.get("n") == -10
    with pytest.raises(ValueError, match="Key 'missing' not found"):
        cache.incr("missing")
    with pytest.raises(ValueError, match="Key 'missing' not found"):
        cache.decr("missing")
    assert cache.get("missing") is None
    cache.set("text", "abc")
    with pytest.raises(TypeError, match="no whole number"):
        cache.incr("text")
    cache.set("big", (1 << 63) - 1)
    with pytest.raises(ValueError, match="overflow"):
        cache.incr("big")


def test_counting_from_everywhere_at_once(caches: CacheHandler) -> None:
    both = [caches["default"], caches["there"]]
    both[0].set("n", 0, timeout=60)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: both[n % 2].incr("n"), range(100)))
    assert [one.get("n") for one in both] == [100, 100]
    assert both[0].client.execute("PTTL", both[0].make_key("n"), write=False) > 0


def test_timeouts(cache: CoherencedCache) -> None:
    cache.set("soon", 1, timeout=0.2)
    cache.set("at-once", 1, timeout=0)
    cache.set("negative", 1, timeout=-1)
    cache.set("default", 1)
    cache.set("ever", 1, timeout=None)
    assert cache.get("soon") == 1
    assert cache.get("at-once") is cache.get("negative") is None

    def left_s(key: str) -> float:
        left: int = cache.client.execute("PTTL", cache.make_key(key), write=False)
        return left / 1000

    assert 290 < left_s("default") <= 300
    assert 86_400 * 29 < left_s("ever") <= 86_400 * 30
    time.sleep(0.25)
    assert cache.get("soon") is None
    cache.set("default", 2, timeout=0)
    assert cache.get("default") is None


def test_touch(cache: CoherencedCache) -> None:
    cache.set("k", 1, timeout=0.2)
    assert cache.touch("k", 60) is True
    assert cache.touch("missing", 60) is False
    time.sleep(0.25)
    assert cache.get("k") == 1
    assert cache.touch("k", 0) is True
    assert cache.get("k") is None
    cache.set("k", 1, timeout=1)
    assert cache.touch("k") is True
    assert cache.client.execute("PTTL", cache.make_key("k"), write=False) > 200_000


def test_clear_ends_ours_and_nobody_elses(caches: CacheHandler) -> None:
    here, there, other = caches["default"], caches["there"], caches["prefixed"]
    here.set_many({f"k{n}": n for n in range(100)})
    here.add("added", 1)
    here.set("n", 1)
    here.incr("n")
    here.touch("k1", 100)
    other.set("k1", "other's")
    there.get("k1")
    here.clear()
    for cache in (here, there):
        assert cache.get_many(["added", "n", *(f"k{n}" for n in range(100))]) == {}
    assert other.get("k1") == "other's"
    here.set("k1", "again")
    assert there.get("k1") == "again"


def test_versions(caches: CacheHandler) -> None:
    one, two = caches["default"], caches["v2"]
    one.set("k", "one")
    assert two.get("k") is None
    two.set("k", "two")
    assert (one.get("k"), one.get("k", version=2), two.get("k", version=1)) == ("one", "two", "one")
    assert one.incr_version("k", 2) == 3
    assert (one.get("k"), one.get("k", version=3)) == (None, "one")
    assert one.decr_version("k", version=3) == 2
    assert two.get("k") == "one"
    with pytest.raises(ValueError, match="not found"):
        one.incr_version("missing")
    one.set_many({"a": 1}, version=2)
    assert two.get_many(["a"]) == {"a": 1}
    one.delete("a", version=2)
    assert not two.has_key("a")


def test_get_or_set(cache: CoherencedCache) -> None:
    assert cache.get_or_set("k", "value") == "value"
    assert cache.get_or_set("k", "another") == "value"
    assert cache.get_or_set("called", lambda: {"made": True}, timeout=60) == {"made": True}
    assert cache.get_or_set("none", None) is None
    assert cache.has_key("none")
    assert cache.get_or_set("none", lambda: 1 / 0) is None
    assert cache.get_or_set("not-kept", lambda: 1, timeout=0) == 1
    assert not cache.has_key("not-kept")
    with pytest.raises(TypeError):
        cache.get_or_set("k2")  # type: ignore[call-arg]


def test_get_or_set_runs_once_in_the_cluster(caches: CacheHandler) -> None:
    calls: list[int] = []

    def slow() -> str:
        calls.append(1)
        time.sleep(0.2)
        return "made"

    both = [caches["default"], caches["there"]]
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda n: both[n % 2].get_or_set("k", slow), range(20)))
    assert set(answers) == {"made"}
    assert len(calls) == 1


def test_tags(caches: CacheHandler) -> None:
    here, there = caches["default"], caches["there"]
    here.set("user", "Ada", tags=["team:7"])
    here.set("other", "Bob")
    assert there.get("user") == "Ada"
    there.invalidate(tags=["team:7"])
    assert here.get_many(["user", "other"]) == {"other": "Bob"}
    here.invalidate(["other"])
    assert there.get("other") is None


def test_keys_that_memcached_would_refuse_are_warned_of(cache: CoherencedCache) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cache.set("with space", 1)
        assert cache.get("with space") == 1
        cache.set("k" * 300, 1)
    assert {one.category.__name__ for one in caught} == {"CacheKeyWarning"}


async def test_async(caches: CacheHandler) -> None:
    cache = caches["default"]
    try:
        await cache.aset("k", {"a": 1}, tags=["t"])
        assert await cache.aget("k") == {"a": 1}
        assert await cache.aget("missing", "default") == "default"
        assert await cache.ahas_key("k")
        assert await cache.aadd("k", 2) is False
        assert await cache.aset_many({"a": 1, "b": 2}) == []
        assert await cache.aget_many(["a", "b", "c"]) == {"a": 1, "b": 2}
        assert await cache.aincr("a", 5) == 6
        assert await cache.adecr("a") == 5
        with pytest.raises(ValueError, match="not found"):
            await cache.aincr("missing")
        assert await cache.atouch("a", 100) is True
        await cache.adelete_many(["a"])
        assert await cache.adelete("b") is True
        assert await cache.aget_or_set("made", lambda: "value") == "value"
        assert await asyncio.to_thread(caches["there"].get, "made") == "value"
        assert await cache.aincr_version("made") == 2
        assert await cache.aget("made", version=2) == "value"
        await cache.aset("gone", 1, timeout=0)
        await cache.aset_many({"gone": 1}, timeout=0)
        assert await cache.aadd("gone", 1, timeout=0) is True
        await cache.aclear()
        assert await cache.aget_many(["k", "gone"]) == {}
    finally:
        await cache.async_client.close()


def test_another_serializer(configured: dict[str, dict[str, Any]]) -> None:
    serializer = PickleSerializer(protocol=2)
    configured["default"]["OPTIONS"]["serializer"] = serializer
    cache = CacheHandler(configured)["default"]
    cache.set("k", "x")
    assert cache.client.execute("GET", cache.make_key("k"), write=False)[:2] == b"\x80\x02"
    close_clients()


def test_all_threads_share_their_clients(caches: CacheHandler) -> None:
    with ThreadPoolExecutor(1) as thread:
        elsewhere = thread.submit(lambda: caches["default"]).result()
    assert elsewhere is not caches["default"]
    assert elsewhere.client is caches["default"].client


def test_an_option_that_does_not_exist(configured: dict[str, dict[str, Any]]) -> None:
    configured["default"]["OPTIONS"]["max_stalenes_ms"] = 0
    with pytest.raises(UsageError, match="no such OPTIONS: max_stalenes_ms"):
        CacheHandler(configured)["default"]
