"""The suites, by name: each a module with `run(context) -> list[Row]`, imported when it is run."""

from __future__ import annotations

import importlib
from typing import Final

from coherenced.bench.model import Context, Row

SUITES: Final = {
    "resp": "GET hits over the Unix socket, beside Valkey, Redis and memcached",
    "busy": "latency of hits while 10,000 invalidations a second are applied",
    "http": "HTTP hits over the Unix socket, beside a bare aiohttp handler",
    "miss": "reads of keys that are not cached, and how many reads they make upstream",
    "write": "SET, and SET acknowledged by all of 3 nodes",
    "invalidation": "from a write until the last of 3 nodes has dropped, and serves it",
    "apply": "invalidations that one node applies a second",
    "memory": "resident memory, idle and per entry",
    "startup": "how long a daemon takes to be ready, and a command to be done",
    "recovery": "what a cut-off and a drop of many nodes cost Redis, and how long they take",
    "lookup": "hits within the process (L0), beside caches for Python; 1, 2 and 4 processes",
    "eviction": "hit ratio of a full L1, beside libcachesim's policies",
    "scale": "the cost of one more node, lane, key and tag; and of fleets, counted in virtual time",
}
"""Name -> what it measures, in the order in which they run."""


def run(name: str, context: Context) -> list[Row]:
    """Run one suite."""
    module = importlib.import_module(f"coherenced.bench.suites.{name}")
    rows: list[Row] = module.run(context)
    return rows
