"""The look-up behind a hit, in this process: no socket, no event loop, one key at a time.

Ours finds the entry, proves it current and looks at its deadline. Peers are the caches that
a Python program would use instead; they prove nothing.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from coherenced.bench.bare import entry, joined_node
from coherenced.bench.load import key, shuffled
from coherenced.bench.model import Context, Row, missing
from coherenced.bench.rounds import Sample, Wanted, duel

KEYS: Final = 1000
VALUE: Final = b"x" * 256
Look = Callable[[bytes], Any]


def run(context: Context) -> list[Row]:
    """See the module."""
    names = [key(number) for number in shuffled(KEYS)]
    seconds = context.seconds / (2 * len(PEERS) * context.rounds)
    ours = partial(_turn, _ours(names), names, seconds)
    rows = []
    for package, prepare in PEERS.items():
        name = f"a hit, beside {package}"
        context.say(name)
        try:
            look = prepare(names, context.directory)
        except ImportError:
            rows.append(missing(name, package.partition(".")[0]))
            continue
        found = duel(context.rounds, ours, package, partial(_turn, look, names, seconds))
        rows += found.rows(name, [Wanted("each", "", "µs")])
    return rows


def _turn(look: Look, names: list[bytes], seconds: float) -> Sample:
    """Microseconds of one look-up, the loop around it counted."""
    rounds, clock = 0, time.perf_counter
    started_s = now_s = clock()
    while now_s - started_s < seconds:
        for name in names:
            look(name)
        rounds += 1
        now_s = clock()
    return {"each": (now_s - started_s) / (rounds * len(names)) * 1e6}


def _ours(names: list[bytes]) -> Look:
    node = joined_node()
    for name in names:
        node.l1.put(entry(node, name, VALUE))
    hit, clock = node.hit, time.monotonic

    def look(name: bytes) -> object:
        return hit(name, clock())

    assert look(names[0]) is not None
    return look


# -- the peers -----------------------------------------------------------------------------


def _dict(names: list[bytes], directory: Path) -> Look:
    return dict.fromkeys(names, VALUE).__getitem__


def _ttl_cache(names: list[bytes], directory: Path) -> Look:
    cache = importlib.import_module("cachetools").TTLCache(2 * len(names), 3600)
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
    "cachetools.TTLCache": _ttl_cache,
    "theine": _theine,
    "lmdb": _lmdb,
}
