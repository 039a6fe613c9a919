"""A blocking RESP connection, for what a benchmark says one command at a time."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import hiredis

from coherenced.errors import CommandError, DaemonUnreachable

PATIENCE_S: Final = 30.0
_CHUNK: Final = 1 << 18

Word = bytes | str | int
pack: Final[Callable[[tuple[Any, ...]], bytes]] = hiredis.pack_command
"""Words -> the bytes of a command."""


class Talk:
    """One connection to a Unix socket. Replies are raw: bytes, int, list, None."""

    def __init__(self, path: Path, patience_s: float = PATIENCE_S) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(patience_s)
        self._reader = hiredis.Reader()
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise DaemonUnreachable(f"cannot connect to {path}: {error}") from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, *words: Word) -> None:
        """Say it, and do not wait for the reply."""
        self._socket.sendall(pack(words))

    def send_packed(self, data: bytes) -> None:
        """The same, for packed commands."""
        self._socket.sendall(data)

    def receive(self) -> Any:
        """The next reply. Raises `CommandError` when it is an error."""
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(_CHUNK)
            if not data:
                raise DaemonUnreachable(f"{self.path}: the connection was closed")
            self._reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise CommandError(str(reply))
        return reply

    def ask(self, *words: Word) -> Any:
        """Say it and wait for the reply."""
        self.send(*words)
        return self.receive()

    def stats(self) -> dict[str, Any]:
        """A daemon's own figures."""
        found: dict[str, Any] = json.loads(self.ask("COH.STATS"))
        return found

    def info(self, section: str) -> dict[str, str]:
        """A server's INFO."""
        lines = self.ask("INFO", section).decode().splitlines()
        return dict(line.partition(":")[::2] for line in lines if ":" in line)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def values_read(upstream: Talk) -> int:
    """How many values nodes have asked a server for: with each they ask how long it lives."""
    told = upstream.info("commandstats").get("cmdstat_pttl", "calls=0")
    return int(told.partition("calls=")[2].partition(",")[0])
