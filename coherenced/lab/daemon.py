"""One daemon as a real process with a runtime directory of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from coherenced.client.sync import Client
from coherenced.embedded import die_with_parent, reap
from coherenced.errors import StartError
from coherenced.paths import HTTP_SOCKET_NAME, SOCKET_NAME

START_S: Final = 20.0
STOP_S: Final = 8.0
COHERENCED: Final = (sys.executable, "-m", "coherenced")
"""How the daemon of this very installation is called."""


class Daemon:
    """One `coherenced serve` process. Start it on a thread that outlives it: it dies with that.

    It announces its readiness as it would to a service manager, so that nobody has to
    ask it again and again while it starts.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        settings: Mapping[str, object],
        command: Sequence[str] = COHERENCED,
    ) -> None:
        """Starts it at once. `settings`: configuration keys and their values."""
        directory.mkdir()
        self.name = name
        self.directory = directory
        self.socket = directory / SOCKET_NAME
        self.http_socket = directory / HTTP_SOCKET_NAME
        self.started_s = 0.0
        self.paused = False
        self._log = directory / "daemon.log"
        self._announced = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._announced.bind(str(directory / "notify"))
        config = directory / "empty.toml"
        config.touch()  # no file of this host has a say in it
        told = {"node.name": name, "node.runtime_dir": directory, "log.format": "json", **settings}
        flags = [word for key, value in told.items() for word in ("--set", f"{key}={_text(value)}")]
        self._command = [*command, "serve", "--config", str(config), *flags]
        self._process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.started_s = time.perf_counter()
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=plain_environment(NOTIFY_SOCKET=str(self.directory / "notify")),
                start_new_session=True,  # Ctrl-C is for the program, which stops it in turn
                preexec_fn=die_with_parent(os.getpid()),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @cached_property
    def client(self) -> Client:
        """A client for its socket."""
        return Client(self.socket, l0=False)  # what it tells is the daemon's

    def stats(self) -> dict[str, Any]:
        return self.client.stats()

    def wait_ready(self) -> float:
        """Wait until it serves; the seconds from its start. `StartError` when it does not come."""
        until_s = self.started_s + START_S
        self._announced.settimeout(0.2)
        while True:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in self._announced.recv(4096):
                    return time.perf_counter() - self.started_s
            ended = not self.is_running
            if ended or time.perf_counter() > until_s:
                what = "ended at once" if ended else f"is not ready after {START_S:g} s"
                raise StartError(f"daemon {self.name} {what}: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def pause(self) -> None:
        """SIGSTOP."""
        self._process.send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """SIGCONT. Harmless when it runs, or has ended."""
        if self.is_running:
            self._process.send_signal(signal.SIGCONT)
        self.paused = False

    def kill(self) -> None:
        """SIGKILL. Harmless when it has ended."""
        self._process.kill()
        self._process.wait()
        self.paused = False

    def restart(self) -> None:
        """Start it again in its place, once it has ended; see `wait_ready`."""
        self._process = self._spawn()

    def begin_stop(self) -> None:
        self.resume()
        self.client.close()
        if self.is_running:
            self._process.terminate()

    def stop(self) -> None:
        """End it. Harmless when it has ended."""
        self.begin_stop()
        reap(self._process, STOP_S)
        self._announced.close()


def plain_environment(**more: str) -> dict[str, str]:
    """This process's environment without what configures or supervises a daemon; and it may
    keep its bytecode, as an installed package has it: not to compile anew at each start."""
    unwanted = (
        *("COHERENCED_", "NOTIFY_", "WATCHDOG_", "LISTEN_", "RUNTIME_DIRECTORY"),
        "PYTHONDONTWRITEBYTECODE",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return kept | more


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
