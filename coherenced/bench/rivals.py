"""Other servers that a user could ask instead, where they are installed: Redis and memcached.

Each listens on a Unix socket in a directory that goes away, keeps nothing on disk, and ends
with whoever started it. Valkey is not among them: every `Rig` has one.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from coherenced.bench.load import Place, key
from coherenced.bench.talk import Talk
from coherenced.embedded import die_with_parent, reap
from coherenced.errors import CommandError, StartError
from coherenced.lab.daemon import STOP_S

START_S: Final = 10.0
MEMORY_MIB: Final = 1024
VERSION: Final = re.compile(r"(\d+\.\d+\.\d+)")
PROGRAMS: Final = {"redis-server": "Redis", "memcached": "memcached"}
"""Executable -> what people call it."""
CHUNK: Final = 100


class Rival:
    """One such server, running. `StartError` when it does not come up."""

    def __init__(self, program: str, executable: str, directory: Path) -> None:
        self.program = program
        self.name = f"{PROGRAMS[program]} {_version(executable)}".strip()
        self.socket = directory / f"{program}.sock"
        self._process = subprocess.Popen(
            [executable, *_arguments(program, self.socket)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=directory,
            start_new_session=True,
            preexec_fn=die_with_parent(os.getpid()),
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def place(self) -> Place:
        return Place(self.socket, self._process.pid)

    def fill(self, keys: int, value_bytes: int) -> None:
        """Store the keys 0 to `keys` - 1, as `load.fill` does."""
        value = b"x" * value_bytes
        if self.program != "memcached":
            with Talk(self.socket) as talk:
                for number in range(keys):
                    talk.ask("SET", key(number), value)
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(START_S)
            link.connect(str(self.socket))
            for first in range(0, keys, CHUNK):
                numbers = range(first, min(first + CHUNK, keys))
                for number in numbers:
                    link.sendall(b"set %b 0 0 %d\r\n%b\r\n" % (key(number), len(value), value))
                heard = b""
                while heard.count(b"\r\n") < len(numbers):
                    data = link.recv(1 << 16)
                    if not data:
                        raise CommandError("memcached closed the connection")
                    heard += data
                if heard != b"STORED\r\n" * len(numbers):
                    raise CommandError(f"memcached has not stored everything: {heard[:80]!r}")

    def stop(self) -> None:
        """End it. Harmless when it has ended."""
        self._process.terminate()
        reap(self._process, STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self) -> None:
        until_s = time.monotonic() + START_S
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                if not link.connect_ex(str(self.socket)):
                    return
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise StartError(f"{self.program} does not come up")
            time.sleep(0.005)


def executable(program: str) -> str | None:
    """Where it is installed, if it is."""
    return shutil.which(program)


def _arguments(program: str, path: Path) -> Sequence[str]:
    if program == "memcached":
        return ("-s", str(path), "-a", "0700", "-u", "root", "-m", str(MEMORY_MIB), "-c", "1024")
    kept = ("--save", "", "--appendonly", "no", "--maxmemory", f"{MEMORY_MIB}mb")
    return ("--port", "0", "--unixsocket", str(path), *kept)


def _version(executable: str) -> str:
    option = "-V" if Path(executable).name == "memcached" else "--version"
    done = subprocess.run([executable, option], capture_output=True, text=True, timeout=START_S)
    found = VERSION.search(done.stdout + done.stderr)
    return found.group(1) if found else ""
