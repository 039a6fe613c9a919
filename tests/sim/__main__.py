"""Run one seed, or many: `python -m tests.sim --seed 7`, `… --from 0 --count 500 --shrink`."""

from __future__ import annotations

import argparse
import sys
import time

import msgspec

from coherenced.core.laws import Laws
from tests.sim.many import run_many
from tests.sim.redis_model import ServerLaws
from tests.sim.run import FLAGS, Config, Failure, by_seed, run, shrink


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    arguments.add_argument("--seed", type=int, help="run this seed and show what it did")
    arguments.add_argument("--from", type=int, default=0, dest="first", help="first of many seeds")
    arguments.add_argument("--count", type=int, default=100, help="how many seeds")
    arguments.add_argument("--jobs", type=int, help="processes; otherwise one for each core")
    arguments.add_argument("--shrink", action="store_true", help="look for a shorter one")
    arguments.add_argument(
        "--trace", type=int, default=0, metavar="N", help="show the last N lines"
    )
    arguments.add_argument("--kinds", help="only these kinds of faults, separated by commas")
    arguments.add_argument("--skip", help="leave out these faults of the plan (numbers)")
    arguments.add_argument("--off", action="append", default=[], help="switch a law off")
    for name, flag in FLAGS.items():
        kind = int if isinstance(getattr(by_seed(0), name), int) else float
        arguments.add_argument(flag, type=kind, dest=name)
    return arguments


def config_of(given: argparse.Namespace, seed: int) -> Config:
    changes = {name: getattr(given, name) for name in FLAGS if getattr(given, name) is not None}
    config = msgspec.structs.replace(by_seed(seed), **changes, tracing=bool(given.trace))
    if given.kinds is not None:
        kinds = tuple(kind for kind in given.kinds.split(",") if kind)
        config = msgspec.structs.replace(config, kinds=kinds)
    if given.skip:
        skip = tuple(int(place) for place in given.skip.split(","))
        config = msgspec.structs.replace(config, skip=skip)
    core = {name: False for name in given.off if name in Laws.__struct_fields__}
    server = {name: False for name in given.off if name in ServerLaws.__struct_fields__}
    return msgspec.structs.replace(config, laws=Laws(**core), server_laws=ServerLaws(**server))


def main() -> int:
    given = parser().parse_args()
    began = time.perf_counter()
    if given.seed is not None:
        return show(given)
    seeds = range(given.first, given.first + given.count)
    totals = run_many(
        seeds, lambda seed: config_of(given, seed), shorter=given.shrink, processes=given.jobs
    )
    for broken in totals.broken:
        print(f"{broken}\n")
    print(f"{totals}, {time.perf_counter() - began:.1f} s")
    return 1 if totals.broken else 0


def show(given: argparse.Namespace) -> int:
    """One seed, and what it did."""
    try:
        report = run(config_of(given, given.seed))
    except Failure as failure:
        shown = shrink(failure) if given.shrink else failure
        for line in shown.trace[-given.trace :] if given.trace else []:
            print(line)
        print(f"seed {given.seed}: {shown}")
        return 1
    print(msgspec.json.format(msgspec.json.encode(report.checked)).decode())
    print(f"{report.steps} steps, {report.operations} operations, all as promised")
    return 0


if __name__ == "__main__":
    sys.exit(main())
