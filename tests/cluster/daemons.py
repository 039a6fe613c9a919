"""Real daemons as real processes, each behind a proxy of its own, and the cluster they form.

    with Cluster(3) as cluster:
        cluster.daemons[0].command("SET", "a", "1")
        cluster.proxies["n2"].half_open(role("bus"))
        cluster.daemons[1].pause()

Start and restart them from a thread that lives as long as they shall: the kernel
kills each with the thread that forked it, so that no test run leaves one behind.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import hiredis

from coherenced.lab.proxy import Proxy
from tests.cluster.clocks import WallClock
from tests.servers import Server, _die_with_parent, wait_until

REPOSITORY: Final = Path(__file__).parents[2]
READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 15.0
SPARE_FDS: Final = 24
"""How many more file descriptors than at the start are no leak (pooled connections)."""
DIED_BADLY: Final = ("Traceback (most recent call last)", "was never retrieved", "never awaited")
"""What must never stand in a daemon's log."""


class DaemonError(AssertionError):
    """A daemon did not start, did not stop, or left something behind; with its log's end."""


class UnixHTTPConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Daemon:
    """One `coherenced serve` process with a runtime directory of its own."""

    def __init__(
        self,
        node: str,
        redis_url: str,
        settings: Mapping[str, object] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        without: Sequence[str] = (),
    ) -> None:
        """`settings`: configuration, `{"coherence.max_staleness_ms": 500}`; given with `--set`.
        `without`: laws that it shall not keep (see `lawless`)."""
        self.node = node
        self.redis_url = redis_url
        self.settings = dict(settings or {})
        self.environment = dict(environment or {})
        self.without = tuple(without)
        self.directory = Path(tempfile.mkdtemp(prefix="coh-d-"))
        self.socket = self.directory / "coherenced.sock"
        self.http_socket = self.directory / "http.sock"
        self.log = self.directory / "log"
        self.fds_at_start = 0
        self.paused = False
        self._process: subprocess.Popen[bytes] | None = None

    # -- life ----------------------------------------------------------------------------

    def spawn(self) -> None:
        """Start the process and return at once; see `wait_ready`."""
        assert not self.running, f"{self.node} runs already"
        command = [sys.executable, "-m"]
        if self.without:
            command += ["tests.cluster.lawless", ",".join(self.without)]
        else:
            command += ["coherenced"]
        command += ["serve", "--node", self.node, "--redis", self.redis_url]
        for name, value in self.settings.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["--set", f"{name}={text}"]
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("COHERENCED_", "NOTIFY_", "LISTEN_"))
        }
        environment |= {"RUNTIME_DIRECTORY": str(self.directory), "PYTHONWARNINGS": "default"}
        if self.without:
            environment["PYTHONPATH"] = str(REPOSITORY)
        environment |= self.environment
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.directory,
                preexec_fn=_die_with_parent,
            )

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        """Wait until it answers PING on its socket and says it is ready on the other."""
        end = time.monotonic() + timeout_s
        while not self._is_ready():
            if not self.running:
                raise DaemonError(self._report(f"ended with {self._code()} before it was ready"))
            if time.monotonic() > end:
                raise DaemonError(self._report(f"is not ready after {timeout_s:g} s"))
            time.sleep(0.01)
        self.fds_at_start = self.fds()
        return self

    def start(self) -> Self:
        """Start it and wait until it is ready."""
        self.spawn()
        return self.wait_ready()

    def stop(self) -> None:
        """SIGTERM; it must exit with 0 in time, and have logged no traceback."""
        if self._process is None:
            return
        if self.paused:
            self.resume()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DaemonError(self._report("did not stop on SIGTERM")) from None
        self._process = None
        if code != 0:
            raise DaemonError(self._report(f"exited with {code} on SIGTERM"))
        self.check_log()

    def kill(self) -> None:
        """SIGKILL. Harmless when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.paused = False

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """SIGCONT. Harmless when it does not run."""
        if self.running:
            os.kill(self.pid, signal.SIGCONT)
        self.paused = False

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def remove(self) -> None:
        """Kill it if it runs, and delete its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.node} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # -- talking to it ---------------------------------------------------------------------

    def command(self, *argv: bytes | str, timeout_s: float = 10.0) -> Any:
        """One command on a connection of its own: the raw RESP2 reply, an error as a value."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(self.socket))
            words: tuple[Any, ...] = argv
            connection.sendall(hiredis.pack_command(words))
            reader = hiredis.Reader()
            while (reply := reader.gets()) is False:
                data = connection.recv(1 << 16)
                if not data:
                    raise ConnectionResetError(f"{self.node} closed the connection")
                reader.feed(data)
            return reply

    def http(self, path: str, *, method: str = "GET", timeout_s: float = 10.0) -> tuple[int, bytes]:
        """(status, body) of one request on its HTTP socket."""
        connection = UnixHTTPConnection(self.http_socket, timeout_s)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def stats(self) -> dict[str, Any]:
        """`/v1/stats`."""
        status, body = self.http("/v1/stats")
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    # -- what it leaves behind ---------------------------------------------------------------

    def fds(self) -> int:
        """How many file descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def check_leaks(self, spare: int = SPARE_FDS, timeout_s: float = 10.0) -> None:
        """Once its clients have gone it must hold about as many descriptors as when it started."""
        most = self.fds_at_start + spare
        try:
            wait_until(lambda: self.fds() <= most, timeout_s)
        except AssertionError:
            held = sorted(_readlinks(Path(f"/proc/{self.pid}/fd")))
            raise DaemonError(
                self._report(
                    f"holds {self.fds()} file descriptors, {self.fds_at_start} at the start: "
                    + ", ".join(held)
                )
            ) from None

    def log_text(self) -> str:
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")
        return ""

    def check_log(self) -> None:
        """No traceback and no forgotten task in everything it has logged."""
        text = self.log_text()
        for words in DIED_BADLY:
            if words in text:
                place = text.index(words)
                raise DaemonError(
                    f"{self.node} logged:\n{text[max(0, place - 1000) : place + 4000]}"
                )

    def check_alive(self) -> None:
        """It must not have ended by itself."""
        if self._process is not None and not self.running:
            raise DaemonError(self._report(f"ended by itself with {self._code()}"))

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return (
                self.command("PING", timeout_s=2.0) == b"PONG"
                and self.http("/readyz", timeout_s=2.0)[0] == 200
            )
        return False

    def _code(self) -> int | None:
        return self._process.poll() if self._process else None

    def _report(self, what: str) -> str:
        return f"{self.node} {what}; the end of its log:\n{self.log_text()[-4000:]}"


class Cluster:
    """A server (and a replica, if asked for), and daemons that reach it through a proxy each.

    `durable`: the server keeps an append-only file, so that killing it loses nothing.
    `without`: laws that the daemons shall not keep. `clock`: the server's wall clock can be
    stepped. `keep`: a directory for the logs, if it ends badly.
    """

    def __init__(
        self,
        nodes: int = 3,
        kind: str = "valkey",
        settings: Mapping[str, object] | None = None,
        *,
        server_args: Sequence[str] = (),
        durable: bool = False,
        replica: bool = False,
        without: Sequence[str] = (),
        clock: bool = False,
        keep: Path | None = None,
    ) -> None:
        # A dead client must not hold memory or a subscription for long.
        args = ["--repl-backlog-size", "16mb", *server_args]
        if durable:
            args += ["--appendonly", "yes", "--appendfsync", "no"]
        self.primary = Server(kind, args)
        """The server that the proxies lead to."""
        self.replica: Server | None = None
        if replica:
            self.replica = Server(kind, args, replica_of=self.primary)
        self.clock: WallClock | None = None
        """The server's wall clock, when it can be stepped."""
        if clock:
            self.clock = WallClock(self.primary.directory)
            self.primary.binary = self.clock.wrapped(self.primary.binary)
        self.settings = dict(settings or {})
        self.proxies: dict[str, Proxy] = {}
        self.daemons: list[Daemon] = []
        self._keep = keep
        self._without = without
        self._nodes = [f"n{number}" for number in range(1, nodes + 1)]

    def start(self) -> Self:
        """Start everything; the daemons side by side."""
        try:
            self.primary.start()
            if self.replica is not None:
                self.replica.start()
            for node in self._nodes:
                self.proxies[node] = Proxy(("127.0.0.1", self.primary.port)).start()
                url = self.proxies[node].url
                self.daemons.append(Daemon(node, url, self.settings, without=self._without))
            for daemon in self.daemons:
                daemon.spawn()
            for daemon in self.daemons:
                daemon.wait_ready()
        except BaseException:
            self.keep_logs()
            self.remove()
            raise
        return self

    def stop(self) -> None:
        """Stop the daemons, with all their checks, then everything else."""
        try:
            failures = []
            for daemon in self.daemons:
                try:
                    daemon.check_alive()
                    if daemon.running:
                        daemon.check_leaks()
                        daemon.stop()
                except DaemonError as error:
                    failures.append(error)
            if failures:
                self.keep_logs()
                raise failures[0]
        finally:
            self.remove()

    def keep_logs(self) -> None:
        """Copy what everybody has logged, and what those who live tell, to where it is kept."""
        if self._keep is None:
            return
        for server, name in ((self.primary, "server"), (self.replica, "replica")):
            if server is not None:
                (self._keep / f"{name}.log").write_text(server.log_text())
        for daemon in self.daemons:
            (self._keep / f"{daemon.node}.log").write_text(daemon.log_text())
            if daemon.running and not daemon.paused:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    _, body = daemon.http("/v1/stats", timeout_s=2.0)
                    (self._keep / f"{daemon.node}.stats.json").write_bytes(body)

    def remove(self) -> None:
        """Kill what still runs and delete every directory."""
        for daemon in self.daemons:
            daemon.remove()
        for proxy in self.proxies.values():
            proxy.stop()
        self.daemons.clear()
        self.proxies.clear()
        for server in (self.primary, self.replica):
            if server is not None:
                server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            self.keep_logs()
            self.remove()

    def daemon(self, node: str) -> Daemon:
        """The daemon of that name."""
        return next(daemon for daemon in self.daemons if daemon.node == node)

    def heal(self) -> None:
        """Undo every proxy's faults, resume and restart what is paused or was killed, wait until
        all daemons are ready and answer a read that must be current. One that died by itself is
        an error."""
        for proxy in self.proxies.values():
            proxy.heal()
        if not self.primary.running:
            self.primary.start()
        self.primary.resume()
        for daemon in self.daemons:
            daemon.check_alive()
            if daemon.running:
                daemon.resume()
            else:
                daemon.spawn()
        for daemon in self.daemons:
            wait_until(
                functools.partial(_is_current, daemon), READY_TIMEOUT_S, f"{daemon.node} current"
            )

    def retarget(self, server: Server, nodes: Sequence[str] | None = None) -> None:
        """Lead these nodes' (default: all) to another server, cutting their connections."""
        for node in nodes if nodes is not None else sorted(self.proxies):
            self.proxies[node].target = ("127.0.0.1", server.port)
            self.proxies[node].cut()


def _is_current(daemon: Daemon) -> bool:
    with contextlib.suppress(OSError):
        reply = daemon.command("COH.GET", "coherence-probe", "MAXSTALE", "0", timeout_s=2.0)
        return reply is None and daemon.http("/readyz", timeout_s=2.0)[0] == 200
    return False


def _readlinks(directory: Path) -> list[str]:
    found = []
    for entry in directory.iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return found
