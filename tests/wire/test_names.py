"""Names in JSON: none is written like another, and all can be read."""

from __future__ import annotations

import pytest

from coherenced.wire.names import json_name, legible


@pytest.mark.parametrize(
    ("raw", "written", "shown"),
    [
        (b"user:1", "user:1", "user:1"),
        ("é".encode(), "é", "é"),
        (b"\xff\x00", {"base64": "/wA="}, "\\xff\x00"),
        (rb"\xff", "\\xff", r"\xff"),
        (b'{"base64": "/wA="}', '{"base64": "/wA="}', '{"base64": "/wA="}'),
        (b"", "", ""),
    ],
)
def test_a_name_is_its_text_or_base64(raw: bytes, written: object, shown: str) -> None:
    assert json_name(raw) == written
    assert legible(json_name(raw)) == shown


@pytest.mark.parametrize("other", [None, 7, {"base64": 5}, {"base64": "x"}, {"a": 1}, [1]])
def test_what_is_no_name_is_shown_as_it_is(other: object) -> None:
    assert legible(other) == str(other)
