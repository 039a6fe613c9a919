"""Real daemons, a real server, a real HTTP origin: each pattern, and each failure it is for."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coherenced import Client
from coherenced.errors import CommandError
from tests.cluster.daemons import Cluster, Daemon, UnixHTTPConnection
from tests.origin.server import OriginServer
from tests.servers import wait_until


@pytest.fixture(scope="module")
def origin() -> Iterator[OriginServer]:
    with OriginServer() as origin:
        yield origin


def namespace(origin: OriginServer, name: str, **settings: Any) -> dict[str, Any]:
    given = {"match": f"{name}:*", "origin": origin.url(f"{name}-{{rest}}")} | settings
    return {f"namespace.{name}.{key}": value for key, value in given.items()}


@pytest.fixture(scope="module")
def cluster(origin: OriginServer) -> Iterator[Cluster]:
    settings = {
        **namespace(origin, "plain", ttl_ms=60_000, negative_max_age_ms=400),
        **namespace(origin, "swr", ttl_ms=300, stale_while_revalidate_ms=60_000),
        **namespace(
            origin,
            "sie",
            ttl_ms=300,
            stale_if_error_ms=60_000,
            soft_timeout_ms=50,
            hard_timeout_ms=800,
            origin_retries=0,
            breaker_failures=3,
            breaker_open_ms=700,
        ),
        **namespace(origin, "wt", origin_mode="write-through", ttl_ms=60_000, ack="all"),
    }
    with Cluster(3, settings=settings) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def in_a_good_mood(origin: OriginServer) -> None:
    origin.status, origin.delay_s, origin.etags = 0, 0.0, False
    origin.headers.clear()
    origin.statuses.clear()


def get(daemon: Daemon, key: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    return ask(daemon, "GET", key, **headers)


def ask(
    daemon: Daemon, method: str, key: str, body: bytes | None = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = UnixHTTPConnection(daemon.http_socket, 20.0)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, f"/v1/keys/{key}", body, named)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_a_hundred_readers_on_each_of_three_daemons_are_one_request(
    cluster: Cluster, origin: OriginServer
) -> None:
    origin.rows["plain-herd"] = b"Ada"
    origin.delay_s = 0.3
    with contextlib.ExitStack() as open_:
        readers = []
        for daemon in cluster.daemons:
            for _ in range(100):
                reader = open_.enter_context(socket.socket(socket.AF_UNIX))
                reader.settimeout(20.0)
                reader.connect(str(daemon.socket))
                readers.append(reader)
        for reader in readers:
            reader.sendall(b"*2\r\n$3\r\nGET\r\n$10\r\nplain:herd\r\n")
        assert {reader.recv(100) for reader in readers} == {b"$3\r\nAda\r\n"}
    assert origin.count(name="plain-herd") == 1


def test_a_loaded_value_is_told_where_it_came_from(cluster: Cluster, origin: OriginServer) -> None:
    a, b, _ = cluster.daemons
    origin.rows["plain-1"] = b"Ada"
    origin.headers |= {"Coherenced-Tags": "team:7"}
    status, headers, body = get(a, "plain:1")
    assert (status, body, headers["Content-Type"]) == (200, b"Ada", "text/plain")
    assert headers["Coherenced-Source"] == "origin"
    assert headers["Cache-Status"] == "coherenced; fwd=miss; stored"
    status, headers, body = get(a, "plain:1")
    assert headers["Cache-Status"].startswith("coherenced; hit; ttl=5")
    assert get(b, "plain:1")[1]["Coherenced-Source"] == "l2"
    assert a.command("COH.GET", "plain:1", "META")[2] == b"l1"
    # An update at the origin, and the invalidation that tells of it, by tag, on another node.
    origin.rows["plain-1"] = b"Grace"
    b.command("COH.INVALIDATE", "TAGS", "1", "team:7", "ACK", "all")
    meta = a.command("COH.GET", "plain:1", "META")
    assert (meta[0], meta[2], meta[4]) == (b"Grace", b"origin", 0)
    b.command("COH.INVALIDATE", "TAGS", "1", "origin=plain", "ACK", "all")
    assert get(a, "plain:1")[1]["Coherenced-Source"] == "origin"


def test_a_value_is_as_old_everywhere_as_its_origin_says(
    cluster: Cluster, origin: OriginServer
) -> None:
    """RFC 9111: Age is the time since the origin gave or validated it, wherever it is asked."""
    a, b, _ = cluster.daemons
    origin.rows["swr-old"] = b"Ada"
    origin.headers |= {"Age": "40", "Cache-Control": "max-age=42"}
    origin.etags = True
    assert get(a, "swr:old")[1]["Age"] == "40", "as it came"

    def told(daemon: Daemon) -> list[tuple[str, float]]:
        connection = UnixHTTPConnection(daemon.http_socket, 20.0)
        found = []
        try:
            for _ in range(3):  # the last ones by the short path, if L1 may answer
                connection.request("GET", "/v1/keys/swr:old")
                answer = connection.getresponse()
                answer.read()
                found.append((answer.headers["Coherenced-Source"], float(answer.headers["Age"])))
        finally:
            connection.close()
        meta = daemon.command("COH.GET", "swr:old", "META")
        found.append((f"{meta[2].decode()} meta", float(meta[3]) / 1e3))
        with Client(daemon.socket) as client:
            for _ in range(3):
                entry = client.get_entry("swr:old")
                found.append((entry.source, entry.age_ms / 1e3))
            entry = client.get_entry_or_load("swr:old", lambda: b"never called", ttl=1e6)
            found.append((f"{entry.source} loading", entry.age_ms / 1e3))
        return found

    began = time.monotonic()
    time.sleep(1.0)
    fresh = [one for daemon in (a, b) for one in told(daemon)]
    took_s = time.monotonic() - began
    assert {"l1", "l1 meta", "l0"} <= {source for source, _ in fresh}
    assert all(40.0 < age <= 41.0 + took_s or age == 41.0 for _, age in fresh), fresh
    wait_until(lambda: get(b, "swr:old")[1]["Coherenced-Stale"] == "1", 10.0)
    # It was loaded anew behind: a 304, which makes it as old as that answer says.
    wait_until(lambda: get(a, "swr:old")[1]["Coherenced-Stale"] == "0", 10.0)
    assert origin.requests[-1].headers["If-None-Match"]
    assert float(get(a, "swr:old")[1]["Age"]) < 30.0, "a 304 of this origin says no Age"


def test_a_value_is_as_old_everywhere_as_its_loader_made_it(cluster: Cluster) -> None:
    a, b, _ = cluster.daemons
    with Client(a.socket) as one, Client(b.socket) as two:
        made = one.get_entry_or_load("aside:age", lambda: {"n": 1}, ttl=60, jitter=0.5)
        assert (made.source, made.age_ms) == ("origin", 0.0)
        time.sleep(0.2)
        found = [client.get_entry("aside:age") for client in (one, two, two, two)]
        assert {entry.source for entry in found} >= {"l1", "l2", "l0"}
        assert all(200.0 <= entry.age_ms < 20_000.0 for entry in found), found
        again = two.get_entry_or_load("aside:age", dict, ttl=60, jitter=0.5)
        assert again.value == {"n": 1} and again.age_ms >= 200.0


def test_a_request_says_what_it_takes(cluster: Cluster, origin: OriginServer) -> None:
    a, b, _ = cluster.daemons
    key = "sie:wish"
    assert get(a, key, Cache_Control="only-if-cached")[0] == 504
    origin.rows["sie-wish"], origin.etags = b"one", True
    origin.headers |= {"Cache-Control": "max-age=60"}
    assert get(a, key)[2] == get(b, key)[2] == b"one"
    origin.rows["sie-wish"] = b"two"  # nobody is told
    assert get(b, key, Cache_Control="max-age=50")[2] == b"one"
    assert get(b, key, Cache_Control="no-cache")[2] == b"two"
    assert get(a, key)[2] == b"two", "as all nodes have from then on"
    for directive in ("no-cache", "max-age=0", "min-fresh=61"):
        _, headers, _ = get(b, key, Cache_Control=directive)
        assert headers["Coherenced-Source"] == "origin"
        assert headers["Cache-Status"] == "coherenced; fwd=miss; stored"
    origin.status = 500
    for directive in ("no-cache", "max-age=0", "min-fresh=61"):
        status, _, body = get(b, key, Cache_Control=directive)
        assert status == 502 and b"urn:coherenced:problem:origin" in body
    assert get(b, key, Cache_Control="only-if-cached")[2] == b"two"
    assert get(b, key, Cache_Control="only-if-cached, max-age=0")[0] == 504
    # A key whose home is Redis: it is proved there, and asked nowhere else.
    a.command("SET", "at-home", "v")
    assert get(b, "at-home", Cache_Control="only-if-cached")[0] == 504
    for directive in ("no-cache", "max-age=0", "min-fresh=5", "max-stale"):
        assert get(b, "at-home", Cache_Control=directive)[2] == b"v"
    assert get(b, "at-home", Cache_Control="only-if-cached")[2] == b"v"


def test_what_is_past_the_time_its_loader_gave_it_is_told_stale_everywhere(
    cluster: Cluster,
) -> None:
    a, b, _ = cluster.daemons
    how = {"ttl": 0.3, "stale_if_error": 60}
    with Client(a.socket) as one, Client(b.socket) as two:
        one.get_or_load("aside:grace", lambda: b"v", **how)
        for client in (one, two):
            assert not client.get_entry("aside:grace").stale  # and kept in the process
        assert get(b, "aside:grace")[1]["Coherenced-Stale"] == "0"
        time.sleep(0.35)
        for client in (one, two, one, two):
            assert client.get_entry("aside:grace").stale
    for daemon in (a, b):
        headers = get(daemon, "aside:grace")[1]
        assert headers["Coherenced-Stale"] == "1"
        assert headers["Cache-Status"] == 'coherenced; hit; ttl=-1; detail="stale"'
        assert daemon.command("COH.GET", "aside:grace", "META")[4] == 1


def test_the_origin_says_how_stale_it_may_be_answered(
    cluster: Cluster, origin: OriginServer
) -> None:
    """Where nothing of the kind is configured: no node's L1 takes it for fresh, either."""
    a, b, _ = cluster.daemons
    origin.rows["plain-said"] = b"one"
    origin.headers |= {"Cache-Control": "max-age=1, stale-while-revalidate=60"}
    assert get(a, "plain:said")[1]["Coherenced-Source"] == "origin"
    assert get(b, "plain:said")[2] == b"one"
    time.sleep(1.05)
    origin.delay_s = 0.3
    for daemon in (a, b):
        assert get(daemon, "plain:said")[1]["Coherenced-Stale"] == "1"
    wait_until(lambda: get(b, "plain:said")[1]["Coherenced-Stale"] == "0", 10.0)


def test_a_key_with_an_origin_has_no_other_loader(cluster: Cluster, origin: OriginServer) -> None:
    def never() -> bytes:
        raise AssertionError("called although the key has an origin")

    origin.rows["plain-home"] = b"Ada"
    with Client(cluster.daemons[0].socket) as client:
        for how in ({}, {"stale_if_error": 60}, {"negative_ttl": 5}):
            assert client.get_or_load("plain:home", never, **how) == b"Ada"
            assert client.get_or_load("plain:homeless", never, **how) is None
        client.invalidate(["plain:home"])
        assert client.get_or_load("plain:home", never) == b"Ada"
    origin.status = 500
    with (
        Client(cluster.daemons[0].socket) as client,
        pytest.raises(CommandError, match="ORIGIN the origin answered 500"),
    ):
        client.get_or_load("plain:broken", never)
    assert cluster.daemons[0].command("COH.LEASE", "plain:home")[1] == b"Ada"


def race(
    cluster: Cluster,
    origin: OriginServer,
    over: Callable[[int, Counter[bytes], list[Any]], bool],
    *,
    patience_s: float = 30.0,
    is_disturbed: bool = False,
) -> None:
    """The race that leases are for: what was read from the origin before an update arrives at the
    cache after the invalidation. The origin is slow, so most loads are overtaken by one. It goes
    on until it is `over`, given the updates, the reads by source, and the older reads.

    `is_disturbed`: errors may come, older values still may not."""
    acknowledged = written = 0
    wrong: list[Any] = []
    served = Counter[bytes]()
    stop = threading.Event()
    origin.rows["plain-race"] = b"0"
    origin.delay_s = 0.004

    def reader(daemon: Daemon) -> None:
        while not stop.is_set():
            least = acknowledged
            answer = daemon.command("COH.GET", "plain:race", "META", timeout_s=30.0)
            if not isinstance(answer, list):
                if is_disturbed:
                    continue
                wrong.append((daemon.node, answer))
                return
            found, _, source, _, stale = answer
            served[source] += 1
            if int(found) < least or stale:
                wrong.append((daemon.node, found, least, source))

    readers = [threading.Thread(target=reader, args=(d,)) for d in cluster.daemons * 2]
    for thread in readers:
        thread.start()
    patience = time.monotonic() + patience_s
    while not over(acknowledged, served, wrong) and time.monotonic() < patience:
        written += 1
        origin.rows["plain-race"] = b"%d" % written
        update = ("COH.INVALIDATE", "KEYS", "1", "plain:race", "ACK", "all")
        answer = cluster.daemons[0].command(*update, timeout_s=30.0)
        if isinstance(answer, list):
            acknowledged = written
        elif not is_disturbed:
            wrong.append(("the writer", answer))
        time.sleep(0.003)
    stop.set()
    for thread in readers:
        thread.join(20.0)
    assert wrong == []
    assert over(acknowledged, served, wrong), (acknowledged, served)


def test_no_reader_sees_anything_older_than_an_acknowledged_update(
    cluster: Cluster, origin: OriginServer
) -> None:
    race(
        cluster,
        origin,
        lambda updates, served, wrong: (
            bool(wrong)
            or (updates > 200 and served[b"origin"] > 100 and served[b"l1"] + served[b"l2"] > 100)
        ),
    )


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_nor_while_nodes_stand_still_for_a_while(cluster: Cluster, origin: OriginServer) -> None:
    stop = threading.Event()

    def disturb() -> None:
        chance = random.Random("stand still")
        while not stop.is_set():
            daemon = chance.choice(cluster.daemons)
            daemon.pause()
            time.sleep(chance.choice((0.05, 0.3, 1.2, 2.5)))
            daemon.resume()
            stop.wait(chance.uniform(0.0, 0.5))

    disturber = threading.Thread(target=disturb)
    disturber.start()
    until = time.monotonic() + 60.0
    try:
        race(
            cluster,
            origin,
            lambda updates, _served, wrong: bool(wrong) or time.monotonic() > until,
            patience_s=90.0,
            is_disturbed=True,
        )
    finally:
        stop.set()
        disturber.join(20.0)


def test_without_the_law_of_leases_the_same_readers_see_older_values(origin: OriginServer) -> None:
    settings = namespace(origin, "plain", ttl_ms=60_000)
    with (
        Cluster(1, settings=settings, without=("lease_voided",)) as lawless,
        pytest.raises(AssertionError, match="Left contains"),
    ):
        race(lawless, origin, lambda _updates, _served, wrong: bool(wrong))


def test_not_there_is_asked_once_by_all_for_a_while(cluster: Cluster, origin: OriginServer) -> None:
    for daemon in cluster.daemons * 2:
        assert daemon.command("GET", "plain:none") is None
        assert get(daemon, "plain:none")[0] == 404
    assert origin.count(name="plain-none") == 1
    origin.rows["plain-none"] = b"born"
    wait_until(lambda: cluster.daemons[0].command("GET", "plain:none") == b"born", 10.0)
    origin.rows["plain-told"] = b"x"
    assert cluster.daemons[0].command("MGET", "plain:told", "other", "plain:none") == [
        b"x", None, b"born",
    ]  # fmt: skip


def test_stale_is_answered_marked_while_it_is_loaded_anew(
    cluster: Cluster, origin: OriginServer
) -> None:
    daemon = cluster.daemons[0]
    origin.rows["swr-1"], origin.etags = b"one", True
    assert get(daemon, "swr:1")[2] == b"one"
    time.sleep(0.35)
    status, headers, body = get(daemon, "swr:1")
    assert (status, body, headers["Coherenced-Stale"]) == (200, b"one", "1")
    assert headers["Cache-Status"] == 'coherenced; hit; ttl=-1; detail="stale"'
    # The same value again: a 304 gave it new time.
    wait_until(lambda: get(daemon, "swr:1")[1]["Coherenced-Stale"] == "0", 10.0)
    assert daemon.stats()["origin"]["revalidated"] >= 1
    assert origin.requests[-1].headers["If-None-Match"]


def test_a_failing_origin_is_bridged_left_alone_and_tried_again(
    cluster: Cluster, origin: OriginServer
) -> None:
    daemon = cluster.daemons[1]
    origin.rows |= {f"sie-{i}": b"one" for i in range(9)}
    for i in range(9):
        assert daemon.command("GET", f"sie:{i}") == b"one"
    origin.status = 500
    time.sleep(0.35)
    for i in range(9):
        meta = daemon.command("COH.GET", f"sie:{i}", "META")
        assert (meta[0], meta[4]) == (b"one", 1)
    assert daemon.stats()["origin"]["breakers"]["sie"] == "open"
    assert origin.count(name="sie-8") == 1, "the ninth did not ask any more"
    error = str(daemon.command("GET", "sie:unknown"))
    assert error.startswith("ORIGIN ") and "failed too often" in error
    status, _, body = get(daemon, "sie:unknown2")
    assert status == 502 and b"urn:coherenced:problem:origin" in body
    origin.status = 0
    wait_until(lambda: daemon.command("COH.GET", "sie:8", "META")[4] == 0, 20.0)
    assert daemon.stats()["origin"]["breakers"]["sie"] == "closed"
    metrics = daemon.http("/metrics")[1].decode()
    assert 'coherenced_origin_breaker_open{namespace="sie"} 0.0' in metrics


def test_an_origin_that_is_down_is_bridged_and_found_again(
    cluster: Cluster, origin: OriginServer
) -> None:
    daemon = cluster.daemons[0]
    origin.rows["sie-down"] = b"one"
    assert daemon.command("GET", "sie:down") == b"one"
    origin.stop()
    try:
        time.sleep(0.35)
        meta = daemon.command("COH.GET", "sie:down", "META")
        assert (meta[0], meta[4]) == (b"one", 1)
        assert "cannot be reached" in str(daemon.command("GET", "sie:nothing"))
        assert daemon.command("SET", "unrelated", "x") == b"OK"
    finally:
        origin.start()
    origin.rows["sie-down"] = b"two"
    wait_until(lambda: daemon.command("GET", "sie:down") == b"two", 20.0)


def test_past_the_soft_timeout_stale_and_past_the_hard_one_an_error(
    cluster: Cluster, origin: OriginServer
) -> None:
    daemon = cluster.daemons[2]
    origin.rows["sie-slow"] = b"one"
    assert daemon.command("GET", "sie:slow") == b"one"
    time.sleep(0.35)
    origin.rows["sie-slow"], origin.delay_s = b"two", 0.4
    began = time.monotonic()
    meta = daemon.command("COH.GET", "sie:slow", "META")
    took_s = time.monotonic() - began
    assert (meta[0], meta[4]) == (b"one", 1) and 0.04 < took_s < 0.39
    # The late result is kept: the next answer is it, and fresh or marked.
    wait_until(lambda: daemon.command("GET", "sie:slow") == b"two", 20.0)
    assert daemon.stats()["origin"]["late"] >= 1
    origin.delay_s = 3.0
    error = str(daemon.command("GET", "sie:never"))
    assert error.startswith("ORIGIN ") and "within 800 ms" in error


def test_write_through_is_seen_everywhere_and_refused_as_a_whole(
    cluster: Cluster, origin: OriginServer
) -> None:
    a, b, _ = cluster.daemons
    assert a.command("SET", "wt:1", "one") == b"OK"
    assert origin.rows["wt-1"] == b"one" and b.command("GET", "wt:1") == b"one"
    status, headers, _ = ask(b, "PUT", "wt:1", b"{}", Content_Type="application/json")
    assert status == 200 and headers["ETag"]
    assert origin.requests[-1].headers["Content-Type"] == "application/json"
    assert get(a, "wt:1")[1]["Content-Type"] == "application/json"
    origin.status = 409
    assert str(a.command("SET", "wt:1", "no")) == "ORIGIN the origin answered 409"
    assert ask(a, "PUT", "wt:1", b"no")[0] == 502
    assert str(a.command("INCR", "wt:1")).startswith("ORIGIN refused: INCR cannot")
    assert ask(a, "PUT", "wt:1", b"no", If_Match="*")[0] == 422
    assert b.command("GET", "wt:1") == b"{}"
    origin.status = 0
    assert a.command("DEL", "wt:1") == 1 and "wt-1" not in origin.rows
    assert b.command("GET", "wt:1") is None
    assert origin.count("GET", "wt-1") == 1, "only to learn that it is gone"
