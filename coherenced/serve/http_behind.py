"""/v1/writebehind: what waits to be sent to origins, and the dead letters: list, replay, drop."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import web

from coherenced.core.requests import Fault
from coherenced.serve.http_context import Context, json_response
from coherenced.serve.http_schema import SettleLetters
from coherenced.serve.problem import Problem, bad, of_fault

_decoder: Final = msgspec.json.Decoder(SettleLetters)


async def show(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    answer = await context.wait(context.port.write_behind)
    if isinstance(answer, Fault):
        raise of_fault(answer)
    return json_response(answer)


async def settle(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    wish = await context.json(request, _decoder)
    if (not wish.ids) == (not wish.all):
        raise bad("name ids, or say all: true", "/ids")
    ids = None if wish.all else wish.ids
    answer: dict[str, Any] | Fault | None = await context.wait(
        lambda done: context.port.settle_letters(wish.namespace, ids, wish.action == "replay", done)
    )
    if isinstance(answer, Fault):
        raise of_fault(answer)
    if answer is None:
        raise Problem("no-queue", f"{wish.namespace!r} is no namespace that is written behind here")
    return json_response(answer)
