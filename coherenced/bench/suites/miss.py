"""Reads of keys that are not cached: what they cost, and how many reads they make upstream.

`cold reads`: 50 clients read one key after the other that the node does not hold, beside
the same reads from Valkey directly. Each must cross two sockets instead of one.

`at once`: the server is stopped for a moment (SIGSTOP), 200 clients ask, it goes on. Its
own statistics then tell how many reads and how many round trips it took to answer them;
each of 200 clients of Valkey makes one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Final

from coherenced.bench.generator import Task
from coherenced.bench.load import GENERATOR, Loader, Place, Sides, fill, key, rows_of
from coherenced.bench.model import Context, Figure, Row, Target, at_least
from coherenced.bench.rig import LASTING, Daemon, Rig, wait_until
from coherenced.bench.rounds import Sample
from coherenced.bench.talk import Talk, pack, values_read
from coherenced.errors import CommandError

CONNECTIONS: Final = 50
VALUE_BYTES: Final = 100
CLIENTS: Final = 200
TARGET: Final = at_least(0.5)
ONE_READ: Final = Target(1, "at most", "ours")
HANDFUL: Final = Target(10, "at most", "ours")


def run(context: Context) -> list[Row]:
    """See the module."""
    keys = context.amount(100_000, 10_000, 1_000)
    with Rig(context.directory) as rig:
        daemon = rig.daemons(1, LASTING)[0]
        with rig.talk_to_server() as upstream:
            fill(upstream, keys, VALUE_BYTES)
        return [*_cold(context, rig, daemon, keys), *_at_once(context, rig, daemon)]


def _cold(context: Context, rig: Rig, daemon: Daemon, keys: int) -> list[Row]:
    context.say(f"{keys} cold reads")
    loader = Loader(rig.directory)
    sides = Sides(
        Place(daemon.socket, daemon.pid),
        rig.server_name(),
        Place(rig.server.socket, rig.server_pid),
    )
    reply = b"$%d\r\n%b\r\n" % (VALUE_BYTES, b"x" * VALUE_BYTES)
    requests = [pack((b"GET", key(number))) for number in range(keys)]

    def turn(place: Place) -> Sample:
        with Talk(daemon.socket) as talk:
            talk.ask("COH.INVALIDATE", "ALL")  # what the turn before has read is cold again
        task = Task(
            socket=str(place.socket),
            connections=CONNECTIONS,
            batches=requests,
            pipeline=1,
            begins=reply[:1],
            reply_bytes=len(reply),
        )
        return loader.task(place, task)

    found = sides.duel(context.rounds, turn)
    return rows_of(found, f"cold reads, {CONNECTIONS} connections", GENERATOR, TARGET)


def _at_once(context: Context, rig: Rig, daemon: Daemon) -> list[Row]:
    context.say(f"{CLIENTS} misses at once")
    talks = [Talk(daemon.socket) for _ in range(CLIENTS)]
    try:
        same: list[int] = []
        different: list[int] = []
        for _ in range(context.rounds):
            talks[0].ask("COH.INVALIDATE", "ALL")
            same.append(_ask_together(rig, talks, [key(0)] * CLIENTS)["reads"])
            talks[0].ask("COH.INVALIDATE", "ALL")
            keys = [key(number) for number in range(CLIENTS)]
            different.append(_ask_together(rig, talks, keys)["trips"])
    finally:
        for talk in talks:
            talk.close()
    return [
        _counted(f"{CLIENTS} misses of one key at once: reads upstream", same, ONE_READ),
        _counted(f"{CLIENTS} misses of {CLIENTS} keys at once: round trips", different, HANDFUL),
    ]


def _counted(name: str, counts: Sequence[int], target: Target) -> Row:
    ours, theirs = Figure.of("count", counts), Figure.of("count", [CLIENTS])
    ratio = Figure.of("ratio", [count / CLIENTS for count in counts])
    return Row(
        name=name, ours=ours, peer="Valkey directly", theirs=theirs, ratio=ratio, target=target
    )


def _ask_together(rig: Rig, talks: Sequence[Talk], keys: Sequence[bytes]) -> dict[str, int]:
    """Each client asks for its key while the server stands still; what that cost the server."""
    with rig.talk_to_server() as upstream, Talk(talks[0].path) as observer:
        asked = observer.stats()["fronts"]["resp"]["requests"]
        before, fetches = values_read(upstream), observer.stats()["l2"]["fetches"]
        os.kill(rig.server_pid, signal.SIGSTOP)
        try:
            for talk, name in zip(talks, keys, strict=True):
                talk.send("GET", name)
            wait_until(
                lambda: observer.stats()["fronts"]["resp"]["requests"] >= asked + len(keys),
                "the daemon to have read every request",
                patience_s=0.3,  # well within the time in which the daemon trusts its connection
            )
        finally:
            os.kill(rig.server_pid, signal.SIGCONT)
        for talk in talks:
            if talk.receive() is None:
                raise CommandError("a key that was stored is not there")
        reads = values_read(upstream) - before
        return {"reads": reads, "trips": observer.stats()["l2"]["fetches"] - fetches}
