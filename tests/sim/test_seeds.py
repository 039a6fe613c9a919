"""Seeded runs: random worlds under random faults. A failure names its seed and how to replay it."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import pytest

from coherenced.core import invariants
from coherenced.core.invariants import Watch
from coherenced.core.laws import Laws
from coherenced.core.requests import Level
from tests.ahead import Part, results
from tests.sim.faults import ACTIONS, KINDS, LATE_REQUESTS, ROWS, STOPPED_CLOCKS
from tests.sim.many import CHUNK, Totals, parts_of, run_many, sum_of
from tests.sim.mix import Mix
from tests.sim.redis_model import ServerLaws
from tests.sim.run import Config, Failure, Report, by_seed, command, run, shrink

SEEDS = 2_200
"""In the normal test run; many more are under the marker `soak`."""
ONLY_COUNTS = tuple(n for n in Mix.__struct_fields__ if n not in ("think_ms", "levels"))


def checked(config: Config) -> Report:
    """Run it; a failure is made shorter first."""
    try:
        return run(config)
    except Failure as failure:
        raise shrink(failure) from None


def none_breaks(totals: Totals) -> None:
    print(totals)
    shown = "\n\n".join(totals.broken[:3])
    assert not totals.broken, f"{len(totals.broken)} of {totals.runs} seeds broke:\n{shown}"


def seeds() -> list[Part]:
    return parts_of(range(SEEDS), by_seed)


@pytest.mark.ahead(parts=seeds)
@pytest.mark.timeout(600)
def test_seeds() -> None:
    totals = sum_of(results(seeds))
    assert totals.runs == SEEDS
    none_breaks(totals)
    for level in ("bounded", "linearizable", "session", "ack=all", "write", "snapshot"):
        assert totals.checked.get(level, 0) > SEEDS, f"{level} was hardly checked"
    assert totals.checked["fill"] > SEEDS // 8
    assert set(totals.struck) == set(KINDS)


def test_every_row_of_the_table_of_faults_is_among_the_faults() -> None:
    text = (Path(invariants.__file__).parent / "PROTOCOL.md").read_text("utf-8")
    _, _, table = text.partition("## Faults")
    told = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert told[0] == "fault"
    assert [row for row in told[1:] if row.strip("- ")] == list(ROWS)
    assert {kind for kinds in ROWS.values() for kind in kinds} == set(KINDS)
    assert set(ACTIONS) == {*KINDS, STOPPED_CLOCKS, LATE_REQUESTS}


def stopped_clocks() -> list[Part]:
    kinds = (STOPPED_CLOCKS, "lose bus messages", "fail over", "slow")
    mix = Mix(ttl_sets=0.0)
    return parts_of(range(100), partial(shortened, kinds=kinds, fault_gap_ms=80.0, mix=mix))


@pytest.mark.ahead(parts=stopped_clocks)
def test_machines_that_stop_with_all_their_clocks_cannot_break_B_0() -> None:
    """But for expiry: a life that ends by a clock is longer by as long as the clock stood still."""
    totals = sum_of(results(stopped_clocks))
    none_breaks(totals)
    assert totals.checked["linearizable"] > 500
    assert "bounded" not in totals.checked


def many_prefixes() -> list[Part]:
    mix = Mix(
        prefix_invalidations=12.0,
        prefixes=(b"", b"k", b"k0", b"k1", b"k2", b"n:", b"l:"),
        everything=1.0,
        tag_invalidations=2.0,
        levels=(Level.REDIS, Level.ALL, Level.NONE),
    )
    seeds = range(SEEDS, SEEDS + 60)
    return parts_of(seeds, partial(shortened, mix=mix, tidy_entries=1))


@pytest.mark.ahead(parts=many_prefixes)
def test_prefixes_are_looked_for_while_everything_goes_on() -> None:
    """Marks of one prefix within another, set while entries are looked at, filled, evicted and
    dropped, and while the bus is lost."""
    totals = sum_of(results(many_prefixes))
    none_breaks(totals)
    assert totals.checked["ack=all"] > 500


def test_requests_that_outlive_their_connection_are_not_carried_out_late() -> None:
    """Many claims of one key, and deletes of it (the law's own story is `late_claim`)."""
    none = dict.fromkeys(ONLY_COUNTS, 0.0)
    mix = Mix(**{**none, "think_ms": 2.0, "loads": 60.0, "deletes": 14.0, "sets": 4.0})  # type: ignore[arg-type]
    changes: dict[str, object] = {
        "kinds": (LATE_REQUESTS, "slow"), "fault_gap_ms": 6.0, "run_ms": 800.0, "nodes": 2,
        "clients": 6, "keys": 1, "most_delay_ms": 8.0, "slow_share": 0.0, "linearizable": False,
        "mix": mix,
    }  # fmt: skip
    totals = run_many(range(20), partial(shortened, **changes), processes=1)
    none_breaks(totals)
    assert totals.checked["fill"] > 20
    law = ServerLaws(earlier_connection_ended=False)
    with pytest.raises(Failure, match="lease: fill k0"):
        run(shortened(4, **changes, server_laws=law))


def test_a_seed_does_the_same_in_any_process() -> None:
    seeds = range(2 * CHUNK)
    alone = run_many(seeds, partial(shortened, run_ms=200.0), processes=1)
    shared = run_many(seeds, partial(shortened, run_ms=200.0), processes=2)
    assert alone == shared


def shortened(seed: int, **changes: object) -> Config:
    return msgspec.structs.replace(by_seed(seed), **changes)


def test_without_faults_nothing_fails_and_most_reads_are_hits() -> None:
    report = checked(Config(seed=5, nodes=3, clients=6, run_ms=2_000.0, kinds=(), slow_share=0.0))
    assert set(report.client_faults) <= {"lost"}, "a lease that somebody's write has voided"
    none = dict.fromkeys(ONLY_COUNTS, 0.0)
    calm = Mix(**{**none, "reads": 98.0, "sets": 2.0})  # type: ignore[arg-type]
    report = checked(Config(seed=6, clients=6, run_ms=2_000.0, kinds=(), mix=calm))
    assert report.hits > 0.8 * report.reads


def test_two_hundred_nodes_for_a_moment() -> None:
    """Many nodes on two keys, some of them killed: writes are acknowledged by all that live."""
    mix = Mix(think_ms=30.0, levels=(Level.ALL, Level.REDIS))
    config = Config(
        seed=200, nodes=200, clients=60, run_ms=250.0, bound_ms=400.0, keys=2, mix=mix,
        fault_gap_ms=80.0, kinds=("crash", "cut", "lose bus messages"),
    )  # fmt: skip
    report = checked(config)
    print(report.steps, report.operations, report.checked, report.struck)
    assert report.operations > 150
    assert report.checked["ack=all write"] > 20


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
    off = msgspec.structs.replace(by_seed(2), laws=Laws(gap_check=False))
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
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + 200_000, 20_000))
def test_twenty_thousand_seeds(first: int) -> None:
    none_breaks(run_many(range(first, first + 20_000), by_seed))


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


def test_what_the_fence_keeps_out_serves_nobody_who_waits_for_a_proof() -> None:
    """An answer that was not let in once had what was held before served without a proof."""
    checked(msgspec.structs.replace(by_seed(900_460), keys=3))


def test_invariants_are_checked_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    check = Watch.check

    def counted(watch: Watch) -> list[str]:
        nonlocal looked
        looked += 1
        return check(watch)

    monkeypatch.setattr(Watch, "check", counted)
    assert run(by_seed(3)).steps == looked > 1_000
    monkeypatch.setattr(Watch, "check", lambda watch: ["V3: made up"])
    with pytest.raises(Failure, match="V3: made up"):
        run(by_seed(3))
