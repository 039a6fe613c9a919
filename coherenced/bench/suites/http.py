"""HTTP hits over the Unix socket, beside a bare aiohttp handler that returns constant bytes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from coherenced.bench.generator import Task
from coherenced.bench.load import GENERATOR, Loader, Place, Sides, fill, key, rows_of, warm
from coherenced.bench.model import Context, Row, at_least
from coherenced.bench.rig import LASTING, Rig
from coherenced.bench.rounds import Sample
from coherenced.bench.talk import Talk

KEYS: Final = 100
BODY_BYTES: Final = 100
TARGET: Final = at_least(0.8)


def run(context: Context) -> list[Row]:
    """See the module."""
    rows = []
    with Rig(context.directory) as rig:
        path = rig.directory / "peer.sock"
        peer = rig.program("peers", {"peer": "http", "with": [str(path), BODY_BYTES]})
        daemon = rig.daemons(1, LASTING)[0]
        peer.hear()
        with rig.talk_to_server() as upstream, Talk(daemon.socket) as talk:
            fill(upstream, KEYS, BODY_BYTES)
            warm(talk, KEYS)
        loader = Loader(rig.directory)
        sides = Sides(
            Place(daemon.http_socket, daemon.pid), "a bare aiohttp handler", Place(path, peer.pid)
        )
        for connections in (16,) if context.quick else (1, 16, 50) if context.full else (1, 16):
            name = f"GET /v1/keys/…, {connections} connection{'s' * (connections > 1)}"
            context.say(name)
            turn = partial(_turn, loader=loader, connections=connections, seconds=context.round_s)
            found = sides.duel(context.rounds, turn)
            target = TARGET if connections == 16 else None
            rows += rows_of(found, name, GENERATOR, target)
    return rows


def _turn(place: Place, loader: Loader, connections: int, seconds: float) -> Sample:
    return loader.task(place, task(place.socket, connections, seconds))


def task(path: Path, connections: int, seconds: float) -> Task:
    """Reads of every key in turn. The length of a reply varies with its Age."""
    return Task(
        socket=str(path),
        connections=connections,
        batches=[
            b"GET /v1/keys/%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % key(number)
            for number in range(KEYS)
        ],
        pipeline=1,
        begins=b"HTTP/1.1 200 ",
        ends=b"\r\n\r\n" + b"x" * BODY_BYTES,
        seconds=seconds,
    )
