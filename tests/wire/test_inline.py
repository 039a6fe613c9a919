"""Inline commands: words and quotes."""

from __future__ import annotations

import pytest

from coherenced.wire.inline import split_words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", []),
        (b"  \t ", []),
        (b"PING", [b"PING"]),
        (b" set  k\tv ", [b"set", b"k", b"v"]),
        (b'set k "a b"', [b"set", b"k", b"a b"]),
        (b'"\\x41\\n\\r\\t\\b\\a\\"\\q"', [b'A\n\r\t\x08\x07"q']),
        (b'"\\xzz"', [b"xzz"]),
        (b"'a\\'b\\n'", [b"a'b\\n"]),
        (b"''", [b""]),
        (b'a"b"', [b"ab"]),
        (b'"a"b', None),
        (b"'a'b", None),
        (b'"a', None),
        (b"'a", None),
        (b'"a\\', None),
        (b"\xff\x00", [b"\xff\x00"]),
    ],
)
def test_inline_words(line: bytes, words: list[bytes] | None) -> None:
    assert split_words(line) == words
