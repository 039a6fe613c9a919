"""What one configuration value may be: kinds, ranges, and the words for a wrong one.

A value comes as TOML typed it or, from the environment and the command line,
as text. `Setting.read` turns it into the value in force or raises ValueError
whose text completes "this setting …": *must be from 1 to 60000 ms*.
Durations are whole numbers of milliseconds and never carry a unit; sizes are
bytes, or text such as "256MiB".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import msgspec

from coherenced.core.requests import Level

MASK: Final = "***"
"""What is shown instead of a secret."""

SCHEMES: Final = {
    "redis": (False, False),
    "valkey": (False, False),
    "rediss": (False, True),
    "valkeys": (False, True),
    "unix": (True, False),
    "valkey+unix": (True, False),
}
"""URL scheme -> (it names a Unix socket, it means TLS)."""

_UNITS: Final = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SIZE: Final = re.compile(r"([0-9]{1,15})\s*(kib|mib|gib|tib)", re.IGNORECASE)
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_MODE: Final = re.compile(r"0?[0-7]{3}")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}

MAX_DB: Final = 1_000_000
DEFAULT_REDIS_PORT: Final = 6379


# -- kinds, written beside each field of the configuration -------------------------


def ms(low: int, high: int) -> msgspec.Meta:
    """A duration in whole milliseconds."""
    return msgspec.Meta(ge=low, le=high, extra={"kind": "ms"})


def size(low: int, high: int) -> msgspec.Meta:
    """A number of bytes."""
    return msgspec.Meta(ge=low, le=high, extra={"kind": "bytes"})


def count(low: int, high: int) -> msgspec.Meta:
    """A plain number."""
    return msgspec.Meta(ge=low, le=high, extra={"kind": "number"})


def text(kind: str = "text", max_length: int = 4096, secret: bool = False) -> msgspec.Meta:
    """A string; `kind` names its check in `_CHECKS`."""
    return msgspec.Meta(max_length=max_length, extra={"kind": kind, "secret": secret})


# -- addresses ------------------------------------------------------------------------


class Address(NamedTuple):
    """A TCP address to listen on. Port 0: any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can connect."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse_address(written: str) -> Address:
    """Read `host:port`, with an IPv6 host in brackets; ValueError else."""
    host, colon, port = written.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError("must be host:port, for example 127.0.0.1:8377")
    if ":" in host and not bracketed:
        raise ValueError("must have its IPv6 host in brackets, for example [::1]:8377")
    return Address(host, int(port))


class RedisEndpoint(msgspec.Struct, frozen=True):
    """Where the Redis server is, and as whom to speak to it. Its `repr` hides the password."""

    host: str = ""
    port: int = 0
    unix_path: str = ""
    """Not empty: a Unix socket, and `host` is empty."""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: bool = False

    def __repr__(self) -> str:
        place = self.unix_path or f"{self.host}:{self.port}"
        user = (
            f"{self.username}:{MASK}@" if self.password else self.username and f"{self.username}@"
        )
        return f"RedisEndpoint({user}{place} db={self.db} tls={self.tls})"


def parse_redis_url(url: str) -> RedisEndpoint:
    """Read `redis://[user[:password]@]host[:port][/db]` and its kin; ValueError else."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(f'{s}://' for s in SCHEMES)}")
    is_unix, tls = SCHEMES[scheme.lower()]
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL ({error})") from None
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if set(query) - {"db"} or parts.fragment:
        raise ValueError(
            "takes no option but ?db=N: timeouts, TLS and the rest are keys of their own in [redis]"
        )
    if is_unix:
        if parts.hostname or not parts.path.startswith("/"):
            raise ValueError("must hold an absolute path, for example unix:///run/redis/redis.sock")
        db = _parse_db(query.get("db", "0"))
        return RedisEndpoint(
            unix_path=unquote(parts.path), db=db, username=username, password=password
        )
    if not parts.hostname:
        raise ValueError("must name a host, for example redis://127.0.0.1:6379")
    written_db = parts.path.strip("/")
    if written_db and "db" in query:
        raise ValueError("names the database twice: keep /N or ?db=N")
    return RedisEndpoint(
        host=parts.hostname,
        port=DEFAULT_REDIS_PORT if port is None else port,
        db=_parse_db(written_db or query.get("db", "0")),
        username=username,
        password=password,
        tls=tls,
    )


def _parse_db(written: str) -> int:
    if not (written.isascii() and written.isdigit() and int(written) <= MAX_DB):
        raise ValueError("must name its database by number, for example redis://127.0.0.1:6379/0")
    return int(written)


def mask_url(url: str) -> str:
    """The URL without its password."""
    try:
        parts = urlsplit(url)
        if parts.password is None:
            return url
    except ValueError:
        return MASK
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{MASK}@{place}"))


# -- checks by kind ----------------------------------------------------------------------


def _check_url(written: str) -> str:
    parse_redis_url(written)
    return written


PLACES: Final = ("{key}", "{rest}")
"""What an origin's URL may hold: the key, or what follows the fixed beginning of `match`."""
_ORIGIN_SCHEMES: Final = ("http", "https", "http+unix")


def _check_origin(written: str) -> str:
    parts = urlsplit(written)
    if parts.scheme not in _ORIGIN_SCHEMES or not parts.netloc:
        raise ValueError(
            "must be http://host/path/{key}, https://… or http+unix://%2Frun%2Fapp.sock/path/{key}"
        )
    path = written.split("://", 1)[1].partition("/")[2]
    without = path.replace("{key}", "").replace("{rest}", "")
    if len(without) == len(path) or "{" in without or "}" in without:
        raise ValueError("must hold {key} (or {rest}) in its path, and no other braces")
    if not written.isascii() or any(c.isspace() for c in written) or parts.fragment:
        raise ValueError("must be a URL without spaces or a #fragment, other bytes written %XX")
    if parts.scheme != "http+unix" and not _has_host(written):
        raise ValueError("must name a host, for example http://127.0.0.1:8080/{key}")
    return written


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _check_address(written: str) -> str:
    parse_address(written)
    return written


def _check_ack(written: str) -> str:
    try:
        return Level.name(Level.parse(written))
    except ValueError:
        raise ValueError(
            "must be none, redis, quorum, all or a number of nodes from 1 to 9999"
        ) from None


def _check_mode(written: str) -> str:
    if not _MODE.fullmatch(written):
        raise ValueError('must be an octal file mode in quotes, for example "0660"')
    return f"{int(written, 8):04o}"


def _check_name(written: str) -> str:
    if not _NAME.fullmatch(written):
        raise ValueError(
            "must be at most 128 letters, digits or . _ : @ - and begin with a letter or digit"
        )
    return written


def _check_glob(written: str) -> str:
    if not written:
        raise ValueError('must be a pattern of keys, for example "user:*"')
    return written


_CHECKS: Final[dict[str, Callable[[str], str]]] = {
    "url": _check_url,
    "address": _check_address,
    "ack": _check_ack,
    "mode": _check_mode,
    "name": _check_name,
    "glob": _check_glob,
    "origin": _check_origin,
}
_MAY_BE_EMPTY: Final = frozenset({"url", "address", "name", "path", "text"})


# -- one setting ---------------------------------------------------------------------------


class Setting(NamedTuple):
    """What one key of the configuration may be, as its field declares it."""

    base: type
    """int, bool or str."""
    kind: str
    low: int = 0
    high: int = 0
    max_length: int = 0
    choices: tuple[str, ...] = ()
    secret: bool = False
    default: Any = None

    def read(self, given: Any, is_text: bool, is_relative: bool) -> Any:
        """The value in force for what was `given`; ValueError says what it must be.

        `is_text`: it comes from the environment or the command line, where all is
        text. `is_relative`: a path may be relative to the working directory.
        """
        if self.base is bool:
            return _read_bool(given, is_text)
        if self.base is int:
            return self._read_number(given, is_text)
        if self.kind == "ack" and type(given) is int:
            given = str(given)
        if not isinstance(given, str):
            raise ValueError("must be text, in quotes")
        return self._read_text(given, is_relative)

    def shown(self, value: Any) -> Any:
        """`value` as people may see it."""
        if self.secret and value:
            return MASK
        return mask_url(value) if self.kind in ("url", "origin") and value else value

    def _read_number(self, given: Any, is_text: bool) -> int:
        number: int | None = None
        if isinstance(given, str):
            given = given.strip()
            if self.kind == "bytes" and (match := _SIZE.fullmatch(given)):
                number = int(match[1]) * _UNITS[match[2].lower()]
            elif is_text and _WHOLE.fullmatch(given):
                number = int(given)
        elif type(given) is int:
            number = given
        if number is None or not self.low <= number <= self.high:
            raise ValueError(f"must be {self.allowed()}")
        return number

    def _read_text(self, given: str, is_relative: bool) -> str:
        if self.choices:
            if given.strip().lower() not in self.choices:
                raise ValueError(f"must be {self.allowed()}")
            return given.strip().lower()
        if len(given) > self.max_length:
            raise ValueError(f"must be at most {self.max_length} characters long")
        if "\0" in given:
            raise ValueError("must not contain a zero byte")
        if not given and self.kind in _MAY_BE_EMPTY:
            return given
        if self.kind == "path":
            return _absolute(given, is_relative)
        check = _CHECKS.get(self.kind)
        return check(given) if check else given

    def allowed(self) -> str:
        """What it may be, in words: for messages and for the reference."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.base is bool:
            return "true or false"
        if self.kind == "ms":
            return f"a whole number of milliseconds from {self.low} to {self.high}"
        if self.kind == "bytes":
            return (
                f"a size from {format_size(self.low)} to {format_size(self.high)}: "
                'bytes, or text such as "256MiB" (KiB, MiB, GiB, TiB)'
            )
        if self.base is int:
            return f"a whole number from {self.low} to {self.high}"
        return "text"


def _read_bool(given: Any, is_text: bool) -> bool:
    if isinstance(given, bool):
        return given
    if is_text and given.strip().lower() in _BOOLEANS:
        return _BOOLEANS[given.strip().lower()]
    raise ValueError("must be true or false")


def _absolute(written: str, is_relative: bool) -> str:
    if not is_relative and not written.startswith("/"):
        raise ValueError("must be an absolute path")
    return str(Path(written).absolute())


def format_size(number: int) -> str:
    """The shortest exact form: `1048576` is `1MiB`."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number and number % factor == 0:
            return f"{number // factor}{unit}"
    return str(number)


def setting_of(field: msgspec.structs.FieldInfo) -> Setting:
    """The setting that a field of a configuration struct declares."""
    kind, meta = field.type, None
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Annotated:
        kind, meta = get_args(kind)
    extra = (meta.extra if meta else None) or {}
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return Setting(
        base=str if choices else kind,
        kind=extra.get("kind", "choice" if choices else "flag"),
        low=(meta.ge if meta else None) or 0,
        high=(meta.le if meta else None) or 0,
        max_length=(meta.max_length if meta else None) or 0,
        choices=choices,
        secret=extra.get("secret", False),
        default=None if field.default is msgspec.NODEFAULT else field.default,
    )
