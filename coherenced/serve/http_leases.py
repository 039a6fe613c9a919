"""/v1/leases: who may load a missing value, the value it brought, and a token given back (L1)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from coherenced.core.life import with_life
from coherenced.core.model import ReplyError
from coherenced.core.requests import (
    Fault,
    Fill,
    Lease,
    LeaseResult,
    Outcome,
    Release,
    WriteResult,
)
from coherenced.serve.http_context import Context, json_response
from coherenced.serve.http_headers import (
    PLAIN,
    absent_of,
    ack_of,
    content_type_label,
    key_of,
    lifetime_of,
    tags_of,
    timeout_of,
)
from coherenced.serve.http_keys import answer_value, write_response
from coherenced.serve.http_schema import (
    LeaseWish,
    Released,
    TokenGiven,
    Waiting,
    found_of,
    name_of,
)
from coherenced.serve.problem import bad, of_fault, of_reply
from coherenced.wire.leasing import MAX_TOKEN_BYTES

_WISH = msgspec.json.Decoder(LeaseWish)


async def lease(context: Context, request: web.BaseRequest, encoded: str) -> web.StreamResponse:
    """POST: 200 the value, 201 a token, 202 somebody else is loading it."""
    key = key_of(encoded, context.limits)
    wish = LeaseWish() if not request.can_read_body else await context.json(request, _WISH)
    wanted = Lease(key, int(wish.lease_ms), wish.wait_ms, wish.max_staleness_ms, wish.refresh_ms)
    outcome = await _ask(context, wanted)
    if isinstance(outcome, Fault):
        raise of_fault(outcome)
    assert isinstance(outcome, LeaseResult)
    value = outcome.value
    if outcome.token:
        token = outcome.token.decode("ascii")
        row = None if value is None else found_of(name_of(key), value)
        given = TokenGiven(token, str(outcome.version), msgspec.UNSET if row is None else row)
        return json_response(given, 201, Location=f"/v1/leases/{encoded}/{token}")
    if value is None:
        return json_response(Waiting(), 202, Retry_After="1")
    return answer_value({}, value, PLAIN)


async def _ask(context: Context, wanted: Lease) -> Outcome:
    """A caller that hangs up must not take a token with it: nobody would load until it ends."""
    gone = False

    def start(done: Callable[[Outcome], None]) -> None:
        def answered(outcome: Outcome) -> None:
            if gone and isinstance(outcome, LeaseResult) and outcome.token:
                context.port.submit(Release(wanted.key, outcome.token), lambda _: None)
            else:
                done(outcome)

        context.port.submit(wanted, answered)

    try:
        return await context.wait(start)
    except BaseException:
        gone = True
        raise


async def fill(context: Context, request: web.BaseRequest, encoded: str) -> web.StreamResponse:
    """PUT: store what was loaded; 409 `lost` when the token is dead."""
    limits = context.limits
    key, token = _key_and_token(context, encoded)
    headers = request.headers
    ttl_ms, grace_ms = lifetime_of(headers)
    labels = content_type_label(headers.get("Content-Type")) + tags_of(headers, limits)
    ack, timeout_ms = ack_of(headers), timeout_of(headers)
    value = await context.body(request, limits.max_value_bytes)
    labels = with_life(labels, ttl_ms, grace_ms)
    outcome = await context.ask(Fill(key, token, value, ttl_ms, labels, ack, timeout_ms))
    assert isinstance(outcome, WriteResult | Fault)
    return write_response(outcome, ack)


async def release(context: Context, request: web.BaseRequest, encoded: str) -> web.StreamResponse:
    """DELETE: give the token back."""
    key, token = _key_and_token(context, encoded)
    absent_ms = absent_of(request.headers)
    outcome = await context.ask(Release(key, token, absent_ms))
    if isinstance(outcome, Fault):
        raise of_fault(outcome)
    assert isinstance(outcome, WriteResult)
    reply = outcome.replies[0]
    if isinstance(reply, ReplyError):
        raise of_reply(reply)
    return json_response(Released(reply == 1))


def _key_and_token(context: Context, encoded: str) -> tuple[bytes, bytes]:
    name, _, token = encoded.rpartition("/")
    key = key_of(name, context.limits)
    if not token.isascii() or not token.isalnum() or len(token) > MAX_TOKEN_BYTES:
        raise bad("a token is what a lease has given: letters and digits", "path")
    return key, token.encode()
