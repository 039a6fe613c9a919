"""Hit ratio: which entries L1 keeps when it is full, beside the policies of libcachesim.

Each trace is replayed through the real L1 and through each policy, all with room for a tenth
of the keys. The peer of a row is whichever policy was best on that trace. libcachesim ships no
recorded traces; what it generates (Zipf, uniform) is among these.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from random import Random
from statistics import mean
from typing import Any, Final

from coherenced.bench.bare import entry, joined_node
from coherenced.bench.load import key
from coherenced.bench.model import Context, Row, at_least, missing
from coherenced.bench.rounds import compare

KEYS: Final = 10_000
ROOM: Final = KEYS // 10
POLICIES: Final = ("LRU", "LFU", "ARC", "S3FIFO", "Sieve", "WTinyLFU")
TARGET: Final = at_least(0.99)
LRU_TARGET: Final = at_least(1.0)
LRU_IS_BEST: Final = 0.002
"""Nobody is better than LRU by more than this share of the requests: there it is optimal."""
HASH_POWER: Final = 16
"""2 to this power cells in a policy's hash table; its default takes 128 MiB."""


def run(context: Context) -> list[Row]:
    """See the module."""
    length = context.amount(1_000_000, 50_000, 5_000)
    try:
        library = importlib.import_module("libcachesim")
    except ImportError:
        return [missing("hit ratio", "libcachesim")]
    rows, ours, best_ones, beside_lru = [], [], [], {}
    for name, trace in TRACES.items():
        context.say(f"hit ratio: {name}")
        requests = list(islice(trace(), length))
        replayed = _ours(requests)
        others = {policy: _theirs(library, policy, requests) for policy in POLICIES}
        best = max(others, key=others.__getitem__)
        if others["LRU"] < others[best] - LRU_IS_BEST:
            beside_lru[name] = replayed, others["LRU"]
        if name in AVERAGED:
            ours.append(replayed)
            best_ones.append(others[best])
        told = ", ".join(f"{policy} {100 * ratio:.1f} %" for policy, ratio in others.items())
        mine, theirs = 100 * replayed, 100 * others[best]
        rows.append(compare(name, "percent", [mine], f"the best: {best}", [theirs]).noted(told))
    average = [100 * mean(ours)], [100 * mean(best_ones)]
    rows.append(
        compare(
            f"on average of the first {len(ours)}",
            "percent",
            average[0],
            "the best of each",
            average[1],
            TARGET,
        )
    )
    if beside_lru:
        worst = min(
            beside_lru, key=lambda name: beside_lru[name][0] / (beside_lru[name][1] or 1e-9)
        )
        mine, lru = beside_lru[worst]
        label = f"where LRU comes closest: {worst}"
        row = compare(label, "percent", [100 * mine], "LRU", [100 * lru], LRU_TARGET)
        left_out = ", ".join(name for name in TRACES if name not in beside_lru)
        rows.append(row.noted(f"LRU is the best of the peers, or as good: {left_out}"))
    return rows


def _ours(requests: Sequence[int]) -> float:
    value = b"x" * 100
    node = joined_node()
    node = joined_node(l1_max_bytes=ROOM * entry(node, key(0), value).size)
    put, hit = node.l1.put, node.hit
    hits = 0
    for number in requests:
        name = key(number)
        if hit(name, 0.0) is not None:
            hits += 1
        else:
            put(entry(node, name, value))
    return hits / len(requests)


def _theirs(library: Any, policy: str, requests: Sequence[int]) -> float:
    cache = getattr(library, policy)(ROOM, hashpower=HASH_POWER)
    request = library.Request()
    request.obj_size = 1
    hits = 0
    for number in requests:
        request.obj_id = number
        hits += cache.get(request)
    return hits / len(requests)


# -- the traces ----------------------------------------------------------------------------


def _zipf(alpha: float) -> Iterator[int]:
    """Keys of which few are asked for often, always the same sequence."""
    random, keys = Random(7), range(KEYS)
    weights = list(accumulate(1 / (rank + 1) ** alpha for rank in keys))
    while True:
        yield from random.choices(keys, cum_weights=weights, k=1000)


def _scanned() -> Iterator[int]:
    """Zipf 1.0, and every 2,000 requests a scan of 1,000 keys that are asked for once."""
    often, once = _zipf(1.0), KEYS
    while True:
        yield from islice(often, 2000)
        yield from range(once, once + 1000)
        once += 1000


def _uniform() -> Iterator[int]:
    """Every key as likely as every other: no policy can do better than another."""
    random = Random(7)
    while True:
        yield random.randrange(KEYS)


def _shifting() -> Iterator[int]:
    """Zipf 1.0, but of other keys every 10,000 requests."""
    often, first = _zipf(1.0), 0
    while True:
        for number in islice(often, 10_000):
            yield (number + first) % KEYS
        first += KEYS // 3


def _loop() -> Iterator[int]:
    """The same keys in the same order, a fifth more than there is room for."""
    while True:
        yield from range(ROOM + ROOM // 5)


TRACES: Final[dict[str, Callable[[], Iterator[int]]]] = {
    "Zipf 0.8": lambda: _zipf(0.8),
    "Zipf 1.0": lambda: _zipf(1.0),
    "Zipf 1.2": lambda: _zipf(1.2),
    "Zipf 1.0 with scans": _scanned,
    "a loop": _loop,
    "Zipf 1.0, shifting": _shifting,
    "uniform": _uniform,
}
"""By name."""
AVERAGED: Final = tuple(name for name in TRACES if name not in ("Zipf 1.0, shifting", "uniform"))
"""The others are shown beside them: one is LRU's own ground, on the other no choice matters."""
