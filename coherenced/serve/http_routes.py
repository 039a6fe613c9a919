"""The one table of routes: the router answers by it, and `/openapi.json` is generated from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from coherenced.serve import (
    http_behind,
    http_bulk,
    http_keys,
    http_leases,
    http_node,
    http_pages,
    http_schema,
    http_stream,
)
from coherenced.serve.http_context import Context
from coherenced.serve.http_parameters import (
    ABSENT,
    ACK,
    ACK_TIMEOUT,
    EVENTS,
    IF_ABSENT,
    IF_MATCH,
    KEY,
    LAST_EVENT_ID,
    LIFETIME,
    MAX_STALENESS,
    MIN_VERSION,
    READ_CACHE_CONTROL,
    READ_IF_MATCH,
    READ_IF_NONE_MATCH,
    REPLICAS,
    TAGS,
    TOKEN,
    Parameter,
)
from coherenced.serve.problem import Problem

Handler = Callable[[Context, web.BaseRequest, str], Awaitable[web.StreamResponse]]
"""The context, the request, and the last, still encoded part of a path that ends in a key."""

ANY_BYTES: Final = "*/*"


class Answer(msgspec.Struct, frozen=True):
    """One success. `body` is a type (JSON), a media type, or None for no body."""

    text: str
    body: Any = None
    headers: tuple[str, ...] = ()


class Route(msgspec.Struct, frozen=True):
    method: str
    path: str
    handler: Handler
    summary: str
    text: str
    answers: dict[int, Answer]
    problems: tuple[int, ...] = ()
    """Statuses of the errors that this operation itself can answer with."""
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    """A type (JSON), or ANY_BYTES."""
    head: bool = True
    """HEAD is answered where GET is."""
    body_required: bool = True
    """Of a JSON body."""


_READ_HEADERS: Final = (
    "ETag",
    "Age",
    "Cache-Status",
    "Coherenced-Source",
    "Coherenced-Version",
    "Coherenced-Stale",
)
_WRITE_HEADERS: Final = ("ETag", "Coherenced-Version")
_READ_PROBLEMS: Final = (400, 403, 404, 409, 412, 413, 502, 503, 504)
_WRITE_PROBLEMS: Final = (400, 403, 404, 408, 409, 412, 413, 415, 417, 422, 502, 503, 504, 507)
_BULK_PROBLEMS: Final = (400, 403, 408, 409, 413, 415, 417, 422, 502, 503, 504, 507)
_WRITTEN: Final = Answer("Done as asked.", http_schema.WriteAnswer, _WRITE_HEADERS)
_NOT_EVERYWHERE: Final = Answer(
    "Committed, but the asked level was not reached in time: `missing` names the nodes. "
    "With `ack: none`: accepted, the rest happens behind.",
    http_schema.WriteAnswer,
    _WRITE_HEADERS,
)

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        "/v1/keys/{key}",
        http_keys.get,
        "Read a value",
        "The value's bytes, with the Content-Type that was stored with it.",
        {
            200: Answer("The value.", ANY_BYTES, _READ_HEADERS),
            304: Answer("The value is still at the version that If-None-Match names."),
        },
        _READ_PROBLEMS,
        (
            KEY,
            MAX_STALENESS,
            MIN_VERSION,
            READ_CACHE_CONTROL,
            READ_IF_NONE_MATCH,
            READ_IF_MATCH,
        ),
    ),
    Route(
        "PUT",
        "/v1/keys/{key}",
        http_keys.put,
        "Write a value",
        "The body's bytes become the value; every node drops its copy. The Content-Type is kept, "
        "but for application/octet-stream and application/x-www-form-urlencoded. With a "
        "Content-Type that is kept, or with tags, the value is a cache entry: it lives for at most "
        "30 days, and what invalidates it ends it in Redis, too.",
        {200: _WRITTEN, 202: _NOT_EVERYWHERE},
        _WRITE_PROBLEMS,
        (KEY, LIFETIME, TAGS, ACK, ACK_TIMEOUT, REPLICAS, IF_MATCH, IF_ABSENT),
        ANY_BYTES,
    ),
    Route(
        "DELETE",
        "/v1/keys/{key}",
        http_keys.delete,
        "Delete a value",
        "404 when nothing was there.",
        {200: _WRITTEN, 202: _NOT_EVERYWHERE},
        _WRITE_PROBLEMS,
        (KEY, ACK, ACK_TIMEOUT, REPLICAS, IF_MATCH),
    ),
    Route(
        "POST",
        "/v1/mget",
        http_bulk.mget,
        "Read many values",
        "One row per key, in order.",
        {200: Answer("The values.", http_schema.MGetAnswer)},
        _BULK_PROBLEMS,
        body=http_schema.MGet,
    ),
    Route(
        "POST",
        "/v1/mset",
        http_bulk.mset,
        "Write many values",
        "In steps of at most 200 keys, each atomic; with `atomic` in one step.",
        {200: _WRITTEN, 202: _NOT_EVERYWHERE},
        _BULK_PROBLEMS,
        body=http_schema.MSet,
    ),
    Route(
        "POST",
        "/v1/invalidations",
        http_bulk.invalidate,
        "Invalidate",
        "Every node drops these keys, tags, prefixes, or everything. Redis keeps plain values; "
        "cache entries (stored with tags, a Content-Type, or by a loader) end there, too.",
        {200: _WRITTEN, 202: _NOT_EVERYWHERE},
        _BULK_PROBLEMS,
        body=http_schema.Invalidate,
    ),
    Route(
        "GET",
        "/v1/invalidations",
        http_stream.listen,
        "Listen to invalidations",
        "Server-Sent Events. `invalidation`: one record, its id is the version. `node`: something "
        "that happened on this node (a gap, a drop, a fencing…), without an id. `reset`: what came "
        "after Last-Event-ID is no longer in the log, or the node had to pass over some. "
        "`overflow`: this listener was too slow; the stream ends.",
        {200: Answer("The stream.", "text/event-stream")},
        (400, 503),
        (LAST_EVENT_ID,),
        head=False,
    ),
    Route(
        "POST",
        "/v1/leases/{key}",
        http_leases.lease,
        "Lease a key",
        "The value, as a GET of the key answers it (404: a loader has found that there is none); "
        "or, when it has to be loaded, a token for one caller in the whole cluster. The others "
        "wait, if they want, and are woken by the fill.",
        {
            200: Answer("The value.", ANY_BYTES, _READ_HEADERS),
            201: Answer("A token: load the value.", http_schema.TokenGiven, ("Location",)),
            202: Answer("Somebody else is loading it.", http_schema.Waiting, ("Retry-After",)),
        },
        (400, 403, 404, 408, 409, 413, 415, 417, 502, 503, 504),
        (KEY,),
        http_schema.LeaseWish,
        body_required=False,
    ),
    Route(
        "PUT",
        "/v1/leases/{key}/{token}",
        http_leases.fill,
        "Fill a leased key",
        "The body's bytes become the value, unless something happened to the key or its tags "
        "since the token was given: then 409 `lost`, and nothing is stored.",
        {200: _WRITTEN, 202: _NOT_EVERYWHERE},
        _WRITE_PROBLEMS,
        (KEY, TOKEN, LIFETIME, TAGS, ACK, ACK_TIMEOUT),
        ANY_BYTES,
    ),
    Route(
        "DELETE",
        "/v1/leases/{key}/{token}",
        http_leases.release,
        "Release a leased key",
        "Gives the token back: the next in line gets one at once.",
        {200: Answer("Whether the token was alive.", http_schema.Released)},
        (400, 403, 404, 409, 413, 502, 503, 504, 507),
        (KEY, TOKEN, ABSENT),
    ),
    Route(
        "GET",
        "/v1/nodes",
        http_node.nodes,
        "The roster",
        "Every node, as it last wrote itself down, and whether its beat moves.",
        {200: Answer("The nodes.", http_schema.NodesAnswer)},
        (400, 503),
        (EVENTS,),
    ),
    Route(
        "GET",
        "/v1/stats",
        http_node.stats,
        "Counters",
        "Everything this node counts since it started, per tier, and derived figures.",
        {200: Answer("The counters.", dict[str, Any])},
    ),
    Route(
        "GET",
        "/v1/writebehind",
        http_behind.show,
        "What waits to be sent to origins",
        "Per namespace: how much waits, the oldest entries, the oldest dead letters.",
        {200: Answer("The queues.", dict[str, Any])},
        (400, 503),
    ),
    Route(
        "POST",
        "/v1/writebehind",
        http_behind.settle,
        "Replay or drop dead letters",
        "Writes that an origin refused too often are sent again, or forgotten.",
        {200: Answer("What was done.", dict[str, Any])},
        (400, 403, 404, 408, 413, 415, 417, 503),
        body=http_schema.SettleLetters,
    ),
    Route(
        "GET",
        "/v1/explain/{key}",
        http_node.explain,
        "Explain a key",
        'Why this key would be served from where. Names that are not UTF-8 are `{"base64": ...}`, '
        "as everywhere.",
        {200: Answer("The explanation.", dict[str, Any])},
        (400, 403, 404, 413),
        (KEY,),
    ),
    Route(
        "GET",
        "/v1/config",
        http_node.settings,
        "The configuration in force",
        "Secrets are replaced by ***.",
        {200: Answer("The configuration.", dict[str, Any])},
    ),
    Route(
        "GET",
        "/healthz",
        http_node.healthz,
        "Alive",
        "200 while the daemon runs.",
        {200: Answer("It is.", http_schema.Health)},
    ),
    Route(
        "GET",
        "/readyz",
        http_node.readyz,
        "Ready",
        "200 while this node is current and serves.",
        {200: Answer("It is.", http_schema.Health)},
        (503,),
    ),
    Route(
        "GET",
        "/metrics",
        http_node.metrics,
        "Prometheus metrics",
        "The text exposition format.",
        {200: Answer("The metrics.", "text/plain")},
    ),
    Route(
        "GET",
        "/openapi.json",
        http_pages.openapi,
        "This description",
        "OpenAPI 3.1.",
        {200: Answer("The description.", dict[str, Any])},
    ),
    Route(
        "GET",
        "/",
        http_pages.dashboard,
        "Dashboard",
        "A page for people.",
        {200: Answer("The page.", "text/html")},
    ),
)

OPEN: Final = frozenset({"/healthz", "/readyz"})
"""Answered without a password: an orchestrator's probes have none."""


class Router:
    """Path and method to handler, by two look-ups in dictionaries made from `ROUTES`."""

    __slots__ = ("_deeper", "_exact", "_keyed")

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        self._exact: dict[str, dict[str, Handler]] = {}
        self._keyed: dict[str, dict[str, Handler]] = {}
        self._deeper: dict[str, dict[str, Handler]] = {}
        """Of the same stems: what comes after the key."""
        for route in routes:
            stem, key, more = route.path.partition("{key}")
            table = self._deeper if more else self._keyed if key else self._exact
            methods = table.setdefault(stem, {})
            methods[route.method] = route.handler
            if route.method == "GET" and route.head:
                methods["HEAD"] = route.handler

    def find(self, method: str, target: str) -> tuple[Handler, str]:
        """The handler and the encoded key; 404 or 405 when there is none."""
        for stem, methods in self._keyed.items():
            if target.startswith(stem):
                rest = target[len(stem) :]
                if "/" in rest and stem in self._deeper:
                    methods = self._deeper[stem]
                return _method(methods, method), rest
        found = self._exact.get(target.partition("?")[0])
        if found is None:
            raise Problem("no-route", "see /openapi.json for what there is", pointer="path")
        return _method(found, method), ""


def _method(methods: dict[str, Handler], method: str) -> Handler:
    handler = methods.get(method)
    if handler is None:
        allowed = ", ".join(sorted(methods))
        raise Problem("method-not-allowed", f"it has {allowed}", headers={"Allow": allowed})
    return handler


__all__ = ["ANY_BYTES", "OPEN", "ROUTES", "Answer", "Route", "Router"]
