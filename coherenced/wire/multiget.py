"""COH.MGET: many keys in one read, with a read's terms, and all of one moment if asked (S2).

    array of values, nil where there is none (or another type, as MGET says it);
    META: of [value, version, source, age in ms, stale 0 or 1]; TTL: of these and the ms until
    Redis lets it expire, or -1

Options are recognised at the end only, each once. A snapshot of more than MOST_AT_ONCE keys is
refused: it is one script, and a server does nothing else while it runs (W6).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from coherenced.core.model import ReplyError, Version
from coherenced.core.requests import Outcome, Read, ReadResult, Value
from coherenced.errors import UsageError
from coherenced.wire import resp
from coherenced.wire.extensions import described, expiry
from coherenced.wire.options import MAX_MS, milliseconds, parsed_version
from coherenced.wire.plan import Bounds, Plan, all_checked

MOST_AT_ONCE: Final = 200
"""Keys of one snapshot."""

_FLAGS: Final = frozenset({b"SNAPSHOT", b"META", b"TTL"})
_TERMS: Final = frozenset({b"MAXSTALE", b"MINVER"})


def mget(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """COH.MGET key... [SNAPSHOT] [MAXSTALE ms] [MINVER epoch:seq] [META] [TTL]"""
    names = list(argv[1:])
    terms: dict[bytes, bytes] = {}
    while len(names) > 1:
        if (last := names[-1].upper()) in _FLAGS and last not in terms:
            terms[last] = b""
            del names[-1:]
        elif len(names) > 2 and (term := names[-2].upper()) in _TERMS and term not in terms:
            terms[term] = names[-1]
            del names[-2:]
        else:
            break
    keys = all_checked(names, bounds)
    snapshot = b"SNAPSHOT" in terms
    if snapshot:
        check_snapshot(len(keys))
    max_staleness_ms: float | None = None
    min_version: Version | None = None
    if b"MAXSTALE" in terms:
        max_staleness_ms = float(milliseconds(b"MAXSTALE", terms[b"MAXSTALE"], 0, MAX_MS))
    if b"MINVER" in terms:
        min_version = parsed_version(terms[b"MINVER"])
    request = Read(
        keys, max_staleness_ms=max_staleness_ms, min_version=min_version, snapshot=snapshot
    )
    return Plan((request,), compose=partial(_values, b"META" in terms, b"TTL" in terms))


def check_snapshot(count: int) -> None:
    """UsageError when so many keys are too many for one moment."""
    if count > MOST_AT_ONCE:
        raise UsageError(f"a snapshot has at most {MOST_AT_ONCE} keys, this one has {count}")


def _values(meta: bool, ttl: bool, outcome: Outcome, resp3: bool) -> bytes:
    assert isinstance(outcome, ReadResult)
    told = []
    for value in outcome.values:
        if isinstance(value.error, ReplyError) and not value.error.text.startswith("WRONGTYPE"):
            return resp.error(value.error.text)
        told.append(_value(value, meta, ttl, resp3))
    return resp.array(told)


def _value(value: Value, meta: bool, ttl: bool, resp3: bool) -> bytes:
    if ttl:
        return resp.array([*described(value, resp3), expiry(value)])
    return resp.array(described(value, resp3)) if meta else resp.reply(value.value, resp3)
