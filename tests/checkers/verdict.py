"""What a checker answers: violations that tell their story, and how much was judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.checkers.history import Operation


@dataclass(frozen=True, eq=False)
class Violation:
    """One broken promise and the operations that show it."""

    level: str
    text: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        """A short story: what is wrong, then the operations in order, in ms since the first."""
        told: dict[int, Operation] = {id(op): op for op in self.operations}
        ordered = sorted(told.values(), key=lambda op: op.start_ns)
        zero_ns = ordered[0].start_ns if ordered else 0
        lines = [f"{self.level}: {self.text}"]
        lines += [f"  {_line(op, zero_ns)}" for op in ordered]
        return "\n".join(lines)


class Verdict(list[Violation]):
    """The violations found, a list; empty when the promise was kept.

    `checked` counts what was judged, `inconclusive` names keys that were too much
    for the checker's budget (they are no violations, and not judged).
    """

    def __init__(
        self,
        level: str,
        violations: Iterable[Violation] = (),
        *,
        checked: int = 0,
        inconclusive: Iterable[str] = (),
    ) -> None:
        super().__init__(violations)
        self.level = level
        self.checked = checked
        self.inconclusive = list(inconclusive)

    def add(self, text: str, *operations: Operation | None) -> None:
        """One more violation; operations that are None (the initial state) are left out."""
        told = tuple(op for op in operations if op is not None)
        self.append(Violation(self.level, text, told))

    def summary(self) -> str:
        """One line: the level, how much was checked, and how it went."""
        state = "kept" if not self else f"BROKEN {len(self)} times"
        open_keys = f", {len(self.inconclusive)} keys undecided" if self.inconclusive else ""
        return f"{self.level:<18} {self.checked:>9,} checked   {state}{open_keys}"

    def story(self, most: int = 3) -> str:
        """The summary and the first `most` violations in full."""
        return "\n".join([self.summary(), *(str(violation) for violation in self[:most])])


def report(verdicts: Sequence[Verdict], most: int = 3) -> str:
    """All verdicts as a table, then the stories of those that are broken."""
    lines = [verdict.summary() for verdict in verdicts]
    for verdict in verdicts:
        lines += [str(violation) for violation in verdict[:most]]
    return "\n".join(lines)


def _line(op: Operation, zero_ns: int) -> str:
    start = f"{(op.start_ns - zero_ns) / 1e6:10.3f}"
    end = "  no answer" if op.end_ns is None else f"{(op.end_ns - zero_ns) / 1e6:11.3f}"
    what = " ".join(_key_value(op, place) for place in range(min(len(op.keys), 6)))
    if len(op.keys) > 6:
        what += f" … {len(op.keys)} keys"
    extras = [
        op.outcome if op.outcome != "ok" else "",
        f"version {op.version}" if op.version else "",
        f"ack={op.level}" if op.level else "",
        "" if op.satisfied else "not acknowledged",
        f"max_staleness {op.max_staleness_ms:g} ms" if op.max_staleness_ms is not None else "",
        f"min_version {op.min_version}" if op.min_version else "",
        f"from {op.source}" if op.source else "",
        op.detail,
    ]
    told = ", ".join(extra for extra in extras if extra)
    who = f"{op.session}@{op.node}"
    return f"{start} – {end} ms  {who:<12} {op.kind:<10} {what}{f'  ({told})' if told else ''}"


def _key_value(op: Operation, place: int) -> str:
    if place >= len(op.values):
        return op.keys[place]
    value = op.values[place]
    return f"{op.keys[place]} {'→' if op.is_read else '='} {'absent' if value is None else value}"
