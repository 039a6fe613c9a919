"""What a client session does next: one step is one command and what its answer means.

Keys by what may be done to them, so that the history always knows what an answer can be:

    k:N        plain values; Zipf. Invalidating them drops copies, the value stays
    t:T:N      stored with the tag gT: invalidating the key, the tag, a prefix or everything
               makes them absent
    m:G:N      set together by MSET, group G
    lin:N      the linearizable namespace (only when the daemons have one)
    c:N        counters
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.checkers.history import Kind, Values


@dataclass(frozen=True)
class Load:
    """What the sessions do. Shares are relative."""

    plain_keys: int = 24
    tags: int = 3
    keys_per_tag: int = 3
    groups: int = 2
    keys_per_group: int = 3
    linearizable_keys: int = 0
    counters: int = 0
    skew: float = 0.9
    """Of the Zipf law over the plain keys."""
    think_ms: float = 4.0
    """Mean pause between two steps of a session."""
    l0: bool = False
    """Every other session reads through our own client, with copies in its process."""
    timeout_s: float = 5.0
    """How long a client waits for an answer."""
    ack_timeout_ms: int = 3000
    levels: tuple[str, ...] = ("", "", "", "", "quorum", "all", "all", "none")
    """Acknowledgement of writes; '' leaves it to the daemon."""
    reads: float = 60
    writes: float = 20
    deletes: float = 4
    many_reads: float = 6
    many_writes: float = 4
    invalidations: float = 4
    increments: float = 10
    current: float = 0.1
    """Share of the COH.GET reads that ask for staleness 0."""
    expiring: float = 0.03
    """Share of the writes that expire within two seconds."""

    @property
    def plain(self) -> list[str]:
        return [f"k:{number}" for number in range(self.plain_keys)]

    def tagged(self, tag: int) -> list[str]:
        return [f"t:{tag}:{number}" for number in range(self.keys_per_tag)]

    @property
    def all_tagged(self) -> list[str]:
        return [key for tag in range(self.tags) for key in self.tagged(tag)]

    def group(self, number: int) -> list[str]:
        return [f"m:{number}:{member}" for member in range(self.keys_per_group)]

    @property
    def linearizable(self) -> list[str]:
        return [f"lin:{number}" for number in range(self.linearizable_keys)]

    @property
    def all_counters(self) -> list[str]:
        return [f"c:{number}" for number in range(self.counters)]

    @property
    def values(self) -> list[str]:
        """Every key that holds a value (counters left out)."""
        grouped = [key for number in range(self.groups) for key in self.group(number)]
        return [*self.plain, *self.all_tagged, *grouped, *self.linearizable]


@dataclass
class Step:
    """One command to send."""

    kind: str
    argv: tuple[str | int | float, ...]
    keys: tuple[str, ...] = ()
    values: tuple[str | None, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    """More fields of the operation, known before it is sent."""
    understand: Callable[[Any], dict[str, Any]] = lambda reply: {}
    """Fields of the operation, from the reply."""


def text(value: bytes | str | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


class Chooser:
    """Draws steps for one session."""

    def __init__(self, load: Load, random: Random, writer: str) -> None:
        self.load = load
        self.random = random
        self.values = Values(writer)
        weights = [1 / (rank + 1) ** load.skew for rank in range(load.plain_keys)]
        self._cumulative = list(itertools.accumulate(weights))
        choices: list[tuple[float, Callable[[str], Step]]] = [
            (load.reads, self.read),
            (load.writes, self.write),
            (load.deletes, self.delete),
            (load.many_reads, self.read_many),
            (load.many_writes if load.groups else 0, self.write_many),
            (load.invalidations, self.invalidate),
            (load.increments if load.counters else 0, self.increment),
        ]
        self._steps = [step for _, step in choices]
        self._weights = list(itertools.accumulate(weight for weight, _ in choices))

    def next(self, token: str = "") -> Step:
        """The next step; reads that can will carry `token`."""
        return self.random.choices(self._steps, cum_weights=self._weights)[0](token)

    # -- keys -------------------------------------------------------------------------------

    def hot_key(self) -> str:
        """A plain key, by Zipf's law."""
        place = bisect.bisect(self._cumulative, self.random.random() * self._cumulative[-1])
        return f"k:{place}"

    def any_key(self) -> str:
        """Mostly a plain key, sometimes one of the others."""
        load, luck = self.load, self.random.random()
        if luck < 0.2 and load.tags:
            return self.random.choice(load.all_tagged)
        if luck < 0.35 and load.groups:
            return self.random.choice(load.group(self.random.randrange(load.groups)))
        if luck < 0.55 and load.linearizable_keys:
            return self.random.choice(load.linearizable)
        return self.hot_key()

    # -- steps ------------------------------------------------------------------------------

    def read(self, token: str) -> Step:
        key = self.any_key()
        if not token and self.random.random() < 0.6:
            return Step(Kind.READ, ("GET", key), (key,), understand=self._plain_answer)
        details: dict[str, Any] = {}
        argv: list[str | int | float] = ["COH.GET", key]
        if self.random.random() < self.load.current:
            details["max_staleness_ms"] = 0.0
            argv += ["MAXSTALE", 0]
        if token:
            details["min_version"] = token
            argv += ["MINVER", token]
        argv.append("META")
        return Step(Kind.READ, tuple(argv), (key,), (), details, self._full_answer)

    def read_many(self, token: str) -> Step:
        keys = [self.hot_key() for _ in range(self.random.randint(2, 5))]
        if self.load.groups and self.random.random() < 0.6:
            keys = self.load.group(self.random.randrange(self.load.groups))
            if self.random.random() < 0.5:
                details = {"snapshot": True}
                argv = ("COH.MGET", *keys, "SNAPSHOT")
                return Step(Kind.MGET, argv, tuple(keys), (), details, self._many_answers)
        keys = list(dict.fromkeys(keys))
        return Step(Kind.MGET, ("MGET", *keys), tuple(keys), understand=self._many_answers)

    def write(self, token: str) -> Step:
        key = self.any_key()
        while key.startswith("m:"):
            key = self.any_key()
        value = self.values.next()
        level = self.random.choice(self.load.levels)
        details: dict[str, Any] = {"level": level}
        if not key.startswith("t:") and not level and self.random.random() < 0.5:
            return Step(Kind.WRITE, ("SET", key, value), (key,), (value,), details)
        argv: list[str | int | float] = ["COH.SET", key, value]
        if self.random.random() < self.load.expiring:
            details["ttl_ms"] = self.random.randint(100, 2000)
            argv += ["PX", details["ttl_ms"]]
        if key.startswith("t:"):
            argv += ["TAGS", 1, "g" + key.split(":")[1]]
        argv += self._ack(level)
        return Step(Kind.WRITE, tuple(argv), (key,), (value,), details, self._version)

    def write_many(self, token: str) -> Step:
        keys = self.load.group(self.random.randrange(self.load.groups))
        values = [self.values.next() for _ in keys]
        pairs = itertools.chain.from_iterable(zip(keys, values, strict=True))
        return Step(Kind.MSET, ("MSET", *pairs), tuple(keys), tuple(values))

    def delete(self, token: str) -> Step:
        keys = {self.any_key() for _ in range(self.random.choice([1, 1, 2]))}
        # A linearizable key is deleted alone: each takes two phases, and waits for others'.
        names = tuple(sorted(key for key in keys if not key.startswith("lin:")) or sorted(keys)[:1])
        level = self.random.choice(self.load.levels)
        if not level and self.random.random() < 0.5:
            return Step(Kind.DELETE, ("DEL", *names), names)
        argv = ("COH.DEL", *names, *self._ack(level))
        return Step(Kind.DELETE, argv, names, (), {"level": level}, self._version)

    def invalidate(self, token: str) -> Step:
        load, random = self.load, self.random
        level = random.choice(load.levels)
        tag = random.randrange(load.tags) if load.tags else 0
        what = random.choice(["plain", "plain prefix", "tagged", "tag", "tag prefix", "all"])
        absent: list[str] = []
        argv: list[str | int | float]
        if what == "plain" or not load.tags:
            argv = ["KEYS", 1, self.hot_key()]
        elif what == "plain prefix":
            argv = ["PREFIXES", 1, "k:"]
        elif what == "tagged":
            absent = [random.choice(load.tagged(tag))]
            argv = ["KEYS", 1, absent[0]]
        elif what == "tag":
            absent = load.tagged(tag)
            argv = ["TAGS", 1, f"g{tag}"]
        elif what == "tag prefix":
            absent = load.tagged(tag)
            argv = ["PREFIXES", 1, f"t:{tag}:"]
        else:
            absent = load.all_tagged
            argv = ["ALL"]
        details = {"level": level, "detail": " ".join(map(str, argv))}
        argv = ["COH.INVALIDATE", *argv, *self._ack(level)]
        return Step(Kind.INVALIDATE, tuple(argv), tuple(absent), (), details, self._version)

    def increment(self, token: str) -> Step:
        key = self.random.choice(self.load.all_counters)
        return Step(
            Kind.INCR, ("INCR", key), (key,), understand=lambda reply: {"values": (str(reply),)}
        )

    def _ack(self, level: str) -> list[str | int | float]:
        return ["ACK", level, "TIMEOUT", self.load.ack_timeout_ms] if level else []

    # -- answers ------------------------------------------------------------------------------

    @staticmethod
    def _plain_answer(reply: Any) -> dict[str, Any]:
        return {"values": (text(reply),)}

    @staticmethod
    def _many_answers(reply: Any) -> dict[str, Any]:
        return {"values": tuple(text(value) for value in reply)}

    @staticmethod
    def _full_answer(reply: Any) -> dict[str, Any]:
        value, version, source, _age_ms, stale = reply
        return {
            "values": (text(value),),
            "version": text(version) or "",
            "source": text(source) or "",
            "stale": bool(int(stale)),
        }

    @staticmethod
    def _version(reply: Any) -> dict[str, Any]:
        version = reply[0] if isinstance(reply, list) else reply
        return {"version": text(version) or ""}
