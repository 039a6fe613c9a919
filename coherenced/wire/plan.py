"""What a parsed command asks of the node, and in which form its answer goes back.

A command's *planner* turns its arguments into a `Plan`: requests for the core and
the shape of the reply. It checks only what must be known here (keys, bounds, what a
write may leave unchanged); all else the server judges itself, in its own words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from coherenced.core.model import Mutation, Query, Reply, ReplyError
from coherenced.core.requests import Ask, Outcome, Read, Request, Write
from coherenced.errors import UsageError
from coherenced.wire import resp

KEYS_PER_MUTATION: Final = 200
"""W6: an operation on more keys is cut into several mutations."""
RESERVED_PREFIX: Final = b"coh:"
OK: Final = b"OK"

SYNTAX: Final = "syntax error"
NOT_INTEGER: Final = "value is not an integer or out of range"

Shape = Callable[[Reply, bool], bytes]
"""How one command's Redis reply is written (`bool`: RESP3): a status and a bulk are both bytes."""
Compose = Callable[[Outcome, bool], bytes]
"""How an extension's outcome is written."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a command may ask for at most."""

    max_key_bytes: int = 16_384
    max_value_bytes: int = 512 * 1024 * 1024
    max_tags: int = 64
    """Of one value."""
    page: bytes = b""
    """The incarnation that this daemon's shared page carries; empty: it has none."""


class Plan(msgspec.Struct, frozen=True, gc=False):
    """One command, understood."""

    requests: tuple[Request, ...]
    """Almost always one; reads of very many keys are several."""
    shape: Shape = resp.reply
    gather: Callable[[Sequence[Reply]], Reply] | None = None
    """One reply out of several; None: `merge`."""
    compose: Compose | None = None
    """For commands that Redis does not have, instead of the two above."""
    ephemeral: bool = False
    """What it is given ends with the client that asked."""


def merge(replies: Sequence[Reply]) -> Reply:
    """The reply of an operation that was cut: the first error, or the sum, or the first."""
    if len(replies) == 1:
        return replies[0]
    total = 0
    for reply in replies:
        if isinstance(reply, ReplyError):
            return reply
        if isinstance(reply, int):
            total += reply
    return total if replies and isinstance(replies[0], int) else next(iter(replies), None)


def in_transaction(plan: Plan, argv: Sequence[bytes]) -> tuple[Mutation, ...]:
    """The same command as part of an atomic script: a read is executed in its place."""
    mutations: list[Mutation] = []
    for request in plan.requests:
        if isinstance(request, Write):
            mutations.extend(request.mutations)
        elif isinstance(request, Ask):
            query = request.query
            mutations.append(Mutation(query.argv, keys=query.keys, is_write=False))
        elif isinstance(request, Read):
            mutations.append(Mutation(tuple(argv), keys=request.keys, is_write=False))
    return tuple(mutations)


# -- what planners are made of ---------------------------------------------------------


def is_usable(key: bytes, bounds: Bounds) -> bool:
    """Whether a client may use `key`; `checked` tells why not."""
    return len(key) <= bounds.max_key_bytes and key[:4] != RESERVED_PREFIX


def checked(key: bytes, bounds: Bounds) -> bytes:
    """`key`, if a client may use it; UsageError else."""
    if key.startswith(RESERVED_PREFIX):
        raise UsageError("keys that start with coh: are reserved")
    if len(key) > bounds.max_key_bytes:
        raise UsageError(
            f"a key of {len(key)} bytes is longer than limits.max_key_bytes "
            f"({bounds.max_key_bytes})"
        )
    return key


def all_checked(keys: Iterable[bytes], bounds: Bounds) -> tuple[bytes, ...]:
    return tuple([checked(key, bounds) for key in keys])


def parts(items: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """`items` in pieces that one mutation may cover."""
    step = KEYS_PER_MUTATION
    return [tuple(items[i : i + step]) for i in range(0, len(items), step)]


def ask(argv: Sequence[bytes], keys: tuple[bytes, ...], shape: Shape = resp.reply) -> Plan:
    return Plan((Ask(Query(tuple(argv), keys)),), shape)


def write(mutation: Mutation, shape: Shape = resp.reply) -> Plan:
    return Plan((Write((mutation,)),), shape)


def status_shape(reply: Reply, resp3: bool) -> bytes:
    """`OK`, `string` and their kin."""
    if isinstance(reply, bytes):
        return resp.status(reply)
    return resp.reply(reply, resp3)


def whole_number(text: bytes, low: int, high: int) -> int:
    """A number as Redis reads it; UsageError with Redis's words when it is none of the range."""
    digits = text[1:] if text.startswith(b"-") else text
    if digits.isdigit() and len(text) <= 20 and (digits[0] != 48 or text == b"0"):
        number = int(text)
        if low <= number <= high:
            return number
    raise UsageError(NOT_INTEGER)
