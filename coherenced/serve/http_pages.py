"""The two answers that never change while the daemon runs: `/openapi.json` and the dashboard."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from aiohttp import web

from coherenced.serve.http_context import JSON_TYPE, Context


async def openapi(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    return web.Response(body=context.describe(), content_type=JSON_TYPE)


async def dashboard(context: Context, request: web.BaseRequest, _: str) -> web.StreamResponse:
    page, policy = _dashboard()
    return web.Response(
        body=page,
        headers={
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        },
    )


@cache
def _dashboard() -> tuple[bytes, str]:
    """The page, and a policy that lets exactly its own script and style run."""
    page = files("coherenced.serve").joinpath("dashboard.html").read_bytes()
    policy = ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"]
    policy.append("frame-ancestors 'none'")
    for element in ("script", "style"):
        hashes = (
            base64.b64encode(hashlib.sha256(inline).digest()).decode()
            for inline in re.findall(
                rb"<%b>(.*?)</%b>" % (element.encode(), element.encode()), page, re.DOTALL
            )
        )
        policy.append(f"{element}-src " + " ".join(f"'sha256-{digest}'" for digest in hashes))
    return page, "; ".join(policy)
