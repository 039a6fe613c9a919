"""Measuring in turns: ours, peer, ours, peer …, so that both meet the same machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from coherenced.bench.model import Figure, Row, Target, Unit

Sample = Mapping[str, float]
"""What one turn measured, by name."""


class Wanted(NamedTuple):
    """One value of a sample, as a row."""

    value: str
    """Its name in the sample."""
    label: str
    """What people call it."""
    unit: Unit
    target: Target | None = None


class Duel(NamedTuple):
    """What the turns of both sides gave, in the same order."""

    peer: str
    ours: Sequence[Sample]
    theirs: Sequence[Sample]

    def rows(self, name: str, wanted: Sequence[Wanted], note: str = "") -> list[Row]:
        """A row for each wanted value that every turn has measured; `note` stands at the first."""
        rows: list[Row] = []
        for value, label, unit, target in wanted:
            ours = [sample[value] for sample in self.ours if value in sample]
            theirs = [sample[value] for sample in self.theirs if value in sample]
            if len(ours) == len(self.ours) and len(theirs) == len(self.theirs):
                full_name = f"{name}: {label}" if label else name
                row = compare(full_name, unit, ours, self.peer, theirs, target)
                rows.append(row if rows else row.noted(note))
        return rows


def look_ups(look: Callable[[bytes], object], names: Sequence[bytes], seconds: float) -> float:
    """Microseconds of one look-up, all of `names` again and again, the loop around it counted."""
    rounds, clock = 0, time.perf_counter
    started_s = now_s = clock()
    while now_s - started_s < seconds:
        for name in names:
            look(name)
        rounds += 1
        now_s = clock()
    return (now_s - started_s) / (rounds * len(names)) * 1e6


def duel(rounds: int, ours: Callable[[], Sample], peer: str, theirs: Callable[[], Sample]) -> Duel:
    """Measure in turns, `rounds` times each."""
    samples = [(ours(), theirs()) for _ in range(rounds)]
    return Duel(peer, [mine for mine, _ in samples], [other for _, other in samples])


def contest(
    rounds: int, ours: Callable[[], Sample], peers: Mapping[str, Callable[[], Sample]]
) -> list[Duel]:
    """The same with several peers: in each round ours is measured once, and each of them once."""
    mine: list[Sample] = []
    others: dict[str, list[Sample]] = {name: [] for name in peers}
    for _ in range(rounds):
        mine.append(ours())
        for name, theirs in peers.items():
            others[name].append(theirs())
    return [Duel(name, mine, samples) for name, samples in others.items()]


def compare(
    name: str,
    unit: Unit,
    ours: Sequence[float],
    peer: str,
    theirs: Sequence[float],
    target: Target | None = None,
) -> Row:
    """A row of samples of ours and of the peer's, one of each a round."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True) if other]
    return Row(
        name=name,
        ours=Figure.of(unit, ours),
        peer=peer,
        theirs=Figure.of(unit, theirs),
        ratio=Figure.of("ratio", ratios) if ratios else None,
        target=target,
    )


def alone(name: str, unit: Unit, samples: Sequence[float], target: Target | None = None) -> Row:
    """A row without a peer."""
    return Row(name=name, ours=Figure.of(unit, samples), target=target)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least of the ordered samples that `share` of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latencies(samples_ms: Sequence[float]) -> dict[str, float]:
    """p50 and p99 of one turn, in milliseconds."""
    ordered = sorted(samples_ms)
    return {"p50": quantile(ordered, 0.5), "p99": quantile(ordered, 0.99)}
