"""An ASGI middleware that caches responses, for any framework and for none.

    app = ResponseCache(app, AsyncClient(), tags=lambda scope, response: ["products"])

A response is stored when RFC 9111 lets a shared cache store it and it says for how long
(`Cache-Control: max-age=60`, `s-maxage`, `Expires`; `default_ttl` for those that say
nothing). Not stored by default: what sets a cookie, what is streamed (a body of unknown
length in several pieces, or longer than `max_body_bytes`), what is for one user only
(`private`, an Authorization without `public`). `Vary` is obeyed. On a miss one request in
the whole cluster runs the application, the others wait for its response.

A Range of one part is answered out of a stored response; where none is stored, and for
several parts, the application answers (`Cache-Status: …; fwd=bypass`), and that is not stored.

An unsafe request (POST, PUT, PATCH, DELETE) that succeeds ends what is stored of its
address, on every host, before its response is sent. Anything else is ended by tag:
`await cache.invalidate(tags=["products"])`.

Each answer tells what happened: `Age`, and `Cache-Status` (RFC 9211).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, Unpack

from coherenced.client.aio import AsyncClient
from coherenced.client.arguments import Key
from coherenced.client.contrib import http_rules as rules
from coherenced.client.contrib.asgi_run import Empty, Message, Receive, Run, Send, nothing_more
from coherenced.client.contrib.http_rules import Headers, Terms
from coherenced.client.freshness import Loaded, LoadOptions, Unkept
from coherenced.client.replies import Entry
from coherenced.errors import CoherencedError, LoadTimeout, Unreachable

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
TagsOf = Callable[[Scope, dict[str, Any]], Iterable[Key]]
"""Of a request and its response {"status": …, "headers": …, "body": …}."""

MAX_PASSED: Final = 10_000
"""Addresses of which it is remembered that their responses cannot be stored."""
PASS_S: Final = 30.0
VARY_S: Final = 30 * 86_400.0
"""How long it is remembered by which headers an address varies."""
LOOKS: Final = 3
"""So often an address may turn out to have other variants, before the application answers."""

_log = logging.getLogger("coherenced.asgi")


class _Failed(Exception):
    """The application answered with a server error: something stale may be better."""

    def __init__(self, response: dict[str, Any]) -> None:
        super().__init__(f"status {response['status']}")
        self.response = response


class _Passing(Unkept):
    """This response cannot be stored: each request runs the application for itself."""


class _Varies(Unkept):
    """The address has other variants than was known: look again."""


class ResponseCache:
    """See the module's text. `options`: those of `get_or_load`, but `ttl`, which responses tell."""

    def __init__(
        self,
        app: App,
        cache: AsyncClient,
        *,
        tags: TagsOf | None = None,
        key: Callable[[Scope], str] | None = None,
        prefix: str = "http:",
        default_ttl: float | None = None,
        stores_cookies: bool = False,
        max_body_bytes: int = 1 << 20,
        ack: str | int | None = None,
        name: str = "coherenced",
        **options: Unpack[LoadOptions],
    ) -> None:
        self.app = app
        self._cache = cache
        self._tags = tags
        self._key = key or address_of
        self._prefix = prefix
        self._terms = Terms(default_ttl, stores_cookies, max_body_bytes)
        self._ack = ack
        self._name = name.encode()
        self._options = options
        self._policy = cache._patterns.policy_of(options)
        self._passed: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = self._prefix + self._key(scope)
        headers: Headers = scope["headers"]
        if scope["method"] not in rules.SAFE:
            await self.app(scope, receive, self._ending(name, send))
        elif scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, self._telling(send, b"fwd=bypass"))
        elif not {b"content-length", b"transfer-encoding"}.isdisjoint(n for n, _ in headers):
            await self.app(scope, receive, self._telling(send, b"fwd=bypass"))  # a GET with a body
        elif "no-store" in rules.directives(headers):
            await self.app(scope, receive, self._telling(send, b"fwd=request"))
        elif scope["method"] == "GET" and rules.first(headers, b"range") is not None:
            await self._answer_part(name, scope, receive, send)
        else:
            await self._answer(name, scope, receive, send)

    # -- answering -------------------------------------------------------------------------

    async def _answer(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(self, name, scope, receive, send)
        for _ in range(LOOKS):
            try:
                entry = await self._look(name, exchange)
            except _Varies:
                if exchange.response is None:
                    continue
                status = b"fwd=vary-miss" + b"; stored" * exchange.is_stored
                await self._send(send, scope, exchange.response, status)
                return
            except _Passing:
                if exchange.passes is None:
                    break
                await exchange.passes  # the application is sending by itself
                return
            except _Failed as failed:
                await self._send(send, scope, failed.response, b"fwd=miss")
                return
            except LoadTimeout:
                await self._refuse(send)  # with a hard_timeout: the application was given up
                return
            except Unreachable as error:
                if exchange.began:
                    raise
                _log.warning("the cache cannot be reached, the application answers: %s", error)
                told = b"fwd=bypass; detail=unavailable"
                await self.app(scope, receive, self._telling(send, told))
                return
            await self._serve(entry, exchange)
            return
        await self.app(scope, receive, self._telling(send, b"fwd=uri-miss"))

    async def _answer_part(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A Range: out of what is stored and fresh, or else from the application."""
        exchange = _Exchange(self, name, scope, receive, send)
        try:
            entry = await self._cache.get_entry(await self._variant_key(name, exchange))
        except Unreachable as error:
            _log.warning("the cache cannot be reached, the application answers: %s", error)
        else:
            left_ms = entry.expires_in_ms
            is_fresh = left_ms is None or left_ms > self._policy.grace * 1e3
            if entry.found and is_fresh and rules.has_parts(scope["headers"], entry.value):
                await self._serve(entry, exchange)
                return
        await self.app(scope, receive, self._telling(send, b"fwd=bypass"))

    async def _variant_key(self, name: str, exchange: _Exchange) -> str:
        """Where the response to requests like this one is; tells the exchange what it varies by."""
        varies: Any = await self._cache.get(f"{name}#vary") or ()
        exchange.varies = [bytes(one) for one in varies]
        return f"{name}#{rules.variant(exchange.scope['headers'], exchange.varies)}"

    async def _look(self, name: str, exchange: _Exchange) -> Entry:
        scope = exchange.scope
        key = await self._variant_key(name, exchange)
        only_stored = "only-if-cached" in rules.directives(scope["headers"])
        if scope["method"] == "HEAD" or only_stored or self._is_passed(key):
            return await self._cache.get_entry(key)
        try:
            return await self._cache.get_entry_or_load(
                key, exchange.load, tags=exchange.tags_of, **self._options
            )
        except _Passing:
            if exchange.passes is not None and not exchange.is_private:
                self._pass(key)
            raise

    async def _serve(self, entry: Entry, exchange: _Exchange) -> None:
        scope, receive, send = exchange.scope, exchange.receive, exchange.send
        only_stored = "only-if-cached" in rules.directives(scope["headers"])
        if not entry.found and only_stored:
            await self._refuse(send)
            return
        if not entry.found:
            await self.app(scope, receive, self._telling(send, b"fwd=uri-miss"))
            return
        stored: dict[str, Any] = entry.value
        if entry.source == "origin":
            why = b"fwd=uri-miss; stored" if entry.version else b"fwd=uri-miss"
            await self._send(send, scope, stored, why, age_s=stored["age"] or None)
            return
        left_s = stored["ttl"] if entry.expires_in_ms is None else entry.expires_in_ms / 1e3
        fresh_s = left_s - self._policy.grace
        age_s = max(0.0, stored["ttl"] - fresh_s) + stored["age"]
        refusal = rules.accepts(scope["headers"], stored, age_s, fresh_s <= 0)
        if refusal:
            if only_stored:
                await self._refuse(send)
                return
            await self.app(scope, receive, self._telling(send, b"fwd=" + refusal.encode()))
            return
        await self._send(send, scope, stored, b"hit; ttl=%d" % fresh_s, age_s=age_s)

    async def _send(
        self,
        send: Send,
        scope: Scope,
        response: dict[str, Any],
        status: bytes,
        *,
        age_s: float | None = None,
    ) -> None:
        """A response that was collected, now or before."""
        headers: Headers = [(bytes(name), bytes(value)) for name, value in response["headers"]]
        code, body = response["status"], response["body"]
        if code == 200 and rules.not_modified(scope["headers"], headers):
            kept = (b"etag", b"last-modified", b"cache-control", b"expires", b"vary", b"date")
            code, body = 304, b""
            headers = [(name, value) for name, value in headers if name in kept]
        elif code == 200 and scope["method"] == "GET":
            code, body, headers = rules.part(scope["headers"], code, body, headers)
        if age_s is not None:
            headers.append((b"age", b"%d" % age_s))
        headers.append((b"cache-status", self._name + b"; " + status))
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    async def _refuse(self, send: Send) -> None:
        headers = [(b"content-length", b"0"), (b"cache-status", self._name + b"; fwd=miss")]
        await send({"type": "http.response.start", "status": 504, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    # -- what goes past the cache ------------------------------------------------------------

    def _telling(self, send: Send, status: bytes) -> Send:
        """The application's own sending, with Cache-Status."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = (b"cache-status", self._name + b"; " + status)
                message = {**message, "headers": [*message.get("headers", ()), told]}
            await send(message)

        return tell

    def _ending(self, name: str, send: Send) -> Send:
        """RFC 9111, 4.4: an unsafe request that succeeds ends what is stored of its address."""
        tell = self._telling(send, b"fwd=method")

        async def end(message: Message) -> None:
            if message["type"] == "http.response.start" and 200 <= message["status"] < 400:
                try:
                    await self._cache.invalidate(tags=[name], ack=self._ack)
                except CoherencedError as error:
                    _log.error(
                        "%s is changed, but what is stored of it is not ended: %s", name, error
                    )
            await tell(message)

        return end

    def _is_passed(self, key: str) -> bool:
        """Its responses cannot be stored: nobody is to wait for anybody."""
        until = self._passed.get(key)
        if until is None:
            return False
        if until > asyncio.get_running_loop().time():
            return True
        del self._passed[key]
        return False

    def _pass(self, key: str) -> None:
        while len(self._passed) >= MAX_PASSED:
            del self._passed[next(iter(self._passed))]
        self._passed[key] = asyncio.get_running_loop().time() + PASS_S


class _Exchange:
    """One request that may have to run the application."""

    def __init__(
        self, cache: ResponseCache, name: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.varies: list[bytes] = []
        self.began = False
        self.response: dict[str, Any] | None = None
        """What the application answered this request with, where that was collected."""
        self.passes: asyncio.Future[None] | None = None
        """The application, while it sends to the client by itself."""
        self.is_stored = False
        """That response, under the name of its variant."""
        self.is_private = False
        """It cannot be stored because of this request, not because of its address."""
        self._cache = cache
        self._name = name
        self._task = asyncio.current_task()

    async def load(self) -> Loaded:
        """Run the application: its response.

        What cannot be stored goes to the client as it comes, and the lease goes back at once.
        """
        known = await self._cache._cache.get_entry(f"{self._name}#vary")
        if known.found and [bytes(one) for one in known.value] != self.varies:
            raise _Varies  # somebody else has just learned of it
        self.began = True
        is_behind = asyncio.current_task() is not self._task
        cache = self._cache
        run = Run(
            self.scope["headers"],
            cache._terms,
            None if is_behind else self.send,
            cache._telling,
            bridges_errors=cache._policy.stale_if_error > 0,
        )
        headers = [h for h in self.scope["headers"] if h[0] not in rules.CONDITIONS]
        receive = nothing_more if is_behind else self.receive
        app = cache.app({**self.scope, "headers": headers}, Empty(receive).receive, run.take)
        running = asyncio.ensure_future(app)
        either: set[asyncio.Future[Any]] = {running, run.decided}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if run.decided.done() and not run.decided.result():
                self.is_private = run.verdict.why_not in rules.PRIVATE
                if not is_behind:
                    self.passes = running
                raise _Passing(run.verdict.why_not)
            await running  # to its end: background work of the application; or its error
        finally:
            if self.passes is not running:
                running.cancel()
        if not run.decided.done():
            raise RuntimeError("the application ended without a response")
        return await self._kept(run, known.version)

    async def _kept(self, run: Run, since: str) -> Loaded:
        """`since`: where the log stood before the application ran."""
        cache, response = self._cache, run.collected()
        if response["status"] >= 500 and cache._policy.stale_if_error:
            raise _Failed(response)
        names = rules.vary_names(run.headers)
        if names != self.varies:
            # Its name is another than was asked for: from now on it will be known.
            await cache._cache.set(f"{self._name}#vary", names, ttl=VARY_S, tags=[self._name])
            self.response = response
            await self._store_variant(names, response, run.verdict.lifetime_s, since)
            raise _Varies
        return Loaded(response, ttl=run.verdict.lifetime_s)

    async def _store_variant(
        self, names: list[bytes], response: dict[str, Any], lifetime_s: float, since: str
    ) -> None:
        """Under its own name it was not leased: it is stored if nothing at all has touched it, or
        a tag, since before the application ran."""
        if not since or lifetime_s <= 0:
            return
        key = f"{self._name}#{rules.variant(self.scope['headers'], names)}"
        kept_s, tags = lifetime_s + self._cache._policy.grace, self.tags_of(response)
        try:
            await self._cache._cache.set(key, response, ttl=kept_s, tags=tags, if_version=since)
        except CoherencedError:
            return  # the next one stores it
        self.is_stored = True

    def tags_of(self, response: dict[str, Any] | None) -> list[Key]:
        more = self._cache._tags
        if response is None or more is None:
            return [self._name]
        return [self._name, *more(self.scope, response)]


def address_of(scope: Scope) -> str:
    """The effective request URI: scheme, host, path and query, as they came."""
    host = rules.first(scope["headers"], b"host")
    if host is None:
        server = scope.get("server") or ("localhost", None)
        host = f"{server[0]}:{server[1]}".encode() if server[1] else str(server[0]).encode()
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string", b"")
    text = b"%b://%b%b" % (scope.get("scheme", "http").encode(), host.lower(), path)
    return (text + b"?" + query if query else text).decode("latin-1")
