"""The port through which the serving floors reach the node: what they may ask, and when.

Implemented by `daemon.Daemon` and, in tests, by small fakes. Everything is called
from the event loop's thread; nothing blocks; callbacks are called exactly once,
possibly before the call that takes them returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from coherenced.core.entry import Entry
from coherenced.core.model import Record, Version
from coherenced.core.requests import Fault, Outcome, Request


class NodePort(Protocol):
    """What a front end may ask of this host's node."""

    def now_ms(self) -> float:
        """CLOCK_BOOTTIME in milliseconds: it goes on while the host is suspended (V3)."""

    def hit(self, key: bytes, now_ms: float) -> Entry | None:
        """The short path: the entry, iff it may be served at `now_ms` under its namespace's bound.

        One direct call, no task, no await. `now_ms` must have been read after the
        request's bytes arrived. A hit counts itself. `entry.bulk` is the whole RESP
        bulk string, `entry.value` the bytes; an entry for "not there" has
        `entry.value is None` and `entry.bulk == b"$-1\\r\\n"`.
        None: use `submit`.
        """

    def hits(self, keys: Sequence[bytes], now_ms: float) -> list[bytes]:
        """The same for several: the `entry.bulk` of each of the first of `keys` that hit; it ends
        at the first that does not."""

    def has_origin(self, key: bytes) -> bool:
        """Whether `key` has its home behind HTTP, and Redis is a cache of it."""

    def submit(self, request: Request, done: Callable[[Outcome], None]) -> None:
        """Everything else. `done` is called once with the outcome. Never raises."""

    def get(self, key: bytes, done: Callable[[Outcome], None]) -> None:
        """The same as `submit(Get(key), done)`."""

    def watch(
        self, watch_id: int, keys: tuple[bytes, ...], done: Callable[[int | Fault], None]
    ) -> None:
        """WATCH `keys` on a dedicated upstream connection; `watch_id` 0 opens one. -> its id."""

    def unwatch(self, watch_id: int) -> None:
        """Give the dedicated connection back (EXEC does it by itself)."""

    def nodes(self, done: Callable[[dict[str, Any] | Fault], None]) -> None:
        """`{"self": name, "nodes": [{name, incarnation, beat, bound_ms, version, live, self,
        applied, ...}], "events": [{at, event, ...}]}`, read from the roster now; with
        `"outdated": why` as it was last read, when Redis does not answer."""

    def audit(
        self, keys: Sequence[bytes] | int, done: Callable[[dict[str, Any] | Fault], None]
    ) -> None:
        """Compare what this node holds of `keys`, or of so many keys chosen at random, with
        Redis: `{"node", "compared", "agreed", "moved", "not_held", "diverged": [{key, held_as_of,
        redis_as_of, held_bytes, redis_bytes}]}`. Diverged copies have been dropped."""

    def write_behind(self, done: Callable[[dict[str, Any] | Fault], None]) -> None:
        """`{"namespaces": {name: {waiting, keys, dead, error, oldest: [{id, key}], letters:
        [{id, key, operation, bytes, why, tries}]}}}`, read from Redis now."""

    def settle_letters(
        self,
        namespace: str,
        ids: Sequence[str] | None,
        replay: bool,
        done: Callable[[dict[str, Any] | Fault | None], None],
    ) -> None:
        """Send these dead letters again, or forget them; ids None: all. `{done, superseded,
        unknown: [id]}`, or None when the namespace is not written behind."""

    def stats(self) -> dict[str, Any]:
        """Counters and gauges, nested by tier: JSON-ready."""

    def page(self) -> dict[str, Any]:
        """`{"path", "layout", "incarnation", "slots", "bytes", "touched", "drops"}` of the shared
        page; `{"path": null, "because": why}` when there is none."""

    def explain(self, key: bytes) -> dict[str, Any]:
        """Why `key` would be served from where: JSON-ready."""

    def ready(self) -> tuple[bool, str]:
        """Whether this node has joined the bus and proved itself current; else why not."""

    def stream(self, listener: Callable[[Record, str], None]) -> Callable[[], None]:
        """Call `listener(record, version)` for every applied record; returns the way to stop it."""

    def stream_events(self, listener: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Call `listener({at, event, text, ...})` for every event of this node (those of
        `nodes`); returns the way to stop it."""

    def version(self) -> Version | None:
        """Where the lane's log stands, as far as this node has applied it: those that `stream`
        tells come after it."""

    def metrics(self) -> bytes:
        """The Prometheus text exposition."""

    def settings(self) -> dict[str, Any]:
        """The configuration in force, secrets replaced by '***'."""
