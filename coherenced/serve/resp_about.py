"""What the daemon tells of itself in Redis's forms: COMMAND, CONFIG GET, INFO, CLIENT LIST.

Enough for clients that ask on connecting and for people with redis-cli; the whole truth
is in COH.STATS and /metrics.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from coherenced.serve.resp_settings import COMPATIBLE_WITH
from coherenced.wire import resp
from coherenced.wire.commands import COMMANDS, Command, keys_of, listed, lookup

if TYPE_CHECKING:
    from coherenced.serve.resp_connection import RespConnection

Request = Sequence[bytes]

_SYNTAX: Final = "ERR syntax error"


# -- COMMAND -----------------------------------------------------------------------------


def command(connection: RespConnection, request: Request) -> bytes:
    """COMMAND [COUNT | INFO name... | DOCS name... | LIST [FILTERBY ...] | GETKEYS command...]"""
    words = list(request[2:])
    if len(request) == 1:
        return resp.encode([_described(c) for c in listed()], connection.resp3)
    subcommand = request[1].lower()
    if subcommand == b"count":
        return resp.integer(len(COMMANDS))
    if subcommand == b"info":
        chosen = [COMMANDS.get(w.upper()) for w in words] if words else list(listed())
        told = [None if c is None else _described(c) for c in chosen]
        nil = resp.nil(connection.resp3)
        return resp.array([nil if t is None else resp.encode(t, connection.resp3) for t in told])
    if subcommand == b"docs":
        found = [COMMANDS.get(w.upper()) for w in words] if words else listed()
        docs: dict[bytes, resp.Value] = {
            c.name.encode(): _documented(c) for c in found if c is not None
        }
        return resp.encode(docs, connection.resp3)
    if subcommand == b"list":
        return _list(connection, words)
    if subcommand == b"getkeys":
        return _getkeys(words)
    return subcommands(connection, request)


def _described(c: Command) -> list[resp.Value]:
    """One command as in COMMAND INFO: ten fields, the last four empty."""
    flags, none = resp.Set(resp.Status(flag.encode()) for flag in c.flags), resp.Set()
    first, last, step = c.keys
    return [c.name, c.arity, flags, first, last, step, none, none, none, []]


def _documented(c: Command) -> dict[bytes, resp.Value]:
    return {b"summary": c.summary, b"since": "1.0.0", b"group": c.group, b"complexity": "O(1)"}


def _list(connection: RespConnection, words: list[bytes]) -> bytes:
    names = [c.name for c in listed()]
    if words:
        if len(words) != 3 or words[0].upper() != b"FILTERBY":
            return resp.error(_SYNTAX)
        kind, argument = words[1].upper(), words[2].decode("utf-8", "surrogateescape")
        if kind == b"PATTERN":
            names = [name for name in names if fnmatchcase(name, argument.lower())]
        elif kind in (b"MODULE", b"ACLCAT"):
            names = []
        else:
            return resp.error(_SYNTAX)
    return resp.encode(names, connection.resp3)


def _getkeys(words: list[bytes]) -> bytes:
    asked = COMMANDS.get(words[0].upper())
    if asked is None:
        return resp.error("ERR Invalid command specified")
    if not asked.keys[0]:
        return resp.error("ERR The command has no key arguments")
    if lookup(words)[0] is None:
        return resp.error("ERR Invalid number of arguments specified for command")
    return resp.array([resp.bulk(key) for key in keys_of(asked, words)])


def subcommands(connection: RespConnection, request: Request) -> bytes:
    """HELP of any command that has subcommands."""
    asked = COMMANDS[request[0].upper()]
    lines = [f"{asked.name.upper()} <subcommand>. Subcommands are:"]
    lines += [name.upper() for name in sorted(asked.subcommands)]
    return resp.encode([resp.Status(line.encode()) for line in lines], connection.resp3)


# -- CONFIG ------------------------------------------------------------------------------


def config(connection: RespConnection, request: Request) -> bytes:
    subcommand = request[1].lower()
    if subcommand == b"help":
        return subcommands(connection, request)
    if subcommand != b"get":
        name = subcommand.decode().upper()
        return resp.error(
            f"ERR CONFIG {name} is not supported through coherenced: "
            "change coherenced.toml, or Redis itself"
        )
    settings = connection.front.settings
    values = {
        "appendonly": "no",
        "databases": str(settings.database + 1),
        "maxclients": str(settings.max_connections),
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "proto-max-bulk-len": str(settings.frame.max_bulk_bytes),
        "save": "",
        "timeout": "0",
    }
    told: dict[bytes, resp.Value] = {}
    for word in request[2:]:
        pattern = word.decode("utf-8", "surrogateescape").lower()
        if pattern in values:
            told[word] = values[pattern]  # as it was asked
        else:
            told |= {n.encode(): v for n, v in values.items() if fnmatchcase(n, pattern)}
    return resp.encode(told, connection.resp3)


# -- CLIENT LIST, INFO -------------------------------------------------------------------


_NOT_COUNTED: Final = tuple(
    (name, 0)
    for name in (
        "idle",
        "sub",
        "psub",
        "qbuf",
        "qbuf-free",
        "argv-mem",
        "obl",
        "oll",
        "omem",
        "tot-mem",
    )
)
"""What libraries (valkey-py) take for granted in such a line, and fail without."""


def client_line(connection: RespConnection) -> bytes:
    """One connection as in CLIENT LIST."""
    now_ms = connection.front.port.now_ms()
    transaction, address = connection.transaction, connection.address
    if isinstance(address, tuple):
        address = f"{address[0]}:{address[1]}"
    fields = (
        ("id", connection.number),
        ("addr", address),
        ("name", connection.name.decode("ascii")),
        ("age", int((now_ms - connection.since_ms) // 1000)),
        ("db", connection.front.settings.database),
        *_NOT_COUNTED,
        ("multi", -1 if transaction is None else len(transaction.items)),
        ("watch", len(connection.watched.keys)),
        ("resp", 3 if connection.resp3 else 2),
        ("lib-name", connection.library[0].decode("ascii")),
        ("lib-ver", connection.library[1].decode("ascii")),
    )
    return " ".join(f"{name}={value}" for name, value in fields).encode() + b"\n"


def info(connection: RespConnection, request: Request) -> bytes:
    """INFO [section...]: `default`, `all` and `everything` mean every section."""
    asked = {word.decode("utf-8", "surrogateescape").lower() for word in request[1:]}
    everything = not asked or bool(asked & {"default", "all", "everything"})
    stats = connection.front.port.stats()
    sections = _sections(connection, stats)
    text = "\r\n".join(
        f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items())
        for title, fields in sections.items()
        if everything or title.lower() in asked
    )
    return resp.verbatim(text.encode(), connection.resp3)


def _sections(connection: RespConnection, stats: Mapping[str, Any]) -> dict[str, dict[str, object]]:
    front = connection.front
    settings = front.settings
    uptime_s = int((front.port.now_ms() - front.since_ms) // 1000)
    memory_bytes = _number(stats, "process", "rss_bytes")
    return {
        "Server": {
            "redis_version": COMPATIBLE_WITH,
            "server_name": "coherenced",
            "coherenced_version": settings.version,
            "redis_mode": "standalone",
            "os": f"{platform.system()} {platform.release()} {platform.machine()}",
            "process_id": os.getpid(),
            "uptime_in_seconds": uptime_s,
            "uptime_in_days": uptime_s // 86_400,
        },
        "Clients": {
            "connected_clients": len(front.connections),
            "maxclients": settings.max_connections,
        },
        "Memory": {
            "used_memory": memory_bytes,
            "used_memory_rss": memory_bytes,
            "maxmemory": _number(stats, "l1", "max_bytes"),
            "maxmemory_policy": "noeviction",
        },
        "Stats": {
            "total_connections_received": front.accepted,
            "total_commands_processed": front.requests,
            "rejected_connections": front.door.turned_away,
            "total_error_replies": front.errors,
            "keyspace_hits": _number(stats, "l1", "hits"),
            "keyspace_misses": _number(stats, "l1", "misses"),
            "evicted_keys": _number(stats, "l1", "evictions"),
            "expired_keys": _number(stats, "l1", "expirations"),
        },
        "Replication": {"role": "master", "connected_slaves": 0},
        "Coherenced": dict(_flattened(stats)),
    }


def _number(stats: Mapping[str, Any], section: str, name: str) -> int:
    part = stats.get(section)
    value = part.get(name) if isinstance(part, Mapping) else None
    return int(value) if isinstance(value, int | float) else 0


def _flattened(stats: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Nested counters as `section_name:value`; lists (histograms, lanes) are left out."""
    flat: list[tuple[str, object]] = []
    for name, value in stats.items():
        if isinstance(value, Mapping):
            flat += _flattened(value, f"{prefix}{name}_")
        elif isinstance(value, bool):
            flat.append((f"{prefix}{name}", int(value)))
        elif isinstance(value, int | float | str):
            flat.append((f"{prefix}{name}", value))
    return flat
