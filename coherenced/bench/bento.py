"""BentoCache's bus as a peer: `bento.mjs`, run by Node where it and the packages are installed.

They are installed by whoever wants the comparison, outside of this repository:

    mkdir ~/peers && cd ~/peers && npm install bentocache ioredis
    coherenced bench invalidation --node-modules ~/peers
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final, Literal, Self

from coherenced.bench.processes import plain_environment
from coherenced.bench.rounds import Sample, latencies
from coherenced.embedded import die_with_parent, reap
from coherenced.errors import StartError
from coherenced.lab.daemon import STOP_S

SCRIPT: Final = Path(__file__).with_suffix(".mjs")
PACKAGES: Final = ("bentocache", "ioredis")
NAME: Final = "BentoCache's bus"


def absence(modules: Path) -> str:
    """Why it cannot be measured; empty when it can. `modules`: what has `node_modules` in it."""
    if shutil.which("node") is None:
        return "node is not installed"
    lacking = [name for name in PACKAGES if not (modules / "node_modules" / name).is_dir()]
    if lacking:
        installed = "npm install bentocache ioredis in DIR, then --node-modules DIR"
        return f"{' and '.join(lacking)} not installed ({installed})"
    return ""


class Bento:
    """The script, running. `StartError` when it does not come up, or ends."""

    def __init__(self, modules: Path, server_socket: Path, log: Path) -> None:
        self._log = log
        told = {"modules": str(modules.absolute()), "socket": str(server_socket)}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                ["node", str(SCRIPT), json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=plain_environment(),
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),
            )
        self._hear()

    def turn(self, what: Literal["dropped", "served"], seconds: float) -> Sample:
        """Writes for so long, one after the other."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then it has ended, and says so below
            self._process.stdin.write(json.dumps({"what": what, "seconds": seconds}).encode())
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        took_ms: list[float] = self._hear()
        return latencies(took_ms)

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            said = self._log.read_text(errors="replace").strip().splitlines()
            errors = [text for text in said if "Error" in text] or said or ["it said nothing"]
            raise StartError(f"{NAME} ended: {errors[-1]}")
        return json.loads(line)

    def stop(self) -> None:
        """End it. Harmless when it has ended."""
        self._process.terminate()
        reap(self._process, STOP_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
