"""/v1/mget, /v1/mset and POST /v1/invalidations."""

from __future__ import annotations

import base64
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coherenced.core.model import Op, ReplyError, Version
from coherenced.core.requests import Level, Value
from coherenced.serve import http_bulk, http_rows, http_short
from coherenced.serve.http_limits import HttpLimits
from coherenced.serve.http_schema import found_of
from tests.serve.fake_port import EPOCH, UNAVAILABLE
from tests.serve.http_rig import Rig, rig, until

BINARY = {"base64": base64.b64encode(b"\xff\x00").decode()}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as running:
        yield running


async def test_mget_answers_in_order_and_tells_bytes_from_text(http: Rig) -> None:
    http.port.redis = {
        b"text": ("ü".encode(), (b"content-type=text/plain",), 1),
        b"\xff\x00": (b"\xfe", (), 1),
        b"empty": (b"", (), 1),
    }
    http.port.wrong_type.add(b"list")
    keys = ["text", "absent", BINARY, "empty", "list"]
    answer = await http.ask("POST", "/v1/mget", {"keys": keys})
    assert answer.status == 200
    rows = answer.json["values"]
    assert [row["key"] for row in rows] == keys
    assert [row["found"] for row in rows] == [True, False, True, True, False]
    assert rows[0]["value"] == "ü"
    assert rows[0]["content_type"] == "text/plain"
    assert rows[0]["source"] == "l2"
    assert "value" not in rows[1]
    assert base64.b64decode(rows[2]["value_base64"]) == b"\xfe"
    assert rows[3]["value"] == ""
    assert rows[4]["error"].startswith("WRONGTYPE")
    assert "ttl_ms" not in rows[0], "it has no end, however long this node holds it"
    ends = Value(b"v", Version(EPOCH, 1), "l1", 0.0, ttl_ms=60_000.0, expires_in_ms=90_000.0)
    assert found_of("k", ends).ttl_ms == 90_000.0


async def test_mget_passes_on_how_fresh_it_must_be(http: Rig) -> None:
    version = "0f1e2d3c4b5a6978:4"
    await http.ask(
        "POST",
        "/v1/mget",
        {"keys": ["a"], "max_staleness_ms": 0, "min_version": version, "stale_if_error_ms": 5},
    )
    read = http.port.requests[-1]
    assert (read.max_staleness_ms, str(read.min_version), read.stale_if_error_ms) == (0, version, 5)


async def test_mset_writes_every_kind_of_entry(http: Rig) -> None:
    entries: list[Any] = [
        {"key": "a", "value": "1", "ttl_ms": 1500},
        {"key": BINARY, "value_base64": base64.b64encode(b"\xfe").decode()},
        {"key": "c", "value": "3", "tags": ["t", BINARY], "content_type": "text/plain"},
    ]
    body = {"entries": entries, "atomic": True, "ack": 2, "timeout_ms": 100, "replicas": 1}
    answer = await http.ask("POST", "/v1/mset", body)
    assert answer.status == 200
    (write,) = http.port.requests
    assert (write.atomic, write.ack, write.timeout_ms, write.replicas) == (True, 2, 100.0, 1)
    assert [m.argv for m in write.mutations] == [
        (b"SET", b"a", b"1", b"PX", b"1500"),
        (b"SET", b"\xff\x00", b"\xfe"),
        (b"SET", b"c", b"3"),
    ]
    assert write.mutations[2].label == (b"content-type=text/plain", b"t", b"\xff\x00")


async def test_a_large_mset_is_cut_into_bounded_steps_and_told_as_one(http: Rig) -> None:
    entries = [{"key": f"k{i}", "value": "v"} for i in range(450)]
    answer = await http.ask("POST", "/v1/mset", {"entries": entries, "ack": "all"})
    assert answer.status == 200
    assert [len(write.mutations) for write in http.port.requests] == [200, 200, 50]
    assert answer.json["version"].endswith(":450")
    assert set(answer.json["acknowledged"]) == {"a", "b"}
    http.port.missing = ("c",)
    answer = await http.ask("POST", "/v1/mset", {"entries": entries, "ack": "all"})
    assert (answer.status, answer.json["missing"]) == (202, ["c"])
    atomic = await http.ask("POST", "/v1/mset", {"entries": entries, "atomic": True})
    assert atomic.status == 413
    http.port.fault = UNAVAILABLE
    failed = await http.ask("POST", "/v1/mset", {"entries": entries})
    assert failed.status == 503
    assert "0 of 3 steps were committed" in failed.json["detail"]


async def test_steps_are_bounded_in_bytes_too(http: Rig) -> None:
    entries = [{"key": f"k{i}", "value": "v" * 3_000_000} for i in range(5)]
    assert (await http.ask("POST", "/v1/mset", {"entries": entries})).status == 200
    assert [len(write.mutations) for write in http.port.requests] == [2, 2, 1]


async def test_an_error_of_redis_in_one_step_is_the_answer(http: Rig) -> None:
    http.port.reply_error = ReplyError("OOM command not allowed")
    entries = [{"key": f"k{i}", "value": "v"} for i in range(201)]
    assert (await http.ask("POST", "/v1/mset", {"entries": entries})).status == 507


async def test_invalidation_of_everything_it_can_name(http: Rig) -> None:
    body = {
        "keys": ["a", BINARY],
        "tags": ["t"],
        "prefixes": ["user:"],
        "all": True,
        "ack": "quorum",
        "timeout_ms": 50.5,
        "replicas": 3,
    }
    answer = await http.ask("POST", "/v1/invalidations", body)
    assert answer.status == 200
    assert answer.json["missing"] == []
    wide, narrow = (write.mutations[0] for write in http.port.requests)
    assert (wide.tags, wide.prefixes, wide.everything) == ((b"t",), (b"user:",), True)
    assert narrow.keys == (b"a", b"\xff\x00")
    assert all(m.op == Op.INVALIDATE and m.frees_memory and not m.argv for m in (wide, narrow))
    assert [(write.ack, write.replicas) for write in http.port.requests] == [(Level.QUORUM, 3)] * 2


async def test_marks_of_ours_are_nobodys_tags(http: Rig) -> None:
    answer = await http.ask("POST", "/v1/invalidations", {"tags": ["t", "coh:life=1"]})
    assert (answer.status, answer.json["pointer"]) == (400, "/tags")
    assert not http.port.requests


async def test_many_keys_are_invalidated_in_bounded_records(http: Rig) -> None:
    keys = [f"k{i}" for i in range(401)]
    answer = await http.ask("POST", "/v1/invalidations", {"keys": keys})
    assert answer.status == 200
    assert [len(w.mutations[0].keys) for w in http.port.requests] == [200, 200, 1]


@pytest.mark.parametrize(
    ("target", "body", "pointer"),
    [
        ("/v1/mget", {"keys": []}, "/keys"),
        ("/v1/mget", {}, ""),
        ("/v1/mget", {"keys": ["a", 1]}, "/keys/1"),
        ("/v1/mget", {"keys": ["a"], "extra": 1}, ""),
        ("/v1/mget", {"keys": [{"base64": "!"}]}, "/keys/0/base64"),
        ("/v1/mget", {"keys": ["a"], "max_staleness_ms": -1}, "/max_staleness_ms"),
        ("/v1/mget", {"keys": ["a"], "min_version": "x"}, "/min_version"),
        ("/v1/mset", {"entries": [{"key": "a"}]}, "/entries/0"),
        ("/v1/mset", {"entries": [{"key": "a", "value": "", "value_base64": ""}]}, "/entries/0"),
        ("/v1/mset", {"entries": [{"key": "a", "value": "", "ttl_ms": 0}]}, "/entries/0/ttl_ms"),
        ("/v1/mset", {"entries": [{"key": "a", "value": ""}], "ack": "x"}, "/ack"),
        ("/v1/mset", {"entries": [{"key": "a", "value": ""}], "ack": 0}, "/ack"),
        ("/v1/mset", {"entries": [{"key": "a", "value": ""}], "replicas": 1001}, "/replicas"),
        ("/v1/invalidations", {"all": True, "replicas": 0.5}, "/replicas"),
        (
            "/v1/mset",
            {"entries": [{"key": "a", "value": "", "content_type": "x"}]},
            "/entries/0/content_type",
        ),
        ("/v1/invalidations", {}, ""),
        ("/v1/invalidations", {"all": False, "keys": []}, ""),
        ("/v1/invalidations", {"prefixes": [""]}, "/prefixes/0"),
        ("/v1/invalidations", {"keys": ["a"], "timeout_ms": 1e9}, "/timeout_ms"),
        ("/v1/invalidations", [], ""),
    ],
)
async def test_bad_bodies_are_told_where_they_are_bad(
    http: Rig, target: str, body: Any, pointer: str
) -> None:
    answer = await http.ask("POST", target, body)
    assert answer.status == 400
    assert answer.json["type"] == "urn:coherenced:problem:bad-request"
    assert answer.json.get("pointer", "") == pointer
    assert not http.port.requests


@pytest.mark.parametrize("raw", [b"", b"{", b'{"keys": ["\xff"]}', b'{"keys":["\\ud800"]}'])
async def test_what_is_not_json(http: Rig, raw: bytes) -> None:
    answer = await http.ask("POST", "/v1/mget", raw, Content_Type="application/json")
    assert (answer.status, answer.json["pointer"]) == (400, "body")


async def test_only_json_is_taken_for_json(http: Rig) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = await http.ask("POST", "/v1/invalidations", b'{"all":true}', Content_Type=kind)
        assert (answer.status, answer.json["pointer"]) == (415, "Content-Type")
    fine = "application/json; charset=utf-8"
    body = b'{"all":true}'
    assert (await http.ask("POST", "/v1/invalidations", body, Content_Type=fine)).status == 200


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/mget", {"keys": ["coh:x"]}),
        ("/v1/mset", {"entries": [{"key": "coh:x", "value": ""}]}),
        ("/v1/invalidations", {"keys": ["coh:x"]}),
    ],
)
async def test_reserved_keys(http: Rig, target: str, body: Any) -> None:
    assert (await http.ask("POST", target, body)).status == 403


async def test_bounds(tmp_path: Path) -> None:
    limits = HttpLimits(max_keys=2, max_key_bytes=4, max_value_bytes=3, max_answer_bytes=5)
    async with rig(tmp_path, limits=limits) as http:
        many = await http.ask("POST", "/v1/mget", {"keys": ["a", "b", "c"]})
        assert (many.status, many.json["pointer"]) == (413, "/keys")
        long = await http.ask("POST", "/v1/mget", {"keys": ["a", "bbbbb"]})
        assert (long.status, long.json["pointer"]) == (413, "/keys/1")
        large = await http.ask("POST", "/v1/mset", {"entries": [{"key": "a", "value": "1234"}]})
        assert (large.status, large.json["pointer"]) == (413, "/entries/0")
        for key in ("a", "b"):
            http.port.redis[key.encode()] = (b"123", (), 1)
        heavy = await http.ask("POST", "/v1/mget", {"keys": ["a", "b"]})
        assert (heavy.status, heavy.json["pointer"]) == (413, "/keys")


@pytest.mark.parametrize("piece_bytes", [3, 6, 9, 48])
async def test_large_values_leave_in_pieces_and_are_the_same(
    http: Rig, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    http.port.redis = {
        b"text": ('aü€😀"\\\n\x00\u2028'.encode() * 7, (b"content-type=text/plain",), 1),
        b"torn": (("x" * 47 + "€").encode()[:-1], (), 1),
        b"bytes": (bytes(range(256)), (), 1),
        b"small": (b"v", (), 1),
        b"empty": (b"", (), 1),
    }
    http.port.wrong_type.add(b"list")
    body = {"keys": ["text", "absent", "torn", "bytes", "small", "text", "empty", "list", BINARY]}
    whole = await http.ask("POST", "/v1/mget", body)
    monkeypatch.setattr(http_bulk, "LARGE_BYTES", 1)
    monkeypatch.setattr(http_rows, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(http_rows, "TURN_BYTES", 100)
    pieces = await http.ask("POST", "/v1/mget", body)
    assert pieces.headers["Transfer-Encoding"] == "chunked"
    assert pieces.headers["Content-Type"] == whole.headers["Content-Type"]
    assert pieces.headers["Server"] == whole.headers["Server"]
    assert [{**row, "age_ms": 0} for row in pieces.json["values"]] == [
        {**row, "age_ms": 0} for row in whole.json["values"]
    ]
    assert http.front.waiting_answer_bytes == 0


async def test_an_answer_in_pieces_is_bounded_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_short, "TAKING_S", 0.2)
    async with rig(tmp_path, limits=HttpLimits(max_waiting_answer_bytes=6_000_000)) as http:
        http.port.redis[b"big"] = (b"x" * 4_000_000, (), 1)
        _, writer = await http.raw()
        writer.transport.pause_reading()
        body = b'{"keys": ["big"]}'
        writer.write(
            b"POST /v1/mget HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await until(lambda: http.front.waiting_answer_bytes == 4_000_000)
        assert (await http.ask("POST", "/v1/mget", {"keys": ["big"]})).status == 503
        await until(lambda: http.front.waiting_answer_bytes == 0)  # it has not read for so long
        assert (await http.ask("POST", "/v1/mget", {"keys": ["big"]})).status == 200
        writer.close()


async def test_a_large_answer_is_not_made_as_a_whole() -> None:
    value = b"x" * (8 << 20)
    values = [Value(value, Version(EPOCH, 1), "l2", 0.0)] * 8
    tracemalloc.start()
    size = 0
    async for piece in http_rows.pieces_of(["big"] * 8, values):
        size += len(piece)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 8 * len(value)
    assert most < len(value) / 8
