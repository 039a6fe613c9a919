"""Three real daemons, eight clients, faults on the bus and a frozen daemon: every read is
checked afterwards against what was written.

The seed is printed; COHERENCED_TEST_SEED repeats a run's faults and choices.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from typing import Any, Final

import pytest

from tests.cluster import harm
from tests.cluster.daemons import Cluster
from tests.cluster.nemesis import Action
from tests.cluster.run import Run, record
from tests.cluster.steps import Load
from tests.servers import available_kinds

BOUND_MS: Final = 500.0
RUN_S: Final = 25.0
SOAK_S: Final = 180.0
SETTINGS: Final = {
    "coherence.max_staleness_ms": int(BOUND_MS),
    "namespace.lin.match": "lin:*",
    "namespace.lin.linearizable": True,
}
LOAD: Final = Load(reads=90, linearizable_keys=3, counters=2)
PAUSE: Final = next(action for action in harm.PROCESSES if action.name == "daemon paused")


def the_seed(default: int) -> int:
    return int(os.environ.get("COHERENCED_TEST_SEED") or default)


def assert_worthwhile(run: Run, actions: tuple[Action, ...], operations: int) -> None:
    """The run must have been one that could have gone wrong."""
    print(run.describe())
    answered = [op for op in run.history.operations if op.outcome == "ok"]
    assert len(answered) >= operations
    from_l1 = sum(op.source == "l1" for op in answered)
    assert from_l1 > operations / 100
    assert set(run.struck) == {action.name for action in actions}
    assert sum(op.outcome == "ok" for op in answered) > 0.8 * len(run.history.operations)


@pytest.mark.timeout(180)
def test_no_promise_is_broken_while_the_bus_fails_and_a_daemon_freezes() -> None:
    actions = (*harm.BUS, PAUSE)
    with Cluster(3, settings=SETTINGS) as cluster:
        run = record(
            cluster, actions, seed=the_seed(1), duration_s=RUN_S, bound_ms=BOUND_MS, load=LOAD
        )
        verdicts = run.judge()
    assert not any(verdicts)
    assert_worthwhile(run, actions, operations=5000)


SOAKS: Final[dict[str, tuple[tuple[Action, ...], dict[str, Any]]]] = {
    "network": (harm.NETWORK + harm.BUS, {}),
    "processes": (harm.PROCESSES + harm.DURABLE, {"durable": True}),
    "server": (harm.SERVER, {}),
    "losses": (harm.LOSSES + harm.BUS, {}),
    "failover": (harm.FAILOVER + harm.BUS, {"replica": True}),
    "clocks": (harm.CLOCKS + harm.BUS, {"clock": True}),
    "clients": (harm.CLIENTS + harm.BUS + (PAUSE,), {}),
}


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", available_kinds())
@pytest.mark.parametrize("family", SOAKS)
def test_long_runs(family: str, kind: str) -> None:
    actions, options = SOAKS[family]
    processes = 2 if family == "clients" else 0
    with Cluster(4, kind, settings=SETTINGS, **options) as cluster:
        run = record(
            cluster,
            actions,
            seed=the_seed(secrets.randbelow(10**6)),
            duration_s=SOAK_S,
            bound_ms=BOUND_MS,
            load=replace(
                LOAD,
                counters=0 if family in ("losses", "failover") else 3,
                expiring=0 if family == "clocks" else LOAD.expiring,
            ),
            sessions=12,
            wanderers=3,
            client_processes=processes,
            at_once=2 if family in ("network", "clients") else 1,
        )
        verdicts = run.judge()
    assert not any(verdicts)
    assert_worthwhile(run, actions, operations=20_000)
