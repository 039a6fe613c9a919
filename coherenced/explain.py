"""What people ask of a node: why a key is answered as it is, who is there, what differs from Redis.

`coherenced explain`, `nodes`, `audit`, `/readyz` and the page's facts, as values ready for JSON.
Nothing here changes what the node holds (an audit lets go of copies that it has found wrong, in
the core). What is counted is in `census`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import random
from typing import TYPE_CHECKING, Any, Final

from coherenced.core.l1 import L1
from coherenced.core.life import OWN, is_past
from coherenced.core.model import Version
from coherenced.core.requests import (
    AskMembers,
    Audit,
    AuditResult,
    Fault,
    FaultKind,
    MembersResult,
    Outcome,
)
from coherenced.origin.marks import VALIDATORS
from coherenced.origin.rules import place
from coherenced.page import layout
from coherenced.wire.names import json_name

if TYPE_CHECKING:
    from coherenced.host import Host

AUDIT_PIECE: Final = 64
"""Keys compared in one round trip of an audit: as many as one fetch reads."""
LOOKS: Final = 2_000
"""Entries looked at in one go by whoever goes through all of them: less than a millisecond."""


def explain(host: Host, key: bytes) -> dict[str, Any]:
    """Why `key` would be answered from where, right now."""
    node, now_ms = host.node, host.now_ms()
    lane, policy = node.lane, node.namespaces.for_key(key)
    entry = node.l1.entries.get(key)
    age_ms = now_ms - lane.verified_at_ms
    told: dict[str, Any] = {
        "key": json_name(key),
        "namespace": policy.name or "(default)",
        "max_staleness_ms": policy.max_staleness_ms,
        "lane": lane.index,
        "applied": None if lane.epoch is None else str(Version(lane.epoch, lane.applied)),
        "verified_age_ms": None if lane.proved_call_id == 0 else age_ms,
        "cached": entry is not None,
    }
    ready, reason = readiness(host)
    if not ready:
        told["not_ready"] = reason  # and so "l2" may be an error, or a stale answer that is allowed
    origin = None if host.origins is None else host.origins.origin_of(key)
    if origin is not None:
        told |= {"origin": place(origin.rules), "breaker": origin.breaker.state}
    if entry is None:
        where = "l2" if origin is None else "l2, else its origin"
        return {**told, "answered_from": where, "because": "this node holds no copy of it"}
    told |= {
        "as_of": str(Version(lane.epoch or b"", entry.as_of)),
        "absent": entry.value is None,
        "bytes": entry.size,
        "ttl_ms": max(0.0, entry.deadline_ms - now_ms),
        "age_ms": entry.known_age_ms(now_ms),
        "stale": is_past(entry.tags, entry.left_ms(now_ms)),
        "tags": [json_name(tag) for tag in entry.tags if not tag.startswith((OWN, VALIDATORS))],
    }
    if node.l1.is_ended(entry):
        why = ("l2", "one of its tags, or a prefix of it, was invalidated after it was read")
    elif now_ms >= entry.deadline_ms:
        why = ("l2", "its time to live is over")
    elif policy.max_staleness_ms <= 0:
        why = ("l1 after a probe", "max_staleness_ms is 0: each read is proved by a probe")
    elif age_ms > entry.bound_ms:
        why = ("l1 after a probe", "the last proof is older than max_staleness_ms")
    else:
        why = ("l1", "its lane was proved current within max_staleness_ms")
    return {**told, "answered_from": why[0], "because": why[1]}


def readiness(host: Host) -> tuple[bool, str]:
    """Whether this node should be sent requests, and why (not)."""
    node = host.node
    if node.stopped:
        return False, "the daemon is stopping"
    if not node.ready:
        return False, "this node has not joined the bus yet: Redis has not answered a probe"
    age_ms = host.now_ms() - node.lane.verified_at_ms
    patience_ms = max(node.namespaces.largest_bound_ms, 1000.0) * 3
    if age_ms > patience_ms:
        return False, f"Redis has not answered a probe for {age_ms / 1e3:.1f} s"
    return True, "ready"


def describe_page(host: Host) -> dict[str, Any]:
    """Where the shared page is, or why there is none."""
    page = host.page_file
    if page is None:
        return {"path": None, "because": host.no_page}
    return {
        "path": str(page.path),
        "layout": layout.VERSION,
        "incarnation": page.incarnation.decode(),
        "slots": page.slots,
        "bytes": layout.file_bytes(page.slots),
        "touched": page.touched,
        "drops": page.drops,
    }


def list_nodes(host: Host, done: Callable[[dict[str, Any] | Fault], None]) -> None:
    """Who is on the roster, and what has happened lately."""

    def read(outcome: Outcome) -> None:
        if isinstance(outcome, MembersResult):
            done(_describe_members(host, outcome))
        elif isinstance(outcome, Fault) and outcome.kind == FaultKind.UNAVAILABLE:
            # When Redis is gone, what has happened is what people want to see.
            done({**_describe_members(host, _last_members(host)), "outdated": outcome.detail})
        elif isinstance(outcome, Fault):
            done(outcome)

    host.submit(AskMembers(), read)


def _last_members(host: Host) -> MembersResult:
    """The roster as it was last read."""
    roster = host.node.roster
    return MembersResult(tuple((m, roster.is_live(m)) for m in roster.members.values()))


def _describe_members(host: Host, result: MembersResult) -> dict[str, Any]:
    own = host.node.settings.incarnation
    lane = host.node.lane
    nodes = []
    for member, live in sorted(result.members, key=lambda pair: pair[0].name):
        line: dict[str, Any] = {
            "name": member.name,
            "incarnation": member.incarnation.decode(),
            "live": live,
            "self": member.incarnation == own,
            "beat": member.beat,
            "bound_ms": member.bound_ms,
            "version": member.version,
            "seen_ms": member.seen_ms,
        }
        if member.incarnation == own and lane.epoch is not None:
            line["applied"] = str(Version(lane.epoch, lane.applied))
        nodes.append(line)
    return {
        "self": host.node.settings.name,
        "nodes": nodes,
        "events": host.events.as_json(),
    }


async def some_keys(l1: L1, count: int) -> list[bytes]:
    """So many of the keys held, by chance; looked through in pieces, so that nobody waits."""
    chosen: dict[bytes, None] = {}
    left = len(l1)
    for piece in l1.pieces(LOOKS):
        for entry in piece:
            if random() * left < count - len(chosen):
                chosen[entry.key] = None
            left -= 1
        if len(chosen) >= count:
            break
        await asyncio.sleep(0)
    return list(chosen)


def audit(
    host: Host, keys: Sequence[bytes], done: Callable[[dict[str, Any] | Fault], None]
) -> None:
    """Compare these keys with Redis: piece after piece."""
    found: list[AuditResult] = []

    def step(outcome: Outcome) -> None:
        if isinstance(outcome, AuditResult):
            found.append(outcome)
            go_on()
        elif isinstance(outcome, Fault):
            done(outcome)

    def go_on() -> None:
        at = len(found) * AUDIT_PIECE
        if at < len(keys):
            host.submit(Audit(tuple(keys[at : at + AUDIT_PIECE])), step)
        else:
            done(_describe_audit(host.node.settings.name, len(keys), found))

    go_on()


def _describe_audit(node: str, asked: int, found: list[AuditResult]) -> dict[str, Any]:
    """What an audit found, JSON-ready. Values are not shown, only their lengths."""
    agreed, moved = sum(f.agreed for f in found), sum(f.moved for f in found)
    diverged = [
        {
            "key": json_name(d.key),
            "held_as_of": str(d.held),
            "redis_as_of": str(d.found),
            "held_bytes": d.held_bytes,
            "redis_bytes": d.found_bytes,
        }
        for result in found
        for d in result.diverged
    ]
    return {
        "node": node,
        "compared": agreed + len(diverged),
        "agreed": agreed,
        "moved": moved,
        "not_held": asked - agreed - moved - len(diverged),
        "diverged": diverged,
    }
