"""Looks a server over, for start-up and `coherenced doctor`: is it there, is it fit for us?

What a managed service hides (INFO, CONFIG) is "unknown", which is no fault.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import hiredis
import msgspec

from coherenced.upstream.connection import Pipe, dial
from coherenced.upstream.faults import plain
from coherenced.upstream.names import lane_names
from coherenced.upstream.scripts import CHECK
from coherenced.upstream.settings import ServerSettings

OLDEST: Final = {"redis": (7, 0), "valkey": (7, 2)}
"""The oldest versions that know everything the scripts use."""
UNKNOWN: Final = "unknown"
PINGS: Final = 5
SMALL_BUFFER_BYTES: Final = 1 << 20
"""A pub/sub output buffer below this cuts a node off in any burst."""

_FORBIDDEN: Final = re.compile("NOPERM|permission|The user executing the script")
_LIMIT: Final = re.compile(r"pubsub (\d+) (\d+) (\d+)")


class ServerFacts(msgspec.Struct, frozen=True):
    """What a look at the server has shown. `UNKNOWN` (or -1) is what it does not tell."""

    place: str
    """host:port, or the path of the Unix socket."""
    latency_ms: float
    """The median of a few PINGs."""
    server: str
    """`redis` or `valkey`."""
    version: str
    role: str
    """`master` or `slave`, in the server's own words."""
    mode: str
    """`standalone`, `cluster` or `sentinel`."""
    maxmemory_bytes: int
    """0: no limit."""
    used_memory_bytes: int
    maxmemory_policy: str
    pubsub_limit_bytes: int
    """The hard limit of a subscriber's output buffer; 0: none."""
    refused: tuple[str, ...]
    """What our scripts need and this server or user refuses, in the server's words."""
    blockers: tuple[str, ...]
    """Why a daemon cannot work with it, a line each with what to do. Empty: it can."""
    warnings: tuple[str, ...]
    """What will hurt some day, a line each with what to do."""

    @property
    def is_of_the_wrong_kind(self) -> bool:
        """Too old, a cluster, a sentinel: waiting will not help."""
        number = _number(self.version)
        oldest = OLDEST.get(self.server, OLDEST["redis"])
        too_old = number is not None and number < oldest
        return too_old or self.mode in ("cluster", "sentinel")

    @property
    def can_write(self) -> bool:
        """Whether the fenced check went through."""
        return not self.refused


async def inspect(settings: ServerSettings) -> ServerFacts:
    """Look the server over. RedisUnreachable: one line that says why it cannot be looked at."""
    endpoint = settings.endpoint()
    pipe = await dial(settings, "coherenced:doctor")
    try:
        latency_ms = await _latency_ms(pipe)
        told = await _told(pipe)
        told["limit"] = await _config(pipe, "client-output-buffer-limit")
        refused = await _try_scripts(pipe, endpoint.db)
    finally:
        await pipe.aclose("done")
    limit = _LIMIT.search(told["limit"])
    facts = ServerFacts(
        place=endpoint.unix_path or f"{endpoint.host}:{endpoint.port}",
        latency_ms=latency_ms,
        server="valkey" if "valkey_version" in told else told.get("server_name", "redis"),
        version=told.get("valkey_version") or told.get("redis_version") or UNKNOWN,
        role=told.get("role", UNKNOWN),
        mode=told.get("redis_mode") or told.get("server_mode") or UNKNOWN,
        maxmemory_bytes=int(told.get("maxmemory", "-1")),
        used_memory_bytes=int(told.get("used_memory", "-1")),
        maxmemory_policy=told.get("maxmemory_policy", UNKNOWN),
        pubsub_limit_bytes=int(limit[1]) if limit else -1,
        refused=refused,
        blockers=(),
        warnings=(),
    )
    return msgspec.structs.replace(facts, blockers=_blockers(facts), warnings=_warnings(facts))


async def _latency_ms(pipe: Pipe) -> float:
    clock = asyncio.get_running_loop().time
    took_s = []
    for _ in range(PINGS):
        sent_s = clock()
        await pipe.ask("PING")
        took_s.append(clock() - sent_s)
    return sorted(took_s)[PINGS // 2] * 1e3


async def _told(pipe: Pipe) -> dict[str, str]:
    """INFO as a dict; where it is forbidden what HELLO says."""
    info = await pipe.ask("INFO")
    if isinstance(info, bytes):
        lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
        return {name: value for name, _, value in lines if value}
    hello = await pipe.ask("HELLO", 2)
    told: dict[str, str] = {}
    if isinstance(hello, list):
        named = {
            _text(name): _text(value) for name, value in zip(hello[::2], hello[1::2], strict=False)
        }
        name, version = named.get("server", "redis"), named.get("version", "")
        told |= {"server_name": name, f"{name}_version": version}
        told |= {key: named[key] for key in ("role",) if key in named}
        told |= {"redis_mode": named["mode"]} if "mode" in named else {}
    return told


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


async def _config(pipe: Pipe, name: str) -> str:
    """A CONFIG value, '' where it is not told."""
    found = await pipe.ask("CONFIG", "GET", name)
    return _text(found[1]) if isinstance(found, list) and len(found) == 2 else ""


async def _try_scripts(pipe: Pipe, db: int) -> tuple[str, ...]:
    """Run the fenced check on keys of its own. -> what was refused"""
    names = lane_names(0, db)
    keys = [names.meta.removesuffix(b"meta") + b"check:" + part for part in (b"h", b"s", b"t")]
    reply = await pipe.ask("EVAL", CHECK.text, len(keys), *keys, names.ack_prefix + b"check")
    if isinstance(reply, hiredis.ReplyError):
        return (plain(str(reply)),)
    return tuple(plain(_text(line)) for line in reply)


def _number(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _blockers(facts: ServerFacts) -> tuple[str, ...]:
    found = []
    number = _number(facts.version)
    oldest = OLDEST.get(facts.server, OLDEST["redis"])
    if number is not None and number < oldest:
        needed = ", ".join(f"{name} {a}.{b}" for name, (a, b) in OLDEST.items())
        found.append(
            f"{facts.server} {facts.version} at {facts.place} is too old: "
            f"coherenced needs at least {needed}"
        )
        return tuple(found)  # what it refuses follows from its age
    if facts.mode in ("cluster", "sentinel"):
        found.append(f"{facts.place} runs as {facts.mode}: give redis.url a standalone server")
    if facts.role == "slave":
        found.append(f"{facts.place} is a replica: give redis.url its primary")
        return tuple(found)
    if any(_FORBIDDEN.search(line) for line in facts.refused):
        found.append(
            f"the user of redis.url may not do what coherenced needs ({facts.refused[0]}): "
            "allow it keys ~*, channels &coh:* and what it was refused"
        )
    elif facts.refused:
        found.append(f"{facts.place} accepts no writes: {facts.refused[0]}")
    return tuple(found)


def _warnings(facts: ServerFacts) -> tuple[str, ...]:
    found = []
    if facts.maxmemory_bytes > 0 and facts.maxmemory_policy.startswith("allkeys"):
        found.append(
            f"maxmemory-policy {facts.maxmemory_policy} can evict coherenced's own metadata, "
            "which makes every node drop its cache: use a volatile-* policy or noeviction"
        )
    elif 0 < facts.maxmemory_bytes <= facts.used_memory_bytes:
        found.append(
            f"{facts.used_memory_bytes} of maxmemory {facts.maxmemory_bytes} bytes are used, and "
            f"past it writes are refused ({facts.maxmemory_policy}): raise maxmemory, or delete"
        )
    if 0 < facts.pubsub_limit_bytes < SMALL_BUFFER_BYTES:
        found.append(
            f"client-output-buffer-limit pubsub {facts.pubsub_limit_bytes} cuts nodes off in "
            "bursts: use the server's default of 32mb 8mb 60"
        )
    return tuple(found)
