from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from coherenced.cli import http, watch
from coherenced.cli.cluster import Daemon
from coherenced.cli.http import Event
from coherenced.errors import DaemonUnreachable
from tests.servers import wait_until


@contextmanager
def watching(daemon: Daemon, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`coherenced watch`, from when it listens."""
    before = daemon.stats()["bus"]["listeners"]
    with subprocess.Popen(
        [sys.executable, "-m", "coherenced", "--socket", daemon.socket, "watch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(lambda: daemon.stats()["bus"]["listeners"] > before, what="it listens")
            yield process
        finally:
            process.kill()


def test_what_one_node_does_is_seen_on_the_other(a: Daemon, b: Daemon) -> None:
    with watching(b, "--count", "3") as process:
        a.client.set("watch:1", 1)
        a.client.invalidate(["watch:\x1b"], tags=["t"], prefixes=["p:"])
        a.client.invalidate(everything=True)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert err == ""
    write, invalidation, everything = (line.split()[2:] for line in out.splitlines())
    assert write == ["write", "watch:1"]
    assert invalidation == ["invalidate", r"watch:\x1b", "tag", "t", "prefix", "p:"]
    assert everything == ["invalidate", "everything"]


def test_what_happens_to_the_node_is_shown_when_asked_for() -> None:
    told = [
        Event("", "node", {"at": "now", "event": "gap_found", "text": "invalidations are missing"}),
        Event("", "node", {"at": "now", "event": "node_left", "text": "a node left", "name": "b"}),
        Event("v:1", "invalidation", {"version": "v:1", "op": "write", "keys": ["k"]}),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "listen", lambda *_: iter(told))
        plain = watch._records("x", "")
        assert next(plain)["version"] == "v:1", "not unless it was asked for"
        both = watch._records("x", "", True)
        assert [next(both).get("event") for _ in range(3)] == ["gap_found", "node_left", None]


def test_an_event_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    event = {"at": "now", "event": "node_left", "text": "a node left", "name": "b\x1b"}
    watch._show(event, as_json=False)
    assert capsys.readouterr().out.split("  ")[1:] == ["node", "a node left (name b\\x1b)\n"]
    watch._show(event, as_json=True)
    assert json.loads(capsys.readouterr().out) == event


def test_json_and_going_on_after_a_version(a: Daemon, b: Daemon) -> None:
    first = a.client.set("watch:2", 1)
    second = a.client.set("watch:3", 1)
    wait_until(lambda: b.stats()["lanes"][0]["applied"] >= second.seq, what="b has both")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "coherenced", "--socket", b.socket),
            *("watch", "--json", "--count", "1", "--after", first),
        ],
        capture_output=True,
        timeout=20,
        check=True,
    )
    told = json.loads(done.stdout)
    assert (told["version"], told["keys"], told["op"]) == (second, ["watch:3"], "write")


def test_a_stream_that_ends_is_taken_up_where_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_after: list[str] = []

    def listen(path: str, target: str, after: str) -> Iterator[Event]:
        asked_after.append(after)
        match len(asked_after):
            case 1:
                yield Event("", "open", None)
                yield Event("e:1", "invalidation", {"version": "e:1"})
            case 2:
                raise DaemonUnreachable("gone for a moment")
            case 3:
                yield Event("", "open", None)
                yield Event("", "reset", {})
                yield Event("e:9", "invalidation", {"version": "e:9"})
                yield Event("", "overflow", {})
            case _:
                yield Event("e:10", "invalidation", {"version": "e:10"})

    monkeypatch.setattr(http, "listen", listen)
    monkeypatch.setattr(watch, "RETRY_S", 0.0)
    records = watch._records("path", "")
    seen = [next(records)["version"] for _ in range(3)]
    assert seen == ["e:1", "e:9", "e:10"]
    assert asked_after == ["", "e:1", "e:1", "e:9"]
    said = capsys.readouterr().err.splitlines()
    assert ["gone for a moment" in said[0], "some are missing" in said[1]] == [True, True]
    assert "too slow" in said[2]


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        ({"keys": ["a"] * 12}, " ".join(["a"] * 10) + " (and 2 more)"),
        ({"tags": [{"base64": "/w=="}]}, r"tag \xff"),
        ({}, ""),
    ],
)
def test_lines(record: dict[str, Any], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    watch._show({"version": "e:1", "op": "delete", **record}, as_json=False)
    assert capsys.readouterr().out.rstrip("\n").partition("delete     ")[2] == shown
