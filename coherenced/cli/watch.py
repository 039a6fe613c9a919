"""`watch`: the live stream of invalidations, going on where it was cut off."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import click

from coherenced.cli.nodes import sentence
from coherenced.cli.options import as_json, connection, http_socket, written_version
from coherenced.cli.output import folded, note, printable, width
from coherenced.client.address import Address
from coherenced.errors import DaemonUnreachable
from coherenced.wire.names import legible

TARGET: Final = "/v1/invalidations"
RETRY_S: Final = 1.0
SHOWN: Final = 10
"""Names printed of one record; `--json` prints all."""


@click.command("watch")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after so many.")
@click.option(
    "--after",
    type=written_version,
    metavar="VERSION",
    help="Begin after this version.",
)
@click.option("--events", is_flag=True, help="Also what happens to the node: gaps, fencings, …")
@click.option("--http-socket", "http_path", metavar="PATH", help="The daemon's HTTP socket.")
@as_json
@connection
def watch(
    count: int | None, after: str | None, events: bool, http_path: str | None, as_json: bool
) -> int:
    """Show invalidations as they happen.

    One line each: time, version, what was done, and to what. When the daemon goes away
    the stream is taken up again where it was, as far as the daemon still knows it. With
    --events also what happens to the node, as 'nodes --events' lists it.
    """
    where = http_socket(http_path)
    if not as_json and sys.stdout.isatty():
        note(f"watching {where.path}; Ctrl-C to stop")
    for number, record in enumerate(_records(where, after or "", events), 1):
        _show(record, as_json)
        if number == count:
            break
    return 0


def _records(where: Address, after: str, events: bool = False) -> Iterator[dict[str, Any]]:
    """Every record (with `events` the node's events too), for ever.

    Raises `DaemonUnreachable` only if there was no daemon to begin."""
    from coherenced.cli import http

    connected = False
    while True:
        try:
            for event in http.listen(where, TARGET, after):
                connected = True
                if event.name == "invalidation":
                    after = event.id
                    yield event.data
                elif event.name == "node" and events:
                    yield event.data
                elif event.name == "reset":
                    note("the daemon no longer holds what came in between: some are missing")
                elif event.name == "overflow":
                    note("this terminal was too slow: going on after the last that was shown")
        except DaemonUnreachable as error:
            if not connected:
                raise
            note(f"{error}; trying again")
        time.sleep(RETRY_S)


def _show(record: dict[str, Any], as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps(record, ensure_ascii=False), flush=True)
        return
    if "event" in record:
        line = printable(f"{time.strftime('%H:%M:%S')}  node  {sentence(record)}")
        print(folded(line, width()), flush=True)
        return
    words = ["everything"] if record.get("all") else []
    for kind in ("key", "tag", "prefix"):
        names = record.get("keys" if kind == "key" else "tags" if kind == "tag" else "prefixes", [])
        words += [kind if kind != "key" else "", *map(legible, names[:SHOWN])] if names else []
        if len(names) > SHOWN:
            words.append(f"(and {len(names) - SHOWN} more)")
    clock = time.strftime("%H:%M:%S")
    line = f"{clock}  {record['version']}  {record['op']:<10} {' '.join(w for w in words if w)}"
    print(folded(printable(line), width()), flush=True)
