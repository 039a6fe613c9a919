"""The COH. commands: what they ask of the node, and how they answer."""

from __future__ import annotations

import msgspec
import pytest

from coherenced.core.model import Mutation, Op, ReplyError, Version
from coherenced.core.requests import Level, Outcome, Read, ReadResult, Value, Write, WriteResult
from coherenced.errors import UsageError
from coherenced.wire.answers import answer
from coherenced.wire.commands import COMMANDS
from coherenced.wire.options import MAX_ACK_TIMEOUT_MS
from coherenced.wire.plan import Bounds, Plan

PAGE = "00000000000000aa"
TIMEOUT_IS = "TIMEOUT is a whole number of milliseconds from 0 to 3600000"
BOUNDS = Bounds(max_key_bytes=50, max_tags=3, page=PAGE.encode())
VERSION = Version(b"0f1e2d3c4b5a6978", 42)
TOLD = b"$19\r\n0f1e2d3c4b5a6978:42\r\n"


def plan(text: str) -> Plan:
    argv = [word.encode() for word in text.split()]
    planner = COMMANDS[argv[0]].plan
    assert planner is not None
    return planner(argv, BOUNDS)


def write(text: str) -> Write:
    (request,) = plan(text).requests
    assert isinstance(request, Write)
    return request


def refused(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        plan(text)
    return str(caught.value)


def tell(text: str, outcome: Outcome, resp3: bool = False) -> bytes:
    return answer(plan(text), [outcome], resp3)


# -- COH.GET ----------------------------------------------------------------------------


def test_get() -> None:
    assert plan("COH.GET k").requests == (Read((b"k",)),)
    assert plan("COH.GET k maxstale 0 MINVER 0f1e2d3c4b5a6978:42 META").requests == (
        Read((b"k",), max_staleness_ms=0.0, min_version=VERSION),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("COH.GET k NO", "syntax error"),
        ("COH.GET k MAXSTALE", "syntax error"),
        (
            "COH.GET k MAXSTALE -1",
            "MAXSTALE is a whole number of milliseconds from 0 to 1000000000000000",
        ),
        ("COH.GET k MAXSTALE 1 MAXSTALE 2", "syntax error"),
        (
            "COH.GET k MAXSTALE x",
            "MAXSTALE is a whole number of milliseconds from 0 to 1000000000000000",
        ),
        ("COH.GET k MINVER", "syntax error"),
        ("COH.GET coh:k", "keys that start with coh: are reserved"),
    ],
)
def test_get_refused(text: str, told: str) -> None:
    assert refused(text) == told


def test_get_refuses_what_is_no_version() -> None:
    assert refused("COH.GET k MINVER 42").startswith("a version is written epoch:seq")


def test_get_tells_the_terms_on_which_a_copy_may_be_kept() -> None:
    kept = Value(
        b"v", VERSION, "l1", 0.0, labels=(b"t",), keep_ms=700.9, bound_ms=1000.0, expires_in_ms=900
    )
    told = b"*8\r\n$1\r\nv\r\n" + TOLD + b"$2\r\nl1\r\n$5\r\n0.000\r\n:0\r\n:900\r\n"
    terms = b"*3\r\n:700\r\n:1000\r\n$1\r\nt\r\n:-1\r\n"
    assert tell(f"COH.GET k KEEP {PAGE}", ReadResult((kept,))) == told + terms
    not_kept = msgspec.structs.replace(kept, keep_ms=0.4)
    assert tell(f"COH.GET k KEEP {PAGE}", ReadResult((not_kept,))).endswith(
        b":900\r\n*2\r\n:0\r\n:0\r\n:-1\r\n"
    )
    other = tell("COH.GET k KEEP 00000000000000bb", ReadResult((kept,)))
    assert other == told + b"*2\r\n:-1\r\n:0\r\n:-1\r\n"
    # One whose life is known ages on; the mark that says so is nobody's tag.
    aging = msgspec.structs.replace(kept, labels=(b"t", b"coh:life=1000"))
    grown = terms.removesuffix(b":-1\r\n") + b":0\r\n"
    assert tell(f"COH.GET k KEEP {PAGE}", ReadResult((aging,))) == told + grown
    # In its grace it is stale, whoever tells it.
    past = msgspec.structs.replace(kept, labels=(b"t", b"coh:life=5000/1000"))
    told = told.replace(b":0\r\n:900", b":1\r\n:900")
    grown = terms.removesuffix(b":-1\r\n") + b":1000\r\n"
    assert tell(f"COH.GET k KEEP {PAGE}", ReadResult((past,))) == told + grown
    wrong = Value(None, VERSION, "l2", 0.0, error=ReplyError("WRONGTYPE no"))
    assert tell(f"COH.GET k KEEP {PAGE}", ReadResult((wrong,))) == b"-WRONGTYPE no\r\n"
    assert refused("COH.GET k KEEP") == "syntax error"


def test_get_answers() -> None:
    value = Value(b"v", VERSION, "l1", 12.3456, stale=True)
    absent = Value(None, VERSION, "l2", 0.0)
    wrong = Value(None, VERSION, "l2", 0.0, error=ReplyError("WRONGTYPE no"))
    assert tell("COH.GET k", ReadResult((value,))) == b"$1\r\nv\r\n"
    assert tell("COH.GET k", ReadResult((absent,)), True) == b"_\r\n"
    assert tell("COH.GET k META", ReadResult((value,))) == (
        b"*5\r\n$1\r\nv\r\n" + TOLD + b"$2\r\nl1\r\n$6\r\n12.346\r\n:1\r\n"
    )
    assert tell("COH.GET k META", ReadResult((absent,))) == (
        b"*5\r\n$-1\r\n" + TOLD + b"$2\r\nl2\r\n$5\r\n0.000\r\n:0\r\n"
    )
    assert tell("COH.GET k META", ReadResult((wrong,))) == b"-WRONGTYPE no\r\n"


def test_get_tells_the_expiry() -> None:
    ends = Value(b"v", VERSION, "l1", 0.0, expires_in_ms=1500.9)
    never = Value(b"v", VERSION, "l1", 0.0)
    wrong = Value(None, VERSION, "l2", 0.0, error=ReplyError("WRONGTYPE no"))
    head = b"*6\r\n$1\r\nv\r\n" + TOLD + b"$2\r\nl1\r\n$5\r\n0.000\r\n:0\r\n"
    assert tell("COH.GET k META TTL", ReadResult((ends,))) == head + b":1500\r\n"
    assert tell("COH.GET k TTL", ReadResult((never,))) == head + b":-1\r\n"
    assert tell("COH.GET k TTL", ReadResult((wrong,))) == b"-WRONGTYPE no\r\n"


# -- COH.SET ----------------------------------------------------------------------------


def test_set() -> None:
    assert write("COH.SET k v") == Write(
        (
            Mutation(
                (b"SET", b"k", b"v"),
                keys=(b"k",),
                keeps=b"v",
                expected_reply=b"OK",
                reply_is_known=True,
            ),
        )
    )
    full = write(
        "COH.SET k v PX 500 TAGS 2 a b ACK all TIMEOUT 50 REPLICAS 1 IFVER 0f1e2d3c4b5a6978:42"
    )
    (mutation,) = full.mutations
    assert mutation.argv == (b"SET", b"k", b"v", b"PX", b"500")
    assert mutation.label == (b"a", b"b", b"coh:life=500")
    assert mutation.if_version == VERSION
    assert mutation.keeps_ttl_ms == 500.0
    assert (full.ack, full.timeout_ms, full.replicas) == (Level.ALL, 50.0, 1)


@pytest.mark.parametrize(
    ("text", "level"),
    [("none", Level.NONE), ("REDIS", Level.REDIS), ("quorum", Level.QUORUM), ("2", 2)],
)
def test_levels(text: str, level: int) -> None:
    assert write(f"COH.SET k v ACK {text}").ack == level


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("NO", "syntax error"),
        ("NO x", "syntax error"),
        ("PX", "syntax error"),
        ("PX 0", "invalid expire time in 'coh.set' command"),
        ("PX -1", "invalid expire time in 'coh.set' command"),
        ("PX x", "value is not an integer or out of range"),
        ("TAGS 2 a", "syntax error"),
        ("TAGS 0", "value is not an integer or out of range"),
        ("TAGS x", "value is not an integer or out of range"),
        ("TAGS 99999999999 a", "value is not an integer or out of range"),
        ("TAGS 4 a b c d", "a value has at most 3 tags (limits.max_tags)"),
        ("ACK most", "ack is one of none, redis, quorum, all or a number of nodes from 1"),
        ("ACK", "syntax error"),
        ("TIMEOUT -1", TIMEOUT_IS),
        ("TIMEOUT 3600001", TIMEOUT_IS),
        ("TIMEOUT 1s", TIMEOUT_IS),
        ("REPLICAS 1001", "REPLICAS is a whole number from 0 to 1000"),
        ("TAGS 1 a TAGS 1 b", "syntax error"),
        ("ACK all ACK none", "syntax error"),
    ],
)
def test_set_refused(options: str, told: str) -> None:
    assert refused(f"COH.SET k v {options}") == told


def test_the_longest_wait_is_the_same_as_over_http() -> None:
    assert write("COH.INVALIDATE ALL TIMEOUT 3600000").timeout_ms == MAX_ACK_TIMEOUT_MS
    assert refused("COH.DEL k TIMEOUT 3600001") == TIMEOUT_IS


def test_a_tag_is_a_name() -> None:
    long = "x" * 51
    assert refused(f"COH.SET k v TAGS 1 {long}").startswith("a tag of 51 bytes is longer than")
    planner = COMMANDS[b"COH.SET"].plan
    assert planner is not None
    with pytest.raises(UsageError, match="a tag must not be empty"):
        planner([b"COH.SET", b"k", b"v", b"TAGS", b"1", b""], BOUNDS)
    assert write("COH.SET k v TAGS 3 a b a").mutations[0].label == (b"a", b"b")


def test_set_answers() -> None:
    done = WriteResult((b"OK",), VERSION, {})
    assert tell("COH.SET k v", done) == TOLD
    assert tell("COH.SET k v ACK none", WriteResult((b"OK",), None, {}), True) == b"_\r\n"
    failed = WriteResult((ReplyError("ERR no"),), None, {})
    assert tell("COH.SET k v", failed) == b"-ERR no\r\n"


# -- COH.DEL ----------------------------------------------------------------------------


def test_del() -> None:
    request = write("COH.DEL a b")
    (mutation,) = request.mutations
    assert mutation.argv == (b"DEL", b"a", b"b")
    assert mutation.op == Op.DELETE
    assert request.ack is None


@pytest.mark.parametrize(
    ("text", "keys", "ack", "timeout_ms"),
    [
        ("a ACK all", ["a"], Level.ALL, None),
        ("a b timeout 5 ack 2", ["a", "b"], 2, 5.0),
        ("ACK ACK all", ["ACK"], Level.ALL, None),
        ("ACK all", ["ACK", "all"], None, None),
        ("ACK TIMEOUT 5", ["ACK"], None, 5.0),
        ("a ACK all b", ["a", "ACK", "all", "b"], None, None),
        ("a ACK 1 ACK 2", ["a", "ACK", "1"], 2, None),
    ],
)
def test_options_of_del_are_at_the_end(
    text: str, keys: list[str], ack: int | None, timeout_ms: float | None
) -> None:
    request = write(f"COH.DEL {text}")
    assert [k.decode() for m in request.mutations for k in m.keys] == keys
    assert (request.ack, request.timeout_ms) == (ack, timeout_ms)


def test_del_refused() -> None:
    assert refused("COH.DEL a ACK most").startswith("ack is one of")
    assert refused("COH.DEL a coh:b") == "keys that start with coh: are reserved"


def test_del_answers() -> None:
    done = WriteResult((1, 200), VERSION, {})
    assert tell("COH.DEL a", done) == b"*2\r\n" + TOLD + b":201\r\n"
    assert tell("COH.DEL a", WriteResult((0,), None, {})) == b"*2\r\n$-1\r\n:0\r\n"


# -- COH.INVALIDATE ---------------------------------------------------------------------


def test_invalidate() -> None:
    request = write("COH.INVALIDATE KEYS 2 a b TAGS 1 t PREFIXES 1 p: ACK all TIMEOUT 9")
    assert request.mutations == (
        Mutation(
            (),
            op=Op.INVALIDATE,
            keys=(b"a", b"b"),
            tags=(b"t",),
            prefixes=(b"p:",),
            frees_memory=True,
        ),
    )
    assert (request.ack, request.timeout_ms) == (Level.ALL, 9.0)
    (mutation,) = write("COH.INVALIDATE all").mutations
    assert mutation.everything
    assert mutation.keys == mutation.tags == mutation.prefixes == ()


def test_invalidating_many_is_cut() -> None:
    keys = " ".join(f"k{i}" for i in range(450))
    tags = " ".join(f"t{i}" for i in range(201))
    mutations = write(f"COH.INVALIDATE KEYS 450 {keys} TAGS 201 {tags} ALL").mutations
    assert [(len(m.keys), len(m.tags), m.everything) for m in mutations] == [
        (200, 200, True),
        (200, 1, False),
        (50, 0, False),
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("TAGS 1 coh:life=1", "tags that start with coh: are the daemon's own"),
        ("ACK all", "COH.INVALIDATE needs KEYS, TAGS, PREFIXES or ALL"),
        ("KEYS 2 a", "syntax error"),
        ("KEYS 0", "value is not an integer or out of range"),
        ("NO x", "syntax error"),
        ("KEYS 1 coh:x", "keys that start with coh: are reserved"),
    ],
)
def test_invalidate_refused(options: str, told: str) -> None:
    assert refused(f"COH.INVALIDATE {options}") == told


def test_a_prefix_of_nothing_is_not_everything() -> None:
    planner = COMMANDS[b"COH.INVALIDATE"].plan
    assert planner is not None
    with pytest.raises(UsageError, match="a prefix must not be empty"):
        planner([b"COH.INVALIDATE", b"PREFIXES", b"1", b""], BOUNDS)


def test_invalidate_answers_who_acknowledged_and_who_did_not() -> None:
    heard = {"a": 0.0, "b": 0.4127}
    done = WriteResult((None,), VERSION, heard, missing=("c",), fenced=("d", "e"))
    assert tell("COH.INVALIDATE ALL", done) == (
        b"*4\r\n" + TOLD + b"*2\r\n*2\r\n$1\r\na\r\n$5\r\n0.000\r\n*2\r\n$1\r\nb\r\n$5\r\n0.413\r\n"
        b"*1\r\n$1\r\nc\r\n*2\r\n$1\r\nd\r\n$1\r\ne\r\n"
    )
    late = WriteResult((None,), VERSION, {}, missing=("c",), satisfied=False)
    assert tell("COH.INVALIDATE ALL ACK all", late) == (
        b"-NOACK committed 0f1e2d3c4b5a6978:42 missing=c\r\n"
    )


# -- COH.SET … NX -------------------------------------------------------------------------


def test_set_of_what_is_not_there() -> None:
    assert write("COH.SET k v PX 500 TAGS 1 t NX").mutations == (
        Mutation(
            (b"SET", b"k", b"v", b"PX", b"500", b"NX"),
            keys=(b"k",),
            unchanged=b"n",
            label=(b"t", b"coh:life=500"),
        ),
    )
    assert refused("COH.SET k v NX IFVER 0f1e2d3c4b5a6978:42") == "syntax error"
    stored = WriteResult((b"OK",), VERSION, {})
    assert tell("COH.SET k v NX", stored) == TOLD
    there = WriteResult((None,), None, {})
    assert tell("COH.SET k v NX", there) == b"-CONFLICT the key is there already\r\n"
