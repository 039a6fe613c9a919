"""What a suite is given, and the rows it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal, Self

import msgspec

Unit = Literal["/s", "ms", "µs", "bytes", "s", "count", "percent", "ratio"]

DEFAULT_SECONDS: Final = 3.0
DEFAULT_ROUNDS: Final = 5
QUICK_SECONDS: Final = 0.3
SKIPPED: Final = "skipped: "
FAILED: Final = "failed: "


class Figure(msgspec.Struct, frozen=True):
    """What the rounds of one measurement gave: their median, the least and the most."""

    value: float
    unit: Unit
    low: float
    high: float

    @classmethod
    def of(cls, unit: Unit, samples: Sequence[float]) -> Self:
        """Of one or more samples, one a round."""
        return cls(median(samples), unit, min(samples), max(samples))


class Target(msgspec.Struct, frozen=True):
    """What a row is to reach: a bound on the ratio, or on our own figure."""

    bound: float
    kind: Literal["at least", "at most"]
    of: Literal["ratio", "ours"] = "ratio"

    def met(self, value: float) -> bool:
        return value >= self.bound if self.kind == "at least" else value <= self.bound


def at_least(ratio: float) -> Target:
    """Ours divided by the peer's must not be less."""
    return Target(ratio, "at least")


def at_most(ratio: float) -> Target:
    """Ours divided by the peer's must not be more."""
    return Target(ratio, "at most")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of ours beside a peer's."""

    name: str
    ours: Figure | None = None
    """None: nothing was measured, and `note` says why."""
    peer: str = ""
    theirs: Figure | None = None
    ratio: Figure | None = None
    """Ours divided by the peer's, round by round, so that a busy machine harms both."""
    target: Target | None = None
    note: str = ""
    drawing: tuple[str, ...] = ()
    """Lines of text that show what stands behind the figure."""

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without one, or without what it speaks of."""
        figure = None
        if self.target is not None:
            figure = self.ratio if self.target.of == "ratio" else self.ours
        if self.target is None or figure is None:
            return None
        return self.target.met(figure.value)

    @property
    def skipped(self) -> str:
        """Why nothing was measured, when there was nothing to measure."""
        return self.note.removeprefix(SKIPPED) if self.note.startswith(SKIPPED) else ""

    @property
    def failed(self) -> bool:
        return self.note.startswith(FAILED)

    def noted(self, note: str) -> Row:
        return msgspec.structs.replace(self, note=note)

    def drawn(self, drawing: Sequence[str]) -> Row:
        return msgspec.structs.replace(self, drawing=tuple(drawing))

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = msgspec.to_builtins(self)
        return {**told, "met": self.met}


def skipped(name: str, why: str) -> Row:
    """A row that was not measured."""
    return Row(name=name, note=SKIPPED + why)


def missing(name: str, package: str) -> Row:
    """A row whose peer is not installed."""
    return skipped(name, f"{package} is not installed (pip install 'coherenced[bench]')")


def failed(name: str, error: Exception) -> Row:
    """A suite that could not be measured to its end."""
    return Row(name=name, note=f"{FAILED}{error}")


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a suite is given."""

    directory: Path
    """Where it may put its files; short, for there will be sockets in it."""
    seconds: float = DEFAULT_SECONDS
    """How long one measurement takes, all rounds of ours and of the peer together."""
    rounds: int = DEFAULT_ROUNDS
    """How often each side's turn comes."""
    quick: bool = False
    """Only show that it runs: the least of everything."""
    full: bool = False
    """More sizes, more connections, more keys; it may take many minutes."""
    node_modules: Path = Path()
    """The directory whose `node_modules` has the peers that are written for Node."""
    say: Callable[[str], None] = lambda text: None
    """One line of progress, for a person who waits."""

    @property
    def round_s(self) -> float:
        """How long one side's turn takes."""
        return self.seconds / (2 * self.rounds)

    def amount(self, full: int, normal: int, quick: int) -> int:
        """How many of something, by how thorough this run is."""
        return quick if self.quick else full if self.full else normal

    def times(self, normal: int, least: int = 1) -> int:
        """How often to repeat what cannot be measured by time, scaled as the seconds are."""
        return max(least, math.ceil(normal * self.seconds / DEFAULT_SECONDS))
