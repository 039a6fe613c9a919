"""The options of COH. commands: their words, and what several of them take alike."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

import msgspec

from coherenced.core.life import OWN
from coherenced.core.model import Mutation, Version
from coherenced.core.requests import Level, Write
from coherenced.errors import UsageError
from coherenced.wire.plan import SYNTAX, Bounds, whole_number

MAX_MS: Final = 10**15
MAX_ACK_TIMEOUT_MS: Final = 3_600_000
"""The longest time a writer may ask to wait for acknowledgements."""
MAX_REPLICAS: Final = 1000


class Terms(msgspec.Struct):
    """ACK level, TIMEOUT ms, REPLICAS n: how a write is to be acknowledged."""

    ack: int | None = None
    timeout_ms: float | None = None
    replicas: int = 0

    def take(self, option: bytes, operand: bytes) -> bool:
        """Whether `option` is one of these; UsageError when its operand is wrong."""
        if option == b"ACK":
            try:
                self.ack = Level.parse(operand.decode("utf-8", "replace"))
            except ValueError as error:
                raise UsageError(str(error)) from None
        elif option == b"TIMEOUT":
            self.timeout_ms = float(milliseconds(option, operand, 0, MAX_ACK_TIMEOUT_MS))
        elif option == b"REPLICAS":
            try:
                self.replicas = whole_number(operand, 0, MAX_REPLICAS)
            except UsageError:
                told = f"REPLICAS is a whole number from 0 to {MAX_REPLICAS}"
                raise UsageError(told) from None
        else:
            return False
        return True

    def write(self, mutations: tuple[Mutation, ...]) -> Write:
        return Write(mutations, ack=self.ack, timeout_ms=self.timeout_ms, replicas=self.replicas)


class Words:
    """The options of one command, read from left to right; each once, but the `repeatable` ones:
    what came first would be left out in silence."""

    def __init__(self, words: Sequence[bytes], repeatable: Container[bytes] = ()) -> None:
        self._words = words
        self._next = 0
        self._option = b""
        self._seen: set[bytes] = set()
        self._repeatable = repeatable

    def option(self) -> bytes | None:
        """The next word in upper case, or None at the end."""
        if self._next == len(self._words):
            return None
        self._next += 1
        self._option = option = self._words[self._next - 1].upper()
        if option in self._seen and option not in self._repeatable:
            raise UsageError(SYNTAX)
        self._seen.add(option)
        return option

    def operand(self) -> bytes:
        return self.operands(1)[0]

    def milliseconds(self, low: int, high: int) -> int:
        """The operand of the option just read."""
        return milliseconds(self._option, self.operand(), low, high)

    def operands(self, count: int) -> Sequence[bytes]:
        end = self._next + count
        if end > len(self._words):
            raise UsageError(SYNTAX)
        taken, self._next = self._words[self._next : end], end
        return taken

    def list(self) -> Sequence[bytes]:
        """`n item...`"""
        return self.operands(whole_number(self.operand(), 1, len(self._words)))


def milliseconds(option: bytes, operand: bytes, low: int, high: int) -> int:
    """An option's time; UsageError says what it can be."""
    try:
        return whole_number(operand, low, high)
    except UsageError:
        name = option.decode()
        told = f"{name} is a whole number of milliseconds from {low} to {high}"
        raise UsageError(told) from None


def parsed_version(text: bytes) -> Version:
    try:
        return Version.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def checked_tags(tags: Sequence[bytes], bounds: Bounds) -> tuple[bytes, ...]:
    if len(tags) > bounds.max_tags:
        raise UsageError(f"a value has at most {bounds.max_tags} tags (limits.max_tags)")
    check_lengths("tag", tags, bounds)
    refuse_own(tags)
    return tuple(dict.fromkeys(tags))


def refuse_own(tags: Sequence[bytes]) -> None:
    """UsageError when one of these is no tag but a mark of ours, which copies are not held by."""
    if any(tag.startswith(OWN) for tag in tags):
        raise UsageError("tags that start with coh: are the daemon's own")


def check_lengths(what: str, names: Sequence[bytes], bounds: Bounds) -> None:
    for name in names:
        if not name:
            raise UsageError(f"a {what} must not be empty")
        if len(name) > bounds.max_key_bytes:
            raise UsageError(
                f"a {what} of {len(name)} bytes is longer than limits.max_key_bytes "
                f"({bounds.max_key_bytes})"
            )
