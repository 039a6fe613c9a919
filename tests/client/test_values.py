from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coherenced.client.values import MARKER, MSGPACK, RAW
from coherenced.errors import UsageError

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(plain)
def test_what_is_stored_comes_back(value: Any) -> None:
    back = MSGPACK.loads(MSGPACK.dumps(value))
    assert back == value
    assert type(back) is type(value)


@given(st.binary())
def test_bytes_of_other_languages_come_back_as_bytes(stored: bytes) -> None:
    if not stored.startswith(MARKER):
        assert MSGPACK.loads(stored) == stored


@given(st.binary())
def test_bytes_are_stored_as_they_are_unless_they_look_marked(value: bytes) -> None:
    stored = MSGPACK.dumps(value)
    assert stored == value or (value.startswith(MARKER) and stored.startswith(MARKER))
    assert MSGPACK.loads(stored) == value


def test_the_marker_is_the_byte_that_neither_msgpack_nor_text_uses() -> None:
    assert MSGPACK.dumps("a") == b"\xc1\xa1a"
    assert MSGPACK.dumps(1) == b"\xc1\x01"
    assert MSGPACK.dumps(b"\xc1x") == b"\xc1\xc4\x02\xc1x"
    assert all(MARKER[0] not in chr(point).encode() for point in range(0xD800))


@pytest.mark.parametrize(
    "foreign", [b"\xc1", b"\xc1\xc1", b"\xc1\x91", b"\xc1\x01\x02", b"\xc1\xa1\xff"]
)
def test_foreign_bytes_behind_a_marker_come_back_as_they_are(foreign: bytes) -> None:
    assert MSGPACK.loads(foreign) == foreign


def test_a_deep_nest_of_foreign_bytes_is_no_crash() -> None:
    nest = b"\xc1" + b"\x91" * 100_000
    assert MSGPACK.loads(nest) == nest


def test_other_types_become_what_msgpack_has_for_them() -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    moment = datetime(2024, 5, 17, 12, tzinfo=UTC)
    assert MSGPACK.loads(MSGPACK.dumps((1, 2))) == [1, 2]
    assert MSGPACK.loads(MSGPACK.dumps(Point(3))) == {"x": 3}
    assert MSGPACK.loads(MSGPACK.dumps(moment)) == moment
    assert MSGPACK.loads(MSGPACK.dumps(bytearray(b"ab"))) == b"ab"
    assert MSGPACK.loads(MSGPACK.dumps(memoryview(b"ab"))) == b"ab"


@pytest.mark.parametrize("value", [object(), 2**64, 1j, {"a": object()}])
def test_what_msgpack_cannot_hold_is_a_usage_error(value: object) -> None:
    with pytest.raises(UsageError, match="cannot be stored"):
        MSGPACK.dumps(value)


def test_without_a_serializer_only_bytes_are_stored() -> None:
    assert RAW.dumps(bytearray(b"\xc1x")) == b"\xc1x"
    assert RAW.loads(b"\xc1\x01") == b"\xc1\x01"
    with pytest.raises(UsageError, match="bytes, not str"):
        RAW.dumps("text")


def test_json_fits_the_serializer_protocol() -> None:
    class Json:
        def dumps(self, value: Any) -> bytes:
            return json.dumps(value).encode()

        def loads(self, stored: bytes) -> Any:
            return json.loads(stored)

    assert Json().loads(Json().dumps({"a": [1]})) == {"a": [1]}
