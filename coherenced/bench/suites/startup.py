"""How long a daemon takes from its start until it serves, and what a command costs.

Ready is what the daemon announces to a service manager: it has joined the bus and its
sockets answer. Beside it: Valkey, until it answers. Of a command the CPU time is measured,
beside a Python that does nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from coherenced.bench.model import Context, Row, Target
from coherenced.bench.processes import cpu_s, plain_environment
from coherenced.bench.rig import Daemon, Rig
from coherenced.bench.rounds import Sample, Wanted, duel
from coherenced.embedded import EmbeddedServer
from coherenced.errors import CommandError

READY_TARGET: Final = Target(0.5, "at most", "ours")
CPU_TARGET: Final = Target(0.2, "at most", "ours")
COMMANDS: Final = {
    "--help": ("--help",),
    "invalidate --dry-run": ("invalidate", "--dry-run", "a-key"),
}


def run(context: Context) -> list[Row]:
    """See the module."""
    rounds = context.times(3)
    with Rig(context.directory) as rig:
        rows = []
        for name, url, target in (
            ("start until ready, Valkey given", rig.server.url, READY_TARGET),
            ("start until ready, with a private Valkey", "", None),
        ):
            context.say(name)
            ours = partial(_ready, rig.directory, {"redis.url": url})
            theirs = partial(_server_ready, rig.directory)
            found = duel(rounds, ours, "Valkey alone", theirs)
            rows += found.rows(
                name, [Wanted("seconds", "", "s", target), Wanted("cpu", "CPU time", "s")]
            )
        for name, words in COMMANDS.items():
            context.say(f"coherenced {name}")
            ours = partial(_spent, ("-m", "coherenced", *words))
            theirs = partial(_spent, ("-c", "pass"))
            found = duel(rounds, ours, "python -c pass", theirs)
            rows += found.rows(f"coherenced {name}: CPU time", [Wanted("cpu", "", "s", CPU_TARGET)])
    return rows


def _ready(parent: Path, settings: dict[str, object]) -> Sample:
    daemon = Daemon("started", Path(mkdtemp(dir=parent)) / "d", settings)
    try:
        return {"seconds": daemon.wait_ready(), "cpu": cpu_s(daemon.pid)}
    finally:
        daemon.stop()


def _server_ready(parent: Path) -> Sample:
    started_s = time.perf_counter()
    with EmbeddedServer(Path(mkdtemp(dir=parent))) as server:
        assert server.pid is not None  # the directory is new: there is none to be joined
        return {"seconds": time.perf_counter() - started_s, "cpu": cpu_s(server.pid)}


def _spent(words: Sequence[str]) -> Sample:
    """CPU seconds of one run of Python."""
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=plain_environment(),
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise CommandError(f"python {' '.join(words)} ended with {process.returncode}")
    return {"cpu": used.ru_utime + used.ru_stime}
