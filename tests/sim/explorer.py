"""Every order of events of a small configuration, on the real core.

Stateless search: a state is reached by replaying its choices from the start, so
nothing of the core needs to be copied. A choice is one of

    deliver  the next message of one connection (each is first in, first out)
    lose     the next bus message to a node (a bounded number of them)
    act      a client's next read or write
    tick     time goes on: timers fire, and a bound of staleness comes nearer

Calls are executed by the server the moment they are sent and their answers wait
to be delivered: a delay before execution is the same as sending later. States
that look the same are explored once. After every step everything is checked
that a seeded run checks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from coherenced.core.laws import Laws
from coherenced.core.model import Mutation, Op, Version
from coherenced.core.policy import Policy
from coherenced.core.requests import Fault, Level, Outcome, Read, ReadResult, Write, WriteResult
from tests.sim.clients import set_mutation
from tests.sim.fingerprint import Freezer
from tests.sim.history import ReadOp, Violation, WriteOp
from tests.sim.host import Host
from tests.sim.network import BUS, Connection
from tests.sim.redis_model import ServerLaws
from tests.sim.world import World

MOMENT_MS: Final = 0.001
"""Between two events: no time to speak of, but enough to tell which was first."""


class Act(msgspec.Struct, frozen=True):
    """One client request. Acts of one node happen in their order, those of two in any."""

    node: str
    what: str
    """`read`, `zero` (a read with B = 0), `token`, `write`, `delete`, `tag` (invalidate it)."""
    key: str = "k"
    ack: int = Level.REDIS
    tags: tuple[bytes, ...] = ()
    atomic_with: str = ""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration to explore."""

    name: str
    acts: tuple[Act, ...]
    losses: int = 0
    ticks: int = 1
    tick_ms: float = 60.0
    bound_ms: float = 100.0
    warm: tuple[Act, ...] = ()
    """Done before, in order, with everything delivered."""
    laws: Laws = Laws()
    server_laws: ServerLaws = ServerLaws()


class Found(msgspec.Struct):
    """What a search came to."""

    setup: Setup
    states: int
    runs: int
    complete: bool
    """Every order was explored."""
    problem: str = ""
    story: tuple[str, ...] = ()
    """The choices that lead to it."""


class Board(World):
    """A world whose messages wait until they are chosen."""

    def __init__(self, setup: Setup) -> None:
        self.queues: dict[tuple[str, str], deque[tuple[Connection, Callable[..., None], Any]]] = {}
        self.eager = True
        """While the configuration is set up everything is delivered at once."""
        policy = Policy(max_staleness_ms=setup.bound_ms, ack_timeout_ms=100_000.0)
        rules = (("l:*", msgspec.structs.replace(policy, linearizable=True)),)
        super().__init__(
            1, policy=policy, rules=rules, laws=setup.laws, server_laws=setup.server_laws,
            least_delay_ms=0.0, most_delay_ms=0.0,
        )  # fmt: skip
        self.setup = setup
        self.todo: dict[str, deque[Act]] = {}
        self.losses_left = setup.losses
        self.ticks_left = setup.ticks
        self.written = 0
        self.waiting = 0
        self.answers: list[str] = []
        self.tokens_known: list[tuple[bytes, Version, float]] = []
        for name in ("a", "b"):
            self.add_host(name)
            self.drain()
        self.now_ms = 1.5 * setup.bound_ms  # past the caution after a first contact (K7)
        self._fire_timers()
        self.drain()
        for act in setup.warm:
            self.act(act)
            self.drain()
        self.eager = False
        for host in self.hosts.values():
            self.todo[host.name] = deque(a for a in setup.acts if a.node == host.name)

    # -- instead of a network and a clock ------------------------------------------------

    def send_up(self, connection: Connection, action: Callable[[], None]) -> None:
        if connection.server_open and connection.process.up:
            action()

    def send_down(self, connection: Connection, action: Callable[..., None], *args: Any) -> None:
        place = (connection.host, connection.role)
        self.queues.setdefault(place, deque()).append((connection, action, args))

    def drain(self) -> None:
        while waiting := [place for place, queue in self.queues.items() if queue]:
            for place in waiting:
                self.deliver(place)

    def deliver(self, place: tuple[str, str]) -> None:
        connection, action, args = self.queues[place].popleft()
        if connection.node_open:
            action(*args)

    def tick(self) -> None:
        self.now_ms += self.setup.tick_ms
        self._fire_timers()

    def _fire_timers(self) -> None:
        self.run_until(self.now_ms)

    # -- choices ---------------------------------------------------------------------------

    def choices(self) -> list[tuple[str, Any]]:
        """What can happen next, in a fixed order."""
        found: list[tuple[str, Any]] = []
        for place in sorted(place for place, queue in self.queues.items() if queue):
            found.append(("deliver", place))
            if place[1] == BUS and self.losses_left:
                found.append(("lose", place))
        found.extend(("act", name) for name, acts in self.todo.items() if acts)
        if self.ticks_left:
            found.append(("tick", None))
        return found

    def choose(self, choice: tuple[str, Any]) -> None:
        self.now_ms += MOMENT_MS
        kind, where = choice
        if kind == "deliver":
            self.deliver(where)
        elif kind == "lose":
            self.losses_left -= 1
            self.queues[where].popleft()
        elif kind == "act":
            self.act(self.todo[where].popleft())
        else:
            self.ticks_left -= 1
            self.tick()

    # -- acts --------------------------------------------------------------------------------

    def act(self, act: Act) -> None:
        host = self.hosts[act.node]
        key = act.key.encode()
        if act.what in ("read", "zero", "token"):
            self._read(host, key, act)
        elif act.what == "tag":
            invalidate = Mutation((), Op.INVALIDATE, tags=act.tags, frees_memory=True)
            self._write(host, invalidate, act)
        elif act.what == "delete":
            argv = (b"DEL", key)
            self._write(host, Mutation(argv, Op.DELETE, (key,), frees_memory=True), act)
        else:
            self.written += 1
            value = b"v%d" % self.written
            mutation = set_mutation(key, value)
            if act.tags:
                mutation = msgspec.structs.replace(mutation, label=act.tags)
            self._write(host, mutation, act)

    def _read(self, host: Host, key: bytes, act: Act) -> None:
        bound_ms = 0.0 if act.what == "zero" else None
        op = ReadOp(
            host.name, host.name, 1, (key,), self.setup.bound_ms if bound_ms is None else 0.0,
            self.now_ms,
        )  # fmt: skip
        token = None
        if act.what == "token" and self.tokens_known:
            _, token, op.token_ms = self.tokens_known[-1]
        if act.what == "read":
            entry = host.hit(key)
            if entry is not None:
                self.history.end_hit(op, entry.value, self.now_ms)
                return
        self.waiting += 1

        def done(outcome: Outcome) -> None:
            assert isinstance(outcome, ReadResult | Fault)
            self.waiting -= 1
            self.history.end_read(op, outcome, self.now_ms)

        host.submit(Read((key,), bound_ms, token), done)

    def _write(self, host: Host, mutation: Mutation, act: Act) -> None:
        self.written += 1
        mark = mutation.argv[2] if len(mutation.argv) > 2 else b"w%d" % self.written
        op = WriteOp(host.name, host.name, 1, mutation.keys, mark, "write", act.ack, self.now_ms)
        if not mutation.keys or not mutation.keys[0].startswith(b"l:"):
            self.mark(mutation, mark)
        self.waiting += 1

        def done(outcome: Outcome) -> None:
            assert isinstance(outcome, WriteResult | Fault)
            self.waiting -= 1
            self.history.end_write(op, outcome, self.now_ms)
            if isinstance(outcome, WriteResult) and outcome.version is not None and mutation.keys:
                commit_ms = self.truth.committed[mark][-1]
                self.tokens_known.append((mutation.keys[0], outcome.version, commit_ms))

        host.submit(Write((mutation,), ack=act.ack), done)

    # -- what a state is -------------------------------------------------------------------------

    def after_step(self, host: Host) -> None:
        if not self.eager:
            super().after_step(host)

    def fingerprint(self) -> int:
        now_ms = self.now_ms
        freeze = Freezer(now_ms)
        parts: list[Any] = [
            self.losses_left,
            self.ticks_left,
            tuple(len(acts) for acts in self.todo.values()),
            freeze(self.primary.server.lineage),
            tuple((k, i.value) for k, i in self.primary.server.space.items.items()),
        ]
        for place in sorted(self.queues):
            queue = self.queues[place]
            parts.append((place, tuple(freeze(args) for _, _, args in queue)))
        for host in self.hosts.values():
            parts.append(freeze(host.node))
        freeze.exact = True
        for timeline in self.truth.keys.values():
            parts.append(tuple((freeze(s.at_ms), s.value) for s in timeline.states))
        history = self.history
        parts.append(freeze(history._seen))
        parts.append(freeze(history._acked))
        parts.append(freeze.ranks())
        return hash(repr(parts))


def explore(setup: Setup, most_states: int = 20_000) -> Found:
    """Search, shortest beginnings first. Stops at the first broken promise, or at the end."""
    seen: set[int] = set()
    found = Found(setup, 0, 0, complete=True)
    stack: deque[list[int]] = deque([[]])
    while stack:
        if len(seen) >= most_states:
            found.complete = False
            break
        prefix = stack.popleft()
        found.runs += 1
        try:
            for branch in _follow(Board(setup), prefix, seen):
                stack.append(branch)
        except (Violation, AssertionError) as problem:
            found.problem = str(problem)
            found.story = _retell(setup, getattr(problem, "path", prefix))
            break
    found.states = len(seen)
    return found


def _follow(board: Board, prefix: list[int], seen: set[int]) -> Iterator[list[int]]:
    """Replay `prefix`, then go on with each first choice; what else could be chosen."""
    path: list[int] = []
    try:
        for number in prefix:
            path.append(number)
            board.choose(board.choices()[number])
        branches: list[list[int]] = []
        while True:
            mark = board.fingerprint()
            if mark in seen:
                break
            seen.add(mark)
            choices = board.choices()
            if not choices:
                _at_rest(board)
                break
            branches.extend([*path, other] for other in range(1, len(choices)))
            path.append(0)
            board.choose(choices[0])
    except (Violation, AssertionError) as problem:
        problem.path = list(path)  # type: ignore[union-attr]
        raise
    yield from branches


def _at_rest(board: Board) -> None:
    """Everything has been delivered: let the probes work, then all nodes agree with Redis."""
    for _ in range(6):
        board.tick()
        board.drain()
    if board.waiting:
        raise Violation(f"liveness: {board.waiting} requests were never answered")
    for host in board.hosts.values():
        assert host.node is not None
        if board.truth.positions.get(host.node.lane.lineage) != board.truth.index:
            raise Violation(f"eventual: node {host.name} is not at the head of the log")


def _retell(setup: Setup, path: list[int]) -> tuple[str, ...]:
    """The choices of a path, in words."""
    board = Board(setup)
    told: list[str] = []
    for number in path:
        choice = board.choices()[number]
        told.append(_words(board, choice))
        try:
            board.choose(choice)
        except (Violation, AssertionError):
            break
    return tuple(told)


def _words(board: Board, choice: tuple[str, Any]) -> str:
    kind, where = choice
    if kind in ("deliver", "lose"):
        _, _, args = board.queues[where][0]
        return f"{kind} to {where[0]} on {where[1]}: {args[-1]}"
    if kind == "act":
        act = board.todo[where][0]
        return f"{where}: {act.what} {act.key}"
    return f"{board.setup.tick_ms:g} ms pass"
