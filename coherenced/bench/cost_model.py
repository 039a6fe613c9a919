"""What a fleet costs: counts that were taken, times unit costs that were measured.

The counts are those of one second: of a real run, or of a fleet in virtual time (`fleet/`). The
unit costs are microseconds of CPU time, which `bench scale` measures on this machine.

    Redis:      turns * wake(rest)          a turn of its loop, beyond the work in it
              + scripts * script + records * record(rest)
              + probes * probe + acks * ack + members * member
              + pushes * push(rest)         a write to one subscriber: all that it gets in one turn
              + copies * copy               one message put into one subscriber's buffer
    each node:  turns * wake(rest) + messages * message + records * applied(rest)
              + acks sent * sends_ack + acks heard * hears_ack + what it does when idle

What a step costs depends on how long the process had slept before it: it finds its caches and its
core cold, and pays for being woken. On a virtual machine a lone message costs ten times what one
of a stream does. So the costs that differ most are curves over that `rest`, measured from nearly
idle to saturation; and how long a process rests follows from what it costs, so both are found
together (`at_rest`). A model that knew only the costs of a stream was 3 times too low at a
thousand messages a second, and right only where Redis is used up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import log
from statistics import fmean
from typing import Final, NamedTuple

BUSY: Final = 0.8
"""Of the one core that a server's commands have: beyond it waiting grows without bound."""
NODE_SHARE: Final = 0.5
"""Of one core: what invalidations may take of a node that is there to serve hits."""
NETWORK_BYTES_S: Final = 1.0e9
"""Out of the server: 10 Gbit/s, nearly."""
FEWER: Final = "fewer acknowledgements: ack=redis or a number, or many records to a message"
LEAST_REST_US: Final = 1.0
MESSAGE_BYTES: Final = 120
RECORD_BYTES: Final = 60
"""On the wire, of a record of one short key."""
MOST_RECORDS: Final = 32
"""In one message."""
ROUND_TRIP_S: Final = 0.0006
"""Between hosts; what one node writes within it shares a message."""
SPREAD_S: Final = 0.0005
"""Within which what all nodes answer to one message arrives."""
BOUND_S: Final = 1.0
PROBES_A_BOUND: Final = 4
ROSTER_EVERY_S: Final = 5.0
ROSTER_SHARE_S: Final = 0.05
"""Each node reads the roster every ROSTER_EVERY_S, in a large fleet every ROSTER_SHARE_S a node."""


class Rested:
    """A unit cost by how long the process had slept: a line through points, over the logarithm."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        """(rest in µs, cost in µs), at least one; those of nearly the same rest count as one."""
        near: dict[int, list[tuple[float, float]]] = {}
        for rest_us, us in points:
            rest_us = max(rest_us, LEAST_REST_US)
            near.setdefault(round(2 * log(rest_us)), []).append((rest_us, us))
        groups = [zip(*group, strict=True) for group in near.values()]
        self.points = sorted((fmean(rests), fmean(costs)) for rests, costs in groups)

    def at(self, rest_us: float) -> float:
        """Microseconds. Outside of what was measured: as at its end."""
        points = self.points
        place = bisect_left(points, (rest_us, 0.0))
        if place == 0:
            return points[0][1]
        if place == len(points):
            return points[-1][1]
        (low_us, low), (high_us, high) = points[place - 1], points[place]
        share = (log(rest_us) - log(low_us)) / (log(high_us) - log(low_us))
        return low + share * (high - low)

    @property
    def warm(self) -> float:
        """When there is no rest."""
        return self.points[0][1]

    def more(self, us: float) -> Rested:
        """The same, and so much more after any rest."""
        return Rested([(rest_us, cost_us + us) for rest_us, cost_us in self.points])


def at_rest(turns: float, spent: Callable[[float], float]) -> float:
    """How long (µs) a process rests before a turn, if `turns` a second cost it `spent(rest)`
    cores: the rest that leaves it just as much to do."""
    low, high = LEAST_REST_US, max(LEAST_REST_US, 1e6 / max(turns, 1e-9))
    for _ in range(60):
        middle = (low * high) ** 0.5
        if spent(middle) + turns * middle / 1e6 > 1:
            high = middle
        else:
            low = middle
    return low


class UnitCosts(NamedTuple):
    """Microseconds of CPU time."""

    wake: Rested
    script: float
    record: Rested
    probe: float
    ack: float
    member: float
    """Of the roster, told to one node."""
    push: Rested
    copy: float
    node_wake: Rested
    message: float
    applied: Rested
    sends_ack: float
    hears_ack: float
    idle: float
    """Of a node, a second."""


class Counts(NamedTuple):
    """Of one second. Of the server, then of the node that does most."""

    nodes: int
    turns: float = 0.0
    scripts: float = 0.0
    records: float = 0.0
    probes: float = 0.0
    acks: float = 0.0
    members: float = 0.0
    pushes: float = 0.0
    copies: float = 0.0
    fetched: float = 0.0
    """Keys read of Redis."""
    node_turns: float = 0.0
    messages: float = 0.0
    applied: float = 0.0
    acks_sent: float = 0.0
    acks_heard: float = 0.0


class Load(NamedTuple):
    """What is asked of a fleet."""

    nodes: int
    per_s: float
    """Invalidations a second, of all nodes together."""
    writers: int
    """How many nodes they come from, evenly."""
    ack_all: bool = False
    """Each waits until all nodes have acknowledged."""


def expected(load: Load, unit: UnitCosts) -> Counts:
    """The counts of a load, without a simulation; `fleet.table` holds them beside counted ones."""
    nodes, per_s, writers, ack_all = load
    records = min(MOST_RECORDS, max(1.0, per_s / writers * ROUND_TRIP_S))
    scripts = per_s / records
    rosters = nodes / max(ROSTER_EVERY_S, ROSTER_SHARE_S * nodes)
    probes = nodes * PROBES_A_BOUND / BOUND_S + rosters
    acks = scripts * (nodes - 1) if ack_all else 0.0
    copies = scripts * nodes + acks
    commands = scripts + probes
    work_us = scripts * unit.script + per_s * unit.record.warm + probes * unit.probe
    work_us += scripts * nodes * unit.copy
    telling = scripts / commands
    turns = commands
    for _ in range(50):  # what arrives while a turn lasts shares the next
        told = min(nodes, scripts * nodes / max(turns * telling, 1e-9)) * telling
        turn_us = unit.wake.warm + work_us / turns + told * unit.push.warm
        turns = 0.5 * turns + 0.5 * commands / (1 + commands * turn_us / 1e6)
    pushes = min(scripts * nodes, turns * telling * nodes)
    # All acknowledge a message within the spread of the network.
    ack_us = unit.wake.warm + unit.ack + unit.push.warm + unit.copy
    ack_turns = acks / (1 + nodes / SPREAD_S * ack_us / 1e6)
    return Counts(
        nodes, turns + ack_turns, scripts, per_s, probes, acks, rosters * nodes,
        pushes + ack_turns, copies, 0.0,
        min(scripts, turns) + PROBES_A_BOUND / BOUND_S + acks / nodes,
        scripts, per_s, min(acks, scripts), acks / writers,
    )  # fmt: skip


class Cost(NamedTuple):
    """What it takes."""

    redis: float
    """Cores."""
    node: float
    """Of a core of each node."""
    network_bytes_s: float
    """Out of the server."""
    limit: str
    """What is used up first; empty: nothing is."""
    most: str
    """What is nearest to being used up."""
    share: float
    """How far: 1 and it is used up."""
    advice: str


def cost(counts: Counts, unit: UnitCosts) -> Cost:
    """See the module."""
    parts, own = redis_parts(counts, unit), node_parts(counts, unit)
    redis, node = sum(parts.values()), sum(own.values())
    records = counts.records / counts.scripts if counts.scripts else 0.0
    network = counts.copies * (MESSAGE_BYTES + records * RECORD_BYTES)
    used = {
        "Redis's core": redis / BUSY,
        "each node's core": node / NODE_SHARE,
        "the server's network": network / NETWORK_BYTES_S,
    }
    most = max(used, key=used.__getitem__)
    limit = most if used[most] > 1 else ""
    advice = _advice(limit, parts, own, records)
    return Cost(redis, node, network, limit, most, used[most], advice)


def redis_parts(counts: Counts, unit: UnitCosts) -> dict[str, float]:
    """Of Redis's core, by what for."""

    commands = counts.scripts + counts.probes + counts.acks
    answering = counts.acks / commands if commands else 0.0
    messages = max(0.0, counts.copies - counts.acks)
    pushed = min(counts.pushes, messages)

    def parts(rest_us: float) -> dict[str, float]:
        push, waking = unit.push.at(rest_us), counts.turns * unit.wake.at(rest_us)
        records = counts.records * unit.record.at(rest_us)
        acks = counts.acks * (unit.ack + unit.copy) + (counts.pushes - pushed) * push
        told = {
            "waking": (1 - answering) * waking,
            "writing": counts.scripts * unit.script + records,
            "telling": pushed * push + messages * unit.copy,
            "acknowledging": acks + answering * waking,
            "proving": counts.probes * unit.probe + counts.members * unit.member,
        }
        return {what: us / 1e6 for what, us in told.items()}

    return parts(at_rest(counts.turns, lambda rest_us: sum(parts(rest_us).values())))


def node_parts(counts: Counts, unit: UnitCosts) -> dict[str, float]:
    """Of a node's core, by what for."""

    def parts(rest_us: float) -> dict[str, float]:
        acks = counts.acks_sent * unit.sends_ack + counts.acks_heard * unit.hears_ack
        applied = counts.applied * unit.applied.at(rest_us)
        told = {
            "waking": counts.node_turns * unit.node_wake.at(rest_us) + unit.idle,
            "applying": counts.messages * unit.message + applied,
            "acknowledging": acks,
        }
        return {what: us / 1e6 for what, us in told.items()}

    return parts(at_rest(counts.node_turns, lambda rest_us: sum(parts(rest_us).values())))


def _advice(limit: str, parts: dict[str, float], own: dict[str, float], records: float) -> str:
    """What to do when `limit` is reached: the cheapest thing first."""
    if not limit:
        return ""
    if limit == "each node's core" and max(own, key=own.__getitem__) == "acknowledging":
        return FEWER
    if limit == "each node's core":
        return "filter by interest: keys spread over lanes, a node hears only those it holds"
    gain = f"gather longer (now {records:.0f} of {MOST_RECORDS} records a message); "
    framed = gain if records < MOST_RECORDS / 2 else ""
    if limit == "the server's network":
        return framed + "relays, or messages that say 'read the log', read on a tick"
    servers = int(sum(parts.values()) / BUSY) + 1
    most = max(parts, key=parts.__getitem__)
    if most == "acknowledging":
        return FEWER
    if most in ("writing", "waking"):
        return framed + f"{servers} lanes, each on a server of its own"
    if most == "proving":
        return f"a longer bound: each node proves itself every quarter of it; or {servers} lanes"
    return framed + f"{servers} lanes on {servers} servers with sharded pub/sub, or relays"


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The line `a + b * x` through measured points, by least squares; neither is negative."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    slope = max(0.0, slope)
    return max(0.0, mean_y - slope * mean_x), slope
