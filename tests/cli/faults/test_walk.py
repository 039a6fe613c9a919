"""The walk itself: every promise kept; and with a law switched off, the promise it breaks named.

A few faults and laws are in the normal run; all of them under the marker `soak`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

import pytest

from coherenced.cli.faults import report
from coherenced.cli.faults.ledger import Level
from coherenced.cli.faults.table import FAULTS, Fault
from coherenced.cli.faults.walk import Walk
from coherenced.cli.faults.world import World
from coherenced.core.laws import Laws
from coherenced.errors import CoherencedError
from tests.cli.conftest import Done
from tests.cluster.daemons import REPOSITORY

LAWLESS: Final = "tests.cluster.lawless"


def some(*names: str) -> list[Fault]:
    """The faults whose names contain one of these, each of which must name one."""
    found = [fault for fault in FAULTS if any(name in fault.name for name in names)]
    assert len(found) >= len(names), names
    return found


def walk(faults: list[Fault], seconds: float, *, without: str = "", seed: int = 1) -> list[Level]:
    command = [sys.executable, "-m", *([LAWLESS, without] if without else ["coherenced"])]
    with World(command) as world:
        if without:
            world.recover_s = 5.0
        world.start()
        told = Walk(world, seed)
        levels = told.run(faults, seconds)
        assert [one.name for one in told.passed] == [fault.name for fault in faults]
    return levels


@pytest.mark.timeout(120)
def test_every_promise_is_kept_and_told(capfd: pytest.CaptureFixture[str]) -> None:
    faults = some("replies to writes", "FLUSHALL", "numbers are given out")
    teller = report.Teller(silent=False, total=len(faults), paint=str)
    with World() as world:
        told, levels = report.walk_through(world, faults, teller, seed=1, duration_s=5.0)
        directory = world.directory
    report.tell_levels(levels, told)
    report.require_kept(levels)
    out, err = capfd.readouterr()
    assert not err
    for fault in faults:
        assert f"✓ {fault.name}\n    lasted " in out
    assert out.count("current again after") == len(faults)
    for level in levels:
        assert level.checked
        assert not level.violations
        assert f"\n{level.name} " in out
    assert "BROKEN" not in out
    assert not directory.exists()
    report.print_document(told, levels, 1)
    document = json.loads(capfd.readouterr().out)
    assert document["ok"] is True
    assert len(document["faults"]) == len(faults)


class Case(NamedTuple):
    """Under which faults a law's absence must show, within how many seconds, and where."""

    law: str
    faults: tuple[str, ...]
    seconds: float
    levels: tuple[str, ...]
    """One of these promises at least must be reported as broken."""


LATE: Final = "bus is late"
ANY: Final = ("bounded", "ack=all", "session", "linearizable", "eventual")
SHORT: Final = (Case("drop_on_trimmed", ("trimmed",), 5, ("bounded",)),)
MORE: Final = (
    Case("staleness_bound", ("b is cut off",), 5, ("bounded",)),
    Case("wait_for_all", (LATE,), 6, ("ack=all",)),
    Case("resolve_lost_reply", ("replies to writes",), 6, ("nothing made up", "counters")),
    Case("own_write_drops", (LATE,), 6, ("session",)),
    Case("fill_fence", ("what b fetches",), 8, ANY),
    Case("pending_not_cached", (LATE,), 15, ("linearizable namespace",)),
    Case("join_only_fresh_flights", ("what b fetches",), 12, ANY),
    Case("entry_deadline", ("another program",), 5, ("expiry",)),
    Case("gap_check", ("loses messages",), 8, ("bounded",)),
    Case("chain_check", ("numbers are given out",), 6, (*ANY, "current again")),
    Case("verified_after_applied", ("slow for b",), 15, ANY),
    Case("probe_after_arrival", (LATE,), 6, ("linearizable by B = 0",)),
    Case("quarantine", ("FLUSHALL", "numbers are given out"), 10, ANY),
    Case("two_phases", (LATE,), 8, ("linearizable namespace",)),
    Case("min_version", (LATE,), 8, ("session",)),
    Case("snapshot", (LATE,), 8, ("snapshot",)),
    Case("tags_cover", ("another program",), 4, ("bounded",)),
)
SIMULATED: Final = {
    "fill_not_backwards": "two servers answer one node at once",
    "confirm_position": "a lost branch arrives over the bus between two probes",
    "reliance_checked": "a fetch shows a branch that is lost before the bus shows it",
    "old_connection_ignored": "a message survives its own connection",
    "verified_when_sent": "a write at the right distance before a late proof, and nothing after it",
    "ack_after_applied": "an acknowledged record waits for the log while a reader looks",
    "pause_alarm": "the clocks of a host stand still with it",
    "no_way_back": "a failover reaches one connection of a node before the others",
}
"""Laws whose absence shows only in a rare interleaving: the simulator's. Law -> which."""


def broken(case: Case) -> None:
    levels = walk(some(*case.faults), case.seconds, without=case.law)
    found = [level.name for level in levels if level.violations]
    assert any(name.startswith(case.levels) for name in found), (case.law, found)
    with pytest.raises(CoherencedError, match="broken: "):
        report.require_kept(levels)
    for level in levels:
        assert all(violation.text for violation in level.violations)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.law)
def test_a_broken_law_is_reported(case: Case) -> None:
    broken(case)


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize("case", MORE, ids=lambda case: case.law)
def test_every_broken_law_is_reported(case: Case) -> None:
    broken(case)


def test_the_lists_name_laws_and_each_once() -> None:
    listed = [case.law for case in (*SHORT, *MORE)] + list(SIMULATED)
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(Laws.__struct_fields__)


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_the_command_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "coherenced", "demo", "--faults", "--json", "--seed", "7"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert [one["fault"] for one in told["faults"]] == [fault.name for fault in FAULTS]
    assert all(one["broken"] == 0 for one in told["promises"])


def test_names_are_unique() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize("words", [["--seed", "1"], ["--duration", "5s"]])
def test_options_of_the_other_demo(coherenced: Callable[..., Done], words: list[str]) -> None:
    done = coherenced("demo", *words)
    assert done.code == 2
    assert "belong to --faults" in done.err
