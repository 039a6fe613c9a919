"""What `demo` measures at its end: a second or two, on this machine, in this run.

For proper figures there is a benchmark; these are to give an idea, and to show that
the daemons that just told the story are the ones that are fast.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from coherenced.cli.cluster import Cluster, Daemon
from coherenced.client.stream import Conversation, batch_of
from coherenced.errors import CoherencedError

LOOP_S: Final = 0.4
PIPELINED: Final = 64
WRITES: Final = 200
HOT_KEY: Final = "demo:hot"
HOT_VALUE: Final = b"x" * 256


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    value: float
    unit: str


def measure(cluster: Cluster) -> list[Figure]:
    """All figures. Raises `CoherencedError` when a read or a write does not do what it must."""
    first, last = cluster.daemons[0], cluster.daemons[-1]
    first.client.set(HOT_KEY, HOT_VALUE, ttl=600)
    figures = [
        Figure("L1 hits, one Python client, one by one", _client_hits(last), "/s"),
        Figure(f"L1 hits, one connection, {PIPELINED} at a time", _pipelined_hits(last), "/s"),
        Figure("L1 hits over HTTP, one connection", _http_hits(last), "/s"),
    ]
    p50_ms, p99_ms = _invalidations(cluster)
    figures += [
        Figure("write until every node has dropped the old value, p50", p50_ms, "ms"),
        Figure("write until every node has dropped the old value, p99", p99_ms, "ms"),
    ]
    largest = max(daemon.stats()["process"]["rss_bytes"] for daemon in cluster.daemons)
    return [*figures, Figure("memory of a daemon, the largest", largest / 2**20, "MiB")]


def _rate(once: Callable[[], int]) -> float:
    """How many a second, over `LOOP_S` and after a first time that warms up."""
    once()
    began = time.perf_counter()
    count = 0
    while (elapsed := time.perf_counter() - began) < LOOP_S:
        count += once()
    return count / elapsed


def _client_hits(daemon: Daemon) -> float:
    def once() -> int:
        _expect(daemon.client.get(HOT_KEY) == HOT_VALUE, "a hit")
        return 1

    return _rate(once)


def _pipelined_hits(daemon: Daemon) -> float:
    batch = batch_of([(b"GET", HOT_KEY.encode())] * PIPELINED)
    conversation = Conversation()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(5.0)
        link.connect(str(daemon.socket))

        def once() -> int:
            link.sendall(batch.data)
            replies: list[object] = []
            while len(replies) < batch.replies:
                arrived = link.recv(1 << 18)
                _expect(bool(arrived), "an open connection")
                replies += conversation.received(arrived)
            _expect(replies == [HOT_VALUE] * PIPELINED, "a hit")
            return PIPELINED

        return _rate(once)


def _http_hits(daemon: Daemon) -> float:
    request = f"GET /v1/keys/{HOT_KEY} HTTP/1.1\r\nHost: demo\r\n\r\n".encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(5.0)
        link.connect(str(daemon.http_socket))

        def once() -> int:
            link.sendall(request)
            arrived = link.recv(1 << 16)
            while arrived and not arrived.endswith(HOT_VALUE):
                arrived += link.recv(1 << 16)
            _expect(arrived.startswith(b"HTTP/1.1 200 "), "a hit over HTTP")
            return 1

        return _rate(once)


def _invalidations(cluster: Cluster) -> tuple[float, float]:
    """p50 and p99 in ms of a write on one node that returns when all have dropped the key."""
    first, *others = cluster.daemons
    took_ms = []
    for number in range(WRITES):
        began = time.perf_counter()
        first.client.set("demo:shared", number, ack="all")
        took_ms.append((time.perf_counter() - began) * 1000)
        reader = others[number % len(others)]
        _expect(reader.client.get("demo:shared") == number, "the value just written")
    took_ms.sort()
    return took_ms[len(took_ms) // 2], took_ms[int(len(took_ms) * 0.99)]


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise CoherencedError(f"the measurement went wrong: expected {what}")
