"""One origin over real HTTP: what it may answer, and every bound on asking it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.http_exceptions import ContentLengthError

from coherenced.origin.breaker import CLOSED, OPEN
from coherenced.origin.fetcher import Origin, OriginFault, _why, authorities
from coherenced.origin.rules import Rules
from tests.origin.server import OriginServer
from tests.upstream.tls import authority


@pytest.fixture
def server() -> Iterator[OriginServer]:
    with OriginServer() as server:
        yield server


class Made:
    """Origins of one test, closed at its end."""

    def __init__(self, server: OriginServer) -> None:
        self.server = server
        self.all: list[Origin] = []

    def __call__(self, **rules: Any) -> Origin:
        given = {"name": "row", "match": "row:*", "url": self.server.url()} | rules
        origin = Origin(Rules(**given), lambda: time.monotonic() * 1e3, "coherenced/test")
        self.all.append(origin)
        return origin


@pytest.fixture
async def origins(server: OriginServer) -> AsyncIterator[Made]:
    made = Made(server)
    yield made
    for origin in made.all:
        await origin.close()


async def until(condition: Callable[[], bool], patience_s: float = 20.0) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


async def fails(origin: Origin, key: bytes = b"row:1") -> OriginFault:
    with pytest.raises(OriginFault) as caught:
        await origin.get(key)
    assert "\n" not in str(caught.value)
    return caught.value


async def test_values_headers_and_what_is_not_there(server: OriginServer, origins: Made) -> None:
    server.rows["a/ü"] = b"\x00\xff"
    server.headers["Cache-Control"] = "max-age=5"
    origin = origins()
    answer = await origin.get("row:a/ü".encode())
    assert answer.value == b"\x00\xff" and answer.headers["cache-control"] == "max-age=5"
    assert answer.took_ms > 0
    assert server.requests[0].headers["User-Agent"] == "coherenced/test"
    assert server.requests[0].headers["Accept-Encoding"] == "identity"
    assert (await origin.get(b"row:none")).value is None
    assert (origin.loaded, origin.absent, origin.errors) == (1, 1, 0)


async def test_a_validator_finds_it_unchanged(server: OriginServer, origins: Made) -> None:
    server.rows["1"], server.etags = b"x", True
    origin = origins()
    first = await origin.get(b"row:1")
    again = await origin.get(b"row:1", {"If-None-Match": first.headers["ETag"]})
    assert again.unchanged and again.value is None and origin.unchanged == 1
    server.rows["1"] = b"y"
    changed = await origin.get(b"row:1", {"If-None-Match": first.headers["ETag"]})
    assert changed.value == b"y" and not changed.unchanged


async def test_writes(server: OriginServer, origins: Made) -> None:
    origin = origins()
    await origin.put(b"row:1", b"x", {"Content-Type": "text/plain", "If-Whatever": "1"})
    assert server.rows == {"1": b"x"}
    assert server.requests[0].headers["Content-Type"] == "text/plain"
    assert (await origin.delete(b"row:1", {})).value == b""
    assert (await origin.delete(b"row:1", {})).value is None
    server.status = 409
    with pytest.raises(OriginFault, match="answered 409") as caught:
        await origin.put(b"row:1", b"x", {})
    assert caught.value.refused and not caught.value.again and origin.write_errors == 1
    assert origin.breaker.state == CLOSED


@pytest.mark.parametrize(
    ("status", "asked", "words"),
    [(500, 3, "answered 500"), (429, 3, "answered 429"), (403, 1, "answered 403"),
     (302, 1, "answered 302"), (304, 1, "answered 304")],
)  # fmt: skip
async def test_statuses_that_are_no_answer(
    server: OriginServer, origins: Made, status: int, asked: int, words: str
) -> None:
    server.status = status
    origin = origins(retries=2)
    assert words in str(await fails(origin))
    assert server.count() == asked, "what may help is tried again, nothing else"
    assert origin.errors == 1


async def test_an_answer_after_failures_counts(server: OriginServer, origins: Made) -> None:
    server.rows["1"], server.status = b"x", 503
    origin = origins(retries=5, breaker_failures=0)
    waiting = asyncio.ensure_future(origin.get(b"row:1"))
    await until(lambda: server.count() >= 2)
    server.status = 0
    assert (await waiting).value == b"x" and origin.errors == 0


async def test_the_hard_timeout_ends_a_slow_answer(server: OriginServer, origins: Made) -> None:
    server.delay_s = 5.0
    origin = origins(hard_timeout_ms=150.0)
    began = time.monotonic()
    fault = await fails(origin)
    assert fault.timed_out and "within 150 ms" in str(fault)
    assert 0.14 < time.monotonic() - began < 4.0
    assert origin.timeouts == 1 and origin.in_flight == 0


async def test_the_breaker_opens_and_one_request_tries_again(
    server: OriginServer, origins: Made
) -> None:
    server.status, server.rows["1"] = 500, b"x"
    origin = origins(retries=0, breaker_failures=3, breaker_open_ms=300.0)
    for _ in range(3):
        assert "answered 500" in str(await fails(origin))
    assert "failed too often" in str(await fails(origin)) and server.count() == 3
    assert origin.breaker.state == OPEN
    await asyncio.sleep(0.32)
    server.delay_s = 0.1  # half open: while one tries, nobody else may
    both = await asyncio.gather(origin.get(b"row:1"), origin.get(b"row:1"), return_exceptions=True)
    assert all(isinstance(e, OriginFault) for e in both) and server.count() == 4
    await asyncio.sleep(0.32)
    server.status = 0
    assert (await origin.get(b"row:1")).value == b"x"
    assert origin.breaker.state == CLOSED and origin.breaker.opened == 2


async def test_requests_at_once_are_bounded(server: OriginServer, origins: Made) -> None:
    server.delay_s = 0.05
    origin = origins(max_requests=2)
    running = [asyncio.ensure_future(origin.get(b"row:%d" % i)) for i in range(8)]
    most = 0
    while not all(task.done() for task in running):
        most = max(most, origin.in_flight)
        await asyncio.sleep(0.002)
    assert most == 2 and server.count() == 8


async def test_a_request_given_up_holds_no_place(server: OriginServer, origins: Made) -> None:
    server.delay_s = 5.0
    origin = origins(max_requests=1)
    task = asyncio.ensure_future(origin.get(b"row:1"))
    await until(lambda: origin.in_flight == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.delay_s = 0.0
    assert (await origin.get(b"row:1")).value is None
    assert origin.breaker.in_a_row == 0


async def test_an_origin_that_is_not_there(server: OriginServer, origins: Made) -> None:
    server.stop()
    fault = await fails(origins(retries=1))
    assert "cannot be reached" in str(fault) and not fault.refused


async def test_too_large_a_value_is_refused(server: OriginServer, origins: Made) -> None:
    server.rows["1"] = bytes(300_000)
    fault = await fails(origins(max_value_bytes=200_000))
    assert "200000" in str(fault) and server.count() == 1


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    with OriginServer(tmp_path / "o.sock") as server:
        server.rows["1"] = b"x"
        made = Made(server)
        origin = made()
        assert (await origin.get(b"row:1")).value == b"x"
        await origin.close()
        server.stop()
        assert "cannot be reached" in str(await fails(made(retries=0)))
        await made.all[1].close()


async def test_over_tls_this_hosts_authorities_are_believed_and_no_others(
    origins: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.cert, keys.key)

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"over TLS")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}/{{key}}"
    authorities.cache_clear()
    try:
        fault = await fails(origins(url=url, retries=0))
        assert "certificate" in str(fault).lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(keys.ca))  # as if this host believed it
        authorities.cache_clear()
        assert (await origins(url=url).get(b"row:1")).value == b"over TLS"
    finally:
        authorities.cache_clear()
        await runner.cleanup()


def test_a_broken_answer_is_not_told_like_a_status_of_the_origin() -> None:
    broken = aiohttp.ClientPayloadError()
    broken.__cause__ = ContentLengthError("Not enough data to satisfy content length header.")
    assert _why(broken) == "Not enough data to satisfy content length header."
