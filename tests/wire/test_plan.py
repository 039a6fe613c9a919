"""What planners are made of."""

from __future__ import annotations

import pytest

from coherenced.core.model import Mutation, Query, ReplyError
from coherenced.core.requests import Ask, Read, Write
from coherenced.errors import UsageError
from coherenced.wire.plan import (
    Bounds,
    Plan,
    checked,
    in_transaction,
    merge,
    parts,
    status_shape,
    whole_number,
)

WRONG = ReplyError("WRONGTYPE no")


def test_replies_of_a_cut_operation_are_one_reply() -> None:
    assert merge([7]) == 7
    assert merge([None]) is None
    assert merge([200, 200, 3]) == 403
    assert merge([0, 0]) == 0
    assert merge([b"OK", b"OK"]) == b"OK"
    assert merge([b"OK", WRONG, b"OK"]) is WRONG
    assert merge([3, WRONG]) is WRONG
    assert merge([]) is None


def test_keys_are_checked() -> None:
    bounds = Bounds(max_key_bytes=5)
    assert checked(b"12345", bounds) == b"12345"
    assert checked(b"", bounds) == b""
    with pytest.raises(UsageError, match=r"a key of 6 bytes is longer than limits.max_key_bytes"):
        checked(b"123456", bounds)
    with pytest.raises(UsageError, match="keys that start with coh: are reserved"):
        checked(b"coh:", bounds)
    assert checked(b"COH:x", bounds) == b"COH:x"


def test_parts() -> None:
    assert parts([]) == []
    assert parts([b"a"]) == [(b"a",)]
    assert [len(p) for p in parts([b"k"] * 401)] == [200, 200, 1]


def test_a_status_is_not_a_bulk() -> None:
    assert status_shape(b"OK", False) == b"+OK\r\n"
    assert status_shape(None, True) == b"_\r\n"
    assert status_shape(WRONG, False) == b"-WRONGTYPE no\r\n"


@pytest.mark.parametrize(
    "text", [b"", b"-", b"+1", b"01", b"-0", b" 1", b"1 ", b"x", b"1.0", b"9" * 21]
)
def test_what_is_no_number(text: bytes) -> None:
    with pytest.raises(UsageError, match="value is not an integer or out of range"):
        whole_number(text, -(2**63), 2**63 - 1)


def test_numbers_in_their_range() -> None:
    assert whole_number(b"0", 0, 5) == 0
    assert whole_number(b"-9223372036854775808", -(2**63), 0) == -(2**63)
    for text in (b"6", b"-1"):
        with pytest.raises(UsageError):
            whole_number(text, 0, 5)


def test_the_same_command_inside_a_transaction() -> None:
    set_ = Mutation((b"SET", b"k", b"v"), keys=(b"k",))
    assert in_transaction(Plan((Write((set_,)),)), [b"SET", b"k", b"v"]) == (set_,)
    read = in_transaction(Plan((Read((b"a", b"b")),)), [b"MGET", b"a", b"b"])
    assert read == (Mutation((b"MGET", b"a", b"b"), keys=(b"a", b"b"), is_write=False),)
    asks = (Ask(Query((b"EXISTS", b"a"), (b"a",))), Ask(Query((b"EXISTS", b"b"), (b"b",))))
    assert in_transaction(Plan(asks), [b"EXISTS", b"a", b"b"]) == (
        Mutation((b"EXISTS", b"a"), keys=(b"a",), is_write=False),
        Mutation((b"EXISTS", b"b"), keys=(b"b",), is_write=False),
    )
