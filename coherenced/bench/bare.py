"""The core alone, in this process: a node that follows an empty lane, and needs no server."""

from __future__ import annotations

import secrets

from coherenced.core.bulk import bulk_of
from coherenced.core.calls import Probe, Probed, Subscribed
from coherenced.core.entry import Entry
from coherenced.core.inputs import Start
from coherenced.core.model import FOREVER, Lineage, Message, Op, Record
from coherenced.core.node import Node, Settings
from coherenced.core.policy import Namespaces, Policy

CONNECTION = 1
"""The number of its bus connection."""


def new_id() -> bytes:
    """16 random hex digits."""
    return secrets.token_hex(8).encode()


def joined_node(l1_max_bytes: int = 1 << 30) -> Node:
    """A node that has joined and is current at time 0, and for ever by its bound."""
    namespaces = Namespaces(Policy(max_staleness_ms=1e12, max_age_ms=1e12))
    settings = Settings(
        name="bench", incarnation=new_id(), namespaces=namespaces, l1_max_bytes=l1_max_bytes
    )
    node = Node(settings, new_id)
    epoch = new_id()
    effects = [*node.step(Start(), 0.0), *node.step(Subscribed(0, CONNECTION), 0.0)]
    for effect in effects:
        if isinstance(effect, Probe):
            node.step(Probed(effect.call_id, Lineage(epoch, 0, epoch), 0, 0), 0.0)
    return node


def entry(node: Node, key: bytes, value: bytes) -> Entry:
    """An entry that the node may serve for ever."""
    return Entry(key, bulk_of(value), node.lane, 0, FOREVER, 1e12)


def messages(node: Node, names: list[bytes], framing: int) -> list[Message]:
    """What the bus would bring the node: one record for each name, `framing` to a message."""
    epoch, seq, prev = node.lane.lineage or Lineage(b"", 0, b"")
    writer, found = new_id(), []
    for first in range(0, len(names), framing):
        records = []
        for name in names[first : first + framing]:
            seq, tag = seq + 1, new_id()
            records.append(Record(seq, prev, tag, Op.INVALIDATE, 0, writer, (name,)))
            prev = tag
        found.append(Message(0, epoch, seq, prev, tuple(records)))
    return found
