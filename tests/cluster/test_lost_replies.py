"""A proxy that swallows replies: every increment that was acknowledged happened once (W3)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from random import Random

import hiredis
import pytest

from coherenced.lab.proxy import role
from tests.cluster.daemons import Cluster, Daemon

SHORT_S = 2.5
SOAK_S = 60.0
KEYS = ("count:a", "count:b")


def increment(daemon: Daemon, seed: int, until_s: float, told: Counter[tuple[str, str]]) -> None:
    """INCR again and again; `told`: (key, what was answered) -> how often."""
    random = Random(seed)
    while time.monotonic() < until_s:
        key = random.choice(KEYS)
        try:
            reply = daemon.command("INCR", key, timeout_s=15.0)
        except OSError as error:
            told[key, type(error).__name__] += 1
            continue
        word = str(reply).split(" ", 1)[0] if isinstance(reply, hiredis.ReplyError) else "done"
        told[key, word] += 1


def count_under_lost_replies(seconds: float) -> None:
    with Cluster(2) as cluster:
        for proxy in cluster.proxies.values():
            proxy.lose_replies(role("writes"), every=3)
        until_s = time.monotonic() + seconds
        told = [Counter[tuple[str, str]]() for _ in range(6)]
        threads = [
            threading.Thread(target=increment, args=(cluster.daemons[n % 2], n, until_s, told[n]))
            for n in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cluster.heal()
        lost = sum(proxy.lost_chunks for proxy in cluster.proxies.values())
        resolved = sum(daemon.stats()["writes"]["resolved"] for daemon in cluster.daemons)
        indeterminate = sum(daemon.stats()["writes"]["indeterminate"] for daemon in cluster.daemons)
        total = sum(told, Counter[tuple[str, str]]())
        print(f"{lost} replies lost, {resolved} looked up; told: {dict(total)}")
        assert lost > 0
        assert resolved > 0
        for key in KEYS:
            stands_at = int(cluster.primary.command("GET", key))
            done, unknown = total[key, "done"], total[key, "INDETERMINATE"]
            # Whoever was told that nobody can tell counts on either side; nobody else does.
            assert done <= stands_at <= done + unknown
        words = {word for _, word in total}
        assert words <= {"done", "INDETERMINATE", "UNAVAILABLE"}, words
        assert indeterminate == sum(n for (_, word), n in total.items() if word == "INDETERMINATE")


@pytest.mark.timeout(60)
def test_increments_are_counted_exactly() -> None:
    count_under_lost_replies(SHORT_S)


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_increments_are_counted_exactly_for_a_minute() -> None:
    count_under_lost_replies(SOAK_S)
