"""`bench`: our figures beside those of what a user would pick instead, in one run."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import coherenced
from coherenced.bench.suites import SUITES
from coherenced.cli.bench_table import Table
from coherenced.cli.options import as_json
from coherenced.cli.output import plain_table, print_json
from coherenced.errors import CoherencedError

if TYPE_CHECKING:
    from coherenced.bench.model import Context, Row

    MakeContext = Callable[[Path, str], Context]


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
@click.option("--details", is_flag=True, help="Every figure, not only those that have an aim.")
@click.option(
    "--node-modules",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    metavar="DIR",
    help="Where `npm install bentocache ioredis` was run, to measure BentoCache's bus too.",
)
@click.option("--list", "lists", is_flag=True, help="Name the suites, measure nothing.")
@as_json
def bench(
    suites: tuple[str, ...],
    seconds: float | None,
    quick: bool,
    full: bool,
    details: bool,
    node_modules: Path,
    lists: bool,
    as_json: bool,
) -> int:
    """Measure this machine: coherenced beside what you would pick instead.

    Everything is started for it and stopped after it: a private Valkey, real daemons, and
    the peers. What counts is the ratio: each figure is taken in turns with the peers', and
    shown as the median of the rounds with the least and the most. Without a SUITE all of
    them run, some four minutes, and one table shows the figures that have an aim; of a SUITE
    that is named, and with --details, every figure is shown.
    """
    if quick and full:
        raise click.UsageError("--quick and --full are opposites")
    if lists:
        _list(as_json)
        return 0
    names = list(dict.fromkeys(suites)) or list(SUITES)
    context = partial(_context, seconds, quick, full, node_modules)
    if as_json:
        return _run_as_json(names, context)
    return _run(names, context, details=details or bool(suites))


def _list(as_json: bool) -> None:
    if as_json:
        print_json(SUITES)
    else:
        print(plain_table(["suite", "measures"], [list(item) for item in SUITES.items()]))


def _run_as_json(names: Sequence[str], context: MakeContext) -> int:
    told: dict[str, Any] = {**_machine(), "suites": {}}
    exit_code = 0
    for name, rows in _measure(names, context):
        told["suites"][name] = [row.as_json() for row in rows]
        exit_code = exit_code or int(any(row.failed for row in rows))
    print_json(told)
    return exit_code


def _run(names: Sequence[str], context: MakeContext, details: bool) -> int:
    print(" · ".join(f"{what} {fact}" for what, fact in _machine().items()))
    table = Table()
    exit_code = 0
    for name, rows in _measure(names, context):
        exit_code = exit_code or int(any(row.failed for row in rows))
        table.add(f"{name}: {SUITES[name]}", rows, everything=details)
        if details:
            table.show()
    table.show()
    table.show_skipped()
    return exit_code


def _measure(names: Sequence[str], context: MakeContext) -> Iterator[tuple[str, list[Row]]]:
    """Run them one after the other; each with its rows when it is done."""
    from coherenced.bench.model import failed
    from coherenced.bench.suites import run

    with tempfile.TemporaryDirectory(prefix="coh-bench-") as directory:
        for place, name in enumerate(names, 1):
            try:
                rows = run(name, context(Path(directory), f"{place}/{len(names)} {name}"))
            except (CoherencedError, OSError) as error:  # the other suites go on
                rows = [failed(name, error)]
            _clear()
            yield name, rows


def _context(
    seconds: float | None,
    quick: bool,
    full: bool,
    node_modules: Path,
    directory: Path,
    where: str,
) -> Context:
    """What a suite is given. `where` it is among those that run, for whoever waits."""
    from coherenced.bench import model

    if seconds is None:
        seconds = model.QUICK_SECONDS if quick else model.DEFAULT_SECONDS
    return model.Context(
        directory=directory,
        seconds=seconds,
        rounds=1 if quick else model.DEFAULT_ROUNDS,
        quick=quick,
        full=full,
        node_modules=node_modules,
        say=lambda text: _say(f"{where}: {text}"),
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
