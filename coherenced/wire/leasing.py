"""Planners of the commands about leases (L1), and the form of their answers.

    COH.LEASE    [VALUE, value, version, ms until it expires or -1, age in ms]: nothing is to be
                 loaded; a value of nil: a loader has found that there is none (for those ms)
                 [TOKEN, token, version]: the caller is to load it, and to fill or release it;
                 with REFRESH two more: the value that is due (or nil), and its ms or -1
                 nil: somebody else is loading it, still after WAIT ms
                 EPHEMERAL: the token ends with the client that asked, if it has not been used
    COH.FILL     version; LOST … when the token is dead: nothing was stored
    COH.RELEASE  1, or 0 when the token was dead already

A lease that waits keeps the replies behind it on its connection waiting, but not writes that
come after it: a client that fills on the same connection does not wait for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from coherenced.core.life import with_life
from coherenced.core.model import ReplyError
from coherenced.core.requests import (
    Fill,
    Lease,
    LeaseResult,
    Outcome,
    Release,
    Value,
    WriteResult,
)
from coherenced.errors import UsageError
from coherenced.wire import resp
from coherenced.wire.options import MAX_MS, Terms, Words, checked_tags
from coherenced.wire.plan import SYNTAX, Bounds, Plan, checked

MAX_LEASE_MS: Final = 3_600_000
MAX_WAIT_MS: Final = 600_000
MAX_ABSENT_MS: Final = 86_400_000
MAX_TOKEN_BYTES: Final = 64


def lease(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """COH.LEASE key [PX ms] [WAIT ms] [MAXSTALE ms] [REFRESH ms] [EPHEMERAL]"""
    key = checked(argv[1], bounds)
    words = Words(argv[2:])
    lease_ms, wait_ms, ephemeral = 10_000, 0, False
    max_staleness_ms: float | None = None
    refresh_ms: float | None = None
    while (option := words.option()) is not None:
        if option == b"PX":
            lease_ms = words.milliseconds(1, MAX_LEASE_MS)
        elif option == b"WAIT":
            wait_ms = words.milliseconds(0, MAX_WAIT_MS)
        elif option == b"MAXSTALE":
            max_staleness_ms = float(words.milliseconds(0, MAX_MS))
        elif option == b"REFRESH":
            refresh_ms = float(words.milliseconds(0, MAX_MS))
        elif option == b"EPHEMERAL":
            ephemeral = True
        else:
            raise UsageError(SYNTAX)
    request = Lease(key, lease_ms, float(wait_ms), max_staleness_ms, refresh_ms)
    composed = partial(_leased, refresh_ms is not None)
    return Plan((request,), compose=composed, ephemeral=ephemeral)


def fill(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """COH.FILL key token value [PX ms [GRACE ms]] [TAGS n t...] [ACK level] [TIMEOUT ms]

    GRACE: for the last so much of PX it is stale, and told so."""
    key, token, value = checked(argv[1], bounds), checked_token(argv[2]), argv[3]
    words = Words(argv[4:])
    terms = Terms()
    ttl_ms: int | None = None
    grace_ms = 0
    tags: tuple[bytes, ...] = ()
    while (option := words.option()) is not None:
        if option == b"PX":
            ttl_ms = words.milliseconds(1, MAX_MS)
        elif option == b"GRACE":
            grace_ms = words.milliseconds(0, MAX_MS)
        elif option == b"TAGS":
            tags = checked_tags(words.list(), bounds)
        elif option == b"REPLICAS" or not terms.take(option, words.operand()):
            raise UsageError(SYNTAX)
    if grace_ms and grace_ms >= (ttl_ms or 0):
        raise UsageError("GRACE is less than PX, of which it is the last part")
    labels = with_life(tags, ttl_ms, grace_ms)
    request = Fill(key, token, value, ttl_ms, labels, terms.ack, terms.timeout_ms)
    return Plan((request,), compose=_filled)


def release(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """COH.RELEASE key token [ABSENT ms]"""
    key, token = checked(argv[1], bounds), checked_token(argv[2])
    words = Words(argv[3:])
    absent_ms: int | None = None
    while (option := words.option()) is not None:
        if option != b"ABSENT":
            raise UsageError(SYNTAX)
        absent_ms = words.milliseconds(1, MAX_ABSENT_MS)
    return Plan((Release(key, token, absent_ms),), compose=_released)


def checked_token(token: bytes) -> bytes:
    """`token`, if it can be one; UsageError else."""
    if not 0 < len(token) <= MAX_TOKEN_BYTES:
        raise UsageError("a token is what a lease has given")
    return token


# -- answers ---------------------------------------------------------------------------


def _leased(beside: bool, outcome: Outcome, resp3: bool) -> bytes:
    assert isinstance(outcome, LeaseResult)
    value = outcome.value
    if outcome.token:
        assert outcome.version is not None
        words = [
            resp.bulk(b"TOKEN"),
            resp.bulk(outcome.token),
            resp.bulk(outcome.version.encode()),
        ]
        if beside:
            words += [resp.reply(None if value is None else value.value, resp3), _left(value)]
        return resp.array(words)
    if value is None:
        return resp.nil(resp3)
    if isinstance(value.error, ReplyError):
        return resp.error(value.error.text)
    version = resp.bulk(value.version.encode())
    words = [resp.bulk(b"VALUE"), resp.reply(value.value, resp3), version, _left(value)]
    return resp.array([*words, resp.integer(int(value.age_ms))])


def _left(value: Value | None) -> bytes:
    left_ms = None if value is None else value.expires_in_ms
    return resp.integer(-1 if left_ms is None else int(left_ms))


def _filled(outcome: Outcome, resp3: bool) -> bytes:
    assert isinstance(outcome, WriteResult)
    for reply in outcome.replies:
        if isinstance(reply, ReplyError):
            return resp.error(reply.text)
    version = outcome.version
    return resp.nil(resp3) if version is None else resp.bulk(version.encode())


def _released(outcome: Outcome, resp3: bool) -> bytes:
    assert isinstance(outcome, WriteResult)
    return resp.reply(outcome.replies[0], resp3)
