"""Hits within the process: no socket, one key at a time; and how fast they go stale elsewhere.

Ours is `Client.get` of a copy in L0, proved from the shared page of a real daemon, and given
to the caller so that nobody can spoil it for the next. Peers are the caches that a Python
program would use instead: they prove nothing, but for redis-py's client-side cache, which is
told of changes; and what a read costs that asks Redis itself. Then the same by 1, 2 and 4
processes at once, and how long after one process has written the others see it. Last, the
look-up of the daemon's own L1, beside a dict.

A hit is compiled where the package was built so (`client.hits`); the rows say when it is not. What
it costs in Python is measured too, by a process of its own, since a process has but one form.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from coherenced.bench.bare import entry, joined_node
from coherenced.bench.load import fill, key, shuffled
from coherenced.bench.model import Context, Row, Target, at_most, missing
from coherenced.bench.peers import asking, tracking
from coherenced.bench.processes import Program
from coherenced.bench.rig import LASTING, Rig
from coherenced.bench.rounds import (
    Sample,
    Wanted,
    alone,
    compare,
    contest,
    duel,
    latencies,
    look_ups,
)
from coherenced.client.hits import NATIVE, OFF
from coherenced.client.sync import Client
from coherenced.errors import CommandError
from coherenced.lab.daemon import Daemon

KEYS: Final = 1000
VALUE: Final = b"x" * 256
SMALL: Final = {"id": 42, "name": "Ada Lovelace", "mail": "ada@example.org", "score": 1.5}
NESTED: Final = {**SMALL, "tags": ["a", "b"], "address": {"city": "London"}}
PROCESSES: Final = (1, 2, 4)
SEEN: Final = 200
"""Writes whose way to another process is timed."""
PAUSE_S: Final = 0.0001
"""Between two reads of one of several who watch."""
PURE: Final = {OFF: "1"}
"""In the environment of a process whose hits are to be in Python."""
FORM: Final = {} if NATIVE else PURE
"""For processes that are to do as this one does."""
NOTE: Final = "" if NATIVE else "in Python: hits are not compiled"
LEAD_S: Final = 1.5
"""How long processes may take to start before they begin together."""

Look = Callable[[bytes], Any]


def run(context: Context) -> list[Row]:
    """See the module."""
    names = [key(number) for number in shuffled(KEYS)]
    with Rig(context.directory) as rig:
        fill_server(rig)
        daemon = rig.daemons(1, LASTING)[0]
        with Client(daemon.socket) as cache:
            rows = _beside(context, rig, cache, names)
            rows += _objects(context, cache)
            rows += _in_python(context, rig, daemon, cache)
        rows += _several(context, rig, daemon)
        rows += _seen(context, rig, daemon)
    return rows + _core(context, names)


def fill_server(rig: Rig) -> None:
    with rig.talk_to_server() as talk:
        fill(talk, KEYS, len(VALUE))


def _turn(look: Look, names: list[bytes], seconds: float) -> Sample:
    return {"each": look_ups(look, names, seconds)}


def _beside(context: Context, rig: Rig, cache: Client, names: list[bytes]) -> list[Row]:
    """One hit of ours beside one of each peer, in turns."""
    seconds = context.seconds / (len(PEERS) * context.rounds)
    few = names[:50]  # what asks over a socket need not go through all of them in a turn
    turns: dict[str, Callable[[], Sample]] = {}
    absent: list[Row] = []
    for package, prepare in PEERS.items():
        try:
            turns[package] = partial(_turn, prepare(names, context.directory), names, seconds)
        except ImportError:
            absent.append(
                missing(_titled(package), MODULES.get(package, package.partition(".")[0]))
            )
    turns["redis-py, client-side cache"] = partial(
        _turn, tracking(rig.server.socket, few), few, seconds
    )
    turns["redis-py over a Unix socket"] = partial(_turn, asking(rig.server.socket), few, seconds)
    for name in turns:
        context.say(_titled(name))
    hold(cache, names)
    rows: list[Row] = []
    for found in contest(context.rounds, partial(_turn, cache.get, names, seconds), turns):
        wanted = Wanted("each", "", "µs", TARGETS.get(found.peer))
        rows += found.rows(_titled(found.peer), [wanted], NOTE)
    return rows + absent


def _titled(peer: str) -> str:
    return f"a hit, beside {peer}"


def hold(cache: Client, names: list[bytes]) -> None:
    """Read until this process holds them all."""
    for _ in range(10):
        for name in names:
            cache.get(name)
        if cache.stats()["l0"]["entries"] >= len(names):
            return
    raise CommandError("the client keeps no copies: is this processor supported?")


def _objects(context: Context, cache: Client) -> list[Row]:
    """What it costs to give each caller an object of its own."""
    seconds = context.seconds / (4 * context.rounds)
    rows = []
    for what, value, target in (
        ("a hit on 256 bytes", VALUE, HALF_A_MICROSECOND),
        ("a hit on a small dict, copied", SMALL, HALF_A_MICROSECOND),
        ("a hit on a nested dict, decoded anew", NESTED, None),
    ):
        context.say(what)
        name = b"object"
        cache.set("object", value)
        while cache.get_entry(name).source != "l0":
            pass
        names = [name] * 1000
        samples = [look_ups(cache.get, names, seconds) for _ in range(context.rounds)]
        rows.append(alone(what, "µs", samples, target).noted(NOTE))
    return rows


def _in_python(context: Context, rig: Rig, daemon: Daemon, cache: Client) -> list[Row]:
    """The same hits where there was no compiler, if there was one here."""
    if not NATIVE:
        return []
    values = {"256 bytes": VALUE, "a small dict, copied": SMALL}
    context.say("hits in Python")
    for what, value in values.items():
        cache.set(what, value)
    spec = {
        "do": "time",
        "socket": str(daemon.socket),
        "keys": [*values],
        "seconds": context.seconds / (4 * context.rounds),
        "rounds": context.rounds,
    }
    with Program("holder", spec, rig.log, PURE) as holder:
        return [alone(f"in Python: a hit on {what}", "µs", holder.hear()) for what in values]


# -- several processes -----------------------------------------------------------------------------


def _several(context: Context, rig: Rig, daemon: Daemon) -> list[Row]:
    """All processes together, as a multiple of what one reads alone."""
    counts = PROCESSES[:2] if context.quick else PROCESSES
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(min(context.rounds, 3)):
        for count in counts:
            context.say(f"{count} reading processes")
            rates[count].append(_together(rig, daemon, count, min(context.seconds, 1.0)))
    rows = [alone("1 process: hits", "/s", rates[1])]
    for count in counts[1:]:
        name = f"{count} processes: hits together"
        rows.append(compare(name, "/s", rates[count], "one process", rates[1]))
    return rows


def _together(rig: Rig, daemon: Daemon, count: int, seconds: float) -> float:
    spec = {
        "do": "read",
        "socket": str(daemon.socket),
        "keys": KEYS,
        "seconds": seconds,
        "begin_s": time.monotonic() + LEAD_S,
    }
    readers = [Program("holder", spec, rig.log, FORM) for _ in range(count)]
    try:
        return float(sum(reader.hear() for reader in readers))
    finally:
        for reader in readers:
            reader.stop()


def _seen(context: Context, rig: Rig, daemon: Daemon) -> list[Row]:
    """From before one process writes until others, that held the old value, read the new: one
    that reads all the time; and three, with a pause between since they share the cores."""
    one = _until_seen(context, rig, daemon, 1, 0.0)
    rows = _percentiles("written by one process until read by another", one)
    if context.quick:
        return rows
    three = _until_seen(context, rig, daemon, 3, PAUSE_S)
    return rows + _percentiles("written by one of 4 processes until read by the other 3", three)


def _percentiles(title: str, samples: dict[str, list[float]]) -> list[Row]:
    return [alone(f"{title}: {name}", "ms", samples[name]) for name in samples]


def _until_seen(
    context: Context, rig: Rig, daemon: Daemon, readers: int, pause_s: float
) -> dict[str, list[float]]:
    """p50 and p99 of each round, in ms."""
    context.say(f"an update seen by {readers} other process{'es' * (readers > 1)}")
    spec = {"do": "watch", "socket": str(daemon.socket), "pause_s": pause_s}
    samples: dict[str, list[float]] = {"p50": [], "p99": []}
    with Client(daemon.socket, l0=False) as cache, ExitStack() as last:
        cache.set("seen", 0)
        holders = (Program("holder", spec, rig.log, FORM) for _ in range(readers))
        watchers = [last.enter_context(holder) for holder in holders]
        number = max(watcher.hear()["value"] for watcher in watchers)
        for _ in range(context.rounds):
            took_ms = []
            for _ in range(context.times(SEEN // context.rounds, 5)):
                time.sleep(0.002)  # they hold a copy again
                number += 1
                before_s = time.monotonic()
                cache.set("seen", number)
                heard_s = max(watcher.hear()["at_s"] for watcher in watchers)
                took_ms.append((heard_s - before_s) * 1e3)
            for name, value in latencies(took_ms).items():
                samples[name].append(value)
    return samples


# -- the core ------------------------------------------------------------------------------------


def _core(context: Context, names: list[bytes]) -> list[Row]:
    seconds = context.seconds / (8 * context.rounds)
    ours = partial(_turn, _core_hit(names), names, seconds)
    theirs = partial(_turn, _dict(names, context.directory), names, seconds)
    found = duel(context.rounds, ours, "dict", theirs)
    return found.rows("the daemon's own look-up, beside dict", [Wanted("each", "", "µs")])


def _core_hit(names: list[bytes]) -> Look:
    node = joined_node()
    for name in names:
        node.l1.put(entry(node, name, VALUE))
    hit, clock = node.hit, time.monotonic

    def look(name: bytes) -> object:
        return hit(name, clock())

    assert look(names[0]) is not None
    return look


# -- the peers -----------------------------------------------------------------------------------


def _dict(names: list[bytes], directory: Path) -> Look:
    return dict.fromkeys(names, VALUE).__getitem__


def _lru_dict(names: list[bytes], directory: Path) -> Look:
    cache = importlib.import_module("lru").LRU(2 * len(names))
    for name in names:
        cache[name] = VALUE
    look: Look = cache.__getitem__
    return look


def _cachetools(kind: str, names: list[bytes], directory: Path) -> Look:
    made = getattr(importlib.import_module("cachetools"), kind)
    cache = made(2 * len(names), 3600) if kind == "TTLCache" else made(2 * len(names))
    for name in names:
        cache[name] = VALUE
    look: Look = cache.__getitem__
    return look


def _theine(names: list[bytes], directory: Path) -> Look:
    cache = importlib.import_module("theine").Cache(2 * len(names))
    for name in names:
        cache.set(name, VALUE)
    look: Look = cache.get
    return look


def _lmdb(names: list[bytes], directory: Path) -> Look:
    environment = importlib.import_module("lmdb").open(mkdtemp(dir=directory))
    with environment.begin(write=True) as transaction:
        for name in names:
            transaction.put(name, VALUE)

    def look(name: bytes) -> object:
        with environment.begin(buffers=True) as transaction:
            return transaction.get(name)

    return look


PEERS: Final[dict[str, Callable[[list[bytes], Path], Look]]] = {
    "dict": _dict,
    "lru-dict": _lru_dict,
    "cachetools.LRUCache": partial(_cachetools, "LRUCache"),
    "cachetools.TTLCache": partial(_cachetools, "TTLCache"),
    "theine": _theine,
    "lmdb": _lmdb,
}
MODULES: Final = {"lru-dict": "lru"}
HALF_A_MICROSECOND: Final = Target(0.5, "at most", "ours")
TARGETS: Final = {
    "cachetools.TTLCache": at_most(1 / 2),
    "theine": at_most(1 / 2),
    "lmdb": at_most(1 / 2),
    "redis-py, client-side cache": at_most(1 / 40),
    "redis-py over a Unix socket": at_most(1 / 100),
}
