"""`/metrics`: the node's plain counters as Prometheus families, made only when scraped.

Nothing here is incremented by a request. A scrape takes one `NodeStats` and
tells it in Prometheus's conventions: names `coherenced_*`, seconds and bytes as
units, `_total` on counters. The table-like functions below are the whole list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from coherenced.observe.families import PREFIX, counter, counters, gauge, gauges, histogram
from coherenced.observe.stats import NodeStats


class Metrics(Collector):
    """Owns the registry. `snapshot` is called once per scrape, in the caller's thread."""

    def __init__(self, snapshot: Callable[[], NodeStats], *, process: bool = True) -> None:
        self._snapshot = snapshot
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        if process:
            ProcessCollector(registry=self.registry)

    def exposition(self) -> bytes:
        """The text format (version 0.0.4) of everything, for `NodePort.metrics()`."""
        return generate_latest(self.registry)

    def describe(self) -> list[Metric]:
        return []  # known without asking the node: nothing else registers here

    def collect(self) -> Iterator[Metric]:
        stats = self._snapshot()
        yield from _node(stats)
        yield from _tiers(stats)
        yield from _origins(stats)
        yield from _latencies(stats)
        yield from _lanes(stats)
        yield from _writes(stats)
        yield from _bus(stats)
        yield from _spool(stats)
        yield from _events(stats)
        yield from _fronts(stats)


def _node(stats: NodeStats) -> Iterator[Metric]:
    node = stats.node
    yield InfoMetricFamily(
        PREFIX + "build",
        "The build that runs.",
        {"version": node.version, "python": stats.process.python},
    )
    yield gauge("ready", "1 when this node is current and serves.", float(node.ready))
    yield gauge("uptime_seconds", "Since the daemon started.", node.uptime_ms / 1000.0)
    yield gauges(
        "nodes",
        "Nodes on the roster, this one counted, by whether their beat moves.",
        "state",
        [("live", node.nodes_live), ("silent", node.nodes_silent)],
    )
    yield gauge(
        "largest_staleness_bound_seconds",
        "The largest staleness bound that this node serves with.",
        node.largest_bound_ms / 1000.0,
    )
    yield counter(
        "fenced_nodes_total", "Nodes counted as fenced by time instead of answering.", node.fences
    )
    yield counter(
        "clock_pauses_total",
        "Times the host may have been paused; all was proved anew.",
        node.clock_pauses,
    )


def _tiers(stats: NodeStats) -> Iterator[Metric]:
    l1, l2, origin = stats.l1, stats.l2, stats.origin
    yield counters(
        "hits_total",
        "Look-ups answered, per tier.",
        "tier",
        [("l1", l1.hits), ("l2", l2.hits), ("origin", origin.hits)],
    )
    yield counters(
        "misses_total",
        "Look-ups not answered, per tier.",
        "tier",
        [("l1", l1.misses), ("l2", l2.misses), ("origin", origin.misses)],
    )
    yield counters(
        "errors_total",
        "Look-ups that failed, per tier.",
        "tier",
        [("l2", l2.errors), ("origin", origin.errors)],
    )
    yield counter("l1_negative_hits_total", 'Hits on "not there".', l1.negative_hits)
    yield counter(
        "l1_stale_hits_total", "Hits served past their bound, marked stale.", l1.stale_hits
    )
    yield counter(
        "l1_unproved_total", "Misses because an entry could not be proved fresh.", l1.unproved
    )
    yield counters("evictions_total", "Entries evicted, per tier.", "tier", [("l1", l1.evictions)])
    yield counters(
        "expirations_total", "Entries expired, per tier.", "tier", [("l1", l1.expirations)]
    )
    yield counter("l1_invalidated_total", "Entries dropped by an invalidation.", l1.invalidated)
    yield gauge("l1_entries", "Entries held.", l1.entries)
    yield gauge("l1_bytes", "Bytes held: keys, values and bookkeeping.", l1.bytes)
    yield gauge("l1_max_bytes", "The bound of l1_bytes.", l1.max_bytes)
    yield counter("l2_fetches_total", "Round trips to Redis that fetched keys.", l2.fetches)
    yield counter("l2_coalesced_total", "Reads that shared a fetch in flight.", l2.coalesced)
    yield counter(
        "l2_discarded_total",
        "Fetched values not kept: an invalidation overtook them.",
        l2.discarded,
    )
    yield gauge(
        "l2_refilling", "Keys of a dropped lane still to be fetched on a budget.", l2.refilling
    )


def _origins(stats: NodeStats) -> Iterator[Metric]:
    origin = stats.origin
    yield counters(
        "origin_loads_total",
        "Loads from origins that ended in a special way.",
        "kind",
        [
            ("revalidated", origin.revalidated),
            ("early", origin.early),
            ("late", origin.late),
            ("timeout", origin.timeouts),
            ("coalesced", origin.coalesced),
        ],
    )
    yield counter(
        "origin_stale_served_total",
        "Answers past their time, marked stale.",
        origin.stale_served,
    )
    yield gauge("origin_loading", "Keys being loaded now.", origin.loading)
    yield gauge("origin_requests_in_flight", "Requests to origins now.", origin.in_flight)
    yield counter("origin_writes_total", "Writes sent to origins.", origin.writes)
    yield counter(
        "origin_write_errors_total", "Writes that an origin refused.", origin.write_errors
    )
    yield gauges(
        "origin_breaker_open",
        "1 while the origin of a namespace is not asked, 0.5 while one request tries.",
        "namespace",
        [(n, _BREAKERS.get(state, 0.0)) for n, state in sorted(origin.breakers.items())],
    )
    yield counter("origin_breaker_openings_total", "Times one opened.", origin.breaker_openings)
    behind = sorted(origin.write_behind.items())
    yield gauges(
        "writebehind_waiting",
        "Writes that origins have not been sent yet, per namespace.",
        "namespace",
        [(n, b.waiting) for n, b in behind],
    )
    yield gauges(
        "writebehind_dead",
        "Dead letters, per namespace.",
        "namespace",
        [(n, b.dead) for n, b in behind],
    )
    yield counters(
        "writebehind_sent_total",
        "Writes sent behind by this node, per namespace.",
        "namespace",
        [(n, b.sent) for n, b in behind],
    )


_BREAKERS: Final = {"open": 1.0, "half-open": 0.5}


def _latencies(stats: NodeStats) -> Iterator[Metric]:
    yield histogram(
        "read_duration_seconds",
        "Duration of look-ups, per tier (l1: one hit in 256).",
        [("l1", stats.l1.latency), ("l2", stats.l2.latency), ("origin", stats.origin.latency)],
        "tier",
    )
    yield histogram(
        "invalidation_lag_seconds",
        "An own write: commit until its record was seen on the bus.",
        [("", stats.bus.lag)],
    )
    yield histogram(
        "acknowledgement_duration_seconds",
        "Commit until the asked level was reached.",
        [("", stats.acks.latency)],
    )


def _lanes(stats: NodeStats) -> Iterator[Metric]:
    lanes = [(str(lane.lane), lane) for lane in stats.lanes]
    # A lane that has proved nothing has no age: an absent sample alerts, a made-up one would lie.
    yield gauges(
        "verified_age_seconds",
        "How long ago this node last proved itself current, per lane.",
        "lane",
        [(n, x.verified_age_ms / 1000.0) for n, x in lanes if x.verified_age_ms is not None],
    )
    yield gauges(
        "applied_sequence", "The last record applied.", "lane", [(n, x.applied) for n, x in lanes]
    )
    yield gauges(
        "records_behind",
        "Records known to exist and not applied yet.",
        "lane",
        [(n, max(0, x.head - x.applied)) for n, x in lanes],
    )
    yield gauges(
        "bus_subscribed",
        "1 while the bus subscription is confirmed.",
        "lane",
        [(n, float(x.subscribed)) for n, x in lanes],
    )
    yield counters(
        "records_applied_total", "Records applied.", "lane", [(n, x.records) for n, x in lanes]
    )
    yield counters(
        "duplicates_total", "Records seen again.", "lane", [(n, x.duplicates) for n, x in lanes]
    )
    yield counters("gaps_found_total", "Gaps found.", "lane", [(n, x.gaps_found) for n, x in lanes])
    yield counters(
        "gaps_repaired_total",
        "Gaps repaired from the log.",
        "lane",
        [(n, x.gaps_repaired) for n, x in lanes],
    )
    yield counters(
        "records_from_log_total",
        "Records read from the log, since the bus had not brought them.",
        "lane",
        [(n, x.from_log) for n, x in lanes],
    )
    yield counters(
        "lane_drops_total",
        "Times everything of a lane was dropped.",
        "lane",
        [(n, x.drops) for n, x in lanes],
    )
    yield counters(
        "forks_total",
        "Times the log was another history.",
        "lane",
        [(n, x.forks) for n, x in lanes],
    )
    yield counters("probes_total", "Probes sent.", "lane", [(n, x.probes) for n, x in lanes])
    yield counters(
        "probe_failures_total",
        "Probes that failed or were refused.",
        "lane",
        [(n, x.probe_failures) for n, x in lanes],
    )


def _writes(stats: NodeStats) -> Iterator[Metric]:
    writes, acks = stats.writes, stats.acks
    yield counters(
        "writes_total",
        "Mutations sent through this node, by outcome.",
        "outcome",
        [
            ("committed", writes.committed),
            ("unchanged", writes.unchanged),
            ("conflict", writes.conflict),
            ("refused", writes.refused),
            ("oom", writes.oom),
            ("unavailable", writes.unavailable),
            ("indeterminate", writes.indeterminate),
            ("contended", writes.contended),
        ],
    )
    yield counter("writes_linearizable_total", "Written in two phases.", writes.linearizable)
    yield counter(
        "writes_one_phase_refused_total",
        "Scripts refused since another node declares a key of theirs linearizable.",
        writes.one_phase_refused,
    )
    yield counter("writes_resolved_total", "Lost replies whose fate the log told.", writes.resolved)
    yield counter("write_batches_total", "Scripts sent with mutations.", writes.batches)
    yield counter("ack_waits_total", "Writes that waited for other nodes.", acks.waits)
    yield counter("ack_timeouts_total", "Writes not acknowledged in time.", acks.timeouts)
    yield counter("acks_sent_total", "Acknowledgements sent.", acks.sent)
    yield counter("acks_received_total", "Acknowledgements received.", acks.received)

    leases = stats.leases
    yield counters(
        "leases_total",
        "Leases of missing keys, by what became of them.",
        "outcome",
        [
            ("granted", leases.granted),
            ("filled", leases.filled),
            ("lost", leases.lost),
            ("released", leases.released),
            ("lapsed", leases.lapsed),
        ],
    )
    yield counter("lease_claims_total", "Times Redis was asked who may load.", leases.claims)
    yield gauge("leases_held", "Tokens that clients of this node hold.", leases.held)
    yield gauge("leases_waited_for", "Requests that wait for a load elsewhere.", leases.waiting)

    audit = stats.audit
    yield counters(
        "audited_total",
        "Copies compared with Redis by an audit, by verdict.",
        "verdict",
        [("agreed", audit.agreed), ("moved", audit.moved), ("diverged", audit.diverged)],
    )


def _bus(stats: NodeStats) -> Iterator[Metric]:
    bus = stats.bus
    yield gauge("upstream_up", "1 while Redis answers.", float(bus.upstream_up))
    yield counters(
        "reconnects_total",
        "Connections opened again, per connection.",
        "connection",
        sorted(bus.reconnects.items()),
    )
    yield counter("bus_messages_total", "Messages received on the bus.", bus.messages)
    yield counter("bus_bytes_total", "Bytes received on the bus.", bus.bytes)
    yield gauge("event_listeners", "Open event streams.", bus.listeners)


def _spool(stats: NodeStats) -> Iterator[Metric]:
    spool = stats.spool
    if spool is None:
        return
    yield gauge("spool_waiting", "Journaled invalidations that wait for Redis.", spool.waiting)
    yield gauge("spool_bytes", "Bytes of the journal.", spool.bytes)
    yield gauge("spool_max_bytes", "The bound of spool_bytes.", spool.max_bytes)
    yield counter("spool_sent_total", "Journaled invalidations that were sent.", spool.sent)
    yield counter(
        "spool_refused_total",
        "Invalidations not accepted: the journal was full or could not be written.",
        spool.refused,
    )


def _events(stats: NodeStats) -> Iterator[Metric]:
    yield counters(
        "events_total",
        "Changes of state, by the name they have in the log and in `nodes --events`.",
        "event",
        sorted(stats.events.items()),
    )


def _fronts(stats: NodeStats) -> Iterator[Metric]:
    fronts = sorted(stats.fronts.items())
    yield counters(
        "requests_total", "Requests, per front end.", "front", [(n, f.requests) for n, f in fronts]
    )
    yield counters(
        "request_errors_total",
        "Requests answered with an error.",
        "front",
        [(n, f.errors) for n, f in fronts],
    )
    yield gauges(
        "connections", "Open connections.", "front", [(n, f.connections) for n, f in fronts]
    )
    yield counters(
        "connections_total", "Connections accepted.", "front", [(n, f.accepted) for n, f in fronts]
    )
    yield counters(
        "connections_rejected_total",
        "Connections turned away: at the bound, or for want of open files.",
        "front",
        [(n, f.rejected) for n, f in fronts],
    )
    yield counters(
        "connections_cut_off_total",
        "Connections ended because their client did not read its replies.",
        "front",
        [(n, f.overflows) for n, f in fronts],
    )
