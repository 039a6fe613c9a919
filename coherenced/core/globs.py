"""Redis's glob patterns, on bytes: `*`, `?`, `[abc]`, `[^abc]`, `[a-z]`, and `\\` before one.

Read once into parts, of which each user makes what it can match with: an expression here, a
pattern of the server's own language in `upstream.rules` (K6).
"""

from __future__ import annotations

import re
from typing import Final

RUN: Final = None
"""The part that stands for any number of bytes, `*`."""
ANY: Final = frozenset(range(256))
"""The part that stands for any one byte, `?`."""

Part = int | frozenset[int] | None
"""One byte, one of several bytes (of none: it matches nothing), or `RUN`."""


def parts_of(pattern: bytes) -> list[Part]:
    """The pattern, read."""
    parts: list[Part] = []
    at = 0
    while at < len(pattern):
        c = pattern[at]
        at += 1
        if c == ord("*"):
            parts.append(RUN)
        elif c == ord("?"):
            parts.append(ANY)
        elif c == ord("["):
            chosen, at = _class(pattern, at)
            parts.append(chosen)
        else:
            if c == ord("\\") and at < len(pattern):
                c = pattern[at]
                at += 1
            parts.append(c)
    return parts


def compiled(pattern: bytes) -> re.Pattern[bytes]:
    """An expression that matches what the glob matches."""
    out = bytearray()
    for part in parts_of(pattern):
        if part is RUN:
            out += b".*"
        elif isinstance(part, int):
            out += re.escape(bytes((part,)))
        elif part == ANY:
            out += b"."
        elif part:
            out += b"[" + b"".join(re.escape(bytes((m,))) for m in sorted(part)) + b"]"
        else:
            out += b"(?!)"
    return re.compile(bytes(out) + rb"\Z", re.DOTALL)


def _class(raw: bytes, at: int) -> tuple[frozenset[int], int]:
    """The class that begins after `[`: its members, and where it ends."""
    negated = raw[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(raw) and raw[at] != ord("]"):
        if raw[at] == ord("\\") and at + 1 < len(raw):
            at += 1
        low = raw[at]
        if raw[at + 1 : at + 2] == b"-" and at + 2 < len(raw):
            high = raw[at + 2]
            members.update(range(min(low, high), max(low, high) + 1))
            at += 3
        else:
            members.add(low)
            at += 1
    return ANY - members if negated else frozenset(members), at + 1
