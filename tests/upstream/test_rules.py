"""Globs as patterns of Lua: the server's scripts find what the node's own rules match."""

from __future__ import annotations

import pytest

from coherenced.core.globs import compiled
from coherenced.upstream.rules import all_rules, lua_pattern, rule_words
from tests.servers import Server

GLOBS = (
    b"lin:*", b"*", b"", b"lin", b"a?c", b"*:x", b"a*b*c", b"[abc]x", b"[^abc]x", b"[a-c]*",
    b"[]x", b"[^]x", b"\\*", b"\\", b"[\\]a]", b"a.c", b"%a%d", b"^a$", b"a-z", b"(a)", b"\x00*",
    b"[\x00a]", b"[^\x00a]", b"\xff?", b"[\xf0-\xff]", b"[c-a]x", b"caf\xc3\xa9*", b"[%a]", b"[^-]",
)  # fmt: skip
KEYS = (
    b"", b"lin:", b"lin:1", b"lin", b"xlin:1", b"abc", b"a\nc", b"a\x00c", b"a.c", b"x:x", b":x",
    b"aXbYc", b"ac", b"ax", b"bx", b"dx", b"]x", b"x", b"*", b"\\", b"a", b"]", b"%a%d", b"^a$",
    b"a-z", b"(a)", b"\x00", b"\x00rest", b"\xff1", b"\xf3", b"cx", b"caf\xc3\xa9 1", b"%", b"-",
)  # fmt: skip
FIND = b"return string.find(ARGV[1], ARGV[2]) and 1 or 0"


@pytest.mark.parametrize("glob", GLOBS)
def test_a_pattern_finds_what_the_glob_matches(server: Server, glob: bytes) -> None:
    told = server.commands(*[("EVAL", FIND, 0, key, lua_pattern(glob)) for key in KEYS])
    found = [key for key, said in zip(KEYS, told, strict=True) if said == 1]
    assert found == [key for key in KEYS if compiled(glob).match(key)]


def test_what_is_declared_comes_back() -> None:
    declares = ((b"lin:tmp:*", False), (b"lin:\xff*", True))
    assert all_rules([rule_words(declares), [b"+"], b"junk"]) == (declares,)  # type: ignore[list-item]
