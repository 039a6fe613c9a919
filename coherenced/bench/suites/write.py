"""Writes: SET through a node beside SET on Valkey, and writes that all of 3 nodes acknowledge.

A write through a node is one atomic script that also appends to the log and publishes. With
`ACK all` the reply comes when every node has dropped the key: nothing can be faster than
the message there and the acknowledgement back, so the peer is a bare pub/sub round trip
between two processes, by redis-py.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from coherenced.bench.load import Load, Loader, Place, Sides, rows_of
from coherenced.bench.model import Context, Row, at_least, at_most
from coherenced.bench.peers import Echo
from coherenced.bench.rig import Daemon, Rig
from coherenced.bench.rounds import Sample, Wanted, duel, latencies
from coherenced.bench.suites.resp import describe
from coherenced.bench.talk import Talk

NODES: Final = 3
SET_TARGET: Final = at_least(0.4)
ALL_TARGET: Final = at_most(3.0)
ROUND_TRIP: Final = "a redis-py pub/sub round trip"


def run(context: Context) -> list[Row]:
    """See the module."""
    with Rig(context.directory) as rig:
        first = rig.daemons(1)[0]
        rows = _sets(context, rig, first)
        peer = rig.program("peers", {"peer": "echo", "with": [str(rig.server.socket)]})
        rig.daemons(NODES - 1)
        peer.hear()
        return rows + _acknowledged(context, rig, first)


def _sets(context: Context, rig: Rig, daemon: Daemon) -> list[Row]:
    loader = Loader(rig.directory)
    sides = Sides(
        Place(daemon.socket, daemon.pid),
        rig.server_name(),
        Place(rig.server.socket, rig.server_pid),
    )
    rows = []
    for connections in (50,) if context.quick else (1, 50):
        load = Load(verb="SET", connections=connections)
        context.say(describe(load))
        turn = partial(loader.run, load=load, seconds=context.round_s)
        found = sides.duel(context.rounds, turn)
        target = SET_TARGET if connections == 50 else None
        rows += rows_of(found, describe(load), loader.name, target)
    return rows


def _acknowledged(context: Context, rig: Rig, daemon: Daemon) -> list[Row]:
    name = f"COH.SET ACK all, {NODES} nodes"
    context.say(name)
    with Echo(rig.server.socket) as echo, Talk(daemon.socket) as talk:
        _write(talk)  # of a new log, `all` is believed only after one staleness bound
        found = duel(
            context.rounds,
            partial(_writes, talk, context.round_s),
            ROUND_TRIP,
            partial(round_trips, echo, context.round_s),
        )
    wanted = (Wanted("p50", "p50", "ms", ALL_TARGET), Wanted("p99", "p99", "ms"))
    return found.rows(name, wanted, "one write after the other")


def _writes(talk: Talk, seconds: float) -> Sample:
    took_ms: list[float] = []
    until_s = time.perf_counter() + seconds
    while not took_ms or time.perf_counter() < until_s:
        started_s = time.perf_counter()
        _write(talk)
        took_ms.append((time.perf_counter() - started_s) * 1e3)
    return latencies(took_ms)


def _write(talk: Talk) -> None:
    talk.ask("COH.SET", "bench:acknowledged", b"x" * 100, "ACK", "all")


def round_trips(echo: Echo, seconds: float) -> Sample:
    """As many as there are in so many seconds, one after the other."""
    took_ms: list[float] = []
    until_s = time.perf_counter() + seconds
    while not took_ms or time.perf_counter() < until_s:
        took_ms.append(echo.round_trip_ms())
    return latencies(took_ms)
