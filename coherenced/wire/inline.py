"""Inline commands: a line of words, as people type them into a bare connection."""

from __future__ import annotations

from typing import Final

_SPACES: Final = b" \t\n\v\f\r"
_ESCAPES: Final = {
    ord("n"): 10,
    ord("r"): 13,
    ord("t"): 9,
    ord("b"): 8,
    ord("a"): 7,
}
_HEX: Final = b"0123456789abcdefABCDEF"


def split_words(line: bytes) -> list[bytes] | None:
    """An inline command's words, quoted as in redis-cli; None when a quote is not closed."""
    words: list[bytes] = []
    i = 0
    while True:
        while i < len(line) and line[i] in _SPACES:
            i += 1
        if i == len(line):
            return words
        word = bytearray()
        while i < len(line) and line[i] not in _SPACES:
            quote = line[i : i + 1]
            if quote in (b'"', b"'"):
                end = _quoted(line, i + 1, quote, word)
                if end < 0:
                    return None
                i = end
                break
            word += quote
            i += 1
        words.append(bytes(word))


def _quoted(line: bytes, i: int, quote: bytes, word: bytearray) -> int:
    """Add what stands in quotes to `word`; the index after the closing one, or -1."""
    while i < len(line):
        c = line[i]
        if c == quote[0]:
            i += 1
            return i if i == len(line) or line[i] in _SPACES else -1
        if c == ord("\\") and i + 1 < len(line):
            following = line[i + 1]
            if quote == b"'":
                if following == quote[0]:
                    word.append(following)
                    i += 2
                    continue
            elif (
                following == ord("x")
                and len(digits := line[i + 2 : i + 4].strip()) == 2
                and (digits[0] in _HEX and digits[1] in _HEX)
            ):
                word.append(int(digits, 16))
                i += 4
                continue
            else:
                word.append(_ESCAPES.get(following, following))
                i += 2
                continue
        word.append(c)
        i += 1
    return -1
