"""A private Valkey server that may be frozen and killed, and come back with less than it had."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import hiredis

from coherenced.embedded import die_with_parent, server_executable
from coherenced.errors import CommandError, StartError

START_S: Final = 15.0
DUMP: Final = "dump.rdb"
AOF: Final = "appendonlydir"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], what: str, patience_s: float = START_S) -> None:
    """Until `condition` holds. `StartError` when it does not in time."""
    until_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > until_s:
            raise StartError(f"waited {patience_s:g} s in vain for {what}")
        time.sleep(0.005)


class Server:
    """One server process on a TCP port that stays its own over kills and restarts.

    It keeps an append-only file, so that what it had acknowledged survives a kill.
    Start it on a thread that outlives it.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, durable: bool = True) -> None:
        """Start it with what its files hold; `durable` False: with its dump, without the log."""
        executable = server_executable()
        for _ in range(3):
            self._spawn(executable, durable)
            with contextlib.suppress(StartError):
                wait_until(lambda: self._answers() or not self.is_running, "the server")
            if self.is_running:
                return
            self.port = free_port()  # somebody took it between finding and binding it
        words = (self.directory / "log").read_text(errors="replace").strip().splitlines()
        raise StartError(f"the private server does not come up: {words[-1] if words else '?'}")

    def _spawn(self, executable: str, durable: bool) -> None:
        options = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.directory,
            "save": "",
            "appendonly": "yes" if durable else "no",
            "appendfsync": "no",
            "repl-diskless-sync-delay": 0,
            "repl-backlog-size": "16mb",
            "enable-debug-command": "no",
            "loglevel": "warning",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the program, which stops it in turn
                preexec_fn=die_with_parent(os.getpid()),
            )

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, CommandError):
            return bool(self.ask("PING") == b"PONG")
        return False

    def pause(self) -> None:
        """SIGSTOP: it is frozen, its sockets stay open."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT. Harmless when it does not run."""
        if self._process is not None and self.is_running:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, as a crash. Harmless when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart_empty(self) -> None:
        """Kill it; it comes back with nothing."""
        self.kill()
        self._forget_files()
        self.start()

    def save(self) -> bytes:
        """What `restart_from` takes: all it holds now."""
        self.ask("SAVE")
        return (self.directory / DUMP).read_bytes()

    def restart_from(self, saved: bytes) -> None:
        """Kill it; it comes back with what it held when that was saved."""
        self.kill()
        self._forget_files()
        (self.directory / DUMP).write_bytes(saved)
        self.start(durable=False)  # with an append-only file it would not look at its dump
        self.ask("CONFIG", "SET", "appendonly", "yes")

    def _forget_files(self) -> None:
        (self.directory / DUMP).unlink(missing_ok=True)
        shutil.rmtree(self.directory / AOF, ignore_errors=True)

    def follow(self, other: Server) -> None:
        """Be a replica of `other`, and in sync with it when this returns."""
        self.ask("REPLICAOF", "127.0.0.1", other.port)
        wait_until(lambda: self.info("master_link_status") == "up", "the replica to be in sync")

    def info(self, field: str) -> str:
        """One field of INFO replication; '' when it is not there."""
        for line in self.ask("INFO", "replication").decode().splitlines():
            name, colon, value = line.partition(":")
            if colon and name == field:
                return str(value)
        return ""

    def ask(self, *words: str | bytes | int, patience_s: float = 5.0) -> Any:
        """One command on a connection of its own: the raw reply. `CommandError` for an error."""
        return self.ask_all([words], patience_s)[0]

    def ask_all(
        self, commands: Sequence[tuple[str | bytes | int, ...]], patience_s: float = 5.0
    ) -> list[Any]:
        """Several, pipelined."""
        pack: Any = hiredis.pack_command
        reader = hiredis.Reader(replyError=CommandError)
        replies: list[Any] = []
        with socket.create_connection(("127.0.0.1", self.port), patience_s) as link:
            link.sendall(b"".join(pack(words) for words in commands))
            while len(replies) < len(commands):
                data = link.recv(1 << 18)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                reader.feed(data)
                while (reply := reader.gets()) is not False:
                    replies.append(reply)
        for reply in replies:
            if isinstance(reply, CommandError):
                raise reply
        return replies
