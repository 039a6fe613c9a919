"""The HTTP front end: sockets in, `NodePort` out.

Reading order: `http_routes` (the one table), `http_keys` (values), `http_bulk`
(many keys), `http_stream` (events), `http_node` (the node about itself),
`http_headers` and `http_schema` (what requests say), `problem` (errors),
`http_short` (why a hit is fast). This file accepts connections, checks who may
ask, finds the handler and turns what it raises into an answer.

aiohttp's low-level server is used, without its application: two dictionary
look-ups are all the routing there is, and the raw target is needed anyway, since
keys are bytes.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong

import coherenced
from coherenced import memory
from coherenced.serve.doors import Door
from coherenced.serve.http_context import SERVER, Context
from coherenced.serve.http_headers import check_host, check_password, check_same_site
from coherenced.serve.http_limits import HttpLimits
from coherenced.serve.http_routes import OPEN, Handler, Router
from coherenced.serve.http_rows import Rows
from coherenced.serve.http_short import HttpConnection, ShortPath, Written
from coherenced.serve.openapi import document
from coherenced.serve.problem import Problem

if TYPE_CHECKING:
    from coherenced.serve.port import NodePort

BACKLOG: Final = 1024
LARGE_BYTES: Final = 65_536
"""A smaller answer is never refused for want of room."""
_HEADERS_BYTES: Final = 16_384
"""Longest single header, and what the request line may have beyond its key."""
_MOST_HEADERS: Final = 100
_METHOD: Final = re.compile(r"b'([-!#$%&*+.^_`|~0-9A-Za-z]{1,40}) ")
"""A method's name, as aiohttp's parser quotes a request line whose method it does not know."""

_TOO_MUCH: Final = "this daemon is out of memory: ask for less at once, or give it more"
_WRITTEN: Final = Written()

log = structlog.get_logger(component="http")


class HttpFront:
    """Every HTTP listener of the daemon. Counters are plain integers."""

    def __init__(
        self, port: NodePort, limits: HttpLimits | None = None, door: Door | None = None
    ) -> None:
        self.port = port
        self.door = door or Door("http")
        self.limits = limits = limits or HttpLimits()
        self.short = ShortPath(port, limits.max_key_bytes, SERVER)
        self._context = Context(port, limits, _description)
        self._router = Router()
        self._server = web.Server(
            self._handle,
            handler_cancellation=True,  # a client that is gone waits for nothing any more
        )
        self._listening: list[asyncio.Server] = []
        self.waiting_answer_bytes = 0
        """Of answers that their clients have not taken yet."""
        self._connections: set[HttpConnection] = set()
        self._long_way = 0
        self._errors = 0
        self._accepted = 0
        self.overflows = 0
        """Connections cut off because their client did not read."""

    # -- listening -----------------------------------------------------------------------

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on these bound sockets (Unix or TCP); they are closed with the front."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            if sock.family == socket.AF_UNIX:
                # Whoever bound the socket file removes it: it may belong to systemd.
                keep: dict[str, Any] = (
                    {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
                )
                server = await loop.create_unix_server(
                    self._connection, sock=sock, backlog=BACKLOG, **keep
                )
            else:
                server = await loop.create_server(self._connection, sock=sock, backlog=BACKLOG)
            self._listening.append(server)

    async def close(self, grace_s: float = 5.0) -> None:
        """Stop accepting, end the event streams, finish what is in flight, at most `grace_s`."""
        self._context.stopping = True
        self.short.open = False
        for server in self._listening:
            server.close()
        for wake in self._context.listeners:
            wake.set()
        self._server.pre_shutdown()
        await self._server.shutdown(grace_s)
        for connection in list(self._connections):
            connection.abort()  # whoever does not read its last answer cannot hold us up
        self._listening.clear()
        self.door.close()

    def reconfigure(self, limits: HttpLimits) -> None:
        """Other bounds from now on (of the longest request line only for who connects anew)."""
        self.limits = self._context.limits = limits
        self.short.max_key_bytes = limits.max_key_bytes

    def stats(self) -> dict[str, int]:
        """requests, errors, connections, accepted, rejected, overflows, listeners: for
        `NodePort.stats()`."""
        return {
            "requests": self.short.hits + self._long_way,
            "errors": self._errors,
            "connections": len(self._connections),
            "accepted": self._accepted,
            "rejected": self.door.turned_away,
            "overflows": self.overflows,
            "listeners": len(self._context.listeners),
        }

    # -- connections -----------------------------------------------------------------------

    def _connection(self) -> HttpConnection:
        limits = self.limits
        return HttpConnection(
            self,
            self._server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # a change of state is logged, a request never
            keepalive_timeout=limits.idle_timeout_ms / 1000.0,
            lingering_time=1.0,
            auto_decompress=False,
            max_line_size=3 * limits.max_key_bytes + _HEADERS_BYTES,
            max_field_size=_HEADERS_BYTES,
            max_headers=_MOST_HEADERS,
        )

    def opened(self, connection: HttpConnection) -> None:
        is_admitted = self.door.admits(len(self._connections), self.limits.max_connections)
        self._connections.add(connection)
        if is_admitted or connection.transport is None:
            self._accepted += 1
        elif self.door.is_crowded:
            connection.abort()
        else:
            text = f"{len(self._connections) - 1} connections are open already"
            connection.transport.write(refusal(text))
            connection.force_close()

    def keep_room(self, response: web.StreamResponse) -> tuple[web.StreamResponse, int]:
        """The answer, or another in its place where too many large ones wait for their clients;
        and how many bytes of `waiting_answer_bytes` it takes until it has left."""
        if isinstance(response, Rows):
            size = response.held_bytes
        else:
            body = response.body if isinstance(response, web.Response) else None
            size = len(body) if isinstance(body, bytes) else 0
        waiting = self.waiting_answer_bytes
        if size > LARGE_BYTES and waiting and waiting + size > self.limits.max_waiting_answer_bytes:
            self._errors += 1
            text = "too many large answers wait for their readers: try again"
            response, size = Problem("overloaded", text).response(), 0
            response.headers["Server"] = SERVER
        self.waiting_answer_bytes += size
        return response, size

    def starved(self, error: MemoryError) -> None:
        """There is no memory for a request, which is refused."""
        memory.tell(asyncio.get_running_loop(), "a request", error)

    def cut_short(self, connection: HttpConnection) -> None:
        """What it was sending could not even be read: it is told so, and nothing more is read."""
        if connection.transport is not None:
            connection.transport.write(refusal(_TOO_MUCH))
            connection.force_close()

    def closed(self, connection: HttpConnection) -> None:
        self.door.left()
        self._connections.discard(connection)

    def unreadable(
        self, status: int, exc: BaseException | None, message: str | None
    ) -> web.StreamResponse:
        """What aiohttp's parser refused, as a problem."""
        client_is_gone = isinstance(exc, ConnectionError)
        self._errors += not client_is_gone
        if status < 500:
            problem = _refused(exc, message or "this is not HTTP")
        elif client_is_gone:
            problem = Problem("internal", "nobody reads this any more")
        else:
            log.error("a request failed in the HTTP layer", exc_info=exc)
            problem = Problem("internal", "see the daemon's log")
        problem.close = True
        response = problem.response()
        response.headers["Server"] = SERVER
        return response

    # -- requests ----------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._long_way += 1
        try:
            handler, encoded = self._admit(request)
            connection = cast(HttpConnection, request.protocol)
            if connection.writable:
                answer = self.short.answer_parsed(request)
                if answer is not None and connection.transport is not None:
                    connection.transport.write(answer)
                    return _WRITTEN
            response = await handler(self._context, request, encoded)
        except Problem as problem:
            self._errors += problem.kind != "not-found"  # a look-up that found nothing worked
            response = problem.response()
        except (asyncio.CancelledError, ConnectionError):
            raise  # the client is gone
        except MemoryError as error:
            self._errors += 1
            self.starved(error)
            response = Problem("overloaded", _TOO_MUCH).response()
        except Exception:
            self._errors += 1
            log.exception("a request failed", method=request.method, target=request.raw_path[:200])
            response = Problem("internal", "see the daemon's log").response()
        response.headers["Server"] = SERVER
        return response

    def _admit(self, request: web.BaseRequest) -> tuple[Handler, str]:
        """Who may ask, and for what."""
        target = request.raw_path
        if not target.startswith("/"):
            target = _origin_form(target)
        headers = request.headers
        limits = self.limits
        if cast(HttpConnection, request.protocol).on_tcp:
            check_host(headers.get("Host"), limits.host_names)
            check_same_site(headers)
        if limits.password and target not in OPEN:
            check_password(headers.get("Authorization"), limits.password)
        return self._router.find(request.method, target)


async def serve_http(
    port: NodePort,
    sockets: Sequence[socket.socket],
    limits: HttpLimits | None = None,
    door: Door | None = None,
) -> HttpFront:
    """Serve `port` on these bound sockets; `close()` what is returned to stop."""
    front = HttpFront(port, limits, door)
    await front.listen(sockets)
    return front


@cache
def _description() -> bytes:
    return msgspec.json.encode(document(coherenced.__version__))


def _refused(exc: BaseException | None, message: str) -> Problem:
    """What kind of problem the parser has met with, by what it says."""
    if isinstance(exc, LineTooLong):
        limit = exc.args[1]
        if limit == _HEADERS_BYTES:
            return Problem("head-too-large", f"at most {limit} bytes per header")
        return Problem("uri-too-long", f"at most {limit} bytes")
    if message.startswith("Too many headers"):
        return Problem("head-too-large", f"at most {_MOST_HEADERS} headers")
    if isinstance(exc, BadHttpMethod) and (method := _METHOD.search(message)):
        return Problem("not-implemented", f"the method {method[1]} is not known")
    what, _, _ = message.partition("\n\n")  # behind it, the bytes and an arrow below them
    text = " ".join(what.split()).rstrip(":")
    return Problem("bad-request", (text or "this is not HTTP")[:200])


def _origin_form(target: str) -> str:
    """`http://host/path`, as a proxy sends it, to `/path`."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return target
    _, slash, path = rest.partition("/")
    return slash + path or "/"


def refusal(why: str) -> bytes:
    """A whole answer for who is not listened to, after which the connection ends."""
    body = Problem("overloaded", why).body()
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
        b"Retry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
