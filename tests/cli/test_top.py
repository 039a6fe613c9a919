from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from coherenced.cli.cluster import Daemon
from coherenced.cli.top import FADE, MOST_COUNTED, Busiest
from tests.cli.conftest import Done

Call = Callable[..., Done]


def busy(a: Daemon, stop: threading.Event) -> None:
    while not stop.wait(0.005):
        a.client.set("top:hot", b"v")
        a.client.get("top:hot")


def test_one_page_on_a_pipe(coherenced: Call, a: Daemon) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=busy, args=(a, stop))
    thread.start()
    try:
        text = coherenced("top", "--socket", a.socket, "--every", "500ms", "--count", "3").text
    finally:
        stop.set()
        thread.join()
    assert text.startswith("a: ready")
    assert "busiest invalidations" in text
    assert "top:hot" in text
    assert "b  live" in text
    assert "\x1b" not in text


def test_json(coherenced: Call, a: Daemon) -> None:
    told = coherenced("top", "--socket", a.socket, "--every", "100ms", "--json").document
    assert set(told) == {"rates", "busiest", "stats", "nodes"}
    assert told["rates"]["L1 hits"] >= 0
    assert [node["name"] for node in told["nodes"]["nodes"]] == ["a", "b"]


def test_counts_fade_and_are_bounded() -> None:
    busiest = Busiest("")
    busiest.add({"all": True, "keys": ["k"] * 10, "tags": ["t"], "prefixes": [{"base64": "AA=="}]})
    first = dict(busiest.now())
    assert set(first) == {"k", "tag t", "prefix \0", "everything"}
    assert dict(busiest.now())["k"] == first["k"] * FADE
    for number in range(2 * MOST_COUNTED):
        busiest.add({"keys": [f"{number}"]})
    busiest.now()
    assert len(busiest._counts) <= MOST_COUNTED


def test_no_daemon(coherenced: Call, tmp_path: Path) -> None:
    assert coherenced("top", "--socket", tmp_path / "none").code == 4
