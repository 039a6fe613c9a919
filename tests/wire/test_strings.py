"""What each of Redis's commands asks of the node."""

from __future__ import annotations

from typing import Any

import pytest

from coherenced.core.model import Mutation, Op, Query, ReplyError
from coherenced.core.requests import Ask, Read, Write
from coherenced.errors import UsageError
from coherenced.wire.answers import answer
from coherenced.wire.commands import COMMANDS
from coherenced.wire.plan import Bounds, Plan
from coherenced.wire.strings import setrange

BOUNDS = Bounds(max_key_bytes=100, max_value_bytes=1000)


def plan(text: str) -> Plan:
    argv = [word.encode() for word in text.split()]
    planner = COMMANDS[argv[0]].plan
    assert planner is not None
    return planner(argv, BOUNDS)


def mutation(text: str) -> Mutation:
    (request,) = plan(text).requests
    assert isinstance(request, Write)
    assert not request.atomic
    assert request.ack is None
    (only,) = request.mutations
    assert only.argv == tuple(word.encode() for word in text.split())
    return only


def test_reads_that_l1_answers() -> None:
    assert plan("GET k").requests == (Read((b"k",)),)
    assert plan("MGET a b a").requests == (Read((b"a", b"b", b"a")),)


@pytest.mark.parametrize(
    "text",
    ["STRLEN k", "GETRANGE k 0 -1", "SUBSTR k 0 1", "TYPE k", "TTL k", "PTTL k", "EXPIRETIME k"],
)
def test_reads_that_redis_answers(text: str) -> None:
    argv = tuple(word.encode() for word in text.split())
    assert plan(text).requests == (Ask(Query(argv, (b"k",))),)


def test_reads_without_keys() -> None:
    assert plan("DBSIZE").requests == (Ask(Query((b"DBSIZE",))),)
    assert plan("SCAN 0 COUNT 5").requests == (Ask(Query((b"SCAN", b"0", b"COUNT", b"5"))),)


def test_our_own_keys_are_not_scanned() -> None:
    from coherenced.core.requests import AskResult

    told = AskResult([b"7", [b"a", b"coh:{0}:meta", b"cohx"]])
    assert (
        answer(plan("SCAN 0"), [told], False) == b"*2\r\n$1\r\n7\r\n*2\r\n$1\r\na\r\n$4\r\ncohx\r\n"
    )
    error = AskResult(ReplyError("ERR invalid cursor"))
    assert answer(plan("SCAN x"), [error], False) == b"-ERR invalid cursor\r\n"
    told = AskResult([b"a", b"coh:{0}:meta"])
    assert answer(plan("KEYS *"), [told], False) == b"*1\r\n$1\r\na\r\n"


def test_counts_of_many_keys_are_cut() -> None:
    keys = [f"k{i}" for i in range(450)]
    asked = plan("EXISTS " + " ".join(keys)).requests
    assert [len(r.query.keys) for r in asked] == [200, 200, 50]  # type: ignore[union-attr]


# -- SET --------------------------------------------------------------------------------

SET_CASES: list[tuple[str, dict[str, Any]]] = [
    ("SET k v", {"keeps": b"v", "reply_is_known": True}),
    ("SET k v EX 10", {"keeps": b"v", "keeps_ttl_ms": 10_000.0, "reply_is_known": True}),
    ("SET k v px 10", {"keeps": b"v", "keeps_ttl_ms": 10.0, "reply_is_known": True}),
    ("SET k v EX 0", {"reply_is_known": True}),
    ("SET k v EX -5", {"reply_is_known": True}),
    ("SET k v EX x", {"reply_is_known": True}),
    ("SET k v EX", {"reply_is_known": True}),
    ("SET k v EX 99999999999999999", {"reply_is_known": True}),
    ("SET k v EX 9007199254740992", {"reply_is_known": True}),
    ("SET k v EXAT 10", {"reply_is_known": True}),
    ("SET k v PXAT 10", {"reply_is_known": True}),
    ("SET k v KEEPTTL", {"reply_is_known": True}),
    ("SET k v NX", {"unchanged": b"n"}),
    ("SET k v xx PX 5", {"unchanged": b"n", "keeps_ttl_ms": 5.0}),
    ("SET k v GET", {}),
    ("SET k v GET EX 10", {"keeps_ttl_ms": 10_000.0}),
    ("SET k v NX GET", {}),
    ("SET k v GET NX", {}),
    ("SET k v XX GET", {"unchanged": b"n"}),
    ("SET k v IFEQ old", {"unchanged": b"n"}),
    ("SET k v IFEQ NX", {"unchanged": b"n"}),
    ("SET k v IFEQ GET GET", {"unchanged": b"n"}),
    ("SET k v NONSENSE", {"unchanged": b"n"}),
]


@pytest.mark.parametrize(("text", "expected"), SET_CASES)
def test_set(text: str, expected: dict[str, Any]) -> None:
    got = mutation(text)
    assert got.keys == (b"k",)
    assert got.op == Op.WRITE
    assert got.unchanged == expected.get("unchanged", b"")
    assert got.keeps == expected.get("keeps")
    if got.keeps is not None:
        assert got.keeps_ttl_ms == expected.get("keeps_ttl_ms")
    assert got.reply_is_known == expected.get("reply_is_known", False)
    assert got.expected_reply == (b"OK" if got.reply_is_known else None)


@pytest.mark.parametrize(
    ("text", "reply", "told"),
    [
        ("SET k v", b"OK", b"+OK\r\n"),
        ("SET k v NX", None, b"$-1\r\n"),
        ("SET k v GET", b"OK", b"$2\r\nOK\r\n"),
        ("SET k v GET", None, b"$-1\r\n"),
        ("SET k v IFEQ GET", b"OK", b"+OK\r\n"),
        ("TYPE k", b"string", b"+string\r\n"),
        ("GETSET k v", b"OK", b"$2\r\nOK\r\n"),
        ("INCRBYFLOAT k 1", b"1.5", b"$3\r\n1.5\r\n"),
        ("SETEX k 1 v", b"OK", b"+OK\r\n"),
        ("MSET k v", b"OK", b"+OK\r\n"),
        ("FLUSHALL", b"OK", b"+OK\r\n"),
        ("SETNX k v", 1, b":1\r\n"),
        ("TTL k", -2, b":-2\r\n"),
    ],
)
def test_a_status_is_told_from_a_bulk(text: str, reply: Any, told: bytes) -> None:
    from coherenced.core.requests import AskResult, WriteResult

    made = plan(text)
    outcome = (
        AskResult(reply) if isinstance(made.requests[0], Ask) else WriteResult((reply,), None, {})
    )
    assert answer(made, [outcome], False) == told


def test_setex() -> None:
    assert mutation("SETEX k 10 v").keeps_ttl_ms == 10_000.0
    assert mutation("PSETEX k 10 v").keeps_ttl_ms == 10.0
    assert mutation("PSETEX k 10 v").keeps == b"v"
    assert mutation("SETEX k 0 v").keeps is None
    assert mutation("SETEX k x v").keeps is None


# -- other writes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "unchanged"),
    [
        ("SETNX k v", b"z"),
        ("GETSET k v", b""),
        ("GETDEL k", b"n"),
        ("GETEX k EX 10", b"n"),
        ("APPEND k v", b""),
        ("SETRANGE k 0 v", b"z"),
        ("INCR k", b""),
        ("DECRBY k 5", b""),
        ("INCRBYFLOAT k 1.5", b""),
        ("EXPIRE k 10 NX", b"z"),
        ("PEXPIREAT k 10", b"z"),
        ("PERSIST k", b"z"),
        ("DEL k", b"z"),
        ("UNLINK k", b"z"),
        ("MSETNX k v", b"z"),
    ],
)
def test_which_reply_means_that_nothing_changed(text: str, unchanged: bytes) -> None:
    got = mutation(text)
    assert got.unchanged == unchanged
    assert got.keys == (b"k",)
    assert got.is_write
    assert got.keeps is None


def test_counters_are_exact() -> None:
    for text in ("INCR k", "DECR k", "INCRBY k 1", "DECRBY k 1"):
        assert mutation(text).exact_integer
    assert not mutation("INCRBYFLOAT k 1").exact_integer


def test_getex_without_options_is_a_read_in_its_place() -> None:
    assert not mutation("GETEX k").is_write
    assert mutation("GETEX k PERSIST").is_write


def test_what_frees_memory() -> None:
    for text in ("DEL k", "UNLINK k", "GETDEL k", "FLUSHDB", "FLUSHALL ASYNC"):
        assert mutation(text).frees_memory
    for text in ("SET k v", "EXPIRE k 1"):
        assert not mutation(text).frees_memory


def test_deleting_many_keys_is_cut() -> None:
    keys = [b"k%d" % i for i in range(401)]
    (request,) = plan("DEL " + " ".join(k.decode() for k in keys)).requests
    assert isinstance(request, Write)
    assert [len(m.keys) for m in request.mutations] == [200, 200, 1]
    assert b"".join(k for m in request.mutations for k in m.keys) == b"".join(keys)
    assert all(m.argv == (b"DEL", *m.keys) and m.op == Op.DELETE for m in request.mutations)
    assert [m.reply_is_known for m in request.mutations] == [False, False, True]


def test_setting_many_keys_is_cut() -> None:
    pairs = [w for i in range(250) for w in (f"k{i}", f"v{i}")]
    (request,) = plan("MSET " + " ".join(pairs)).requests
    assert isinstance(request, Write)
    first, second = request.mutations
    assert len(first.keys) == 200
    assert second.keys[0] == b"k200"
    assert second.argv[:3] == (b"MSET", b"k200", b"v200")
    assert first.reply_is_known


def test_setting_all_or_none_is_not_cut() -> None:
    pairs = " ".join(f"k{i} v" for i in range(201))
    with pytest.raises(UsageError, match="MSETNX takes at most 200 keys"):
        plan(f"MSETNX {pairs}")


@pytest.mark.parametrize("text", ["MSET a b c", "MSETNX a b c"])
def test_pairs_are_pairs(text: str) -> None:
    name = text.split()[0].lower()
    with pytest.raises(UsageError, match=f"wrong number of arguments for '{name}' command"):
        plan(text)


def test_flushing_covers_everything() -> None:
    got = mutation("FLUSHDB SYNC")
    assert got.op == Op.FLUSH
    assert got.everything
    assert got.keys == ()
    for text in ("FLUSHDB NO", "FLUSHALL SYNC SYNC"):
        with pytest.raises(UsageError, match=r"^syntax error$"):
            plan(text)


@pytest.mark.parametrize(
    "text",
    [
        *("GET coh:x", "MGET a coh:x", "SET coh:x v", "DEL a coh:x", "MSET a 1 coh:x 2"),
        *("EXISTS a coh:x", "INCR coh:x", "TYPE coh:x", "GETDEL coh:x", "GETEX coh:x"),
        *("MSETNX coh:x 1", "SETEX coh:x 1 v", "EXPIRE coh:x 1", "TOUCH coh:x"),
    ],
)
def test_our_own_keys_cannot_be_touched(text: str) -> None:
    with pytest.raises(UsageError, match=r"^keys that start with coh: are reserved$"):
        plan(text)


def test_keys_that_are_too_long() -> None:
    with pytest.raises(UsageError, match="a key of 101 bytes is longer than"):
        plan("GET " + "x" * 101)


def test_mget_answers_nil_for_other_types_and_passes_other_errors_on() -> None:
    from coherenced.core.model import Version
    from coherenced.core.requests import ReadResult, Value

    def value(v: bytes | None, error: ReplyError | None = None) -> Value:
        return Value(v, Version(b"e" * 16, 1), "l2", 0.0, error=error)

    wrong = value(None, ReplyError("WRONGTYPE Operation against a key"))
    made = plan("MGET a b c")
    told = answer(made, [ReadResult((value(b"x"), wrong, value(None)))], False)
    assert told == b"*3\r\n$1\r\nx\r\n$-1\r\n$-1\r\n"
    denied = value(None, ReplyError("NOPERM no permissions"))
    assert answer(made, [ReadResult((value(b"x"), denied))], False) == b"-NOPERM no permissions\r\n"
    assert answer(plan("GET a"), [ReadResult((wrong,))], True).startswith(b"-WRONGTYPE")


def test_append_says_how_long_the_value_may_become() -> None:
    assert mutation("APPEND k v").most_bytes == BOUNDS.max_value_bytes
    assert mutation("SET k v").most_bytes == mutation("INCR k").most_bytes == 0


def test_setrange_makes_no_value_longer_than_the_largest() -> None:
    for fits in (
        "SETRANGE k 999 v",
        "SETRANGE k 0 vv",
        "SETRANGE k x v",
        f"SETRANGE k {1 << 63} v",
    ):
        mutation(fits)  # the last two are the server's to refuse
    for too_long in ("SETRANGE k 1000 v", "SETRANGE k 999 vv", f"SETRANGE k {(1 << 63) - 1} v"):
        with pytest.raises(UsageError, match=r"string exceeds maximum allowed size \(proto-max-"):
            plan(too_long)
    assert setrange([b"SETRANGE", b"k", b"5000", b""], BOUNDS).requests  # changes nothing
