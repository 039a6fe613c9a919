"""With a law switched off, the same kind of run must report the promise that it breaks.

Each case has the faults under which its law matters, so that a short run is enough. The
laws that only a rare interleaving would show are the simulator's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import pytest

from tests.checkers.verdict import Verdict
from tests.cluster import harm
from tests.cluster.daemons import Cluster
from tests.cluster.nemesis import Action
from tests.cluster.run import record
from tests.cluster.steps import Load

BOUND_MS: Final = 500.0
RUN_S: Final = 3.5
SETTINGS: Final = {
    "coherence.max_staleness_ms": int(BOUND_MS),
    "namespace.lin.match": "lin:*",
    "namespace.lin.linearizable": True,
}


FEW: Final = Load(
    plain_keys=2,
    tags=0,
    groups=0,
    reads=100,
    writes=4,
    deletes=0,
    many_reads=0,
    invalidations=0,
    expiring=0.0,
    think_ms=2.0,
    levels=("", "all"),
)
"""Few keys, read far more often than written: they are in every L1 when a write comes."""
LATE: Final = Action("late", partial(harm.delay_by, ms=100.0, roles=("all",)), (2.3, 2.3))
CUT_OFF: Final = Action("cut off", harm.refuse, (2.3, 2.3))
BEHIND: Final = tuple(a for a in harm.FAILOVER if a.name.endswith("missed writes"))


class Case(NamedTuple):
    law: str
    broken: tuple[str, ...]
    """The levels that must be reported."""
    actions: tuple[Action, ...] = (LATE,)
    load: Load = FEW
    replica: bool = False
    tries: int = 1
    """Runs, each of another seed, in which it may take to be noticed: some need luck."""


SHORT: Final = (
    Case("page_before_ack", ("ack=all", "session"), load=replace(FEW, l0=True)),
    Case(
        "wait_for_all",
        ("ack=all", "linearizable"),
        load=replace(FEW, linearizable_keys=1),
        tries=4,
    ),
)
MORE: Final = (
    Case("staleness_bound", ("bounded",), (CUT_OFF,)),
    Case("probe_after_arrival", ("linearizable, B=0",), load=replace(FEW, current=0.8)),
    Case("two_phases", ("linearizable",), load=replace(FEW, linearizable_keys=1, levels=("",))),
    Case("min_version", ("session",)),
    Case("chain_check", ("bounded",), BEHIND, Load(expiring=0.0), replica=True, tries=6),
)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.law)
def test_a_broken_law_is_reported(case: Case) -> None:
    unnoticed = set(case.broken)
    for seed in range(1, case.tries + 1):
        unnoticed -= {verdict.level for verdict in without(case, seed) if verdict}
        if not unnoticed:
            return
    raise AssertionError(f"{unnoticed}: nobody noticed that {case.law} is off")


def without(case: Case, seed: int) -> list[Verdict]:
    """What the checkers say of one run without the law."""
    with Cluster(3, settings=SETTINGS, without=[case.law], replica=case.replica) as cluster:
        run = record(
            cluster,
            case.actions,
            seed=seed,
            duration_s=RUN_S,
            bound_ms=BOUND_MS,
            load=case.load,
            wanderers=3,
            patience_s=0.5,
        )
    return run.judge()


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", MORE, ids=lambda case: case.law)
def test_more_broken_laws_are_reported(case: Case) -> None:
    test_a_broken_law_is_reported(case)
