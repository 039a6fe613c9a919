"""How the walk is told: a line a fault as it happens, a table of promises at the end, or JSON."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from coherenced.cli.faults.ledger import MOST_SHOWN, Level
from coherenced.cli.faults.table import Fault
from coherenced.cli.faults.walk import Passed, Walk
from coherenced.cli.faults.world import NODES, World
from coherenced.cli.output import counted, duration, number, print_json, print_table
from coherenced.errors import CoherencedError

SINGULAR: Final = {
    "gaps": "gap",
    "records from the log": "record from the log",
    "drops": "drop",
    "forks": "fork",
    "lost replies resolved": "lost reply resolved",
    "writes indeterminate": "write indeterminate",
    "reads of Redis": "read of Redis",
}


class Teller:
    """Prints as it happens, or nothing for `--json`."""

    def __init__(self, silent: bool, total: int, paint: Callable[[str], str]) -> None:
        self._silent = silent
        self._total = total
        self._paint = paint
        self._count = 0
        self._live = sys.stdout.isatty() and not silent

    def plain(self, text: str) -> None:
        if not self._silent:
            print(text, flush=True)

    def striking(self, fault: Fault) -> None:
        """On a terminal the line stands there while the fault lasts."""
        self._count += 1
        if self._live:
            print(f"{self._count:3}/{self._total} … {fault.name}", end="", flush=True)

    def passed(self, one: Passed) -> None:
        start = "\r\x1b[K" if self._live else ""
        again = "NOT current again"
        if one.recovered_s is not None:
            again = f"current again after {duration(one.recovered_s * 1e3)}"
        self.plain(f"{start}{self._paint('✓') if one.recovered_s is not None else '✗'} {one.name}")
        self.plain(f"    lasted {duration(one.lasted_s * 1e3)}; {again}; {_noticed(one.noticed)}")


def _noticed(counts: Counter[str]) -> str:
    told = [
        f"{number(count)} {SINGULAR.get(name, name) if count == 1 else name}"
        for name, count in counts.items()
        if count
    ]
    return ", ".join(told) or "nobody had to notice anything"


def walk_through(
    world: World, faults: Sequence[Fault], teller: Teller, *, seed: int, duration_s: float
) -> tuple[Walk, list[Level]]:
    """Start the world and walk; tells of the start and of each fault."""
    teller.plain(
        f"{counted(len(faults), 'fault')} in about {duration_s:g} s, seed {seed}; "
        f"a primary, a replica, nodes {', '.join(NODES)}; everything in {world.directory}\n"
    )
    world.start()
    walk = Walk(world, seed, teller.passed, teller.striking)
    return walk, walk.run(faults, duration_s)


def tell_levels(levels: Sequence[Level], walk: Walk) -> None:
    """The promises, each with how often it was checked, and what broke it."""
    rows = [
        [level.name, number(level.checked), _verdict(level)] for level in levels if level.checked
    ]
    print()
    print_table(["promise", "operations checked", ""], rows)
    told = ", ".join(f"{number(n)} {word}" for word, n in walk.errors.most_common())
    print(f"\n{number(len(walk.ledger.operations))} operations; told instead of an answer: {told}")
    for level in levels:
        for violation in level.violations[:MOST_SHOWN]:
            print(f"BROKEN  {level.name}: {violation.text}")
        if len(level.violations) > MOST_SHOWN:
            print(f"        and {number(len(level.violations) - MOST_SHOWN)} more like it")


def _verdict(level: Level) -> str:
    broken = len(level.violations)
    return "kept" if not broken else f"BROKEN {counted(broken, 'time')}"


def print_document(walk: Walk, levels: Sequence[Level], seed: int) -> None:
    """The same as JSON."""
    faults: list[dict[str, Any]] = [
        {
            "fault": one.name,
            "lasted_ms": round(one.lasted_s * 1e3, 1),
            "current_again_ms": one.recovered_s and round(one.recovered_s * 1e3, 1),
            "noticed": {name: count for name, count in one.noticed.items() if count},
        }
        for one in walk.passed
    ]
    promises = [
        {
            "promise": level.name,
            "checked": level.checked,
            "broken": len(level.violations),
            "violations": [violation.text for violation in level.violations[:MOST_SHOWN]],
        }
        for level in levels
        if level.checked
    ]
    ok = not any(level.violations for level in levels)
    errors = dict(walk.errors)
    print_json({"ok": ok, "seed": seed, "faults": faults, "promises": promises, "errors": errors})


def require_kept(levels: Sequence[Level]) -> None:
    """Raises `CoherencedError`, naming the promises that were broken."""
    broken = [level.name for level in levels if level.violations]
    if broken:
        raise CoherencedError(f"broken: {', '.join(broken)}")
