"""With a law switched off, the same kind of run must report the promise that it breaks.

Each case has the faults under which its law matters, so that a short run is enough. The
laws that only a rare interleaving would show are the simulator's.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, NamedTuple

import pytest

from tests.cluster import harm
from tests.cluster.daemons import Cluster
from tests.cluster.nemesis import Action
from tests.cluster.run import record
from tests.cluster.steps import Load

BOUND_MS: Final = 500.0
RUN_S: Final = 4.0
SETTINGS: Final = {
    "coherence.max_staleness_ms": int(BOUND_MS),
    "namespace.lin.match": "lin:*",
    "namespace.lin.linearizable": True,
}


class Case(NamedTuple):
    law: str
    broken: str
    """The level that must be reported."""
    actions: tuple[Action, ...]
    options: dict[str, Any] = {}
    load: Load = Load(reads=120, think_ms=3.0, levels=("", "all"), current=0.3, expiring=0.0)


LATE_BUS: Final = Action("late bus", partial(harm.delay_by, ms=150.0, roles=("bus",)), (3.0, 3.0))
CUT_OFF: Final = Action("cut off", partial(harm.partition, roles=("all",)), (2.0, 2.0))
BEHIND: Final = tuple(a for a in harm.FAILOVER if a.name.endswith("missed writes"))

CASES: Final = (
    Case("staleness_bound", "bounded", (CUT_OFF,)),
    Case("wait_for_all", "ack=all", (LATE_BUS,)),
    Case("own_write_drops", "session", (LATE_BUS,)),
    Case("probe_after_arrival", "linearizable, B=0", (LATE_BUS,)),
    Case(
        "two_phases",
        "linearizable",
        (LATE_BUS,),
        {},
        Load(reads=120, think_ms=3.0, linearizable_keys=2, levels=("",)),
    ),
    Case("min_version", "session", (LATE_BUS,)),
    Case("chain_check", "bounded", BEHIND, {"replica": True}),
)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.law)
def test_a_broken_law_is_reported(case: Case) -> None:
    with Cluster(3, settings=SETTINGS, without=[case.law], **case.options) as cluster:
        run = record(
            cluster,
            case.actions,
            seed=1,
            duration_s=RUN_S,
            bound_ms=BOUND_MS,
            load=case.load,
            wanderers=4,
        )
    verdicts = {verdict.level: verdict for verdict in run.judge(keep=False)}
    assert verdicts[case.broken], f"nobody noticed that {case.law} is off"
