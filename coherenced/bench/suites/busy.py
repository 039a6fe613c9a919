"""Latency of hits while 10,000 invalidations a second are being applied, beside the same at rest.

The hits are asked for at a steady pace, so that what is compared is waiting, not who gets the
processor; one that had to wait counts from when it was due. The invalidations are of other
keys, ten to a message, by a writer process that appends to the log as a node does.

On a machine with few cores the writer and the server take them from the client and the node, too.
How much of it that is tells a third turn: the same writer, and a server of the same kind that
the node does not follow.

And the same hits beside a client that pipelines 10,000 GETs at once, again and again, next to
Valkey in the same position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from coherenced.bench.load import GENERATOR, Load, Loader, Place, Sides, fill, key, warm
from coherenced.bench.model import Context, Figure, Row, at_most
from coherenced.bench.processes import Program
from coherenced.bench.rig import LASTING, Daemon, Rig
from coherenced.bench.rounds import Sample, Wanted, contest
from coherenced.bench.suites.apply import packed_file, scripts
from coherenced.bench.talk import Talk, pack
from coherenced.errors import CommandError
from coherenced.upstream.scripts import LANE_SCRIPTS

INVALIDATIONS_A_SECOND: Final = 10_000
FRAMING: Final = 10
RECORDS: Final = 20_000
"""As many different ones; they are sent again and again."""
LOAD: Final = Load(connections=10, rate=5_000.0)
LOG_LENGTH: Final = 100_000
ENOUGH: Final = 0.8
"""Of the pace: where the machine cannot keep it, the row says so."""
TARGET: Final = at_most(2.0)
AT_REST: Final = "the same at rest"
DEEP: Final = 10_000
ELSEWHERE: Final = "the same writes to a server it does not follow"


def run(context: Context) -> list[Row]:
    """See the module."""
    context.say(f"hits while {INVALIDATIONS_A_SECOND} invalidations a second are applied")
    seconds = context.seconds / 4
    with Rig(context.directory) as rig, Rig(context.directory) as apart:
        daemon = rig.daemons(1, {**LASTING, "redis.log_length": LOG_LENGTH})[0]
        with rig.talk_to_server() as upstream, Talk(daemon.socket) as talk:
            fill(upstream, LOAD.keys, LOAD.value_bytes)
            warm(talk, LOAD.keys)
        with apart.talk_to_server() as talk:
            for script in LANE_SCRIPTS:  # as a node does that connects
                talk.ask("SCRIPT", "LOAD", script.text)
        commands = packed_file(rig, "recorded", scripts(RECORDS, FRAMING, LOAD.keys))
        loader = Loader(rig.directory, "")
        hits = partial(loader.run, Place(daemon.socket, daemon.pid), LOAD, seconds)
        found = contest(
            max(2, context.rounds // 2) if not context.quick else 1,
            partial(_busy, rig, daemon, commands, seconds, hits),
            {AT_REST: hits, ELSEWHERE: lambda: _beside(apart, commands, seconds, hits)[0]},
        )
        deep = _beside_deep(context, rig, daemon, loader, seconds)
    name = f"hits, {INVALIDATIONS_A_SECOND:,} invalidations a second"
    rows: list[Row] = []
    for duel in found:
        wanted = (
            Wanted("p50", "p50", "ms"),
            Wanted("p99", "p99", "ms", TARGET if duel.peer == AT_REST else None),
            Wanted("p99.9", "p99.9", "ms"),
        )
        rows += duel.rows(name, wanted, _note(duel.ours))
    return rows + deep


def _busy(
    rig: Rig, daemon: Daemon, commands: Path, seconds: float, hits: Callable[[], Sample]
) -> Sample:
    with Talk(daemon.socket) as talk:
        before = talk.stats()["lanes"][0]
        sample, sent = _beside(rig, commands, seconds, hits)
        after = talk.stats()["lanes"][0]
    if after["drops"] > before["drops"]:
        raise CommandError("the node lost its place in the log, and dropped what it held")
    applied = (after["applied"] - before["applied"]) / sent["seconds"]
    return {**sample, "applied": applied}


def _beside(
    rig: Rig, commands: Path, seconds: float, hits: Callable[[], Sample]
) -> tuple[Sample, dict[str, float]]:
    """The hits while `rig`'s server is written to, and what was written."""
    told = {
        "socket": str(rig.server.socket),
        "commands": str(commands),
        "in_flight": 1,
        "per_s": INVALIDATIONS_A_SECOND / FRAMING,
        "seconds": seconds + 0.5,  # the generator takes a moment to start
    }
    with Program("flood", told, rig.log) as flood:
        flood.hear()
        sample = hits()
        sent: dict[str, float] = flood.hear()
    return sample, sent


def _beside_deep(
    context: Context, rig: Rig, daemon: Daemon, loader: Loader, seconds: float
) -> list[Row]:
    gets = [pack((b"GET", key(number % LOAD.keys))) for number in range(DEEP)]
    told = {"commands": str(packed_file(rig, "deep", gets)), "deep": True, "seconds": seconds + 0.5}

    def turn(place: Place) -> Sample:
        with Program("flood", {**told, "socket": str(place.socket)}, rig.log) as flood:
            flood.hear()
            sample = loader.run(place, LOAD, seconds)
            flood.hear()
        return sample

    name = f"hits beside a client that pipelines {DEEP:,} GETs"
    context.say(name)
    ours, theirs = Place(daemon.socket, daemon.pid), Place(rig.server.socket, rig.server_pid)
    rounds = 1 if context.quick else max(2, context.rounds // 2)
    found = Sides(ours, rig.server_name(), theirs).duel(rounds, turn)
    return found.rows(name, (Wanted("p50", "p50", "ms"), Wanted("p99", "p99", "ms")))


def _note(turns: Sequence[Sample]) -> str:
    applied = Figure.of("/s", [turn["applied"] for turn in turns]).value
    note = f"{LOAD.rate:,.0f} hits a second over {LOAD.connections} connections, by {GENERATOR}; "
    note += f"{applied:,.0f} invalidations a second were applied"
    if applied < ENOUGH * INVALIDATIONS_A_SECOND:
        note += ": this machine cannot keep the pace"
    return note
