"""Invalidations as fast as one process can send them: a program.

    mutate     through the atomic script that daemons write with, as records in the log
    publish    as many messages of one record each, with a plain PUBLISH: what a bus does that
               remembers nothing

Everything is packed before the clock starts, so that the writer takes little of the CPU time
that the server and the node need.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from coherenced.bench.load import key
from coherenced.bench.peers import FLOOD, LAST
from coherenced.bench.processes import given_spec, tell
from coherenced.bench.talk import Talk, pack
from coherenced.core.calls import Mutate
from coherenced.core.model import Message, Mutation, Op, Record
from coherenced.upstream.codec import eval_command, mutate_args
from coherenced.upstream.names import lane_names
from coherenced.upstream.scripts import MUTATE_FREEING
from coherenced.wire.message import encode_message

IN_FLIGHT: Final = 256
"""Records on their way at once: the server never waits for this process."""
LOG_LENGTH: Final = 1_000_000
"""Never trimmed while it is measured."""


def _id() -> bytes:
    return secrets.token_hex(8).encode()


def scripts(count: int, framing: int) -> list[bytes]:
    """The commands of `count` records of one key each, `framing` records in a command."""
    names, writer = lane_names(0, 0), _id()
    packed = []
    for first in range(0, count, framing):
        mutations = tuple(
            Mutation((), op=Op.INVALIDATE, keys=(key(number),), frees_memory=True)
            for number in range(first, min(first + framing, count))
        )
        want_ack = (False,) * len(mutations)
        tags = tuple(_id() for _ in mutations)
        call = Mutate(1, 0, _id(), writer, want_ack, mutations, tags)
        script, args = mutate_args(call, names, LOG_LENGTH)
        packed.append(eval_command(script, names, args))
    return packed


def publications(count: int) -> list[bytes]:
    """As many PUBLISH, each of a message of one record."""
    record = Record(1 << 20, _id(), _id(), Op.INVALIDATE, 0, _id(), (key(0),))
    message = encode_message(Message(0, _id(), record.seq, record.tag, (record,)))
    return [pack((b"PUBLISH", FLOOD, message))] * count


def send(talk: Talk, commands: Sequence[bytes], in_flight: int) -> dict[str, float]:
    """Send them all; when that began (monotonic clock) and how many seconds it took."""
    half = max(1, in_flight // 2)
    started_s = time.monotonic()
    waiting = 0
    for first in range(0, len(commands), half):
        chunk = commands[first : first + half]
        talk.send_packed(b"".join(chunk))
        for _ in range(waiting):
            talk.receive()
        waiting = len(chunk)
    for _ in range(waiting):
        talk.receive()
    return {"started_s": started_s, "seconds": time.monotonic() - started_s}


def main() -> None:
    """The program: see the module. The spec: how, count, socket, and framing for `mutate`."""
    spec: dict[str, Any] = given_spec()
    count: int = spec["count"]
    with Talk(Path(spec["socket"])) as talk:
        if spec["how"] == "mutate":
            talk.ask("SCRIPT", "LOAD", MUTATE_FREEING.text)
            framing: int = spec["framing"]
            tell(send(talk, scripts(count, framing), IN_FLIGHT // framing))
        else:
            told = send(talk, publications(count), IN_FLIGHT)
            talk.ask("PUBLISH", FLOOD, LAST)
            tell(told)


if __name__ == "__main__":
    main()
