"""COH.MGET: its options are recognised at the end only."""

from __future__ import annotations

import pytest

from coherenced.core.model import ReplyError, Version
from coherenced.core.requests import Outcome, Read, ReadResult, Value
from coherenced.errors import UsageError
from coherenced.wire.answers import answer
from coherenced.wire.commands import COMMANDS
from coherenced.wire.plan import Bounds, Plan

BOUNDS = Bounds(max_key_bytes=50, max_tags=3)
VERSION = Version(b"0f1e2d3c4b5a6978", 42)
TOLD = b"$19\r\n0f1e2d3c4b5a6978:42\r\n"


def plan(text: str) -> Plan:
    argv = [word.encode() for word in text.split()]
    planner = COMMANDS[argv[0]].plan
    assert planner is not None
    return planner(argv, BOUNDS)


def tell(text: str, outcome: Outcome, resp3: bool = False) -> bytes:
    return answer(plan(text), [outcome], resp3)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", Read((b"a",))),
        ("a b snapshot", Read((b"a", b"b"), snapshot=True)),
        ("a SNAPSHOT MAXSTALE 5 META", Read((b"a",), max_staleness_ms=5.0, snapshot=True)),
        ("a MINVER 0f1e2d3c4b5a6978:42", Read((b"a",), min_version=VERSION)),
        ("META", Read((b"META",))),
        ("SNAPSHOT SNAPSHOT", Read((b"SNAPSHOT",), snapshot=True)),
        ("META TTL META a", Read((b"META", b"TTL", b"META", b"a"))),
        ("a META META", Read((b"a", b"META"))),
        ("MAXSTALE 5", Read((b"MAXSTALE", b"5"))),
        ("a MAXSTALE 5 MAXSTALE 6", Read((b"a", b"MAXSTALE", b"5"), max_staleness_ms=6.0)),
    ],
)
def test_what_is_asked(text: str, wanted: Read) -> None:
    assert plan(f"COH.MGET {text}").requests == (wanted,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a MAXSTALE x", "MAXSTALE is a whole number of milliseconds from 0 to 1000000000000000"),
        ("a coh:b", "keys that start with coh: are reserved"),
        ("k " * 201 + "SNAPSHOT", "a snapshot has at most 200 keys, this one has 201"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(f"COH.MGET {text}")
    assert str(caught.value) == told


def test_answers() -> None:
    there = Value(b"v", VERSION, "l1", 0.5, expires_in_ms=70.0)
    absent = Value(None, VERSION, "l2", 0.0)
    wrong = Value(None, VERSION, "l2", 0.0, error=ReplyError("WRONGTYPE no"))
    broken = Value(None, VERSION, "l2", 0.0, error=ReplyError("ERR no"))
    three = ReadResult((there, absent, wrong))
    assert tell("COH.MGET a b c", three) == b"*3\r\n$1\r\nv\r\n$-1\r\n$-1\r\n"
    first = b"$1\r\nv\r\n" + TOLD + b"$2\r\nl1\r\n$5\r\n0.500\r\n:0\r\n"
    second = b"$-1\r\n" + TOLD + b"$2\r\nl2\r\n$5\r\n0.000\r\n:0\r\n"
    two = ReadResult((there, absent))
    assert tell("COH.MGET a b META", two) == b"*2\r\n*5\r\n" + first + b"*5\r\n" + second
    told = tell("COH.MGET a b META TTL", two)
    assert told == b"*2\r\n*6\r\n" + first + b":70\r\n*6\r\n" + second + b":-1\r\n"
    assert tell("COH.MGET a b", ReadResult((there, broken))) == b"-ERR no\r\n"
