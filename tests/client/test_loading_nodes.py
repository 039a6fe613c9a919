"""`get_or_load` over two real daemons: one load in the cluster, no old value after an update."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from coherenced import AsyncClient, Client, LoadPolicy
from tests.cluster.daemons import Cluster
from tests.servers import wait_until


@pytest.fixture
def clients(nodes: Cluster) -> Iterator[list[Client]]:
    """Two clients on each node, as four processes."""
    made = [Client(daemon.socket) for daemon in nodes.daemons for _ in range(2)]
    yield made
    for client in made:
        client.close()


@pytest.fixture
def key() -> str:
    return f"loading:{uuid.uuid4().hex}"


def test_a_hundred_readers_on_each_node_load_once(clients: list[Client], key: str) -> None:
    calls, all_there = [], threading.Barrier(200)

    def loader() -> str:
        calls.append(1)
        time.sleep(0.2)
        return "loaded"

    def read(number: int) -> Any:
        all_there.wait(30)
        return clients[number % 4].get_or_load(key, loader)

    with ThreadPoolExecutor(200) as threads:
        assert set(threads.map(read, range(200))) == {"loaded"}
    assert len(calls) == 1


def test_without_leases_each_of_them_loads(clients: list[Client], key: str) -> None:
    """What the herd would have been."""
    calls, all_there = [], threading.Barrier(100)

    def read(number: int) -> Any:
        cache = clients[number % 4]
        all_there.wait(30)
        value = cache.get(key)
        if value is None:
            calls.append(1)
            time.sleep(0.2)
            cache.set(key, value := "loaded")
        return value

    with ThreadPoolExecutor(100) as threads:
        assert set(threads.map(read, range(100))) == {"loaded"}
    assert len(calls) > 50


def test_a_value_that_was_loaded_dies_of_its_key_and_its_tags(
    clients: list[Client], key: str
) -> None:
    here, there = clients[0], clients[2]
    for number, ends in enumerate([{"keys": [key]}, {"tags": [f"tag:{key}"]}, {"prefixes": [key]}]):
        assert here.get_or_load(key, lambda n=number: n, tags=[f"tag:{key}"]) == number
        assert there.get(key, max_staleness_ms=0) == number
        there.invalidate(**ends, ack="all")
        assert here.get(key) is there.get(key) is None
    here.get_or_load(key, lambda: "no tags")
    there.invalidate([key], ack="all")
    assert here.get(key) is None


def test_an_old_row_is_never_cached_after_its_update(clients: list[Client], key: str) -> None:
    """A load that began before the update and ends after it is answered, and not stored."""
    row, here, there = ["old"], clients[0], clients[2]
    read, go_on = threading.Event(), threading.Event()
    first = True

    def slow() -> str:
        nonlocal first
        value = row[0]
        if first:
            first = False
            read.set()
            assert go_on.wait(20)
        return value

    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(here.get_or_load, key, slow)
        assert read.wait(20)
        row[0] = "new"
        there.invalidate([key], ack="all")
        go_on.set()
        assert loading.result(20) == "new"  # LOST: loaded once more
    for cache in clients:
        assert cache.get_or_load(key, lambda: row[0]) == "new"
    assert here.stats()["origin"]["lost"] == 1


def test_updates_and_reads_from_everywhere(clients: list[Client], key: str) -> None:
    """After an update was acknowledged nobody reads an older row, whatever is being loaded."""
    row, newest, stop = [0], [0], threading.Event()
    wrong: list[tuple[int, int]] = []

    def read(number: int) -> None:
        cache = clients[number]
        while not stop.is_set():
            least = newest[0]
            seen = cache.get_or_load(key, lambda: row[0], ttl=0.05, early_refresh=1.0)
            if seen < least:
                wrong.append((seen, least))

    with ThreadPoolExecutor(4) as threads:
        reading = [threads.submit(read, number) for number in range(4)]
        end, patience = time.monotonic() + 2, time.monotonic() + 30
        while time.monotonic() < end or (newest[0] <= 50 and time.monotonic() < patience):
            row[0] += 1
            clients[row[0] % 4].invalidate([key], ack="all")
            newest[0] = row[0]
        stop.set()
        for future in reading:
            future.result(20)
    assert newest[0] > 50
    assert wrong == []


def test_stale_values_are_refreshed_by_one(clients: list[Client], key: str) -> None:
    policy: Any = {"ttl": 0.3, "stale_while_revalidate": 60}
    calls: list[int] = []

    def loader() -> int:
        calls.append(1)
        time.sleep(0.1)
        return len(calls)

    assert clients[0].get_or_load(key, loader, **policy) == 1
    entry = clients[2].get_entry_or_load(key, loader, **policy)
    assert (entry.value, entry.stale) == (1, False)
    time.sleep(0.35)
    answers = [clients[n % 4].get_entry_or_load(key, loader, **policy) for n in range(40)]
    assert {(one.value, one.stale) for one in answers} == {(1, True)}
    wait_until(lambda: clients[3].get_or_load(key, loader, **policy) >= 2, 20)
    assert len(calls) <= 3


def test_an_absent_row_is_two_bytes_for_other_languages(
    nodes: Cluster, clients: list[Client], key: str
) -> None:
    def missing() -> None:
        raise KeyError(key)

    assert clients[0].get_or_load(key, missing, negative_ttl=30) is None
    assert nodes.daemons[1].command("GET", key) == b"\xc1\xc1"
    assert clients[2].get_or_load(key, lambda: "there", negative_ttl=30) is None
    # Known in the process, too: the daemon is not asked again.
    with Client(nodes.daemons[0].socket) as cache:
        for _ in range(20):
            assert cache.get_or_load(key, lambda: "there", negative_ttl=30) is None
            assert cache.get(key, "default") == "default"
        assert cache.stats()["l0"]["hits"] >= 30
    clients[2].invalidate([key], ack="all")
    assert clients[0].get_or_load(key, lambda: "there", negative_ttl=30) == "there"


def test_a_filler_that_dies_is_replaced(nodes: Cluster, clients: list[Client], key: str) -> None:
    reply = nodes.daemons[0].command("COH.LEASE", key, "PX", "500")
    assert reply[0] == b"TOKEN"
    began = time.monotonic()
    assert clients[2].get_or_load(key, lambda: "mine") == "mine"
    assert time.monotonic() - began < 10


def test_warming_from_both_nodes_loads_each_key_once(clients: list[Client], key: str) -> None:
    keys = [f"{key}:{n}" for n in range(300)]
    loaded: list[str] = []

    def loader(wanted: list[str]) -> dict[str, int]:
        loaded.extend(wanted)
        time.sleep(0.02)
        return {one: int(one.rpartition(":")[2]) for one in wanted}

    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda n: clients[n].warm(keys, loader), (0, 2)))
    assert sorted(loaded) == sorted(keys)
    assert sum(one.loaded for one in done) == 300
    assert clients[1].get_many(keys) == {one: n for n, one in enumerate(keys)}


async def test_many_keys_loaded_elsewhere_hold_up_nobody(nodes: Cluster, key: str) -> None:
    async with (
        AsyncClient(nodes.daemons[0].socket) as one,
        AsyncClient(nodes.daemons[1].socket, load_policy=LoadPolicy(wait=20)) as two,
    ):
        go_on = asyncio.Event()

        async def slow() -> str:
            await go_on.wait()
            return "slow"

        first = [asyncio.ensure_future(one.get_or_load(f"{key}{n}", slow)) for n in range(30)]
        await asyncio.sleep(0.2)
        second = [asyncio.ensure_future(two.get_or_load(f"{key}{n}", slow)) for n in range(30)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            assert await two.get(f"{key}-other") is None
        go_on.set()
        async with asyncio.timeout(20):
            assert set(await asyncio.gather(*first, *second)) == {"slow"}


def test_a_hit_is_fast(clients: list[Client], key: str) -> None:
    """A hit of `get_or_load` is the hit of `get`, from this process's memory."""
    cache = clients[0]

    @cache.cached(ttl=60, key=key + ":{n}")
    def cached(n: int) -> int:
        return n

    cached(1)
    cached(1)
    best = min(_per_call_us(lambda: cached(1)) for _ in range(5))
    assert best < 20  # 1.7 µs on an idle machine; a round trip costs more than 20
    assert cache.stats()["origin"]["loads"] == 1


def _per_call_us(call: Any) -> float:
    began = time.process_time()
    for _ in range(2000):
        call()
    return (time.process_time() - began) / 2000 * 1e6
