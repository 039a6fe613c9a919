"""Linearizability of one register with unique values, by zones (Gibbons and Korach, 1997).

The operations on one value, its write and the reads that saw it, form a cluster.
From the earliest end `f` among them to the latest start `s` the register must have
held that value throughout, if `f < s`: a *forward* zone. Otherwise all of them may
have happened at one instant anywhere in `[s, f]`: a *backward* zone. The history is
linearizable iff no read ends before its write starts, no two forward zones overlap,
and no backward zone lies inside a forward one. Near-linear time, exact; needs to know
which write each read saw, so absence may have only one possible maker.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.checkers.history import Operation

NEVER: Final = float("-inf")
FOREVER: Final = float("inf")


@dataclass(slots=True, eq=False)
class RegisterOp:
    """A read or a write of one register."""

    is_write: bool
    value: str | None
    start: float
    end: float
    """`FOREVER` for a write that may be applied at any later time, or never."""
    operation: Operation | None = None


@dataclass(slots=True)
class _Zone:
    value: str | None
    ops: list[RegisterOp] = field(default_factory=list)

    @property
    def first_end(self) -> RegisterOp:
        return min(self.ops, key=lambda op: op.end)

    @property
    def last_start(self) -> RegisterOp:
        return max(self.ops, key=lambda op: op.start)


@dataclass(frozen=True)
class Contradiction:
    """Why the history is not linearizable, and the operations that show it."""

    text: str
    ops: tuple[RegisterOp, ...]


def zones_contradiction(
    ops: Sequence[RegisterOp], initial: str | None = None
) -> Contradiction | None:
    """None when linearizable. Each value must have one writer at most (the initial state is
    one); unanswered writes that nobody read are to be left out by the caller."""
    zones: dict[str | None, _Zone] = {}
    start = RegisterOp(True, initial, NEVER, NEVER)
    for op in (start, *(op for op in ops if op.is_write)):
        zone = zones.setdefault(op.value, _Zone(op.value))
        if zone.ops:
            raise ValueError(f"{op.value!r} has two writers: zones cannot decide")
        zone.ops.append(op)
    for op in ops:
        if not op.is_write:
            known = zones.get(op.value)
            if known is None:
                return Contradiction("a value is read that nobody wrote", (op,))
            if op.end < known.ops[0].start:
                return Contradiction("a value is read before it is written", (known.ops[0], op))
            known.ops.append(op)
    return _overlap(list(zones.values()))


def _overlap(zones: list[_Zone]) -> Contradiction | None:
    forward: list[tuple[float, float, _Zone]] = []
    backward: list[tuple[float, float, _Zone]] = []
    for zone in zones:
        f, s = zone.first_end.end, zone.last_start.start
        if f < s:
            forward.append((f, s, zone))
        else:
            backward.append((s, f, zone))
    forward.sort(key=lambda item: item[:2])
    for (_, s1, one), (f2, _, two) in itertools.pairwise(forward):
        if f2 < s1:
            return Contradiction(
                "two values must each have been held at the same time", _told(one, two)
            )
    starts = [f for f, _, _ in forward]
    for s, f, zone in backward:
        place = bisect.bisect_left(starts, s) - 1
        if place >= 0 and f < forward[place][1]:
            return Contradiction(
                "a value appears while another must have been held throughout",
                _told(forward[place][2], zone),
            )
    return None


def _told(one: _Zone, two: _Zone) -> tuple[RegisterOp, ...]:
    told: list[RegisterOp] = []
    for zone in (one, two):
        told += [zone.ops[0], zone.first_end, zone.last_start]
    return tuple(told)
