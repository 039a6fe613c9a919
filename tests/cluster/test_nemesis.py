"""The nemesis keeps to its seed; what it does to a server is what it says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

import pytest

from coherenced.lab.proxy import Proxy
from tests.checkers.history import Kind, Recorder
from tests.cluster import harm
from tests.cluster import nemesis as nemesis_module
from tests.cluster.daemons import Cluster
from tests.cluster.nemesis import Action, Arena, Nemesis, Undo, schedule
from tests.cluster.steps import Load
from tests.servers import ServerError, wait_until


def act(name: str) -> Action:
    return next(action for action in harm.EVERY if action.name == name)


def without_daemons(*, replica: bool) -> Cluster:
    cluster = Cluster(0, durable=True, replica=replica).start()
    for node in ("n1", "n2"):
        cluster.proxies[node] = Proxy(("127.0.0.1", cluster.primary.port)).start()
    return cluster


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    cluster = without_daemons(replica=False)
    yield cluster
    cluster.remove()


@pytest.fixture
def arena(shared_cluster: Cluster) -> Arena:
    """A server behind two proxies."""
    shared_cluster.primary.command("FLUSHALL")
    return Arena(shared_cluster, Recorder(), Random(1), Load())


@pytest.fixture
def pair() -> Iterator[Arena]:
    """A primary and a replica, and two proxies that lead to the primary."""
    cluster = without_daemons(replica=True)
    yield Arena(cluster, Recorder(), Random(1), Load())
    cluster.remove()


def test_names_are_unique() -> None:
    names = [action.name for action in harm.EVERY]
    assert len(set(names)) == len(names)


def test_the_schedule_is_the_seeds_and_strikes_everything() -> None:
    one, two, other = (schedule(harm.NETWORK, seed, 60) for seed in (1, 1, 2))
    assert one == two
    assert one != other
    assert {event.action.name for event in one} == {action.name for action in harm.NETWORK}
    for before, after in itertools.pairwise(one):
        assert before.end_s < after.start_s
    assert one[-1].end_s <= 60


def test_several_faults_at_once() -> None:
    events = schedule(harm.NETWORK, 1, 60, at_once=3)
    starts = [(e.start_s, 1) for e in events] + [(e.end_s, -1) for e in events]
    together = highest = 0
    for _, change in sorted(starts):
        together += change
        highest = max(highest, together)
    assert highest == 3


class Clock:
    """Time that goes on only while somebody sleeps: no machine is slow by it."""

    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(nemesis_module, "time", clock)
    return clock


def test_it_strikes_undoes_and_tells(clock: Clock) -> None:
    log: list[str] = []

    def strike(arena: Arena) -> Undo:
        arena.pick("here", "there")
        log.append("struck")
        return lambda: log.append("undone")

    recorder = Recorder()
    arena = Arena(Cluster(0), recorder, Random(), Load())
    actions = (Action("harm", strike, (0.01, 0.02)),)
    told: list[str] = []
    events = schedule(actions, 7, 0.2, calm_s=(0.01, 0.02))
    nemesis = Nemesis(arena, events, 7, say=told.append)
    nemesis.run()
    assert log == ["struck", "undone"] * len(events)
    assert len(told) == 2 * len(events)
    assert nemesis.lines == told
    assert "#1 harm " in told[0]
    again: list[str] = []
    Nemesis(arena, events, 7, say=again.append).run()
    assert told == again


def test_what_would_begin_after_the_end_is_left_out(clock: Clock) -> None:
    def slow(arena: Arena) -> Undo:
        clock.sleep(0.9)
        return lambda: None

    events = schedule((Action("slow", slow, (0.2, 0.2)),), 1, 2.0, calm_s=(0.1, 0.1))
    nemesis = Nemesis(Arena(Cluster(0), Recorder(), Random(), Load()), events, 1, say=str)
    nemesis.run()
    assert (len(events), len(nemesis.done)) == (6, 2)
    assert "#2 slow is over" in nemesis.lines[-1]


def test_a_failing_strike_undoes_what_is_in_force() -> None:
    log: list[str] = []

    def broken(arena: Arena) -> Undo:
        raise RuntimeError("the harm failed")

    first = Action("first", lambda arena: lambda: log.append("undone"), (5, 5))
    events = schedule((first,), 1, 10, calm_s=(0, 0))[:1]
    events += [type(events[0])(2, Action("second", broken), 0.01, 1)]
    with pytest.raises(RuntimeError, match="the harm failed"):
        Nemesis(Arena(Cluster(0), Recorder(), Random(), Load()), events, 1, say=log.append).run()
    assert log[-1] == "undone"


@pytest.mark.parametrize("action", [*harm.NETWORK, *harm.BUS], ids=lambda action: action.name)
def test_network_faults_begin_and_end(arena: Arena, action: Action) -> None:
    undo = action.strike(arena)
    undo()
    assert arena.cluster.proxies["n1"].rules == []


def test_a_flush_is_noted_as_such(arena: Arena) -> None:
    server = arena.cluster.primary
    for name in ("FLUSHALL", "server restarted empty"):
        server.command("SET", "a", "1")
        act(name).strike(arena)()
        assert server.command("GET", "a") is None
        op = arena.recorder.operations[-1]
        assert (op.kind, op.keys, op.outcome) == (Kind.FLUSH, (), "ok")
        assert op.end_ns is not None


def test_a_killed_durable_server_loses_nothing(arena: Arena) -> None:
    server = arena.cluster.primary
    server.command("SET", "a", "1")
    undo = act("server killed").strike(arena)
    assert not server.running
    undo()
    assert server.command("GET", "a") == b"1"
    assert arena.recorder.operations == []


def test_an_old_file_is_older_and_writes_go_on_to_be_durable(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = arena.cluster.primary
    server.command("SET", "a", "old")
    monkeypatch.setattr(harm, "sleep", lambda s: server.command("SET", "a", "new"))
    act("server restarted from an old file").strike(arena)()
    monkeypatch.undo()
    assert server.command("GET", "a") == b"old"
    assert [op.kind for op in arena.recorder.operations] == [Kind.LOSS]
    server.command("SET", "a", "newer")
    wait_until(lambda: server.info_field("persistence", "aof_rewrite_in_progress") == "0")
    server.kill()
    server.start()
    assert server.command("GET", "a") == b"newer"


def test_a_planned_failover_loses_nothing(pair: Arena) -> None:
    cluster = pair.cluster
    old = cluster.primary
    old.command("SET", "a", "1")
    act("replica promoted").strike(pair)()
    assert cluster.primary is not old
    assert cluster.replica is old
    assert cluster.primary.command("GET", "a") == b"1"
    assert {proxy.target for proxy in cluster.proxies.values()} == {
        ("127.0.0.1", cluster.primary.port)
    }
    with pytest.raises(ServerError, match="READONLY"):
        old.command("SET", "a", "2")
    assert pair.recorder.operations == []


def test_a_promoted_replica_that_had_missed_writes(
    pair: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = pair.cluster
    old = cluster.primary
    old.command("SET", "a", "kept")
    wait_until(lambda: cluster.replica and cluster.replica.command("GET", "a") == b"kept")
    monkeypatch.setattr(harm, "sleep", lambda s: old.command("SET", "a", "lost"))
    act("replica promoted that had missed writes").strike(pair)()
    assert cluster.primary is not old
    assert cluster.primary.command("GET", "a") == b"kept"
    assert old.command("GET", "a") == b"kept"
    assert [op.kind for op in pair.recorder.operations] == [Kind.LOSS]


def test_an_old_primary_that_still_answers_may_not_write(pair: Arena) -> None:
    cluster = pair.cluster
    old = cluster.primary
    undo = act("old primary still answers").strike(pair)
    targets = {node: proxy.target for node, proxy in cluster.proxies.items()}
    left_behind = pair.details[0]
    assert targets[left_behind] == ("127.0.0.1", old.port)
    assert cluster.primary is not old
    with pytest.raises(ServerError, match="NOREPLICAS"):
        old.command("SET", "a", "1")
    cluster.primary.command("SET", "a", "2")
    undo()
    assert cluster.proxies[left_behind].target == ("127.0.0.1", cluster.primary.port)
    wait_until(lambda: old.command("GET", "a") == b"2")


@pytest.mark.parametrize(
    "action", [a for a in harm.SERVER if a.name != "huge invalidation"], ids=lambda a: a.name
)
def test_the_server_survives_and_is_as_before(arena: Arena, action: Action) -> None:
    server = arena.cluster.primary
    server.command("HSET", "coh:{0}:meta", "e", "x")
    server.command("XADD", "coh:{0}:log", "1-0", "b", "x")
    settings = server.command("CONFIG", "GET", "*")
    action.strike(arena)()
    assert server.command("CONFIG", "GET", "*") == settings
    wait_until(lambda: server.command("SET", "after", "1") == b"OK")
    if action.name == "metadata deleted":
        kinds = [op.kind for op in arena.recorder.operations]
        assert sorted(kinds) == [Kind.EPOCH, Kind.FLUSH]
        flushed = next(op for op in arena.recorder.operations if op.kind == Kind.FLUSH)
        assert flushed.keys == tuple(Load().all_tagged)
        assert server.command("EXISTS", "coh:{0}:meta") == 0
    if action.name == "log trimmed":
        assert server.command("XLEN", "coh:{0}:log") == 0
