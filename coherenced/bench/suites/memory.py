"""Resident memory: of an idle node, and for each entry that it holds.

An entry's share is what the process grew by, divided by the entries: allocator, hash table
and all. The peer is Valkey, which grew by the same keys and values in the same run. How much
of the growth the node's own count (which its bound is about) explains stands beside it.
"""

from __future__ import annotations

import time
from typing import Final

from coherenced.bench.load import fill, warm
from coherenced.bench.model import Context, Figure, Row, Target
from coherenced.bench.processes import rss_bytes
from coherenced.bench.rig import LASTING, Rig
from coherenced.bench.rounds import compare
from coherenced.bench.talk import Talk

MIB: Final = 1 << 20
VALUE_BYTES: Final = 100
IDLE_TARGET: Final = Target(60 * MIB, "at most", "ours")
BOUND_TARGET: Final = Target(105, "at most", "ours")
SETTLE_S: Final = 1.0


def run(context: Context) -> list[Row]:
    """See the module."""
    count = context.amount(1_000_000, 100_000, 10_000)
    with Rig(context.directory) as rig:
        context.say(f"a node, idle and with {count} entries")
        upstream_empty = rss_bytes(rig.server_pid)
        daemon = rig.daemons(1, {**LASTING, "l1.max_bytes": 4 << 30})[0]
        if not context.quick:
            time.sleep(SETTLE_S)
        idle = rss_bytes(daemon.pid)
        with rig.talk_to_server() as upstream, Talk(daemon.socket) as talk:
            fill(upstream, count, VALUE_BYTES)
            upstream_full = rss_bytes(rig.server_pid)
            warm(talk, count)
            full = rss_bytes(daemon.pid)
            held = talk.stats()["l1"]
        peer = rig.server_name()
    grown, payload = full - idle, len("key:000000000000") + VALUE_BYTES
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
        Row(
            name="an entry: resident, as a share of what the node counts",
            ours=Figure.of("percent", [100 * grown / held["bytes"]]),
            target=BOUND_TARGET,
            note=f"it counts {held['bytes'] / held['entries']:.0f} bytes an entry",
        ),
    ]
