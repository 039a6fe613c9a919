"""SIGHUP: what the log says has changed is in force, for who is connected too, and nothing else."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.cluster.daemons import Daemon, UnixHTTPConnection
from tests.servers import Server, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("valkey") as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "coherenced.toml"


@pytest.fixture
def daemon(server: Server, file: Path) -> Iterator[Daemon]:
    file.write_text('[namespace.u]\nmatch = "u:*"\nack = "all"\nmax_staleness_ms = 500\n')
    daemon = Daemon("n", server.unix_url, environment={"COHERENCED_CONFIG": str(file)}).start()
    try:
        yield daemon
        daemon.stop()
    finally:
        daemon.remove()


def reload(daemon: Daemon) -> dict[str, Any]:
    """SIGHUP; what the daemon says of it."""
    before = len(told(daemon))
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: len(told(daemon)) > before, 20, "it has reloaded")
    return told(daemon)[-1]


def told(daemon: Daemon) -> list[dict[str, Any]]:
    lines = daemon.log_text().splitlines(keepends=True)
    events = [json.loads(line) for line in lines if '"reloaded"' in line and line.endswith("\n")]
    return [event for event in events if event.get("name") == "reloaded"]


def settings(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.http("/v1/config")[1])
    return found


def test_limits_hold_from_now_on_for_those_who_are_connected_too(
    daemon: Daemon, file: Path
) -> None:
    with (
        redis.Redis(unix_socket_path=str(daemon.socket), retry=None, socket_timeout=20) as c,
        contextlib.closing(UnixHTTPConnection(daemon.http_socket, 20)) as h,
    ):

        def put(key: str, value: str, tags: str = "") -> int:
            h.request("PUT", f"/v1/keys/{key}", value, {"Coherenced-Tags": tags} if tags else {})
            answer = h.getresponse()
            answer.read()
            return answer.status

        # Each is set first, so that a later GET of it could be a hit.
        assert c.set("k" * 11, "v") and c.get("k" * 11) == b"v"
        assert put("k" * 11, "v", "a,b") == 200
        file.write_text(
            "[limits]\nmax_key_bytes = 10\nmax_value_bytes = 100\nmax_tags = 1\n"
            "max_transaction_commands = 2\nmax_waiting_requests = 1\n"
        )
        assert "limits.max_key_bytes" in reload(daemon)["changed"]
        for command in (("GET", "k" * 11), ("SET", "k" * 11, "v"), ("COH.GET", "k" * 11)):
            with pytest.raises(redis.ResponseError, match=r"longer than limits\.max_key_bytes"):
                c.execute_command(*command)
        with pytest.raises(redis.ResponseError, match=r"limits\.max_tags"):
            c.execute_command("COH.SET", "k", "v", "TAGS", 2, "a", "b")
        assert put("k" * 11, "v") == 413
        assert put("k", "v" * 101) == 413
        assert put("k", "v", "a,b") == 413
        h.request("GET", "/v1/keys/" + "k" * 11)
        assert h.getresponse().read().find(b"at most 10 bytes") > 0
        queued = c.pipeline()
        queued.get("a").get("b").get("c")
        with pytest.raises(redis.ResponseError, match=r"limits\.max_transaction_commands"):
            queued.execute()
        many = c.pipeline(transaction=False)
        for number in range(50):
            many.incr(f"n{number}")
        outcomes = many.execute(raise_on_error=False)
        refused = [str(o) for o in outcomes if isinstance(o, redis.ResponseError)]
        assert refused and all("limits.max_waiting_requests" in text for text in refused)
        with pytest.raises(redis.RedisError, match=r"limits\.max_value_bytes"):
            c.set("k", "v" * 101)


def test_a_larger_bound_waits_for_a_restart_and_holds_nothing_else_up(
    daemon: Daemon, file: Path
) -> None:
    text = '[namespace.u]\nmatch = "u:*"\nack = "none"\nmax_staleness_ms = 7000\n'
    file.write_text(text + "[l1]\nmax_age_ms = 1234\n")
    for changed in (["l1.max_age_ms", "namespace.u.ack"], []):
        event = reload(daemon)
        assert event["changed"] == changed
        assert event["needs_restart"] == ["namespace.u.max_staleness_ms"]
        in_force = settings(daemon)
        assert in_force["namespace"]["u"]["ack"] == "none"
        assert in_force["namespace"]["u"]["max_staleness_ms"] == 500
        assert in_force["l1"]["max_age_ms"] == 1234
    explained = json.loads(daemon.http("/v1/explain/u:1")[1])
    assert explained["max_staleness_ms"] == 500


def test_the_first_journal_waits_for_a_restart(daemon: Daemon, file: Path) -> None:
    file.write_text('[coherence]\non_unavailable = "spool"\n')
    for _ in range(2):
        assert reload(daemon)["needs_restart"] == ["on_unavailable = spool (the first one)"]


def test_what_is_wrong_is_logged_and_what_is_in_force_stays(daemon: Daemon, file: Path) -> None:
    before = settings(daemon)
    file.write_text('[namespace.u]\nmatch = "u:*"\n[namespace.v]\nmatch = "u:*"\nack = "none"\n')
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: "not reloaded: the configuration is wrong" in daemon.log_text(), 20)
    assert "namespace.u and namespace.v both match" in daemon.log_text()
    assert settings(daemon) == before
