"""`explain`: where a key would be served from now, and why."""

from __future__ import annotations

from typing import Any

import click

from coherenced.cli.options import as_json, connect, connection, name
from coherenced.cli.output import duration, fact_lines, print_json, printable
from coherenced.wire.names import legible


@click.command("explain")
@click.argument("key", type=name)
@as_json
@connection
def explain(key: bytes, as_json: bool) -> int:
    """Say where a key would be served from, and why."""
    with connect() as cache:
        told = cache.explain(key)
    if as_json:
        print_json(told)
        return 0
    facts = [
        (fact.replace("_", " ").removesuffix(" ms"), printable(_shown(fact, value)))
        for fact, value in told.items()
    ]
    print("\n".join(fact_lines(facts, max(map(len, told), default=0) + 2)))
    return 0


def _shown(fact: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if fact.endswith("_ms") and isinstance(value, int | float):
        return duration(value)
    if isinstance(value, list):
        return ", ".join(map(legible, value)) or "-"
    return legible(value)
