"""Nodes that are one dictionary behind Unix sockets: the least that a workload can talk to.

They are linearizable, so every checker must be content with what is recorded on them;
`blind` nodes keep what they have once seen, so every checker must complain.
"""

from __future__ import annotations

import contextlib
import fnmatch
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis

EPOCH = "00000000000000aa"


class FakeStore:
    """What all nodes share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.data: dict[str, tuple[str, float]] = {}
        """Value and when it expires."""
        self.tags: dict[str, str] = {}
        self.seq = 0

    def get(self, key: str) -> str | None:
        value, ends = self.data.get(key, (None, float("inf")))
        return value if time.monotonic() < ends else None

    def set(self, key: str, value: str, words: list[str]) -> None:
        ends = float("inf")
        if "PX" in words:
            ends = time.monotonic() + int(words[words.index("PX") + 1]) / 1000
        self.data[key] = (value, ends)
        self.tags.pop(key, None)
        if "TAGS" in words:
            self.tags[key] = words[words.index("TAGS") + 2]

    def version(self) -> str:
        self.seq += 1
        return f"{EPOCH}:{self.seq}"

    def invalidate(self, words: list[str]) -> None:
        what, names = words[0], words[2:]
        for key, tag in list(self.tags.items()):
            covered = {
                "ALL": True,
                "KEYS": key in names[:1],
                "TAGS": tag in names[:1],
                "PREFIXES": fnmatch.fnmatch(key, names[0] + "*") if names else False,
            }
            if covered[what]:
                del self.tags[key]
                self.data.pop(key, None)


class FakeNode:
    """One node: RESP on a Unix socket. `error` may answer a command with an error, or cut."""

    def __init__(
        self,
        path: Path,
        store: FakeStore,
        *,
        blind: bool = False,
        error: Callable[[str, int], str | None] = lambda verb, number: None,
    ) -> None:
        self.path = path
        self._store = store
        self._blind = blind
        self._error = error
        self._seen: dict[str, str | None] = {}
        self._commands = 0
        self._connections: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = hiredis.Reader(encoding="utf-8")
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(1 << 16):
                reader.feed(data)
                while (words := reader.gets()) is not False:
                    self._commands += 1
                    told = self._error(words[0], self._commands)
                    if told == "cut":
                        self._answer(words)
                        return
                    connection.sendall(_encode(told or self._answer(words)))

    def _answer(self, words: list[str]) -> Any:
        verb, rest = words[0].upper(), words[1:]
        with self._store.lock:
            return getattr(self, "_" + verb.lower().replace(".", "_"))(rest)

    def _read(self, key: str) -> str | None:
        if self._blind:
            return self._seen.setdefault(key, self._store.get(key))
        return self._store.get(key)

    def _hello(self, rest: list[str]) -> Any:
        return ["server", "fake", "version", "9", "proto", int(rest[0]), "id", 1]

    def _client(self, rest: list[str]) -> Any:
        return "+OK"

    def _get(self, rest: list[str]) -> Any:
        return self._read(rest[0])

    def _mget(self, rest: list[str]) -> Any:
        return [self._read(key) for key in rest]

    def _coh_mget(self, rest: list[str]) -> Any:
        return self._mget([key for key in rest if key != "SNAPSHOT"])

    def _coh_get(self, rest: list[str]) -> Any:
        return [self._read(rest[0]), f"{EPOCH}:{self._store.seq}", "l2", 0, 0]

    def _set(self, rest: list[str]) -> Any:
        self._coh_set(rest)
        return "+OK"

    def _mset(self, rest: list[str]) -> Any:
        for key, value in zip(rest[::2], rest[1::2], strict=True):
            self._store.set(key, value, [])
        self._store.version()
        return "+OK"

    def _coh_set(self, rest: list[str]) -> Any:
        self._store.set(rest[0], rest[1], rest[2:])
        version = self._store.version()
        return None if "none" in rest else version

    def _del(self, rest: list[str]) -> Any:
        found = sum(self._store.data.pop(key, None) is not None for key in rest)
        self._store.version()
        return found

    def _coh_del(self, rest: list[str]) -> Any:
        keys = rest[: rest.index("ACK")] if "ACK" in rest else rest
        found = self._del(keys)
        return [f"{EPOCH}:{self._store.seq}", found]

    def _coh_invalidate(self, rest: list[str]) -> Any:
        self._store.invalidate(rest)
        return [self._store.version(), [["n1", "0.1"]], []]

    def _incr(self, rest: list[str]) -> Any:
        number = int(self._store.get(rest[0]) or 0) + 1
        self._store.set(rest[0], str(number), [])
        return number


def _encode(reply: Any) -> bytes:
    if isinstance(reply, list) and reply[:1] == ["server"]:  # HELLO: a map in RESP3
        pairs = b"".join(_encode(item) for item in reply)
        return b"%%%d\r\n%b" % (len(reply) // 2, pairs)
    if isinstance(reply, list):
        return b"*%d\r\n" % len(reply) + b"".join(_encode(item) for item in reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if reply is None:
        return b"$-1\r\n"
    if reply[:1] in ("+", "-"):
        return f"{reply}\r\n".encode()
    data = reply.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
