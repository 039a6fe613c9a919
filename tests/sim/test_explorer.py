"""Every order of events of small configurations: first the known bugs, then none."""

from __future__ import annotations

import msgspec
import pytest

from coherenced.core.laws import Laws
from coherenced.core.requests import Level
from tests.sim.board import Act, Setup
from tests.sim.explorer import Found, explore
from tests.sim.redis_model import ServerLaws

BOTH_HOLD = (Act("a", "write"), Act("b", "read"))

FILL = Setup(
    name="a fill and an invalidation",
    warm=(Act("a", "write"),),
    acts=(Act("a", "write"), Act("b", "read"), Act("b", "read")),
    ticks=0,
)
LOSS = Setup(
    name="two writes, one lost message, a late probe",
    warm=BOTH_HOLD,
    acts=(Act("a", "write"), Act("a", "write"), Act("b", "read")),
    losses=1,
    ticks=1,
)
ZERO = Setup(
    name="B = 0 and a lost message",
    warm=BOTH_HOLD,
    acts=(Act("a", "write"), Act("b", "zero")),
    losses=1,
    ticks=0,
)
ALL = Setup(
    name="ack=all and a lost message",
    warm=BOTH_HOLD,
    acts=(Act("a", "write", ack=Level.ALL), Act("b", "read")),
    losses=1,
    ticks=1,
    tick_ms=120.0,
)
TWO_WRITERS = Setup(
    name="two writers of one key",
    warm=BOTH_HOLD,
    acts=(Act("a", "write"), Act("b", "write")),
    ticks=0,
)
PHASES = Setup(
    name="a linearizable key",
    warm=(Act("a", "write", "l:k"), Act("b", "read", "l:k")),
    acts=(Act("a", "write", "l:k"), Act("b", "read", "l:k")),
    ticks=0,
)
TAGGED = Setup(
    name="a value and its tag",
    warm=(Act("a", "write", tags=(b"red",)), Act("b", "read")),
    acts=(Act("a", "tag", tags=(b"red",)), Act("b", "zero")),
    ticks=0,
)
OWN = Setup(
    name="a node and its own delete",
    warm=(Act("a", "write"),),
    acts=(Act("a", "delete"), Act("a", "read"), Act("a", "read")),
    ticks=0,
)
COMPLETE = (FILL, ZERO, TAGGED, OWN)
"""Small enough to be explored to the end in the normal test run."""
LARGER = (LOSS, ALL, TWO_WRITERS, PHASES)


def report(found: Found) -> str:
    end = "all" if found.complete else "not all"
    lines = [f"{found.setup.name}: {found.states} states, {end}, {found.runs} runs"]
    return "\n  ".join([*lines, found.problem, *found.story])


def without(setup: Setup, law: str) -> Setup:
    if law in Laws.__struct_fields__:
        return msgspec.structs.replace(setup, laws=Laws(**{law: False}))
    return msgspec.structs.replace(setup, server_laws=ServerLaws(**{law: False}))


@pytest.mark.parametrize(
    ("law", "setup"),
    [
        ("fill_fence", FILL),
        ("gap_check", LOSS),
        ("verified_when_sent", LOSS),
        ("verified_after_applied", LOSS),
        ("probe_after_arrival", ZERO),
        ("tags_cover", TAGGED),
        ("own_write_drops", OWN),
        ("two_phases", PHASES),
        ("wait_for_all", ALL),
    ],
)
def test_it_finds_the_known_bug(law: str, setup: Setup) -> None:
    """It can fail: with the law off it finds what the law prevents, and tells the story."""
    found = explore(without(setup, law), 3_000)
    assert found.problem, report(found)
    assert found.story


@pytest.mark.parametrize("setup", COMPLETE, ids=lambda setup: setup.name)
def test_no_order_of_events_breaks_a_promise(setup: Setup) -> None:
    found = explore(setup, 4_000)
    assert not found.problem, report(found)
    assert found.complete, report(found)
    print(report(found))


@pytest.mark.parametrize("setup", LARGER, ids=lambda setup: setup.name)
def test_the_first_states_of_the_larger_ones(setup: Setup) -> None:
    found = explore(setup, 400)
    assert not found.problem, report(found)


@pytest.mark.soak
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("setup", LARGER, ids=lambda setup: setup.name)
def test_the_larger_ones_to_the_end(setup: Setup) -> None:
    found = explore(setup, 2_000_000)
    print(report(found))
    assert found.complete
    assert not found.problem, report(found)


@pytest.mark.soak
@pytest.mark.timeout(36_000)
def test_two_writers_two_losses() -> None:
    setup = Setup(
        name="two writers, two lost messages, two probes",
        warm=BOTH_HOLD,
        acts=(Act("a", "write"), Act("b", "write"), Act("b", "read"), Act("a", "zero")),
        losses=2,
        ticks=2,
    )
    found = explore(setup, 1_000_000)
    print(report(found))
    assert not found.problem, report(found)
