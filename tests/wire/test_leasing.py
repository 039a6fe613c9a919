"""COH.LEASE, COH.FILL, COH.RELEASE: what they ask of the node, and how they answer."""

from __future__ import annotations

import pytest

from coherenced.core.model import ReplyError, Version
from coherenced.core.requests import (
    Fault,
    FaultKind,
    Fill,
    Lease,
    LeaseResult,
    Level,
    Outcome,
    Release,
    Request,
    Value,
    WriteResult,
)
from coherenced.errors import UsageError
from coherenced.wire.answers import answer
from coherenced.wire.commands import COMMANDS, Access
from coherenced.wire.plan import Bounds, Plan

BOUNDS = Bounds(max_key_bytes=50, max_tags=3)
VERSION = Version(b"0f1e2d3c4b5a6978", 42)
TOLD = b"$19\r\n0f1e2d3c4b5a6978:42\r\n"
TOKEN = b"0123456789abcdef"


def plan(text: str) -> Plan:
    argv = [word.encode() for word in text.split()]
    planner = COMMANDS[argv[0]].plan
    assert planner is not None
    return planner(argv, BOUNDS)


def request(text: str) -> Request:
    (wanted,) = plan(text).requests
    return wanted


def tell(text: str, outcome: Outcome, resp3: bool = False) -> bytes:
    return answer(plan(text), [outcome], resp3)


def test_what_is_asked() -> None:
    assert request("COH.LEASE k") == Lease(b"k", 10_000, 0.0, None, None)
    full = request("COH.LEASE k px 500 WAIT 2000 MAXSTALE 0 REFRESH 30")
    assert full == Lease(b"k", 500, 2000.0, 0.0, 30.0)
    assert request("COH.LEASE k EPHEMERAL PX 500") == Lease(b"k", 500)
    assert plan("COH.LEASE k ephemeral").ephemeral and not plan("COH.LEASE k").ephemeral
    assert request("COH.FILL k t v") == Fill(b"k", b"t", b"v")
    filled = request("COH.FILL k t v PX 9 TAGS 2 a b ACK all TIMEOUT 50")
    assert filled == Fill(b"k", b"t", b"v", 9, (b"a", b"b", b"coh:life=9"), Level.ALL, 50.0)
    graced = request("COH.FILL k t v PX 9 GRACE 4")
    assert graced == Fill(b"k", b"t", b"v", 9, (b"coh:life=9/4",))
    assert request("COH.RELEASE k t") == Release(b"k", b"t")
    assert request("COH.RELEASE k t absent 700") == Release(b"k", b"t", 700)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("COH.LEASE coh:k", "keys that start with coh: are reserved"),
        ("COH.LEASE k PX", "syntax error"),
        ("COH.LEASE k PX 0", "PX is a whole number of milliseconds from 1 to 3600000"),
        ("COH.LEASE k px 3600001", "PX is a whole number of milliseconds from 1 to 3600000"),
        ("COH.LEASE k WAIT 600001", "WAIT is a whole number of milliseconds from 0 to 600000"),
        ("COH.LEASE k WHAT", "syntax error"),
        ("COH.FILL k t v PX 0", "PX is a whole number of milliseconds from 1 to 1000000000000000"),
        ("COH.FILL k t v PX 5 PX 6", "syntax error"),
        ("COH.FILL k t v REPLICAS 1", "syntax error"),
        ("COH.FILL k t v TAGS 4 a b c d", "a value has at most 3 tags (limits.max_tags)"),
        ("COH.FILL k t v GRACE 5", "GRACE is less than PX, of which it is the last part"),
        ("COH.FILL k t v PX 5 GRACE 5", "GRACE is less than PX, of which it is the last part"),
        ("COH.FILL k t v TAGS 1 coh:x", "tags that start with coh: are the daemon's own"),
        ("COH.RELEASE k t ABSENT 0", "ABSENT is a whole number of milliseconds from 1 to 86400000"),
        ("COH.RELEASE k t NO", "syntax error"),
        (f"COH.RELEASE k {'x' * 65}", "a token is what a lease has given"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(text)
    assert str(caught.value) == told


def test_a_value_or_a_token_or_neither() -> None:
    value = Value(b"v", VERSION, "l1", 70.9, expires_in_ms=1500.9)
    head = b"*5\r\n$5\r\nVALUE\r\n"
    told = tell("COH.LEASE k", LeaseResult(value))
    assert told == head + b"$1\r\nv\r\n" + TOLD + b":1500\r\n:70\r\n"
    forever = Value(b"v", VERSION, "l1", 0.0)
    assert tell("COH.LEASE k", LeaseResult(forever)).endswith(TOLD + b":-1\r\n:0\r\n")
    absent = Value(None, VERSION, "l2", 0.0, expires_in_ms=10.0)
    assert (
        tell("COH.LEASE k", LeaseResult(absent), True) == head + b"_\r\n" + TOLD + b":10\r\n:0\r\n"
    )
    granted = LeaseResult(None, TOKEN, VERSION)
    token = b"$5\r\nTOKEN\r\n$16\r\n" + TOKEN + b"\r\n" + TOLD
    assert tell("COH.LEASE k", granted) == b"*3\r\n" + token
    assert tell("COH.LEASE k REFRESH 9", granted) == b"*5\r\n" + token + b"$-1\r\n:-1\r\n"
    due = LeaseResult(value, TOKEN, VERSION)
    assert tell("COH.LEASE k REFRESH 9", due) == b"*5\r\n" + token + b"$1\r\nv\r\n:1500\r\n"
    assert tell("COH.LEASE k", LeaseResult()) == b"$-1\r\n"
    wrong = Value(None, VERSION, "l2", 0.0, error=ReplyError("WRONGTYPE no"))
    assert tell("COH.LEASE k", LeaseResult(wrong)) == b"-WRONGTYPE no\r\n"


def test_fills_and_releases() -> None:
    done = WriteResult((b"OK",), VERSION, {})
    assert tell("COH.FILL k t v", done) == TOLD
    refused = Fault(FaultKind.LOST, "load it anew")
    assert tell("COH.FILL k t v", refused) == b"-LOST load it anew\r\n"
    full = WriteResult((ReplyError("OOM no"),), None, {})
    assert tell("COH.FILL k t v", full) == b"-OOM no\r\n"
    late = WriteResult((b"OK",), VERSION, {"a": 0.0}, missing=("b",), satisfied=False)
    assert tell("COH.FILL k t v ACK all", late).startswith(b"-NOACK committed ")
    assert tell("COH.RELEASE k t", WriteResult((1,), VERSION, {})) == b":1\r\n"
    assert tell("COH.RELEASE k t", WriteResult((0,), None, {})) == b":0\r\n"


def test_a_lease_waits_for_writes_before_it() -> None:
    """The connection opens its slot as nobody's: see serve/resp_leases."""
    lease = COMMANDS[b"COH.LEASE"]
    assert lease.access == Access.READ
    assert "blocking" in lease.flags
    assert COMMANDS[b"COH.FILL"].access == COMMANDS[b"COH.RELEASE"].access == Access.WRITE
