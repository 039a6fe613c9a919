"""A service manager in miniature: it holds the sockets, starts the daemon, and hears from it.

What systemd does for `coherenced.service`, in one process: the listening sockets are
made once and handed to every daemon it starts, under the names of the socket units;
the daemon's datagrams arrive on a notify socket.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

PROGRAM = str(Path(sys.executable).with_name("coherenced"))
TIMEOUT_S = 20.0
NOTICE_S = 0.1
"""How soon a wait notices that the daemon has ended."""

# The sockets have to be descriptors 3 and 4, and LISTEN_PID the daemon's own number: so the
# process that becomes the daemon arranges it. Copies first, since 3 or 4 may be among them.
_BECOME = """
import fcntl, os, sys
given = [int(fd) for fd in sys.argv[1:3]]
copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50) for fd in given]
for fd in given:
    os.close(fd)
for number, fd in enumerate(copies, 3):
    os.dup2(fd, number, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[3], sys.argv[3:])
"""


class ServiceManager:
    """Sockets in `directory`, and at most one daemon at a time."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.directory = directory
        self.resp = directory / "coherenced.sock"
        self.http = directory / "http.sock"
        self._settings = dict(settings)
        self._listening = [_listen(self.resp), _listen(self.http)]
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(directory / "notify"))
        self._notify.settimeout(NOTICE_S)
        self.heard: list[str] = []
        """Every line that the daemons have sent, in order."""
        self.process: subprocess.Popen[bytes] | None = None
        self._log = (directory / "log").open("ab")

    def start(self, watchdog_ms: int = 0) -> Self:
        """Start a daemon; it is not ready before `wait_for("READY=1")`."""
        assert self.process is None
        environ = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ},
            "RUNTIME_DIRECTORY": str(self.directory),
            "NOTIFY_SOCKET": str(self.directory / "notify"),
            "LISTEN_FDS": "2",
            "LISTEN_FDNAMES": "resp:http",
            **self._settings,
        }
        if watchdog_ms:
            environ["WATCHDOG_USEC"] = str(watchdog_ms * 1000)
        descriptors = [listening.fileno() for listening in self._listening]
        self.process = subprocess.Popen(
            [sys.executable, "-IS", "-c", _BECOME, *map(str, descriptors), PROGRAM, "serve"],
            env=environ,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
        )
        return self

    def wait_for(self, line: str, count: int = 1) -> None:
        """Wait until the daemon has said `line` `count` times from now on."""
        end = time.monotonic() + TIMEOUT_S
        while count:
            try:
                lines = self._notify.recv(65536).decode().split("\n")
            except TimeoutError:
                ended = self.process is None or self.process.poll() is not None
                if ended or time.monotonic() > end:
                    raise AssertionError(f"no {line}; heard {self.heard}\n{self.log()}") from None
                continue
            self.heard += lines
            count -= line in lines

    def heard_by_now(self) -> list[str]:
        """Everything that was said so far, without waiting."""
        self._notify.setblocking(False)
        try:
            while True:
                self.heard += self._notify.recv(65536).decode().split("\n")
        except BlockingIOError:
            self._notify.settimeout(NOTICE_S)
        return self.heard

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the daemon's exit code. The sockets stay open."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it did not stop\n{self.log()}") from None
        finally:
            self.process = None

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for one in (*self._listening, self._notify):
            one.close()
        self._log.close()

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-3000:]


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(4096)
    return listening


def connect(path: Path) -> socket.socket:
    """A connection; it may still have to wait for a daemon that accepts it."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(TIMEOUT_S)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """What arrives up to `end`; what there was if the connection closes before."""
    data = b""
    while end not in data and (part := connection.recv(65536)):
        data += part
    return data


def http_status(path: Path, target: str) -> bytes:
    """The status line of one GET."""
    with connect(path) as connection:
        connection.sendall(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target.encode())
        return read_until(connection, b"\r\n").split(b"\r\n")[0]


def wait_until_accepting(path: Path) -> None:
    """Wait until something listens at `path`."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        try:
            connect(path).close()
            return
        except OSError:
            assert time.monotonic() < end, f"nothing listens at {path}"
            time.sleep(0.005)
