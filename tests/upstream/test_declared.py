"""K6 in the scripts: what nodes declare linearizable, and who may write it then."""

from __future__ import annotations

from typing import Any

import pytest

from coherenced.core.calls import Failure, Probe, Probed
from coherenced.core.model import Declared, Member, Mutation, Op, Version
from coherenced.upstream import codec
from coherenced.upstream.faults import failure_of, plain
from coherenced.upstream.scripts import PROBE, ROSTER
from tests.servers import Server, ServerError
from tests.upstream.lanes import (
    EPOCH,
    FLUSH,
    Lane,
    delete,
    incr,
    invalidate,
    member,
    set_,
    write,
)

LIN: Declared = ((b"lin:free:*", False), (b"lin:*", True))
DECLARED, META = b"coh:{0}:declared", b"coh:{0}:meta"


def beat(lane: Lane, who: Member, declares: Declared = (), new_epoch: bytes = EPOCH) -> Probed:
    call = Probe(1, 0, new_epoch, who, declares=declares)
    return codec.probed(call, lane.run(PROBE, codec.probe_args(call)))


def declared(lane: Lane) -> set[Declared]:
    return set(codec.roster_read(1, lane.run(ROSTER, [])).declared)


def refused(lane: Lane, *mutations: Mutation) -> bool:
    """Whether the batch is refused as a whole; then it has done nothing."""
    before = lane.lineage()
    try:
        lane.mutate(*mutations)
    except ServerError as error:
        text = str(error)
        assert failure_of(text) == Failure.TWO_PHASES, text
        assert plain(text) == "a node declares the namespace lin:* linearizable"
        assert lane.lineage() == before
        return True
    return False


@pytest.fixture
def told(lane: Lane) -> Lane:
    """A lane in which one node has declared `lin:*`, but not what is under `lin:free:`."""
    beat(lane, member("a"), LIN)
    beat(lane, member("b"))
    return lane


ONE_PHASE: dict[str, tuple[Mutation, ...]] = {
    "set": (set_(b"lin:x", b"1"),),
    "last of many sets": (*[set_(b"k%d" % n, b"1") for n in range(31)], set_(b"lin:x", b"")),
    "set with an option": (set_(b"lin:x", b"1", b"XX"),),
    "counted": (incr(b"lin:x"),),
    "appended": (write(b"APPEND", b"lin:x", b"1"),),
    "expiry": (write(b"EXPIRE", b"lin:x", b"100"),),
    "deleted": (delete(b"other", b"lin:x"),),
    "many keys": (Mutation((b"MSET", b"a", b"1", b"lin:x", b"2"), keys=(b"a", b"lin:x")),),
    "labelled": (set_(b"lin:x", b"1", label=(b"t",)),),
    "filled": (Mutation((b"SET", b"lin:x", b"1"), Op.FILL, (b"lin:x",), lease=b"token"),),
    "compared": (set_(b"lin:x", b"1", if_version=Version(EPOCH, 0), unchanged_since=0),),
    "behind all that has words of its own": (
        set_(b"a", b"1", label=(b"t", b"u")),
        set_(b"a", b"1", if_version=Version(EPOCH, 0), unchanged_since=0),
        Mutation((), Op.PREPARE, (b"lin:y",), token=b"t", token_ttl_ms=10_000),
        Mutation((), Op.ABORT, (b"lin:y",), token=b"t"),
        Mutation((b"SET", b"a", b"1"), Op.FILL, (b"a",), label=(b"t",), lease=b"token"),
        Mutation((), Op.RELEASE, (b"a",), lease=b"token", token_ttl_ms=5, unchanged=b"z"),
        Mutation((b"GET", b"lin:x"), keys=(b"lin:x",), is_write=False),
        invalidate(b"lin:x"),
        set_(b"lin:x", b"1"),
    ),
}


@pytest.mark.parametrize("mutations", ONE_PHASE.values(), ids=list(ONE_PHASE))
def test_a_write_in_one_phase_is_refused_before_anything_is_done(
    told: Lane, server: Server, mutations: tuple[Mutation, ...]
) -> None:
    server.command("SET", "lin:x", "5")
    assert refused(told, *mutations)
    assert server.commands(("GET", "lin:x"), ("DBSIZE",)) == [b"5", 4]  # meta, nodes, declared


ONE_STEP: dict[str, tuple[Mutation, ...]] = {
    "another key": (set_(b"line:x", b"1"),),
    "what an earlier namespace takes out": (set_(b"lin:free:x", b"1"),),
    "invalidations": (invalidate(b"lin:x"), invalidate(prefixes=(b"lin:",)), invalidate()),
    "everything": (FLUSH,),
    "a read": (
        Mutation((b"GET", b"lin:x"), keys=(b"lin:x",), is_write=False),
        set_(b"a", b"1"),
    ),
}


@pytest.mark.parametrize("mutations", ONE_STEP.values(), ids=list(ONE_STEP))
def test_what_has_one_phase(told: Lane, mutations: tuple[Mutation, ...]) -> None:
    assert not refused(told, *mutations)
    assert refused(told, set_(b"lin:x", b"1"))  # as before: also after FLUSHDB
    assert declared(told) == {LIN}


def test_two_phases_pass_and_only_over_what_was_marked(told: Lane, server: Server) -> None:
    def commit(*keys: bytes, **more: Any) -> Mutation:
        words = [word for key in keys for word in (key, b"v")]
        return Mutation((b"MSET", *words), Op.COMMIT, keys, token=b"mine", **more)

    told.mutate(Mutation((), Op.PREPARE, (b"lin:x",), token=b"mine", token_ttl_ms=60_000))
    assert refused(told, commit(b"lin:x", b"lin:y"))
    assert server.command("GET", "lin:x") is None
    assert told.reply(commit(b"lin:x", b"plain")) == b"OK"
    # The mark is gone now, and whoever comes with it is told that.
    assert str(told.reply(commit(b"lin:x"))).startswith("TRYAGAIN the mark")
    assert server.command("GET", "lin:x") == b"v"


def test_it_lasts_as_long_as_one_who_declares_it_is_on_the_roster(told: Lane) -> None:
    beat(told, member("c"), LIN)
    assert declared(told) == {LIN}
    told.part(member("a"))
    assert refused(told, set_(b"lin:x", b"1"))
    assert told.part(member("c"), beat=7) == 0
    assert refused(told, set_(b"lin:x", b"1"))
    assert told.part(member("c"), beat=1) == 1
    assert not refused(told, set_(b"lin:x", b"1"))
    assert declared(told) == set()


def test_a_node_may_change_its_mind(told: Lane, server: Server) -> None:
    beat(told, member("a", beat=2), ((b"other:*", True),))
    assert not refused(told, set_(b"lin:x", b"1"))
    assert declared(told) == {((b"other:*", True),)}
    beat(told, member("a", beat=3))
    assert server.commands(("EXISTS", DECLARED), ("HEXISTS", META, "lz")) == [0, 0]


def test_it_survives_a_new_epoch_and_the_next_beat_says_it_again_after_a_loss(
    told: Lane, server: Server
) -> None:
    server.command("DEL", META)
    assert refused(told, set_(b"lin:x", b"1"))
    server.command("FLUSHALL")
    assert not refused(told, set_(b"lin:x", b"1"))
    beat(told, member("a", beat=2), LIN)
    assert refused(told, set_(b"lin:x", b"1"))


def test_who_was_lost_with_the_roster_declares_nothing(told: Lane, server: Server) -> None:
    server.command("DEL", b"coh:{0}:nodes")
    beat(told, member("b", beat=2))
    assert declared(told) == set()
    beat(told, member("a", beat=2), LIN)
    assert declared(told) == {LIN}


@pytest.mark.parametrize("junk", [("SET", DECLARED, "x"), ("HSET", META, "lz", "\x93junk")])
def test_damage_is_mended_by_the_next_beats(
    told: Lane, server: Server, junk: tuple[Any, ...]
) -> None:
    server.commands(("DEL", DECLARED), junk)
    for number in (2, 3):
        told.mutate(set_(b"plain", b"1"))
        beat(told, member("b", beat=number))
        beat(told, member("a", beat=number), LIN)
    assert refused(told, set_(b"lin:x", b"1"))
    assert declared(told) == {LIN}


def test_our_own_keys_are_not_counted(told: Lane) -> None:
    assert told.query(b"DBSIZE") == 0


def test_what_nobody_declares_costs_a_write_no_command(lane: Lane, server: Server) -> None:
    beat(lane, member("a"))
    server.command("CONFIG", "RESETSTAT")
    lane.mutate(set_(b"k", b"1"))
    said = str(server.command("INFO", "commandstats"))
    calls = {
        name: int(said.split(f"cmdstat_{name}:calls=")[1].split(",")[0])
        for name in ("hmget", "hset", "mset", "xadd", "publish")
    }
    assert set(calls.values()) == {1}
    assert "cmdstat_hget:" not in said
