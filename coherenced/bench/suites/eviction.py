"""Hit ratio: which entries L1 keeps when it is full, beside the policies of libcachesim.

Each trace is replayed through the real L1 and through each policy, all with room for a tenth
of the keys. The peer of a row is whichever policy was best on that trace.
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
HASH_POWER: Final = 16
"""2 to this power cells in a policy's hash table; its default takes 128 MiB."""


def run(context: Context) -> list[Row]:
    """See the module."""
    length = context.amount(1_000_000, 50_000, 5_000)
    try:
        library = importlib.import_module("libcachesim")
    except ImportError:
        return [missing("hit ratio", "libcachesim")]
    rows, ours, best_ones = [], [], []
    for name, trace in TRACES.items():
        context.say(f"hit ratio: {name}")
        requests = list(islice(trace(), length))
        ours.append(_ours(requests))
        others = {policy: _theirs(library, policy, requests) for policy in POLICIES}
        best = max(others, key=others.__getitem__)
        best_ones.append(others[best])
        told = ", ".join(f"{policy} {100 * ratio:.1f} %" for policy, ratio in others.items())
        mine, theirs = 100 * ours[-1], 100 * others[best]
        rows.append(compare(name, "percent", [mine], f"the best: {best}", [theirs]).noted(told))
    average = [100 * mean(ours)], [100 * mean(best_ones)]
    rows.append(
        compare("on average", "percent", average[0], "the best of each", average[1], TARGET)
    )
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
}
