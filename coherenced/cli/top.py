"""`top`: what this node does, live on one page: rates, tiers, busiest keys, nodes, events."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import Any, Final

import click

from coherenced.cli.options import as_json, connect, connection, duration, http_socket
from coherenced.cli.output import duration as in_units
from coherenced.cli.output import (
    note,
    number,
    plain_table,
    print_json,
    printable,
    show_page,
    size,
    width,
)
from coherenced.cli.stats import TIERS, headline, tiers
from coherenced.client.address import Address
from coherenced.wire.names import legible

ROWS: Final = 10
MOST_COUNTED: Final = 10_000
"""Keys whose invalidations are counted; beyond it the rarest are forgotten."""
FADE: Final = 0.8
"""What a count is worth one refresh later: the list shows what is busy now."""

RATES: Final = (
    ("L1 hits", "l1", "hits"),
    ("L1 misses", "l1", "misses"),
    ("evictions", "l1", "evictions"),
    ("Redis fetches", "l2", "fetches"),
    ("writes", "writes", "committed"),
    ("acks sent", "acks", "sent"),
)


@click.command("top")
@click.option(
    "--every",
    "every_s",
    type=duration,
    default="1s",
    show_default=True,
    metavar="TIME",
    help="How often the page is made anew.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after so many.")
@as_json
@connection
def top(every_s: float, count: int | None, as_json: bool) -> int:
    """Show what this node does, live.

    On a terminal the same page again and again (Ctrl-C ends it); on a pipe one page, or as
    many as --count says. Invalidated keys are counted while it runs.
    """
    on_terminal = sys.stdout.isatty() and not as_json
    pages = count or (None if on_terminal else 1)
    busiest = Busiest(http_socket(None))
    with connect() as cache:
        before = cache.stats()
        busiest.start()
        made = 0
        while True:
            time.sleep(every_s)
            told, nodes = cache.stats(), cache.nodes()
            rates = rates_of(told, before, every_s)
            keys = busiest.now()
            if as_json:
                busy = [{"name": name, "per_second": count / every_s} for name, count in keys]
                print_json({"rates": rates, "busiest": busy, "stats": told, "nodes": nodes})
            else:
                text = page(told, rates, keys, nodes, every_s, width())
                if on_terminal:
                    show_page(text)
                else:
                    print(text, flush=True)
            before = told
            made += 1
            if made == pages:
                return 0


def rates_of(told: dict[str, Any], before: dict[str, Any], every_s: float) -> dict[str, float]:
    """Per second, since the page before."""
    rates = {
        what: (told[section][field] - before[section][field]) / every_s
        for what, section, field in RATES
    }
    applied = [sum(lane["records"] for lane in s["lanes"]) for s in (told, before)]
    rates["invalidations"] = (applied[0] - applied[1]) / every_s
    return {what: max(0.0, rate) for what, rate in rates.items()}


def page(
    told: dict[str, Any],
    rates: dict[str, float],
    keys: list[tuple[str, float]],
    nodes: dict[str, Any],
    every_s: float,
    most: int = 0,
) -> str:
    """The whole page as text, without the control characters that place it."""
    l1, derived = told["l1"], told.get("derived", {})
    lines = [
        headline(told),
        f"L1 {size(l1['bytes'])} of {size(l1['max_bytes'])}, {number(l1['entries'])} entries; "
        f"process {size(told['process']['rss_bytes'])}; proved current "
        f"{in_units(derived.get('verified_age_ms'))} ago",
        "",
        "   ".join(f"{what} {number(rate)}/s" for what, rate in rates.items()),
        "",
        plain_table(TIERS, tiers(told), most),
        "",
        "busiest invalidations",
    ]
    if keys:
        rows = [[printable(name), f"{count / every_s:,.1f}/s"] for name, count in keys]
        lines.append(plain_table(["name", "rate"], rows, most))
    else:
        lines.append("none")
    lines += ["", "nodes"]
    for node in nodes.get("nodes", []):
        state = "live" if node.get("live") else "SILENT"
        own = " (this node)" if node.get("self") else ""
        lines.append(f"{printable(node['name'])}{own}  {state}  {in_units(node['bound_ms'])}")
    events = nodes.get("events", [])[-5:]
    if events:
        lines += ["", "events"]
        lines += [f"{e.get('at', '')[11:19]}  {printable(str(e.get('text', '')))}" for e in events]
    return "\n".join(lines)


class Busiest:
    """Counts what the event stream of the daemon names, on a thread of its own."""

    def __init__(self, where: Address) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def start(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def now(self) -> list[tuple[str, float]]:
        """The busiest names and their counts since the last call, older ones fading."""
        with self._lock:
            found = [(name, count * (1 - FADE)) for name, count in self._counts.most_common(ROWS)]
            self._counts = Counter(
                {
                    name: faded
                    for name, count in self._counts.most_common(MOST_COUNTED)
                    if (faded := count * FADE) > 0.05
                }
            )
        return found

    def add(self, record: dict[str, Any]) -> None:
        names = ["everything"] if record.get("all") else []
        for kind, mark in (("keys", ""), ("tags", "tag "), ("prefixes", "prefix ")):
            names += [f"{mark}{legible(name)}" for name in record.get(kind, [])]
        with self._lock:
            self._counts.update(names)

    def _listen(self) -> None:
        from coherenced.cli import http
        from coherenced.cli.watch import TARGET
        from coherenced.errors import CoherencedError

        try:
            for event in http.listen(self._where, TARGET, ""):
                if event.name == "invalidation":
                    self.add(event.data)
        except CoherencedError as error:
            note(f"the busiest keys cannot be shown: {error}")
