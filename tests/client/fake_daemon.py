"""A daemon for tests: it speaks RESP out of a dict, from threads, and misbehaves on demand."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
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
        self.ends: dict[bytes, float] = {}
        """When a value's time to live ends, on `time.monotonic`."""
        self.answers_take_s = 0.0
        """By so much what is told of these ends is behind them."""
        self.tags: dict[bytes, list[bytes]] = {}
        self.tokens: dict[bytes, tuple[bytes, float]] = {}
        """Key -> the living token and when it dies."""
        self.seq = 0
        self.commands: list[list[bytes]] = []
        self.connections = 0
        self.max_unread = 1 << 30
        """An unfinished command beyond this many bytes is refused, and the connection closed."""
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._is_closed = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._start(self._accept)

    def drop_connections(self) -> None:
        """As a restarting daemon does; the listener stays."""
        with self._lock:
            connections, self._open = self._open, []
        for link in connections:
            with contextlib.suppress(OSError):  # its thread has just closed it
                link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop, and leave the socket file behind, as a killed daemon does."""
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self.drop_connections()
        with self._lock:
            self._is_closed = True
            self._changed.notify_all()
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
        if command == [b"PING"]:
            return b"+PONG\r\n"  # a greeting, whatever the script is
        self.commands.append(command)
        scripted = self.script(command)  # may wait: only this connection stands still
        if scripted is not None:
            return scripted
        with self._lock:
            self._expire()
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
                if b"META" not in words:
                    return value
                meta = [value, bulk(self._version()), bulk("l1"), bulk("1.5"), b":0\r\n"]
                return array([*meta, *([self._left(words[0])] if b"TTL" in words else [])])
            case b"COH.LEASE":
                options = [word for word in words[1:] if word != b"EPHEMERAL"]
                return self._lease(words[0], _options(options))
            case b"COH.FILL":
                held = self.tokens.get(words[0])
                if held is None or held[0] != words[1] or held[1] < time.monotonic():
                    return error("LOST the token is dead")
                self._store(words[0], words[2], words[3:])
                return bulk(self._next())
            case b"COH.RELEASE":
                alive = self.tokens.get(words[0], (b"",))[0] == words[1]
                if alive:
                    self._forget_token(words[0])
                return b":%d\r\n" % alive
            case b"COH.SET":
                if b"NX" in words and words[0] in self.values:
                    return error("CONFLICT the key is there already")
                self._store(words[0], words[1], words[2:])
                return bulk(self._next())
            case b"COH.DEL":
                keys = words[: words.index(b"ACK")] if b"ACK" in words else words
                gone = [self.values.pop(key, None) for key in keys]
                for key in keys:
                    self._forget_token(key)
                return array([bulk(self._next()), b":%d\r\n" % sum(v is not None for v in gone)])
            case b"COH.INVALIDATE":
                for key in [*self.values, *self.tokens]:
                    if key in words or set(self.tags.get(key, ())) & set(words):
                        self.values.pop(key, None)
                        self._forget_token(key)
                node = array([bulk("a"), bulk("0.0")])
                return array([bulk(self._next()), array([node]), array([]), array([])])
            case b"COH.STATS" | b"COH.NODES" | b"COH.EXPLAIN":
                return bulk(json.dumps({"asked": [word.decode() for word in command]}))
        return error(f"ERR unknown command '{verb.decode()}'")

    def _expire(self) -> None:
        now = time.monotonic()
        for key in [key for key, end in self.ends.items() if end <= now]:
            self.values.pop(key, None)
            del self.ends[key]

    def _left(self, key: bytes) -> bytes:
        if key not in self.ends or key not in self.values:
            return b":-1\r\n"
        return b":%d\r\n" % ((self.ends[key] - time.monotonic() - self.answers_take_s) * 1e3)

    def _store(self, key: bytes, value: bytes, options: list[bytes]) -> None:
        self.values[key] = value
        self.ends.pop(key, None)
        if b"PX" in options:
            ms = int(options[options.index(b"PX") + 1])
            self.ends[key] = time.monotonic() + ms / 1e3
        if b"TAGS" in options:
            at = options.index(b"TAGS")
            self.tags[key] = options[at + 2 : at + 2 + int(options[at + 1])]
        self._forget_token(key)

    def _forget_token(self, key: bytes) -> None:
        self.tokens.pop(key, None)
        self._changed.notify_all()

    def _lease(self, key: bytes, options: dict[bytes, int]) -> bytes:
        """The value, else a token, else a wait for either: the lock is let go meanwhile."""
        until = time.monotonic() + options.get(b"WAIT", 0) / 1e3
        while True:
            now = time.monotonic()
            self._expire()
            held = self.tokens.get(key)
            is_held = held is not None and held[1] > now
            refresh_s = options.get(b"REFRESH", -1) / 1e3
            is_due = self.ends.get(key, float("inf")) - now <= refresh_s
            if key in self.values and (is_held or not is_due):
                found = [bulk("VALUE"), bulk(self.values[key]), bulk(self._version())]
                return array([*found, self._left(key)])
            if not is_held:
                token = f"t{len(self.commands)}".encode()
                self.tokens[key] = (token, now + options[b"PX"] / 1e3)
                return array([bulk("TOKEN"), bulk(token), bulk(self._version())])
            assert held is not None
            if now >= until or self._is_closed:
                return bulk(None)
            self._changed.wait(max(0.001, min(until, held[1]) - now))

    def _version(self) -> str:
        return f"{EPOCH}:{self.seq}"

    def _next(self) -> str:
        self.seq += 1
        return self._version()


def _options(words: list[bytes]) -> dict[bytes, int]:
    return {word: int(value) for word, value in zip(words[::2], words[1::2], strict=True)}
