"""Random command sequences for two RESP endpoints that must answer alike.

    endpoint_a, endpoint_b = Endpoint(path_a), Endpoint(path_b)
    for batch in sequence(seed, 300):
        assert_alike(batch, endpoint_a.ask(batch), endpoint_b.ask(batch))

Few keys, every command of the table that has Redis's meaning, every option, and the
usual mistakes: wrong arity, wrong types, numbers that are none, overflow, expiries in the
past. Expiries are far away or long gone, so that no reply depends on how fast it came.
A batch is pipelined; some are transactions. Nothing is sent that differs between a
sidecar and a server by design (SELECT, SUBSCRIBE, INFO, MULTI in MULTI).
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hiredis

Command = tuple[bytes, ...]

KEYS = tuple(b"k%d" % i for i in range(5))
WRONG_TYPE_KEY = b"a-list"
"""Holds a list: made by FOREIGN."""
FLUSH: Command = (b"FLUSHALL",)
FOREIGN: Command = (b"RPUSH", WRONG_TYPE_KEY, b"x", b"y")
"""FLUSH goes through the endpoint, then this to the server itself, then a sequence starts."""
NUMBERS = (b"0", b"1", b"-1", b"7", b"9223372036854775807", b"-9223372036854775808")
NO_NUMBERS = (b"", b"x", b"1.5", b" 1", b"01", b"+1", b"9223372036854775808", b"1e3")
FLOATS = (b"0", b"1.5", b"-2.25", b"3e2", b"1e400", b"nan", b"inf", b"abc", b"")
VALUES = (b"", b"a", b"hello", b"10", b"-3", b"2.5", b"\x00\xff\r\n", b"x" * 100, b"$-1\r\n")
FAR_AT_S, FAR_AT_MS = (b"4102444800", b"4102444801"), (b"4102444800000", b"4102444800001")
NO_EXPIRY = {
    b"EX": (b"0", b"-1", b"9223372036854775807", b"-9223372036854775808", b"9999999999999999"),
    b"PX": (b"0", b"-1", b"9223372036854775807", b"-9223372036854775808"),
    b"EXAT": (b"0", b"-1", b"9223372036854775807"),
    b"PXAT": (b"0", b"-1", b"9223372036854775808"),
}
"""Refused, or a deletion."""

TIME_TO_LIVE = (b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME")
SLACK_MS = 20_000
"""By how much two endpoints' remaining times may differ."""


class _Maker:
    """Draws commands. Methods named after what they draw."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.makers: tuple[tuple[int, Callable[[], Command]], ...] = (
            (14, self.plain_read),
            (12, self.set),
            (10, self.counter),
            (8, self.expire),
            (8, self.other_write),
            (6, self.many_keys),
            (5, self.part),
            (4, self.getex),
            (2, self.whole),
            (6, self.mistake),
        )

    def one_of(self, items: Sequence[bytes]) -> bytes:
        return self.random.choice(items)

    def key(self) -> bytes:
        return WRONG_TYPE_KEY if self.random.random() < 0.08 else self.one_of(KEYS)

    def keys(self) -> list[bytes]:
        return [self.key() for _ in range(self.random.randint(1, 5))]

    def value(self) -> bytes:
        return self.one_of(VALUES)

    def number(self) -> bytes:
        return self.one_of(NO_NUMBERS if self.random.random() < 0.2 else NUMBERS)

    def ttl(self, unit: bytes) -> bytes:
        """An operand for EX, PX, EXAT, PXAT."""
        if self.random.random() < 0.25:
            return self.one_of(NO_EXPIRY[unit] + NO_NUMBERS)
        if unit in (b"EX", b"PX"):
            # Never the same twice: GT and LT would depend on the millisecond.
            return b"%d" % self.random.randint(10**5, 10**7) + (b"000" if unit == b"PX" else b"")
        return self.one_of(FAR_AT_S if unit == b"EXAT" else FAR_AT_MS)

    def cased(self, word: bytes) -> bytes:
        return self.one_of((word, word, word.lower(), word.title()))

    # -- commands ---------------------------------------------------------------------

    def command(self) -> Command:
        weights = [weight for weight, _ in self.makers]
        made = self.random.choices(self.makers, weights)[0][1]()
        return (self.cased(made[0]), *made[1:])

    def plain_read(self) -> Command:
        names = (b"GET", b"GET", b"GET", b"STRLEN", b"TYPE", *TIME_TO_LIVE)
        return (self.one_of(names), self.key())

    def set(self) -> Command:
        name = self.one_of((b"SET", b"SET", b"SET", b"SET", b"SETEX", b"PSETEX", b"SETNX"))
        if name == b"SETNX":
            return (name, self.key(), self.value())
        if name != b"SET":
            unit = b"EX" if name == b"SETEX" else b"PX"
            return (name, self.key(), self.ttl(unit), self.value())
        options: list[bytes] = []
        for _ in range(self.random.choice((0, 0, 0, 1, 1, 2, 3))):
            option = self.one_of((b"EX", b"PX", b"EXAT", b"PXAT", b"KEEPTTL", b"NX", b"XX", b"GET"))
            options.append(self.cased(option))
            if option in (b"EX", b"PX", b"EXAT", b"PXAT") and self.random.random() < 0.95:
                options.append(self.ttl(option))
        if self.random.random() < 0.03:
            options.append(b"NONSENSE")
        return (b"SET", self.key(), self.value(), *options)

    def counter(self) -> Command:
        name = self.one_of((b"INCR", b"DECR", b"INCRBY", b"DECRBY", b"INCRBYFLOAT"))
        if name in (b"INCR", b"DECR"):
            return (name, self.key())
        amount = self.one_of(FLOATS) if name == b"INCRBYFLOAT" else self.number()
        return (name, self.key(), amount)

    def expire(self) -> Command:
        name = self.one_of((b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT", b"PERSIST"))
        if name == b"PERSIST":
            return (name, self.key())
        unit = {b"EXPIRE": b"EX", b"PEXPIRE": b"PX", b"EXPIREAT": b"EXAT", b"PEXPIREAT": b"PXAT"}
        if unit[name].endswith(b"AT") and self.random.random() < 0.1:
            return (name, self.key(), b"1")  # with SET it would expire some time later
        options = []
        if self.random.random() < 0.4:
            options = [self.cased(self.one_of((b"NX", b"XX", b"GT", b"LT", b"NO")))]
            if self.random.random() < 0.2:
                options.append(self.one_of((b"NX", b"XX", b"GT", b"LT")))
        return (name, self.key(), self.ttl(unit[name]), *options)

    def other_write(self) -> Command:
        name = self.one_of((b"APPEND", b"GETSET", b"GETDEL", b"SETRANGE", b"MSET", b"MSETNX"))
        if name in (b"APPEND", b"GETSET"):
            return (name, self.key(), self.value())
        if name == b"GETDEL":
            return (name, self.key())
        if name == b"SETRANGE":
            offset = self.one_of((b"0", b"3", b"20", b"-1", b"x", b"536870912"))
            return (name, self.key(), offset, self.value())
        pairs = [part for key in self.keys() for part in (key, self.value())]
        if self.random.random() < 0.1:
            pairs.pop()
        return (name, *pairs)

    def many_keys(self) -> Command:
        name = self.one_of((b"MGET", b"MGET", b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"))
        keys = self.keys()
        if name in (b"DEL", b"UNLINK"):  # the wrong type is to stay
            keys = [key if key != WRONG_TYPE_KEY else KEYS[0] for key in keys]
        return (name, *keys)

    def part(self) -> Command:
        ends = (b"0", b"1", b"-1", b"-3", b"100", b"x")
        name = self.one_of((b"GETRANGE", b"SUBSTR"))
        return (name, self.key(), self.one_of(ends), self.one_of(ends))

    def getex(self) -> Command:
        option = self.one_of((b"", b"EX", b"PX", b"EXAT", b"PXAT", b"PERSIST", b"NO"))
        if not option:
            return (b"GETEX", self.key())
        if option in (b"PERSIST", b"NO"):
            return (b"GETEX", self.key(), option)
        return (b"GETEX", self.key(), self.cased(option), self.ttl(option))

    def whole(self) -> Command:
        return self.random.choice(
            (
                (b"DBSIZE",),
                (b"SCAN", b"0", b"COUNT", b"1000"),
                (b"SCAN", b"0", b"MATCH", b"k*", b"COUNT", b"1000", b"TYPE", b"string"),
                (b"SCAN", b"x"),
                (b"KEYS", b"*"),
                (b"KEYS", b"k[0-2]"),
                (b"SCAN", b"0", b"COUNT", b"no"),
                (b"PING",),
                (b"PING", b"hello"),
                (b"ECHO", b"\x00\r\n"),
                (b"FLUSHDB", b"NONSENSE"),
            )
        )

    def mistake(self) -> Command:
        """A wrong number of arguments, or no command at all."""
        made = self.random.choice((self.plain_read, self.set, self.counter, self.expire, self.part))
        command = made()
        kind = self.random.randrange(4)
        if kind == 0:
            return command[:1]
        if kind == 1 and command[0] in (b"GET", b"INCR", b"SETEX", b"SETNX", b"GETRANGE"):
            return (*command, b"too", b"many")
        if kind == 2:
            return (b"NO" + command[0], *command[1:])
        return (command[0], *command[1:2])

    # -- batches ----------------------------------------------------------------------

    def batch(self) -> list[Command]:
        kind = self.random.random()
        if kind < 0.5:
            return [self.command()]
        commands = [self.command() for _ in range(self.random.randint(2, 12))]
        if kind < 0.85:
            return commands
        end: Command = (b"DISCARD",) if self.random.random() < 0.1 else (b"EXEC",)
        transaction: list[Command] = [(b"MULTI",), *commands, end]
        if self.random.random() < 0.3:
            watch: list[Command] = [(b"WATCH", *self.keys())]
            if self.random.random() < 0.5:
                watch.append(self.command())  # may touch what is watched
            transaction = [*watch, *transaction]
        return transaction


def sequence(seed: int, batches: int) -> list[list[Command]]:
    """The same batches for the same seed."""
    maker = _Maker(seed)
    return [maker.batch() for _ in range(batches)]


# -- asking and comparing -----------------------------------------------------------------


class Endpoint:
    """A blocking RESP connection to a Unix socket."""

    def __init__(self, path: Path | str, *, resp3: bool = False, timeout_s: float = 20.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        self._socket.connect(str(path))
        self._reader = hiredis.Reader(notEnoughData=self)
        if resp3:
            self.ask([(b"HELLO", b"3")])

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to a pipelined batch; errors as `hiredis.ReplyError`."""
        self._socket.sendall(b"".join(hiredis.pack_command(command) for command in commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError(f"closed after {len(replies)} of {len(commands)}")
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not self:
                replies.append(reply)
        return replies

    def close(self) -> None:
        self._socket.close()


def assert_alike(batch: Sequence[Command], ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    """Fail with the first command whose replies differ."""
    assert len(ours) == len(theirs)
    queued: list[Command] = []
    for i, command in enumerate(batch):
        name = command[0].upper()
        same = (
            _alike_all(queued, ours[i], theirs[i])
            if name == b"EXEC" and isinstance(ours[i], list) and isinstance(theirs[i], list)
            else _alike(command, ours[i], theirs[i])
        )
        if not same:
            told = "\n".join(f"  {'->' if i == j else '  '} {c!r}" for j, c in enumerate(batch))
            raise AssertionError(f"{ours[i]!r} instead of {theirs[i]!r} to\n{told}")
        if name == b"MULTI":
            queued = []
        elif theirs[i] == b"QUEUED":
            queued.append(command)


def _alike_all(commands: Sequence[Command], ours: list[Any], theirs: list[Any]) -> bool:
    return len(ours) == len(theirs) == len(commands) and all(
        _alike(command, a, b) for command, a, b in zip(commands, ours, theirs, strict=True)
    )


def _alike(command: Command, ours: Any, theirs: Any) -> bool:
    name = command[0].upper()
    if isinstance(ours, hiredis.ReplyError) or isinstance(theirs, hiredis.ReplyError):
        return type(ours) is type(theirs) and str(ours) == str(theirs)
    if name in TIME_TO_LIVE and isinstance(ours, int) and isinstance(theirs, int):
        if ours < 0 or theirs < 0:
            return ours == theirs
        slack = SLACK_MS if name.startswith(b"P") else SLACK_MS // 1000
        return abs(ours - theirs) <= slack
    if name == b"KEYS" and isinstance(ours, list) and isinstance(theirs, list):
        return sorted(ours) == sorted(theirs)
    if name == b"SCAN" and isinstance(ours, list) and isinstance(theirs, list):
        return ours[0] == theirs[0] and sorted(ours[1]) == sorted(theirs[1])
    return type(ours) is type(theirs) and ours == theirs
