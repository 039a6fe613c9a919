"""T1 over a restart of Redis itself: a tag is invalidated while fills are in flight on every node.

What a loader read before the update, and brings after the invalidation, is never cached, whatever
became of Redis's memory in between: kept, lost, or taken back to an older file, in which neither
the invalidation nor the end of the leases stands.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

import pytest

from coherenced import Client
from coherenced.errors import CoherencedError
from tests.cluster.daemons import Cluster, Daemon
from tests.servers import wait_until

PATIENCE_S: Final = 30.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    settings = {"coherence.max_staleness_ms": 500, "redis.command_timeout_ms": 500}
    with Cluster(3, settings=settings) as cluster:
        yield cluster


class Rows:
    """The database: a loader reads the row at once, and takes until `gate` to bring it."""

    def __init__(self) -> None:
        self.row = b"old"
        self.gate = threading.Event()
        self.reading = 0
        self._lock = threading.Lock()

    def load(self) -> bytes:
        found = self.row
        with self._lock:
            self.reading += 1
        assert self.gate.wait(PATIENCE_S)
        return found


def invalidated(daemon: Daemon, *what: str) -> bool:
    """Whether all nodes have acknowledged it; Redis may be on its way up still."""
    answer = daemon.command("COH.INVALIDATE", *what, "ACK", "all", timeout_s=PATIENCE_S)
    return isinstance(answer, list)


def answers(daemon: Daemon, key: str) -> Any:
    """The value, when there is one that is proved current."""
    reply = daemon.command("COH.GET", key, "MAXSTALE", "0", timeout_s=PATIENCE_S)
    return str(reply) if isinstance(reply, Exception) else reply


@pytest.mark.timeout(120)
@pytest.mark.parametrize("data", ["keep", "empty", "old"])
@pytest.mark.parametrize("restart", ["before", "after"])
def test_a_tag_a_restart_and_fills_in_flight_on_every_node(
    cluster: Cluster, data: str, restart: str
) -> None:
    """`restart`: before the tag is invalidated, or after it."""
    rows, tag = Rows(), f"team:{data}:{restart}"
    keys = [f"{tag}:{daemon.node}" for daemon in cluster.daemons]
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(d.socket, timeout=20)) for d in cluster.daemons]
        for number, client in enumerate(clients):
            # Held by every node, of the same tag, and in Redis.
            client.set(f"{tag}:held:{number}", b"old", ttl=600, tags=[tag])
            for other in clients:
                assert other.get(f"{tag}:held:{number}") == b"old"
        threads = stack.enter_context(ThreadPoolExecutor(len(clients)))

        def load(client: Client, key: str) -> bytes:
            try:
                return bytes(client.get_or_load(key, rows.load, ttl=600, lease=60, tags=[tag]))
            except CoherencedError:
                return b"an error: Redis was away"

        loads = [threads.submit(load, *pair) for pair in zip(clients, keys, strict=True)]
        wait_until(lambda: rows.reading == len(clients), PATIENCE_S, "all are loading")
        if data == "old":
            cluster.primary.save()  # with the leases, and without what comes now
        rows.row = b"new"
        if restart == "before":
            cluster.primary.restart(data)
        wait_until(lambda: invalidated(cluster.daemons[0], "TAGS", "1", tag), PATIENCE_S)
        if restart == "after":
            cluster.primary.restart(data)
            # Redis has forgotten what was acknowledged ("old"), or everything ("empty"): until all
            # nodes have noticed, they are what answers, and they know.
        rows.gate.set()
        brought = {future.result(PATIENCE_S) for future in loads}
    assert brought <= {b"new", b"old", b"an error: Redis was away"}
    wait_until(lambda: all(noticed(d, cluster) for d in cluster.daemons), PATIENCE_S, "all current")
    for daemon in cluster.daemons:
        for key in keys:
            assert answers(daemon, key) in (None, b"new"), (daemon.node, key)
        for number in range(len(clients)):
            assert answers(daemon, f"{tag}:held:{number}") is None
            assert daemon.command("GET", f"{tag}:held:{number}") is None
    # And the tag goes on to work.
    one, two, _ = cluster.daemons
    assert b":" in one.command("COH.SET", f"{tag}:next", "1", "TAGS", "1", tag)
    assert two.command("GET", f"{tag}:next") == b"1"
    assert invalidated(one, "TAGS", "1", tag) and two.command("GET", f"{tag}:next") is None


def noticed(daemon: Daemon, cluster: Cluster) -> bool:
    """It has proved itself in the history that Redis has now."""
    epoch = cluster.primary.command("HGET", "coh:{0}:meta", "e")
    answer = daemon.command("COH.GET", "anything", "MAXSTALE", "0", "META")
    return isinstance(answer, list) and answer[1].partition(b":")[0] == epoch
