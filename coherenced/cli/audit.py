"""`audit`: compare what this node holds with Redis, in production, while both go on changing."""

from __future__ import annotations

import time
from typing import Any

import click

from coherenced.cli.options import as_json, connect, connection, duration, name
from coherenced.cli.output import counted, folded, note, number, print_json, print_table, width
from coherenced.wire.names import legible

PIECE = 1000
"""Keys compared in one call of the daemon: progress, and Ctrl-C, come after each."""


@click.command("audit")
@click.argument("keys", type=name, nargs=-1, metavar="[KEY]...")
@click.option(
    "--sample",
    type=click.IntRange(min=1, max=1_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Without keys: how many of those held, chosen at random.",
)
@click.option(
    "--watch",
    "every_s",
    type=duration,
    is_flag=False,
    flag_value="10s",
    metavar="[TIME]",
    help="Again and again, every ten seconds or so often; ends at the first divergence.",
)
@as_json
@connection
def audit(keys: tuple[bytes, ...], sample: int, every_s: float | None, as_json: bool) -> int:
    """Compare what this node holds with Redis.

    A copy that no invalidation has touched since must equal what Redis answers. Exit code 1
    when one does not: something writes to Redis past coherenced, or a promise was broken.
    The copy has been dropped from this node then. What changed while it was being compared
    has *moved*, and says nothing.
    """
    with connect() as cache:
        while True:
            told = _one(cache, keys, sample)
            if as_json:
                print_json(told)
            else:
                _print(told)
            if told["diverged"] or every_s is None:
                return 1 if told["diverged"] else 0
            time.sleep(every_s)


def _one(cache: Any, keys: tuple[bytes, ...], sample: int) -> dict[str, Any]:
    """One audit, in pieces; the sum of what they told."""
    told: dict[str, Any] = {}
    left = len(keys) or sample
    while left > 0 or not told:
        piece = min(left, PIECE)
        done = len(keys) - left
        part = cache.audit(keys[done : done + piece]) if keys else cache.audit(count=piece)
        left -= piece
        if not told:
            told = part
            continue
        for count in ("compared", "agreed", "moved", "not_held"):
            told[count] += part[count]
        told["diverged"] += part["diverged"]
    return told


def _print(told: dict[str, Any]) -> None:
    line = (
        f"{told['node']}: {counted(told['compared'], 'copy', 'copies')} compared with Redis, "
        f"{number(told['agreed'])} agree, {number(len(told['diverged']))} diverged; "
        f"{number(told['moved'])} moved meanwhile, {number(told['not_held'])} not held"
    )
    print(folded(line, width()))
    if not told["diverged"]:
        return
    rows = [
        [
            legible(d["key"]),
            _length(d["held_bytes"]),
            d["held_as_of"],
            _length(d["redis_bytes"]),
            d["redis_as_of"],
        ]
        for d in told["diverged"]
    ]
    print_table(["key", "held", "as of", "Redis has", "as of"], rows)
    note("the copies that diverged were dropped here; 'coherenced invalidate KEY' drops them all")


def _length(octets: int | None) -> str:
    return "nothing" if octets is None else f"{octets:,} B"
