"""From a write on one node until the last of 3 nodes no longer serves the old value.

Measured from outside: one client writes on node A and at once reads the key on B and C,
again and again, until both answer with the new value. What that takes includes the write
itself, the message to B and C, and their fetch of the new value. The peer is a bare pub/sub
round trip between two processes, by redis-py, in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Final

from coherenced.bench.model import Context, Row, at_most
from coherenced.bench.peers import Echo
from coherenced.bench.rig import LASTING, Rig
from coherenced.bench.rounds import Sample, Wanted, duel, latencies
from coherenced.bench.suites.write import NODES, ROUND_TRIP, round_trips
from coherenced.bench.talk import Talk
from coherenced.errors import CommandError

TARGET: Final = at_most(2.0)
KEY: Final = "bench:watched"
PATIENCE_S: Final = 5.0


def run(context: Context) -> list[Row]:
    """See the module."""
    name = f"write on A until served by all {NODES} nodes"
    context.say(name)
    with Rig(context.directory) as rig:
        peer = rig.program("peers", {"peer": "echo", "with": [str(rig.server.socket)]})
        talks = [Talk(daemon.socket) for daemon in rig.daemons(NODES, LASTING)]
        peer.hear()
        watch = Watch(talks[0], talks[1:])
        try:
            with Echo(rig.server.socket) as echo:
                found = duel(
                    context.rounds,
                    partial(_turn, watch, context.round_s),
                    ROUND_TRIP,
                    partial(round_trips, echo, context.round_s),
                )
        finally:
            for talk in talks:
                talk.close()
    wanted = (Wanted("p50", "p50", "ms", TARGET), Wanted("p99", "p99", "ms"))
    polls = f"polled {watch.polls / max(1, watch.writes):.1f} times a write"
    return found.rows(name, wanted, polls)


class Watch:
    """Writes on one node, and sees when the others serve it."""

    def __init__(self, writer: Talk, readers: Sequence[Talk]) -> None:
        self._writer = writer
        self._readers = readers
        self._values = count()
        self.writes = 0
        self.polls = 0

    def once_ms(self) -> float:
        """One write: milliseconds until the last reader served it."""
        for reader in self._readers:
            reader.ask("GET", KEY)  # it holds the key now: the write has something to drop
        value = b"%d" % next(self._values)
        started_s = time.perf_counter()
        self._writer.send("SET", KEY, value)
        waiting = list(self._readers)
        while waiting:
            for reader in waiting:
                reader.send("GET", KEY)
            waiting = [reader for reader in waiting if reader.receive() != value]
            seen_s = time.perf_counter()
            self.polls += 1
            if seen_s - started_s > PATIENCE_S:
                raise CommandError(f"a write was not seen everywhere within {PATIENCE_S:g} s")
        self._writer.receive()
        self.writes += 1
        return (seen_s - started_s) * 1e3


def _turn(watch: Watch, seconds: float) -> Sample:
    took_ms = []
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        took_ms.append(watch.once_ms())
    return latencies(took_ms)
