"""What a process costs, and programs of ours that run as processes of their own.

A program that serves the measurements is `python -m coherenced.bench.NAME SPEC`, where SPEC
is one JSON document; it answers with JSON documents, one a line, on its standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, Self

from coherenced.embedded import die_with_parent, reap
from coherenced.errors import CommandError, StartError
from coherenced.lab.daemon import STOP_S
from coherenced.lab.daemon import plain_environment as plain_environment

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU time that the threads of a process have used so far, in seconds."""
    try:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((one / "schedstat").read_text().split()[0]) for one in threads) / 1e9
    except (OSError, ValueError, IndexError):  # a kernel that keeps no such statistics
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S


def rss_bytes(pid: int) -> int:
    """Memory of a process that is resident now."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Program:
    """One program of ours as a process. Start it on the main thread: it dies with its thread."""

    def __init__(
        self, name: str, spec: Mapping[str, Any], log: Path, environ: Mapping[str, str] = {}
    ) -> None:
        """`environ`: beside what every program of ours is given (`plain_environment`)."""
        self._name = name
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"coherenced.bench.{name}", json.dumps(spec)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=plain_environment(**environ),
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self) -> Any:
        """The next document that it prints. `StartError` when it has ended without one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise StartError(f"the benchmark's {self._name} ended: {_last_line(self._log)}")
        return json.loads(line)

    def stop(self) -> None:
        """End it. Harmless when it has ended."""
        self._process.terminate()
        reap(self._process, STOP_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def given_spec() -> dict[str, Any]:
    """In a program: what it was told."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    return spec


def tell(document: object) -> None:
    """In a program: its answer, one line."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def give_up(why: str) -> NoReturn:
    """In a program: it cannot do what it was told."""
    raise CommandError(why)
