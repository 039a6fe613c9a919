"""Histories of a store that keeps every promise, in virtual time: what no checker may accuse.

A store with one log, and nodes that each answer from a state that is at most B old
and never goes back (a *horizon*). Replies take random times, some never come, writes
may be refused, lost-but-applied, or applied much later; values expire; the store may
be flushed or go back to an earlier state. Everything is drawn from one `Random`.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from random import Random

from tests.checkers.history import History, KeyRead, Kind, Operation, Outcome, Values

NS_PER_MS = 1_000_000
EPOCHS = ("00000000000000aa", "00000000000000bb", "00000000000000cc")


@dataclass(frozen=True)
class Shape:
    """How large and how nasty the simulated run is."""

    sessions: int = 4
    nodes: int = 3
    keys: int = 2
    linearizable_keys: int = 1
    operations: int = 120
    bound_ms: float = 50.0
    versions: bool = True
    """Whether writes and reads report versions."""
    unanswered: float = 0.05
    """Share of mutations whose reply is lost."""
    refused: float = 0.03
    expiries: float = 0.03
    flush: bool = False
    loss: bool = False


@dataclass
class _State:
    """What one key was, over time."""

    times: list[float] = field(default_factory=list)
    values: list[tuple[str | None, float]] = field(default_factory=list)
    """Value and expiry time."""

    def set(self, time_ms: float, value: str | None, expires_ms: float = float("inf")) -> None:
        self.times.append(time_ms)
        self.values.append((value, expires_ms))

    def at(self, horizon_ms: float) -> str | None:
        value, expires_ms = self.entry(horizon_ms)
        return None if horizon_ms >= expires_ms else value

    def outlived(self, horizon_ms: float, now_ms: float) -> bool:
        """Whether what was there at the horizon has reached its deadline since."""
        return horizon_ms < self.entry(horizon_ms)[1] <= now_ms

    def entry(self, horizon_ms: float) -> tuple[str | None, float]:
        place = bisect.bisect_right(self.times, horizon_ms) - 1
        return self.values[place] if place >= 0 else (None, float("inf"))


class Simulation:
    """One run; `history()` is what its clients recorded."""

    def __init__(self, random: Random, shape: Shape = Shape()) -> None:
        self.random = random
        self.shape = shape
        self.nodes = [f"n{n}" for n in range(shape.nodes)]
        self.plain = [f"k{n}" for n in range(shape.keys)]
        self.keys = self.plain + [f"lin:{n}" for n in range(shape.linearizable_keys)]
        self.states = {key: _State() for key in self.keys}
        self.horizons = dict.fromkeys(self.nodes, 0.0)
        self.epoch, self.seq = 0, 0
        self.log: list[tuple[float, int, int]] = [(-1.0, 0, 0)]
        """(time, epoch, seq) after each commit."""
        self.operations: list[Operation] = []
        self.agenda: list[tuple[float, int, Operation, str]] = []
        self.tokens: dict[str, tuple[str, float]] = {}
        self.values = Values("v")
        self.final_ms = 0.0
        self.disasters = 0

    def history(self) -> History:
        """Run it."""
        for number in range(self.shape.sessions):
            self._plan_session(f"s{number}", self.random.choice(self.nodes))
        self._plan_disasters()
        self._plan_final()
        self.agenda.sort(key=lambda item: item[:2])
        for time_ms, _, op, what in self.agenda:
            getattr(self, f"_{what}")(op, time_ms)
        self.operations.sort(key=lambda op: op.start_ns)
        return History(operations=self.operations, bound_ms=self.shape.bound_ms)

    # -- plan: who does what, when -----------------------------------------------------

    def _plan_session(self, name: str, home: str) -> None:
        random, now_ms = self.random, random_gap(self.random)
        for _ in range(self.shape.operations // self.shape.sessions):
            node = home if random.random() < 0.8 else random.choice(self.nodes)
            start_ms, end_ms = now_ms, now_ms + random_gap(random)
            instant_ms = random.uniform(start_ms, end_ms)
            if random.random() < 0.55:
                self._plan_read(name, node, start_ms, instant_ms, end_ms)
            else:
                self._plan_write(name, node, start_ms, instant_ms, end_ms)
            now_ms = end_ms + random_gap(random)
        self.final_ms = max(self.final_ms, now_ms)

    def _plan_read(
        self, name: str, node: str, start_ms: float, instant_ms: float, end_ms: float
    ) -> None:
        op = self._operation(name, node, Kind.READ, start_ms, end_ms)
        if self.random.random() < 0.3:
            op.kind, op.keys = Kind.MGET, tuple(self.plain)
            op.snapshot = self.random.random() < 0.7
        else:
            op.keys = (self.random.choice(self.keys),)
        if self.random.random() < 0.25:
            op.max_staleness_ms = 0
        if self.shape.versions and not self.shape.loss and self.random.random() < 0.4:
            op.min_version = "?"
        self._at(instant_ms, op, "answer")

    def _plan_write(
        self, name: str, node: str, start_ms: float, instant_ms: float, end_ms: float
    ) -> None:
        random = self.random
        kind = random.choices([Kind.WRITE, Kind.DELETE, Kind.MSET, Kind.INVALIDATE], [6, 2, 2, 1])[
            0
        ]
        op = self._operation(name, node, kind, start_ms, end_ms)
        op.level = random.choice(["", "", "all", "none", "quorum"])
        op.keys = tuple(self.plain) if kind == Kind.MSET else (random.choice(self.keys),)
        if kind in (Kind.WRITE, Kind.MSET):
            op.values = tuple(self.values.next() for _ in op.keys)
        if kind == Kind.WRITE and random.random() < self.shape.expiries:
            op.ttl_ms = int(random_gap(random) * 5) + 1
        luck = random.random()
        if luck < self.shape.refused:
            op.outcome = Outcome.FAIL
        elif luck < self.shape.refused + self.shape.unanswered:
            op.outcome, op.end_ns = Outcome.UNKNOWN, None
            if random.random() < 0.7:
                self._at(instant_ms + random.choice([0, 0, 300]) * random.random(), op, "commit")
        else:
            op.satisfied = random.random() < 0.9
            if op.level == "none":
                instant_ms += random.choice([0, 20]) * random.random()
            self._at(instant_ms, op, "commit")
            self._at(end_ms, op, "returned")

    def _plan_disasters(self) -> None:
        kinds = [Kind.FLUSH] * self.shape.flush + [Kind.LOSS] * self.shape.loss
        for kind in kinds:
            start_ms = self.random.uniform(0, self.final_ms)
            end_ms = start_ms + random_gap(self.random)
            op = self._operation("nemesis", "redis", kind, start_ms, end_ms)
            self._at(self.random.uniform(start_ms, end_ms), op, "disaster")

    def _plan_final(self) -> None:
        now_ms = self.final_ms + 1000
        for node in [*self.nodes, "redis"]:
            for key in self.keys:
                op = self._operation("final", node, Kind.READ, now_ms, now_ms + 1)
                op.keys, op.final = (key,), True
                self._at(now_ms + 0.5, op, "answer")
                now_ms += 2

    def _operation(
        self, session: str, node: str, kind: str, start_ms: float, end_ms: float
    ) -> Operation:
        op = Operation(
            id=len(self.operations) + 1,
            session=session,
            node=node,
            kind=kind,
            start_ns=int(start_ms * NS_PER_MS),
            # Rounded up, so that everything inside happened by then.
            end_ns=int(end_ms * NS_PER_MS) + 1,
            outcome=Outcome.OK,
        )
        self.operations.append(op)
        return op

    def _at(self, time_ms: float, op: Operation, what: str) -> None:
        self.agenda.append((time_ms, len(self.agenda), op, what))

    # -- happen, in the order of time ----------------------------------------------------

    def _commit(self, op: Operation, now_ms: float) -> None:
        self.seq += 1
        self.log.append((now_ms, self.epoch, self.seq))
        expires_ms = float("inf") if op.ttl_ms is None else now_ms + op.ttl_ms
        for place, key in enumerate(op.keys):
            self.states[key].set(now_ms, op.values[place] if op.values else None, expires_ms)
        if op.outcome == Outcome.OK and op.level != "none" and self.shape.versions:
            op.version = f"{EPOCHS[self.epoch]}:{self.seq}"
            self.tokens[op.session] = (op.version, now_ms)

    def _returned(self, op: Operation, now_ms: float) -> None:
        """Its own node has dropped the key; with ack=all every node has."""
        everyone = op.level == "all" and op.satisfied
        for node in self.nodes if everyone else [op.node]:
            self.horizons[node] = max(self.horizons[node], now_ms)

    def _answer(self, op: Operation, now_ms: float) -> None:
        current = op.final or op.max_staleness_ms == 0
        age_ms = 0.0 if current else self.random.random() * self.shape.bound_ms
        horizon_ms = now_ms
        if op.node != "redis":
            horizon_ms = max(self.horizons[op.node], now_ms - age_ms)
            if op.min_version:
                # Only a token it has by then: written by this session, in this epoch.
                token, token_ms = self.tokens.get(op.session, ("", 0.0))
                known = token.startswith(EPOCHS[self.epoch]) and token_ms * NS_PER_MS < op.start_ns
                op.min_version = token if known else ""
                horizon_ms = max(horizon_ms, token_ms if known else 0.0)
            if any(self.states[key].outlived(horizon_ms, now_ms) for key in op.keys):
                horizon_ms = now_ms  # past its deadline a copy is not used: the store is asked
            self.horizons[op.node] = horizon_ms
        op.values = tuple(
            self.states[key].at(now_ms if key.startswith("lin:") else horizon_ms) for key in op.keys
        )
        if self.shape.versions and op.kind == Kind.READ:
            as_of = now_ms if op.keys[0].startswith("lin:") else horizon_ms
            place = bisect.bisect_right(self.log, (as_of, 9, 0)) - 1
            _, epoch, seq = self.log[place]
            op.version = f"{EPOCHS[epoch]}:{seq}"

    def _disaster(self, op: Operation, now_ms: float) -> None:
        if op.kind == Kind.FLUSH:
            self.epoch += 1
            self.seq = 0
            for state in self.states.values():
                state.set(now_ms, None)
        else:
            back_ms = self.random.uniform(0, now_ms)
            for state in self.states.values():
                state.set(now_ms, *state.entry(back_ms))
            self.epoch, self.seq = self.log[bisect.bisect_right(self.log, (back_ms, 9, 0)) - 1][1:]
        self.log.append((now_ms, self.epoch, self.seq))


def random_gap(random: Random) -> float:
    """Mostly short, sometimes long; ms."""
    return random.expovariate(1 / 5) * random.choice([0.2, 1, 1, 6])


def correct_history(seed: int, shape: Shape = Shape()) -> History:
    """The history of one correct run."""
    return Simulation(Random(seed), shape).history()


def older_answer(
    history: History, read: KeyRead, due_ns: float, *, by: set[int] | None = None
) -> tuple[Operation, str] | None:
    """A write that ended before `due_ns` (of those with ids in `by`), and the value of a write
    that had ended before it began: what `read` must not show. None when there is no such pair."""
    for newer in history.operations:
        if not _plain_write(newer, read.key) or newer.end >= due_ns:
            continue
        if by is not None and newer.id not in by:
            continue
        for older in history.operations:
            if _plain_write(older, read.key) and older.end < newer.start_ns:
                return newer, older.values[older.keys.index(read.key)] or ""
    return None


def _plain_write(op: Operation, key: str) -> bool:
    return (
        op.kind in (Kind.WRITE, Kind.MSET)
        and key in op.keys
        and op.outcome == Outcome.OK
        and op.level != "none"
    )
