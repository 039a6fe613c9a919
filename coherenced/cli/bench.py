"""`bench`: our figures beside those of what a user would pick instead, in one run."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import coherenced
from coherenced.bench.suites import SUITES
from coherenced.cli.options import as_json
from coherenced.cli.output import duration, number, plain_table, print_json, print_table, size
from coherenced.errors import CoherencedError

if TYPE_CHECKING:
    from coherenced.bench.model import Context, Figure, Row


@click.command("bench")
@click.argument("suites", nargs=-1, type=click.Choice(list(SUITES)), metavar="[SUITE]...")
@click.option(
    "--seconds",
    type=click.FloatRange(0.05, 3600),
    metavar="S",
    help="How long one measurement takes, all rounds of ours and the peer's together.",
)
@click.option("--quick", is_flag=True, help="Only show that everything runs.")
@click.option("--full", is_flag=True, help="More sizes, connections and entries: many minutes.")
@click.option("--list", "lists", is_flag=True, help="Name the suites, measure nothing.")
@as_json
def bench(
    suites: tuple[str, ...],
    seconds: float | None,
    quick: bool,
    full: bool,
    lists: bool,
    as_json: bool,
) -> int:
    """Measure this machine: coherenced beside what you would pick instead.

    Everything is started for it and stopped after it: a private Valkey, real daemons, and
    the peers. What counts is the ratio: each figure is taken in turns with the peer's, and
    shown as the median of the rounds with the least and the most. Without a SUITE all of
    them run, about a minute and a half.
    """
    if quick and full:
        raise click.UsageError("--quick and --full are opposites")
    if lists:
        _list(as_json)
        return 0
    return _run(list(dict.fromkeys(suites)) or list(SUITES), seconds, quick, full, as_json)


def _list(as_json: bool) -> None:
    if as_json:
        print_json(SUITES)
    else:
        print(plain_table(["suite", "measures"], [list(item) for item in SUITES.items()]))


def _run(
    names: Sequence[str], seconds: float | None, quick: bool, full: bool, as_json: bool
) -> int:
    from coherenced.bench.model import failed
    from coherenced.bench.suites import run

    exit_code = 0
    told: dict[str, Any] = {**_machine(), "suites": {}}
    if not as_json:
        print(" · ".join(f"{what} {fact}" for what, fact in _machine().items()))
    with tempfile.TemporaryDirectory(prefix="coh-bench-") as directory:
        context = _context(Path(directory), seconds, quick, full)
        for name in names:
            try:
                rows = run(name, context)
            except (CoherencedError, OSError) as error:  # the other suites go on
                rows = [failed(name, error)]
                exit_code = 1
            _clear()
            if as_json:
                told["suites"][name] = [row.as_json() for row in rows]
            else:
                _print(name, rows)
    if as_json:
        print_json(told)
    return exit_code


def _context(directory: Path, seconds: float | None, quick: bool, full: bool) -> Context:
    from coherenced.bench import model

    if seconds is None:
        seconds = model.QUICK_SECONDS if quick else model.DEFAULT_SECONDS
    return model.Context(
        directory=directory,
        seconds=seconds,
        rounds=1 if quick else model.DEFAULT_ROUNDS,
        quick=quick,
        full=full,
        say=_say,
    )


def _machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "coherenced": coherenced.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
    }


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K… {text}", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# -- the table -----------------------------------------------------------------------------


def _print(name: str, rows: Sequence[Row]) -> None:
    """One suite's table; remarks stand below it."""
    notes: list[str] = []
    lines = [_line(row, notes) for row in rows]
    print()
    print_table(["", "ours", "peer", "peer's", "ratio", "target"], lines, f"{name}: {SUITES[name]}")
    for place, note in enumerate(notes, 1):
        print(f"  {place}) {note}")
    sys.stdout.flush()


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
        return f"{value:.1f} µs"
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
