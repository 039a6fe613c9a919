"""From a write on one node until the last of 3 nodes has dropped, or serves, what it changed.

`dropped`: the write asks for the acknowledgement of all, so its reply says that every node has
dropped the old value: measured at the writer, the way back included.

`served`: measured from outside. One client writes on node A and at once reads the key on B and
C, again and again, until both answer with the new value: that includes their fetch of it, and
the load of being asked all the time.

All three nodes hold the key before each write. The peer is a bare pub/sub round trip between
two processes, by redis-py, in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
    with Rig(context.directory) as rig:
        peer = rig.program("peers", {"peer": "echo", "with": [str(rig.server.socket)]})
        talks = [Talk(daemon.socket) for daemon in rig.daemons(NODES, LASTING)]
        peer.hear()
        watch = Watch(talks[0], talks[1:])
        watch.until_dropped_ms()  # of a new log, `all` is believed only after one staleness bound
        try:
            with Echo(rig.server.socket) as echo:
                dropped = _measure(context, "dropped by", watch.until_dropped_ms, echo)
                served = _measure(context, "served by", watch.until_served_ms, echo)
        finally:
            for talk in talks:
                talk.close()
    polls = f"each of the others was asked {watch.polls / watch.served:.1f} times a write"
    return [*dropped, served[0].noted(polls), *served[1:]]


def _measure(context: Context, what: str, once_ms: Callable[[], float], echo: Echo) -> list[Row]:
    name = f"write on A until {what} all {NODES} nodes"
    context.say(name)
    found = duel(
        context.rounds,
        partial(_turn, once_ms, context.round_s),
        ROUND_TRIP,
        partial(round_trips, echo, context.round_s),
    )
    target = TARGET if what == "dropped by" else None
    return found.rows(name, [Wanted("p50", "p50", "ms", target), Wanted("p99", "p99", "ms")])


def _turn(once_ms: Callable[[], float], seconds: float) -> Sample:
    took_ms: list[float] = []
    until_s = time.perf_counter() + seconds
    while not took_ms or time.perf_counter() < until_s:
        took_ms.append(once_ms())
    return latencies(took_ms)


class Watch:
    """Writes on one node, and sees what becomes of it on the others."""

    def __init__(self, writer: Talk, readers: Sequence[Talk]) -> None:
        self._writer = writer
        self._readers = readers
        self._values = count()
        self.served = self.polls = 0

    def until_dropped_ms(self) -> float:
        """One write: milliseconds until all had acknowledged it."""
        value = self._prepare()
        started_s = time.perf_counter()
        self._writer.ask("COH.SET", KEY, value, "ACK", "all")
        return (time.perf_counter() - started_s) * 1e3

    def until_served_ms(self) -> float:
        """One write: milliseconds until the last reader answered with it."""
        value = self._prepare()
        started_s = seen_s = time.perf_counter()
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
        self.served += 1
        return (seen_s - started_s) * 1e3

    def _prepare(self) -> bytes:
        """Have every node hold the key, so that there is something to drop; the next value."""
        for talk in (self._writer, *self._readers):
            talk.ask("GET", KEY)
        return b"%d" % next(self._values)
