"""The cluster that suffers: a primary and its replica, daemons, and a bad network between."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from coherenced.bench.talk import Talk
from coherenced.errors import CommandError, DaemonUnreachable
from coherenced.lab.daemon import COHERENCED, Daemon
from coherenced.lab.proxy import Proxy
from coherenced.lab.server import Server, wait_until

T = TypeVar("T")

NODES: Final = ("a", "b", "c")
BOUND_MS: Final = 500
MARKER: Final = "faults:marker"
PROBE_S: Final = 1.0
RECOVER_S: Final = 20.0
SETTINGS: Final = {
    "coherence.max_staleness_ms": BOUND_MS,
    "redis.command_timeout_ms": 1000,
    "redis.reconnect_max_ms": 500,
    "namespace.lin.match": "lin:*",
    "namespace.lin.linearizable": True,
}
LOG: Final = "coh:{0}:log"
META: Final = "coh:{0}:meta"


class World:
    """Everything as a real process; gone when it is left."""

    def __init__(self, command: Sequence[str] = COHERENCED) -> None:
        """`command`: what to start as a daemon, without its arguments."""
        self.directory = Path(tempfile.mkdtemp(prefix="coherenced-faults-"))
        self.primary = Server(self.directory / "one")
        self.replica = Server(self.directory / "two")
        self.proxies: dict[str, Proxy] = {}
        self.daemons: list[Daemon] = []
        self.losses: list[tuple[float, float]] = []
        self.now_s = time.monotonic
        """The clients' clock."""
        self.recover_s = RECOVER_S
        """How long until all must be well again after a fault."""
        self._command = command
        self._marker = 0

    def start(self) -> None:
        """Servers, proxies, and the daemons side by side. Raises `StartError`."""
        self.primary.start()
        self.replica.start()
        self.replica.follow(self.primary)
        for name in NODES:
            proxy = self.proxies[name] = Proxy(("127.0.0.1", self.primary.port)).start()
            settings = {**SETTINGS, "redis.url": proxy.url}
            self.daemons.append(Daemon(name, self.directory / name, settings, self._command))
        for daemon in self.daemons:
            daemon.wait_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as last:
            last.callback(shutil.rmtree, self.directory, ignore_errors=True)
            last.callback(self.primary.kill)
            last.callback(self.replica.kill)
            for proxy in self.proxies.values():
                last.callback(proxy.stop)
            for daemon in self.daemons:
                last.callback(daemon.stop)
            for proxy in self.proxies.values():
                proxy.heal()
            for server in (self.primary, self.replica):
                server.resume()
            for daemon in self.daemons:  # all at once, then wait for each
                daemon.begin_stop()

    # -- what the faults are made of -----------------------------------------------------------

    def daemon(self, name: str) -> Daemon:
        return self.daemons[NODES.index(name)]

    @contextmanager
    def losing(self) -> Iterator[None]:
        """Data is lost inside."""
        began_s = self.now_s()
        try:
            yield
        finally:
            self.losses.append((began_s, self.now_s()))

    def lead_to(self, server: Server, names: Sequence[str] = NODES) -> None:
        """From now on these nodes reach that server; their connections are cut."""
        for name in names:
            self.proxies[name].target = ("127.0.0.1", server.port)
            self.proxies[name].cut()

    def swap(self) -> None:
        """The two servers change roles, in our books."""
        self.primary, self.replica = self.replica, self.primary

    # -- how it stands ---------------------------------------------------------------------------

    def until_current(self) -> float | None:
        """Wait until every node serves the newest value from its own memory; how long it took.

        A marker is written, and each node asked until it answers with it from L1: so it is
        current, can prove it, and caches again. None when that does not come in time.
        """
        began_s = time.monotonic()
        self._marker += 1
        waiting = dict(zip(NODES, self.daemons, strict=True))
        written = False
        while waiting:
            if time.monotonic() > began_s + self.recover_s:
                return None
            if not written:
                written = any(self._set_marker(daemon) for daemon in self.daemons)
            for name in [name for name, daemon in waiting.items() if self._has_marker(daemon)]:
                del waiting[name]
            time.sleep(0.005)
        return time.monotonic() - began_s

    def _set_marker(self, daemon: Daemon) -> bool:
        return bool(_asked(daemon, lambda talk: talk.ask("SET", MARKER, self._marker)))

    def _has_marker(self, daemon: Daemon) -> bool:
        def look(talk: Talk) -> bool:
            value, _, source = talk.ask("COH.GET", MARKER, "META")[:3]
            current = value == b"%d" % self._marker and source == b"l1"
            return current and bool(talk.stats()["lanes"][0]["subscribed"])

        return bool(_asked(daemon, look))

    def value_of(self, counter: str) -> int:
        """What a counter stands at."""
        with Talk(self.daemons[0].socket) as talk:
            return int(talk.ask("COH.GET", counter, "MAXSTALE", 0) or 0)

    def counts(self) -> dict[str, Counter[str]]:
        """Of each node that answers: what it has counted so far of what an operator cares about."""
        found = {}
        for daemon in self.daemons:
            stats = _asked(daemon, Talk.stats)
            if stats is not None:
                found[daemon.name] = _counts(stats)
        return found

    def await_equal(self, keys: Sequence[str], patience_s: float) -> dict[str, dict[str, Any]]:
        """What every key holds in Redis and on each node, once all agree, or in the end."""
        until_s = time.monotonic() + patience_s
        while True:
            told = {"Redis": self._ask_redis(keys)}
            for daemon in self.daemons:
                with Talk(daemon.socket) as talk:
                    told[daemon.name] = _texts(keys, talk.ask("MGET", *keys))
            if len({tuple(values.values()) for values in told.values()}) == 1:
                return told
            if time.monotonic() > until_s:
                return told
            time.sleep(0.02)

    def _ask_redis(self, keys: Sequence[str]) -> dict[str, Any]:
        """Tagged values may be dead there without having been removed: ask for them as current."""
        plain = _texts(keys, self.primary.ask("MGET", *keys))
        with Talk(self.daemons[0].socket) as talk:
            for key in keys:
                if key.startswith("t:"):
                    plain[key] = _text(talk.ask("COH.GET", key, "MAXSTALE", 0))
        return plain


def _asked(daemon: Daemon, question: Callable[[Talk], T]) -> T | None:
    """The answer of a daemon that may well give none."""
    with contextlib.suppress(OSError, CommandError, DaemonUnreachable):
        talk = Talk(daemon.socket, PROBE_S)
        with talk:
            return question(talk)
    return None


def caught_up(ahead: Server, behind: Server) -> bool:
    """Whether the replica has everything."""
    return ahead.info("master_repl_offset") == behind.info("slave_repl_offset")


def until_caught_up(ahead: Server, behind: Server) -> None:
    wait_until(lambda: caught_up(ahead, behind), "the replica to catch up")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _texts(keys: Sequence[str], values: Sequence[bytes | None]) -> dict[str, Any]:
    return {key: _text(value) for key, value in zip(keys, values, strict=True)}


def _counts(stats: dict[str, Any]) -> Counter[str]:
    lane, writes = stats["lanes"][0], stats["writes"]
    return Counter(
        {
            "gaps": lane["gaps_found"],
            "records from the log": lane["from_log"],
            "drops": lane["drops"],
            "forks": lane["forks"],
            "fenced": stats["node"]["fences"],
            "lost replies resolved": writes["resolved"],
            "writes indeterminate": writes["indeterminate"],
            "reads of Redis": stats["l2"]["hits"] + stats["l2"]["misses"],
        }
    )
