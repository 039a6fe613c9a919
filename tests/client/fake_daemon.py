"""A daemon for tests: it speaks RESP out of a dict, from threads, and misbehaves on demand."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hiredis

EPOCH = "0f1e2d3c4b5a6978"

Script = Callable[[list[bytes]], "bytes | Misbehaviour | None"]


class Misbehaviour:
    """What a script may return instead of reply bytes."""


CLOSE = Misbehaviour()
"""Close the connection without an answer."""
SILENCE = Misbehaviour()
"""Never answer this command."""


def bulk(value: bytes | str | None) -> bytes:
    if value is None:
        return b"$-1\r\n"
    raw = value.encode() if isinstance(value, str) else value
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def array(items: Sequence[bytes]) -> bytes:
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def error(text: str) -> bytes:
    return f"-{text}\r\n".encode()


class FakeDaemon:
    """Listens on `path` until closed. `commands` is everything it was asked, in order."""

    def __init__(
        self, path: Path, script: Script = lambda command: None, password: str = ""
    ) -> None:
        self.path = path
        self.script = script
        self.password = password
        self.values: dict[bytes, bytes] = {}
        self.seq = 0
        self.commands: list[list[bytes]] = []
        self.connections = 0
        self.max_unread = 1 << 30
        """An unfinished command beyond this many bytes is refused, and the connection closed."""
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._start(self._accept)

    def drop_connections(self) -> None:
        """As a restarting daemon does; the listener stays."""
        with self._lock:
            connections, self._open = self._open, []
        for link in connections:
            link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop, and leave the socket file behind, as a killed daemon does."""
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self.drop_connections()
        for thread in list(self._threads):
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.append(link)
            self._start(self._serve, link)

    def _serve(self, link: socket.socket) -> None:
        reader = hiredis.Reader(notEnoughData=None)
        with link:
            try:
                unread = 0
                while data := link.recv(1 << 16):
                    unread += len(data)
                    if unread > self.max_unread:
                        link.sendall(error("ERR Protocol error: too long"))
                        return
                    reader.feed(data)
                    while (command := reader.gets()) is not None:
                        unread = 0
                        reply = self._answer(command)
                        if reply is CLOSE:
                            return
                        if isinstance(reply, bytes):
                            link.sendall(reply)
            except OSError:
                return
            finally:
                with self._lock:
                    if link in self._open:
                        self._open.remove(link)

    def _answer(self, command: list[bytes]) -> bytes | Misbehaviour:
        self.commands.append(command)
        scripted = self.script(command)  # may wait: only this connection stands still
        if scripted is not None:
            return scripted
        with self._lock:
            return self._execute(command)

    def _execute(self, command: list[bytes]) -> bytes:
        verb, *words = command
        match verb.upper():
            case b"AUTH":
                ok = words == [self.password.encode()]
                return b"+OK\r\n" if ok else error("WRONGPASS invalid username-password pair")
            case b"GET":
                return bulk(self.values.get(words[0]))
            case b"MGET":
                return array([bulk(self.values.get(word)) for word in words])
            case b"COH.GET":
                value = bulk(self.values.get(words[0]))
                if words[-1] != b"META":
                    return value
                return array([value, bulk(self._version()), bulk("l1"), bulk("1.5"), b":0\r\n"])
            case b"COH.SET":
                self.values[words[0]] = words[1]
                return bulk(self._next())
            case b"COH.DEL":
                keys = words[: words.index(b"ACK")] if b"ACK" in words else words
                gone = [self.values.pop(key, None) for key in keys]
                return array([bulk(self._next()), b":%d\r\n" % sum(v is not None for v in gone)])
            case b"COH.INVALIDATE":
                node = array([bulk("a"), bulk("0.0")])
                return array([bulk(self._next()), array([node]), array([])])
            case b"COH.STATS" | b"COH.NODES" | b"COH.EXPLAIN":
                return bulk(json.dumps({"asked": [word.decode() for word in command]}))
        return error(f"ERR unknown command '{verb.decode()}'")

    def _version(self) -> str:
        return f"{EPOCH}:{self.seq}"

    def _next(self) -> str:
        self.seq += 1
        return self._version()
