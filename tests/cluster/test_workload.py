"""The workload, on nodes that are known to be right, and on one that is known to be wrong."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.checkers.history import Kind, Operation, Outcome, Recorder
from tests.checkers.suite import check_all
from tests.checkers.verdict import report
from tests.cluster.fake_node import FakeNode, FakeStore
from tests.cluster.steps import Chooser, Load
from tests.cluster.workload import ClientProcess, Session, Workload, open_connection
from tests.servers import wait_until

QUICK = Load(think_ms=0.5, counters=2, linearizable_keys=2, timeout_s=2.0)
Error = Callable[[str, int], str | None]


@contextlib.contextmanager
def nodes(
    count: int = 3, blind: int = 0, error: Error = lambda verb, number: None
) -> Iterator[tuple[FakeStore, dict[str, Path]]]:
    directory = Path(tempfile.mkdtemp(prefix="coh-f-"))
    store = FakeStore()
    running = [
        FakeNode(directory / f"n{number}", store, blind=number <= blind, error=error)
        for number in range(1, count + 1)
    ]
    try:
        yield store, {node.path.name: node.path for node in running}
    finally:
        for node in running:
            node.close()
        shutil.rmtree(directory)


def work(
    sockets: dict[str, Path], operations: int, *, sessions: int = 6, load: Load = QUICK
) -> tuple[Recorder, Workload]:
    recorder = Recorder()
    workload = Workload(sockets, recorder, load, sessions=sessions, wanderers=2, seed=1).start()
    try:
        wait_until(lambda: len(recorder.operations) >= operations)
    finally:
        workload.stop()
    return recorder, workload


def add_final_reads(recorder: Recorder, store: FakeStore, sockets: dict[str, Path]) -> None:
    for node, path in sockets.items():
        connection = open_connection(path, 2.0)
        for key in QUICK.values:
            op = recorder.begin("final", node, Kind.READ, (key,), final=True)
            connection.send_command("GET", key)
            value = connection.read_response()
            recorder.end(op, Outcome.OK, values=(value.decode() if value else None,))
        connection.disconnect()
    for key in QUICK.values:
        op = recorder.begin("final", "redis", Kind.READ, (key,), final=True)
        recorder.end(op, Outcome.OK, values=(store.get(key),))


def test_everything_recorded_on_right_nodes_is_right() -> None:
    with nodes() as (store, sockets):
        recorder, workload = work(sockets, 2500)
        add_final_reads(recorder, store, sockets)
        counters = {key: int(store.get(key) or 0) for key in QUICK.all_counters}
    history = recorder.history(bound_ms=0.0)
    verdicts = check_all(history, counters=counters)
    assert not any(verdicts), report(verdicts)
    assert not workload.errors
    kinds = {op.kind for op in history.operations}
    assert kinds >= {
        Kind.READ, Kind.WRITE, Kind.DELETE, Kind.MGET, Kind.MSET, Kind.INVALIDATE, Kind.INCR
    }  # fmt: skip
    assert all(verdict.checked for verdict in verdicts)
    levels = {op.level for op in history.operations}
    assert levels >= {"", "all", "quorum", "none"}
    assert {op.min_version != "" for op in history.operations} == {True, False}
    assert {len({o.node for o in history.operations if o.session == "s5"})} != {1}


def test_a_blind_node_is_found_out() -> None:
    with nodes(blind=1) as (store, sockets):
        recorder, _ = work(sockets, 2500)
        add_final_reads(recorder, store, sockets)
    verdicts = check_all(recorder.history(bound_ms=0.0), skip={"counter"})
    broken = {verdict.level for verdict in verdicts if verdict}
    assert broken >= {
        "eventual", "bounded", "session", "ack=all", "linearizable", "linearizable, B=0", "versions"
    }, report(verdicts)  # fmt: skip


def test_lost_connections_leave_unknown_outcomes_and_the_rest_is_right() -> None:
    def cut(verb: str, number: int) -> str | None:
        return "cut" if number % 29 == 0 and verb not in ("HELLO", "CLIENT") else None

    with nodes(error=cut) as (store, sockets):
        recorder, workload = work(sockets, 1500)
        counters = {key: int(store.get(key) or 0) for key in QUICK.all_counters}
    history = recorder.history(bound_ms=0.0)
    verdicts = check_all(history, counters=counters, skip={"eventual"})
    assert not any(verdicts), report(verdicts)
    assert sum(op.outcome == Outcome.UNKNOWN for op in history.operations) > 10
    assert workload.errors["ConnectionError"] > 10


@pytest.mark.parametrize(
    ("told", "outcome", "satisfied"),
    [
        ("-UNAVAILABLE Redis cannot be reached", Outcome.FAIL, True),
        ("-OOM command not allowed", Outcome.FAIL, True),
        ("-INDETERMINATE it may have been applied", Outcome.UNKNOWN, True),
        ("-ERR something nobody has thought of", Outcome.UNKNOWN, True),
        ("-NOACK committed 00000000000000aa:7 missing=n2,n3", Outcome.OK, False),
    ],
)
def test_errors_are_classified(told: str, outcome: str, satisfied: bool) -> None:
    def error(verb: str, number: int) -> str | None:
        return told if verb == "COH.SET" else None

    with nodes(1, error=error) as (_, sockets):
        recorder = Recorder()
        session = Session("s", sockets, QUICK, recorder, Random(1), home="n1")
        op = a_write(session)
    assert (op.outcome, op.satisfied) == (outcome, satisfied)
    assert op.version == ("00000000000000aa:7" if not satisfied else "")
    assert (op.end_ns is None) == (outcome == Outcome.UNKNOWN)


def a_write(session: Session) -> Operation:
    assert session._open()
    try:
        while True:
            step = session._chooser.next()
            if step.argv[0] == "COH.SET":
                return session.perform(step)
    finally:
        session._close()


def test_nobody_listens() -> None:
    recorder = Recorder()
    sockets = {"n1": Path("/nonexistent/coherenced.sock")}
    workload = Workload(sockets, recorder, QUICK, sessions=1, seed=1).start()
    wait_until(lambda: workload.errors["connect: ConnectionError"] > 1)
    workload.stop()
    assert recorder.operations == []


def test_the_same_seed_draws_the_same_steps() -> None:
    def steps(seed: int) -> list[tuple[object, ...]]:
        chooser = Chooser(QUICK, Random(seed), "w")
        return [chooser.next("a:1" if n % 7 == 0 else "").argv for n in range(300)]

    assert steps(1) == steps(1)
    assert steps(1) != steps(2)


def test_zipf_prefers_low_numbers() -> None:
    chooser = Chooser(Load(plain_keys=100, skew=1.0), Random(1), "w")
    drawn = [chooser.hot_key() for _ in range(4000)]
    assert drawn.count("k:0") > 4 * drawn.count("k:9") > 0
    assert len(set(drawn)) > 80


def test_a_killed_client_process_leaves_its_history(tmp_path: Path) -> None:
    with nodes(2) as (_, sockets):
        client = ClientProcess("p", sockets, QUICK, tmp_path, sessions=2).start()
        wait_until(lambda: len(client.operations()) > 100, 20)
        client.kill()
        client.start()
        wait_until(lambda: len({op.session for op in client.operations()}) == 4, 20)
        client.pause()
        client.resume()
        client.stop()
    recorder = Recorder()
    recorder.operations += client.operations()
    history = recorder.history(bound_ms=0.0)
    assert len({op.id for op in history.operations}) == len(history.operations)
    verdicts = check_all(history, skip={"eventual", "counter"})
    assert not any(verdicts), report(verdicts)
