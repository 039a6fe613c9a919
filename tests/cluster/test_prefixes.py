"""T1 with real processes: what a prefix covers is gone when its invalidation is acknowledged.

So many keys that no node has looked at all of them by then. They are changed in Redis past
coherenced, so that only the invalidation can tell: who is shown an old value afterwards, by any way
of asking, was served what had been ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from coherenced import Client
from tests.cluster.daemons import Cluster, Daemon
from tests.servers import wait_until

KEYS: Final = [f"user:{number:05d}" for number in range(20_000)]
CHUNK: Final = 500
LAST: Final = KEYS[-40:]
"""Looked for at last: nobody has by the time they are asked for."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(2, settings={"l1.max_age_ms": 600_000}) as cluster:
        yield cluster


def write_past_us(cluster: Cluster, value: str) -> None:
    for start in range(0, len(KEYS), CHUNK):
        some = KEYS[start : start + CHUNK]
        cluster.primary.command("MSET", *(word for key in some for word in (key, value)))


def warm(daemon: Daemon) -> None:
    for start in range(0, len(KEYS), CHUNK):
        assert set(daemon.command("MGET", *KEYS[start : start + CHUNK])) == {b"old"}


@pytest.mark.parametrize("what", [("PREFIXES", "2", "user:", "other:"), ("ALL",)])
def test_once_it_is_acknowledged_nobody_is_shown_what_it_covers(
    cluster: Cluster, what: tuple[str, ...]
) -> None:
    here, there = cluster.daemons
    write_past_us(cluster, "old")
    assert isinstance(here.command("COH.INVALIDATE", "ALL", "ACK", "all"), list)
    warm(there)
    warm(here)
    before = {daemon.node: daemon.stats()["l1"]["invalidated"] for daemon in cluster.daemons}
    with Client(there.socket) as cache:
        assert [cache.get(key) for key in LAST] == [b"old"] * len(LAST)
        assert [cache.get(key) for key in LAST] == [b"old"] * len(LAST)
        write_past_us(cluster, "new")
        assert cache.get(LAST[0]) == b"old", "nothing has told of it yet"
        answer = here.command("COH.INVALIDATE", *what, "ACK", "all")
        assert isinstance(answer, list), answer
        for daemon in (there, here):
            assert daemon.command("GET", LAST[0]) == b"new"
            assert daemon.http(f"/v1/keys/{LAST[1]}") == (200, b"new")
            assert daemon.command("MGET", *LAST[2:30]) == [b"new"] * 28
        assert [cache.get(key) for key in LAST] == [b"new"] * len(LAST)
        assert cache.get_many(LAST) == dict.fromkeys(LAST, b"new")
    for daemon in cluster.daemons:
        # What was read anew is held; all else is found, and its memory freed, behind.
        held = len(LAST) if daemon is there else 30
        wait_until(lambda d=daemon, n=held: d.stats()["l1"]["entries"] == n, 20)
        told = daemon.stats()["l1"]["invalidated"] - before[daemon.node]
        assert told == len(KEYS)
        wait_until(lambda d=daemon: d.stats()["l1"]["bytes"] < 100_000, 20)
