"""What must hold between any two steps of a node, in words and in code.

The simulator calls `check` after every step. Each statement names the law it
belongs to; the laws that speak about several nodes or about what a client saw
are checked by the simulator from outside, against the modelled Redis.
"""

from __future__ import annotations

from coherenced.core.lane import RECENT_TAGS
from coherenced.core.model import NEVER
from coherenced.core.node import Node


def check(node: Node) -> list[str]:
    """Every statement that does not hold, as one line each; an empty list is good."""
    return [*_lane(node), *_store(node), *_bounds(node)]


def _lane(node: Node) -> list[str]:
    lane, now_ms = node.lane, node.box.now_ms
    broken = []
    if lane.verified_at_ms > now_ms:
        broken.append("V1: verified-at lies in the future")
    if lane.epoch is None and lane.verified_at_ms != NEVER:
        broken.append("V1: verified without a position")
    if lane.head < lane.applied:
        broken.append("A1: applied more than is known to exist")
    if lane.epoch is not None and lane.recent.get(lane.applied) != lane.tag:
        broken.append("A1: the tag of the last applied record is not the chain's")
    previous = None
    for record in lane.history:
        if previous is not None and record.seq != previous.seq + 1:
            broken.append(f"A1: record {record.seq} was applied after {previous.seq}")
        if previous is not None and record.prev != previous.tag:
            broken.append(f"A2: record {record.seq} does not continue the chain")
        previous = record
    return broken


def _store(node: Node) -> list[str]:
    lane, l1 = node.lane, node.l1
    broken = []
    if l1.bytes_used != l1.measured_bytes():
        broken.append(f"L1: counts {l1.bytes_used} bytes, holds {l1.measured_bytes()}")
    if l1.bytes_used > l1.max_bytes:
        broken.append(f"L1: {l1.bytes_used} bytes are more than the bound {l1.max_bytes}")
    if l1.entries and lane.epoch is None:
        broken.append("A5: entries without a lineage")
    newest: dict[bytes, int] = {}
    for record in lane.history:
        for key in record.keys:
            newest[key] = record.seq
        if record.everything or record.prefixes:
            for key in l1.entries:
                if record.everything or key.startswith(record.prefixes):
                    newest[key] = record.seq
    for key, entry in l1.entries.items():
        if entry.as_of < newest.get(key, 0):
            broken.append(f"A4: {key!r} as of {entry.as_of} outlived record {newest[key]}")
    return broken


def _bounds(node: Node) -> list[str]:
    broken = []
    if len(node.lane.recent) > RECENT_TAGS + 1:
        broken.append("bound: remembered tags")
    if node.waiting > node.settings.max_waiting:
        broken.append("bound: waiting requests")
    if node.waiting < 0:
        broken.append("bound: a request was answered twice")
    return broken
