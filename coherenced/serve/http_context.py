"""What every HTTP handler works with: the node, the bounds, and bodies read within them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from aiohttp import web

import coherenced
from coherenced.core.requests import (
    AskResult,
    Fault,
    Outcome,
    Read,
    ReadResult,
    Request,
    Write,
    WriteResult,
)
from coherenced.serve.http_frames import Framer
from coherenced.serve.http_limits import HttpLimits
from coherenced.serve.problem import Problem, bad, of_fault

if TYPE_CHECKING:
    from coherenced.serve.port import NodePort

T = TypeVar("T")
Body = TypeVar("Body", bound=msgspec.Struct)

JSON_TYPE: Final = "application/json"
SERVER: Final = f"coherenced/{coherenced.__version__}"
"""What every answer's Server header says."""
_encode: Final = msgspec.json.Encoder().encode


class Context:
    """One front end's surroundings. Counters are plain integers, read by `HttpFront.stats`."""

    __slots__ = ("_buffered_bytes", "describe", "framer", "limits", "listeners", "port", "stopping")

    def __init__(self, port: NodePort, limits: HttpLimits, describe: Callable[[], bytes]) -> None:
        self.port = port
        self.limits = limits
        self.describe = describe
        """Makes the body of `/openapi.json`."""
        self.framer = Framer()
        self.listeners: set[asyncio.Event] = set()
        """One per open event stream: set to wake it, so that it sees `stopping`."""
        self.stopping = False
        self._buffered_bytes = 0

    async def read(self, request: Read) -> ReadResult:
        """Look keys up; a fault of the whole is raised as its problem."""
        outcome = await self.ask(request)
        if isinstance(outcome, ReadResult):
            return outcome
        raise _unexpected(outcome)

    async def write(self, request: Write) -> WriteResult | Fault:
        """Execute mutations; a `Fault` comes back, since some of them mean "done"."""
        outcome = await self.ask(request)
        if isinstance(outcome, WriteResult | Fault):
            return outcome
        raise _unexpected(outcome)

    async def ask(self, request: Request) -> Outcome:
        """Any request, and whatever came of it."""
        return await self.wait(lambda done: self.port.submit(request, done))

    async def wait(self, start: Callable[[Callable[[T], None]], None]) -> T:
        """Turn one callback into a wait. A client that disconnects cancels the wait: the late
        outcome then finds the future done and is dropped."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(outcome: T) -> None:
            if not future.done():
                future.set_result(outcome)

        start(done)
        return await future

    # -- bodies -----------------------------------------------------------------------

    async def body(self, request: web.BaseRequest, max_bytes: int) -> bytes:
        """The whole body, at most `max_bytes`, within the time and the memory for bodies."""
        expected = request.content_length
        if expected is not None and expected > max_bytes:
            raise _too_large(max_bytes)
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity":
            raise Problem(
                "unsupported-media-type",
                "send the bytes as they are: Content-Encoding is not kept",
                pointer="Content-Encoding",
            )
        if "Content-Range" in request.headers:  # RFC 9110 14.5: it is not to be taken for the whole
            raise bad("a value cannot be written in parts: send the whole", "Content-Range")
        coding = request.headers.get("Transfer-Encoding", "chunked").strip().lower()
        if coding != "chunked":
            raise Problem(
                "not-implemented",
                "the one transfer coding known is chunked",
                pointer="Transfer-Encoding",
            )
        await _meet_expectation(request)
        if not request.can_read_body:
            return b""
        held = 0
        parts = []
        try:
            async with asyncio.timeout(self.limits.body_timeout_ms / 1000.0):
                while part := await request.content.readany():
                    held += len(part)
                    self._buffered_bytes += len(part)
                    if held > max_bytes:
                        raise _too_large(max_bytes)
                    if self._buffered_bytes > self.limits.max_buffered_bytes:
                        raise Problem("overloaded", "too many large bodies at once; try again")
                    parts.append(part)
        except TimeoutError:
            raise Problem("body-timeout", "send the body faster", close=True) from None
        except RuntimeError as error:
            if request.transport is not None:
                raise
            raise ConnectionResetError(str(error)) from None  # nobody sends the rest any more
        except web.RequestPayloadError as error:
            what = str(error).partition("\n")[0].rstrip(":")
            raise Problem(
                "bad-request", f"the body is malformed: {what}", pointer="body", close=True
            ) from None
        finally:
            self._buffered_bytes -= held
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def json(self, request: web.BaseRequest, decoder: msgspec.json.Decoder[Body]) -> Body:
        """The body as the decoder's type; 415 when it is not JSON, 400 that names what is wrong."""
        if request.content_type != JSON_TYPE:
            # Also what keeps other sites' pages out: a browser asks before it sends this type.
            raise Problem(
                "unsupported-media-type", f"send Content-Type: {JSON_TYPE}", pointer="Content-Type"
            )
        raw = await self.body(request, self.limits.max_body_bytes)
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError as error:
            text, _, path = str(error).partition(" - at `$")
            raise bad(text, _pointer(path.rstrip("`"))) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise bad(f"the body is not JSON: {error}", "body") from None


def json_response(value: Any, status: int = 200, **headers: str) -> web.Response:
    return web.Response(
        status=status,
        body=_encode(value),
        headers={name.replace("_", "-"): text for name, text in headers.items()},
        content_type=JSON_TYPE,
    )


def _unexpected(outcome: Outcome | AskResult) -> Problem:
    if isinstance(outcome, Fault):
        return of_fault(outcome)
    return Problem("internal", f"the node answered with {type(outcome).__name__}")


def _too_large(max_bytes: int) -> Problem:
    return Problem("too-large", f"a body here has at most {max_bytes} bytes", pointer="body")


async def _meet_expectation(request: web.BaseRequest) -> None:
    """Expect: 100-continue is answered only now, when the head has been found acceptable."""
    expectation = request.headers.get("Expect")
    if expectation is None:
        return
    if expectation.strip().lower() != "100-continue":
        raise Problem("expectation-failed", "only 100-continue can be expected", pointer="Expect")
    transport = request.transport
    if transport is not None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _pointer(path: str) -> str:
    """msgspec's `.keys[3].base64` as a JSON pointer: `/keys/3/base64`."""
    return path.replace("[", "/").replace("]", "").replace(".", "/")
