"""Where stories are played: their hosts, their clock, and what is said about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from coherenced.core.laws import Laws
from coherenced.core.model import Version
from coherenced.core.outbox import Event
from coherenced.core.policy import Policy
from tests.sim.host import Host
from tests.sim.network import Connection
from tests.sim.redis_model import Server, ServerLaws
from tests.sim.world import World

PATIENCE_MS: Final = 8_000.0
"""A command that has no outcome after so long says so."""
OFFSETS: Final = {"a": 0.0, "b": 50_000.0, "c": 1_000_000.0}
"""No two hosts' clocks agree (A7)."""
TOLD: Final = frozenset(
    {
        "gap_found",
        "gap_repaired",
        "lane_dropped",
        "node_fenced",
        "node_reaped",
        "pause_suspected",
        "lost_write_was_applied",
        "lost_write_not_applied",
        "write_indeterminate",
        "redis_unreachable",
        "redis_reachable",
        "left",
    }
)
"""Events that are part of a story; others are not news."""


class Broken(AssertionError):
    """An `expect` that does not hold, or a promise that was broken."""


class Stage:
    """The cast, the clock, and what is said."""

    def __init__(self, laws: Laws | None = None, server_laws: ServerLaws | None = None) -> None:
        self.laws = laws or Laws()
        self.server_laws = server_laws or ServerLaws()
        self.lines: list[str] = []
        self._world: World | None = None
        self._epochs: dict[bytes, str] = {}
        self._file: Server | None = None
        self._replica: Server | None = None
        self._writes = 0
        self._writing: dict[str, int] = {}
        """node -> how many of its writes have no answer yet."""
        self._last_read: tuple[str, str] = ("", "")
        self._versions: dict[str, Version] = {}
        self._held: dict[tuple[str, str], Connection] = {}
        self._tokens: dict[str, bytes] = {}
        """node -> the last token that its user was given."""

    @property
    def world(self) -> World:
        if self._world is None:
            raise Broken("a story begins with: nodes a b c")
        return self._world

    # -- saying ------------------------------------------------------------------------

    def say(self, line: str) -> None:
        self.lines.append(line)

    def _name_epoch(self, epoch: bytes) -> str:
        return self._epochs.setdefault(epoch, f"e{len(self._epochs) + 1}")

    def _name(self, version: Version | None) -> str:
        return "-" if version is None else f"{self._name_epoch(version.epoch)}:{version.seq}"

    def _told(self, host: Host, event: Event) -> None:
        if event.name not in TOLD:
            return
        fields = {k: v for k, v in event.fields.items() if k not in ("lane", "detail")}
        words = [f"{key}={self._plain(value)}" for key, value in fields.items()]
        self.say(" ".join([f"{self.world.now_ms:.0f} ms  {host.name}:", event.name, *words]))

    def _plain(self, value: object) -> str:
        def name(match: re.Match[str]) -> str:
            return self._name_epoch(match[1].encode()) + match[2]

        return re.sub(r"\b([0-9a-f]{16})(:\d+)", name, str(value))

    # -- the cast ------------------------------------------------------------------------

    def nodes(self, names: str, bound: str, more: str) -> None:
        policy = Policy(
            max_staleness_ms=float(bound or 200),
            ack_timeout_ms=3_000.0,
            max_age_ms=60_000.0,
            stale_if_error_ms=5_000.0 if "stale-if-error" in more else 0.0,
        )
        rules = (("l:*", msgspec.structs.replace(policy, linearizable=True)),)
        self._world = World(
            1,
            policy=policy,
            rules=rules,
            laws=self.laws,
            server_laws=self.server_laws,
            least_delay_ms=1.0,
            most_delay_ms=1.0,
        )
        self._world.on_event = self._told
        self._world.retire_ms = 1_000_000.0
        for name in names.split():
            self._world.add_host(name, offset_ms=OFFSETS.get(name, 7_000.0))
        self.advance("300")
        self.say(f"at {self.world.now_ms:.0f} ms: {self._who_is_ready()}")

    def add(self, name: str, how: str) -> None:
        offset_ms = OFFSETS.get(name, 7_000.0)
        self.world.add_host(name, offset_ms=offset_ms, is_plain=bool(how))

    def _who_is_ready(self) -> str:
        ready = [h.name for h in self.world.hosts.values() if h.node and h.node.ready]
        return f"ready: {' '.join(ready) or 'nobody'}"

    def _host(self, name: str) -> Host:
        host = self.world.hosts.get(name)
        if host is None:
            raise Broken(f"no node {name!r} in this story")
        return host

    # -- time ----------------------------------------------------------------------------

    def advance(self, ms: str) -> None:
        self.world.run_until(self.world.now_ms + float(ms))

    def _await(self, done: Callable[[], bool]) -> bool:
        world = self.world
        end_ms = world.now_ms + PATIENCE_MS
        while not done() and world.next_event_ms <= end_ms:
            world.run_next()
        return done()
