"""Three real daemons, ten clients and two processes of them, every fault there is: every read
is checked afterwards against what was written.

The seed is printed; COHERENCED_TEST_SEED repeats a run's faults and choices. What a failed
run leaves behind is told in `remains`.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from typing import Any, Final, NamedTuple

import pytest

from tests.cluster import harm
from tests.cluster.clocks import library
from tests.cluster.daemons import Cluster
from tests.cluster.nemesis import Action
from tests.cluster.remains import Remains
from tests.cluster.run import Run, record
from tests.cluster.steps import Load
from tests.servers import available_kinds

BOUND_MS: Final = 500.0
RUN_S: Final = 34.0
SOAK_S: Final = float(os.environ.get("COHERENCED_TEST_SOAK_S") or 180.0)
SETTINGS: Final = {
    "coherence.max_staleness_ms": int(BOUND_MS),
    "namespace.lin.match": "lin:*",
    "namespace.lin.linearizable": True,
}
LOAD: Final = Load(reads=90, linearizable_keys=3, counters=2, l0=True)
# Increments lost with the data cannot be told from increments not done.
LOSING: Final = replace(LOAD, counters=0)
# What expires does so by the clock that is stepped.
CLOCKED: Final = replace(LOAD, counters=0, expiring=0.0)
# Few keys, written and deleted again and again while others read them: what is rare with many
# keys (two deletes of one key while a bus is late) happens every few seconds.
HOT: Final = replace(
    LOAD,
    plain_keys=4,
    tags=1,
    keys_per_tag=2,
    groups=1,
    linearizable_keys=1,
    counters=1,
    reads=100,
    writes=10,
    deletes=8,
    levels=("", "all", "quorum", "none"),
    think_ms=3.0,
)
PAUSE: Final = next(action for action in harm.PROCESSES if action.name == "daemon paused")


def the_seed(default: int) -> int:
    return int(os.environ.get("COHERENCED_TEST_SEED") or default)


def assert_worthwhile(run: Run, actions: tuple[Action, ...], operations: int) -> None:
    """The run must have been one that could have gone wrong."""
    answered = [op for op in run.history.operations if op.outcome == "ok"]
    assert len(answered) >= operations
    for source in ("l0", "l1"):
        assert sum(op.source == source for op in answered) > operations / 100
    missed = {action.name for action in actions} - set(run.struck)
    assert len(missed) <= len(actions) / 2, missed  # a slow machine does not get round to all
    assert len(answered) > 0.8 * len(run.history.operations)


@pytest.mark.timeout(240)
def test_no_promise_is_broken_whatever_fails() -> None:
    with_clock = library() is not None
    actions = tuple(
        replace(action, lasts_s=(action.lasts_s[0] / 2, action.lasts_s[1] / 2))
        for action in harm.EVERY
        if with_clock or action not in harm.CLOCKS
    )
    seed = the_seed(1)
    options: dict[str, Any] = {"durable": True, "replica": True, "clock": with_clock}
    with (
        Remains("whatever-fails", seed) as remains,
        Cluster(3, settings=SETTINGS, **options, keep=remains.directory) as cluster,
    ):
        run = record(
            cluster,
            actions,
            seed=seed,
            duration_s=RUN_S,
            bound_ms=BOUND_MS,
            load=CLOCKED,
            sessions=10,
            own_clients=4,
            client_processes=2,
            calm_s=(0.1, 0.4),
            remains=remains,
        )
        assert not any(run.judge())
        assert_worthwhile(run, actions, operations=3000)


class Soak(NamedTuple):
    actions: tuple[Action, ...]
    options: dict[str, Any]
    """Of the cluster."""
    load: Load = LOAD
    client_processes: int = 0
    at_once: int = 1
    keeps_lanes: bool = False
    """Whatever fails, the log is there: no node has a reason to drop what it holds."""


SOAKS: Final = {
    "network": Soak(harm.NETWORK + harm.BUS, {}, at_once=2, keeps_lanes=True),
    "hot": Soak(harm.NETWORK + harm.BUS, {}, HOT, at_once=2, keeps_lanes=True),
    "processes": Soak(harm.PROCESSES + harm.DURABLE, {"durable": True}),
    "server": Soak(harm.SERVER, {}),
    "losses": Soak(harm.LOSSES + harm.BUS, {}, LOSING),
    "failover": Soak(harm.FAILOVER + harm.BUS, {"replica": True}, LOSING),
    "clocks": Soak(harm.CLOCKS + harm.BUS, {"clock": True}, CLOCKED),
    "clients": Soak(harm.CLIENTS + harm.BUS + (PAUSE,), {}, client_processes=2, at_once=2),
    "everything": Soak(
        harm.EVERY, {"durable": True, "replica": True, "clock": True}, CLOCKED, client_processes=2
    ),
}


def soak(family: str, kind: str, *, seed: int, duration_s: float) -> None:
    """One long run of a family of faults on one kind of server."""
    this = SOAKS[family]
    with (
        Remains(f"{family}-{kind}", seed) as remains,
        Cluster(4, kind, SETTINGS, **this.options, keep=remains.directory) as cluster,
    ):
        run = record(
            cluster,
            this.actions,
            seed=seed,
            duration_s=duration_s,
            bound_ms=BOUND_MS,
            load=this.load,
            sessions=12,
            wanderers=3,
            own_clients=4,
            client_processes=this.client_processes,
            at_once=this.at_once,
            remains=remains,
        )
        verdicts = run.judge()
        drops = 0
        for daemon in cluster.daemons:
            told = daemon.stats()
            (lane,) = told["lanes"]
            drops += lane["drops"]
            counted = {name: lane[name] for name in ("records", "from_log", "drops", "forks")}
            pauses, connections = told["node"]["clock_pauses"], told["bus"]["reconnects"]
            remains.say(f"{daemon.node}: {counted}, {pauses} pauses, connected again {connections}")
        assert not any(verdicts)
        assert not (this.keeps_lanes and drops)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", available_kinds())
@pytest.mark.parametrize("family", SOAKS)
def test_long_runs(family: str, kind: str) -> None:
    if SOAKS[family].options.get("clock") and library() is None:
        pytest.skip("no C compiler here: clocks cannot be stepped")
    soak(family, kind, seed=the_seed(secrets.randbelow(10**6)), duration_s=SOAK_S)
