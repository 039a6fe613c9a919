"""What an operator should know of: a ring of recent events, and one log line for each.

An event is a change of state (never a request). The table below gives each event
that the core or the daemon reports its level and its plain words; an event that is
not in the table is still logged and kept, under its own name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from structlog.typing import FilteringBoundLogger

from coherenced.wire.names import json_name

RING: Final = 1000
"""How many events are kept for `coherenced nodes --events` and `/v1/nodes?events=1`."""
MAX_TEXT: Final = 500
"""Longest text kept in a field: what a peer or a server says is not ours to bound."""


class Words(NamedTuple):
    """How one event is told."""

    level: str
    text: str


WORDS: Final[Mapping[str, Words]] = {
    # -- this node
    "ready": Words("info", "ready: this node is current and serves"),
    "reloaded": Words("info", "configuration reloaded"),
    "left": Words("info", "left the roster: this node serves nothing any more"),
    "out_of_memory": Words("error", "out of memory: what needs very much at once is refused"),
    "memory_suffices": Words("info", "nothing is refused for want of memory any more"),
    # -- its clients
    "clients_turned_away": Words("warning", "there are too many clients: some are turned away"),
    "clients_let_in": Words("info", "no client is turned away any more"),
    # -- the server
    "redis_unreachable": Words("warning", "Redis cannot be reached; retrying until it can"),
    "redis_reachable": Words("info", "Redis can be reached"),
    "server_changed": Words("info", "another Redis process answers; ack=all waits out one bound"),
    "bus_connected": Words("info", "connected to the invalidation bus"),
    "bus_lost": Words("warning", "lost the invalidation bus; reconnecting and catching up"),
    "pause_suspected": Words(
        "warning", "this host may have been paused: everything is proved anew before it is served"
    ),
    # -- the log
    "gap_found": Words("warning", "invalidations are missing; reading them from the log"),
    "gap_repaired": Words("info", "caught up from the log"),
    "lane_dropped": Words("warning", "dropped everything cached of a lane: its log is another one"),
    # -- the other nodes
    "nodes_found": Words("info", "other nodes are on the roster"),
    "node_joined": Words("info", "a node joined"),
    "node_left": Words("info", "a node left"),
    "node_reaped": Words("warning", "took a silent node off the roster"),
    "node_fenced": Words("warning", "a node did not answer in time; its bound has fenced it"),
    "linearizable_learned": Words(
        "info", "other nodes declare other linearizable namespaces now: this node follows them"
    ),
    # -- writes
    "lost_write_was_applied": Words("info", "a write's reply was lost; the log shows it applied"),
    "lost_write_not_applied": Words("info", "a write's reply was lost; it was not applied: resent"),
    "write_indeterminate": Words(
        "error", "a write's reply was lost and the log cannot tell what became of it"
    ),
    "accepted_write_failed": Words(
        "error", "a write that was accepted with ack=none could not be carried out"
    ),
    # -- a warm restart
    "warmed": Words("info", "read the keys of the last run again"),
    "warm_file_damaged": Words(
        "warning",
        "the file with the keys of the last run is damaged: it is not used, this node starts cold, "
        "and writes a new one",
    ),
    "warm_not_saved": Words("warning", "the keys to begin with next time could not be saved"),
    # -- the audit
    "audit_diverged": Words(
        "error",
        "an audit found a copy that differs from Redis; it was dropped. Either something writes "
        "to Redis past coherenced, or this is a defect",
    ),
    # -- the journal
    "spooled": Words("warning", "Redis cannot be reached: invalidations are journaled on disk"),
    "spool_replayed": Words("info", "journaled invalidations were sent"),
    "spool_refused": Words("error", "the journal of invalidations could not be written"),
}


class Entry(NamedTuple):
    """One event as it is shown: `at` is the local ISO time that the caller gave."""

    at: str
    event: str
    text: str
    fields: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {**self.fields, "at": self.at, "event": self.event, "text": self.text}


class EventRing:
    """The last `RING` events, oldest first. Bounded; O(1) to add to."""

    __slots__ = ("_ring", "counts")

    def __init__(self, size: int = RING) -> None:
        self._ring: deque[Entry] = deque(maxlen=size)
        self.counts: dict[str, int] = {}
        """How often each event happened since the start. Bounded by the number of event names."""

    def add(self, at: str, name: str, fields: Mapping[str, Any]) -> Entry:
        """Keep an event that happened at `at` (local ISO time)."""
        words = WORDS.get(name)
        text = words.text if words else name.replace("_", " ")
        entry = Entry(at, name, text, {key: _plain(value) for key, value in fields.items()})
        self._ring.append(entry)
        self.counts[name] = self.counts.get(name, 0) + 1
        return entry

    def as_json(self) -> list[dict[str, Any]]:
        return [entry.as_json() for entry in self._ring]

    def __len__(self) -> int:
        return len(self._ring)


def log_event(log: FilteringBoundLogger, entry: Entry) -> None:
    """Write the one line for `entry`, at the level its words have (`info` when unknown)."""
    words = WORDS.get(entry.event)
    level = words.level if words else "info"
    # The words are the line's text; the name stays beside it, for machines that filter by it.
    fields = {key: value for key, value in entry.fields.items() if key not in _TAKEN}
    getattr(log, level)(entry.text, name=entry.event, **fields)


_TAKEN: Final = frozenset({"event", "name", "level", "timestamp", "exc_info", "stack_info"})


def _plain(value: Any) -> Any:
    """A field as JSON can hold it: a name as everywhere, long texts cut, the rest by its `str`."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        if len(value) <= MAX_TEXT:
            return json_name(value)
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in list(value)[:50]]
    text = str(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
