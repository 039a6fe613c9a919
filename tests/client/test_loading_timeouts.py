"""A loader that takes too long: stale past the soft timeout, an error past the hard one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from coherenced import AsyncClient, Client
from coherenced.client import blocking
from coherenced.client.values import MSGPACK
from coherenced.errors import LoadTimeout
from tests.client.fake_daemon import FakeDaemon
from tests.servers import wait_until

HOW: dict[str, Any] = {"ttl": 60, "stale_if_error": 60}


def grow_old(daemon: FakeDaemon) -> None:
    """Past its ttl, within the grace."""
    daemon.ends[b"k"] = time.monotonic() + 30


def test_past_the_soft_timeout_stale_and_the_late_result_is_kept(daemon: FakeDaemon) -> None:
    gate = threading.Event()

    def slow() -> str:
        assert gate.wait(20)
        return "new"

    with Client(daemon.path) as cache:
        cache.get_or_load("k", lambda: "old", **HOW)
        grow_old(daemon)
        began = time.monotonic()
        for _ in range(3):
            entry = cache.get_entry_or_load("k", slow, soft_timeout=0.05, **HOW)
            assert (entry.value, entry.stale) == ("old", True)
        assert 0.15 <= time.monotonic() - began < 10
        gate.set()
        wait_until(lambda: daemon.values[b"k"] == MSGPACK.dumps("new"))
        assert cache.get_or_load("k", slow, soft_timeout=0.05, **HOW) == "new"
        told = cache.stats()["origin"]
    assert (told["overtime"], told["loads"], told["shared"]) == (1, 2, 2)


def test_within_the_soft_timeout_it_is_as_without_one(daemon: FakeDaemon) -> None:
    def broken() -> str:
        raise OSError("down")

    with Client(daemon.path) as cache:
        soft = {**HOW, "soft_timeout": 20.0}
        assert cache.get_or_load("k", lambda: "old", **soft) == "old", "nothing is stale yet"
        grow_old(daemon)
        assert cache.get_or_load("k", broken, **soft) == "old"
        assert cache.get_or_load("k", lambda: "new", retry_after=0.0, **soft) == "old"
        with Client(daemon.path) as other:
            assert other.get_or_load("k", lambda: "new", **soft) == "new"
            daemon.values.clear()
            daemon.ends.clear()
            with pytest.raises(OSError, match="down"):
                other.get_or_load("k", broken, **soft)


def test_what_is_not_stored_is_answered_all_the_same(daemon: FakeDaemon) -> None:
    with Client(daemon.path) as cache:
        cache.get_or_load("k", lambda: "old", **HOW)
        grow_old(daemon)
        entry = cache.get_entry_or_load(
            "k", lambda: daemon.tokens.clear() or "new", soft_timeout=20.0, **HOW
        )
        assert (entry.value, entry.stale) == ("new", False)


async def test_a_coroutine_goes_on_behind_and_is_cancelled_past_the_hard_timeout(
    daemon: FakeDaemon,
) -> None:
    gate, ends = asyncio.Event(), []

    async def slow() -> str:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        return "new"

    async def old() -> str:
        return "old"

    async with AsyncClient(daemon.path) as cache:
        with pytest.raises(LoadTimeout, match=r"not returned within 0\.05 s \(hard_timeout\)"):
            await cache.get_or_load("k", slow, hard_timeout=0.05, **HOW)
        assert ends == ["cancelled"] and daemon.tokens == {}, "the next in line may try at once"
        await cache.get_or_load("k", old, **HOW)
        grow_old(daemon)
        how = {**HOW, "soft_timeout": 0.05, "hard_timeout": 5.0}
        entry = await cache.get_entry_or_load("k", slow, **how)
        assert (entry.value, entry.stale) == ("old", True)
        gate.set()
        for _ in range(20_000):
            if daemon.values[b"k"] == MSGPACK.dumps("new"):
                break
            await asyncio.sleep(0.001)
        assert await cache.get_or_load("k", slow, **how) == "new"
        gate.clear()
        grow_old(daemon)
        entry = await cache.get_entry_or_load("k", slow, hard_timeout=0.05, **HOW)
        assert (entry.value, entry.stale) == ("new", True), "the hard one alone: stale, if allowed"


async def test_a_loaders_own_time_out_is_its_own(daemon: FakeDaemon) -> None:
    async def loader() -> str:
        raise TimeoutError("the database's")

    async with AsyncClient(daemon.path) as cache:
        with pytest.raises(TimeoutError, match="the database's"):
            await cache.get_or_load("k", loader, hard_timeout=5)


def test_past_the_hard_timeout_a_blocking_loader_is_given_up(daemon: FakeDaemon) -> None:
    gate = threading.Event()
    names = []

    def slow() -> str:
        names.append(threading.current_thread().name)
        assert gate.wait(20)
        return "late"

    with Client(daemon.path) as cache:
        with pytest.raises(LoadTimeout, match="not returned within"):
            cache.get_or_load("k", slow, hard_timeout=0.05)
        assert daemon.tokens == {} and daemon.values == {}
        assert cache.get_or_load("k", lambda: "prompt", hard_timeout=5) == "prompt"
        gate.set()
        wait_until(lambda: not running())
        assert daemon.values[b"k"] == MSGPACK.dumps("prompt"), "the late one is not looked at"
        with pytest.raises(KeyError):
            cache.get_or_load("other", lambda: {}["x"], hard_timeout=5)
    assert names == ["coherenced-loader"]


def test_loaders_that_hang_are_bounded_and_keep_nobody(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "LOADERS", 2)
    gate = threading.Event()
    hang: Callable[[], Any] = lambda: gate.wait(20)  # noqa: E731
    with Client(daemon.path) as cache:
        for key in ("a", "b"):
            with pytest.raises(LoadTimeout):
                cache.get_or_load(key, hang, hard_timeout=0.02)
        with pytest.raises(LoadTimeout, match="2 loaders with a hard_timeout are running already"):
            cache.get_or_load("c", lambda: 1, hard_timeout=0.02)
        assert cache.get_or_load("d", lambda: 1) == 1, "without one it needs no thread"
    assert len(running()) == 2, "closing waits for none of them"
    gate.set()
    wait_until(lambda: not running())


def running() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "coherenced-loader"]
