"""The HTTP front end as a whole: routing, who may ask, bodies, faults, connections, stopping."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

import coherenced
from coherenced.serve import http_short
from coherenced.serve.http import HttpFront, serve_http
from coherenced.serve.http_limits import HttpLimits
from coherenced.serve.http_routes import ROUTES
from tests.serve.fake_port import UNAVAILABLE, FakePort
from tests.serve.http_rig import Rig, read_response, rig, until


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as running:
        yield running


# -- routes -----------------------------------------------------------------------------


async def test_every_route_of_the_table_answers(http: Rig) -> None:
    http.port.cache(b"k", b"v")
    http.port.redis[b"k"] = (b"v", (), 0)
    bodies: dict[str, Any] = {
        "/v1/mget": {"keys": ["k"]},
        "/v1/mset": {"entries": [{"key": "k", "value": "v"}]},
        "/v1/invalidations": {"keys": ["k"]},
        "/v1/writebehind": {"namespace": "row", "action": "drop", "all": True},
    }
    for route in ROUTES:
        if route.path == "/v1/invalidations" and route.method == "GET":
            continue  # endless: test_http_stream
        body = bodies.get(route.path)
        path = route.path.replace("{key}", "k").replace("{token}", "token")
        if path.endswith("/token"):
            http.port.leases[b"k", b"token"] = True
        answer = await http.ask(route.method, path, body)
        assert answer.status in route.answers, route
        assert answer.headers["Server"] == f"coherenced/{coherenced.__version__}"
        if route.method == "GET" and route.head:
            head = await http.ask("HEAD", route.path.replace("{key}", "k"))
            assert (head.status, head.body) == (answer.status, b"")


async def test_unknown_addresses_and_methods(http: Rig) -> None:
    for target in ("/nothing", "/v1", "/v1/keys", "/v1/stats/", "/v1/lease/x"):
        answer = await http.ask("GET", target)
        assert answer.status == 404
        assert answer.json["type"] == "urn:coherenced:problem:no-route"
    answer = await http.ask("POST", "/v1/keys/k")
    assert (answer.status, answer.headers["Allow"]) == (405, "DELETE, GET, HEAD, PUT")
    assert (await http.ask("GET", "/v1/mget")).headers["Allow"] == "POST"
    assert (await http.ask("OPTIONS", "/healthz")).headers["Allow"] == "GET, HEAD"


async def test_a_target_as_a_proxy_sends_it(http: Rig) -> None:
    reader, writer = await http.raw()
    for target in (b"http://h/healthz", b"HTTP://h:80/healthz"):
        writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
        head, body = await read_response(reader)
        assert (head.split()[1], body) == (b"200", b'{"status":"ok","reason":""}')
    writer.close()


async def test_health_and_readiness_are_two_things(http: Rig) -> None:
    assert (await http.ask("GET", "/healthz")).json["status"] == "ok"
    assert (await http.ask("GET", "/readyz")).json["status"] == "ready"
    http.port.is_ready = (False, "waiting for the first proof of lane 0")
    not_ready = await http.ask("GET", "/readyz")
    assert not_ready.status == 503
    assert not_ready.json["detail"] == "waiting for the first proof of lane 0"
    assert (await http.ask("GET", "/healthz")).status == 200


async def test_what_the_node_tells_about_itself(http: Rig) -> None:
    http.port.cache(b"a/b", b"v")
    assert (await http.ask("GET", "/v1/stats")).json["node"]["name"] == "a"
    assert (await http.ask("GET", "/v1/explain/a%2Fb")).json == {"key": "a/b", "in_l1": True}
    assert (await http.ask("GET", "/v1/config")).json["redis"]["password"] == "***"
    metrics = await http.ask("GET", "/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"coherenced_ready 1.0" in metrics.body
    nodes = (await http.ask("GET", "/v1/nodes")).json
    assert [node["name"] for node in nodes["nodes"]] == ["a", "b", "c"]
    assert "events" not in nodes
    assert (await http.ask("GET", "/v1/nodes?events=0")).json == nodes
    with_events = (await http.ask("GET", "/v1/nodes?events=1")).json
    assert with_events["events"][0]["event"] == "bus_connected"
    assert (await http.ask("GET", "/v1/nodes?events=maybe")).status == 400
    http.port.fault = UNAVAILABLE
    assert (await http.ask("GET", "/v1/nodes")).status == 503


async def test_the_dashboard_brings_all_it_needs(http: Rig) -> None:
    page = await http.ask("GET", "/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") >= 2
    for outside in (b"http://", b"https://", b"src=", b"@import", b"url("):
        assert outside not in page.body.replace(b"http://www.w3.org/2000/svg", b"")


# -- who may ask ------------------------------------------------------------------------


async def test_a_password_is_asked_for_everywhere_but_on_the_probes(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=HttpLimits(password="sécret:x")) as http:
        for target in ("/healthz", "/readyz"):
            assert (await http.ask("GET", target)).status == 200
        basic = base64.b64encode("any:sécret:x".encode()).decode()
        for given in ("Bearer sécret:x", f"Basic {basic}", f"basic {basic}"):
            assert (await http.ask("GET", "/v1/stats", Authorization=given)).status == 200
        for wrong in ("", "Bearer", "Bearer nope", "Basic !!", "Basic bm9wZQ==", "Digest x"):
            answer = await http.ask("GET", "/v1/stats", Authorization=wrong)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert (await http.ask("PUT", "/v1/keys/k", b"v")).status == 401


async def test_who_does_not_read_has_one_answer_here_and_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_short, "TAKING_S", 0.2)
    async with rig(tmp_path) as http:
        http.port.redis[b"big"] = (b"x" * 4_000_000, (), 1)
        reader, writer = await http.raw()
        writer.transport.pause_reading()
        writer.write(b"GET /v1/keys/big HTTP/1.1\r\nHost: x\r\nIf-Match: *\r\n\r\n" * 5)
        await until(lambda: len(http.port.requests) >= 1)
        await until(lambda: http.front.stats()["connections"] == 0)
        assert len(http.port.requests) == 1, "nothing more is asked for before it has read"
        writer.close()
        reader, writer = await http.raw()
        writer.write(b"GET /v1/keys/big HTTP/1.1\r\nHost: x\r\nIf-Match: *\r\n\r\n" * 2)
        for _ in range(2):  # slowly, but it reads
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in head
            for _ in range(4):
                await asyncio.sleep(0.1)
                await reader.readexactly(1_000_000)
        writer.close()


async def test_large_answers_that_wait_for_their_readers_are_bounded_together(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, limits=HttpLimits(max_waiting_answer_bytes=6_000_000)) as http:
        http.port.redis[b"big"] = (b"x" * 4_000_000, (), 1)
        http.port.redis[b"small"] = (b"y", (), 1)
        _, writer = await http.raw()
        writer.transport.pause_reading()
        writer.write(b"GET /v1/keys/big HTTP/1.1\r\nHost: x\r\nIf-Match: *\r\n\r\n")
        await until(lambda: http.front.waiting_answer_bytes == 4_000_000)
        refused = await http.ask("GET", "/v1/keys/big", If_Match="*")  # no hit as bytes
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert refused.json["type"] == "urn:coherenced:problem:overloaded"
        assert (await http.ask("GET", "/v1/keys/small")).status == 200
        writer.transport.abort()
        await until(lambda: http.front.waiting_answer_bytes == 0)
        assert (await http.ask("GET", "/v1/keys/big", If_Match="*")).status == 200


async def on_tcp(port: FakePort, limits: HttpLimits | None = None) -> tuple[HttpFront, int]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    front = await serve_http(port, [sock], limits)
    return front, sock.getsockname()[1]


async def test_web_pages_of_others_may_not_call_a_tcp_listener() -> None:
    front, number = await on_tcp(FakePort(), HttpLimits(host_names=("localhost", "cache.internal")))
    allowed: list[dict[str, str]] = [
        {},
        {"Host": "localhost:1"},
        {"Host": "cache.internal"},
        {"Host": "10.1.2.3:9000"},
        {"Host": "[::1]:9000"},
        {"Host": "localhost:9", "Origin": "http://localhost:9", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ]
    refused: list[tuple[dict[str, str], int]] = [
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example:80"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
    ]
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{number}") as session:
            for headers in allowed:
                async with session.get("/healthz", headers=headers) as response:
                    assert response.status == 200, headers
            for headers, status in refused:
                async with session.get("/v1/stats", headers=headers) as response:
                    assert response.status == status, headers
                    assert response.content_type == "application/problem+json"
    finally:
        await front.close(1.0)


# -- bodies -----------------------------------------------------------------------------


async def test_a_body_that_is_announced_too_large_is_never_received(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=HttpLimits(max_value_bytes=10)) as http:
        reader, writer = await http.raw()
        head = b"PUT /v1/keys/k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        head += b"Content-Length: %d\r\n\r\n"
        writer.write(head % 11)
        answer, _ = await read_response(reader)
        assert answer.split()[1] == b"413"
        writer.close()
        reader, writer = await http.raw()
        writer.write(head % 10)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"0123456789")
        answer, _ = await read_response(reader)
        assert answer.split()[1] == b"200"
        writer.close()
        odd = await http.ask("PUT", "/v1/keys/k", b"v", Expect="tea")
        assert (odd.status, odd.json["pointer"]) == (417, "Expect")


async def test_a_chunked_body_is_bounded_as_it_arrives(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=HttpLimits(max_value_bytes=10)) as http:
        reader, writer = await http.raw()
        head = b"PUT /v1/keys/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n")
        assert (await read_response(reader))[0].split()[1] == b"200"
        assert http.port.redis[b"k"][0] == b"0123456789"
        writer.write(head + b"5\r\n01234\r\n6\r\n567890\r\n0\r\n\r\n")
        assert (await read_response(reader))[0].split()[1] == b"413"
        writer.write(head + b"zz\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).split()[1:2] in ([b"400"], [])
        writer.close()


async def test_bodies_together_are_bounded_in_memory(tmp_path: Path) -> None:
    limits = HttpLimits(max_buffered_bytes=1000)
    async with rig(tmp_path, limits=limits) as http:
        head = b"PUT /v1/keys/%d HTTP/1.1\r\nHost: x\r\nContent-Length: 700\r\n\r\n"
        _, first = await http.raw()
        first.write(head % 1 + b"x" * 600)
        await asyncio.sleep(0.02)
        reader, second = await http.raw()
        second.write(head % 2 + b"x" * 700)
        answer, _ = await read_response(reader)
        assert answer.split()[1] == b"503"
        first.close()
        await until(lambda: http.front.stats()["connections"] <= 1)
        assert (await http.ask("PUT", "/v1/keys/3", b"x" * 700)).status == 200
        second.close()


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=HttpLimits(body_timeout_ms=20)) as http:
        reader, writer = await http.raw()
        writer.write(b"PUT /v1/keys/k HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        answer, _ = await asyncio.wait_for(read_response(reader), 5)
        assert answer.split()[1] == b"408"
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_a_large_value_goes_through_whole(http: Rig) -> None:
    value = bytes(range(256)) * 40_000
    assert (await http.ask("PUT", "/v1/keys/big", value)).status == 200
    assert (await http.ask("GET", "/v1/keys/big")).body == value
    assert (await http.ask("GET", "/v1/keys/big")).body == value


# -- bad clients, faults, leaks ---------------------------------------------------------


@pytest.mark.parametrize(
    ("bytes_sent", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /v1/keys/k HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /v1/keys/" + b"k" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100 + b"\r\n", b"431"),
        (b"BREW /v1/keys/k HTTP/1.1\r\nHost: x\r\n\r\n", b"501"),
        (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", b"501"),
        (b"*1\r\n$4\r\nPING\r\n", b"400"),
        (b"PUT /v1/keys/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
)
async def test_what_is_not_http_gets_one_clear_answer(
    http: Rig, bytes_sent: bytes, status: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = await http.raw()
    writer.write(bytes_sent)
    head, body = await asyncio.wait_for(read_response(reader), 5)
    assert head.split()[1] == status
    assert b"application/problem+json" in head
    assert b'"detail"' in body
    assert b"Traceback" not in body and b"b'" not in body, "in words, not as Python writes it"
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert (await http.ask("GET", "/healthz")).status == 200
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("rest", [b"ZZ\r\n", b"2\r\nabcd\r\n"])
async def test_a_body_that_goes_wrong_on_its_way_is_told_at_once(
    http: Rig, rest: bytes, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not when the time for bodies is up."""
    reader, writer = await http.raw()
    writer.write(
        b"PUT /v1/keys/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
    )
    await asyncio.sleep(0.1)  # it is being read
    writer.write(rest)
    answer, body = await asyncio.wait_for(read_response(reader), 5)
    assert (answer.split()[1], b"the body is malformed" in body) == (b"400", True)
    assert await asyncio.wait_for(reader.read(), 5) == b"", "one answer, and the end"
    assert not http.port.requests
    assert "Traceback" not in capsys.readouterr().err and not caplog.records
    writer.close()


async def test_a_part_of_a_value_is_not_taken_for_the_whole(http: Rig) -> None:
    answer = await http.ask("PUT", "/v1/keys/k", b"v", Content_Range="bytes 0-0/9")
    assert (answer.status, answer.json["pointer"]) == (400, "Content-Range")
    assert not http.port.requests


async def test_lists_in_several_lines_are_one_list(http: Rig) -> None:
    """RFC 9110 5.3. Of the tags, all but the first line's were left out in silence."""
    reader, writer = await http.raw()

    async def put(*lines: bytes) -> bytes:
        head = (b"PUT /v1/keys/k HTTP/1.1", b"Host: x", b"Content-Length: 1", *lines)
        writer.write(b"\r\n".join(head) + b"\r\n\r\nv")
        answer, _ = await asyncio.wait_for(read_response(reader), 5)
        return answer.split()[1]

    lines = (b"Cache-Control: max-age=60", b"Cache-Control: stale-if-error=5")
    assert await put(b"Coherenced-Tags: a", b"Coherenced-Tags: b,c", *lines) == b"200"
    (mutation,) = http.port.requests[-1].mutations
    assert mutation.label == (b"a", b"b", b"c", b"coh:life=65000/5000")
    assert await put(b"Coherenced-Ack: all", b"Coherenced-Ack: none") == b"400"
    assert await put(b"If-Match: *", b'If-Match: "x"') == b"400"
    writer.close()


async def test_a_body_in_a_coding_that_is_not_known_is_not_stored_as_it_is(http: Rig) -> None:
    reader, writer = await http.raw()
    head = b"PUT /v1/keys/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    writer.write(head + b"2\r\nab\r\n0\r\n\r\n")
    answer, body = await asyncio.wait_for(read_response(reader), 5)
    assert (answer.split()[1], b"problem:not-implemented" in body) == (b"501", True)
    assert not http.port.requests
    writer.close()


async def test_a_fault_of_ours_is_told_without_its_insides(
    http: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        raise RuntimeError("inside")

    monkeypatch.setattr(http.port, "stats", broken)
    answer = await http.ask("GET", "/v1/stats")
    assert answer.status == 500
    assert b"inside" not in answer.body
    captured = capsys.readouterr()
    assert "inside" in captured.out + captured.err
    assert (await http.ask("GET", "/healthz")).status == 200


async def test_a_client_that_leaves_takes_its_wait_with_it(http: Rig) -> None:
    http.port.held = []
    _, writer = await http.raw()
    writer.write(b"GET /v1/keys/k HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: http.port.held)
    before = len(asyncio.all_tasks())
    writer.close()
    await until(lambda: http.front.stats()["connections"] == 0)
    await until(lambda: len(asyncio.all_tasks()) < before)
    http.port.release()  # the late outcome finds nobody
    assert (await http.ask("GET", "/healthz")).status == 200


async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=HttpLimits(max_connections=2)) as http:
        pairs = [await http.raw() for _ in range(2)]
        await until(lambda: http.front.stats()["connections"] == 2)
        reader, writer = await http.raw()
        head, body = await asyncio.wait_for(read_response(reader), 5)
        assert head.split()[1] == b"503"
        assert b"overloaded" in body
        assert await reader.read() == b""
        writer.close()
        assert http.front.stats()["rejected"] == 1
        for _, other in pairs:
            other.close()
        await until(lambda: http.front.stats()["connections"] == 0)
        assert (await http.ask("GET", "/healthz")).status == 200


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=HttpLimits(idle_timeout_ms=30)) as http:
        reader, writer = await http.raw()
        writer.write(b"GET /v1/ke")  # half a request is idle, too
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_counters(http: Rig) -> None:
    await http.ask("GET", "/healthz")
    await http.ask("GET", "/nothing")
    stats = http.front.stats()
    assert stats == {
        "requests": 2,
        "errors": 1,
        "connections": 1,
        "accepted": 1,
        "rejected": 0,
        "overflows": 0,
        "listeners": 0,
    }


# -- stopping ---------------------------------------------------------------------------


async def test_stopping_finishes_what_is_in_flight(http: Rig) -> None:
    http.port.redis[b"k"] = (b"v", (), 0)
    http.port.held = []
    asked = asyncio.create_task(http.ask("GET", "/v1/keys/k"))
    await until(lambda: http.port.held)
    stopping = asyncio.create_task(http.front.close(5.0))
    await asyncio.sleep(0.01)
    assert not stopping.done()
    http.port.release()
    assert (await asked).body == b"v"
    await asyncio.wait_for(stopping, 2)
    with pytest.raises(aiohttp.ClientError):
        await http.ask("GET", "/healthz")


async def test_stopping_does_not_wait_for_ever(http: Rig) -> None:
    http.port.held = []
    _, writer = await http.raw()
    writer.write(b"GET /v1/keys/k HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: http.port.held)
    await asyncio.wait_for(http.front.close(0.05), 3)
    writer.close()


def test_stopping_is_not_held_up_by_a_reader_that_does_not_read(tmp_path: Path) -> None:
    """On the event loop that the daemon runs on: there a closing transport waits for its reader."""

    async def scene() -> None:
        async with rig(tmp_path) as http:
            http.port.cache(b"k", b"x" * 30_000_000)
            client = socket.socket(socket.AF_UNIX)
            client.connect(http.path)
            client.sendall(b"GET /v1/keys/k HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: http.front.stats()["requests"] == 1)
            await asyncio.wait_for(http.front.close(0.05), 5)
            await until(lambda: http.front.stats()["connections"] == 0)
            client.close()

    uvloop.run(scene())
