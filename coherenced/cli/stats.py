"""`stats`: hits, misses and latencies of each tier, once or again and again."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from coherenced.cli.options import as_json, connect, connection, duration
from coherenced.cli.output import (
    counted,
    fact_lines,
    folded,
    number,
    percent,
    plain_table,
    print_json,
    print_table,
    show_page,
    size,
    width,
)
from coherenced.cli.output import duration as in_units


@click.command("stats")
@click.option(
    "--watch",
    "every_s",
    type=duration,
    is_flag=False,
    flag_value="1s",
    metavar="[TIME]",
    help="Again and again, every second or so often.",
)
@as_json
@connection
def stats(every_s: float | None, as_json: bool) -> int:
    """Show hits, misses and latencies of each tier."""
    with connect() as cache:
        before: dict[str, Any] | None = None
        while True:
            told = cache.stats()
            if as_json:
                print_json(told)
            elif every_s is None:
                _print(told)
            else:
                _refresh(told, before, every_s)
            if every_s is None:
                return 0
            before = told
            time.sleep(every_s)


def _print(told: dict[str, Any]) -> None:
    print(folded(headline(told), width()))
    print_table(TIERS, tiers(told))
    print()
    print("\n".join(fact_lines(facts(told))))


TIERS = ["tier", "hits", "misses", "hit rate", "average", "p50", "p99"]


def tiers(told: dict[str, Any]) -> list[list[str]]:
    """One row a tier that was asked anything, and one for all of them."""
    derived = told.get("derived", {})
    rates, latencies = derived.get("hit_rate", {}), derived.get("latency_ms", {})
    rows = []
    for tier in ("l1", "l2", "origin"):
        counts, latency = told.get(tier, {}), latencies.get(tier) or {}
        if tier == "origin" and not counts.get("hits") and not counts.get("misses"):
            continue
        rows.append(
            [
                tier,
                number(counts.get("hits")),
                number(counts.get("misses")),
                percent(rates.get(tier)),
                *(in_units(latency.get(figure)) for figure in ("average", "p50", "p99")),
            ]
        )
    rows.append(["all", "", "", percent(rates.get("overall")), "", "", ""])
    return rows


def facts(told: dict[str, Any]) -> list[list[str]]:
    """The figures beside the tiers: what, how much."""
    l1, lanes = _Figures(told.get("l1")), told.get("lanes", [])
    writes, acks = _Figures(told.get("writes")), _Figures(told.get("acks"))
    process, derived = _Figures(told.get("process")), told.get("derived", {})
    latencies = derived.get("latency_ms", {})
    all_lanes = _Figures(
        {
            what: sum(lane.get(what, 0) for lane in lanes)
            for what in ("records", "gaps_found", "gaps_repaired", "drops")
        }
    )
    figures = {
        **_of_origins(told.get("origin") or {}),
        "memory": f"{size(l1['bytes'])} of {size(l1['max_bytes'])} in "
        f"{counted(l1['entries'], 'entry', 'entries')}; "
        f"the process holds {size(process['rss_bytes'])}",
        "left L1": f"{l1:invalidated}, {l1:evictions}, {l1:expirations}",
        "writes": f"{writes:committed}, {writes:refused}, {writes:indeterminate}",
        **_of_two_phases(writes),
        "acknowledgements": f"{acks:waits}, {acks:timeouts}; {_p(latencies, 'acknowledgement')}",
        "invalidations": f"{all_lanes:records}; back over the bus {_p(latencies, 'invalidation')}",
        "gaps": f"{all_lanes:gaps_found}, {all_lanes:gaps_repaired}, {all_lanes:drops}",
        "proved current": f"{in_units(derived.get('verified_age_ms'))} ago",
        **_of_journal(told.get("spool") or {}),
        "connections": _of_clients(derived, told.get("fronts") or {}),
    }
    return [[what, figure] for what, figure in figures.items()]


def _of_journal(spool: dict[str, Any]) -> dict[str, str]:
    """What waits for Redis on disk; nothing where nothing ever has."""
    if not any(spool.get(one) for one in ("waiting", "sent", "refused")):
        return {}
    figures, most = _Figures(spool), size(spool.get("max_bytes"))
    used = f"{size(spool.get('bytes'))} of {most}"
    return {"journal": f"{figures:waiting} ({used}), {figures:sent}, {figures:refused}"}


def _of_clients(derived: dict[str, Any], fronts: dict[str, Any]) -> str:
    told = [number(derived.get("connections"))]
    for figure, words in (
        ("rejected", "turned away"),
        ("overflows", "cut off since they did not read"),
    ):
        if count := sum(front.get(figure, 0) for front in fronts.values()):
            told.append(f"{number(count)} {words}")
    return ", ".join(told)


def _of_two_phases(writes: _Figures) -> dict[str, str]:
    """What linearizable writes are like (K6); nothing where there are none."""
    if not any(writes[one] for one in ("linearizable", "contended", "one_phase_refused")):
        return {}
    refused = counted(writes["one_phase_refused"], "batch", "batches")
    return {
        "two phases": f"{writes:linearizable}, {writes:contended}; {refused} refused in one phase"
    }


def _of_origins(told: dict[str, Any]) -> dict[str, str]:
    """What loading from origins is like; nothing where no namespace has one."""
    if not told.get("breakers"):
        return {}
    figures = _Figures(told)
    broken = [f"{name} is {state}" for name, state in told["breakers"].items() if state != "closed"]
    lines = {
        "origin": f"{figures:errors}, {figures:timeouts}, {figures:revalidated}, {figures:early}, "
        f"{figures:late}, {figures:stale_served}; breakers: {', '.join(broken) or 'all closed'}"
    }
    for name, behind in (told.get("write_behind") or {}).items():
        lines[f"behind {name}"[:17]] = (
            f"{counted(behind.get('waiting'), 'write')} waiting, {number(behind.get('dead'))} dead"
            + (f"; {behind['error']}" if behind.get("error") else "")
        )
    return lines


class _Figures:
    """One section: `f"{l1:evictions}"` is `3 evictions`, and a figure that is not told is `-`."""

    def __init__(self, section: dict[str, Any] | None) -> None:
        self._section = section or {}

    def __getitem__(self, name: str) -> float | None:
        return self._section.get(name)

    def __format__(self, name: str) -> str:
        return f"{number(self[name])} {name.replace('_', ' ')}"


def _p(latencies: dict[str, Any], name: str) -> str:
    figures = latencies.get(name) or {}
    return f"p50 {in_units(figures.get('p50'))}, p99 {in_units(figures.get('p99'))}"


def headline(told: dict[str, Any]) -> str:
    node = told.get("node", {})
    state = "ready" if node.get("ready") else f"NOT READY: {node.get('reason', '')}"
    return (
        f"{node.get('name', '?')}: {state}, up {in_units(node.get('uptime_ms'))}, "
        f"{counted(node.get('nodes_live'), 'node')} live, {number(node.get('nodes_silent'))} silent"
        + ("" if told.get("bus", {}).get("upstream_up", True) else "; REDIS OUT OF REACH")
    )


def _refresh(told: dict[str, Any], before: dict[str, Any] | None, every_s: float) -> None:
    """On a terminal the same page again; on a pipe one line each time."""
    rates = _rates(told, before, every_s)
    if not sys.stdout.isatty():
        print(f"{time.strftime('%H:%M:%S')}  {rates}", flush=True)
        return
    head = [headline(told), rates, "", plain_table(TIERS, tiers(told), width()), ""]
    show_page("\n".join([*head, *fact_lines(facts(told))]))


def _rates(told: dict[str, Any], before: dict[str, Any] | None, every_s: float) -> str:
    counts = {
        "L1 hits": ("l1", "hits"),
        "L1 misses": ("l1", "misses"),
        "Redis fetches": ("l2", "fetches"),
        "writes": ("writes", "committed"),
    }
    words = []
    for what, (section, field) in counts.items():
        if before is None:
            words.append(f"{what} {number(told[section][field])}")
        else:
            rate = (told[section][field] - before[section][field]) / every_s
            words.append(f"{what} {number(rate)}/s")
    return "   ".join(words)
