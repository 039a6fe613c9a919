"""/v1/keys/{key}: what a value's life over HTTP looks like, header by header."""

from __future__ import annotations

from collections.abc import AsyncIterator
from math import inf
from pathlib import Path

import msgspec
import pytest

from coherenced.core.model import ReplyError, Version
from coherenced.core.requests import Fault, FaultKind, Level, Source, Value, WriteResult
from coherenced.errors import SPOOLED
from coherenced.serve.http_headers import PLAIN, read_wish
from coherenced.serve.http_keys import _cache_status, write_response
from coherenced.serve.http_limits import HttpLimits
from coherenced.serve.problem import Problem, of_reply
from tests.serve.fake_port import EPOCH, UNAVAILABLE
from tests.serve.http_rig import Rig, rig


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as running:
        yield running


async def test_a_value_is_written_read_and_deleted(http: Rig) -> None:
    written = await http.ask("PUT", "/v1/keys/user:1", b"Ada")
    assert written.status == 200
    version = written.json["version"]
    assert written.headers["ETag"] == f'"{version}"'
    assert written.json == {
        "version": version,
        "acknowledged": {"a": 0.0, "b": 0.412},
        "fenced": [],
        "missing": [],
        "satisfied": True,
    }
    read = await http.ask("GET", "/v1/keys/user:1")
    assert (read.status, read.body) == (200, b"Ada")
    assert read.headers["ETag"] == f'"{version}"'
    assert read.headers["Coherenced-Version"] == version
    assert read.headers["Coherenced-Source"] == "l2"
    assert read.headers["Coherenced-Stale"] == "0"
    assert read.headers["Age"] == "0"
    assert read.headers["Cache-Status"] == "coherenced; fwd=miss"
    assert read.headers["Content-Type"] == "application/octet-stream"
    hit = await http.ask("GET", "/v1/keys/user:1")
    assert hit.headers["Coherenced-Source"] == "l1"
    assert hit.headers["Cache-Status"] == "coherenced; hit", "for as long as it is proved"
    assert (await http.ask("DELETE", "/v1/keys/user:1")).status == 200
    assert (await http.ask("DELETE", "/v1/keys/user:1")).status == 404
    gone = await http.ask("GET", "/v1/keys/user:1")
    assert gone.status == 404
    assert gone.headers["Content-Type"] == "application/problem+json"
    assert gone.headers["Coherenced-Source"] == "l2"
    assert gone.json["type"] == "urn:coherenced:problem:not-found"
    assert gone.json["status"] == 404


async def test_head_has_the_headers_of_get_and_no_body(http: Rig) -> None:
    http.port.cache(b"k", b"12345", (b"content-type=text/plain",))
    head = await http.ask("HEAD", "/v1/keys/k")
    get = await http.ask("GET", "/v1/keys/k")
    assert head.body == b""
    assert {k: v for k, v in head.headers.items() if k != "Date"} == {
        k: v for k, v in get.headers.items() if k != "Date"
    }
    assert (await http.ask("HEAD", "/v1/keys/absent")).status == 404


@pytest.mark.parametrize(
    ("encoded", "key"),
    [
        ("a%2Fb", b"a/b"),
        ("%00%FF%fe", b"\x00\xff\xfe"),
        ("sp%20ace", b"sp ace"),
        ("a+b", b"a+b"),
        ("%3F", b"?"),
        ("%25", b"%"),
        ("%C3%BC", "ü".encode()),
        (".", b"."),
    ],
)
async def test_keys_are_percent_encoded_bytes(http: Rig, encoded: str, key: bytes) -> None:
    assert (await http.ask("PUT", f"/v1/keys/{encoded}", b"v")).status == 200
    assert list(http.port.redis) == [key]
    assert (await http.ask("GET", f"/v1/keys/{encoded}")).body == b"v"
    assert (await http.ask("GET", f"/v1/keys/{encoded}")).headers["Coherenced-Source"] == "l1"


@pytest.mark.parametrize(
    ("encoded", "status", "kind"),
    [
        ("", 400, "bad-request"),
        ("%zz", 400, "bad-request"),
        ("a%2", 400, "bad-request"),
        ("a?b=1", 400, "bad-request"),
        ("a/b", 404, "no-route"),
        ("coh:x", 403, "reserved"),
        ("%63oh%3Ax", 403, "reserved"),
        ("k" * 16_385, 413, "too-large"),
    ],
)
async def test_a_key_that_is_none_is_refused(
    http: Rig, encoded: str, status: int, kind: str
) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = await http.ask(method, f"/v1/keys/{encoded}")
        assert answer.status == status
        assert answer.json["type"] == f"urn:coherenced:problem:{kind}"
        assert answer.json["pointer"] == "path"
    assert not http.port.requests


async def test_content_type_and_tags_are_kept_beside_the_value(http: Rig) -> None:
    kind = "text/html; charset=utf-8"
    answer = await http.ask(
        "PUT", "/v1/keys/p", b"<p>", Content_Type=kind, Coherenced_Tags="team:7, a%2Cb,team:7"
    )
    assert answer.status == 200
    value, labels, _ = http.port.redis[b"p"]
    assert value == b"<p>"
    assert labels == (b"content-type=text/html; charset=utf-8", b"team:7", b"a,b")
    read = await http.ask("GET", "/v1/keys/p")
    assert read.headers["Content-Type"] == kind
    # A stored page is not a page of this origin.
    assert read.headers["Content-Security-Policy"] == "sandbox"
    assert read.headers["X-Content-Type-Options"] == "nosniff"
    assert (await http.ask("GET", "/v1/keys/p")).headers["Content-Type"] == kind
    for nothing in ("application/octet-stream", "application/x-www-form-urlencoded"):
        await http.ask("PUT", "/v1/keys/plain", b"x", Content_Type=nothing)
        assert http.port.requests[-1].mutations[0].label is None


async def test_a_label_that_is_no_media_type_never_becomes_a_header(http: Rig) -> None:
    http.port.cache(b"k", b"v", (b"content-type=text/plain\r\nX: y",))
    assert (await http.ask("GET", "/v1/keys/k")).headers["Content-Type"] == (
        "application/octet-stream"
    )


async def test_max_age_is_the_time_to_live(http: Rig) -> None:
    await http.ask("PUT", "/v1/keys/k", b"v", Cache_Control="max-age=90, unknown=1")
    mutation = http.port.requests[-1].mutations[0]
    assert mutation.argv == (b"SET", b"k", b"v", b"PX", b"90000")
    assert (mutation.keeps, mutation.keeps_ttl_ms) == (b"v", 90_000.0)
    for much in ("2147483649", "99999999999", "9" * 5000, '"000099999999999"'):  # RFC 9111 1.2.2
        await http.ask("PUT", "/v1/keys/k", b"v", Cache_Control=f"max-age={much}")
        assert http.port.requests[-1].mutations[0].argv[-1] == b"2147483648000"
    for wrong in ("max-age=0", "max-age=x", "max-age=-1", "max-age=000", "max-age="):
        answer = await http.ask("PUT", "/v1/keys/k", b"v", Cache_Control=wrong)
        assert (answer.status, answer.json["pointer"]) == (400, "Cache-Control")


async def test_a_value_is_kept_past_its_max_age_where_it_may_be_stale(http: Rig) -> None:
    text = "max-age=90, stale-while-revalidate=5, stale-if-error=600"
    await http.ask("PUT", "/v1/keys/k", b"v", Cache_Control=text)
    mutation = http.port.requests[-1].mutations[0]
    assert mutation.argv == (b"SET", b"k", b"v", b"PX", b"690000")
    assert mutation.label == (b"coh:life=690000/600000",)
    assert (await http.ask("GET", "/v1/keys/k")).headers["Coherenced-Stale"] == "0"
    http.port.cache(b"k", b"v", mutation.label, left_ms=599_000.0)
    stale = await http.ask("GET", "/v1/keys/k")
    assert (stale.headers["Coherenced-Stale"], stale.headers["Age"]) == ("1", "91")
    await http.ask("PUT", "/v1/keys/k", b"v", Cache_Control="max-age=90, stale-if-error=0")
    assert http.port.requests[-1].mutations[0].label is None
    for wrong in ("stale-if-error=5", "max-age=1, stale-while-revalidate=x"):
        answer = await http.ask("PUT", "/v1/keys/k", b"v", Cache_Control=wrong)
        assert (answer.status, answer.json["pointer"]) == (400, "Cache-Control")


async def test_compare_and_set(http: Rig) -> None:
    first = (await http.ask("PUT", "/v1/keys/k", b"1")).headers["ETag"]
    second = await http.ask("PUT", "/v1/keys/k", b"2", If_Match=first)
    assert second.status == 200
    lost = await http.ask("PUT", "/v1/keys/k", b"3", If_Match=first)
    assert lost.status == 412
    assert lost.json["type"] == "urn:coherenced:problem:precondition-failed"
    assert (await http.ask("DELETE", "/v1/keys/k", If_Match=first)).status == 412
    assert http.port.redis[b"k"][0] == b"2"
    assert (await http.ask("DELETE", "/v1/keys/k", If_Match=second.headers["ETag"])).status == 200
    for never in ('"not-ours"', 'W/"0f1e2d3c4b5a6978:1"'):
        assert (await http.ask("PUT", "/v1/keys/k", b"4", If_Match=never)).status == 412
    for wrong in ("bare", '"a", "b"', '"a" "b"', ""):
        answer = await http.ask("PUT", "/v1/keys/k", b"4", If_Match=wrong)
        assert (answer.status, answer.json["pointer"]) == (400, "If-Match")


async def test_a_conflict_reported_as_a_fault_is_a_failed_precondition_too(http: Rig) -> None:
    http.port.fault = Fault(FaultKind.CONFLICT, "the key has changed", Version(EPOCH, 9))
    answer = await http.ask("PUT", "/v1/keys/k", b"1", If_Match=f'"{EPOCH.decode()}:8"')
    assert (answer.status, answer.json["version"]) == (412, f"{EPOCH.decode()}:9")
    assert (await http.ask("PUT", "/v1/keys/k", b"1")).status == 409


async def test_only_if_absent_and_only_if_present(http: Rig) -> None:
    assert (await http.ask("PUT", "/v1/keys/k", b"1", If_Match="*")).status == 412
    assert (await http.ask("DELETE", "/v1/keys/k", If_Match="*")).status == 412
    assert (await http.ask("PUT", "/v1/keys/k", b"1", If_None_Match="*")).status == 200
    taken = await http.ask("PUT", "/v1/keys/k", b"2", If_None_Match="*")
    assert (taken.status, taken.json["pointer"]) == (412, "If-None-Match")
    assert (await http.ask("PUT", "/v1/keys/k", b"3", If_Match="*")).status == 200
    assert http.port.redis[b"k"][0] == b"3"
    assert (await http.ask("PUT", "/v1/keys/k", b"4", If_None_Match='"x"')).status == 400
    both = await http.ask("PUT", "/v1/keys/k", b"4", If_None_Match="*", If_Match="*")
    assert both.status == 412
    assert (await http.ask("DELETE", "/v1/keys/k", If_None_Match="*")).status == 400


async def test_conditional_get(http: Rig) -> None:
    etag = (await http.ask("PUT", "/v1/keys/k", b"1")).headers["ETag"]
    for listed in (etag, f'"x", W/{etag}', "*"):
        same = await http.ask("GET", "/v1/keys/k", If_None_Match=listed)
        assert (same.status, same.body, same.headers["ETag"]) == (304, b"", etag)
    assert (await http.ask("GET", "/v1/keys/k", If_None_Match='"x"')).status == 200
    assert (await http.ask("GET", "/v1/keys/k", If_None_Match="x")).status == 400
    assert (await http.ask("GET", "/v1/keys/k", If_Match=etag)).status == 200
    assert (await http.ask("GET", "/v1/keys/k", If_Match='"x"')).status == 412
    assert (await http.ask("GET", "/v1/keys/absent", If_Match="*")).status == 412
    assert (await http.ask("GET", "/v1/keys/absent", If_None_Match="*")).status == 404


async def test_how_fresh_a_read_must_be(http: Rig) -> None:
    http.port.cache(b"k", b"v")
    version = f"{EPOCH.decode()}:7"

    async def asked(**headers: str) -> tuple[object, ...]:
        http.port.requests.clear()
        assert (await http.ask("GET", "/v1/keys/k", **headers)).status == 404  # not in Redis
        (read,) = http.port.requests
        return read.max_staleness_ms, read.min_version, read.stale_if_error_ms

    assert await asked(Coherenced_Max_Staleness_Ms="0") == (0.0, None, None)
    assert await asked(Cache_Control="no-cache") == (0.0, None, None)
    assert await asked(Cache_Control="max-age=3") == (3000.0, None, None)
    assert await asked(Cache_Control="max-age=3", Coherenced_Max_Staleness_Ms="9") == (
        9.0,
        None,
        None,
    )
    assert await asked(Coherenced_Min_Version=version) == (None, Version(EPOCH, 7), None)
    assert await asked(Cache_Control='x="a,b", Stale-If-Error=60') == (None, None, 60_000.0)
    for name, wrong in (
        ("Coherenced-Max-Staleness-Ms", "soon"),
        ("Coherenced-Max-Staleness-Ms", "-1"),
        ("Coherenced-Min-Version", "7"),
        ("Cache-Control", "max-age=soon"),
    ):
        answer = await http.ask("GET", "/v1/keys/k", **{name: wrong})
        assert (answer.status, answer.json["pointer"]) == (400, name)


async def test_only_if_cached(http: Rig) -> None:
    answer = await http.ask("GET", "/v1/keys/k", Cache_Control="only-if-cached")
    assert answer.json["type"] == "urn:coherenced:problem:not-cached"
    assert answer.status == 504
    http.port.cache(b"k", b"v")
    http.port.clock_ms += 900
    assert (await http.ask("GET", "/v1/keys/k", Cache_Control="only-if-cached")).body == b"v"
    both = await http.ask("GET", "/v1/keys/k", Cache_Control="only-if-cached, max-age=0")
    assert both.status == 504
    assert not http.port.requests


async def test_a_stale_answer_says_so(http: Rig) -> None:
    http.port.redis[b"k"] = (b"old", (), 0)
    http.port.stale = True
    answer = await http.ask("GET", "/v1/keys/k")
    assert answer.status == 200
    assert answer.headers["Coherenced-Stale"] == "1"
    assert answer.headers["Age"] == "7"
    assert answer.headers["Cache-Status"] == 'coherenced; hit; ttl=-7; detail="stale"'


async def test_acknowledgement_levels(http: Rig) -> None:
    http.port.missing = ("b", "c")
    answer = await http.ask(
        "PUT", "/v1/keys/k", b"v", Coherenced_Ack="all", Coherenced_Timeout_Ms="250"
    )
    assert answer.status == 202
    assert answer.json["missing"] == ["b", "c"]
    assert answer.json["satisfied"] is False
    assert answer.headers["Coherenced-Version"] == answer.json["version"]
    write = http.port.requests[-1]
    assert (write.ack, write.timeout_ms) == (Level.ALL, 250.0)
    assert (await http.ask("DELETE", "/v1/keys/k", Coherenced_Ack="2")).status == 202
    assert http.port.requests[-1].replicas == 0
    for method in ("PUT", "DELETE"):
        http.port.missing = ("(replicas)",)
        answer = await http.ask(method, "/v1/keys/k", b"v", Coherenced_Replicas="2")
        assert (answer.status, answer.json["missing"]) == (202, ["(replicas)"])
        assert http.port.requests[-1].replicas == 2
    again = await http.ask("DELETE", "/v1/keys/k", Coherenced_Ack="all")
    assert (again.status, again.json["missing"]) == (202, ["(replicas)"]), "though it was gone"
    http.port.missing = ()
    assert (await http.ask("DELETE", "/v1/keys/k", Coherenced_Ack="all")).status == 404
    none = await http.ask("PUT", "/v1/keys/k", b"v", Coherenced_Ack="none")
    assert (none.status, none.json["version"], none.json["satisfied"]) == (202, None, True)
    accepted = WriteResult((b"OK",), None, {})  # a namespace whose level is none
    assert write_response(accepted, None).status == 202
    journaled = msgspec.structs.replace(accepted, missing=(SPOOLED,))
    assert write_response(journaled, None).status == 200
    for name, wrong in (
        ("Coherenced-Ack", "most"),
        ("Coherenced-Timeout-Ms", "2s"),
        ("Coherenced-Replicas", "-1"),
        ("Coherenced-Replicas", "1001"),
    ):
        answer = await http.ask("PUT", "/v1/keys/k", b"v", **{name: wrong})
        assert (answer.status, answer.json["pointer"]) == (400, name)


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        (UNAVAILABLE, 503, "unavailable"),
        (Fault(FaultKind.CONTENDED, "another write was first"), 503, "contended"),
        (Fault(FaultKind.TOO_LARGE, "ask for fewer"), 413, "too-large"),
        (Fault(FaultKind.OVERLOADED, "100000 requests wait"), 503, "overloaded"),
        (Fault(FaultKind.STOPPING, "stopping"), 503, "stopping"),
        (Fault(FaultKind.INDETERMINATE, "reply lost"), 504, "indeterminate"),
        (Fault(FaultKind.OUT_OF_MEMORY, "maxmemory"), 507, "out-of-memory"),
        (Fault(FaultKind.OTHER_LINEAGE, "another epoch"), 409, "other-lineage"),
        (Fault(FaultKind.BEHIND, "newer than Redis"), 409, "version-ahead"),
    ],
)
async def test_faults_are_problems(http: Rig, fault: Fault, status: int, kind: str) -> None:
    http.port.fault = fault
    for method in ("GET", "PUT", "DELETE"):
        answer = await http.ask(method, "/v1/keys/k", b"v" if method == "PUT" else None)
        assert answer.status == status
        assert answer.json["type"] == f"urn:coherenced:problem:{kind}"
        assert answer.json["detail"] == fault.detail
        assert ("Retry-After" in answer.headers) == (status == 503)


async def test_a_write_found_committed_though_its_reply_was_lost(http: Rig) -> None:
    http.port.fault = Fault(FaultKind.APPLIED_UNKNOWN_REPLY, "found in the log", Version(EPOCH, 3))
    plain = await http.ask("PUT", "/v1/keys/k", b"v", Coherenced_Ack="redis")
    assert (plain.status, plain.json["version"]) == (200, f"{EPOCH.decode()}:3")
    assert (await http.ask("PUT", "/v1/keys/k", b"v", Coherenced_Ack="all")).status == 202


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", 507),
        ("WRONGTYPE Operation against a key", 409),
        ("ERR something else", 502),
    ],
)
async def test_errors_of_redis_keep_their_words(http: Rig, text: str, status: int) -> None:
    http.port.reply_error = ReplyError(text)
    answer = await http.ask("PUT", "/v1/keys/k", b"v")
    assert (answer.status, answer.json["detail"]) == (status, text)


async def test_reading_another_kind_of_value(http: Rig) -> None:
    http.port.wrong_type.add(b"list")
    answer = await http.ask("GET", "/v1/keys/list")
    assert (answer.status, answer.json["type"]) == (409, "urn:coherenced:problem:wrong-type")


@pytest.mark.parametrize(
    ("header", "wrong"),
    [
        ("Coherenced-Tags", "a,,b"),
        ("Coherenced-Tags", "a b"),
        ("Coherenced-Tags", "content-type%3Dx"),
        ("Content-Type", "html"),
        ("Content-Type", "text/plain; " + "x" * 200),
    ],
)
async def test_wrong_labels_are_refused_by_name(http: Rig, header: str, wrong: str) -> None:
    answer = await http.ask("PUT", "/v1/keys/k", b"v", **{header: wrong})
    assert (answer.status, answer.json["pointer"]) == (400, header)


async def test_too_many_tags_and_too_large_a_value(tmp_path: Path) -> None:
    limits = HttpLimits(max_value_bytes=1000, max_tags=2, max_key_bytes=2000)
    async with rig(tmp_path, limits=limits) as http:
        assert (await http.ask("PUT", "/v1/keys/k", b"v" * 1000)).status == 200
        large = await http.ask("PUT", "/v1/keys/k", b"v" * 1001)
        assert (large.status, large.json["pointer"]) == (413, "body")
        tags = await http.ask("PUT", "/v1/keys/k", b"v", Coherenced_Tags="a,b,c")
        assert (tags.status, tags.json["pointer"]) == (413, "Coherenced-Tags")
        tag = "t" * 2000  # as over RESP
        assert (await http.ask("PUT", "/v1/keys/k", b"v", Coherenced_Tags=tag)).status == 200
        long = await http.ask("PUT", "/v1/keys/k", b"v", Coherenced_Tags=f"{tag}t")
        assert (long.status, long.json["pointer"]) == (413, "Coherenced-Tags")


async def test_an_encoded_body_is_not_stored_as_if_it_were_plain(http: Rig) -> None:
    answer = await http.ask("PUT", "/v1/keys/k", b"\x1f\x8b", Content_Encoding="gzip")
    assert (answer.status, answer.json["pointer"]) == (415, "Content-Encoding")


# -- keys with an origin -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "stale", "fresh_ms", "told"),
    [
        (Source.ORIGIN, False, 5_900.0, "coherenced; fwd=miss; stored"),
        (Source.ORIGIN, False, None, "coherenced; fwd=miss"),
        (Source.L1, False, 5_900.0, "coherenced; hit; ttl=5"),
        (Source.L1, False, None, "coherenced; hit"),
        (Source.L2, False, 5_900.0, "coherenced; fwd=miss"),
        (Source.L2, True, -5_900.0, 'coherenced; hit; ttl=-6; detail="stale"'),
        (Source.L2, True, -100.0, 'coherenced; hit; ttl=-1; detail="stale"'),
        # In time, but not proved any more: 3 s past its bound.
        (Source.L1, True, 5_900.0, 'coherenced; hit; ttl=-3; detail="stale"'),
        (Source.L1, True, None, 'coherenced; hit; ttl=-3; detail="stale"'),
    ],
)
def test_cache_status_says_what_was_done_and_how_long_it_is_fresh(
    source: str, stale: bool, fresh_ms: float | None, told: str
) -> None:
    value = Value(b"x", Version(b"0" * 16, 1), source, 0.0, stale=stale, ttl_ms=fresh_ms)
    ends_ms = None if fresh_ms is None else fresh_ms + 20_000
    labels = (b"coh:life=60000/20000",)
    value = msgspec.structs.replace(
        value, labels=labels, expires_in_ms=ends_ms, proved_ms=4_000.0, bound_ms=1_000.0
    )
    assert _cache_status(value, PLAIN) == told


async def test_age_counts_from_when_the_value_was_given_not_from_the_last_proof(http: Rig) -> None:
    labels = (b"origin=x", b"coh:life=70000/20000")
    http.port.cache(b"k", b"v", labels, left_ms=30_000.0)
    hit = await http.ask("GET", "/v1/keys/k")
    assert (hit.headers["Age"], hit.headers["Coherenced-Source"]) == ("40", "l1")
    assert hit.headers["Cache-Status"] == "coherenced; hit; ttl=10"
    http.port.clock_ms += 900
    older = await http.ask("GET", "/v1/keys/k")
    assert (older.headers["Age"], older.headers["Coherenced-Source"]) == ("40", "l1")
    assert older.headers["Cache-Status"] == "coherenced; hit; ttl=9"


async def test_a_labelled_value_with_a_time_to_live_tells_its_life(http: Rig) -> None:
    await http.ask("PUT", "/v1/keys/k", b"v", Coherenced_Tags="t", Cache_Control="max-age=60")
    assert http.port.redis[b"k"][1] == (b"t", b"coh:life=60000")
    await http.ask("PUT", "/v1/keys/k", b"v", Cache_Control="max-age=60")
    assert http.port.redis[b"k"][1] == (), "without labels it is plain, and Redis is its home"
    own = await http.ask("PUT", "/v1/keys/k", b"v", Coherenced_Tags="coh:life=1")
    assert (own.status, own.json["pointer"]) == (400, "Coherenced-Tags")


def test_a_request_may_say_how_stale_it_takes_an_answer() -> None:
    wish = read_wish({"Cache-Control": "stale-while-revalidate=5, stale-if-error=60"})
    read = wish.read((b"k",))
    assert (read.stale_while_revalidate_ms, read.stale_if_error_ms) == (5_000.0, 60_000.0)
    assert not wish.plain and read_wish({}).plain
    with pytest.raises(Problem, match="whole number"):
        read_wish({"Cache-Control": "stale-while-revalidate=x"})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("no-cache", (0.0, 0.0, None, None, None)),
        ("no-cache, max-age=5", (0.0, 0.0, None, None, None)),
        ("max-age=0", (0.0, 0.0, None, None, None)),
        ("max-age=5", (5_000.0, 5_000.0, None, None, None)),
        ("min-fresh=5", (0.0, None, 5_000.0, None, None)),
        ("min-fresh=0", (None, None, 0.0, None, None)),
        ("max-stale=5", (None, None, None, 5_000.0, 5_000.0)),
        ("max-stale", (None, None, None, inf, inf)),
        ("max-stale=5, stale-if-error=60", (None, None, None, 60_000.0, 5_000.0)),
        ("no-store", (None, None, None, None, None)),
    ],
)
def test_what_the_directives_of_a_request_mean(text: str, meant: tuple[float | None, ...]) -> None:
    """How old a proof, how old a value, how fresh, how stale on errors, how stale meanwhile."""
    read = read_wish({"Cache-Control": text}).read((b"k",))
    assert meant == (
        read.max_staleness_ms,
        read.max_age_ms,
        read.min_fresh_ms,
        read.stale_if_error_ms,
        read.stale_while_revalidate_ms,
    )
    assert read.is_particular == (meant[1] is not None or meant[2] is not None)


@pytest.mark.parametrize("wrong", ["min-fresh", "min-fresh=x", "max-stale=-1", "max-age"])
def test_directives_that_are_wrong(wrong: str) -> None:
    with pytest.raises(Problem, match="whole number"):
        read_wish({"Cache-Control": wrong})


@pytest.mark.parametrize(
    ("directive", "status"),
    [
        ("", 200),
        (", max-age=39", 504),
        (", max-age=41", 200),
        (", min-fresh=9", 504),
        (", no-cache", 504),
    ],
)
async def test_only_if_cached_of_a_loaded_value(http: Rig, directive: str, status: int) -> None:
    labels = (b"origin=x", b"coh:life=70000/20000")
    http.port.cache(b"k", b"v", labels, left_ms=30_000.0)  # 40 s old, fresh for 10 s
    http.port.clock_ms += 1.0
    answer = await http.ask("GET", "/v1/keys/k", Cache_Control="only-if-cached" + directive)
    assert answer.status == status
    assert not http.port.requests


async def test_only_if_cached_asks_redis_where_that_is_a_cache(http: Rig) -> None:
    nothing = await http.ask("GET", "/v1/keys/origin:1", Cache_Control="only-if-cached")
    assert (nothing.status, nothing.json["type"]) == (504, "urn:coherenced:problem:not-cached")
    http.port.redis[b"origin:2"] = (b"v", (), 0)
    found = await http.ask("GET", "/v1/keys/origin:2", Cache_Control="only-if-cached")
    assert (found.status, found.body) == (200, b"v")
    assert all(read.cached_only for read in http.port.requests)


@pytest.mark.parametrize(
    ("text", "kind", "status"),
    [
        ("ORIGIN the origin answered 500", "origin", 502),
        ("ORIGIN refused: INCR cannot be sent to an origin", "not-for-origin", 422),
    ],
)
def test_faults_of_an_origin_have_kinds_of_their_own(text: str, kind: str, status: int) -> None:
    problem = of_reply(ReplyError(text))
    assert (problem.kind, problem.status) == (kind, status)
    assert problem.detail == text.removeprefix("ORIGIN ").removeprefix("refused: ")
