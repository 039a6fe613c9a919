"""`nodes`: who is on the roster, and what has happened lately."""

from __future__ import annotations

from typing import Any

import click

from coherenced.cli.options import as_json, connect, connection
from coherenced.cli.output import duration, note, print_json, print_table
from coherenced.errors import ProtocolError
from coherenced.wire.names import legible


@click.command("nodes")
@click.option("--events", is_flag=True, help="Also what has happened lately on this node.")
@as_json
@connection
def nodes(events: bool, as_json: bool) -> int:
    """Show the nodes, and what has happened lately."""
    with connect() as cache:
        told = cache.nodes()
    if not events:
        told.pop("events", None)
    if as_json:
        print_json(told)
        return 0
    members = told.get("nodes")
    if not isinstance(members, list):
        raise ProtocolError("the daemon's list of nodes has another form than this version knows")
    if told.get("outdated"):
        note(f"the roster as it was last read: {told['outdated']}")
    print_table(
        ["node", "state", "bound", "version", "incarnation"], [_row(member) for member in members]
    )
    if events:
        _print_events(told.get("events", []))
    return 0


def _row(member: dict[str, Any]) -> list[str]:
    name = str(member.get("name", "?"))
    return [
        f"{name} (this node)" if member.get("self") else name,
        "live" if member.get("live") else "SILENT",
        duration(member.get("bound_ms")),
        str(member.get("version", "")),
        str(member.get("incarnation", "")),
    ]


def sentence(event: dict[str, Any]) -> str:
    """One event in words, with its details; what is an empty list is none."""
    details = []
    for name, value in event.items():
        if name in ("at", "event", "text") or value == []:
            continue
        told = ", ".join(map(legible, value)) if isinstance(value, list) else legible(value)
        details.append(f"{name.replace('_', ' ')} {told}")
    text = str(event.get("text", event.get("event", "")))
    return f"{text} ({'; '.join(details)})" if details else text


def _print_events(events: list[dict[str, Any]]) -> None:
    print()
    if not events:
        print("no events yet")
        return
    rows = []
    for event in events:
        rows.append([str(event.get("at", "")), sentence(event)])
    print_table(["at", "event"], rows)
