"""Replies as bytes, in RESP2 and RESP3."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coherenced.core.model import ReplyError
from coherenced.wire import resp

MORE = object()


def decoded(data: bytes) -> Any:
    reader = hiredis.Reader(replyError=ReplyError, notEnoughData=MORE)
    reader.feed(data)
    value = reader.gets()
    assert value is not MORE
    assert reader.gets() is MORE
    return value


def test_the_simple_ones() -> None:
    assert resp.integer(-7) == b":-7\r\n"
    assert resp.integer(2**63 - 1) == b":9223372036854775807\r\n"
    assert resp.status(b"OK") == resp.OK == b"+OK\r\n"
    assert resp.bulk(b"") == b"$0\r\n\r\n"
    assert resp.bulk(b"a\r\n\x00") == b"$4\r\na\r\n\x00\r\n"
    assert resp.array([]) == resp.EMPTY_ARRAY == b"*0\r\n"
    assert resp.array([resp.OK, resp.integer(1)]) == b"*2\r\n+OK\r\n:1\r\n"
    assert resp.push([resp.bulk(b"x")]) == b">1\r\n$1\r\nx\r\n"


def test_nil_in_both_protocols() -> None:
    assert resp.nil(False) == resp.NIL2 == b"$-1\r\n"
    assert resp.nil(True) == resp.NIL3 == b"_\r\n"
    assert resp.nil_array(False) == b"*-1\r\n"
    assert resp.nil_array(True) == b"_\r\n"


def test_an_error_is_one_line() -> None:
    assert resp.error("ERR a\r\nb\nc") == b"-ERR a  b c\r\n"
    assert resp.error("ERR '\udcff' ö") == b"-ERR '\xff' \xc3\xb6\r\n"


def test_verbatim_text() -> None:
    assert resp.verbatim(b"abc", False) == b"$3\r\nabc\r\n"
    assert resp.verbatim(b"abc", True) == b"=7\r\ntxt:abc\r\n"
    assert decoded(resp.verbatim(b"abc", True)) == b"abc"


def test_nested_values() -> None:
    value: resp.Value = {
        b"n": 1,
        b"t": "ö",
        b"l": [None, b"x", True, 1.5, resp.Status(b"OK")],
        b"m": {b"a": []},
    }
    assert resp.encode(value, False) == (
        b"*8\r\n$1\r\nn\r\n:1\r\n$1\r\nt\r\n$2\r\n\xc3\xb6\r\n$1\r\nl\r\n*5\r\n$-1\r\n$1\r\nx\r\n"
        b":1\r\n$3\r\n1.5\r\n+OK\r\n$1\r\nm\r\n*2\r\n$1\r\na\r\n*0\r\n"
    )
    assert decoded(resp.encode(value, True)) == {
        b"n": 1,
        b"t": "ö".encode(),
        b"l": [None, b"x", 1, b"1.5", b"OK"],
        b"m": {b"a": []},
    }


replies = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.binary(max_size=50)
    | st.builds(ReplyError, st.from_regex(r"[A-Z]+ [a-z ]*", fullmatch=True)),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


@given(replies, st.booleans())
def test_what_a_client_reads_is_what_was_replied(reply: Any, resp3: bool) -> None:
    assert decoded(resp.reply(reply, resp3)) == reply


@pytest.mark.parametrize("resp3", [False, True])
def test_bytes_of_another_class_are_bulk_strings(resp3: bool) -> None:
    class Text(bytes):
        pass

    assert resp.reply(Text(b"x"), resp3) == b"$1\r\nx\r\n"
