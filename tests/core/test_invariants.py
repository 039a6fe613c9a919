"""The checker itself: each statement is shown a node that breaks it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coherenced.core.bulk import bulk_of
from coherenced.core.entry import Entry
from coherenced.core.invariants import check
from coherenced.core.model import EVERYTHING, NEVER
from coherenced.core.node import Node
from tests.core.driver import Driver, lineage, record, tag_of


def healthy() -> Driver:
    d = Driver()
    d.hold(b"k")
    d.deliver(record(11, b"other"), record(12, prefixes=(b"p:",)))
    return d


def stored(node: Node, key: bytes, as_of: int) -> None:
    node.l1.put(Entry(key, bulk_of(b"v"), node.lane, as_of, 1e9, 1000.0))


def test_a_healthy_node_breaks_nothing() -> None:
    assert check(healthy().node) == []


def future_proof(node: Node) -> None:
    node.lane.verified_at_ms = node.box.now_ms + 1


def proof_without_position(node: Node) -> None:
    node.l1.drop_all()
    node.lane.epoch = None


def applied_beyond_head(node: Node) -> None:
    node.lane.head = node.lane.applied - 1


def tag_not_of_the_chain(node: Node) -> None:
    node.lane.tag = tag_of(99)


def stepped_over_a_gap(node: Node) -> None:
    node.lane.advance(record(14, prev=tag_of(12)))


def wrong_previous_tag(node: Node) -> None:
    node.lane.advance(record(13, branch=b"b"))


def miscounted(node: Node) -> None:
    node.l1.bytes_used += 1


def above_the_bound(node: Node) -> None:
    node.l1.max_bytes = node.l1.bytes_used - 1


def entries_without_lineage(node: Node) -> None:
    node.lane.epoch = None
    node.lane.verified_at_ms = NEVER


def outlived_its_record(node: Node) -> None:
    stored(node, b"other", 10)


def outlived_a_prefix(node: Node) -> None:
    stored(node, b"p:1", 11)


def outlived_everything(node: Node) -> None:
    node.lane.advance(record(13, flags=EVERYTHING))


def too_many_waiting(node: Node) -> None:
    node.reads.waiting = node.settings.max_waiting + 1


def answered_twice(node: Node) -> None:
    node.settling.waiting = -1


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (future_proof, "V1"),
        (proof_without_position, "V1"),
        (applied_beyond_head, "A1"),
        (tag_not_of_the_chain, "A1"),
        (stepped_over_a_gap, "A1"),
        (wrong_previous_tag, "A2"),
        (miscounted, "L1"),
        (above_the_bound, "L1"),
        (entries_without_lineage, "A5"),
        (outlived_its_record, "A4"),
        (outlived_a_prefix, "A4"),
        (outlived_everything, "A4"),
        (too_many_waiting, "bound"),
        (answered_twice, "bound"),
    ],
)
def test_each_harm_is_found_and_named(harm: Callable[[Node], None], words: str) -> None:
    node = healthy().node
    harm(node)
    broken = check(node)
    assert any(line.startswith(words) for line in broken), broken


def test_what_is_newer_than_a_record_has_not_outlived_it() -> None:
    node = healthy().node
    stored(node, b"other", 11)
    stored(node, b"p:1", 12)
    assert check(node) == []


def test_a_new_lineage_starts_with_a_clean_history() -> None:
    d = healthy()
    d.tick(250)
    d.prove(lineage(3, b"b"))
    assert check(d.node) == []
