"""Many keys at once: /v1/mget, /v1/mset and POST /v1/invalidations.

Large requests are cut into bounded writes (W6): each is one atomic step on the
server, the whole is not, unless `atomic` asks for it and it fits into one.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from aiohttp import web

from coherenced.core.life import OWN
from coherenced.core.model import Mutation, Op, ReplyError
from coherenced.core.requests import Fault, Level, Read, WriteResult
from coherenced.serve.http_context import Context, json_response
from coherenced.serve.http_headers import (
    checked_key,
    checked_tags,
    content_type_label,
    version_of,
)
from coherenced.serve.http_keys import set_mutation, write_response
from coherenced.serve.http_rows import LARGE_BYTES, Rows
from coherenced.serve.http_schema import (
    AckLevel,
    Invalidate,
    Item,
    MGet,
    MGetAnswer,
    MSet,
    Name,
    bytes_of,
    found_of,
)
from coherenced.serve.problem import Problem, bad
from coherenced.wire.multiget import MOST_AT_ONCE
from coherenced.wire.options import Terms

STEP_KEYS: Final = 200
"""Keys in one atomic step on the server."""
STEP_BYTES: Final = 8_388_608
"""Values in one atomic step of an /v1/mset that did not ask to be atomic."""

_MGET: Final = msgspec.json.Decoder(MGet)
_MSET: Final = msgspec.json.Decoder(MSet)
_INVALIDATE: Final = msgspec.json.Decoder(Invalidate)


async def mget(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    wish = await context.json(request, _MGET)
    _check_count(len(wish.keys), context.limits.max_keys, "/keys")
    keys = _keys(context, wish.keys, "/keys")
    if wish.snapshot:
        _check_count(len(keys), MOST_AT_ONCE, "/keys")
    version = None if wish.min_version is None else version_of(wish.min_version, "/min_version")
    most_bytes = context.limits.max_answer_bytes
    result = await context.read(
        Read(
            keys,
            wish.max_staleness_ms,
            version,
            wish.stale_if_error_ms,
            wish.snapshot,
            most_bytes=most_bytes,
        )
    )
    size = sum(len(value.value) for value in result.values if value.value is not None)
    if size > most_bytes:  # loads from origins are put together elsewhere
        raise Problem(
            "too-large",
            f"the values are {size} bytes together, more than {most_bytes}: ask for fewer",
            pointer="/keys",
        )
    if size > LARGE_BYTES:
        return Rows(wish.keys, result.values, size)
    rows = [found_of(key, value) for key, value in zip(wish.keys, result.values, strict=True)]
    return json_response(MGetAnswer(rows))


async def mset(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    wish = await context.json(request, _MSET)
    _check_count(len(wish.entries), context.limits.max_keys, "/entries")
    if wish.atomic and len(wish.entries) > STEP_KEYS:
        raise Problem(
            "too-large", f"an atomic step writes at most {STEP_KEYS} keys", pointer="/entries"
        )
    ack = _ack(wish.ack)
    mutations = [
        _mutation(context, item, f"/entries/{index}") for index, item in enumerate(wish.entries)
    ]
    steps = [mutations] if wish.atomic else _steps(mutations)
    terms = Terms(ack, wish.timeout_ms, int(wish.replicas))
    return await _execute(context, steps, wish.atomic, terms)


async def invalidate(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    wish = await context.json(request, _INVALIDATE)
    limits = context.limits
    if not (wish.keys or wish.tags or wish.prefixes or wish.all):
        raise bad("name at least one of keys, tags, prefixes, or all: true")
    _check_count(len(wish.keys), limits.max_keys, "/keys")
    _check_count(len(wish.tags), STEP_KEYS, "/tags")
    _check_count(len(wish.prefixes), STEP_KEYS, "/prefixes")
    ack = _ack(wish.ack)
    keys = _keys(context, wish.keys, "/keys")
    tags = tuple(bytes_of(tag) for tag in wish.tags)
    prefixes = tuple(bytes_of(prefix) for prefix in wish.prefixes)
    for names, pointer in ((tags, "/tags"), (prefixes, "/prefixes")):
        if any(len(name) > limits.max_key_bytes for name in names):
            raise Problem(
                "too-large", f"each has at most {limits.max_key_bytes} bytes", pointer=pointer
            )
    if any(tag.startswith(OWN) for tag in tags):
        raise bad("tags that start with coh: are the daemon's own", "/tags")
    mutations = []
    if tags or prefixes or wish.all:  # T1: one record, whatever it covers
        mutations.append(_invalidation((), tags, prefixes, wish.all))
    for start in range(0, len(keys), STEP_KEYS):
        mutations.append(_invalidation(keys[start : start + STEP_KEYS]))
    terms = Terms(ack, wish.timeout_ms, int(wish.replicas))
    return await _execute(context, [[m] for m in mutations], False, terms)


def _invalidation(
    keys: tuple[bytes, ...],
    tags: tuple[bytes, ...] = (),
    prefixes: tuple[bytes, ...] = (),
    everything: bool = False,
) -> Mutation:
    return Mutation(
        argv=(),
        op=Op.INVALIDATE,
        keys=keys,
        tags=tags,
        prefixes=prefixes,
        everything=everything,
        frees_memory=True,
        reply_is_known=True,
    )


# -- from JSON to mutations ---------------------------------------------------------


def _check_count(count: int, most: int, pointer: str) -> None:
    if count > most:
        raise Problem("too-large", f"at most {most} at a time; these are {count}", pointer=pointer)


def _keys(context: Context, names: list[Name], pointer: str) -> tuple[bytes, ...]:
    return tuple(
        checked_key(bytes_of(name), context.limits, f"{pointer}/{index}")
        for index, name in enumerate(names)
    )


def _mutation(context: Context, item: Item, pointer: str) -> Mutation:
    limits = context.limits
    key = checked_key(bytes_of(item.key), limits, f"{pointer}/key")
    text, raw = item.value, item.value_base64
    if isinstance(text, str) == isinstance(raw, bytes):
        raise bad("exactly one of value and value_base64", pointer)
    value = text.encode() if isinstance(text, str) else raw
    assert isinstance(value, bytes)
    if len(value) > limits.max_value_bytes:
        raise Problem(
            "too-large", f"a value has at most {limits.max_value_bytes} bytes", pointer=pointer
        )
    tags = checked_tags([bytes_of(tag) for tag in item.tags], limits, f"{pointer}/tags")
    labels = content_type_label(item.content_type, f"{pointer}/content_type") + tags
    ttl_ms = None if item.ttl_ms is None else int(item.ttl_ms)
    return set_mutation(key, value, ttl_ms, labels)


def _ack(level: AckLevel | None) -> int | None:
    if level is None:
        return None
    if not isinstance(level, str):
        return int(level)
    try:
        return Level.parse(level)
    except ValueError as error:
        raise bad(str(error), "/ack") from None


def _steps(mutations: list[Mutation]) -> list[list[Mutation]]:
    """Cut by number and by bytes; a single value may be larger than a step."""
    steps: list[list[Mutation]] = []
    size = 0
    for mutation in mutations:
        length = len(mutation.argv[2])
        if not steps or len(steps[-1]) >= STEP_KEYS or size + length > STEP_BYTES:
            steps.append([])
            size = 0
        steps[-1].append(mutation)
        size += length
    return steps


# -- carrying out -------------------------------------------------------------------


async def _execute(
    context: Context,
    steps: list[list[Mutation]],
    atomic: bool,
    terms: Terms,
) -> web.Response:
    """Submit all steps in order (W4) and wait for all; the answer tells the whole."""
    writes = (msgspec.structs.replace(terms.write(tuple(step)), atomic=atomic) for step in steps)
    outcomes = await asyncio.gather(*(context.write(write) for write in writes))
    return write_response(_merge(outcomes), terms.ack)


def _merge(outcomes: list[WriteResult | Fault]) -> WriteResult | Fault:
    """One result for many: the weakest of them, with the last version."""
    if len(outcomes) == 1:
        return outcomes[0]
    results: list[WriteResult] = []
    for outcome in outcomes:
        if isinstance(outcome, Fault):
            done = sum(1 for other in outcomes if isinstance(other, WriteResult))
            told = f"{outcome.detail} ({done} of {len(outcomes)} steps were committed)"
            return msgspec.structs.replace(outcome, detail=told)
        results.append(outcome)
    acknowledged: dict[str, float] = {}
    for name in results[0].acknowledged:
        times = [result.acknowledged.get(name) for result in results]
        known = [ms for ms in times if ms is not None]
        if len(known) == len(results):
            acknowledged[name] = max(known)
    missing = {name for result in results for name in result.missing}
    fenced = {name for result in results for name in result.fenced} - missing
    versions = [result.version for result in results if result.version is not None]
    errors = tuple(r for result in results for r in result.replies if isinstance(r, ReplyError))
    return WriteResult(
        replies=errors[:1],
        version=max(versions, key=lambda version: version.seq, default=None),
        acknowledged=acknowledged,
        fenced=tuple(sorted(fenced)),
        missing=tuple(sorted(missing)),
        satisfied=all(result.satisfied for result in results),
    )
