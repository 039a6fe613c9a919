"""Counting: the core's plain integers and the shell's histograms as one `NodeStats`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coherenced.core.requests import FaultKind
from coherenced.observe import process as process_figures
from coherenced.observe.stats import (
    AcksSection,
    AuditSection,
    BusSection,
    L1Section,
    L2Section,
    LaneSection,
    Latency,
    LeasesSection,
    NodeSection,
    NodeStats,
    OriginSection,
    SpoolSection,
    WriteBehindSection,
    WritesSection,
)

if TYPE_CHECKING:
    from coherenced.host import Host


def take_stats(host: Host) -> NodeStats:
    """Everything this node has counted, at this moment."""
    return NodeStats(
        node=_node(host),
        l1=_l1(host),
        l2=_l2(host),
        origin=_origin(host),
        lanes=[_lane(host)],
        writes=_writes(host),
        acks=_acks(host),
        bus=_bus(host),
        leases=_leases(host),
        audit=_audit(host),
        events=dict(host.events.counts),
        spool=_spool(host),
        process=process_figures.read(host.started_unix_s),
    )


def _node(host: Host) -> NodeSection:
    node = host.node
    ready, reason = host.ready()
    live = sum(node.roster.is_live(member) for member in node.roster.members.values())
    return NodeSection(
        name=node.settings.name,
        incarnation=node.settings.incarnation.decode(),
        version=node.settings.version,
        ready=ready,
        reason=reason,
        uptime_ms=host.now_ms() - host.started_ms,
        nodes_live=live,
        nodes_silent=len(node.roster.members) - live,
        largest_bound_ms=node.namespaces.largest_bound_ms,
        fences=node.acks.fenced_nodes,
        clock_pauses=node.catchup.probes.pause_alarms,
    )


def _l1(host: Host) -> L1Section:
    node = host.node
    reads, l1 = node.reads, node.l1
    return L1Section(
        hits=node.l1.hits + reads.hits + reads.stale_served,
        misses=reads.misses,
        stale_hits=reads.stale_served,
        unproved=reads.proofs_waited,
        evictions=l1.evictions,
        expirations=l1.expirations,
        invalidated=node.covers.dropped + l1.swept,
        entries=len(l1),
        bytes=l1.bytes_used,
        max_bytes=l1.max_bytes,
        latency=Latency.of(host.hit_latency),
    )


def _l2(host: Host) -> L2Section:
    flights, fills = host.node.flights, host.node.fills
    return L2Section(
        hits=fills.fetched - fills.negative,
        misses=fills.negative,
        fetches=flights.fetches,
        coalesced=flights.coalesced,
        discarded=host.node.tickets.refused,
        refilling=flights.refill.owed,
        errors=flights.fetch_failures,
        latency=Latency.of(host.fetch_latency),
    )


def _origin(host: Host) -> OriginSection:
    if host.origins is None:
        return OriginSection()
    origins = list(host.origins.origins.values())
    return OriginSection(
        hits=sum(o.loaded + o.unchanged for o in origins),
        misses=sum(o.absent for o in origins),
        errors=sum(o.errors for o in origins),
        timeouts=sum(o.timeouts for o in origins),
        revalidated=sum(o.unchanged for o in origins),
        early=sum(o.early for o in origins),
        late=sum(o.late for o in origins),
        stale_served=sum(o.stale_served for o in origins),
        coalesced=sum(o.coalesced for o in origins),
        loading=len(host.origins.loads),
        in_flight=sum(o.in_flight for o in origins),
        writes=sum(o.puts + o.deletes for o in origins),
        write_errors=sum(o.write_errors for o in origins),
        breakers={name: o.breaker.state for name, o in host.origins.origins.items()},
        breaker_openings=sum(o.breaker.opened for o in origins),
        write_behind=_behind(host),
        latency=Latency.of(host.origin_latency),
    )


def _behind(host: Host) -> dict[str, WriteBehindSection]:
    behind = host.origins.behind if host.origins is not None else None
    if behind is None:
        return {}
    names = host.node_names()
    return {
        name: WriteBehindSection(
            waiting=sender.waiting,
            keys=sender.keys,
            dead=sender.dead,
            sent=sender.sent,
            coalesced=sender.coalesced,
            retries=sender.retries,
            owner=names.get(sender.owner, sender.owner),
            error=sender.error,
        )
        for name, sender in behind.senders.items()
    }


def _lane(host: Host) -> LaneSection:
    node = host.node
    lane, catchup = node.lane, node.catchup
    proved = lane.proved_call_id > 0
    return LaneSection(
        lane=lane.index,
        epoch=(lane.epoch or b"").decode(),
        applied=lane.applied,
        head=lane.head,
        verified_age_ms=host.now_ms() - lane.verified_at_ms if proved else None,
        subscribed=catchup.subscribed,
        records=node.covers.records,
        duplicates=catchup.duplicates,
        gaps_found=catchup.gaps,
        gaps_repaired=catchup.repaired,
        from_log=catchup.from_log,
        drops=catchup.drops,
        forks=catchup.forks,
        probes=catchup.probes.sent,
        probe_failures=catchup.probes.failures,
    )


def _writes(host: Host) -> WritesSection:
    writes, settling, phases = host.node.writes, host.node.settling, host.node.phases
    faults = settling.faults
    return WritesSection(
        committed=settling.committed,
        unchanged=settling.unchanged,
        conflict=faults.get(FaultKind.CONFLICT, 0),
        refused=settling.refused,
        oom=faults.get(FaultKind.OUT_OF_MEMORY, 0),
        unavailable=faults.get(FaultKind.UNAVAILABLE, 0),
        indeterminate=faults.get(FaultKind.INDETERMINATE, 0),
        contended=phases.refused + faults.get(FaultKind.CONTENDED, 0),
        linearizable=phases.committed,
        one_phase_refused=writes.one_phase_refused,
        resolved=writes.lost.resolved,
        batches=writes.batches,
    )


def _acks(host: Host) -> AcksSection:
    acks = host.node.acks
    return AcksSection(
        waits=acks.satisfied + acks.timed_out,
        timeouts=acks.timed_out,
        sent=host.node.acks_sent,
        received=acks.received,
        latency=Latency.of(host.ack_latency),
    )


def _leases(host: Host) -> LeasesSection:
    leases = host.node.leases
    return LeasesSection(
        claims=leases.claims,
        granted=leases.granted,
        filled=leases.filled,
        lost=leases.lost,
        released=leases.released,
        lapsed=leases.lapsed,
        held=leases.held,
        waiting=leases.waiting,
    )


def _audit(host: Host) -> AuditSection:
    audits = host.node.audits
    return AuditSection(agreed=audits.agreed, moved=audits.moved, diverged=audits.diverged)


def _spool(host: Host) -> SpoolSection | None:
    outbound = host.outbound
    if outbound is None:
        return None
    return SpoolSection(
        waiting=len(outbound.spool),
        bytes=outbound.spool.bytes_used,
        max_bytes=outbound.spool.max_bytes,
        sent=outbound.sent,
        refused=outbound.refused,
    )


def _bus(host: Host) -> BusSection:
    catchup = host.node.catchup
    return BusSection(
        upstream_up=catchup.probes.reachable,
        reconnects=host.reconnects,
        messages=host.messages,
        bytes=host.bus_bytes,
        listeners=host.listeners,
        lag=Latency.of(host.bus_lag),
    )
