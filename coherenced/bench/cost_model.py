"""What a fleet costs, computed from unit costs that `bench scale` measures on this machine.

The costs of an invalidation, in microseconds of CPU time:

    Redis:      a script + its records            W(r) = script + r * record, and `wake` more
                                                  where it had gone to sleep before
                handing one message to one node   delivery, between `shared` (many messages in
                                                  one turn of the server's loop) and `alone`
    each node:  a message + its records           A(r) = message + r * applied

Every node hears everything: with N nodes, R invalidations a second and r records to a message,
Redis uses R/r * (W(r) + N * delivery) a second, and each node R/r * A(r). Beside that each node
proves every quarter of its bound that it is current: N probes each B/4.

How many records share a message is what decides. A node gathers what is written while its last
batch is under way (a round trip), up to MOST_RECORDS. So one busy writer frames well, and a
thousand nodes that write a little each do not frame at all: both ends are computed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MOST_RECORDS: Final = 32
ROUND_TRIP_S: Final = 0.001
"""Between hosts; what one node writes within it shares a message."""
BOUND_S: Final = 1.0
PROBES_A_BOUND: Final = 4
MESSAGE_BYTES: Final = 120
RECORD_BYTES: Final = 60
"""On the wire, of a record of one short key."""

BUSY: Final = 0.8
"""Of the one core that a server's commands have: beyond it waiting grows without bound."""
NODE_SHARE: Final = 0.5
"""Of one core: what invalidations may take of a node that is there to serve hits."""
NETWORK_BYTES_S: Final = 1.0e9
"""Out of the server: 10 Gbit/s, nearly."""


class UnitCosts(NamedTuple):
    """Microseconds of CPU time."""

    script: float
    record: float
    wake: float
    delivery_shared: float
    delivery_alone: float
    probe: float
    message: float
    applied: float


class Load(NamedTuple):
    """What is asked of a fleet."""

    nodes: int
    per_s: float
    """Invalidations a second, of all nodes together."""
    writers: int
    """How many nodes they come from, evenly."""


class Cost(NamedTuple):
    """What it takes."""

    records: float
    """In one message."""
    redis_low: float
    """Cores, when scripts and deliveries share turns of the server's loop as well as they can."""
    redis_high: float
    """Cores, when none do."""
    node: float
    """Of a core of each node."""
    network_bytes_s: float
    """Out of the server."""
    limit: str
    """What is used up first; empty: nothing is."""
    advice: str


def cost(load: Load, unit: UnitCosts, records: float = 0.0) -> Cost:
    """See the module. `records` in a message, where it is known."""
    records = records or records_a_message(load)
    messages_s = load.per_s / records
    writing = messages_s * (unit.script + records * unit.record) / 1e6
    probing = load.nodes * PROBES_A_BOUND / BOUND_S * unit.probe / 1e6
    handed_s = messages_s * load.nodes
    low = writing + probing + handed_s * unit.delivery_shared / 1e6
    alone = handed_s * unit.delivery_alone + messages_s * unit.wake
    high = writing + probing + alone / 1e6
    node = messages_s * (unit.message + records * unit.applied) / 1e6
    network = handed_s * (MESSAGE_BYTES + records * RECORD_BYTES)
    used = {
        "Redis's core": low / BUSY,
        "each node's core": node / NODE_SHARE,
        "the server's network": network / NETWORK_BYTES_S,
    }
    first = max(used, key=used.__getitem__)
    limit = first if used[first] > 1 else ""
    return Cost(
        records, low, high, node, network, limit, _advice(limit, low, writing + probing, records)
    )


def records_a_message(load: Load) -> float:
    """A node's own writes within one round trip share a message."""
    return min(MOST_RECORDS, max(1.0, load.per_s / load.writers * ROUND_TRIP_S))


def _advice(limit: str, redis: float, own: float, records: float) -> str:
    """What to do when `limit` is reached: the cheapest thing first."""
    if not limit:
        return ""
    if limit == "each node's core":
        return "filter by interest: keys spread over lanes, a node hears only those it holds"
    gain = f"gather longer (now {records:.0f} of {MOST_RECORDS} records a message); "
    framed = gain if records < MOST_RECORDS / 2 else ""
    if limit == "the server's network":
        return framed + "relays, or messages that say 'read the log', read on a tick"
    servers = int(redis / BUSY) + 1
    if own > redis / 2:
        return framed + f"{servers} lanes, each on a server of its own"
    return framed + f"{servers} lanes on {servers} servers with sharded pub/sub, or relays"


def fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """The line `a + b * x` through measured points, by least squares; neither is negative."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    slope = max(0.0, slope)
    return max(0.0, mean_y - slope * mean_x), slope
