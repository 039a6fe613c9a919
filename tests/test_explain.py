"""What people ask of a node: which keys an audit picks, and why a key is answered from where."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from coherenced.core.l1 import L1
from coherenced.explain import LOOKS, explain, some_keys
from tests.core.driver import Driver, record
from tests.core.entries import entry
from tests.turns import counted_turns


def store(count: int) -> L1:
    l1 = L1(1 << 24, 1 << 16)
    for number in range(count):
        l1.put(entry(b"k%d" % number))
    return l1


@pytest.mark.parametrize(("held", "asked"), [(0, 5), (5, 5), (5, 9), (900, 1), (900, 400)])
async def test_so_many_of_the_keys_are_picked(held: int, asked: int) -> None:
    picked = await some_keys(store(held), asked)
    assert len(picked) == len(set(picked)) == min(held, asked)


async def test_they_are_picked_from_everywhere_and_others_have_their_turn() -> None:
    l1 = store(3 * LOOKS)
    async with counted_turns() as turns:
        picked = await some_keys(l1, 300)
    assert turns[0] >= 2
    thirds = [int(key[1:]) // LOOKS for key in picked]
    assert all(50 < thirds.count(third) < 150 for third in range(3))


def test_what_a_prefix_has_ended_is_said_to_be_asked_for() -> None:
    d = Driver(tidy_entries=1)
    for key in (b"user:1", b"user:2"):
        d.hold(key)
    d.deliver(record(11, prefixes=(b"user:",)))
    host = SimpleNamespace(node=d.node, now_ms=lambda: d.now_ms, origins=None)
    told = explain(host, b"user:2")  # type: ignore[arg-type]
    assert told["cached"] and told["answered_from"] == "l2" and "a prefix of it" in told["because"]
    assert "not_ready" not in told
    d.now_ms += 3_500
    assert explain(host, b"user:2")["not_ready"] == (  # type: ignore[arg-type]
        "Redis has not answered a probe for 3.5 s"
    )
