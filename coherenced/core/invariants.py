"""What must hold between any two steps of a node, in words and in code.

The simulator keeps a `Watch` on each node and asks it after every step; `check`
looks at everything at once. Each statement names the law it
belongs to; the laws that speak about several nodes or about what a client saw
are checked by the simulator from outside, against the modelled Redis.
"""

from __future__ import annotations

from coherenced.core.lane import RECENT_TAGS
from coherenced.core.model import NEVER, Record
from coherenced.core.node import Node


def check(node: Node) -> list[str]:
    """Every statement that does not hold, as one line each; an empty list is good."""
    return Watch(node).check()


class Watch:
    """Looks at one node again and again. A record of the chain is looked at once: what it
    covered is remembered, and compared with what is held ever after."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._generation = -1
        self._last: Record | None = None
        self._newest: dict[bytes, int] = {}
        """key -> the newest applied record that names it."""
        self._prefixes: dict[bytes, int] = {}
        self._everything = 0

    def check(self) -> list[str]:
        """As `check`, of what may have changed since the last time."""
        return [*self._lane(), *self._store(), *self._bounds()]

    def _lane(self) -> list[str]:
        lane, now_ms = self._node.lane, self._node.box.now_ms
        broken = []
        if lane.verified_at_ms > now_ms:
            broken.append("V1: verified-at lies in the future")
        if lane.epoch is None and lane.verified_at_ms != NEVER:
            broken.append("V1: verified without a position")
        if lane.head < lane.applied:
            broken.append("A1: applied more than is known to exist")
        if lane.epoch is not None and lane.recent.get(lane.applied) != lane.tag:
            broken.append("A1: the tag of the last applied record is not the chain's")
        if lane.generation != self._generation:
            self._generation = lane.generation
            self._last = None
            self._newest.clear()
            self._prefixes.clear()
            self._everything = 0
        history = lane.history
        if history and history[-1] is not self._last:
            broken.extend(self._follow())
        return broken

    def _follow(self) -> list[str]:
        """The records that were applied since: each continues the chain."""
        broken = []
        previous = self._last
        fresh: list[Record] = []
        for record in reversed(self._node.lane.history):
            if record is previous:
                break
            fresh.append(record)
        for record in reversed(fresh):
            if previous is not None and record.seq != previous.seq + 1:
                broken.append(f"A1: record {record.seq} was applied after {previous.seq}")
            if previous is not None and record.prev != previous.tag:
                broken.append(f"A2: record {record.seq} does not continue the chain")
            previous = record
            for key in record.keys:
                self._newest[key] = record.seq
            for prefix in record.prefixes:
                self._prefixes[prefix] = record.seq
            if record.everything:
                self._everything = record.seq
        self._last = previous
        return broken

    def _store(self) -> list[str]:
        lane, l1 = self._node.lane, self._node.l1
        broken = []
        if l1.bytes_used != l1.measured_bytes():
            broken.append(f"L1: counts {l1.bytes_used} bytes, holds {l1.measured_bytes()}")
        if l1.bytes_used > l1.max_bytes:
            broken.append(f"L1: {l1.bytes_used} bytes are more than the bound {l1.max_bytes}")
        if l1.entries and lane.epoch is None:
            broken.append("A5: entries without a lineage")
        newest, prefixes, everything = self._newest, self._prefixes, self._everything
        for key, entry in l1.entries.items():
            covered = newest.get(key, 0)
            if everything > covered:
                covered = everything
            for prefix, seq in prefixes.items():
                if seq > covered and key.startswith(prefix):
                    covered = seq
            if entry.as_of < covered and not l1.is_ended(entry):
                broken.append(f"A4: {key!r} as of {entry.as_of} outlived record {covered}")
        return broken

    def _bounds(self) -> list[str]:
        node = self._node
        broken = []
        if len(node.lane.recent) > RECENT_TAGS + 1:
            broken.append("bound: remembered tags")
        if node.waiting > node.settings.max_waiting:
            broken.append("bound: waiting requests")
        if node.waiting < 0:
            broken.append("bound: a request was answered twice")
        return broken
