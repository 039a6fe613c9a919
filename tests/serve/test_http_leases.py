"""/v1/leases: a value, a token, or the news that somebody else is loading it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coherenced.core.requests import Fill, Lease, Level, Release
from tests.serve.fake_port import UNAVAILABLE
from tests.serve.http_rig import Rig, rig


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as running:
        yield running


async def test_a_token_is_given_once_and_fills(http: Rig) -> None:
    given = await http.ask("POST", "/v1/leases/k%2F1")
    assert given.status == 201
    token = given.json["token"]
    place = given.headers["Location"]
    assert place == f"/v1/leases/k%2F1/{token}"
    assert (given.json["version"], "value" in given.json) == ("0f1e2d3c4b5a6978:0", False)
    other = await http.ask("POST", "/v1/leases/k%2F1", {"wait_ms": 50})
    assert (other.status, other.json, other.headers["Retry-After"]) == (202, {"waiting": True}, "1")
    done = await http.ask(
        "PUT", place, b"loaded", Content_Type="text/plain", Cache_Control="max-age=60",
        Coherenced_Tags="red", Coherenced_Ack="all",
    )  # fmt: skip
    assert (done.status, done.json["version"]) == (200, "0f1e2d3c4b5a6978:1")
    assert done.headers["ETag"] == '"0f1e2d3c4b5a6978:1"'
    labels = (b"content-type=text/plain", b"red", b"coh:life=60000")
    assert http.port.requests[-1] == Fill(
        b"k/1", token.encode(), b"loaded", 60_000, labels, Level.ALL
    )
    value = await http.ask("POST", "/v1/leases/k%2F1")
    assert (value.status, value.body) == (200, b"loaded")
    assert value.headers["Content-Type"] == "text/plain"
    assert value.headers["ETag"] == done.headers["ETag"]
    again = await http.ask("PUT", place, b"late")
    assert (again.status, again.json["type"].rpartition(":")[2]) == (409, "lost")


async def test_a_fill_says_for_how_long_it_may_be_stale(http: Rig) -> None:
    place = (await http.ask("POST", "/v1/leases/k")).headers["Location"]
    alone = await http.ask("PUT", place, b"v", Cache_Control="stale-if-error=60")
    assert (alone.status, alone.json["pointer"]) == (400, "Cache-Control")
    text = "max-age=60, stale-while-revalidate=5, stale-if-error=600"
    assert (await http.ask("PUT", place, b"v", Cache_Control=text)).status == 200
    fill = http.port.requests[-1]
    assert isinstance(fill, Fill)
    assert (fill.ttl_ms, fill.tags) == (660_000, (b"coh:life=660000/600000",))


async def test_all_wishes_reach_the_node(http: Rig) -> None:
    wish = {"lease_ms": 500, "wait_ms": 20, "max_staleness_ms": 0, "refresh_ms": 30}
    await http.ask("POST", "/v1/leases/k", wish)
    assert http.port.requests == [Lease(b"k", 500, 20.0, 0.0, 30.0)]


async def test_a_value_that_is_due_comes_with_the_token(http: Rig) -> None:
    http.port.redis[b"k"] = (b"old", (), 0)
    given = await http.ask("POST", "/v1/leases/k", {"refresh_ms": 1000})
    assert (given.status, given.json["value"]["value"]) == (201, "old")
    other = await http.ask("POST", "/v1/leases/k", {"refresh_ms": 1000})
    assert (other.status, other.body) == (200, b"old")


async def test_a_token_is_released_and_absence_is_known(http: Rig) -> None:
    place = (await http.ask("POST", "/v1/leases/k")).headers["Location"]
    released = await http.ask("DELETE", place)
    assert (released.status, released.json) == (200, {"released": True})
    assert (await http.ask("DELETE", place)).json == {"released": False}
    place = (await http.ask("POST", "/v1/leases/k")).headers["Location"]
    await http.ask("DELETE", place, Coherenced_Absent_Ms="5000")
    last = http.port.requests[-1]
    assert isinstance(last, Release)
    assert last.absent_ms == 5000
    assert (await http.ask("POST", "/v1/leases/k")).status == 404


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "status"),
    [
        ("POST", "/v1/leases/k", {"lease_ms": 0}, {}, 400),
        ("POST", "/v1/leases/k", {"wait_ms": 600_001}, {}, 400),
        ("POST", "/v1/leases/k", {"what": 1}, {}, 400),
        ("POST", "/v1/leases/k", b"{}", {}, 415),
        ("POST", "/v1/leases/coh:k", None, {}, 403),
        ("POST", "/v1/leases/k/token", None, {}, 405),
        ("PUT", "/v1/leases/k", b"v", {}, 405),
        ("GET", "/v1/leases/k", None, {}, 405),
        ("PUT", "/v1/leases/k/to%20ken", b"v", {}, 400),
        ("PUT", "/v1/leases/k/" + "x" * 65, b"v", {}, 400),
        ("PUT", "/v1/leases/a/b/token", b"v", {}, 404),
        ("DELETE", "/v1/leases/k/token", None, {"Coherenced_Absent_Ms": "0"}, 400),
        ("DELETE", "/v1/leases/k/token", None, {"Coherenced_Absent_Ms": "x"}, 400),
    ],
)
async def test_what_cannot_be_asked(
    http: Rig, method: str, target: str, body: Any, headers: dict[str, str], status: int
) -> None:
    assert (await http.ask(method, target, body, **headers)).status == status


async def test_faults_are_told(http: Rig) -> None:
    http.port.fault = UNAVAILABLE
    assert (await http.ask("POST", "/v1/leases/k")).status == 503
    assert (await http.ask("PUT", "/v1/leases/k/token", b"v")).status == 503
    assert (await http.ask("DELETE", "/v1/leases/k/token")).status == 503
    http.port.fault = None
    http.port.wrong_type.add(b"list")
    assert (await http.ask("POST", "/v1/leases/list")).status == 409


async def test_who_hangs_up_takes_no_token_along(http: Rig) -> None:
    http.port.held = []
    _, writer = await http.raw()
    writer.write(b"POST /v1/leases/k HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(10):
        while not http.port.held:  # noqa: ASYNC110 - a fake without an event
            await asyncio.sleep(0.005)
        writer.close()
        await writer.wait_closed()
        # Only when the server has noticed: until then the answer may still be written.
        while http.front.stats()["connections"]:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        http.port.release()
    assert isinstance(http.port.requests[-1], Release)
    assert not http.port.leases


async def test_a_snapshot_of_many_keys(http: Rig) -> None:
    answer = await http.ask("POST", "/v1/mget", {"keys": ["a", "b"], "snapshot": True})
    assert answer.status == 200
    assert http.port.requests[-1].snapshot  # type: ignore[union-attr]
    many = {"keys": [f"k{n}" for n in range(201)], "snapshot": True}
    assert (await http.ask("POST", "/v1/mget", many)).status == 413
