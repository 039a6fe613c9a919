"""GET hits over the Unix socket: one node, beside the servers that a user could ask instead.

Valkey (always), Redis and memcached (where they are installed) on the same kind of socket,
in the same rounds. Values have 100 bytes (other sizes with --full); the keys are 1,000, read
at random, all held by the node before it is measured. The CPU time of a request is the
steadier figure on a busy machine.

Rates are loaded by redis-benchmark where there is one: it takes the least from those it
measures. Latencies up to p99.9, and memcached, are by our own generator, for all alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

import msgspec

from coherenced.bench.load import GENERATOR, Load, Loader, Place, fill, rows_of, warm
from coherenced.bench.model import Context, Row, Target, at_least, at_most, skipped
from coherenced.bench.rig import LASTING, Daemon, Rig
from coherenced.bench.rivals import PROGRAMS, Rival, executable
from coherenced.bench.rounds import Sample, contest
from coherenced.bench.talk import Talk

PIPELINE: Final = 16
TARGETS: Final[dict[tuple[int, int], Target]] = {
    (50, 1): at_least(1.0),
    (50, PIPELINE): at_least(0.8),
}
"""Of the rate beside Valkey, by connections and pipelining, of small values."""
TAIL_TARGET: Final = at_most(2.0)
"""Of p99.9 beside Valkey's."""
SIZES: Final = (100, 1024, 16 * 1024, 64 * 1024)


def run(context: Context) -> list[Row]:
    """See the module."""
    rows: list[Row] = []
    with Rig(context.directory) as rig, ExitStack() as last:
        daemon = rig.daemons(1, LASTING)[0]
        rivals, absent = start_rivals(rig, last)
        loaders = [Loader(rig.directory)]
        if loaders[0].name != GENERATOR:
            loaders.append(Loader(rig.directory, ""))
        for value_bytes in SIZES if context.full else SIZES[:1]:
            prepare(rig, daemon, rivals, value_bytes)
            for loader in loaders:
                again = loader is not loaders[0]
                for load in loads(context, value_bytes, again):
                    rows += _measure(context, rig, daemon, rivals, loader, load, again)
    return [*rows, *absent]


def start_rivals(rig: Rig, last: ExitStack) -> tuple[list[Rival], list[Row]]:
    """Those that are installed, and a row for each that is not."""
    rivals, absent = [], []
    for program, name in PROGRAMS.items():
        where = executable(program)
        if where is None:
            absent.append(skipped(f"GET beside {name}", f"{program} is not installed"))
        else:
            rivals.append(last.enter_context(Rival(program, where, rig.directory)))
    return rivals, absent


def prepare(rig: Rig, daemon: Daemon, rivals: Sequence[Rival], value_bytes: int) -> None:
    """Have everybody hold the same."""
    with rig.talk_to_server() as upstream, Talk(daemon.socket) as talk:
        fill(upstream, Load().keys, value_bytes)
        talk.ask("COH.INVALIDATE", "ALL")  # they were written past the daemon
        warm(talk, Load().keys)
    for rival in rivals:
        rival.fill(Load().keys, value_bytes)


def _measure(
    context: Context,
    rig: Rig,
    daemon: Daemon,
    rivals: Sequence[Rival],
    loader: Loader,
    load: Load,
    again: bool,
) -> list[Row]:
    """`again`: another client has measured the rates already."""
    name = describe(load) + (", our generator" if again else "")
    context.say(name)

    def turn(place: Place, load: Load) -> Sample:
        return loader.run(place, load, context.round_s)

    server = rig.server_name()
    peers = {server: partial(turn, Place(rig.server.socket, rig.server_pid), load)}
    for rival in rivals:
        spoken = load
        if rival.program == "memcached":
            spoken = msgspec.structs.replace(load, dialect="memcached")
        if spoken is load or loader.name == GENERATOR:
            peers[rival.name] = partial(turn, rival.place, spoken)
    ours = partial(turn, Place(daemon.socket, daemon.pid), load)
    rows: list[Row] = []
    for found in contest(context.rounds, ours, peers):
        rate = tail = None
        if found.peer == server and load.value_bytes == Load().value_bytes:
            tail = TAIL_TARGET
            if not again:
                rate = TARGETS.get((load.connections, load.pipeline))
        rows += rows_of(found, name, loader.name, rate, tail)
    return rows


def loads(context: Context, value_bytes: int, again: bool) -> list[Load]:
    """Every load that is measured with values of this size."""
    counts = (1, 10, 50, 200) if context.full else (50,) if context.quick or again else (1, 50)
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
