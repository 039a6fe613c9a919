from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from coherenced.cli.cluster import Daemon
from coherenced.cli.nodes import sentence
from tests.cli.conftest import Done
from tests.client.fake_daemon import FakeDaemon, bulk

Call = Callable[..., Done]


def test_a_table(coherenced: Call, a: Daemon) -> None:
    done = coherenced("nodes", "--socket", a.socket)
    assert done.code == 0
    columns, first, second = done.text.splitlines()
    assert columns.split() == ["node", "state", "bound", "version", "incarnation"]
    assert first.split()[:7] == ["a", "(this", "node)", "live", "1.0", "s", "0.1.0"]
    assert second.split()[:2] == ["b", "live"]


def test_json_and_events(coherenced: Call, a: Daemon) -> None:
    told = coherenced("nodes", "--socket", a.socket, "--json").document
    assert [node["name"] for node in told["nodes"]] == ["a", "b"]
    assert "events" not in told
    told = coherenced("nodes", "--socket", a.socket, "--events", "--json").document
    assert "bus_connected" in [event["event"] for event in told["events"]]
    text = coherenced("nodes", "--socket", a.socket, "--events").text
    assert "connected to the invalidation bus (lane 0)" in text


def test_a_silent_node_and_no_events(coherenced: Call, tmp_path: Path) -> None:
    told = bulk('{"self": "a", "nodes": [{"name": "b", "live": false}], "events": []}')
    with FakeDaemon(tmp_path / "s", lambda command: told) as daemon:
        text = coherenced("nodes", "--socket", daemon.path, "--events").text
    assert "SILENT" in text
    assert "no events yet" in text


def test_another_form(coherenced: Call, tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s", lambda command: bulk("{}")) as daemon:
        done = coherenced("nodes", "--socket", daemon.path)
    assert done.code == 1
    assert "another form" in done.err


def test_an_event_is_a_sentence() -> None:
    event = {
        "at": "2026-11-26T12:00:00",
        "event": "reloaded",
        "text": "configuration reloaded",
        "changed": ["log.level", {"base64": "/w=="}],
        "needs_restart": [],
        "node": "a",
    }
    assert sentence(event) == r"configuration reloaded (changed log.level, \xff; node a)"
    assert sentence({"event": "x", "needs_restart": []}) == "x"
