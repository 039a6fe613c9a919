"""What it costs Redis when many nodes, each with many hot entries, lose it and come back.

`cut off`: every bus connection is killed while writes go on. The nodes catch up from the log
and keep what they hold; the peer is what the same nodes would read if they threw their caches
away, as a client does that flushes on reconnect: every entry, once a node.

`dropped`: the log is replaced by another one (its metadata is deleted), so that every node must
drop everything, and each is asked for all of it at once. Reads of Redis in the busiest tenth of
a second; the peer is the same with the budget of the refill switched off.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from coherenced.bench.load import fill, key, warm
from coherenced.bench.model import Context, Figure, Row, at_most
from coherenced.bench.processes import cpu_s
from coherenced.bench.rig import LASTING, Daemon, Rig, wait_until
from coherenced.bench.rounds import compare
from coherenced.bench.talk import Talk, values_read
from coherenced.errors import CommandError

VALUE_BYTES: Final = 100
WRITES: Final = 200
"""Made while the bus is down; each drops one hot entry on every node."""
MARKER: Final = "bench:marker"
META: Final = "coh:{0}:meta"
WINDOW_S: Final = 0.1
WITHOUT: Final = "a flush of every node"
UNBOUND: Final = "without a budget"
MULTIPLIED: Final = at_most(0.05)


class Refilled(NamedTuple):
    """One refill after a drop."""

    peak_per_s: float
    seconds: float
    redis_share: float
    """Of a core, in the busiest tenth of a second."""


def run(context: Context) -> list[Row]:
    """See the module."""
    nodes = context.amount(8, 4, 2)
    entries = context.amount(100_000, 10_000, 1_200)
    what = f"{nodes} nodes, {entries} hot entries each"
    settings = {**LASTING, "l1.max_bytes": 1 << 30, "redis.log_length": 10_000}
    with Rig(context.directory) as rig:
        context.say(f"{what}: cut off, and back")
        talks = _warmed(rig, rig.daemons(nodes, settings), entries)
        took_ms, reads, from_log, kept = _cut_off(rig, talks, entries)
        context.say(f"{what}: dropped, and refilled")
        budgeted = _dropped(rig, talks, entries)
    with Rig(context.directory) as rig:
        context.say(f"{what}: dropped, and refilled without a budget")
        daemons = rig.daemons(nodes, {**settings, "l1.refill_keys_per_s": 0})
        unbound = _dropped(rig, _warmed(rig, daemons, entries), entries)
    told = f"{from_log} records from the log; {kept:.1%} of the entries were still held after it"
    return [
        Row(
            name=f"{what}: cut off, until all are current and serve from L1",
            ours=Figure.of("ms", [took_ms]),
            note=told,
        ),
        compare(
            "reads of Redis until then",
            "count",
            [reads],
            WITHOUT,
            [nodes * entries],
            MULTIPLIED,
        ),
        compare(
            f"{what}: dropped, reads of Redis at the busiest",
            "/s",
            [budgeted.peak_per_s],
            UNBOUND,
            [unbound.peak_per_s],
        ),
        compare(
            "Redis's core at the busiest",
            "percent",
            [100 * budgeted.redis_share],
            UNBOUND,
            [100 * unbound.redis_share],
        ),
        compare("until all is held again", "s", [budgeted.seconds], UNBOUND, [unbound.seconds]),
    ]


def _warmed(rig: Rig, daemons: Sequence[Daemon], entries: int) -> list[Talk]:
    with rig.talk_to_server() as upstream:
        fill(upstream, entries, VALUE_BYTES)
    talks = [Talk(daemon.socket) for daemon in daemons]
    _at_once(talks, entries)
    return talks


def _at_once(talks: Sequence[Talk], entries: int) -> None:
    """Every node is asked for every key, side by side."""
    failures: list[BaseException] = []

    def ask(talk: Talk) -> None:
        try:
            warm(talk, entries)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=ask, args=(talk,)) for talk in talks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _cut_off(rig: Rig, talks: Sequence[Talk], entries: int) -> tuple[float, int, int, float]:
    """(ms until all are current, keys read of Redis, records read from the log, share kept)."""
    before, log_before = _reads(talks), _from_log(talks)
    with rig.talk_to_server() as upstream:
        for number in range(WRITES):
            if number == WRITES // 4:
                upstream.ask("CLIENT", "KILL", "TYPE", "pubsub")
            talks[0].ask("SET", key(number), "x" * VALUE_BYTES)
        upstream.ask("CLIENT", "KILL", "TYPE", "pubsub")
    began_s = time.perf_counter()
    talks[0].ask("SET", MARKER, "back")
    wait_until(lambda: all(map(_is_back, talks)), "all nodes to be current")
    took_ms = (time.perf_counter() - began_s) * 1e3
    reads, from_log = _reads(talks) - before, _from_log(talks) - log_before
    held = sum(talk.stats()["l1"]["entries"] for talk in talks)
    return took_ms, reads, from_log, min(1.0, held / (len(talks) * entries))


def _is_back(talk: Talk) -> bool:
    with contextlib.suppress(CommandError):
        value, _, source = talk.ask("COH.GET", MARKER, "META")[:3]
        current = value == b"back" and source == b"l1"
        return current and bool(talk.stats()["lanes"][0]["subscribed"])
    return False


def _dropped(rig: Rig, talks: Sequence[Talk], entries: int) -> Refilled:
    drops = [talk.stats()["lanes"][0]["drops"] for talk in talks]
    with rig.talk_to_server() as upstream:
        upstream.ask("DEL", META)
    wait_until(
        lambda: all(
            talk.stats()["lanes"][0]["drops"] > before
            for talk, before in zip(talks, drops, strict=True)
        ),
        "all nodes to drop what they hold",
    )
    samples: list[tuple[float, int, float]] = []
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(rig, samples, done))
    watcher.start()
    began_s = time.perf_counter()
    try:
        _at_once(talks, entries)
        seconds = time.perf_counter() - began_s
    finally:
        done.set()
        watcher.join()
    for talk in talks:
        talk.close()
    pairs = list(itertools.pairwise(samples))
    rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs]
    shares = [(b[2] - a[2]) / (b[0] - a[0]) for a, b in pairs]
    return Refilled(max(rates, default=0.0), seconds, max(shares, default=0.0))


def _watch(rig: Rig, samples: list[tuple[float, int, float]], done: threading.Event) -> None:
    """(when, values read so far, CPU used so far), ten times a second."""
    with rig.talk_to_server() as upstream:
        while True:
            last = done.is_set()
            samples.append((time.perf_counter(), values_read(upstream), cpu_s(rig.server_pid)))
            if last:
                return
            done.wait(WINDOW_S)


def _reads(talks: Sequence[Talk]) -> int:
    tiers = [talk.stats()["l2"] for talk in talks]
    return sum(tier["hits"] + tier["misses"] for tier in tiers)


def _from_log(talks: Sequence[Talk]) -> int:
    return sum(talk.stats()["lanes"][0]["from_log"] for talk in talks)
