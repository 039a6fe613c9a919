"""GET hits over the Unix socket: one node, beside Valkey on the same kind of socket.

The same client loads both. Values have 100 bytes (other sizes with --full); the keys are
1,000, read at random, all held by the node before it is measured. The CPU time of a
request is the steadier figure on a busy machine.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from coherenced.bench.load import Load, Loader, Place, Sides, fill, rows_of, warm
from coherenced.bench.model import Context, Row, Target, at_least, at_most
from coherenced.bench.rig import LASTING, Rig
from coherenced.bench.talk import Talk

PIPELINE: Final = 16
TARGETS: Final[dict[tuple[int, int], Target]] = {
    (50, 1): at_least(1.0),
    (50, PIPELINE): at_least(0.6),
}
"""Of the rate, by connections and pipelining."""
TAIL_TARGET: Final = at_most(2.0)
SIZES: Final = (100, 1024, 16 * 1024, 64 * 1024)


def run(context: Context) -> list[Row]:
    """See the module."""
    rows = []
    with Rig(context.directory) as rig:
        daemon = rig.daemons(1, LASTING)[0]
        loader = Loader(rig.directory)
        sides = Sides(
            Place(daemon.socket, daemon.pid),
            rig.server_name(),
            Place(rig.server.socket, rig.server_pid),
        )
        for value_bytes in SIZES if context.full else SIZES[:1]:
            with rig.talk_to_server() as upstream, Talk(daemon.socket) as talk:
                fill(upstream, Load().keys, value_bytes)
                talk.ask("COH.INVALIDATE", "ALL")  # they were written past the daemon
                warm(talk, Load().keys)
            for load in loads(context, value_bytes):
                context.say(describe(load))
                found = sides.duel(
                    context.rounds, partial(loader.run, load=load, seconds=context.round_s)
                )
                target = TARGETS.get((load.connections, load.pipeline))
                rows += rows_of(found, describe(load), loader.name, target, TAIL_TARGET)
    return rows


def loads(context: Context, value_bytes: int) -> list[Load]:
    """Every load that is measured with values of this size."""
    counts = (50,) if context.quick else (1, 10, 50, 200) if context.full else (1, 50)
    return [
        Load(connections=connections, pipeline=pipeline, value_bytes=value_bytes)
        for pipeline in (1, PIPELINE)
        for connections in counts
    ]


def describe(load: Load) -> str:
    """`GET, 50 connections, pipelined by 16, 1024-byte values`."""
    words = [load.verb, f"{load.connections} connection{'s' * (load.connections > 1)}"]
    if load.pipeline > 1:
        words.append(f"pipelined by {load.pipeline}")
    if load.value_bytes != Load().value_bytes:
        words.append(f"{load.value_bytes}-byte values")
    return ", ".join(words)
