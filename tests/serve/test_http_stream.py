"""GET /v1/invalidations: events, resuming, heartbeats, slow listeners."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import ClientConnectionResetError, web

from coherenced.core.model import Op, Record
from coherenced.serve import http as http_module
from coherenced.serve.http_frames import Framer
from coherenced.serve.http_limits import HttpLimits
from coherenced.serve.http_stream import Listener
from tests.serve.fake_port import UNAVAILABLE
from tests.serve.http_rig import Rig, rig, until

REQUEST = b"GET /v1/invalidations HTTP/1.1\r\nHost: x\r\n%b\r\n"


class Stream:
    """One open stream, read event by event from the raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""

    @classmethod
    async def open(cls, http: Rig, headers: bytes = b"") -> Stream:
        reader, writer = await http.raw()
        writer.write(REQUEST % headers)
        stream = cls(reader, writer)
        stream.head = await reader.readuntil(b"\r\n\r\n")
        return stream

    async def event(self) -> dict[str, str]:
        """The next event or comment, its chunk framing skipped."""
        fields: dict[str, str] = {}
        while True:
            line = (await asyncio.wait_for(self.reader.readuntil(b"\n"), 5)).rstrip(b"\r\n")
            if not line:
                if fields:
                    return fields
                continue
            name, colon, text = line.decode().partition(":")
            if colon:
                fields[name or "comment"] = text.strip()

    def close(self) -> None:
        self.writer.close()


async def test_records_are_events_in_order(tmp_path: Path) -> None:
    async with rig(tmp_path) as http:
        stream = await Stream.open(http)
        assert b"200 OK" in stream.head
        assert b"text/event-stream" in stream.head
        assert (await stream.event())["comment"] == "connected"
        version = http.port.record(Op.WRITE, (b"a", b"\xff"))
        http.port.record(Op.INVALIDATE, tags=(b"t",), prefixes=(b"p:",))
        http.port.record(Op.FLUSH, everything=True)
        event = await stream.event()
        assert (event["event"], event["id"]) == ("invalidation", version)
        data = json.loads(event["data"])
        assert data == {
            "version": version,
            "op": "write",
            "writer": "a" * 16,
            "keys": ["a", {"base64": "/w=="}],
        }
        data = json.loads((await stream.event())["data"])
        assert (data["tags"], data["prefixes"]) == (["t"], ["p:"])
        assert json.loads((await stream.event())["data"])["all"] is True
        stream.close()
        await until(lambda: not http.port.listeners)
        assert http.front.stats()["listeners"] == 0


async def test_what_happens_on_the_node_stands_between_and_moves_no_id(tmp_path: Path) -> None:
    async with rig(tmp_path) as http:
        stream = await Stream.open(http)
        await stream.event()
        version = http.port.record(Op.WRITE, (b"a",))
        told = {"lane": 0, "at": "now", "event": "gap_found", "text": "line\nbreak"}
        http.port.event_listeners[0](told)
        last = http.port.record(Op.WRITE, (b"b",))
        events = [await stream.event() for _ in range(3)]
        assert [event["event"] for event in events] == ["invalidation", "node", "invalidation"]
        assert [event.get("id") for event in events] == [version, None, last]
        assert json.loads(events[1]["data"]) == told
        stream.close()
        await until(lambda: not http.port.event_listeners)


async def test_a_listener_goes_on_where_it_was(tmp_path: Path) -> None:
    async with rig(tmp_path) as http:
        versions = [http.port.record(Op.WRITE, (b"k%d" % i,)) for i in range(4)]
        stream = await Stream.open(http, b"Last-Event-ID: %b\r\n" % versions[1].encode())
        await stream.event()
        live = http.port.record(Op.DELETE, (b"k",))
        got = [(await stream.event())["id"] for _ in range(3)]
        assert got == [*versions[2:], live]
        stream.close()


async def test_more_than_one_page_of_the_past_is_told_in_order(tmp_path: Path) -> None:
    async with rig(tmp_path) as http:
        versions = [http.port.record(Op.WRITE, (b"k%d" % i,)) for i in range(9)]
        http.port.held = []
        stream = await Stream.open(http, b"Last-Event-ID: %b\r\n" % versions[1].encode())
        await stream.event()
        await until(lambda: bool(http.port.held))
        live = http.port.record(Op.DELETE, (b"k",))  # while the log is being read
        http.port.release()
        assert [(await stream.event())["id"] for _ in range(8)] == [*versions[2:], live]
        stream.close()


async def test_a_log_that_cannot_be_read_now_ends_the_stream_without_a_gap(tmp_path: Path) -> None:
    async with rig(tmp_path) as http:
        versions = [http.port.record(Op.WRITE, (b"k",)) for _ in range(2)]
        http.port.fault = UNAVAILABLE
        stream = await Stream.open(http, b"Last-Event-ID: %b\r\n" % versions[0].encode())
        rest = await asyncio.wait_for(stream.reader.read(), 5)
        assert b"ask again" in rest and b"event:" not in rest
        stream.close()
        http.port.fault = None
        again = await Stream.open(http, b"Last-Event-ID: %b\r\n" % versions[0].encode())
        await again.event()
        assert (await again.event())["id"] == versions[1]
        again.close()


async def test_a_lane_that_is_dropped_leaves_no_silent_hole(tmp_path: Path) -> None:
    async with rig(tmp_path) as http:
        stream = await Stream.open(http)
        await stream.event()
        told = {"at": "now", "event": "lane_dropped", "text": "x", "was": "e:1", "now": "e:9"}
        http.port.event_listeners[0](told)
        events = [await stream.event() for _ in range(2)]
        assert [event["event"] for event in events] == ["node", "reset"]
        assert json.loads(events[1]["data"]) == {"after": "e:1"}
        stream.close()


async def test_a_listener_from_too_long_ago_is_told_so(tmp_path: Path) -> None:
    async with rig(tmp_path) as http:
        gone = b"0000000000000000:7"
        stream = await Stream.open(http, b"Last-Event-ID: %b\r\n" % gone)
        await stream.event()
        event = await stream.event()
        assert event["event"] == "reset"
        assert json.loads(event["data"]) == {"after": gone.decode()}
        stream.close()
        wrong = await http.ask("GET", "/v1/invalidations", Last_Event_ID="x")
        assert (wrong.status, wrong.json["pointer"]) == (400, "Last-Event-ID")


async def test_silence_is_filled_with_comments(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=HttpLimits(heartbeat_ms=10)) as http:
        stream = await Stream.open(http)
        await stream.event()
        assert (await stream.event()) == {"comment": "beat"}
        assert (await stream.event()) == {"comment": "beat"}
        stream.close()


async def test_a_slow_listener_is_told_and_cut_off_and_the_others_are_not(tmp_path: Path) -> None:
    limits = HttpLimits(listener_queue=50, overflow_grace_ms=60_000)
    async with rig(tmp_path, limits=limits) as http:
        slow = await Stream.open(http)
        quick = await Stream.open(http)
        await slow.event()
        await quick.event()
        key = b"k" * 10_000
        sent = 300
        for _ in range(sent):
            http.port.record(Op.WRITE, (key,))
            await quick.event()
        # The slow one's socket and queue are full by now: it reads what was sent, then the notice.
        names = []
        while not names or names[-1] != "overflow":
            names.append((await slow.event())["event"])
        assert set(names[:-1]) == {"invalidation"}
        assert len(names) < sent
        assert await asyncio.wait_for(slow.reader.read(), 5) is not None
        await until(lambda: http.front.stats()["listeners"] == 1)
        last = http.port.record(Op.WRITE, (b"k",))
        assert (await quick.event())["id"] == last
        quick.close()
        slow.close()


async def test_a_listener_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    limits = HttpLimits(listener_queue=10, overflow_grace_ms=20)
    async with rig(tmp_path, limits=limits) as http:
        dead = await Stream.open(http)
        # No more than the stream's own small buffer is read from the socket.
        dead.writer.transport.pause_reading()
        for _ in range(400):
            http.port.record(Op.WRITE, (b"k" * 10_000,))
            await asyncio.sleep(0)
        await until(lambda: http.front.stats()["listeners"] == 0)
        assert not http.port.listeners
        dead.close()


async def test_a_listener_that_goes_away_in_the_middle_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def closing(response: web.StreamResponse, data: bytes) -> None:
        raise ClientConnectionResetError("Cannot write to closing transport")

    logged: list[str] = []
    async with rig(tmp_path) as http:
        gone = await Stream.open(http)
        await gone.event()
        monkeypatch.setattr(http_module.log, "error", lambda text, **_: logged.append(text))
        monkeypatch.setattr(web.StreamResponse, "write", closing)
        http.port.record(Op.WRITE, (b"k",))
        await until(lambda: http.front.stats()["listeners"] == 0)
        gone.close()
        await until(lambda: http.front.stats()["connections"] == 0)
        assert http.front.stats()["errors"] == 0
    assert logged == []


async def test_the_number_of_streams_is_bounded(tmp_path: Path) -> None:
    async with rig(tmp_path, limits=HttpLimits(max_listeners=1)) as http:
        stream = await Stream.open(http)
        refused = await http.ask("GET", "/v1/invalidations")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        stream.close()


async def test_stopping_ends_the_streams(tmp_path: Path) -> None:
    async with rig(tmp_path) as http:
        stream = await Stream.open(http)
        await stream.event()
        async with asyncio.timeout(3):
            await http.front.close(2.0)
            assert await stream.reader.read() is not None
        assert not http.port.listeners
        stream.close()


async def test_a_stream_has_no_head(tmp_path: Path) -> None:
    async with rig(tmp_path) as http:
        answer = await http.ask("HEAD", "/v1/invalidations")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")


def test_the_queue_is_bounded_in_bytes() -> None:
    overflows: list[int] = []
    record = Record(1, b"", b"", Op.WRITE, 0, b"w" * 16, (b"k" * 1000,))

    async def fill() -> Listener:
        listener = Listener(Framer(), 100, 2_500, lambda: overflows.append(1))
        for _ in range(5):
            listener.offer(record, "v")
        return listener

    listener = asyncio.run(fill())
    assert listener.overflowed
    assert overflows == [1]
    assert listener.take() == b""
