"""Every order of events of small configurations: first the known bugs, then none."""

from __future__ import annotations

import msgspec
import pytest

from coherenced.core.laws import Laws
from coherenced.core.requests import Level
from tests.ahead import Part, result, results
from tests.sim.board import Act, Setup
from tests.sim.explorer import Found, explore
from tests.sim.redis_model import ServerLaws

BOTH_HOLD = (Act("a", "write"), Act("b", "read"))

FILL = Setup(
    name="a fill and an invalidation",
    warm=(Act("a", "write"),),
    acts=(Act("a", "write"), Act("b", "read"), Act("b", "read")),
    ticks=0,
    probes_due=False,
)
LOSS = Setup(
    name="two writes, one lost message, a late probe",
    warm=BOTH_HOLD,
    acts=(Act("a", "write"), Act("a", "write"), Act("b", "read")),
    losses=1,
    ticks=1,
)
LATE = Setup(
    name="one write, and a probe from before it",
    warm=BOTH_HOLD,
    acts=(Act("a", "write"),),
    ticks=1,
    probes_due=False,
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
    probes_due=False,
)
PHASES = Setup(
    name="a linearizable key",
    warm=(Act("a", "write", "l:k"), Act("b", "read", "l:k")),
    acts=(Act("a", "write", "l:k"), Act("b", "read", "l:k")),
    ticks=0,
    probes_due=False,
)
TAGGED = Setup(
    name="a value and its tag",
    warm=(Act("a", "write", tags=(b"red",)), Act("b", "read")),
    acts=(Act("a", "tag", tags=(b"red",)), Act("b", "zero")),
    ticks=0,
)
PREFIX = Setup(
    name="a prefix whose keys are never looked for",
    warm=BOTH_HOLD,
    acts=(Act("a", "write"), Act("a", "prefix", ack=Level.ALL), Act("b", "read")),
    ticks=0,
    probes_due=False,
    tidy_entries=0,
)
OWN = Setup(
    name="a node and its own delete",
    warm=(Act("a", "write"),),
    acts=(Act("a", "delete"), Act("a", "read"), Act("a", "read")),
    ticks=0,
)
TWO_READ = (Act("a", "write"), Act("b", "read"), Act("a", "write"), Act("b", "read"))
"""The last write is the one that a failover loses; b holds its value."""
TWO_READ_L = tuple(msgspec.structs.replace(act, key="l:k") for act in TWO_READ)
WRITE_ALL = Act("a", "write", ack=Level.ALL)

CRASHED_WRITER = Setup(
    name="the writer is killed",
    warm=BOTH_HOLD,
    acts=(Act("a", "write"), Act("b", "read")),
    crashes=("a",),
    probes_due=False,
    ticks=0,
)
CRASHED_READER = msgspec.structs.replace(
    CRASHED_WRITER, name="the reader is killed", crashes=("b",)
)
CRASHED_IN_PHASES = msgspec.structs.replace(
    PHASES,
    name="a linearizable key, and its writer is killed",
    crashes=("a",),
    probes_due=False,
)
LOST_PHASES = msgspec.structs.replace(
    PHASES, name="a linearizable key, and a lost message", losses=1
)
LOST_WRITERS = msgspec.structs.replace(TWO_WRITERS, name="two writers, one lost message", losses=1)
COMPLETE = (
    FILL, LATE, ZERO, TAGGED, OWN, TWO_WRITERS, CRASHED_WRITER, CRASHED_READER, PHASES,
    CRASHED_IN_PHASES, LOST_PHASES, LOST_WRITERS, PREFIX,
)  # fmt: skip
"""Explored to the end in the normal test run; under `soak` once more with a probe of each node
under way, which comes at any moment."""

FAILED_OVER = Setup(
    name="bounded: what follows a failover that lost a write",
    warm=TWO_READ,
    acts=(Act("a", "write"), Act("b", "read"), Act("b", "read")),
    failed_over=True,
    probes_due=False,
    ticks=0,
)
FAILED_OVER_ZERO = msgspec.structs.replace(
    FAILED_OVER,
    name="B = 0: the same, connection by connection",
    acts=(Act("a", "write"), Act("b", "zero"), Act("b", "read")),
    one_by_one=True,
)
LARGER = (
    LOSS,
    ALL,
    FAILED_OVER,
    FAILED_OVER_ZERO,
    msgspec.structs.replace(
        FAILED_OVER,
        name="two writers after a failover, connection by connection",
        acts=(Act("a", "write"), Act("b", "write"), Act("b", "read")),
        one_by_one=True,
    ),
    msgspec.structs.replace(
        FAILED_OVER, name="ack=all after a failover", acts=(WRITE_ALL, Act("b", "read"))
    ),
    msgspec.structs.replace(
        FAILED_OVER,
        name="a linearizable key after a failover that lost both phases",
        warm=TWO_READ_L,
        acts=(Act("a", "write", "l:k"), Act("b", "read", "l:k")),
        lost=2,
    ),
    Setup(
        name="bounded: a failover at any moment",
        warm=BOTH_HOLD,
        acts=(Act("a", "write"), Act("b", "read")),
        failovers=1,
        probes_due=False,
        ticks=0,
    ),
    msgspec.structs.replace(
        PHASES,
        name="a linearizable key and a failover at any moment",
        failovers=1,
        probes_due=False,
    ),
    Setup(
        name="ack=all and its reader is killed",
        warm=BOTH_HOLD,
        acts=(WRITE_ALL, Act("b", "read")),
        crashes=("b",),
        ticks=1,
        tick_ms=120.0,
    ),
    Setup(
        name="two writers with ack=all, one lost message",
        warm=BOTH_HOLD,
        acts=(WRITE_ALL, msgspec.structs.replace(WRITE_ALL, node="b")),
        losses=1,
        ticks=1,
        tick_ms=120.0,
    ),
    Setup(
        name="three nodes, ack=all, one lost message",
        nodes=("a", "b", "c"),
        warm=(*BOTH_HOLD, Act("c", "read")),
        acts=(WRITE_ALL, Act("b", "read"), Act("c", "read")),
        losses=1,
        ticks=0,
    ),
    Setup(
        name="two keys, two writers, one lost message",
        warm=(*BOTH_HOLD, Act("a", "write", "j"), Act("b", "read", "j")),
        acts=(Act("a", "write"), Act("b", "write", "j"), Act("b", "read"), Act("a", "zero", "j")),
        losses=1,
        ticks=0,
    ),
    Setup(
        name="two writers, two lost messages, B = 0",
        warm=BOTH_HOLD,
        acts=(Act("a", "write"), Act("b", "write"), Act("b", "read"), Act("a", "zero")),
        losses=2,
        ticks=1,
    ),
    Setup(
        name="two writers, two lost messages, a linearizable key",
        warm=PHASES.warm,
        acts=(Act("a", "write", "l:k"), Act("b", "write", "l:k")),
        losses=2,
        ticks=0,
    ),
)  # fmt: skip
"""Their first states in the normal run, as many as there is time for under `soak`."""
WITH_PROBES = tuple(
    msgspec.structs.replace(setup, name=f"{setup.name}, late probes", probes_due=True)
    for setup in COMPLETE
    if not setup.probes_due
)
FIRST = 300
MOST = 250_000


def report(found: Found) -> str:
    end = "all" if found.complete else "not all"
    lines = [f"{found.setup.name}: {found.states} states, {end}, {found.runs} runs"]
    return "\n  ".join([*lines, found.problem, *found.story]).rstrip()


def without(setup: Setup, law: str) -> Setup:
    if law in Laws.__struct_fields__:
        return msgspec.structs.replace(setup, laws=Laws(**{law: False}))
    return msgspec.structs.replace(setup, server_laws=ServerLaws(**{law: False}))


def to_the_end() -> list[Part]:
    return [Part(explore, (setup, 8_000)) for setup in COMPLETE]


def first_states() -> list[Part]:
    return [Part(explore, (setup, FIRST)) for setup in LARGER]


KNOWN = (
    ("fill_fence", FILL),
    ("gap_check", LOSS),
    ("verified_when_sent", LATE),
    ("verified_after_applied", LOSS),
    ("probe_after_arrival", ZERO),
    ("tags_cover", TAGGED),
    ("marks_cover", PREFIX),
    ("own_write_drops", OWN),
    ("two_phases", PHASES),
    ("wait_for_all", ALL),
    ("chain_check", FAILED_OVER),
    ("fenced_probe", FAILED_OVER_ZERO),
    ("no_way_back", FAILED_OVER_ZERO),
)
"""(law, where its absence is found)."""


def known_bugs() -> list[Part]:
    return [Part(explore, (without(setup, law), 3_000)) for law, setup in KNOWN]


@pytest.mark.ahead(parts=known_bugs)
@pytest.mark.parametrize("number", range(len(KNOWN)), ids=[law for law, _ in KNOWN])
def test_it_finds_the_known_bug(number: int) -> None:
    """It can fail: with the law off it finds what the law prevents, and tells the story."""
    found = result(known_bugs, number)
    assert found.problem, report(found)
    assert found.story


@pytest.mark.ahead(parts=to_the_end)
@pytest.mark.timeout(600)
def test_no_order_of_events_breaks_a_promise() -> None:
    for found in results(to_the_end):
        print(report(found))
        assert not found.problem, report(found)
        assert found.complete, report(found)


@pytest.mark.ahead(parts=first_states)
def test_the_first_states_of_the_larger_ones() -> None:
    for found in results(first_states):
        print(report(found))
        assert not found.problem, report(found)


@pytest.mark.soak
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("setup", (*LARGER, *WITH_PROBES), ids=lambda setup: setup.name)
def test_the_larger_ones(setup: Setup) -> None:
    found = explore(setup, MOST)
    print(report(found))
    assert not found.problem, report(found)
