"""Planners of the COH. commands, and the form of their answers.

    COH.GET         bulk or nil; META: [value, version, source, age in ms, stale 0 or 1];
                    MAXSTALE above the daemon's largest bound means that one;
                    TTL: the same and, sixth, the ms until Redis lets it expire (integer), or -1
                    KEEP: these six and, seventh, [ms, bound in ms, tag...]: how long a client
                    that reads the shared page of this incarnation may keep a copy; 0: not at
                    all; -1: that is not this daemon's page (COH.PAGE tells where it is)
    COH.SET         version; nil with ACK none
    COH.DEL         [version or nil, how many keys were there]
    COH.INVALIDATE  [version, [[node, ms until it had acknowledged], ...], [nodes missing],
                    [nodes fenced: they did not answer, but can serve nothing old any more]]

Milliseconds in answers are bulk strings with three decimals. An asked level that is not
reached in time is an error: NOACK committed VERSION missing=NODE,NODE, and, where there are any,
acknowledged=NODE after_ms=MS fenced=NODE. COH.NODES, COH.STATS, COH.EXPLAIN and COH.PAGE answer one
bulk string, JSON, the same that HTTP gives (and what is not UTF-8 as `names` has it).

Where keys come first (COH.DEL) options are recognised at the end only, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Final

from coherenced.core.life import LIFE, life_of, with_life
from coherenced.core.model import Mutation, Op, ReplyError, Version
from coherenced.core.requests import Outcome, Read, ReadResult, Value, WriteResult
from coherenced.errors import UsageError
from coherenced.wire import resp
from coherenced.wire.options import (
    MAX_MS,
    Terms,
    Words,
    check_lengths,
    checked_tags,
    parsed_version,
    refuse_own,
)
from coherenced.wire.plan import SYNTAX, Bounds, Plan, all_checked, checked, parts, whole_number
from coherenced.wire.strings import deletions

NOT_KEPT: Final = b"*2\r\n:0\r\n:0\r\n"
NOT_OURS: Final = b"*2\r\n:-1\r\n:0\r\n"


def get(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """COH.GET key [MAXSTALE ms] [MINVER epoch:seq] [META] [TTL] [KEEP incarnation]"""
    key = checked(argv[1], bounds)
    words = Words(argv[2:])
    max_staleness_ms: float | None = None
    min_version: Version | None = None
    meta = ttl = False
    keep: bytes | None = None
    while (option := words.option()) is not None:
        if option == b"MAXSTALE":
            max_staleness_ms = float(words.milliseconds(0, MAX_MS))
        elif option == b"MINVER":
            min_version = parsed_version(words.operand())
        elif option == b"META":
            meta = True
        elif option == b"TTL":
            ttl = True
        elif option == b"KEEP":
            keep = words.operand()
        else:
            raise UsageError(SYNTAX)
    request = Read((key,), max_staleness_ms=max_staleness_ms, min_version=min_version)
    if keep is not None:
        is_ours = keep == bounds.page and bool(keep)
        return Plan((request,), compose=partial(_with_terms, is_ours))
    return Plan((request,), compose=_with_expiry if ttl else _with_meta if meta else None)


def _with_terms(is_ours: bool, outcome: Outcome, resp3: bool) -> bytes:
    """What TTL says, the terms on which a client may keep a copy (P2, P3), and how it ages."""
    assert isinstance(outcome, ReadResult)
    value = outcome.values[0]
    if isinstance(value.error, ReplyError):
        return resp.error(value.error.text)
    terms = keep_terms(value.keep_ms, value.bound_ms, value.labels) if is_ours else NOT_OURS
    ages = resp.integer(aging(value.labels, value.expires_in_ms))
    return resp.array([*described(value, resp3), expiry(value), terms, ages])


def aging(labels: Sequence[bytes], left_ms: float | None) -> int:
    """-1: as old as each proof of the daemon's. Else it ages on from the age that is told, and is
    stale for the last so many ms of its time to live."""
    life = life_of(labels) if labels and left_ms is not None else None
    return -1 if life is None else int(life.grace_ms)


def keep_terms(keep_ms: float, bound_ms: float, tags: Sequence[bytes]) -> bytes:
    """[ms, bound in ms, tag...]"""
    if keep_ms < 1.0:
        return NOT_KEPT
    named = [resp.bulk(tag) for tag in tags if not tag.startswith(LIFE)]
    told = [resp.integer(int(keep_ms)), resp.integer(int(bound_ms)), *named]
    return resp.array(told)


def _with_meta(outcome: Outcome, resp3: bool) -> bytes:
    assert isinstance(outcome, ReadResult)
    value = outcome.values[0]
    if isinstance(value.error, ReplyError):
        return resp.error(value.error.text)
    return resp.array(described(value, resp3))


def _with_expiry(outcome: Outcome, resp3: bool) -> bytes:
    assert isinstance(outcome, ReadResult)
    value = outcome.values[0]
    if isinstance(value.error, ReplyError):
        return resp.error(value.error.text)
    return resp.array([*described(value, resp3), expiry(value)])


def described(value: Value, resp3: bool) -> list[bytes]:
    return [
        resp.reply(value.value, resp3),
        resp.bulk(value.version.encode()),
        resp.bulk(value.source.encode()),
        _milliseconds(value.age_ms),
        resp.integer(int(value.told_stale)),
    ]


def expiry(value: Value) -> bytes:
    return resp.integer(-1 if value.expires_in_ms is None else int(value.expires_in_ms))


def set_(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """COH.SET key value [PX ms] [TAGS n t...] [ACK level] [TIMEOUT ms] [REPLICAS n] [IFVER v|NX]"""
    key, value = checked(argv[1], bounds), argv[2]
    words = Words(argv[3:])
    terms = Terms()
    ttl_ms: int | None = None
    tags: tuple[bytes, ...] = ()
    if_version: Version | None = None
    only_new = False
    while (option := words.option()) is not None:
        if option == b"PX":
            ttl_ms = whole_number(words.operand(), -MAX_MS, MAX_MS)
            if ttl_ms <= 0:
                raise UsageError("invalid expire time in 'coh.set' command")
        elif option == b"TAGS":
            tags = checked_tags(words.list(), bounds)
        elif option == b"IFVER":
            if_version = parsed_version(words.operand())
        elif option == b"NX":
            only_new = True
        elif not terms.take(option, words.operand()):
            raise UsageError(SYNTAX)
    expiry = () if ttl_ms is None else (b"PX", b"%d" % ttl_ms)
    labels = with_life(tags, ttl_ms) if tags else None
    if only_new:
        if if_version is not None:
            raise UsageError(SYNTAX)
        command = (b"SET", key, value, *expiry, b"NX")
        new = Mutation(command, keys=(key,), unchanged=b"n", label=labels)
        return Plan((terms.write((new,)),), compose=_version_if_new)
    mutation = Mutation(
        (b"SET", key, value, *expiry),
        keys=(key,),
        label=labels,
        if_version=if_version,
        keeps=value,
        keeps_ttl_ms=None if ttl_ms is None else float(ttl_ms),
        expected_reply=b"OK",
        reply_is_known=True,
    )
    return Plan((terms.write((mutation,)),), compose=_version_of)


def delete(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """COH.DEL key... [ACK level] [TIMEOUT ms] [REPLICAS n]"""
    terms = Terms()
    names = list(argv[1:])
    seen: set[bytes] = set()
    while len(names) > 2:
        option = names[-2].upper()
        if option in seen or not terms.take(option, names[-1]):
            break
        seen.add(option)
        del names[-2:]
    keys = all_checked(names, bounds)
    return Plan((terms.write(deletions(b"DEL", keys)),), compose=_version_and_count)


def invalidate(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """COH.INVALIDATE [KEYS n k...] [TAGS n t...] [PREFIXES n p...] [ALL] [ACK level] ..."""
    terms = Terms()
    named: dict[bytes, list[bytes]] = {b"KEYS": [], b"TAGS": [], b"PREFIXES": []}
    words = Words(argv[1:], repeatable=named)
    everything = False
    while (option := words.option()) is not None:
        if option in named:
            named[option] += words.list()
        elif option == b"ALL":
            everything = True
        elif not terms.take(option, words.operand()):
            raise UsageError(SYNTAX)
    keys, tags, prefixes = named.values()
    if not (keys or tags or prefixes or everything):
        raise UsageError("COH.INVALIDATE needs KEYS, TAGS, PREFIXES or ALL")
    all_checked(keys, bounds)
    check_lengths("tag", tags, bounds)
    check_lengths("prefix", prefixes, bounds)
    mutations = invalidations(keys, tags, prefixes, everything)
    return Plan((terms.write(mutations),), compose=_acknowledgements)


def invalidations(
    keys: Sequence[bytes], tags: Sequence[bytes], prefixes: Sequence[bytes], everything: bool
) -> tuple[Mutation, ...]:
    """As few mutations as the bound on names in one allows (W6). UsageError: a tag of ours."""
    refuse_own(tags)
    pieces = list(zip_longest(parts(keys), parts(tags), parts(prefixes), fillvalue=()))
    return tuple(
        Mutation(
            (),
            op=Op.INVALIDATE,
            keys=piece[0],
            tags=piece[1],
            prefixes=piece[2],
            everything=everything and i == 0,
            frees_memory=True,
        )
        for i, piece in enumerate(pieces or [((), (), ())])
    )


# -- answers ---------------------------------------------------------------------------


def _recorded(
    form: Callable[[WriteResult, bytes], bytes],
) -> Callable[[Outcome, bool], bytes]:
    """An error reply first; else `form` with the version written for the protocol."""

    def compose(outcome: Outcome, resp3: bool) -> bytes:
        assert isinstance(outcome, WriteResult)
        for reply in outcome.replies:
            if isinstance(reply, ReplyError):
                return resp.error(reply.text)
        version = outcome.version
        return form(outcome, resp.nil(resp3) if version is None else resp.bulk(version.encode()))

    return compose


def _milliseconds(ms: float) -> bytes:
    return resp.bulk(b"%.3f" % ms)


@_recorded
def _version_of(result: WriteResult, version: bytes) -> bytes:
    return version


def _version_if_new(outcome: Outcome, resp3: bool) -> bytes:
    assert isinstance(outcome, WriteResult)
    if outcome.replies == (None,):
        return resp.error("CONFLICT the key is there already")
    return _version_of(outcome, resp3)


@_recorded
def _version_and_count(result: WriteResult, version: bytes) -> bytes:
    count = sum(reply for reply in result.replies if isinstance(reply, int))
    return resp.array([version, resp.integer(count)])


@_recorded
def _acknowledgements(result: WriteResult, version: bytes) -> bytes:
    acknowledged = [
        resp.array([resp.bulk(name.encode()), _milliseconds(ms)])
        for name, ms in result.acknowledged.items()
    ]
    missing, fenced = (
        resp.array([resp.bulk(name.encode()) for name in names])
        for names in (result.missing, result.fenced)
    )
    return resp.array([version, resp.array(acknowledged), missing, fenced])
