"""From a write on one node until the last of 3 nodes has dropped, or serves, what it changed.

`dropped`: from the moment in which a client sends a SET to node A until the last node has dropped
the old value and counted it in its shared page: from then on neither that node nor a client of it
serves anything older. Each node notes that moment in its page itself (one clock for all processes
of a host), and this process reads it afterwards: who looked for it meanwhile would take the
processor that the nodes are to be woken on. On the way are three hops between processes (client to
A, A to the server, the server to each node) and the server's script.

`served`: measured from outside. One client writes on node A and at once reads the key on B and
C, again and again, until both answer with the new value: that includes their fetch of it, and
the load of being asked all the time.

All three nodes hold the key before each write. Peers, in the same rounds: a bare pub/sub round
trip between two processes, by redis-py, which is four hops (publisher to server to subscriber, and
the same back); and, where Node has it, BentoCache's bus: a cache in each of three processes, from
a write on one until the others have received the message (the way back is not counted), or have
read the new value because of it. How long it is until a writer *knows* is in the suite `write`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Final, Literal

from coherenced.bench.bento import NAME, Bento, absence
from coherenced.bench.model import Context, Row, at_most, skipped
from coherenced.bench.peers import Echo
from coherenced.bench.rig import LASTING, Daemon, Rig
from coherenced.bench.rounds import Sample, Wanted, contest, latencies
from coherenced.bench.suites.write import NODES, ROUND_TRIP, round_trips
from coherenced.bench.talk import Talk
from coherenced.errors import CommandError
from coherenced.page.layout import APPLIED_AT, MOVED_AT, key_slot
from coherenced.page.reader import PageReader

TARGET: Final = at_most(2.0)
KEY: Final = b"bench:watched"
PATIENCE_S: Final = 5.0
LOOK_AGAIN_S: Final = 0.0005


def run(context: Context) -> list[Row]:
    """See the module."""
    why_not = absence(context.node_modules)
    with Rig(context.directory) as rig, ExitStack() as last:
        peer = rig.program("peers", {"peer": "echo", "with": [str(rig.server.socket)]})
        daemons = rig.daemons(NODES, LASTING)
        talks = [last.enter_context(Talk(daemon.socket)) for daemon in daemons]
        bento = None
        if not why_not:
            modules, log = context.node_modules, rig.directory / "bento.log"
            bento = last.enter_context(Bento(modules, rig.server.socket, log))
        peer.hear()
        watch = Watch(talks[0], talks[1:], [page_of(daemon) for daemon in daemons])
        watch.until_dropped_ms()
        echo = last.enter_context(Echo(rig.server.socket))
        dropped = _measure(context, "dropped", watch.until_dropped_ms, echo, bento)
        served = _measure(context, "served", watch.until_served_ms, echo, bento)
    polls = f"each of the others was asked {watch.polls / watch.served:.1f} times a write"
    rows = [*dropped, served[0].noted(polls), *served[1:]]
    return [*rows, skipped(NAME, why_not)] if why_not else rows


def _measure(
    context: Context,
    what: Literal["dropped", "served"],
    once_ms: Callable[[], float],
    echo: Echo,
    bento: Bento | None,
) -> list[Row]:
    name = f"write on A until {what} by all {NODES} nodes"
    context.say(name)
    peers = {ROUND_TRIP: partial(round_trips, echo, context.round_s)}
    if bento is not None:
        peers[NAME] = partial(bento.turn, what, context.round_s)
    rows: list[Row] = []
    for found in contest(context.rounds, partial(_turn, once_ms, context.round_s), peers):
        target = TARGET if what == "dropped" and found.peer == ROUND_TRIP else None
        wanted = (Wanted("p50", "p50", "ms", target), Wanted("p99", "p99", "ms"))
        rows += found.rows(name, wanted)
    return rows


def _turn(once_ms: Callable[[], float], seconds: float) -> Sample:
    took_ms: list[float] = []
    until_s = time.perf_counter() + seconds
    while not took_ms or time.perf_counter() < until_s:
        took_ms.append(once_ms())
    return latencies(took_ms)


class Watch:
    """Writes on one node, and sees what becomes of it on the others."""

    def __init__(self, writer: Talk, readers: Sequence[Talk], pages: Sequence[PageReader]) -> None:
        """`pages`: of all nodes, the writer's own too."""
        self._writer = writer
        self._readers = readers
        self._pages = pages
        self._values = count()
        self.served = self.polls = 0

    def until_dropped_ms(self) -> float:
        """One write: milliseconds until the last node had dropped the old value."""
        value = self._prepare()
        counted = self._counted()
        applied = self._pages[0].words[APPLIED_AT]
        self._wait_applied(applied)
        started_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._writer.ask("SET", KEY, value)
        self._wait_applied(applied + 1)
        if any(now == then for now, then in zip(self._counted(), counted, strict=True)):
            raise CommandError("a node has applied a write and not counted it in its page")
        return (max(page.words[MOVED_AT] for page in self._pages) - started_ns) / 1e6

    def _wait_applied(self, seq: int) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while min(page.words[APPLIED_AT] for page in self._pages) < seq:
            if time.monotonic() > until_s:
                raise CommandError(f"not every node has applied a write within {PATIENCE_S:g} s")
            time.sleep(LOOK_AGAIN_S)

    def _counted(self) -> list[int]:
        return [page.words[key_slot(KEY, page.slots)] for page in self._pages]

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


def page_of(daemon: Daemon) -> PageReader:
    """A node's shared page, as its clients see it."""
    with Talk(daemon.socket) as talk:
        told = json.loads(talk.ask("COH.PAGE"))
    return PageReader(told["path"], told["incarnation"])
