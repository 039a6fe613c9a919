"""`warm`: read keys, so that this host holds them before anybody asks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import BinaryIO

import click

from coherenced.cli.invalidate import lines
from coherenced.cli.options import as_json, connect, connection, name
from coherenced.cli.output import counted, note, print_json, shown
from coherenced.client.sync import Client
from coherenced.errors import UsageError

KEYS_PER_READ = 200
SHOWN = 5
"""Missing keys named in the output; all of them with --json."""


@click.command("warm")
@click.argument("keys", type=name, nargs=-1, metavar="[KEY]...")
@click.option(
    "--from-file",
    type=click.File("rb"),
    metavar="F|-",
    help="Keys too, one a line; - is standard input.",
)
@as_json
@connection
def warm(keys: tuple[bytes, ...], from_file: BinaryIO | None, as_json: bool) -> int:
    """Read keys into this host's memory.

    Each is read through the daemon, from Redis if need be. Keys that are not there are told,
    and are no failure.
    """
    if not keys and from_file is None:
        raise UsageError("nothing to warm: give keys, or --from-file")
    began = time.monotonic()
    with connect() as cache:
        found, missing = _read(cache, [*keys], from_file)
    took_ms = (time.monotonic() - began) * 1e3
    if as_json:
        names = [shown(key) for key in missing]
        print_json({"keys": found + len(missing), "found": found, "missing": names, "ms": took_ms})
        return 0
    print(f"{counted(found, 'key')} read into memory in {took_ms:,.0f} ms")
    if missing:
        named = ", ".join(shown(key) for key in missing[:SHOWN])
        more = f" and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
        note(f"not there: {named}{more}")
    return 0


def _read(cache: Client, keys: list[bytes], from_file: BinaryIO | None) -> tuple[int, list[bytes]]:
    """(how many were there, those that were not); part by part, so that any number will do."""
    shows_progress = sys.stderr.isatty()
    found, missing = 0, []
    for part in _parts([*keys], lines(from_file)):
        there = cache.get_many(part)
        found += len(there)
        missing += [key for key in part if key not in there]
        if shows_progress:
            print(f"\r{found + len(missing):,} keys … ", end="", file=sys.stderr, flush=True)
    if shows_progress:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return found, missing


def _parts(keys: list[bytes], more: Iterable[bytes]) -> Iterator[list[bytes]]:
    def chained() -> Iterator[bytes]:
        yield from keys
        yield from more

    names = chained()
    while part := list(dict.fromkeys(islice(names, KEYS_PER_READ))):
        yield part
