"""What really happened: every state that the lane's data has ever been in.

The simulator sees every commit of the modelled server at its true time. So
there is nothing to infer from a history: how old a value is that some node
served is looked up here, exactly.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from coherenced.core.model import Lineage, Mutation, Op
from tests.sim.redis_model import Server


class State(NamedTuple):
    """What one key held from `at_ms` on, until its next state or its expiry."""

    at_ms: float
    index: int
    value: bytes | None
    dies_ms: float
    """World time from which Redis treats it as expired; infinity when it has no TTL."""


class Timeline:
    """All states of one key, oldest first. It begins absent."""

    __slots__ = ("indexes", "states", "times")

    def __init__(self) -> None:
        self.states = [State(float("-inf"), -1, None, float("inf"))]
        self.times = [float("-inf")]
        self.indexes = [-1]

    def add(self, state: State) -> None:
        self.states.append(state)
        self.times.append(state.at_ms)
        self.indexes.append(state.index)

    def at_index(self, index: int) -> State:
        """The state just after commit number `index`."""
        return self.states[bisect_right(self.indexes, index) - 1]

    def when_was(self, value: bytes | None, from_ms: float, to_ms: float) -> float | None:
        """The earliest time in [from_ms, to_ms] at which the key held `value`; None if never.

        A state holds from its commit on and up to, not including, the next commit; one of two
        commits of the same time, which the server executed one after the other, at that time.
        """
        if from_ms > to_ms:
            return None
        place = max(0, bisect_left(self.times, from_ms) - 1)
        for at in range(place, len(self.states)):
            state = self.states[at]
            if state.at_ms > to_ms:
                return None
            ends_ms = self.times[at + 1] if at + 1 < len(self.states) else float("inf")
            if state.value == value:
                earliest = max(state.at_ms, from_ms)
                is_moment = earliest == state.at_ms == ends_ms
                if (is_moment or earliest < min(ends_ms, state.dies_ms)) and earliest <= to_ms:
                    return earliest
            if value is None and state.dies_ms < ends_ms:
                earliest = max(state.dies_ms, from_ms)
                if earliest < ends_ms and earliest <= to_ms:
                    return earliest
        return None

    def at(self, when_ms: float, index: int) -> bytes | None:
        """What the key held at `when_ms`, just after commit number `index`."""
        state = self.at_index(index)
        return None if when_ms >= state.dies_ms else state.value

    def now(self, now_ms: float) -> bytes | None:
        state = self.states[-1]
        return None if now_ms >= state.dies_ms else state.value


class Truth:
    """The history of the authoritative server. `observe` is called after each of its steps."""

    def __init__(self) -> None:
        self.keys: dict[bytes, Timeline] = {}
        self.index = 0
        """How many commits there have been."""
        self.commit_times: list[float] = [float("-inf")]
        """Index -> when that commit happened."""
        self.positions: dict[Lineage, int] = {}
        """Lineage -> the last commit at which the log stood there."""
        self.by_seq: dict[tuple[bytes, int], list[int]] = {}
        self.losses: list[float] = []
        """When the server lost or replaced its data: a flush, an older file, a failover."""
        self.foreign: dict[bytes, list[float]] = {}
        """Key -> when it was changed with no record: by another program, or by an eviction."""
        self.covers: list[tuple[float, Mutation]] = []
        """Recorded mutations and when they were committed, in order."""
        self.committed: dict[bytes, list[float]] = {}
        """Each written value -> when it was committed. More than one time is a double apply."""

    def index_at(self, when_ms: float) -> int:
        """The last commit up to then."""
        return bisect_right(self.commit_times, when_ms) - 1

    def moments(self, from_ms: float, to_ms: float) -> list[tuple[float, int]]:
        """(When, after which commit): the beginning, each commit, and the end."""
        first, last = self.index_at(from_ms), self.index_at(to_ms)
        commits = [(self.commit_times[n], n) for n in range(first + 1, last + 1)]
        return [(from_ms, first), *commits, (to_ms, last)]

    def timeline(self, key: bytes) -> Timeline:
        found = self.keys.get(key)
        if found is None:
            found = self.keys[key] = Timeline()
        return found

    def observe(self, server: Server, keys: Iterable[bytes] | None, now_ms: float) -> None:
        """Something was committed: note what `keys` hold now (None: every key ever seen)."""
        self.index += 1
        self.commit_times.append(now_ms)
        if keys is None:
            keys = list(dict.fromkeys([*self.keys, *server.space.items]))
        for key in keys:
            self._note(server, key, now_ms)
        self.place(server)

    def place(self, server: Server) -> None:
        """Remember that the log stands where it stands after the last commit."""
        lineage = server.lineage
        if lineage is not None and self.positions.get(lineage) != self.index:
            self.positions[lineage] = self.index
            self.by_seq.setdefault((lineage.epoch, lineage.seq), []).append(self.index)

    def _note(self, server: Server, key: bytes, now_ms: float) -> None:
        value = server.fetched(key).value
        timeline = self.timeline(key)
        dies_ms = float("inf")
        item = server.space.items.get(key)
        if value is not None and item is not None and item.expire_ms is not None:
            dies_ms = item.expire_ms + 1 - server.clock_offset_ms
        last = timeline.states[-1]
        alive = None if now_ms >= last.dies_ms else last.value
        if alive != value or (value is not None and dies_ms != last.dies_ms):
            timeline.add(State(now_ms, self.index, value, dies_ms))

    def lost_since(self, when_ms: float) -> bool:
        """Whether Redis lost or replaced data after `when_ms`."""
        return bool(self.losses) and self.losses[-1] >= when_ms

    def note_foreign(self, server: Server, key: bytes, now_ms: float) -> None:
        """`key` has just been changed past coherenced. Nobody notices; the commits go on."""
        self.foreign.setdefault(key, []).append(now_ms)
        self._note(server, key, now_ms)

    def foreign_between(self, key: bytes, from_ms: float, to_ms: float) -> bool:
        return any(from_ms <= at_ms <= to_ms for at_ms in self.foreign.get(key, ()))

    def note_cover(self, mutation: Mutation, now_ms: float) -> None:
        """A record that voids every lease of what it covers has just been committed."""
        if mutation.op not in (Op.PREPARE, Op.ABORT):
            self.covers.append((now_ms, mutation))

    def covered_between(
        self, key: bytes, tags: tuple[bytes, ...], from_ms: float, to_ms: float
    ) -> float | None:
        """When, after the one and before the other, a record covered `key` or one of `tags`."""
        for at_ms, mutation in reversed(self.covers):
            if at_ms <= from_ms:
                return None
            covers = (
                mutation.everything
                or mutation.op == Op.FLUSH
                or key in mutation.keys
                or any(tag in mutation.tags for tag in tags)
                or key.startswith(mutation.prefixes)
            )
            if covers and at_ms < to_ms:
                return at_ms
        return None

    def note_written(self, value: bytes, now_ms: float) -> None:
        if value:
            self.committed.setdefault(value, []).append(now_ms)

    def next_commit_ms(self, index: int) -> float:
        """When the commit after `index` happened; infinity when there was none."""
        if index + 1 < len(self.commit_times):
            return self.commit_times[index + 1]
        return float("inf")
