"""Errors as HTTP tells them: application/problem+json (RFC 9457), one table of kinds.

A handler raises `Problem`; the front turns it into the answer. Each kind has one
status and one title; `detail` says what is wrong here and what to do, `pointer`
says where (a header's name, or a JSON pointer into the body). No traceback leaves
the daemon.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from coherenced.core.model import ReplyError
from coherenced.core.requests import Fault, FaultKind

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1


class Kind(NamedTuple):
    status: int
    title: str


KINDS: Final[dict[str, Kind]] = {
    "bad-request": Kind(400, "The request is not valid"),
    "unauthorized": Kind(401, "A password is needed"),
    "reserved": Kind(403, "Keys that start with coh: belong to coherenced"),
    "cross-site": Kind(403, "Pages of another site may not call this"),
    "not-found": Kind(404, "There is no such key"),
    "no-route": Kind(404, "There is nothing at this address"),
    "no-queue": Kind(404, "Nothing is written behind there"),
    "method-not-allowed": Kind(405, "This address has no such method"),
    "body-timeout": Kind(408, "The body did not arrive in time"),
    "wrong-type": Kind(409, "The key holds another kind of value"),
    "conflict": Kind(409, "The key has changed"),
    "lost": Kind(409, "The token is dead: nothing was stored, load it anew"),
    "other-lineage": Kind(409, "The version belongs to data that Redis has lost or replaced"),
    "version-ahead": Kind(409, "The version is newer than anything in Redis"),
    "precondition-failed": Kind(412, "The precondition does not hold"),
    "too-large": Kind(413, "Larger than a bound of this daemon"),
    "uri-too-long": Kind(414, "The request line is too long"),
    "unsupported-media-type": Kind(415, "This kind of body is not understood"),
    "expectation-failed": Kind(417, "This expectation cannot be met"),
    "misdirected": Kind(421, "This daemon does not answer to that host name"),
    "not-for-origin": Kind(422, "This write cannot be sent to the key's origin"),
    "head-too-large": Kind(431, "There are too many headers, or one is too long"),
    "internal": Kind(500, "A fault in coherenced"),
    "not-implemented": Kind(501, "Nothing of this kind is known here"),
    "redis-error": Kind(502, "Redis answered with an error"),
    "origin": Kind(502, "The origin of this key failed"),
    "unavailable": Kind(503, "Redis cannot be reached and nothing fresh enough is cached"),
    "contended": Kind(503, "A linearizable write did not get its turn in time"),
    "overloaded": Kind(503, "A bound of this daemon is reached"),
    "stopping": Kind(503, "This daemon is stopping"),
    "not-ready": Kind(503, "This node is not ready"),
    "indeterminate": Kind(504, "It is not known whether the write was applied"),
    "not-cached": Kind(504, "Nothing suitable is stored, and only-if-cached was asked for"),
    "out-of-memory": Kind(507, "Redis is out of memory"),
}
"""Every error this front end answers with, by the last part of its `type`."""


class ProblemBody(msgspec.Struct, omit_defaults=True):
    """The body of every error (RFC 9457), as `/openapi.json` describes it."""

    type: str
    title: str
    status: int
    detail: str
    pointer: str = ""
    """Where: the name of a header, or a JSON pointer into the request's body."""
    version: str | None = None


class Problem(Exception):
    """An answer that is an error. `kind` is one of `KINDS`."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        pointer: str = "",
        version: str | None = None,
        headers: dict[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.detail = detail
        self.pointer = pointer
        self.version = version
        self.close = close
        """The connection cannot be used after this answer."""
        self.headers = headers or {}
        if self.status == 503:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))

    def body(self) -> bytes:
        return msgspec.json.encode(
            ProblemBody(
                type=f"urn:coherenced:problem:{self.kind}",
                title=self.title,
                status=self.status,
                detail=self.detail,
                pointer=self.pointer,
                version=self.version,
            )
        )

    def response(self) -> web.Response:
        response = web.Response(
            status=self.status, body=self.body(), headers=self.headers, content_type=MEDIA_TYPE
        )
        if self.close:
            response.force_close()
        return response


def bad(detail: str, pointer: str = "") -> Problem:
    """400: `detail` says what is wrong and what is expected; `pointer` says where."""
    return Problem("bad-request", detail, pointer=pointer)


_OF_FAULT: Final[dict[str, str]] = {
    FaultKind.UNAVAILABLE: "unavailable",
    FaultKind.INDETERMINATE: "indeterminate",
    FaultKind.CONTENDED: "contended",
    FaultKind.OUT_OF_MEMORY: "out-of-memory",
    FaultKind.CONFLICT: "conflict",
    FaultKind.LOST: "lost",
    FaultKind.OTHER_LINEAGE: "other-lineage",
    FaultKind.BEHIND: "version-ahead",
    FaultKind.TOO_LARGE: "too-large",
    FaultKind.OVERLOADED: "overloaded",
    FaultKind.STOPPING: "stopping",
}


def of_fault(fault: Fault, *, conditional: bool = False) -> Problem:
    """The problem that tells a core `Fault`; `conditional`: the request carried If-Match."""
    kind = _OF_FAULT.get(fault.kind, "internal")
    if kind == "conflict" and conditional:
        kind = "precondition-failed"
    version = None if fault.version is None else str(fault.version)
    pointer = "/keys" if fault.kind == FaultKind.TOO_LARGE else ""  # of several keys only
    return Problem(kind, fault.detail, version=version, pointer=pointer)


def of_reply(error: ReplyError, *, conditional: bool = False) -> Problem:
    """The problem that tells an error reply of Redis; the detail is Redis's own text."""
    word, _, rest = error.text.partition(" ")
    if word == "CONFLICT":
        return Problem("precondition-failed" if conditional else "conflict", rest)
    if word == "ORIGIN":
        why = rest.removeprefix("refused: ")
        return Problem("origin" if why == rest else "not-for-origin", why)
    if word == "TRYAGAIN":
        return Problem("contended", rest)
    if word == "OOM":
        return Problem("out-of-memory", error.text)
    if word == "WRONGTYPE":
        return Problem("wrong-type", error.text)
    return Problem("redis-error", error.text)
