"""Commands as fast as one process can send them, or at a steady pace: a program.

They were packed before, so that sending them takes little of the CPU time that the server and
the node need. The spec: `socket`; `commands`, a file of packed commands; `in_flight`, how many
of them may be unanswered at once. The answer: when it began (monotonic clock), and how many
seconds it took until the last reply.

With `per_s` it sends the first command, then so many of the others a second, for `seconds`,
again and again; it says when it has begun, and at the end how many it has sent in how many seconds.
With `deep` it sends all of them in one piece, for so long, and reads the replies meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from coherenced.bench.processes import given_spec, tell
from coherenced.bench.talk import Talk

MOST_LATE: Final = 100
"""Commands sent at once to catch up."""
BREATH_S: Final = 0.02


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


def send_paced(talk: Talk, commands: Sequence[bytes], per_s: float, seconds: float) -> None:
    """The first at once; then the others in turn, each when it is due, late ones without delay."""
    first, *commands = commands
    talk.send_packed(first)
    talk.receive()
    started_s = now_s = time.monotonic()
    tell({"started_s": started_s})
    sent = 0
    while now_s - started_s < seconds:
        due = min(int((now_s - started_s) * per_s) + 1 - sent, MOST_LATE)
        chunk = [commands[(sent + number) % len(commands)] for number in range(due)]
        if chunk:
            talk.send_packed(b"".join(chunk))
            for _ in chunk:
                talk.receive()
            sent += len(chunk)
        time.sleep(max(0.0, started_s + sent / per_s - time.monotonic()))
        now_s = time.monotonic()
    tell({"sent": sent, "seconds": now_s - started_s})


def send_deep(talk: Talk, commands: Sequence[bytes], seconds: float) -> None:
    """All at once; when all are answered and after a breath, again."""
    data = b"".join(commands)
    started_s = now_s = time.monotonic()
    tell({"started_s": started_s})
    sent = 0
    while now_s - started_s < seconds:
        sender = threading.Thread(target=talk.send_packed, args=(data,))
        sender.start()
        for _ in commands:
            talk.receive()
        sender.join()
        sent += len(commands)
        time.sleep(BREATH_S)
        now_s = time.monotonic()
    tell({"sent": sent, "seconds": now_s - started_s})


def main() -> None:
    """The program: see the module."""
    spec: dict[str, Any] = given_spec()
    commands = msgspec.msgpack.decode(Path(spec["commands"]).read_bytes(), type=list[bytes])
    with Talk(Path(spec["socket"])) as talk:
        if "deep" in spec:
            send_deep(talk, commands, spec["seconds"])
        elif "per_s" in spec:
            send_paced(talk, commands, spec["per_s"], spec["seconds"])
        else:
            tell(send(talk, commands, spec["in_flight"]))


if __name__ == "__main__":
    main()
