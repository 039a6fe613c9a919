from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coherenced.cli import stats
from coherenced.cli.cluster import Daemon
from coherenced.observe.stats import NodeStats, report
from tests.cli.conftest import Done
from tests.client.fake_daemon import FakeDaemon, bulk

Call = Callable[..., Done]


def test_tiers_and_facts(coherenced: Call, a: Daemon) -> None:
    a.client.set("stats:1", 1)
    a.client.get("stats:1")
    done = coherenced("stats", "--socket", a.socket)
    assert done.code == 0
    lines = done.text.splitlines()
    assert lines[0].startswith("a: ready, up ")
    assert lines[0].endswith("2 nodes live, 0 silent")
    assert lines[1].split() == ["tier", "hits", "misses", "hit", "rate", "average", "p50", "p99"]
    assert [line.split()[0] for line in lines[2:5]] == ["l1", "l2", "all"]
    for what in ("memory", "left L1", "writes", "acknowledgements", "gaps", "proved current"):
        assert any(line.startswith(what) for line in lines)
    assert "None" not in done.text


def test_json_is_what_the_daemon_says(coherenced: Call, a: Daemon) -> None:
    told = coherenced("stats", "--socket", a.socket, "--json").document
    assert told["node"]["name"] == "a"
    assert told["derived"]["hit_rate"].keys() == {"l1", "l2", "origin", "overall"}


def test_a_daemon_that_has_done_nothing_yet() -> None:
    told = report(NodeStats())
    assert stats.tiers(told) == [
        ["l1", "0", "0", "-", "-", "-", "-"],
        ["l2", "0", "0", "-", "-", "-", "-"],
        ["all", "", "", "-", "", "", ""],
    ]
    assert dict(stats.facts(told))["proved current"] == "- ago"


def test_figures_that_are_not_told_are_dashes(coherenced: Call, tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s", lambda command: bulk("{}")) as daemon:
        done = coherenced("stats", "--socket", daemon.path)
    assert done.code == 0
    assert "- committed, - refused" in done.text


def test_linearizable_writes_are_shown_where_there_are_any() -> None:
    told = report(NodeStats())
    assert "two phases" not in dict(stats.facts(told))
    told["writes"] |= {"linearizable": 2000, "one_phase_refused": 1}
    shown = dict(stats.facts(told))["two phases"]
    assert shown == "2,000 linearizable, 0 contended; 1 batch refused in one phase"


def test_what_waits_for_redis_is_shown_and_that_it_is_away() -> None:
    told = report(NodeStats())
    told["bus"]["upstream_up"] = True
    assert "journal" not in dict(stats.facts(told))
    assert stats.headline(told).endswith("0 silent")
    told["bus"]["upstream_up"] = False
    told["spool"] = {"waiting": 2, "bytes": 40, "max_bytes": 16 << 20, "sent": 1, "refused": 0}
    assert dict(stats.facts(told))["journal"] == ("2 waiting (40 B of 16.0 MiB), 1 sent, 0 refused")
    assert stats.headline(told).endswith("; REDIS OUT OF REACH")


def test_clients_that_were_turned_away_are_shown() -> None:
    told = report(NodeStats())
    assert dict(stats.facts(told))["connections"] == "0"
    told["fronts"] = {"resp": {"rejected": 1000}, "http": {"rejected": 1}}
    assert dict(stats.facts(told))["connections"] == "0, 1,001 turned away"
    told["fronts"]["resp"]["overflows"] = 2
    assert dict(stats.facts(told))["connections"].endswith(
        "turned away, 2 cut off since they did not read"
    )


def test_the_origin_is_shown_once_it_was_asked() -> None:
    told = report(NodeStats())
    told["origin"]["hits"] = 3
    assert [row[0] for row in stats.tiers(told)] == ["l1", "l2", "origin", "all"]


@pytest.mark.parametrize("command", [["stats"], ["nodes", "--events"], ["top", "--count", "1"]])
def test_in_forty_columns_nothing_is_cut_off(
    command: list[str], coherenced: Call, a: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((40, 100)))
    done = coherenced("--socket", a.socket, *command)
    text = re.sub(r"\x1b\[.", "", done.text)
    assert done.code == 0
    assert max(map(len, text.split("\n"))) <= 40
    assert "…" not in text
    if command == ["stats"]:
        words = " ".join(text.split())
        assert re.search(r"l2 hits [\d,]+, misses [\d,]+, hit rate", words)
        assert re.search(r"evictions?, [\d,]+ expirations?", words)


def test_watching_on_a_pipe_is_a_line_each_time(a: Daemon) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "coherenced", "--socket", a.socket, "stats", "--watch", "20ms"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.kill()
    assert "L1 hits " in lines[0]
    assert "/s" not in lines[0]
    assert all("L1 hits " in line and "/s" in line for line in lines[1:])


def test_watching_on_a_terminal_is_a_page_in_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    told = report(NodeStats())
    stats._refresh(told, told, 1.0)
    page = capsys.readouterr().out
    assert page.startswith("\x1b[H")
    assert page.endswith("\x1b[J\n")
    assert "writes 0/s" in page
