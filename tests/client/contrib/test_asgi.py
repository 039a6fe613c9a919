"""The middleware in front of Starlette, of a bare application, and of some that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from coherenced import AsyncClient
from coherenced.client.contrib.asgi import ResponseCache
from tests.client.fake_daemon import FakeDaemon
from tests.cluster.daemons import Cluster

Handler = Callable[[Request], Awaitable[Response]]


class Site:
    """An application of one handler behind the cache; `get` asks it over httpx."""

    def __init__(self, cache: AsyncClient, handler: Handler, **options: Any) -> None:
        self.runs = 0
        self.handler = handler
        methods = ["GET", "POST", "PUT", "DELETE"]
        app = Starlette(routes=[Route("/{path:path}", self._handle, methods=methods)])
        self.app = ResponseCache(app, cache, **options)
        transport = httpx.ASGITransport(self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://site")

    async def _handle(self, request: Request) -> Response:
        self.runs += 1
        return await self.handler(request)

    async def get(self, path: str = "/", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(path, headers=named)


@pytest.fixture
async def cache(daemon: FakeDaemon) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(daemon.path) as client:
        yield client


def answering(
    text: str = "body", status: int = 200, media: str = "text/plain", **headers: str
) -> Handler:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def handler(request: Request) -> Response:
        return Response(text, status, named, media_type=media)

    return handler


def told(response: httpx.Response) -> str:
    return response.headers["cache-status"]


# -- stored, and answered from the store -----------------------------------------------------


async def test_a_response_is_stored_and_told_so(cache: AsyncClient, daemon: FakeDaemon) -> None:
    site = Site(cache, answering(cache_control="max-age=60", etag='"v1"'), tags=lambda s, r: ["x"])
    first, second = await site.get("/p?q=1"), await site.get("/p?q=1")
    assert site.runs == 1
    assert told(first) == "coherenced; fwd=uri-miss; stored"
    assert told(second).startswith("coherenced; hit; ttl=")
    assert "age" not in first.headers
    assert second.headers["age"] == "0"
    for response in (first, second):
        assert (response.status_code, response.text) == (200, "body")
        assert response.headers["etag"] == '"v1"'
        assert response.headers["content-type"].startswith("text/plain")
    (fill,) = [command for command in daemon.commands if command[0] == b"COH.FILL"]
    assert fill[1] == b"http:http://site/p?q=1#"
    assert fill[4:6] == [b"PX", b"60000"]
    assert fill[-2:] == [b"http:http://site/p?q=1", b"x"]
    await site.get("/p?q=2")
    assert site.runs == 2


async def test_age_grows(cache: AsyncClient, daemon: FakeDaemon) -> None:
    site = Site(cache, answering(cache_control="max-age=60", age="10"))
    assert (await site.get()).headers["age"] == "10"
    daemon.ends[b"http:http://site/#"] -= 20
    response = await site.get()
    assert response.headers["age"] == "30"
    assert told(response) in ("coherenced; hit; ttl=29", "coherenced; hit; ttl=30")


async def test_head_is_answered_from_a_stored_get(cache: AsyncClient) -> None:
    site = Site(cache, answering(cache_control="max-age=60"))
    assert (await site.client.head("/")).status_code == 200
    assert site.runs == 1
    await site.get()
    response = await site.client.head("/")
    assert site.runs == 2
    assert (response.text, response.headers["content-length"]) == ("", "4")
    assert "hit" in told(response)


async def test_conditions_are_answered_from_the_store(cache: AsyncClient) -> None:
    asked: list[str | None] = []

    async def handler(request: Request) -> Response:
        asked.append(request.headers.get("if-none-match"))
        return PlainTextResponse("body", headers={"cache-control": "max-age=60", "etag": '"v1"'})

    site = Site(cache, handler)
    for _ in range(2):
        response = await site.get(If_None_Match='"v1"')
        assert (response.status_code, response.text) == (304, "")
        assert response.headers["etag"] == '"v1"'
    assert (await site.get(If_None_Match='"v2"')).status_code == 200
    assert asked == [None]


async def test_variants(cache: AsyncClient, daemon: FakeDaemon) -> None:
    async def handler(request: Request) -> Response:
        language = request.headers.get("accept-language", "none")
        headers = {"cache-control": "max-age=60", "vary": "Accept-Language"}
        return PlainTextResponse(language, headers=headers)

    site = Site(cache, handler)
    for _ in range(3):
        for language in ("en", "de"):
            assert (await site.get(Accept_Language=language)).text == language
    assert site.runs == 2, "the first answer shows that it varies, and is stored as what it is"
    await cache.invalidate(tags=["http:http://site/"])
    again = await site.get(Accept_Language="en")
    assert (again.text, told(again)) == ("en", "coherenced; fwd=vary-miss; stored")
    assert site.runs == 3


async def test_a_first_variant_that_was_changed_meanwhile_is_not_stored(nodes: Cluster) -> None:
    async with AsyncClient(nodes.daemons[0].socket) as cache:
        row = "old"

        async def handler(request: Request) -> Response:
            nonlocal row
            found = row
            if found == "old":
                row = "new"  # updated after it was read
                await cache.invalidate(tags=["rows"], ack="all")
            headers = {"cache-control": "max-age=60", "vary": "Accept-Language"}
            return PlainTextResponse(found, headers=headers)

        site = Site(cache, handler, tags=lambda *_: ["rows"])
        first = await site.get("/row", Accept_Language="en")
        assert (first.text, told(first)) == ("old", "coherenced; fwd=vary-miss")
        assert [(await site.get("/row", Accept_Language="en")).text for _ in range(3)] == [
            "new"
        ] * 3
        assert site.runs == 2


# -- parts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "status", "text", "says"),
    [
        ("bytes=0-1", 206, "01", "bytes 0-1/10"),
        ("bytes=8-", 206, "89", "bytes 8-9/10"),
        ("bytes=8-99", 206, "89", "bytes 8-9/10"),
        ("BYTES = 9-9", 206, "9", "bytes 9-9/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=-99", 206, "0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, "", "bytes */10"),
        ("bytes=-0", 416, "", "bytes */10"),
    ],
)
async def test_a_part_of_a_stored_response(
    cache: AsyncClient, wanted: str, status: int, text: str, says: str
) -> None:
    site = Site(cache, answering("0123456789", cache_control="max-age=60", etag='"v1"'))
    await site.get()
    response = await site.get(Range=wanted)
    assert site.runs == 1
    assert (response.status_code, response.text) == (status, text)
    assert response.headers["content-range"] == says
    assert response.headers["content-length"] == str(len(text))
    assert told(response).startswith("coherenced; hit") and response.headers["age"] == "0"


@pytest.mark.parametrize("wanted", ["bytes=0-1,4-5", "bytes=3-1", "bytes=-", "lines=1-2", "x"])
async def test_other_ranges_are_the_applications(cache: AsyncClient, wanted: str) -> None:
    site = Site(cache, answering("0123456789", cache_control="max-age=60"))
    await site.get()
    response = await site.get(Range=wanted)
    assert (site.runs, told(response)) == (2, "coherenced; fwd=bypass")
    assert (await site.get()).text == "0123456789" and site.runs == 2, "nor is its answer stored"


async def test_a_part_is_not_loaded_nor_taken_from_what_is_stale(
    cache: AsyncClient, daemon: FakeDaemon
) -> None:
    site = Site(cache, answering(cache_control="max-age=60"), stale_if_error=60)
    assert told(await site.get(Range="bytes=0-1")) == "coherenced; fwd=bypass"
    await site.get()
    assert (await site.get(Range="bytes=0-1")).status_code == 206
    daemon.ends[b"http:http://site/#"] -= 61
    assert told(await site.get(Range="bytes=0-1")) == "coherenced; fwd=bypass"
    site = Site(cache, answering(cache_control="max-age=60", accept_ranges="none"))
    await site.get("/whole")
    assert told(await site.get("/whole", Range="bytes=0-1")) == "coherenced; fwd=bypass"


async def test_if_range(cache: AsyncClient) -> None:
    changed, made = "Tue, 03 Jun 2025 10:00:00 GMT", "Tue, 03 Jun 2025 10:00:09 GMT"
    more = {"etag": '"v1"', "last_modified": changed, "date": made}
    site = Site(cache, answering("0123456789", cache_control="max-age=60", **more))
    await site.get()
    for held, status in (
        ('"v1"', 206),
        ('"v2"', 200),
        ('W/"v1"', 200),
        (changed, 206),
        (made, 200),
    ):
        response = await site.get(Range="bytes=0-1", If_Range=held)
        assert (response.status_code, len(response.text)) == (status, 2 if status == 206 else 10)
    both = await site.get(Range="bytes=0-1", If_None_Match='"v1"')
    assert both.status_code == 304
    assert site.runs == 1


async def test_a_hundred_requests_run_the_application_once(cache: AsyncClient) -> None:
    async def handler(request: Request) -> Response:
        await asyncio.sleep(0.05)
        return PlainTextResponse("slow", headers={"cache-control": "max-age=60"})

    site = Site(cache, handler)
    answers = await asyncio.gather(*(site.get() for _ in range(100)))
    assert {answer.text for answer in answers} == {"slow"}
    assert site.runs == 1


async def test_the_operators_ttl(cache: AsyncClient) -> None:
    site = Site(cache, answering(), default_ttl=5)
    for _ in range(2):
        await site.get()
    assert site.runs == 1


# -- not stored ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"cache_control": "no-store"},
        {"cache_control": "private, max-age=60"},
        {"cache_control": "max-age=60", "set_cookie": "a=b"},
        {"cache_control": "max-age=60", "vary": "*"},
        {"cache_control": "max-age=60", "status": 500},
    ],
)
async def test_what_is_not_stored(
    cache: AsyncClient, daemon: FakeDaemon, headers: dict[str, Any]
) -> None:
    site = Site(cache, answering(**headers))
    for _ in range(3):
        response = await site.get()
        assert response.text == "body"
        assert told(response) == "coherenced; fwd=uri-miss"
    assert site.runs == 3
    assert daemon.values == {}
    assert daemon.tokens == {}


async def test_what_cannot_be_stored_makes_nobody_wait(cache: AsyncClient) -> None:
    async def handler(request: Request) -> Response:
        await asyncio.sleep(0.1)
        return PlainTextResponse("mine", headers={"cache-control": "private"})

    site = Site(cache, handler)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(site.get() for _ in range(50)))
    assert loop.time() - began < 3  # 50 of them one after the other take 5 s
    assert site.runs == 50


async def test_authorization(cache: AsyncClient) -> None:
    site = Site(cache, answering(cache_control="max-age=60"))
    for _ in range(2):
        await site.get(Authorization="Basic x")
    assert site.runs == 2
    await site.get()
    assert "hit" in told(await site.get())
    assert told(await site.get(Authorization="Basic x")) == "coherenced; fwd=bypass"
    public = Site(cache, answering(cache_control="public, max-age=60"))
    for _ in range(2):
        await public.get("/public", Authorization="Basic x")
    assert public.runs == 1


async def test_what_the_request_asks_for(cache: AsyncClient) -> None:
    site = Site(cache, answering(cache_control="max-age=60"))
    assert told(await site.get(Cache_Control="no-store")) == "coherenced; fwd=request"
    assert told(await site.get(Range="bytes=0-1")) == "coherenced; fwd=bypass"
    await site.get()
    assert told(await site.get(Cache_Control="no-cache")) == "coherenced; fwd=request"
    assert site.runs == 4
    assert "hit" in told(await site.get(Cache_Control="max-age=30"))


async def test_only_if_cached(cache: AsyncClient, daemon: FakeDaemon) -> None:
    site = Site(cache, answering(cache_control="max-age=60"))
    assert (await site.get(Cache_Control="only-if-cached")).status_code == 504
    assert site.runs == 0
    await site.get()
    assert (await site.get(Cache_Control="only-if-cached")).status_code == 200


async def test_a_stream_goes_through_piece_by_piece(cache: AsyncClient, daemon: FakeDaemon) -> None:
    more = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        await more.wait()
        yield b"two"

    async def handler(request: Request) -> Response:
        return StreamingResponse(pieces(), headers={"cache-control": "max-age=60"})

    site = Site(cache, handler)
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    serving = asyncio.ensure_future(site.app(scope(), received, sent.put))
    assert (await sent.get())["type"] == "http.response.start"
    assert (await sent.get())["body"] == b"one"

    async def given_back() -> bool:
        return daemon.tokens == {}

    await eventually(given_back)  # long before the end of the stream
    more.set()
    await serving
    assert (await sent.get())["body"] == b"two"
    assert daemon.values == {}


async def test_a_long_body_is_not_collected(cache: AsyncClient, daemon: FakeDaemon) -> None:
    site = Site(cache, answering("x" * 5000, cache_control="max-age=60"), max_body_bytes=1000)
    for _ in range(2):
        assert len((await site.get()).text) == 5000
    assert site.runs == 2
    assert daemon.values == {}


def scope(**more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"site")],
        **more,
    }


async def received() -> dict[str, Any]:
    """Of a client that stays: it never disconnects."""
    await asyncio.Event().wait()
    raise AssertionError


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# -- changed ---------------------------------------------------------------------------------------


async def test_a_change_ends_what_is_stored_of_its_address(cache: AsyncClient) -> None:
    text = ["old"]

    async def handler(request: Request) -> Response:
        if request.method != "GET":
            text[0] = (await request.body()).decode()
            return Response(status_code=int(request.headers.get("status", "204")))
        return PlainTextResponse(text[0], headers={"cache-control": "max-age=60"})

    site = Site(cache, handler, ack="all")
    assert (await site.get("/a")).text == "old"
    response = await site.client.put("/a", content="new")
    assert told(response) == "coherenced; fwd=method"
    assert (await site.get("/a")).text == "new"
    await site.client.post("/a", content="refused", headers={"status": "409"})
    assert (await site.get("/a")).text == "new"  # what failed has changed nothing


async def test_a_tag_ends_what_it_was_given_to(cache: AsyncClient) -> None:
    site = Site(cache, answering(cache_control="max-age=60"), tags=lambda scope, _: ["products"])
    await site.get("/a")
    await site.get("/b")
    await cache.invalidate(tags=["products"])
    await site.get("/a")
    await site.get("/b")
    assert site.runs == 4


# -- stale ----------------------------------------------------------------------------------------


async def test_stale_while_revalidate(cache: AsyncClient, daemon: FakeDaemon) -> None:
    runs = 0

    async def handler(request: Request) -> Response:
        nonlocal runs
        runs += 1
        return PlainTextResponse(str(runs), headers={"cache-control": "max-age=60"})

    site = Site(cache, handler, stale_while_revalidate=30)
    assert (await site.get()).text == "1"
    daemon.ends[b"http:http://site/#"] -= 70
    response = await site.get()
    assert (response.text, response.headers["age"]) == ("1", "70")

    async def is_new() -> bool:
        return (await site.get()).text == "2"

    await eventually(is_new)
    assert runs == 2


async def test_stale_if_error(cache: AsyncClient, daemon: FakeDaemon) -> None:
    site = Site(cache, answering("good", cache_control="max-age=60"), stale_if_error=300)
    await site.get()
    daemon.ends[b"http:http://site/#"] -= 70
    site.handler = answering("bad", status=503)
    for _ in range(3):
        response = await site.get()
        assert (response.status_code, response.text) == (200, "good")
    assert site.runs == 2  # and then left alone for a second
    assert (await site.get("/other")).status_code == 503

    async def raising(request: Request) -> Response:
        raise OSError("broken")

    site.handler = raising
    with pytest.raises(OSError, match="broken"):
        await site.get("/third")


async def test_an_application_that_is_too_slow(cache: AsyncClient, daemon: FakeDaemon) -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        if site.runs > 1:
            await gate.wait()
        return PlainTextResponse(str(site.runs), headers={"cache-control": "max-age=60"})

    site = Site(cache, handler, stale_if_error=60, soft_timeout=0.05, hard_timeout=0.1)
    assert (await site.get()).text == "1"
    daemon.ends[b"http:http://site/#"] -= 61
    late = await site.get()
    assert (late.status_code, late.text) == (200, "1") and int(late.headers["age"]) >= 61
    refused = await site.get("/other")
    assert (refused.status_code, told(refused)) == (504, "coherenced; fwd=miss")
    gate.set()
    assert (await site.get("/other")).status_code == 200


async def test_must_revalidate_is_never_stale(cache: AsyncClient, daemon: FakeDaemon) -> None:
    handler = answering(cache_control="max-age=60, must-revalidate")
    site = Site(cache, handler, stale_while_revalidate=300)
    await site.get()
    daemon.ends[b"http:http://site/#"] -= 70
    assert told(await site.get()) == "coherenced; fwd=stale"


# -- when things go wrong ------------------------------------------------------------------------


async def test_without_a_daemon_the_application_answers(
    cache: AsyncClient, daemon: FakeDaemon
) -> None:
    site = Site(cache, answering(cache_control="max-age=60"))
    await site.get()
    daemon.close()
    for _ in range(2):
        response = await site.get()
        assert (response.status_code, response.text) == (200, "body")
        assert told(response) == "coherenced; fwd=bypass; detail=unavailable"
    assert (await site.client.post("/")).status_code == 200


async def test_an_application_that_fails_is_not_cached(
    cache: AsyncClient, daemon: FakeDaemon
) -> None:
    async def handler(request: Request) -> Response:
        raise OSError("broken")

    site = Site(cache, handler)
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            await site.get()
    assert site.runs == 2
    assert daemon.tokens == {}


async def test_an_application_that_says_nothing(cache: AsyncClient) -> None:
    async def silent(*_: Any) -> None:
        return

    app = ResponseCache(silent, cache)
    with pytest.raises(RuntimeError, match="without a response"):
        await app(scope(), received, lambda message: asyncio.sleep(0))


async def test_what_is_no_http_goes_through(cache: AsyncClient) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    wrapped = ResponseCache(app, cache)
    for kind in ("lifespan", "websocket"):
        await wrapped({"type": kind}, received, lambda message: asyncio.sleep(0))
    assert seen == ["lifespan", "websocket"]
