"""Fleets that no machine holds: what they do in a second, what that costs, what is used up first.

Each is run in virtual time for as long as its messages allow, and what it did is counted; where
SHORTEST_S would be too much, or Redis is used up, the counts are those of `cost_model.expected`,
and the line says so. How near these are to the counted ones stands beside.
"""

from __future__ import annotations

from math import log
from typing import Final, NamedTuple

from coherenced.bench.cost_model import Cost, Counts, Load, UnitCosts, cost, expected
from coherenced.bench.fleet.fleet import Fleet
from coherenced.bench.model import Context, Figure, Row
from coherenced.bench.plot import bars, columns
from coherenced.bench.rounds import alone, compare, quantile
from coherenced.core.requests import Level

NODES: Final = (10, 100, 1_000)
RATES: Final = (1_000, 10_000, 100_000)
LONGEST_S: Final = 2.0
SHORTEST_S: Final = 0.04
LANES: Final = (1, 2, 4, 8)
SPREAD: Final = (100, 10_000.0)
"""Nodes and invalidations a second of the fleet that is given more lanes."""
KEPT_UP: Final = 0.7
"""Of what was asked; the rest waits at the writers."""
USED_UP: Final = 0.97
"""Of the server's time: it could not do all that was asked."""
GROWN: Final = (10, 100, 1_000)
GROWN_FULL: Final = (10, 30, 100, 300, 1_000)
EACH_PER_S: Final = 0.2
"""What each node of a growing fleet writes: so little that a thousand of them fit."""
ROSTERS: Final = "members of rosters read"
WRITES: Final = 50
"""In as long as they take."""


class Told(NamedTuple):
    """One fleet."""

    load: Load
    counts: Counts
    cost: Cost
    counted_s: float
    """Of virtual time; 0: its counts are expected ones."""
    waited_ms: tuple[float, float]
    """p50 and p99 of a write, where it was run."""


def fleets(context: Context, unit: UnitCosts) -> list[Row]:
    """See the module."""
    deliveries = context.amount(600_000, 40_000, 3_000)
    rows = []
    near: list[float] = []
    for who, writers, ack_all in (
        ("all nodes write alike", None, False),
        ("one node writes", 1, False),
        ("all nodes write alike, acknowledged by all", None, True),
    ):
        found = []
        for nodes in NODES:
            for per_s in RATES:
                load = Load(nodes, per_s, writers or nodes, ack_all)
                context.say(f"{nodes} nodes, {per_s:,} invalidations a second, {who}")
                found.append(fleet_of(load, unit, deliveries))
        near += [nearness(one, unit) for one in found if one.counted_s]
        most = capacity(100, writers, unit, ack_all=ack_all)
        row = alone(f"100 nodes, {who}: invalidations a second that fit", "/s", [most])
        rows.append(row.drawn(columns([TITLE, *map(cells, found)])))
    off = [abs(share - 1) for share in near]
    rows.append(
        Row(
            name=f"Redis's CPU as expected, of that of {len(near)} fleets counted in virtual time",
            ours=Figure.of("ratio", near),
            note=f"at most {100 * max(off):.0f} % off",
        )
    )
    return [*rows, _by_lanes(context, unit, deliveries), *_growth(context, unit)]


def _by_lanes(context: Context, unit: UnitCosts, deliveries: int) -> Row:
    """What more lanes give: each on a server of its own, and a share of the keys. A node of the
    core has one lane, so a fleet with several is as many fleets, each with a node of every host."""
    nodes, per_s = SPREAD
    found = []
    for lanes in LANES:
        context.say(f"{nodes} nodes, {per_s:,.0f} invalidations a second on {lanes} lanes")
        load = Load(nodes, per_s / lanes, nodes)
        found.append((lanes, fleet_of(load, unit, deliveries // lanes)))
    lines = [("lanes", "each server, cores", "a node, all lanes", "its proofs/s", "counted", "")]
    for lanes, one in found:
        probes = lanes * one.counts.probes / nodes
        idle = unit.idle / 1e6
        lines.append(
            (
                str(lanes),
                f"{one.cost.redis:.2f}",
                f"{100 * (idle + lanes * (one.cost.node - idle)):.1f} %",
                f"{probes:.0f}",
                f"{one.counted_s:.2f} s" if one.counted_s else "expected",
                "",
            )
        )
    most, fewest = found[-1][1].cost.redis, found[0][1].cost.redis
    name = f"{nodes} nodes, {per_s:,.0f} invalidations/s on {LANES[-1]} lanes: each server's CPU"
    row = compare(name, "percent", [100 * most], "on one lane", [100 * fewest])
    return row.drawn(columns(lines))


def fleet_of(load: Load, unit: UnitCosts, deliveries: int) -> Told:
    """Run it for about so many deliveries, or expect it."""
    each_s = load.per_s * load.nodes * (2 if load.ack_all else 1)
    seconds = min(LONGEST_S, deliveries / each_s)
    guess = expected(load, unit)
    guessed = Told(load, guess, cost(guess, unit), 0.0, (0.0, 0.0))
    if seconds < SHORTEST_S:
        return guessed
    fleet = Fleet(load.nodes, unit)
    fleet.settle()
    level = Level.ALL if load.ack_all else Level.REDIS
    counts = fleet.measure(load.per_s, load.writers, seconds, level)
    if fleet.server.busy_ms > USED_UP * seconds * 1e3:
        return guessed
    took_ms = sorted(fleet.took_ms)
    waited_ms = (quantile(took_ms, 0.5), quantile(took_ms, 0.99)) if took_ms else (0.0, 0.0)
    return Told(load, counts, cost(counts, unit), seconds, waited_ms)


def nearness(one: Told, unit: UnitCosts) -> float:
    """Redis's CPU as expected, as a multiple of what was counted."""
    return cost(expected(one.load, unit), unit).redis / one.cost.redis


def capacity(nodes: int, writers: int | None, unit: UnitCosts, *, ack_all: bool = False) -> float:
    """The most invalidations a second (to a hundredth) at which nothing is used up."""
    low, high = 1.0, 1e7
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        counts = expected(Load(nodes, middle, writers or nodes, ack_all), unit)
        if cost(counts, unit).limit:
            high = middle
        else:
            low = middle
    return low


TITLE: Final = (
    "nodes",
    "invalidations/s",
    "records/message",
    "Redis, cores",
    "node",
    "out",
    "write p50, p99",
    "counted",
    "",
)


def cells(one: Told) -> tuple[str, ...]:
    """Its line of the table."""
    told = one.cost
    counts = one.counts
    what = f"{told.limit} first: {told.advice}" if told.limit else "fits"
    if one.counted_s and counts.records < KEPT_UP * one.load.per_s:
        what = (
            f"only {counts.records:,.0f}/s were done, a batch a round trip of each writer; {what}"
        )
    return (
        f"{one.load.nodes:,}",
        f"{one.load.per_s:,.0f}",
        f"{counts.records / counts.scripts if counts.scripts else 0:.1f}",
        f"{told.redis:.2f}",
        f"{100 * told.node:.1f} %",
        f"{told.network_bytes_s / 1e6:,.1f} MB/s",
        f"{one.waited_ms[0]:.1f}, {one.waited_ms[1]:.1f} ms" if one.counted_s else "",
        f"{one.counted_s:.2f} s" if one.counted_s else "expected",
        what,
    )


# -- how it grows ---------------------------------------------------------------------------------


def _growth(context: Context, unit: UnitCosts) -> list[Row]:
    """What a fleet does in a second as it grows, each node writing as much as before and waiting
    for all: with what power of the number of nodes."""
    sizes = GROWN_FULL if context.full else GROWN[:2] if context.quick else GROWN
    found: list[tuple[int, dict[str, float]]] = []
    for nodes in sizes:
        context.say(f"a fleet of {nodes} that waits for all")
        fleet = Fleet(nodes, unit)
        fleet.settle()
        seconds = WRITES / (EACH_PER_S * nodes)
        counts = fleet.measure(EACH_PER_S * nodes, nodes, seconds, Level.ALL)
        seen = fleet.seen
        found.append(
            (
                nodes,
                {
                    "probes": (seen["beats"] + seen["checks"]) / seconds,
                    "messages": counts.scripts,
                    "copies of them": counts.copies - counts.acks,
                    "acknowledgements": counts.acks,
                    ROSTERS: counts.members,
                    "acknowledgements heard by a node": counts.acks / nodes,
                    "turns of Redis": counts.turns,
                },
            )
        )
    rows = []
    for what in found[0][1]:
        points = [(nodes, told[what]) for nodes, told in found]
        (few, least), (many, most) = points[0], points[-1]
        power = log(most / least) / log(many / few) if least > 0 and most > 0 else 0.0
        name = f"{what} a second, {many} nodes, each writing {EACH_PER_S:g}/s with ack=all"
        note = f"as the number of nodes to the power {power:.1f}"
        if what == ROSTERS:
            note += ": by each node's first such write after somebody has joined or left"
        row = alone(name, "/s", [most]).noted(note)
        rows.append(row.drawn(bars([(f"{nodes} nodes", y) for nodes, y in points], "/s")))
    return rows
