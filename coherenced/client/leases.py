"""COH.LEASE, COH.FILL and COH.RELEASE as requests: who may load a key, and what it brought."""

from __future__ import annotations

from typing import Any, NamedTuple

from coherenced.client.replies import Version, checked, text_of, unexpected
from coherenced.client.stream import Batch, Request, batch_of, batches_of
from coherenced.client.values import NOTHING
from coherenced.errors import CoherencedError, CommandError, Contended, UsageError


class Granted(NamedTuple):
    """The answer to COH.LEASE, when this caller is the one to load."""

    token: bytes


class Found(NamedTuple):
    """The answer to COH.LEASE, when there is a value (None: known not to exist)."""

    stored: bytes | None
    version: Version
    left_ms: float | None
    """What is left of its time in Redis; None: for ever."""
    age_ms: float = 0.0


Lease = Granted | Found | None
"""None: somebody else is loading it, still."""


def lease(
    name: bytes, hold_s: float, wait_s: float = 0.0, refresh_s: float = 0.0
) -> Request[Lease]:
    """Who may load `name` for the next `hold_s`. `wait_s`: wait for whoever does so now.

    `refresh_s`: a value with at most so much left to live is to be loaded anew, by one
    caller; the others get it as it is.
    """
    command: tuple[bytes, ...] = (b"COH.LEASE", name, b"PX", _ms(hold_s), b"EPHEMERAL")
    if wait_s > 0:
        command += (b"WAIT", _ms(wait_s))
    if refresh_s > 0:
        command += (b"REFRESH", _ms(refresh_s))
    return Request(
        (batch_of([command]),),
        _decode_one,
        ack_s=wait_s,
        waits=wait_s > 0,
        undo=lambda leased: _undo([name], [leased]),
    )


def leases(names: list[bytes], hold_s: float) -> Request[list[Lease]]:
    """The same for many at once, without waiting for anybody."""
    commands = ((b"COH.LEASE", name, b"PX", _ms(hold_s), b"EPHEMERAL") for name in names)
    return Request(
        tuple(batches_of(commands)),
        lambda replies: [_decode(one) for one in replies],
        undo=lambda leased: _undo(names, leased),
    )


class Filling(NamedTuple):
    """One value for the token that was given for its key."""

    name: bytes
    token: bytes
    value: bytes
    stored_s: float
    tags: list[bytes]
    grace_s: float = 0.0
    """The last so much of its time it is stale."""


def fills(fillings: list[Filling]) -> Request[list[Version | CoherencedError]]:
    """Store them: of each the version, or the error with which it was refused."""
    return Request(_fill_batches(fillings), _decode_fills, is_write=True)


def is_refused(outcome: object) -> bool:
    """Whether a fill was surely not stored though its lease lives: it is to be given back, or the
    next in line waits until it ends."""
    return isinstance(outcome, CommandError | Contended | UsageError)


def releases(held: list[tuple[bytes, bytes]]) -> Request[None]:
    """Give tokens back (name, token): the next in line may load at once."""
    commands = [(b"COH.RELEASE", name, token) for name, token in held]
    return Request(tuple(batches_of(commands)), lambda replies: None)


def _undo(names: list[bytes], leased: list[Lease]) -> Request[None] | None:
    held = [
        (name, one.token)
        for name, one in zip(names, leased, strict=True)
        if isinstance(one, Granted)
    ]
    return releases(held) if held else None


def _fill_batches(fillings: list[Filling]) -> tuple[Batch, ...]:
    commands = []
    for one in fillings:
        command: tuple[bytes, ...] = (b"COH.FILL", one.name, one.token, one.value)
        if one.stored_s > 0:  # else for as long as Redis keeps it
            command += (b"PX", _ms(one.stored_s))
        if one.tags:
            command += (b"TAGS", b"%d" % len(one.tags), *one.tags)
        if 0 < one.grace_s < one.stored_s:
            command += (b"GRACE", _ms(one.grace_s))
        commands.append(command)
    return tuple(batches_of(commands))


def _ms(seconds: float) -> bytes:
    return b"%d" % max(1, round(seconds * 1000))


def _decode_one(replies: list[Any]) -> Lease:
    return _decode(replies[0])


def _decode(reply: Any) -> Lease:
    checked(reply)
    if reply is None:
        return None
    kind = reply[0] if isinstance(reply, list) and reply else None
    if kind in (b"VALUE", "VALUE") and len(reply) >= 4:
        left_ms = float(reply[3])
        age_ms = float(reply[4]) if len(reply) > 4 else 0.0
        stored = None if reply[1] == NOTHING else reply[1]
        return Found(stored, Version(text_of(reply[2])), None if left_ms < 0 else left_ms, age_ms)
    if kind in (b"TOKEN", "TOKEN") and len(reply) >= 3:
        return Granted(reply[1])
    raise unexpected("a value or a token", reply)


def _decode_fills(replies: list[Any]) -> list[Version | CoherencedError]:
    return [
        reply if isinstance(reply, CoherencedError) else Version(text_of(reply))
        for reply in replies
    ]
