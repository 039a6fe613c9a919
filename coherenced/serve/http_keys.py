"""/v1/keys/{key}: one value, as bytes, with the preconditions and headers of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from coherenced.core.entry import Entry
from coherenced.core.life import fresh_ms, life_of, with_life
from coherenced.core.model import Mutation, Op, ReplyError, Version
from coherenced.core.requests import Fault, FaultKind, Level, Source, Value, Write, WriteResult
from coherenced.serve.http_context import Context, json_response
from coherenced.serve.http_headers import (
    Condition,
    ReadWish,
    ack_of,
    content_type_label,
    content_type_of,
    key_of,
    lifetime_of,
    matches,
    read_wish,
    replicas_of,
    tags_of,
    timeout_of,
    write_condition,
)
from coherenced.serve.http_schema import WriteAnswer, write_answer
from coherenced.serve.problem import Problem, of_fault, of_reply

SANDBOX: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
"""A stored value is never a page of this origin, whatever Content-Type its writer gave it."""


async def get(context: Context, request: web.BaseRequest, encoded: str) -> web.StreamResponse:
    """GET and HEAD."""
    key = key_of(encoded, context.limits)
    wish = read_wish(request.headers)
    port = context.port
    if wish.plain or wish.only_if_cached:
        now_ms = port.now_ms()
        entry = port.hit(key, now_ms)
        if entry is not None:
            value = of_entry(entry, now_ms)
            if wish.plain or _suits(value, wish):
                return answer_value(request.headers, value, wish)
        if wish.only_if_cached and not port.has_origin(key):
            raise not_cached()
    result = await context.read(wish.read((key,)))
    value = result.values[0]
    if wish.only_if_cached and value.value is None and value.error is None:
        raise not_cached()
    return answer_value(request.headers, value, wish)


def _suits(value: Value, wish: ReadWish) -> bool:
    """Whether a hit is young and fresh enough. What has no age of its own is in its home, Redis:
    it is as old as its proof, and fresh as long as it is proved."""
    if wish.max_staleness_ms is not None and value.proved_ms > wish.max_staleness_ms:
        return False
    if life_of(value.labels) is None:
        return True
    if wish.max_age_ms is not None and value.age_ms > wish.max_age_ms:
        return False
    left_ms = fresh_ms(value.labels, value.expires_in_ms)
    return left_ms is None or left_ms >= (wish.min_fresh_ms or 0.0)


def not_cached() -> Problem:
    """RFC 9111 5.2.1.7: there is no stored answer, and no other was asked for."""
    return Problem("not-cached", "ask without Cache-Control: only-if-cached")


def of_entry(entry: Entry, now_ms: float) -> Value:
    lane = entry.lane
    proved_ms = max(0.0, now_ms - lane.verified_at_ms)
    known_ms = entry.known_age_ms(now_ms)
    return Value(
        value=entry.value,
        version=Version(lane.epoch or b"", entry.as_of),
        source=Source.L1,
        age_ms=proved_ms if known_ms is None else known_ms,
        ttl_ms=max(0.0, entry.deadline_ms - now_ms),
        labels=entry.tags,
        expires_in_ms=entry.left_ms(now_ms),
        proved_ms=proved_ms,
    )


def answer_value(asked: Mapping[str, str], value: Value, wish: ReadWish) -> web.StreamResponse:
    """What a GET of this value is answered with."""
    if isinstance(value.error, ReplyError):
        raise of_reply(value.error)
    etag = f'"{value.version}"'
    headers = {
        "Coherenced-Version": str(value.version),
        "Coherenced-Source": value.source,
        "Coherenced-Stale": "1" if value.told_stale else "0",
        "Age": str(int(value.age_ms // 1000)),
        "Cache-Status": _cache_status(value, wish),
        # Whoever caches this answer on the way must ask again each time; the ETag makes it cheap.
        "Cache-Control": "no-cache",
    }
    if value.value is None:
        if "If-Match" in asked:
            raise Problem(
                "precondition-failed", "there is no such key", pointer="If-Match", headers=headers
            )
        raise Problem("not-found", "store it with PUT", version=str(value.version), headers=headers)
    headers["ETag"] = etag
    if (listed := asked.get("If-Match")) is not None and not matches(
        listed, "If-Match", etag, weak=False
    ):
        raise Problem(
            "precondition-failed",
            "the value's version is another one",
            pointer="If-Match",
            version=str(value.version),
            headers=headers,
        )
    if (listed := asked.get("If-None-Match")) is not None and matches(
        listed, "If-None-Match", etag, weak=True
    ):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = content_type_of(value.labels)
    return web.Response(body=value.value, headers=headers | SANDBOX)


def _cache_status(value: Value, wish: ReadWish) -> str:
    """RFC 9211: what this cache did with the request, and how long the value is fresh still."""
    if value.source == Source.ORIGIN:
        return "coherenced; fwd=miss" + ("" if value.ttl_ms is None else "; stored")
    left_ms = fresh_ms(value.labels, value.expires_in_ms)
    if value.told_stale:
        return f'coherenced; hit; ttl={_past_s(value, left_ms)}; detail="stale"'
    if value.source == Source.L1:
        return "coherenced; hit" + ("" if left_ms is None else f"; ttl={int(left_ms // 1000)}")
    if not wish.plain:
        return "coherenced; fwd=request"
    return "coherenced; fwd=miss"


def _past_s(value: Value, left_ms: float | None) -> int:
    """How many seconds past its time, or else past the bound within which it was proved; below
    zero: a value that has just become stale is seen to be."""
    if left_ms is None or left_ms > 0:
        left_ms = max(0.0, value.bound_ms) - value.proved_ms
    return min(-1, int(left_ms // 1000))


async def put(context: Context, request: web.BaseRequest, encoded: str) -> web.StreamResponse:
    limits = context.limits
    key = key_of(encoded, limits)
    headers = request.headers
    condition = write_condition(headers, absent_allowed=True)
    ttl_ms, grace_ms = lifetime_of(headers)
    labels = content_type_label(headers.get("Content-Type")) + tags_of(headers, limits)
    ack, timeout_ms, replicas = ack_of(headers), timeout_of(headers), replicas_of(headers)
    _refuse_hopeless(condition)
    value = await context.body(request, limits.max_value_bytes)
    mutation = set_mutation(key, value, ttl_ms, labels, condition, grace_ms)
    write = Write((mutation,), ack=ack, timeout_ms=timeout_ms, replicas=replicas)
    outcome = await context.write(write)
    return _written(outcome, condition, ack)


def set_mutation(
    key: bytes,
    value: bytes,
    ttl_ms: int | None,
    labels: tuple[bytes, ...] = (),
    condition: Condition = Condition(),  # noqa: B008 - immutable
    grace_ms: int = 0,
) -> Mutation:
    """SET as this front end writes it: the plain value under its own key, labels beside it.

    `grace_ms`: the last so much of `ttl_ms` it is stale, which a label tells."""
    labels = with_life(labels, ttl_ms, grace_ms) if labels or grace_ms else ()
    argv = [b"SET", key, value]
    if ttl_ms is not None:
        argv += (b"PX", b"%d" % ttl_ms)
    conditional = condition.must_exist or condition.must_be_absent
    if conditional:
        argv.append(b"XX" if condition.must_exist else b"NX")
    return Mutation(
        argv=tuple(argv),
        op=Op.WRITE,
        keys=(key,),
        unchanged=b"n" if conditional else b"",
        label=labels or None,
        if_version=condition.if_version,
        keeps=value,
        keeps_ttl_ms=None if ttl_ms is None else float(ttl_ms),
        expected_reply=b"OK",
        # NX and XX can be answered nil: but a record in the log is the proof that it was not.
        reply_is_known=True,
    )


async def delete(context: Context, request: web.BaseRequest, encoded: str) -> web.StreamResponse:
    limits = context.limits
    key = key_of(encoded, limits)
    headers = request.headers
    condition = write_condition(headers, absent_allowed=False)
    ack, timeout_ms, replicas = ack_of(headers), timeout_of(headers), replicas_of(headers)
    _refuse_hopeless(condition)
    mutation = Mutation(
        argv=(b"DEL", key),
        op=Op.DELETE,
        keys=(key,),
        unchanged=b"z",
        if_version=condition.if_version,
        frees_memory=True,
        expected_reply=1,
        reply_is_known=True,
    )
    write = Write((mutation,), ack=ack, timeout_ms=timeout_ms, replicas=replicas)
    outcome = await context.write(write)
    # If some have not acknowledged it, that is the answer, and not what was there.
    if isinstance(outcome, WriteResult) and outcome.satisfied and outcome.replies[:1] == (0,):
        if condition.any:
            raise Problem("precondition-failed", "there is no such key", pointer="If-Match")
        raise Problem("not-found", "nothing was there to delete")
    return _written(outcome, condition, ack)


def _refuse_hopeless(condition: Condition) -> None:
    if condition.hopeless:
        raise Problem(
            "precondition-failed",
            "it cannot hold: If-Match names no version of ours, or contradicts If-None-Match",
            pointer="If-Match",
        )


def _written(
    outcome: WriteResult | Fault, condition: Condition, ack: int | None
) -> web.StreamResponse:
    if isinstance(outcome, WriteResult) and outcome.replies and outcome.replies[0] is None:
        there = (
            "there is already such a key" if condition.must_be_absent else "there is no such key"
        )
        pointer = "If-None-Match" if condition.must_be_absent else "If-Match"
        raise Problem("precondition-failed", there, pointer=pointer)
    return write_response(outcome, ack, conditional=condition.any)


def write_response(
    outcome: WriteResult | Fault, ack: int | None, *, conditional: bool = False
) -> web.Response:
    """200 done as asked; 202 committed but not acknowledged as asked, or not waited for."""
    if isinstance(outcome, Fault):
        if outcome.kind == FaultKind.APPLIED_UNKNOWN_REPLY and outcome.version is not None:
            # Committed for sure; who has applied it is not known.
            answer = WriteAnswer(str(outcome.version), {}, [], [], ack in (Level.NONE, Level.REDIS))
        else:
            raise of_fault(outcome, conditional=conditional)
    else:
        for reply in outcome.replies:
            if isinstance(reply, ReplyError):
                raise of_reply(reply, conditional=conditional)
        answer = write_answer(outcome)
    unawaited = answer.version is None and not answer.missing
    status = 200 if answer.satisfied and not unawaited else 202
    if answer.version is None:
        return json_response(answer, status)
    return json_response(
        answer, status, ETag=f'"{answer.version}"', Coherenced_Version=answer.version
    )
