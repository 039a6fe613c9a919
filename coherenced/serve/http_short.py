"""The short path: a GET that hits L1, answered without parsing HTTP again.

A client on a kept-alive connection sends the same header block with every
request; only the request line differs. aiohttp's own parser parses the first
request. If that was a *plain* GET of a key (no header that changes the answer:
`READ_HEADERS`), its header block is remembered, byte for byte; a later request
that is exactly `GET /v1/keys/` + key + that block is recognised by comparing
bytes, and a hit is written at once. A plain request that has to be parsed after all
still gets its answer as bytes (`answer_parsed`). Everything else, also anything odd about the
bytes or the state of the connection, goes to aiohttp as if this file did not exist.

The one danger is to answer while aiohttp still owes an answer or holds half a
request. So a block is remembered only at a *boundary*: every byte that was given
to aiohttp belongs to requests whose answers have been written. That is known by
counting bytes, not by looking into aiohttp.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from aiohttp import HttpVersion11, web

from coherenced.core.bulk import NIL_BULK
from coherenced.core.entry import Entry
from coherenced.core.life import fresh_ms
from coherenced.core.model import FOREVER
from coherenced.serve.http_headers import (
    DEFAULT_TYPE,
    READ_HEADERS,
    RESERVED,
    content_type_of,
)
from coherenced.serve.problem import Problem

if TYPE_CHECKING:
    from coherenced.serve.http import HttpFront

_KEYS: Final = "/v1/keys/"
GET_KEY: Final = b"GET " + _KEYS.encode()
_HEAD_END: Final = b"\r\n\r\n"
_LINE_END: Final = b" HTTP/1.1\r\n"
_KEY: Final = re.compile(rb"(?:[!$&'()*+,\-.0-9:;=@A-Z_a-z~]|%[0-9A-Fa-f]{2})+")
TAKING_S: Final = 10.0
"""A client that takes nothing of an answer for so long is cut off."""
REFRESH_MS: Final = 10_000.0
"""After this long without it a request takes the long way, which renews aiohttp's idle timer."""


class ShortPath:
    """Answers hits as bytes. One per front end."""

    __slots__ = ("_date", "_date_until_ms", "_port", "_server", "hits", "max_key_bytes", "open")

    def __init__(self, port: Any, max_key_bytes: int, server: str) -> None:
        self._port = port
        self.max_key_bytes = max_key_bytes
        self._server = server.encode()
        self._date = b""
        self._date_until_ms = float("-inf")
        self.hits = 0
        """Answers that aiohttp never saw the request of."""
        self.open = True
        """False while the front end stops: everything takes the long way, which closes."""

    def answer(self, encoded: bytes, now_ms: float) -> bytes | None:
        """The whole answer to a plain GET, or None: not a hit, or not for this path."""
        if _KEY.fullmatch(encoded) is None or not self.open:
            return None
        key = unquote_to_bytes(encoded) if b"%" in encoded else encoded
        if len(key) > self.max_key_bytes or key.startswith(RESERVED):
            return None
        entry = self._port.hit(key, now_ms)
        if entry is None:
            return None
        return self.encode(entry, now_ms)

    def answer_parsed(self, request: web.BaseRequest) -> bytes | None:
        """The same for a request that aiohttp has parsed: a client's first one on a connection,
        or one whose headers change every time."""
        target = request.raw_path
        if (
            request.method != "GET"
            or not target.startswith(_KEYS)
            or request.version != HttpVersion11
            or not request.keep_alive
            or not is_plain(request.headers)
        ):
            return None
        return self.answer(target[len(_KEYS) :].encode("utf-8", "replace"), self._port.now_ms())

    def encode(self, entry: Entry, now_ms: float) -> bytes | None:
        """What `http_keys` would answer, as bytes; a test holds the two together."""
        if now_ms >= self._date_until_ms:
            self._renew_date(now_ms)
        lane = entry.lane
        version = b"%b:%d" % (lane.epoch or b"", entry.as_of)
        known_ms = entry.known_age_ms(now_ms)
        age_ms = max(0.0, now_ms - lane.verified_at_ms) if known_ms is None else known_ms
        fresh = b""
        if entry.expires_ms != FOREVER:
            left_ms = fresh_ms(entry.tags, entry.left_ms(now_ms)) or 0.0
            if left_ms <= 0:
                return None  # in its grace: it has to be told stale
            fresh = b"; ttl=%d" % (left_ms // 1000)
        common = (version, age_ms // 1000, fresh, self._date)
        bulk = entry.bulk
        if bulk is NIL_BULK:
            problem = Problem("not-found", "store it with PUT", version=version.decode()).body()
            return _ABSENT % (len(problem), *common, problem)
        start = bulk.index(b"\n") + 1
        content_type = content_type_of(entry.tags).encode() if entry.tags else _DEFAULT_TYPE
        value = memoryview(bulk)[start:-2]
        return _FOUND % (content_type, len(value), version, *common, value)

    def _renew_date(self, now_ms: float) -> None:
        self._date = b"Date: %b\r\nServer: %b" % (formatdate(usegmt=True).encode(), self._server)
        # A second behind at most: RFC 9110 6.6.1 wants the best approximation that there is, and
        # the header itself counts whole seconds.
        self._date_until_ms = now_ms + 500.0


_DEFAULT_TYPE: Final = DEFAULT_TYPE.encode()
_COMMON: Final = (
    b"Coherenced-Version: %b\r\nCoherenced-Source: l1\r\nCoherenced-Stale: 0\r\nAge: %d\r\n"
    b"Cache-Status: coherenced; hit%b\r\nCache-Control: no-cache\r\n%b\r\n\r\n%b"
)
_FOUND: Final = (
    b'HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\nETag: "%b"\r\n'
    b"X-Content-Type-Options: nosniff\r\nContent-Security-Policy: sandbox\r\n" + _COMMON
)
_ABSENT: Final = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n"
    + _COMMON
)


def is_plain(headers: Mapping[str, str]) -> bool:
    """Whether no header changes what a GET of a key is answered with."""
    return not any(name in headers for name in READ_HEADERS)


class Written(web.StreamResponse):
    """Tells aiohttp that the answer is on its way already and the connection stays."""

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class HttpConnection(web.RequestHandler):
    """aiohttp's connection, with the short path in front of it."""

    __slots__ = (
        "_block",
        "_candidate",
        "_fed",
        "_finishing",
        "_front",
        "_head_bytes",
        "_long_way_ms",
        "_unread",
        "_wire",
        "on_tcp",
        "writable",
    )

    def __init__(self, front: HttpFront, server: web.Server, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._front = front
        self._block = b""
        """The rest of a plain request after its key; empty: nothing is recognised now."""
        self._candidate = b""
        self._fed = 0
        """Bytes given to aiohttp since the last boundary."""
        self._head_bytes = 0
        """Length of the head that began at the boundary; 0: it did not come in one piece."""
        self._long_way_ms = 0.0
        self._wire: asyncio.Transport | None = None
        """The transport, also after aiohttp has closed (and forgotten) it."""
        self.writable = True
        """False while the client has to read before more is written."""
        self._finishing = False
        """An answer is being handed over (no event stream: those have a bound of their own)."""
        self._unread: asyncio.TimerHandle | None = None
        """When it will be looked whether the client reads at all."""
        self.on_tcp = False

    # -- aiohttp's callbacks -------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wire = transport
        self.on_tcp = isinstance(transport.get_extra_info("sockname"), tuple)
        self._front.opened(self)

    def abort(self) -> None:
        """End it now, whatever is still to be written."""
        if self._wire is not None:
            self._wire.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wire = None
        self._block = b""
        if self._unread is not None:
            self._unread.cancel()
        self._front.closed(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self.writable = False
        if self._finishing:
            self._watch()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.writable = True
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        block = self._block
        if block and self.writable and data.endswith(block) and data.startswith(GET_KEY):
            short = self._front.short
            now_ms = self._front.port.now_ms()
            if now_ms < self._long_way_ms + REFRESH_MS:
                answer = short.answer(data[len(GET_KEY) : -len(block)], now_ms)
                if answer is not None and self.transport is not None:
                    short.hits += 1
                    self.transport.write(answer)
                    return
        self._note(data)
        try:
            super().data_received(data)
        except MemoryError as error:
            self._front.starved(error)
            self._front.cut_short(self)
        if self._current_request is not None and self._messages:
            self._tell_reader(self._messages[-1][0], self._current_request)

    def _tell_reader(self, latest: Any, request: web.BaseRequest) -> None:
        """What aiohttp's parser refuses in the middle of a body is an answer of its own, for later:
        whoever reads the body would wait for the rest until the time for bodies is up."""
        refused = getattr(latest, "exc", None)
        if refused is not None and not request.content.is_eof():
            request.content.set_exception(web.RequestPayloadError(getattr(latest, "message", "")))
            request.content.feed_eof()  # nobody is to wait for more of it

    async def finish_response(self, request: Any, resp: Any, start_time: Any) -> Any:
        if not self.writable:
            self._watch()
        self._finishing = True  # aiohttp goes on when the client has taken nearly all of it
        resp, size = self._front.keep_room(resp)
        try:
            result = await super().finish_response(request, resp, start_time)
        finally:
            self._finishing = False
            self._front.waiting_answer_bytes -= size
        if result[0].keep_alive:
            self._answered(request, admitted=result[0].status == 200)
        return result

    def _watch(self) -> None:
        if self._unread is None and self._wire is not None:
            left = self._wire.get_write_buffer_size()
            loop = asyncio.get_running_loop()
            self._unread = loop.call_later(TAKING_S, self._look_if_taken, left)

    def _look_if_taken(self, left: int) -> None:
        """`left` bytes of an answer were still here when this was decided on: who has taken none
        of them since is not going to."""
        self._unread = None
        if self._wire is None or self.writable:
            return
        if self._wire.get_write_buffer_size() >= left:
            self._front.overflows += 1
            self.abort()
        else:
            self._watch()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp could not read the request: one clear answer, and the connection ends."""
        return self._front.unreadable(status, exc, message)

    # -- boundaries ----------------------------------------------------------------------

    def _note(self, data: bytes) -> None:
        """These bytes go to aiohttp: look whether they are one whole plain-looking request."""
        self._block = b""
        if not data:
            return
        if self._fed == 0:
            self._candidate = b""
            self._head_bytes = data.find(_HEAD_END) + len(_HEAD_END)
            if self._head_bytes < len(_HEAD_END):
                self._head_bytes = 0
            elif self._head_bytes == len(data) and data.startswith(GET_KEY):
                line_end = data.find(_LINE_END)
                if 0 < line_end < data.find(b"\r\n"):
                    self._candidate = data[line_end:]
        self._fed += len(data)

    def _answered(self, request: web.BaseRequest, *, admitted: bool) -> None:
        """An answer has been written: if nothing else is under way, this is a boundary.

        Only a block that was answered with a value is remembered: its host, its site and its
        password have been looked at and were fine.
        """
        if not self._fed or not self._head_bytes:
            return
        headers = request.headers
        if "Transfer-Encoding" in headers or "Upgrade" in headers:
            return
        if self._fed != self._head_bytes + (request.content_length or 0):
            return
        self._fed = 0
        if admitted and self._candidate and is_plain(headers):
            self._block = self._candidate
            self._long_way_ms = self._front.port.now_ms()
