"""The table that `bench` prints: suites, remarks below, and at the end what was not there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from coherenced.cli.output import duration, number, print_table, size

if TYPE_CHECKING:
    from coherenced.bench.model import Figure, Row

COLUMNS: Final = ("", "ours", "peer", "peer's", "ratio", "aim")


class Table:
    """Rows are added suite by suite, and shown together."""

    def __init__(self) -> None:
        self._lines: list[list[str]] = []
        self._titles: list[str] = []
        self._notes: list[str] = []
        self._drawings: list[tuple[str, tuple[str, ...]]] = []
        self._skipped: list[str] = []

    def add(self, title: str, rows: Sequence[Row], everything: bool) -> None:
        """A suite's rows: all of them, or those that have an aim, and their other peers'."""
        for row in rows:
            if row.skipped and row.skipped not in self._skipped:
                self._skipped.append(row.skipped)
        aims = {row.name for row in rows if row.target is not None or row.failed}
        wanted = [row for row in rows if not row.skipped and (everything or row.name in aims)]
        if wanted:
            self._titles.append(title)
            self._lines += [[title, *[""] * (len(COLUMNS) - 1)]]
            self._lines += [_line(row, self._notes) for row in wanted]
            self._drawings += [(row.name, row.drawing) for row in wanted if row.drawing]

    def show(self) -> None:
        """Print what was added since it was shown last."""
        if not self._lines:
            return
        print()
        if len(self._titles) == 1:
            print_table(COLUMNS, self._lines[1:], self._titles[0])
        else:
            print_table(COLUMNS, self._lines)
        for place, note in enumerate(self._notes, 1):
            print(f"  {place}) {note}")
        for name, drawing in self._drawings:
            print(f"\n{name}")
            print("\n".join(f"  {line}" for line in drawing))
        sys.stdout.flush()
        self._lines, self._titles, self._notes, self._drawings = [], [], [], []

    def show_skipped(self) -> None:
        """Name, once each, what could not be measured because it is not here."""
        if self._skipped:
            print("\nnot measured:")
        for what in self._skipped:
            print(f"  {what}")


def _line(row: Row, notes: list[str]) -> list[str]:
    name = row.name
    if row.note:
        if row.note not in notes:
            notes.append(row.note)
        name += f" {notes.index(row.note) + 1})"
    cells = [name, _figure(row.ours), row.peer, _figure(row.theirs), _figure(row.ratio)]
    return [*cells, _target(row)]


def _figure(figure: Figure | None) -> str:
    """The median, and in brackets the least and the most."""
    if figure is None:
        return "-"
    low, middle, high = (_value(v, figure.unit) for v in (figure.low, figure.value, figure.high))
    return middle if low == high else f"{middle} [{low.removesuffix(' /s')} – {high}]"


def _value(value: float, unit: str) -> str:
    if unit == "/s":
        return f"{number(value)} /s"
    if unit == "ms":
        return duration(value)
    if unit == "s":
        return duration(value * 1e3)
    if unit == "bytes":
        return size(value)
    if unit == "µs":
        return f"{value:.2f} µs" if value < 10 else f"{value:.1f} µs"
    if unit == "percent":
        return f"{value:.1f} %"
    if unit == "ratio":
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return f"{value:g}"


def _target(row: Row) -> str:
    target, met = row.target, row.met
    if target is None:
        return ""
    unit = "ratio" if target.of == "ratio" or row.ours is None else row.ours.unit
    sign = "≥" if target.kind == "at least" else "≤"
    bound = f"{sign} {_value(target.bound, unit)}"
    return bound if met is None else f"{bound} {'met' if met else 'MISSED'}"
