"""Resident memory: of an idle node, for each entry that it holds, and while entries come and go.

An entry's share is what the process grew by, divided by the entries: allocator, hash table
and all. The peer is Valkey, which grew by the same keys and values in the same run. How much
of the growth the node's own count (which its bound is about) explains stands beside it.

While the node holds them it is also busy for a while, and every garbage collection in it is
timed: nothing is answered as long as one lasts. One full collection is asked for. At last all
that it holds is invalidated by one prefix, while somebody else asks for a key and waits.

`churn` has a smaller bound and more keys than fit, of all sizes; they are read, written and
invalidated at random, and the process is watched: it must not grow past its bound.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Final

from coherenced.bench.load import fill, key, warm
from coherenced.bench.model import Context, Figure, Row, Target
from coherenced.bench.processes import rss_bytes
from coherenced.bench.rig import LASTING, Rig, wait_until
from coherenced.bench.rounds import Duel, Sample, Wanted, alone, compare
from coherenced.bench.talk import Talk
from coherenced.bench.watched import Collection, collections, command

MIB: Final = 1 << 20
VALUE_BYTES: Final = 100
IDLE_TARGET: Final = Target(60 * MIB, "at most", "ours")
BOUND_TARGET: Final = Target(105, "at most", "ours")
PAUSE_TARGET: Final = Target(5.0, "at most", "ours")
SETTLE_S: Final = 1.0
BATCH: Final = 100
"""Keys that one read of the churn names."""
LARGEST_BYTES: Final = 16_000


def run(context: Context) -> list[Row]:
    """See the module."""
    return [*_held(context), *_churn(context)]


def _held(context: Context) -> list[Row]:
    count = context.amount(1_000_000, 200_000, 10_000)
    with Rig(context.directory) as rig:
        context.say(f"a node, idle and with {count} entries")
        upstream_empty = rss_bytes(rig.server_pid)
        settings = {**LASTING, "l1.max_bytes": 4 << 30}
        pauses = rig.directory / "collections"
        daemon = rig.daemons(1, settings, command(pauses))[0]
        if not context.quick:
            time.sleep(SETTLE_S)
        idle = rss_bytes(daemon.pid)
        with rig.talk_to_server() as upstream, Talk(daemon.socket) as talk:
            fill(upstream, count, VALUE_BYTES)
            upstream_full = rss_bytes(rig.server_pid)
            warm(talk, count)
            full = rss_bytes(daemon.pid)
            held = talk.stats()["l1"]
            since_s = time.monotonic()
            _exercise(talk, Random(7), count, VALUE_BYTES, since_s + context.seconds)
            os.kill(daemon.pid, signal.SIGUSR2)
            wait_until(
                lambda: any(one.generation == 2 for one in collections(pauses, since_s)),
                "a full garbage collection",
            )
            many = talk.stats()["l1"]["entries"]
            waits = _prefix(context, talk, daemon.socket)
        seen = collections(pauses, since_s)
        peer = rig.server_name()
    grown, payload = full - idle, len(key(0)) + VALUE_BYTES
    each = compare(
        f"an entry of {payload} bytes, of {count}: resident",
        "bytes",
        [grown / held["entries"]],
        peer,
        [(upstream_full - upstream_empty) / count],
    )
    return [
        compare("idle node: resident", "bytes", [idle], peer, [upstream_empty], IDLE_TARGET),
        each,
        alone("an entry: beyond key and value", "bytes", [grown / held["entries"] - payload]),
        Row(
            name="an entry: resident, as a share of what the node counts",
            ours=Figure.of("percent", [100 * grown / held["bytes"]]),
            target=BOUND_TARGET,
            note=f"it counts {held['bytes'] / held['entries']:.0f} bytes an entry",
        ),
        _longest(seen, held["entries"]),
        *waits.rows(
            "hits while a prefix of all held keys is invalidated",
            (Wanted("longest", "the longest wait", "ms"), Wanted("p99", "p99", "ms")),
            f"{many:,} keys",
        ),
    ]


def _prefix(context: Context, talk: Talk, socket: Path) -> Duel:
    """How long one who asks for another key waits, at rest and while what is held is looked for."""
    talk.ask("SET", "apart", "x")
    with Talk(socket) as other:
        at_rest = _asked(other, min(1.0, context.seconds))
        talk.ask("COH.INVALIDATE", "PREFIXES", 1, "key:")
        meanwhile = _asked(other, context.seconds)
    return Duel("the same at rest", [meanwhile], [at_rest])


def _asked(talk: Talk, seconds: float) -> Sample:
    """GET after GET of one key that is held."""
    waits, clock = [], time.perf_counter
    now_s = clock()
    until_s = now_s + seconds
    while now_s < until_s:
        talk.ask("GET", "apart")
        before_s, now_s = now_s, clock()
        waits.append((now_s - before_s) * 1e3)
    waits.sort()
    return {"longest": waits[-1], "p99": waits[len(waits) * 99 // 100]}


def _longest(seen: list[Collection], entries: int) -> Row:
    longest = max(one.took_ms for one in seen)
    total = sum(one.took_ms for one in seen)
    counts = [sum(one.generation == age for one in seen) for age in range(3)]
    return Row(
        name=f"the longest garbage collection, {entries} entries held",
        ours=Figure.of("ms", [longest]),
        target=PAUSE_TARGET,
        note=f"of {counts[0]} young, {counts[1]} middle, {counts[2]} full: {total:.1f} ms in all",
    )


def _churn(context: Context) -> list[Row]:
    bound = context.amount(256, 128, 4) * MIB
    seconds = float(context.amount(600, 15, 1))
    with Rig(context.directory) as rig:
        settings = {**LASTING, "l1.max_bytes": bound}
        daemon = rig.daemons(1, settings)[0]
        if not context.quick:
            time.sleep(SETTLE_S)
        idle = rss_bytes(daemon.pid)
        keys = 2 * bound // (LARGEST_BYTES // 2)
        with Talk(daemon.socket) as talk:
            context.say(f"churn of {keys} keys under a bound of {bound >> 20} MiB")
            _store(talk, Random(8), range(keys))
            greatest, before = 0, talk.stats()["l1"]["evictions"]
            random, until_s = Random(9), time.monotonic() + seconds
            while (left_s := until_s - time.monotonic()) > 0:
                context.say(f"churn: {left_s:.0f} s to go")
                pause_s = time.monotonic() + min(1.0, left_s)
                _exercise(talk, random, keys, LARGEST_BYTES, pause_s)
                greatest = max(greatest, rss_bytes(daemon.pid))
            after = talk.stats()["l1"]
        evicted = after["evictions"] - before
    return [
        Row(
            name=f"churn for {seconds:.0f} s: greatest growth, as a share of the bound",
            ours=Figure.of("percent", [100 * (greatest - idle) / bound]),
            target=BOUND_TARGET,
            note=f"bound {bound >> 20} MiB, full with {after['entries']} entries; "
            f"{evicted} were evicted meanwhile",
        )
    ]


def _exercise(talk: Talk, random: Random, keys: int, largest: int, until_s: float) -> None:
    """Reads (two thirds of them of a tenth of the keys), writes and invalidations, until then."""
    while time.monotonic() < until_s:
        often = [random.randrange(keys // 10 + 1) for _ in range(2 * BATCH // 3)]
        seldom = [random.randrange(keys) for _ in range(BATCH // 3)]
        talk.ask("MGET", *map(key, often + seldom))
        _store(talk, random, (random.randrange(keys) for _ in range(5)), largest)
        doomed = [key(random.randrange(keys)) for _ in range(5)]
        talk.ask("COH.INVALIDATE", "KEYS", len(doomed), *doomed)


def _store(
    talk: Talk, random: Random, numbers: Iterable[int], largest: int = LARGEST_BYTES
) -> None:
    """Write values of all lengths, some at once."""
    waiting = 0
    for number in numbers:
        talk.send("SET", key(number), b"x" * random.randint(1, largest))
        waiting += 1
        if waiting == BATCH:
            for _ in range(waiting):
                talk.receive()
            waiting = 0
    for _ in range(waiting):
        talk.receive()
