"""The short path answers exactly what the long way would, and only when nothing else is owed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coherenced.serve.http_headers import READ_HEADERS
from coherenced.serve.http_limits import HttpLimits
from coherenced.serve.http_short import REFRESH_MS
from tests.serve.http_rig import Rig, read_response, rig

HEAD = b" HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n"


def get(key: bytes, extra: bytes = b"") -> bytes:
    return b"GET /v1/keys/" + key + HEAD + extra + b"\r\n"


def fields(head: bytes) -> dict[bytes, bytes]:
    lines = head.rstrip().split(b"\r\n")
    named = dict(line.split(b": ", 1) for line in lines[1:])
    named.pop(b"Date", None)
    return {b"": lines[0], **named}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as running:
        running.port.cache(b"k", b"value")
        yield running


class Wire:
    """One raw connection."""

    def __init__(self, http: Rig) -> None:
        self.http = http

    async def __aenter__(self) -> Wire:
        self.reader, self.writer = await self.http.raw()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        self.writer.write(request)
        return await asyncio.wait_for(read_response(self.reader), 5)

    @property
    def short(self) -> int:
        """How many answers took the short path."""
        return self.http.front.short.hits


async def test_the_second_hit_is_short_and_the_same_as_the_first(http: Rig) -> None:
    http.port.cache(b"typed", b"<p>", (b"tag", b"content-type=text/html"))
    http.port.cache(b"none", None)
    http.port.cache(b"a/\xff", b"binary")
    http.port.cache(b"empty", b"")
    http.port.cache(b"ends", b"", left_ms=3_000.0)
    http.port.cache(b"aged", b"x", (b"coh:life=70000/20000",), left_ms=30_000.0)
    http.port.clock_ms += 700
    for encoded in (b"k", b"typed", b"none", b"a%2F%ff", b"empty", b"ends", b"aged"):
        async with Wire(http) as wire:
            before = wire.short
            long_head, long_body = await wire.ask(get(encoded))
            assert wire.short == before
            short_head, short_body = await wire.ask(get(encoded))
            assert wire.short == before + 1
            assert fields(short_head) == fields(long_head)
            assert short_body == long_body
            assert fields(short_head)[b"Age"] == (b"40" if encoded == b"aged" else b"0")
            assert b"\r\nDate: " in short_head


async def test_what_is_in_its_grace_is_told_stale_the_long_way(http: Rig) -> None:
    http.port.cache(b"past", b"x", (b"coh:life=70000/20000",), left_ms=19_000.0)
    async with Wire(http) as wire:
        before = wire.short
        for _ in range(2):
            head, body = await wire.ask(get(b"past"))
            told = fields(head)
            assert (told[b"Coherenced-Stale"], told[b"Age"], body) == (b"1", b"51", b"x")
            assert told[b"Cache-Status"] == b'coherenced; hit; ttl=-1; detail="stale"'
        assert wire.short == before


async def test_what_is_not_a_hit_takes_the_long_way_and_comes_back(http: Rig) -> None:
    http.port.redis[b"other"] = (b"x", (), 0)
    async with Wire(http) as wire:
        await wire.ask(get(b"k"))
        assert (await wire.ask(get(b"other")))[1] == b"x"
        assert wire.short == 0
        assert (await wire.ask(get(b"other")))[1] == b"x"
        assert wire.short == 1
        http.port.clock_ms += 5_000  # past every bound: nothing can be proved fresh
        await wire.ask(get(b"k"))
        assert wire.short == 1


@pytest.mark.parametrize(
    "odd", [b"coh:x", b"%zz", b"k?x", b"a/b", b"", b"k k", b"k" * 17_000, b"k#", b"%63oh:x"]
)
async def test_odd_keys_never_take_it(http: Rig, odd: bytes) -> None:
    async with Wire(http) as wire:
        await wire.ask(get(b"k"))
        head, _ = await wire.ask(get(odd))
        assert head.split()[1] in (b"400", b"403", b"404", b"413")
        assert wire.short == 0


@pytest.mark.parametrize("name", READ_HEADERS)
async def test_a_request_with_a_header_that_matters_is_never_remembered(
    http: Rig, name: str
) -> None:
    values = {
        "Coherenced-Min-Version": "0f1e2d3c4b5a6978:0",
        "Coherenced-Max-Staleness-Ms": "5",
        "Content-Length": "0",
        "Expect": "100-continue",
        "If-Match": "*",
        "If-None-Match": '"x"',
        "Upgrade": "h2c",
        "Cache-Control": "no-cache",
    }
    if name == "Transfer-Encoding":
        extra, tail = b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"
    else:
        extra, tail = f"{name}: {values[name]}\r\n".encode(), b""
    async with Wire(http) as wire:
        for _ in range(3):
            head, _body = await wire.ask(get(b"k", extra) + tail)
            assert head.split()[1] in (b"200", b"404", b"417")
        assert wire.short == 0


async def test_a_remembered_block_does_not_answer_other_blocks(http: Rig) -> None:
    async with Wire(http) as wire:
        await wire.ask(get(b"k"))
        head, body = await wire.ask(get(b"k", b'If-None-Match: "0f1e2d3c4b5a6978:0"\r\n'))
        assert (head.split()[1], body) == (b"304", b"")
        assert wire.short == 0
        await wire.ask(get(b"k"))
        wire.writer.write(b"HEAD" + get(b"k")[3:])
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert b"\r\nContent-Length: 5\r\n" in head
        assert (await wire.ask(get(b"k")))[1] == b"value"
        assert wire.short == 0


async def test_writes_in_between_keep_the_order_and_the_path(http: Rig) -> None:
    put = b"PUT /v1/keys/k" + HEAD + b"Content-Length: 3\r\n\r\nnew"
    async with Wire(http) as wire:
        for _ in range(2):
            await wire.ask(get(b"k"))
        assert wire.short == 1
        await wire.ask(put)
        assert (await wire.ask(get(b"k")))[1] == b"new"
        assert (await wire.ask(get(b"k")))[1] == b"new"
        assert wire.short == 2


async def test_pipelined_requests_are_answered_in_order(http: Rig) -> None:
    http.port.cache(b"l", b"second")
    http.port.redis[b"slow"] = (b"slow", (), 0)
    async with Wire(http) as wire:
        await wire.ask(get(b"k"))
        wire.writer.write(get(b"k") + get(b"l"))
        assert (await read_response(wire.reader))[1] == b"value"
        assert (await read_response(wire.reader))[1] == b"second"
        # A hit that arrives while a miss is under way waits for it.
        http.port.held = []
        wire.writer.write(get(b"slow"))
        await asyncio.sleep(0.01)
        wire.writer.write(get(b"k"))
        await asyncio.sleep(0.01)
        http.port.release()
        assert (await read_response(wire.reader))[1] == b"slow"
        assert (await read_response(wire.reader))[1] == b"value"


@pytest.mark.parametrize("cut", [1, 5, 13, 20, 40, len(get(b"k")) - 1])
async def test_a_request_in_two_pieces(http: Rig, cut: int) -> None:
    request = get(b"k")
    async with Wire(http) as wire:
        await wire.ask(request)
        wire.writer.write(request[:cut])
        await asyncio.sleep(0.005)
        assert (await wire.ask(request[cut:]))[1] == b"value"
        assert (await wire.ask(request))[1] == b"value"


async def test_a_body_that_looks_like_a_request_is_a_body(http: Rig) -> None:
    hidden = get(b"k")
    head = b"PUT /v1/keys/trap" + HEAD + b"Content-Length: %d\r\n\r\n" % len(hidden)
    async with Wire(http) as wire:
        await wire.ask(get(b"k"))
        await wire.ask(get(b"k"))
        assert wire.short == 1
        wire.writer.write(head)
        await asyncio.sleep(0.005)
        answer, _ = await wire.ask(hidden)
        assert answer.split()[1] == b"200"
        assert wire.short == 1
        assert http.port.redis[b"trap"][0] == hidden


async def test_the_idle_timer_is_renewed_now_and_then(http: Rig) -> None:
    http.port.l1[b"k"].deadline_ms = 1e12
    async with Wire(http) as wire:
        await wire.ask(get(b"k"))
        await wire.ask(get(b"k"))
        http.port.clock_ms += REFRESH_MS + 1
        http.port.lane.verified_at_ms = http.port.clock_ms
        await wire.ask(get(b"k"))
        assert wire.short == 1
        await wire.ask(get(b"k"))
        assert wire.short == 2


async def test_a_password_is_part_of_the_block(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=HttpLimits(password="secret")) as http:
        http.port.cache(b"k", b"value")
        secret = b"Authorization: Bearer secret\r\n"
        async with Wire(http) as wire:
            await wire.ask(get(b"k", secret))
            await wire.ask(get(b"k", secret))
            assert wire.short == 1
            for extra in (b"", b"Authorization: Bearer wrong\r\n"):
                for _ in range(3):
                    head, _body = await wire.ask(get(b"k", extra))
                    assert head.split()[1] == b"401"
            assert wire.short == 1


async def test_a_reader_that_does_not_read_stops_the_short_path(tmp_path: Path) -> None:
    async with rig(tmp_path) as http, Wire(http) as wire:
        http.port.cache(b"k", b"v" * 100_000)
        await wire.ask(get(b"k"))
        wire.writer.transport.pause_reading()
        for _ in range(200):
            wire.writer.write(get(b"k"))
            await asyncio.sleep(0)
        # 20 MB were asked for; what was written ahead of the reader is a few buffers.
        assert wire.short < 50
        wire.writer.transport.resume_reading()
        for _ in range(200):
            _, body = await asyncio.wait_for(read_response(wire.reader), 5)
            assert len(body) == 100_000


async def test_stopping_closes_the_connection(http: Rig) -> None:
    async with Wire(http) as wire:
        await wire.ask(get(b"k"))
        await http.front.close(1.0)
        assert await asyncio.wait_for(wire.reader.read(), 5) == b""
