"""Any sequence of commands and faults, against a model so naive that it cannot be wrong.

The model is a dictionary: what each key may hold (more than one value only
after a write whose fate nobody knows). Commands are run one after the other to
their end; a read with B = 0 must see just what the dictionary holds, whatever
was broken before. The world checks all other promises by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coherenced.core.model import Mutation, Op
from coherenced.core.policy import Policy
from coherenced.core.requests import (
    Fault,
    FaultKind,
    Level,
    Outcome,
    Read,
    ReadResult,
    Write,
    WriteResult,
)
from tests.sim.history import NOTHING_DONE, ReadOp, WriteOp
from tests.sim.host import Host
from tests.sim.mix import set_mutation
from tests.sim.network import ROLES
from tests.sim.redis_model import Server
from tests.sim.world import World

NAMES = st.sampled_from(("a", "b", "c"))
KEYS = st.sampled_from((b"x", b"y"))
PATIENCE_MS = 10_000.0
Held = dict[bytes, set[bytes | None]]


class Naive(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.held: Held = {b"x": {None}, b"y": {None}}
        self.replica: tuple[Server, Held] | None = None
        self.written = 0

    @initialize(seed=st.integers(0, 1_000), slow=st.booleans())
    def begin(self, seed: int, slow: bool) -> None:
        policy = Policy(max_staleness_ms=200.0, ack_timeout_ms=1_500.0)
        self.world = World(seed, policy=policy, most_delay_ms=5.0 if slow else 0.5)
        for number, name in enumerate("abc"):
            self.world.add_host(name, offset_ms=number * 1e6)
        self.world.run_until(200.0)

    # -- commands ------------------------------------------------------------------------

    def _run(self, submit: Callable[[Callable[[Outcome], None]], None]) -> Outcome:
        """Submit and wait; the world goes on meanwhile."""
        answered: list[Outcome] = []
        submit(answered.append)
        end_ms = self.world.now_ms + PATIENCE_MS
        while not answered:
            assert self.world.next_event_ms < end_ms, "never answered"
            self.world.run_next()
        return answered[0]

    def _host(self, name: str) -> Host:
        """A node that runs: clients of another one would not be answered."""
        host = self.world.hosts[name]
        host.resume()
        if host.node is None:
            host.start()
        return host

    @rule(name=NAMES, key=KEYS, zero=st.booleans())
    def read(self, name: str, key: bytes, zero: bool) -> None:
        host, world = self._host(name), self.world
        op = ReadOp(name, name, host.incarnation, (key,), 0.0 if zero else 200.0, world.now_ms)
        world.history.unanswered += 1
        request = Read((key,), 0.0 if zero else None)
        outcome = self._run(lambda done: host.submit(request, done))
        assert isinstance(outcome, ReadResult | Fault)
        world.history.end_read(op, outcome, world.now_ms)
        if zero and isinstance(outcome, ReadResult):
            value = outcome.values[0].value
            assert value in self.held[key], f"{value!r} is not in {self.held[key]}"
            self.held[key] = {value}

    @rule(name=NAMES, key=KEYS, level=st.sampled_from((Level.REDIS, Level.ALL, Level.QUORUM)))
    def write(self, name: str, key: bytes, level: int) -> None:
        self.written += 1
        value = b"v%d" % self.written
        outcome = self._write(name, set_mutation(key, value), value, level)
        self._learn(key, value, outcome)

    @rule(name=NAMES, key=KEYS)
    def delete(self, name: str, key: bytes) -> None:
        mutation = Mutation((b"DEL", key), Op.DELETE, (key,), unchanged=b"z", frees_memory=True)
        self.written += 1
        outcome = self._write(name, mutation, b"d%d" % self.written, Level.REDIS)
        self._learn(key, None, outcome)

    @rule(name=NAMES, key=KEYS)
    def invalidate(self, name: str, key: bytes) -> None:
        mutation = Mutation((), Op.INVALIDATE, (key,), frees_memory=True)
        self.written += 1
        self._write(name, mutation, b"i%d" % self.written, Level.ALL)

    @rule(name=NAMES, prefix=st.sampled_from((b"", b"x", b"y")))
    def invalidate_prefix(self, name: str, prefix: bytes) -> None:
        mutation = Mutation((), Op.INVALIDATE, prefixes=(prefix,), frees_memory=True)
        self.written += 1
        self._write(name, mutation, b"p%d" % self.written, Level.ALL)

    def _write(self, name: str, mutation: Mutation, mark: bytes, level: int) -> Outcome:
        host, world = self._host(name), self.world
        op = WriteOp(
            name, name, host.incarnation, mutation.keys, mark, "write", level, world.now_ms
        )
        world.mark(mutation, mark)
        world.history.unanswered += 1
        outcome = self._run(lambda done: host.submit(Write((mutation,), ack=level), done))
        assert isinstance(outcome, WriteResult | Fault)
        world.history.end_write(op, outcome, world.now_ms)
        return outcome

    def _learn(self, key: bytes, value: bytes | None, outcome: Outcome) -> None:
        if isinstance(outcome, Fault) and outcome.kind in NOTHING_DONE:
            return
        if isinstance(outcome, Fault) and outcome.kind == FaultKind.INDETERMINATE:
            self.held[key] = self.held[key] | {value}
        else:
            self.held[key] = {value}

    @rule(ms=st.sampled_from((1, 10, 60, 300, 2_000)))
    def wait(self, ms: int) -> None:
        self.world.run_until(self.world.now_ms + ms)

    # -- faults --------------------------------------------------------------------------

    @rule(name=NAMES, count=st.integers(1, 3))
    def lose_messages(self, name: str, count: int) -> None:
        self.world.drops[name] = count

    @rule(name=NAMES, role=st.sampled_from(ROLES), how=st.sampled_from(("cut", "drain", "half")))
    def cut(self, name: str, role: str, how: str) -> None:
        connection = self.world.hosts[name].connections.get(role)
        if connection is not None:
            self.world.cut(connection, drain=how == "drain", notice=how != "half")

    @rule(name=NAMES)
    def lose_replies(self, name: str) -> None:
        connection = self.world.hosts[name].connections.get("writes")
        if connection is not None:
            connection.mute = True

    @rule(name=NAMES, role=st.sampled_from(ROLES), ms=st.sampled_from((20, 400)))
    def stuck(self, name: str, role: str, ms: int) -> None:
        connection = self.world.hosts[name].connections.get(role)
        if connection is not None:
            connection.stuck = True
            self.world.after(ms, connection.unstick)

    @rule(name=NAMES)
    def pause(self, name: str) -> None:
        self.world.hosts[name].pause()

    @rule(name=NAMES)
    def crash(self, name: str) -> None:
        host = self.world.hosts[name]
        if host.node is not None:
            host.crash()

    @rule(keep=st.integers(0, 2))
    def trim(self, keep: int) -> None:
        self.world.primary.server.trim(keep)

    @rule()
    def lose_metadata(self) -> None:
        self.world.primary.server.lose_metadata()

    @rule()
    def lose_roster(self) -> None:
        self.world.primary.server.lose_roster()

    @rule()
    def flush_all(self) -> None:
        self.world.flush_all()
        self.held = {key: {None} for key in self.held}

    @rule()
    def replicate(self) -> None:
        self.replica = (self.world.primary.server.copy(), dict(self.held))

    @precondition(lambda self: self.replica is not None)
    @rule()
    def fail_over(self) -> None:
        """What came after the last replication is lost."""
        assert self.replica is not None
        (server, self.held), self.replica = self.replica, None
        old = self.world.primary
        old.server.fenced = True
        self.world.promote(server)
        for host in self.world.hosts.values():
            self.world.redirect(host, old)
        self.world.take_down(old)

    # -- always ----------------------------------------------------------------------------

    @invariant()
    def redis_holds_what_the_model_says(self) -> None:
        if not hasattr(self, "world"):
            return
        for key, values in self.held.items():
            held = self.world.truth.timeline(key).now(self.world.now_ms)
            assert held in values, f"{key!r}: {held!r} is not in {values}"

    def teardown(self) -> None:
        """Everything is mended, and every node agrees with Redis."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.drops.clear()
        world.run_until(world.now_ms + 1_000.0)
        for name in "abc":
            self._host(name)
        world.run_until(world.now_ms + 7_000.0)
        world.history.check_claims_again()
        for name in "abc":
            for key in self.held:
                self.read(name, key, zero=False)
                self.read(name, key, zero=True)


class TestNaive(Naive.TestCase):
    """The same examples in every run."""

    settings = settings(
        max_examples=80,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


@pytest.mark.soak
@pytest.mark.timeout(3_600)
class TestNaiveForLong(Naive.TestCase):
    settings = settings(
        max_examples=5_000,
        stateful_step_count=60,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
