"""The cost model beside the truth: Redis and 1 to 8 real nodes, as they are and as computed.

The nodes are processes of this machine, which the server has to wake and share two cores with; the
model knows listeners on other hosts. That, and what else runs here, is what the two differ by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

from coherenced.bench.cost_model import (
    BOUND_S,
    PROBES_A_BOUND,
    Counts,
    UnitCosts,
    node_parts,
    redis_parts,
)
from coherenced.bench.model import Context, Figure, Row, Target
from coherenced.bench.paces import CRON_S, steady
from coherenced.bench.plot import columns
from coherenced.bench.rig import Daemon, Rig

CHECKED_NODES: Final = (1, 3, 8)
CHECKED_NODES_FULL: Final = (1, 2, 3, 5, 8)
CHECKED_LOADS: Final = ((300.0, 10), (200.0, 1), (1_000.0, 1), (3_000.0, 1))
CHECKED_LOADS_FULL: Final = (*CHECKED_LOADS, (1_000.0, 10))
"""Messages a second, and records in each."""
CLOSE: Final = Target(0.25, "at most", "ours")
"""How far the computation may be off, in the middle of all."""


class Checked(NamedTuple):
    """One load: as it is, and as it was computed. Cores."""

    nodes: int
    per_s: float
    records: int
    redis: float
    redis_told: float
    node: float
    node_told: float


def check(
    context: Context,
    rig: Rig,
    daemons: list[Daemon],
    settings: Mapping[str, object],
    unit: UnitCosts,
) -> list[Row]:
    """Redis and 1 to 8 real nodes at a steady pace: their CPU as it is, beside what was computed.
    Adds to `daemons`."""
    seconds = 0.2 if context.quick else 1.0 if context.full else 0.6
    sizes: Sequence[int] = CHECKED_NODES_FULL if context.full else CHECKED_NODES
    loads: Sequence[tuple[float, int]] = CHECKED_LOADS_FULL if context.full else CHECKED_LOADS
    if context.quick:
        sizes, loads = sizes[:1], loads[:1]
    found = []
    for nodes in sizes:
        daemons += rig.daemons(nodes - len(daemons), settings)
        for per_s, records in loads:
            context.say(f"the model beside the truth: {nodes} nodes, {per_s:,.0f} messages/s")
            real = steady(rig, records, per_s, seconds, daemons)
            counts = told(nodes, real.scripts, records)
            redis = sum(redis_parts(counts, unit).values())
            node = sum(real.node_us) / nodes / 1e6
            each = sum(node_parts(counts, unit).values())
            one = Checked(nodes, real.scripts, records, real.server_us / 1e6, redis, node, each)
            found.append(one)
    title = ("nodes", "messages/s", "records each", "Redis", "computed", "a node", "computed", "")
    cells = [title, *map(_cells, found)]
    rows = []
    for who, off in (
        ("Redis's", [abs(one.redis_told / one.redis - 1) for one in found]),
        ("a node's", [abs(one.node_told / one.node - 1) for one in found]),
    ):
        name = f"{who} CPU as computed beside real nodes: how far off"
        figure = Figure(median(off), "ratio", min(off), max(off))
        rows.append(Row(name=name, ours=figure, target=CLOSE, note=f"{len(found)} loads"))
    return [rows[0].drawn(columns(cells)), *rows[1:]]


def told(nodes: int, scripts_s: float, records: int) -> Counts:
    """What such a second has in it: the writer is no node, and asks for no acknowledgement."""
    probes = nodes * PROBES_A_BOUND / BOUND_S
    copies = scripts_s * nodes
    return Counts(
        nodes=nodes,
        turns=scripts_s + probes + CRON_S,
        scripts=scripts_s,
        records=scripts_s * records,
        probes=probes,
        pushes=copies,
        copies=copies,
        node_turns=scripts_s,
        messages=scripts_s,
        applied=scripts_s * records,
    )


def _cells(one: Checked) -> tuple[str, ...]:
    return (
        str(one.nodes),
        f"{one.per_s:,.0f}",
        str(one.records),
        f"{100 * one.redis:.1f} %",
        f"{100 * one.redis_told:.1f} %",
        f"{100 * one.node:.1f} %",
        f"{100 * one.node_told:.1f} %",
        "",
    )
