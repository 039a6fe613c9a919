"""What a node tells about itself: health, statistics, the roster, an explanation, its settings."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import web

from coherenced.core.requests import Fault
from coherenced.serve.http_context import Context, json_response
from coherenced.serve.http_headers import key_of
from coherenced.serve.http_schema import Health
from coherenced.serve.problem import Problem, bad, of_fault

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


async def healthz(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    """Alive: the event loop turns. Says nothing about Redis: a restart would not help there."""
    return json_response(Health("ok"))


async def readyz(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    ready, reason = context.port.ready()
    if context.stopping:
        raise Problem("stopping", "another node answers")
    if not ready:
        raise Problem("not-ready", reason or "it has not joined the bus yet")
    return json_response(Health("ready"))


async def stats(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    return json_response(context.port.stats())


async def metrics(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    return web.Response(body=context.port.metrics(), headers={"Content-Type": METRICS_TYPE})


async def settings(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    return json_response(context.port.settings())


async def explain(context: Context, request: web.BaseRequest, encoded: str) -> web.StreamResponse:
    return json_response(context.port.explain(key_of(encoded, context.limits)))


async def nodes(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    with_events = _flag(request, "events")
    answer = await context.wait(context.port.nodes)
    if isinstance(answer, Fault):
        raise of_fault(answer)
    shown: dict[str, Any] = dict(answer)
    if not with_events:
        shown.pop("events", None)
    return json_response(shown)


def _flag(request: web.BaseRequest, name: str) -> bool:
    query = request.raw_path.partition("?")[2]
    try:
        values = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=16))
    except ValueError:
        raise bad("too many parameters", "query") from None
    value = values.get(name, "0")
    if value not in ("0", "1"):
        raise bad("0 or 1", f"query {name}")
    return value == "1"
