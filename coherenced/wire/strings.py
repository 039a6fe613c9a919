"""Planners of Redis's own commands: which keys they touch, and what a write may leave unchanged.

Arguments that only the server can judge (numbers, options, types) go to it as they
came, so the texts of its errors are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from coherenced.core.model import Mutation, Op, Query, Reply, ReplyError
from coherenced.core.requests import Ask, Read, Write
from coherenced.errors import UsageError
from coherenced.wire import resp
from coherenced.wire.plan import (
    KEYS_PER_MUTATION,
    OK,
    RESERVED_PREFIX,
    SYNTAX,
    Bounds,
    Plan,
    Shape,
    all_checked,
    ask,
    checked,
    parts,
    status_shape,
    whole_number,
    write,
)

Planner = Callable[[Sequence[bytes], Bounds], Plan]

NEVER: Final = b""
NIL: Final = b"n"
ZERO: Final = b"z"

MAX_TTL_MS: Final = 1 << 53
MAX_OFFSET: Final = (1 << 63) - 1
_WITH_OPERAND: Final = (b"EX", b"PX", b"EXAT", b"PXAT", b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE")
_MS_PER: Final = {b"EX": 1000, b"PX": 1}


def get(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    return Plan((Read((checked(argv[1], bounds),)),))


def mget(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    return Plan((Read(all_checked(argv[1:], bounds)),), gather=_values)


def _values(replies: Sequence[Reply]) -> Reply:
    """MGET answers nil for a key of another type; any other error is everyone's."""
    values: list[Reply] = []
    for reply in replies:
        if isinstance(reply, ReplyError):
            if not reply.text.startswith("WRONGTYPE"):
                return reply
            values.append(None)
        else:
            values.append(reply)
    return values


def read(shape: Shape = resp.reply) -> Planner:
    """A read of one key that L1 does not answer."""

    def plan(argv: Sequence[bytes], bounds: Bounds) -> Plan:
        return ask(argv, (checked(argv[1], bounds),), shape)

    return plan


def keyless(shape: Shape = resp.reply) -> Planner:
    def plan(argv: Sequence[bytes], bounds: Bounds) -> Plan:
        return ask(argv, (), shape)

    return plan


def count_of_keys(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """EXISTS, TOUCH: reads of many keys whose counts add up."""
    keys = all_checked(argv[1:], bounds)
    return Plan(tuple(Ask(Query((argv[0], *part), part)) for part in parts(keys)))


def scan(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    return ask(argv, (), _scan_shape)


def _scan_shape(reply: Reply, resp3: bool) -> bytes:
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], list):
        return resp.reply([reply[0], _others(reply[1])], resp3)
    return resp.reply(reply, resp3)


def keys(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """KEYS: what cache libraries clear by (`prefix*`)."""
    return ask(argv, (), _keys_shape)


def _keys_shape(reply: Reply, resp3: bool) -> bytes:
    return resp.reply(_others(reply) if isinstance(reply, list) else reply, resp3)


def _others(keys: Sequence[Reply]) -> list[Reply]:
    """Our own keys are nobody's business."""
    return [k for k in keys if not (isinstance(k, bytes) and k.startswith(RESERVED_PREFIX))]


def change(
    unchanged: bytes = NEVER, shape: Shape = resp.reply, *, exact_integer: bool = False
) -> Planner:
    """A write of the one key that comes first."""

    def plan(argv: Sequence[bytes], bounds: Bounds) -> Plan:
        key = checked(argv[1], bounds)
        mutation = Mutation(
            tuple(argv), keys=(key,), unchanged=unchanged, exact_integer=exact_integer
        )
        return write(mutation, shape)

    return plan


_changed_if_nonzero: Final = change(ZERO)


def setrange(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """A few bytes make a value of any length: longer than the largest it is refused, as by Redis
    (which CONFIG GET proto-max-bulk-len tells). What is no offset the server says."""
    try:
        end = whole_number(argv[2], 0, MAX_OFFSET) + len(argv[3])
    except UsageError:
        end = 0
    if argv[3] and end > bounds.max_value_bytes:
        raise UsageError("string exceeds maximum allowed size (proto-max-bulk-len)")
    return _changed_if_nonzero(argv, bounds)


def append(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """How long the value becomes only the server knows: it is refused there, in the same words."""
    key = checked(argv[1], bounds)
    return write(Mutation(tuple(argv), keys=(key,), most_bytes=bounds.max_value_bytes))


def getdel(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    # Not Op.DELETE: with ack=none that would be answered with a number, before Redis was asked.
    key = checked(argv[1], bounds)
    return write(Mutation(tuple(argv), keys=(key,), unchanged=NIL, frees_memory=True))


def getex(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """Without options it changes nothing; it is still done in its place among the writes."""
    key = checked(argv[1], bounds)
    return write(Mutation(tuple(argv), keys=(key,), unchanged=NIL, is_write=len(argv) > 2))


def set_(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """SET with every option; this node keeps the value only where no condition is involved."""
    key = checked(argv[1], bounds)
    unconditional = keeps = True
    returns_old = absent_only = False
    ttl_ms: float | None = None
    i = 3
    while i < len(argv):
        option = argv[i].upper()
        if option in _MS_PER:
            ttl_ms = _ttl_ms(argv[i + 1 : i + 2], _MS_PER[option])
            keeps = keeps and ttl_ms is not None
        elif option == b"GET":
            returns_old = True
        else:
            keeps = False
            if option not in (b"EXAT", b"PXAT", b"KEEPTTL"):
                unconditional = False
                absent_only = absent_only or option == b"NX"
        i += 2 if option in _WITH_OPERAND else 1
    # With NX and GET nil means "it was not there", so it was set.
    silent = unconditional or (absent_only and returns_old)
    fixed = unconditional and not returns_old
    mutation = Mutation(
        tuple(argv),
        keys=(key,),
        unchanged=NEVER if silent else NIL,
        keeps=argv[2] if keeps and not returns_old else None,
        keeps_ttl_ms=ttl_ms,
        expected_reply=OK if fixed else None,
        reply_is_known=fixed,
    )
    return write(mutation, resp.reply if returns_old else status_shape)


def setex(ms_per_unit: int) -> Planner:
    """SETEX, PSETEX: key, time to live, value."""

    def plan(argv: Sequence[bytes], bounds: Bounds) -> Plan:
        key = checked(argv[1], bounds)
        ttl_ms = _ttl_ms(argv[2:3], ms_per_unit)
        mutation = Mutation(
            tuple(argv),
            keys=(key,),
            keeps=None if ttl_ms is None else argv[3],
            keeps_ttl_ms=ttl_ms,
            expected_reply=OK,
            reply_is_known=True,
        )
        return write(mutation, status_shape)

    return plan


def _ttl_ms(operand: Sequence[bytes], ms_per_unit: int) -> float | None:
    """A time to live, or None when the server will not take it as one."""
    text = operand[0] if operand else b""
    if not text.isdigit() or len(text) > 16:
        return None
    ttl_ms = int(text) * ms_per_unit
    return float(ttl_ms) if 0 < ttl_ms < MAX_TTL_MS else None


def delete(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """DEL, UNLINK: atomic up to KEYS_PER_MUTATION keys; more are cut and their counts added up."""
    keys = all_checked(argv[1:], bounds)
    return Plan((Write(deletions(argv[0], keys)),))


def deletions(verb: bytes, keys: Sequence[bytes]) -> tuple[Mutation, ...]:
    return tuple(
        Mutation(
            (verb, *part),
            op=Op.DELETE,
            keys=part,
            unchanged=ZERO,
            frees_memory=True,
            # What is in the log was there: with a single key the number is known.
            expected_reply=1 if len(part) == 1 else None,
            reply_is_known=len(part) == 1,
        )
        for part in parts(keys)
    )


def mset(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """Atomic up to KEYS_PER_MUTATION keys; more are set in several steps, in order."""
    pairs = _pairs(argv, "mset", bounds)
    step = 2 * KEYS_PER_MUTATION
    mutations = tuple(
        Mutation(
            (argv[0], *pairs[i : i + step]),
            keys=tuple(pairs[i : i + step : 2]),
            expected_reply=OK,
            reply_is_known=True,
        )
        for i in range(0, len(pairs), step)
    )
    return Plan((Write(mutations),), status_shape)


def msetnx(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    pairs = _pairs(argv, "msetnx", bounds)
    if len(pairs) > 2 * KEYS_PER_MUTATION:
        raise UsageError(
            f"MSETNX takes at most {KEYS_PER_MUTATION} keys here, since all or none are set: "
            "use fewer"
        )
    return write(Mutation(tuple(argv), keys=tuple(pairs[::2]), unchanged=ZERO))


def _pairs(argv: Sequence[bytes], name: str, bounds: Bounds) -> Sequence[bytes]:
    pairs = argv[1:]
    if len(pairs) % 2:
        raise UsageError(f"wrong number of arguments for '{name}' command")
    all_checked(pairs[::2], bounds)
    return pairs


def flush(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """FLUSHDB, FLUSHALL: checked here, since a script that flushes must not fail half-way."""
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() not in (b"ASYNC", b"SYNC")):
        raise UsageError(SYNTAX)
    mutation = Mutation(
        tuple(argv),
        op=Op.FLUSH,
        everything=True,
        frees_memory=True,
        expected_reply=OK,
        reply_is_known=True,
    )
    return write(mutation, status_shape)
