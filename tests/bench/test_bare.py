"""The core alone: what the in-process suites measure is a node that really follows."""

from __future__ import annotations

from coherenced.bench.bare import CONNECTION, entry, joined_node, messages
from coherenced.core.calls import Delivered


def test_it_serves_and_applies_without_a_server() -> None:
    node = joined_node()
    node.l1.put(entry(node, b"a", b"1"))
    node.l1.put(entry(node, b"b", b"2"))
    assert node.ready and node.hit(b"a", 1e9) is not None
    given = messages(node, [b"a", b"c", b"d"], 2)
    assert [len(message.records) for message in given] == [2, 1]
    for message in given:
        node.step(Delivered(0, CONNECTION, message), 0.0)
    assert node.lane.applied == 3
    assert node.hit(b"a", 0.0) is None
    assert node.hit(b"b", 0.0) is not None
