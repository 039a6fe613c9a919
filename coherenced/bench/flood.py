"""Commands as fast as one process can send them: a program.

They were packed before, so that sending them takes little of the CPU time that the server and
the node need. The spec: `socket`; `commands`, a file of packed commands; `in_flight`, how many
of them may be unanswered at once. The answer: when it began (monotonic clock), and how many
seconds it took until the last reply.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from coherenced.bench.processes import given_spec, tell
from coherenced.bench.talk import Talk


def send(talk: Talk, commands: Sequence[bytes], in_flight: int) -> dict[str, float]:
    """Send them all, in order. `CommandError` when one is answered with an error."""
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
    """The program: see the module."""
    spec: dict[str, Any] = given_spec()
    commands = msgspec.msgpack.decode(Path(spec["commands"]).read_bytes(), type=list[bytes])
    with Talk(Path(spec["socket"])) as talk:
        tell(send(talk, commands, spec["in_flight"]))


if __name__ == "__main__":
    main()
