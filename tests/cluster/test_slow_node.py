"""A slow node slows no writer beyond its timeout, and no other node at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any, Final

import pytest

from coherenced.lab.proxy import role
from tests.cluster.daemons import Cluster, Daemon
from tests.servers import wait_until

BOUND_MS: Final = 1000
SLOW_MS: Final = 400.0
WRITES: Final = 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(3, settings={"coherence.max_staleness_ms": BOUND_MS}) as cluster:
        one = cluster.daemons[0]
        # In a new log `all` waits out one bound.
        wait_until(lambda: took_ms(one, "SET", "warm", "1", "ACK", "all") < SLOW_MS / 2, 30)
        yield cluster


def took_ms(daemon: Daemon, verb: str, *words: str) -> float:
    began_s = time.monotonic()
    daemon.command(f"COH.{verb}", *words, timeout_s=20.0)
    return (time.monotonic() - began_s) * 1e3


@pytest.mark.parametrize("how", ["a slow network", "a stopped process"])
def test_a_slow_node_holds_up_nobody(cluster: Cluster, how: str) -> None:
    one, slow, three = cluster.daemons
    slowness = cluster.proxies["n2"].delay(SLOW_MS, role("bus", "control"))
    if how == "a stopped process":
        slowness.undo()
        slow.pause()
    try:
        # Writers who wait for nobody, or for the quick ones, do not notice.
        for level in ("redis", "2", "quorum"):
            spent = [
                took_ms(one, "SET", f"s:{n}", "v", "ACK", level, "TIMEOUT", "5000")
                for n in range(WRITES)
            ]
            assert median(spent) < SLOW_MS / 2, (level, spent)
        # Who waits for all waits until its own timeout, and is told who was missing…
        reply: Any = one.command("COH.SET", "s:all", "v", "ACK", "all", "TIMEOUT", "200")
        assert str(reply).startswith("NOACK committed ")
        assert "missing=n2" in str(reply)
        assert took_ms(one, "SET", "s:all", "v", "ACK", "all", "TIMEOUT", "200") < 200 + SLOW_MS
        # …or until the slow one answers or is fenced by its bound, whichever comes first.
        assert took_ms(one, "SET", "s:all", "v", "ACK", "all", "TIMEOUT", "9000") < BOUND_MS * 2.5
        # The other node drops and reads as ever.
        three.command("GET", "s:0")
        spent = []
        for number in range(WRITES):
            began_s = time.monotonic()
            one.command("COH.SET", "s:0", str(number), "ACK", "2", "TIMEOUT", "5000")
            assert three.command("GET", "s:0") == str(number).encode()
            spent.append((time.monotonic() - began_s) * 1e3)
        assert median(spent) < SLOW_MS / 2, spent
    finally:
        slowness.undo()
        if slow.paused:
            slow.resume()
    wait_until(lambda: slow.command("GET", "s:0") == str(WRITES - 1).encode(), 20)
