"""Every configuration key: its section, type, default and range, each in one place.

The structs are the configuration in force; the annotation of a field is its
range (see `config_values`), and `settings()` reads it back for whoever loads,
checks or documents a value. `check_together` is what each value alone cannot show.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from coherenced.config_values import (
    Address,
    RedisEndpoint,
    Setting,
    count,
    ms,
    parse_address,
    parse_redis_url,
    setting_of,
    size,
    text,
)
from coherenced.core.requests import Level
from coherenced.errors import ConfigError
from coherenced.paths import (
    HTTP_SOCKET_NAME,
    PAGE_NAME,
    SOCKET_NAME,
    Paths,
    check_socket_path,
    runtime_dir,
)

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40
DAY_MS: Final = 86_400_000

MAX_SECRET_BYTES: Final = 4096
Policy = Literal["error", "spool"]
OriginMode = Literal["read", "write-through", "write-behind"]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections. Its `repr` shows no secret: it ends up in logs."""

    def shown(self) -> dict[str, Any]:
        """Key -> value as people may see it: every secret is `***`."""
        return {
            name: setting.shown(getattr(self, name))
            for name, setting in settings_of(type(self)).items()
        }

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.shown().items())
        return f"{type(self).__name__}({inside})"


class Redis(Section, frozen=True):
    """The server that holds the values and the invalidation log."""

    url: Annotated[str, text("url")] = ""
    """Empty: start or join a private server in the runtime directory."""
    username: Annotated[str, text(max_length=512)] = ""
    password: Annotated[str, text(max_length=4096, secret=True)] = ""
    password_file: Annotated[str, text("path")] = ""
    """Read anew for each `endpoint()`, so that a rotated password is found on reconnecting."""
    tls_ca_file: Annotated[str, text("path")] = ""
    tls_cert_file: Annotated[str, text("path")] = ""
    tls_key_file: Annotated[str, text("path")] = ""
    tls_check_hostname: bool = True
    connect_timeout_ms: Annotated[int, ms(1, 60_000)] = 1000
    command_timeout_ms: Annotated[int, ms(10, 600_000)] = 1000
    reconnect_min_ms: Annotated[int, ms(1, 60_000)] = 50
    reconnect_max_ms: Annotated[int, ms(1, 600_000)] = 2000
    watch_connections: Annotated[int, count(0, 10_000)] = 64
    log_length: Annotated[int, count(100, 10_000_000)] = 10_000

    def endpoint(self) -> RedisEndpoint:
        """Where the server is and as whom to speak to it; `url` must not be empty.

        ConfigError when the password file cannot be read.
        """
        endpoint = parse_redis_url(self.url)
        return msgspec.structs.replace(
            endpoint,
            username=self.username or endpoint.username,
            password=self.password or _read_secret(self.password_file) or endpoint.password,
        )


class Node(Section, frozen=True):
    """Who this node is."""

    name: Annotated[str, text("name", 128)] = ""
    """Empty: the host's name."""
    runtime_dir: Annotated[str, text("path")] = ""
    """Empty: see `paths.runtime_dir`."""


class Listen(Section, frozen=True):
    """Where clients connect."""

    socket: Annotated[str, text("path")] = ""
    socket_mode: Annotated[str, text("mode", 4)] = "0660"
    http_socket: Annotated[str, text("path")] = ""
    http: Annotated[str, text("address", 300)] = ""
    tcp: Annotated[str, text("address", 300)] = ""
    password: Annotated[str, text(max_length=512, secret=True)] = ""
    max_connections: Annotated[int, count(1, 1_000_000)] = 20_000
    output_buffer_bytes: Annotated[int, size(64 * KIB, 4 * GIB)] = 64 * MIB
    max_query_bytes: Annotated[int, size(64 * KIB, 4 * GIB)] = 128 * MIB

    @property
    def socket_mode_bits(self) -> int:
        return int(self.socket_mode, 8)

    @property
    def http_address(self) -> Address | None:
        return parse_address(self.http) if self.http else None

    @property
    def tcp_address(self) -> Address | None:
        return parse_address(self.tcp) if self.tcp else None


class L1(Section, frozen=True):
    """This host's cache."""

    max_bytes: Annotated[int, size(MIB, TIB)] = 256 * MIB
    max_value_bytes: Annotated[int, size(1, GIB)] = MIB
    max_age_ms: Annotated[int, ms(1, 7 * DAY_MS)] = 60_000
    negative_max_age_ms: Annotated[int, ms(0, 7 * DAY_MS)] = 5000
    refill_keys_per_s: Annotated[int, count(0, 10_000_000)] = 5000
    """How fast what a lost lane held is fetched again. 0: as fast as it is asked for."""
    warm_keys: Annotated[int, count(0, 10_000_000)] = 20_000
    """How many of the hottest keys are read again after a restart. 0: none."""
    warm_file: Annotated[str, text("path")] = ""
    """Empty: `warm.keys` in the runtime directory, which does not survive a reboot."""


class Coherence(Section, frozen=True):
    """What a read and a write promise where neither the call nor a namespace says otherwise."""

    max_staleness_ms: Annotated[int, ms(0, 3_600_000)] = 1000
    ack: Annotated[str, text("ack", 16)] = "redis"
    ack_timeout_ms: Annotated[int, ms(1, 600_000)] = 3000
    stale_if_error_ms: Annotated[int, ms(0, 7 * DAY_MS)] = 0
    on_unavailable: Policy = "error"

    @property
    def ack_level(self) -> int:
        """A `Level`, or a number of nodes."""
        return Level.parse(self.ack)


class Limits(Section, frozen=True):
    """The bounds of this daemon."""

    max_key_bytes: Annotated[int, size(1, 16 * MIB)] = 16 * KIB
    max_value_bytes: Annotated[int, size(1, 512 * MIB)] = 64 * MIB
    max_waiting_requests: Annotated[int, count(1, 10_000_000)] = 100_000
    max_transaction_commands: Annotated[int, count(1, 1_000_000)] = 10_000
    max_tags: Annotated[int, count(0, 10_000)] = 64


class Spool(Section, frozen=True):
    """The journal of invalidations that could not be sent (`on_unavailable = "spool"`)."""

    path: Annotated[str, text("path")] = ""
    """Empty: `spool.journal` in the runtime directory, which does not survive a reboot."""
    max_bytes: Annotated[int, size(4 * KIB, GIB)] = 16 * MIB


class Page(Section, frozen=True):
    """The shared page, by which clients on this host prove copies of their own."""

    slots: Annotated[int, count(0, 1 << 26)] = 1 << 18
    """Rounded up to a power of two; 0: no page."""


class Log(Section, frozen=True):
    """What the daemon says."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "pretty"] = "auto"


class Namespace(Section, frozen=True):
    """Rules of its own for the keys that match a pattern; None: as for all others."""

    match: Annotated[str, text("glob", 1024)]
    max_staleness_ms: Annotated[int, ms(0, 3_600_000)] | None = None
    ack: Annotated[str, text("ack", 16)] | None = None
    ack_timeout_ms: Annotated[int, ms(1, 600_000)] | None = None
    stale_if_error_ms: Annotated[int, ms(0, 7 * DAY_MS)] | None = None
    max_age_ms: Annotated[int, ms(1, 7 * DAY_MS)] | None = None
    negative_max_age_ms: Annotated[int, ms(0, 7 * DAY_MS)] | None = None
    linearizable: bool = False
    on_unavailable: Policy | None = None
    origin: Annotated[str, text("origin", 4096)] | None = None
    """Where values of these keys come from; what follows means something only with it."""
    origin_mode: OriginMode | None = None
    ttl_ms: Annotated[int, ms(1, 30 * DAY_MS)] | None = None
    ttl_jitter_percent: Annotated[int, count(0, 90)] | None = None
    respect_cache_control: bool | None = None
    stale_while_revalidate_ms: Annotated[int, ms(0, 7 * DAY_MS)] | None = None
    refresh_ahead: Annotated[int, count(0, 100)] | None = None
    soft_timeout_ms: Annotated[int, ms(0, 600_000)] | None = None
    hard_timeout_ms: Annotated[int, ms(1, 600_000)] | None = None
    connect_timeout_ms: Annotated[int, ms(1, 60_000)] | None = None
    origin_retries: Annotated[int, count(0, 10)] | None = None
    breaker_failures: Annotated[int, count(0, 10_000)] | None = None
    breaker_open_ms: Annotated[int, ms(1, 3_600_000)] | None = None
    max_origin_requests: Annotated[int, count(1, 10_000)] | None = None
    write_behind_tries: Annotated[int, count(1, 1_000)] | None = None

    @property
    def ack_level(self) -> int | None:
        return None if self.ack is None else Level.parse(self.ack)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a daemon is told."""

    redis: Redis = Redis()
    node: Node = Node()
    listen: Listen = Listen()
    l1: L1 = L1()
    coherence: Coherence = Coherence()
    limits: Limits = Limits()
    spool: Spool = Spool()
    page: Page = Page()
    log: Log = Log()
    namespace: dict[str, Namespace] = {}
    """In the order in which they were written: the first match of a key counts."""

    def paths(self, environ: Mapping[str, str], uid: int) -> Paths:
        """Where this daemon's files are; ConfigError when a socket's path is too long."""
        directory = Path(self.node.runtime_dir or runtime_dir(environ, uid))
        resp = Path(self.listen.socket or directory / SOCKET_NAME)
        http = Path(self.listen.http_socket or resp.parent / HTTP_SOCKET_NAME)
        return Paths(
            runtime_dir=directory,
            socket=check_socket_path(resp, "listen.socket"),
            http_socket=check_socket_path(http, "listen.http_socket"),
            page=directory / PAGE_NAME,
        )


# -- the settings there are ------------------------------------------------------------


@functools.cache
def settings_of(section: type[Section]) -> dict[str, Setting]:
    """The keys of one section by their own name, in the order of the reference."""
    return {field.name: setting_of(field) for field in msgspec.structs.fields(section)}


@functools.cache
def settings() -> dict[str, Setting]:
    """Every key outside the namespaces, dotted, in the order of the reference."""
    return {
        f"{section.name}.{name}": setting
        for section in msgspec.structs.fields(Config)
        if section.name != "namespace"
        for name, setting in settings_of(section.type).items()
    }


# -- what the values must be together ----------------------------------------------------


def check_together(config: Config) -> None:
    """What each value alone cannot show."""
    redis, listen, l1, limits = config.redis, config.listen, config.l1, config.limits
    _check_redis(redis)
    if redis.reconnect_min_ms > redis.reconnect_max_ms:
        raise ConfigError("redis.reconnect_min_ms is greater than redis.reconnect_max_ms")
    if l1.max_value_bytes > l1.max_bytes:
        raise ConfigError("l1.max_value_bytes is greater than l1.max_bytes")
    largest = limits.max_key_bytes + limits.max_value_bytes
    if listen.max_query_bytes <= largest:
        raise ConfigError(
            f"listen.max_query_bytes must be greater than limits.max_key_bytes + "
            f"limits.max_value_bytes ({largest} bytes), else the largest value cannot be sent"
        )
    if listen.socket and listen.socket == listen.http_socket:
        raise ConfigError(
            "listen.socket and listen.http_socket are the same path: each is one's own"
        )
    tcp = listen.tcp_address
    if tcp is not None and not tcp.is_loopback and not listen.password:
        raise ConfigError(
            f"listen.tcp = {listen.tcp!r} lets other hosts in without a password: "
            "set listen.password, or listen on 127.0.0.1"
        )
    first: dict[str, str] = {}
    for name, namespace in config.namespace.items():
        _check_origin(f"namespace.{name}", namespace)
        other = first.setdefault(namespace.match, name)
        if other != name:
            raise ConfigError(
                f"namespace.{other} and namespace.{name} both match {namespace.match!r}, and the "
                "second would never apply: write one of them"
            )


ORIGIN_KEYS: Final = (
    "origin_mode",
    "ttl_ms",
    "ttl_jitter_percent",
    "respect_cache_control",
    "stale_while_revalidate_ms",
    "refresh_ahead",
    "soft_timeout_ms",
    "hard_timeout_ms",
    "connect_timeout_ms",
    "origin_retries",
    "breaker_failures",
    "breaker_open_ms",
    "max_origin_requests",
    "write_behind_tries",
)
"""Keys of a namespace that mean something only beside its `origin`."""


def _check_origin(where: str, namespace: Namespace) -> None:
    if not namespace.origin:
        for name in ORIGIN_KEYS:
            if getattr(namespace, name) is not None:
                raise ConfigError(f"{where}.{name} is set but {where}.origin is not: set it too")
        return
    soft_ms, hard_ms = namespace.soft_timeout_ms, namespace.hard_timeout_ms
    if soft_ms is not None and hard_ms is not None and soft_ms > hard_ms:
        raise ConfigError(f"{where}.soft_timeout_ms is greater than {where}.hard_timeout_ms")
    if namespace.write_behind_tries is not None and namespace.origin_mode != "write-behind":
        raise ConfigError(
            f'{where}.write_behind_tries is set but {where}.origin_mode is not "write-behind"'
        )


def _check_redis(redis: Redis) -> None:
    with_url = ("username", "password", "password_file")
    tls = [
        name for name in ("tls_ca_file", "tls_cert_file", "tls_key_file") if getattr(redis, name)
    ]
    endpoint = parse_redis_url(redis.url) if redis.url else RedisEndpoint()
    for name in with_url:
        if getattr(redis, name) and not redis.url:
            raise ConfigError(
                f"redis.{name} is set but redis.url is empty, which means a private server: "
                "set redis.url"
            )
    if redis.password and redis.password_file:
        raise ConfigError("redis.password and redis.password_file are both set: keep one")
    if endpoint.password and (redis.password or redis.password_file):
        raise ConfigError("redis.url holds a password and so does another key: keep one")
    if endpoint.username and redis.username:
        raise ConfigError("redis.url holds a user name and so does redis.username: keep one")
    if tls and not endpoint.tls:
        raise ConfigError(f"redis.{tls[0]} is set but redis.url is not rediss:// or valkeys://")
    if bool(redis.tls_cert_file) != bool(redis.tls_key_file):
        raise ConfigError("redis.tls_cert_file and redis.tls_key_file belong together: set both")


def _read_secret(path: str) -> str:
    """The content of a password file without its last line end; '' for no file."""
    if not path:
        return ""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read redis.password_file {path}: {error.strerror}") from None
    if len(data) > MAX_SECRET_BYTES:
        raise ConfigError(f"redis.password_file {path} is larger than {MAX_SECRET_BYTES} bytes")
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError(f"redis.password_file {path} is not text in UTF-8") from None
