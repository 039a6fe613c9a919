"""K6: what a node declares of a lane's keys, as the scripts' words: for each of its namespaces + or
- (whether it is linearizable), the glob, and the same as a pattern of Lua, which is all that the
server's scripts can match with."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import Final

from coherenced.core.globs import ANY, RUN, Part, parts_of
from coherenced.core.model import Declared

_SPECIAL: Final = frozenset(string.punctuation.encode())
_NOTHING: Final = b"[^%z%Z]"


def rule_words(declares: Declared) -> list[bytes]:
    """Three words for each rule."""
    words: list[bytes] = []
    for glob, linearizable in declares:
        words += (b"+" if linearizable else b"-", glob, lua_pattern(glob))
    return words


def all_rules(lines: Iterable[Sequence[bytes]]) -> tuple[Declared, ...]:
    """The same of several nodes read back. What is none is left out: a beat writes it anew."""
    return tuple(
        tuple((words[at + 1], words[at] == b"+") for at in range(0, len(words), 3))
        for words in lines
        if words.__class__ is list and len(words) % 3 == 0
    )


def lua_pattern(glob: bytes) -> bytes:
    """A pattern with which `string.find` finds something where the glob matches, and only there."""
    parts = parts_of(glob)
    ends = bool(parts) and parts[-1] is RUN
    while parts and parts[-1] is RUN:
        parts.pop()  # whatever follows
    return b"^" + b"".join(map(_lua, parts)) + (b"" if ends else b"$")


def _lua(part: Part) -> bytes:
    if part is RUN:
        return b".*"
    if isinstance(part, int):
        return _byte(part)
    if part == ANY:
        return b"."
    if not part:
        return _NOTHING
    if len(part) > len(ANY) // 2:
        return b"[^" + _listed(ANY - part) + b"]"
    return b"[" + _listed(part) + b"]"


def _listed(members: Iterable[int]) -> bytes:
    return b"".join(map(_byte, sorted(members)))


def _byte(byte: int) -> bytes:
    if byte == 0:
        return b"%z"
    return b"%" + bytes((byte,)) if byte in _SPECIAL else bytes((byte,))
