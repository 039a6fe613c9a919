"""The Redis commands that the modelled server executes, one function each.

Naive on purpose: a dict of values with a deadline in whole milliseconds of the
server's clock. Semantics and error texts are Redis's own; the differential
test runs the same commands on a real server.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from decimal import Decimal, getcontext
from typing import Final

from coherenced.core.model import Reply, ReplyError

getcontext().prec = 40

WRONG_TYPE: Final = ReplyError("WRONGTYPE Operation against a key holding the wrong kind of value")
SYNTAX: Final = ReplyError("ERR syntax error")
NOT_INTEGER: Final = ReplyError("ERR value is not an integer or out of range")
NOT_FLOAT: Final = ReplyError("ERR value is not a valid float")
OVERFLOW: Final = ReplyError("ERR increment or decrement would overflow")
NO_SUCH_KEY: Final = ReplyError("ERR no such key")
OK: Final = b"OK"

INT64_MAX: Final = 2**63 - 1
INT64_MIN: Final = -(2**63)


class Item:
    """One stored value: bytes for a string, a list of bytes for a list."""

    __slots__ = ("expire_ms", "value")

    def __init__(self, value: bytes | list[bytes], expire_ms: int | None = None) -> None:
        self.value = value
        self.expire_ms = expire_ms


class Keyspace:
    """The data of one database. `now_ms` is the server's clock, in whole milliseconds."""

    def __init__(self) -> None:
        self.items: dict[bytes, Item] = {}
        self.now_ms = 0

    def copy(self) -> Keyspace:
        other = Keyspace()
        other.now_ms = self.now_ms
        other.items = {
            key: Item(
                list(item.value) if isinstance(item.value, list) else item.value, item.expire_ms
            )
            for key, item in self.items.items()
        }
        return other

    def peek(self, key: bytes) -> Item | None:
        """The live item under `key`; an expired one is forgotten on the way."""
        item = self.items.get(key)
        if item is not None and item.expire_ms is not None and self.now_ms > item.expire_ms:
            del self.items[key]
            return None
        return item

    def string(self, key: bytes) -> bytes | ReplyError | None:
        item = self.peek(key)
        if item is None:
            return None
        return WRONG_TYPE if isinstance(item.value, list) else item.value

    def ttl_ms(self, key: bytes) -> int:
        """Redis's PTTL: -2 not there, -1 no expiry."""
        item = self.peek(key)
        if item is None:
            return -2
        return -1 if item.expire_ms is None else item.expire_ms - self.now_ms

    def execute(self, argv: tuple[bytes, ...]) -> Reply:
        """Run one command; an error is a `ReplyError` value and has changed nothing."""
        name = argv[0].upper().decode("ascii")
        command = COMMANDS.get(name)
        if command is None:
            return ReplyError(f"ERR unknown command '{name}'")
        try:
            return command(self, *argv[1:])
        except TypeError:
            return ReplyError(f"ERR wrong number of arguments for '{name.lower()}' command")
        except _Refused as refused:
            return refused.error


class _Refused(Exception):
    def __init__(self, error: ReplyError) -> None:
        self.error = error


def _integer(raw: bytes) -> int:
    text = raw.decode("latin-1")
    digits = text[1:] if text[:1] == "-" else text
    canonical = digits.isascii() and digits.isdigit() and (digits[0] != "0" or text == "0")
    if not canonical or not INT64_MIN <= int(text) <= INT64_MAX:
        raise _Refused(NOT_INTEGER)
    return int(text)


def _text(value: bytes | ReplyError | None) -> bytes | None:
    if isinstance(value, ReplyError):
        raise _Refused(value)
    return value


def _deadline(space: Keyspace, unit: bytes, raw: bytes, command: str) -> int:
    amount = _integer(raw)
    absolute = unit.endswith(b"AT")
    milliseconds = amount if unit.startswith(b"P") else amount * 1000
    at_ms = milliseconds if absolute else space.now_ms + milliseconds
    if amount <= 0 or at_ms > INT64_MAX:
        raise _Refused(ReplyError(f"ERR invalid expire time in '{command}' command"))
    return at_ms


def _store(space: Keyspace, key: bytes, value: bytes, expire_ms: int | None) -> None:
    space.items[key] = Item(value, expire_ms)
    space.peek(key)


def _set(space: Keyspace, key: bytes, value: bytes, *options: bytes) -> Reply:
    condition = b""
    want_old = keep_ttl = False
    expire_ms: int | None = None
    rest = [option.upper() for option in options]
    i = 0
    while i < len(rest):
        option = rest[i]
        if option in (b"NX", b"XX") and condition in (b"", option):
            condition = option
        elif option == b"GET":
            want_old = True
        elif option == b"KEEPTTL" and expire_ms is None:
            keep_ttl = True
        elif (
            option in (b"EX", b"PX", b"EXAT", b"PXAT")
            and not keep_ttl
            and expire_ms is None
            and i + 1 < len(rest)
        ):
            expire_ms = _deadline(space, option, options[i + 1], "set")
            i += 1
        else:
            return SYNTAX
        i += 1
    item = space.peek(key)
    old: Reply = None
    if want_old:
        old = _text(space.string(key))
    if (condition == b"NX" and item is not None) or (condition == b"XX" and item is None):
        return old
    kept = item.expire_ms if keep_ttl and item is not None else expire_ms
    _store(space, key, value, kept)
    return old if want_old else OK


def _setex(space: Keyspace, key: bytes, seconds: bytes, value: bytes) -> Reply:
    _store(space, key, value, _deadline(space, b"EX", seconds, "setex"))
    return OK


def _psetex(space: Keyspace, key: bytes, milliseconds: bytes, value: bytes) -> Reply:
    _store(space, key, value, _deadline(space, b"PX", milliseconds, "psetex"))
    return OK


def _setnx(space: Keyspace, key: bytes, value: bytes) -> Reply:
    if space.peek(key) is not None:
        return 0
    _store(space, key, value, None)
    return 1


def _getset(space: Keyspace, key: bytes, value: bytes) -> Reply:
    old = _text(space.string(key))
    _store(space, key, value, None)
    return old


def _get(space: Keyspace, key: bytes) -> Reply:
    return space.string(key)


def _getdel(space: Keyspace, key: bytes) -> Reply:
    old = _text(space.string(key))
    space.items.pop(key, None)
    return old


def _getex(space: Keyspace, key: bytes, *options: bytes) -> Reply:
    item = space.peek(key)
    upper = [option.upper() for option in options]
    value = _text(space.string(key))
    if upper == [b"PERSIST"]:
        if item is not None:
            item.expire_ms = None
        return value
    if len(upper) == 2 and upper[0] in (b"EX", b"PX", b"EXAT", b"PXAT"):
        at_ms = _deadline(space, upper[0], options[1], "getex")
        if item is not None:
            item.expire_ms = at_ms
            space.peek(key)
        return value
    return SYNTAX if upper else value


def _mget(space: Keyspace, *keys: bytes) -> Reply:
    values = [space.string(key) for key in keys]
    return [None if isinstance(value, ReplyError) else value for value in values]


def _mset(space: Keyspace, *pairs: bytes) -> Reply:
    if not pairs or len(pairs) % 2:
        return ReplyError("ERR wrong number of arguments for 'mset' command")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        _store(space, key, value, None)
    return OK


def _msetnx(space: Keyspace, *pairs: bytes) -> Reply:
    if not pairs or len(pairs) % 2:
        return ReplyError("ERR wrong number of arguments for 'msetnx' command")
    if any(space.peek(key) is not None for key in pairs[::2]):
        return 0
    _mset(space, *pairs)
    return 1


def _del(space: Keyspace, *keys: bytes) -> Reply:
    if not keys:
        raise TypeError
    count = 0
    for key in keys:
        if space.peek(key) is not None:
            del space.items[key]
            count += 1
    return count


def _exists(space: Keyspace, *keys: bytes) -> Reply:
    return sum(space.peek(key) is not None for key in keys)


def _incrby(space: Keyspace, key: bytes, raw: bytes) -> Reply:
    by = _integer(raw)
    item = space.peek(key)
    old = _text(space.string(key))
    total = (0 if old is None else _integer(old)) + by
    if not INT64_MIN <= total <= INT64_MAX:
        return OVERFLOW
    _store(space, key, b"%d" % total, item.expire_ms if item is not None else None)
    return total


def _incr(space: Keyspace, key: bytes) -> Reply:
    return _incrby(space, key, b"1")


def _decr(space: Keyspace, key: bytes) -> Reply:
    return _incrby(space, key, b"-1")


def _decrby(space: Keyspace, key: bytes, raw: bytes) -> Reply:
    by = _integer(raw)
    if by == INT64_MIN:
        return ReplyError("ERR decrement would overflow")
    return _incrby(space, key, b"%d" % -by)


def _incrbyfloat(space: Keyspace, key: bytes, raw: bytes) -> Reply:
    item = space.peek(key)
    old = _text(space.string(key))
    try:
        total = (Decimal(0) if old is None else Decimal(old.decode())) + Decimal(raw.decode())
    except (ArithmeticError, ValueError):
        return NOT_FLOAT
    text = format(total, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    text = "0" if text == "-0" else text
    _store(space, key, text.encode(), item.expire_ms if item is not None else None)
    return text.encode()


def _append(space: Keyspace, key: bytes, tail: bytes) -> Reply:
    item = space.peek(key)
    value = (_text(space.string(key)) or b"") + tail
    _store(space, key, value, item.expire_ms if item is not None else None)
    return len(value)


def _strlen(space: Keyspace, key: bytes) -> Reply:
    return len(_text(space.string(key)) or b"")


def _expire_with(unit: bytes, command: str) -> Callable[..., Reply]:
    def run(space: Keyspace, key: bytes, raw: bytes, *options: bytes) -> Reply:
        amount = _integer(raw)
        flags = {option.upper() for option in options}
        unknown = flags - {b"NX", b"XX", b"GT", b"LT"}
        if unknown:
            return ReplyError(f"ERR Unsupported option {options[0].decode()}")
        if b"NX" in flags and len(flags) > 1:
            return ReplyError("ERR NX and XX, GT or LT options at the same time are not compatible")
        if {b"GT", b"LT"} <= flags:
            return ReplyError("ERR GT and LT options at the same time are not compatible")
        milliseconds = amount if unit.startswith(b"P") else amount * 1000
        at_ms = milliseconds if unit.endswith(b"AT") else space.now_ms + milliseconds
        if not INT64_MIN <= milliseconds <= INT64_MAX or at_ms > INT64_MAX:
            return ReplyError(f"ERR invalid expire time in '{command}' command")
        item = space.peek(key)
        if item is None:
            return 0
        now = item.expire_ms
        refused = (
            (b"NX" in flags and now is not None)
            or (b"XX" in flags and now is None)
            or (b"GT" in flags and (now is None or at_ms <= now))
            or (b"LT" in flags and now is not None and at_ms >= now)
        )
        if refused:
            return 0
        if at_ms <= space.now_ms:
            del space.items[key]
        else:
            item.expire_ms = at_ms
        return 1

    return run


def _persist(space: Keyspace, key: bytes) -> Reply:
    item = space.peek(key)
    if item is None or item.expire_ms is None:
        return 0
    item.expire_ms = None
    return 1


def _ttl(space: Keyspace, key: bytes) -> Reply:
    left_ms = space.ttl_ms(key)
    return left_ms if left_ms < 0 else (left_ms + 500) // 1000


def _pttl(space: Keyspace, key: bytes) -> Reply:
    return space.ttl_ms(key)


def _type(space: Keyspace, key: bytes) -> Reply:
    item = space.peek(key)
    if item is None:
        return b"none"
    return b"list" if isinstance(item.value, list) else b"string"


def _rpush(space: Keyspace, key: bytes, *values: bytes) -> Reply:
    item = space.peek(key)
    if item is None:
        item = space.items[key] = Item([])
    if not isinstance(item.value, list):
        return WRONG_TYPE
    item.value.extend(values)
    return len(item.value)


def _flushdb(space: Keyspace, *_options: bytes) -> Reply:
    space.items.clear()
    return OK


def _dbsize(space: Keyspace) -> Reply:
    return sum(space.peek(key) is not None for key in list(space.items))


def _keys(space: Keyspace, pattern: bytes) -> Reply:
    return [
        key
        for key in list(space.items)
        if space.peek(key) is not None
        and fnmatch.fnmatchcase(key.decode("latin-1"), pattern.decode("latin-1"))
    ]


COMMANDS: Final[dict[str, Callable[..., Reply]]] = {
    "APPEND": _append,
    "DBSIZE": _dbsize,
    "DECR": _decr,
    "DECRBY": _decrby,
    "DEL": _del,
    "EXISTS": _exists,
    "EXPIRE": _expire_with(b"EX", "expire"),
    "EXPIREAT": _expire_with(b"EXAT", "expireat"),
    "FLUSHDB": _flushdb,
    "GET": _get,
    "GETDEL": _getdel,
    "GETEX": _getex,
    "GETSET": _getset,
    "INCR": _incr,
    "INCRBY": _incrby,
    "INCRBYFLOAT": _incrbyfloat,
    "KEYS": _keys,
    "MGET": _mget,
    "MSET": _mset,
    "MSETNX": _msetnx,
    "PERSIST": _persist,
    "PEXPIRE": _expire_with(b"PX", "pexpire"),
    "PEXPIREAT": _expire_with(b"PXAT", "pexpireat"),
    "PSETEX": _psetex,
    "PTTL": _pttl,
    "RPUSH": _rpush,
    "SET": _set,
    "SETEX": _setex,
    "SETNX": _setnx,
    "STRLEN": _strlen,
    "TTL": _ttl,
    "TYPE": _type,
    "UNLINK": _del,
}
