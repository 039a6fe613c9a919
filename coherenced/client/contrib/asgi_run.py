"""One run of an application behind the ASGI middleware: its response, collected or passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from coherenced.client.contrib import http_rules as rules
from coherenced.client.contrib.http_rules import Headers, Terms

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Run:
    """One run of the application: its response is collected as long as it may be stored."""

    def __init__(
        self,
        request: Headers,
        terms: Terms,
        send: Send | None,
        telling: Callable[[Send, bytes], Send],
        *,
        bridges_errors: bool,
    ) -> None:
        """`telling`: a `send` with Cache-Status. `bridges_errors`: a stale response may be better
        than a server error."""
        self.headers: Headers = []
        self.verdict = rules.Verdict(0)
        self.decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """True: collected to its end; False: it goes past, to the client."""
        self._request = request
        self._terms = terms
        self._telling = telling
        self._bridges_errors = bridges_errors
        self._send = send
        """None: nobody waits for this response."""
        self._start: Message = {}
        self._body: list[bytes] = []
        self._size = 0

    async def take(self, message: Message) -> None:
        """The application's `send`."""
        if self.decided.done():
            if not self.decided.result() and self._send is not None:
                await self._send(message)
        elif message["type"] == "http.response.start":
            self._start = message
            self.headers = [(bytes(n).lower(), bytes(v)) for n, v in message.get("headers", ())]
            terms = self._terms
            self.verdict = rules.judge(self._request, message["status"], self.headers, terms)
        elif message["type"] == "http.response.body" and self._start:
            await self._take_body(message)
        else:
            await self._go_past(message)  # a file to be sent by the server, for example

    async def _take_body(self, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        most = self._terms.max_body_bytes
        length = rules.first(self.headers, b"content-length")
        declared = int(length) if length is not None and length.isdigit() else None
        too_long = self._size + len(body) > most or (declared is not None and declared > most)
        is_stream = more and declared is None
        may_be_better = self._start["status"] >= 500 and self._bridges_errors
        may_be_stored = self.verdict.lifetime_s > 0 or may_be_better
        if too_long or is_stream or not may_be_stored:
            await self._go_past(message)
            return
        self._body.append(body)
        self._size += len(body)
        if not more:
            self.decided.set_result(True)

    async def _go_past(self, message: Message) -> None:
        self.decided.set_result(False)
        if self._send is None:
            return
        if self._start:
            await self._telling(self._send, b"fwd=uri-miss")(self._start)
        for part in self._body:
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
        await self._send(message)

    def collected(self) -> dict[str, Any]:
        """The response as it is stored."""
        return {
            "status": self._start["status"],
            "headers": rules.storable_headers(self.headers),
            "body": b"".join(self._body),
            "ttl": self.verdict.lifetime_s,
            "age": rules.initial_age_s(self.headers),
            "auth": self.verdict.serves_authorized,
            "strict": self.verdict.must_revalidate,
        }


class Empty:
    """The `receive` of a GET without a body, which may be run more than once."""

    def __init__(self, after: Receive) -> None:
        self._after = after
        self._told = False

    async def receive(self) -> Message:
        if self._told:
            return await self._after()
        self._told = True
        return {"type": "http.request", "body": b"", "more_body": False}


async def nothing_more() -> Message:
    """Of a run for which no client waits: it never disconnects."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")
