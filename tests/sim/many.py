"""Many seeded runs on all cores: which process ran a seed changes nothing about it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

import msgspec

from tests.ahead import Part
from tests.sim.run import Config, Failure, run, shrink

CHUNK = 20
"""Seeds that one process takes at a time."""


class Totals(msgspec.Struct, kw_only=True):
    runs: int = 0
    steps: int = 0
    operations: int = 0
    checked: dict[str, int] = {}
    """Level -> how many operations were checked against it."""
    struck: dict[str, int] = {}
    """Kind of fault -> how often it struck."""
    broken: list[str] = []
    """What broke, each with the command that replays it."""

    def add(self, other: Totals) -> None:
        self.runs += other.runs
        self.steps += other.steps
        self.operations += other.operations
        for mine, theirs in ((self.checked, other.checked), (self.struck, other.struck)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        self.broken.extend(other.broken)

    def __str__(self) -> str:
        levels = ", ".join(f"{count} {name}" for name, count in sorted(self.checked.items()))
        return (
            f"{self.runs} runs, {self.steps} steps, {self.operations} operations checked "
            f"({levels}), {sum(self.struck.values())} faults of {len(self.struck)} kinds, "
            f"{len(self.broken)} broken"
        )


def run_some(configs: list[Config], shorter: bool) -> Totals:
    """One after the other, in this process. `shorter`: a failure is made short first."""
    totals = Totals()
    for config in configs:
        try:
            report = run(config)
        except Failure as failure:
            shown = shrink(failure) if shorter else failure
            totals.runs += 1
            totals.broken.append(f"seed {config.seed}: {shown}")
            continue
        totals.add(
            Totals(
                runs=1,
                steps=report.steps,
                operations=report.operations,
                checked=report.checked,
                struck=report.struck,
            )
        )
    return totals


def run_many(
    seeds: Iterable[int],
    config_of: Callable[[int], Config],
    *,
    shorter: bool = True,
    processes: int | None = None,
) -> Totals:
    """Run the configuration of each seed, on all cores unless `processes` says otherwise."""
    parts = parts_of(seeds, config_of, shorter=shorter)
    count = min(processes or os.cpu_count() or 1, len(parts))
    if count <= 1:
        return sum_of(part.function(*part.arguments) for part in parts)
    fresh = multiprocessing.get_context("spawn")  # nothing of this process's threads and sockets
    with ProcessPoolExecutor(count, mp_context=fresh) as pool:
        return sum_of(pool.map(run_some, *zip(*(part.arguments for part in parts), strict=True)))


def parts_of(
    seeds: Iterable[int], config_of: Callable[[int], Config], *, shorter: bool = True
) -> list[Part]:
    """The same run, cut into what one process takes at a time."""
    configs = [config_of(seed) for seed in seeds]
    chunks = [configs[at : at + CHUNK] for at in range(0, len(configs), CHUNK)]
    return [Part(run_some, (chunk, shorter)) for chunk in chunks]


def sum_of(found: Iterable[Totals]) -> Totals:
    """What its parts came to, together."""
    totals = Totals()
    for one in found:
        totals.add(one)
    return totals
