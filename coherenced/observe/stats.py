"""What a node counts: the one shape that `/v1/stats`, `/metrics`, `COH.STATS` and the CLI share.

The daemon fills a `NodeStats` from the core's plain integers when somebody asks;
nothing here is touched by a request. Every number is counted since the daemon
started unless its name says otherwise; times are in milliseconds, sizes in bytes.
`report` adds what people want to read (hit rates, averages, quantiles) as `derived`,
so that the dashboard, the CLI and a script all show the same figures.
"""

from __future__ import annotations

from typing import Any

import msgspec

from coherenced.observe.histogram import BOUNDS_MS, Histogram, quantile_ms


class Latency(msgspec.Struct):
    """A histogram as data: `counts[i]` is how many were up to `bounds_ms[i]`; the last: above."""

    bounds_ms: list[float] = msgspec.field(default_factory=lambda: list(BOUNDS_MS))
    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))
    sum_ms: float = 0.0

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        return cls(counts=list(histogram.counts), sum_ms=histogram.sum_ms)

    @property
    def count(self) -> int:
        return sum(self.counts)


class NodeSection(msgspec.Struct):
    name: str = ""
    incarnation: str = ""
    version: str = ""
    """coherenced's version."""
    ready: bool = False
    reason: str = ""
    """Why it is not ready, one line."""
    uptime_ms: float = 0.0
    nodes_live: int = 0
    """Nodes on the roster whose beat moves, this one counted."""
    nodes_silent: int = 0
    largest_bound_ms: float = 0.0
    fences: int = 0
    """K3: how often a node that did not answer was counted as fenced by time."""
    clock_pauses: int = 0
    """V7: how often this host may have been paused, so that everything was proved anew."""


class L1Section(msgspec.Struct):
    hits: int = 0
    """Reads answered from L1, stale ones and "not there" included."""
    misses: int = 0
    """Reads that L1 could not answer: no entry, expired, or not provably fresh."""
    negative_hits: int = 0
    """Hits on "this key is not there"."""
    stale_hits: int = 0
    """Hits past the bound, served marked stale because `stale_if_error_ms` allowed it."""
    unproved: int = 0
    """Misses although there was an entry: it could not be proved fresh within its bound."""
    evictions: int = 0
    expirations: int = 0
    invalidated: int = 0
    """Entries dropped by an invalidation."""
    entries: int = 0
    """Held. What an invalidated prefix covers counts until it is looked for, soon after."""
    bytes: int = 0
    """The same, and what was dropped whole until it is freed."""
    max_bytes: int = 0
    latency: Latency = msgspec.field(default_factory=Latency)
    """Of hits, sampled 1 in 256: request bytes read until the reply is handed to the socket."""


class L2Section(msgspec.Struct):
    hits: int = 0
    """Keys asked of Redis that were there."""
    misses: int = 0
    """Keys asked of Redis that were not there."""
    fetches: int = 0
    """Round trips that fetched keys; many keys share one."""
    coalesced: int = 0
    """Reads that waited for a fetch already in flight instead of starting their own."""
    discarded: int = 0
    """F2: fetched values that were answered but not kept, since an invalidation overtook them."""
    refilling: int = 0
    """A5: keys of a dropped lane that are still to be fetched on a budget."""
    errors: int = 0
    latency: Latency = msgspec.field(default_factory=Latency)
    """Of one fetch: sent until answered."""


class WriteBehindSection(msgspec.Struct):
    """Writes of one namespace that its origin is sent behind, as they stand in Redis."""

    waiting: int = 0
    """Writes that wait."""
    keys: int = 0
    """Keys they are of: of each only the newest write is sent."""
    dead: int = 0
    """Dead letters: writes that the origin refused too often."""
    sent: int = 0
    """By this node, since it started."""
    coalesced: int = 0
    """Overtaken by a newer write of their key before they were sent."""
    retries: int = 0
    owner: str = ""
    """The node that sends."""
    error: str = ""
    """Why the last attempt failed; empty: it did not."""


class OriginSection(msgspec.Struct):
    """Loads from the origins of all namespaces."""

    hits: int = 0
    """Values loaded, and values found unchanged (`revalidated`)."""
    misses: int = 0
    """Loads that found that there is no such thing (404, 410)."""
    errors: int = 0
    timeouts: int = 0
    """Of the errors: nothing came in time."""
    revalidated: int = 0
    """Of the hits: the origin said that the value is still the same (304)."""
    early: int = 0
    """Loads ahead of a value's end (XFetch)."""
    late: int = 0
    """Loads that ended after the soft timeout: a stale value was answered, the new one kept."""
    stale_served: int = 0
    coalesced: int = 0
    """Reads that waited for a load already under way on this node."""
    loading: int = 0
    """Keys being loaded now."""
    in_flight: int = 0
    """Requests under way now."""
    writes: int = 0
    write_errors: int = 0
    breakers: dict[str, str] = msgspec.field(default_factory=dict)
    """Namespace -> closed, open, half-open."""
    breaker_openings: int = 0
    write_behind: dict[str, WriteBehindSection] = msgspec.field(default_factory=dict)
    """Namespace -> what waits."""
    latency: Latency = msgspec.field(default_factory=Latency)
    """Of an answered load, retries counted."""


class LaneSection(msgspec.Struct):
    lane: int = 0
    epoch: str = ""
    applied: int = 0
    head: int = 0
    """The highest sequence known to exist; `head - applied` records are still to be applied."""
    verified_age_ms: float | None = None
    """How long ago this node last proved itself current; None: not yet."""
    subscribed: bool = False
    records: int = 0
    """Records applied."""
    duplicates: int = 0
    gaps_found: int = 0
    gaps_repaired: int = 0
    from_log: int = 0
    """Records read from the log, since the bus had not (yet) brought them."""
    drops: int = 0
    """A5: how often everything of this lane was dropped."""
    forks: int = 0
    """How often the log turned out to be another history (a failover that lost writes)."""
    probes: int = 0
    probe_failures: int = 0


class WritesSection(msgspec.Struct):
    """Mutations sent through this node, by what became of them."""

    committed: int = 0
    unchanged: int = 0
    """Executed, and changed nothing (SET NX on a key that is there, DEL of none)."""
    conflict: int = 0
    refused: int = 0
    """Redis answered with an error."""
    oom: int = 0
    unavailable: int = 0
    indeterminate: int = 0
    """W3: sent, the reply was lost, and the log could not tell."""
    contended: int = 0
    """K6: linearizable writes that did not get their turn in time, and were not applied."""
    linearizable: int = 0
    """K6: written in two phases."""
    one_phase_refused: int = 0
    """K6: scripts that Redis refused, since another node declares a key of theirs linearizable and
    this one did not know it; what they would have written goes again, in two phases."""
    resolved: int = 0
    """W3: the reply was lost and the log told whether it was applied."""
    batches: int = 0
    """Scripts sent; many mutations share one."""


class AcksSection(msgspec.Struct):
    waits: int = 0
    """Writes that waited for other nodes."""
    timeouts: int = 0
    sent: int = 0
    received: int = 0
    latency: Latency = msgspec.field(default_factory=Latency)
    """Commit reply until the asked level was reached."""


class BusSection(msgspec.Struct):
    upstream_up: bool = False
    reconnects: dict[str, int] = msgspec.field(default_factory=dict)
    """Per connection, for example `bus` and `commands`."""
    messages: int = 0
    bytes: int = 0
    listeners: int = 0
    """Open event streams."""
    lag: Latency = msgspec.field(default_factory=Latency)
    """A record of this node's own: commit reply until it was seen on the bus."""


class LeasesSection(msgspec.Struct):
    """Who may load a missing value (L1): what this node's clients asked for and did."""

    claims: int = 0
    """Times Redis was asked who may."""
    granted: int = 0
    filled: int = 0
    lost: int = 0
    """Fills refused: the token had expired, or the key was changed meanwhile."""
    released: int = 0
    lapsed: int = 0
    """Leases of others whose time ran out while somebody here waited."""
    held: int = 0
    """Tokens that clients of this node hold now."""
    waiting: int = 0
    """Requests that wait for somebody else's load now."""


class AuditSection(msgspec.Struct):
    """Copies compared with Redis by `coherenced audit`."""

    agreed: int = 0
    moved: int = 0
    """Changed while they were being compared: they say nothing."""
    diverged: int = 0


class SpoolSection(msgspec.Struct):
    """Invalidations journaled on disk while Redis is out of reach."""

    waiting: int = 0
    bytes: int = 0
    max_bytes: int = 0
    sent: int = 0
    refused: int = 0
    """Not accepted, since the journal was full or could not be written."""


class FrontSection(msgspec.Struct):
    """One listener family."""

    requests: int = 0
    errors: int = 0
    """Answered with an error (RESP error replies; HTTP 4xx and 5xx)."""
    connections: int = 0
    """Open now."""
    accepted: int = 0
    rejected: int = 0
    """Connections turned away because the bound was reached."""
    overflows: int = 0
    """Connections cut off because their client did not read what it had asked for."""


class ProcessSection(msgspec.Struct):
    pid: int = 0
    rss_bytes: int = 0
    cpu_seconds: float = 0.0
    open_files: int = 0
    max_files: int = 0
    started_unix_s: float = 0.0
    python: str = ""


class NodeStats(msgspec.Struct):
    """Everything a node counts, at one moment."""

    node: NodeSection = msgspec.field(default_factory=NodeSection)
    l1: L1Section = msgspec.field(default_factory=L1Section)
    l2: L2Section = msgspec.field(default_factory=L2Section)
    origin: OriginSection = msgspec.field(default_factory=OriginSection)
    lanes: list[LaneSection] = msgspec.field(default_factory=list)
    writes: WritesSection = msgspec.field(default_factory=WritesSection)
    acks: AcksSection = msgspec.field(default_factory=AcksSection)
    bus: BusSection = msgspec.field(default_factory=BusSection)
    leases: LeasesSection = msgspec.field(default_factory=LeasesSection)
    audit: AuditSection = msgspec.field(default_factory=AuditSection)
    events: dict[str, int] = msgspec.field(default_factory=dict)
    """How often each event happened, by its name."""
    spool: SpoolSection | None = None
    """None: no namespace journals invalidations."""
    fronts: dict[str, FrontSection] = msgspec.field(default_factory=dict)
    """`resp` and `http`."""
    process: ProcessSection = msgspec.field(default_factory=ProcessSection)


def parse(raw: object) -> NodeStats:
    """Read what `report` wrote, also when another version of coherenced wrote it.

    Unknown fields are ignored and absent ones take their default; ValueError
    (msgspec.ValidationError) when it is something else altogether.
    """
    return msgspec.convert(raw, NodeStats)


def report(stats: NodeStats) -> dict[str, Any]:
    """The JSON-ready answer of `NodePort.stats()`: every section, and `derived`."""
    tree: dict[str, Any] = msgspec.to_builtins(stats)
    tree["derived"] = derive(stats)
    return tree


def derive(stats: NodeStats) -> dict[str, Any]:
    """Figures for people. Rates are 0 to 1; None where nothing was counted yet."""
    l1, l2, origin = stats.l1, stats.l2, stats.origin
    ages = [lane.verified_age_ms for lane in stats.lanes]
    return {
        "hit_rate": {
            "l1": rate(l1.hits, l1.misses),
            "l2": rate(l2.hits, l2.misses),
            "origin": rate(origin.hits, origin.misses),
            # Of all the keys that were looked up to an end: the share that did not need the origin.
            "overall": rate(l1.hits + l2.hits, l2.misses),
        },
        "latency_ms": {
            "l1": summary(l1.latency),
            "l2": summary(l2.latency),
            "origin": summary(origin.latency),
            "invalidation": summary(stats.bus.lag),
            "acknowledgement": summary(stats.acks.latency),
        },
        "l1_fill": l1.bytes / l1.max_bytes if l1.max_bytes else None,
        "keys_per_fetch": (l2.hits + l2.misses) / l2.fetches if l2.fetches else None,
        "mutations_per_batch": stats.writes.committed / stats.writes.batches
        if stats.writes.batches
        else None,
        "verified_age_ms": None
        if not ages or None in ages
        else max(a for a in ages if a is not None),
        "records_behind": sum(max(0, lane.head - lane.applied) for lane in stats.lanes),
        "requests": sum(front.requests for front in stats.fronts.values()),
        "connections": sum(front.connections for front in stats.fronts.values()),
    }


def rate(hits: int, misses: int) -> float | None:
    """hits / (hits + misses), or None when there were neither."""
    return hits / (hits + misses) if hits + misses > 0 else None


def summary(latency: Latency) -> dict[str, float | int | None]:
    """Count, average, p50 and p99 of one histogram, in milliseconds."""
    count = latency.count
    return {
        "count": count,
        "average": latency.sum_ms / count if count else None,
        "p50": quantile_ms(latency.counts, 0.5),
        "p99": quantile_ms(latency.counts, 0.99),
    }
