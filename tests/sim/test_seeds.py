"""Seeded runs: random worlds under random faults. A failure names its seed and how to replay it."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from coherenced.core.laws import Laws
from coherenced.core.requests import Level
from tests.sim.clients import Mix
from tests.sim.run import Config, Failure, Report, by_seed, command, run, shrink

GROUPS = 4
RUNS = 60
"""Seeds in each group of the normal test run; thousands more are under the marker `soak`."""
ONLY_COUNTS = tuple(n for n in Mix.__struct_fields__ if n not in ("think_ms", "levels"))


def checked(config: Config) -> Report:
    """Run it; a failure is made shorter first."""
    try:
        return run(config)
    except Failure as failure:
        raise shrink(failure) from None


@pytest.mark.parametrize("group", range(GROUPS))
def test_seeds(group: int) -> None:
    totals: dict[str, int] = {}
    for seed in range(group, GROUPS * RUNS, GROUPS):
        report = checked(by_seed(seed))
        for level, count in report.checked.items():
            totals[level] = totals.get(level, 0) + count
    for level in ("bounded", "linearizable", "session", "ack=all", "write", "snapshot"):
        assert totals.get(level, 0) > 20, f"{level} was hardly checked"


def test_without_faults_nothing_fails_and_most_reads_are_hits() -> None:
    report = checked(Config(seed=5, nodes=3, clients=6, run_ms=2_000.0, kinds=(), slow_share=0.0))
    assert report.client_faults == {}
    none = dict.fromkeys(ONLY_COUNTS, 0.0)
    calm = Mix(**{**none, "reads": 98.0, "sets": 2.0})  # type: ignore[arg-type]
    report = checked(Config(seed=6, clients=6, run_ms=2_000.0, kinds=(), mix=calm))
    assert report.hits > 0.8 * report.reads


def test_fifty_nodes() -> None:
    """Many nodes on one key: every write is acknowledged by all of them."""
    mix = Mix(think_ms=30.0, levels=(Level.ALL, Level.REDIS))
    config = Config(
        seed=50, nodes=50, clients=25, run_ms=400.0, bound_ms=400.0, keys=2, mix=mix,
        fault_gap_ms=60.0,
    )  # fmt: skip
    assert checked(config).operations > 100


def test_a_run_does_not_depend_on_the_order_of_sets() -> None:
    """The same seed in a process with other hashes takes the same steps."""
    program = "from tests.sim.run import by_seed, run; r = run(by_seed(11)); print(r.steps, r.seen)"
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]


def test_a_failure_says_how_to_see_it_again() -> None:
    """With a law off a run fails; what it prints replays it, and it shrinks."""
    off = msgspec.structs.replace(by_seed(0), laws=Laws(gap_check=False))
    with pytest.raises(Failure) as caught:
        run(off)
    short = shrink(caught.value, tries=15)
    assert short.config.run_ms <= off.run_ms
    assert f"python -m tests.sim --seed {off.seed}" in str(short)
    assert "--off gap_check" in command(short.config)
    with pytest.raises(Failure) as again:
        run(short.config)
    assert again.value.problem == short.problem


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("first", range(1_000, 21_000, 1_000))
def test_a_thousand_seeds(first: int) -> None:
    for seed in range(first, first + 1_000):
        checked(by_seed(seed))


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(5))
def test_two_hundred_nodes(seed: int) -> None:
    mix = Mix(think_ms=60.0)
    checked(
        Config(
            seed=seed,
            nodes=200,
            clients=60,
            run_ms=2_000.0,
            bound_ms=1_000.0,
            keys=6,
            mix=mix,
            fault_gap_ms=40.0,
        )
    )
