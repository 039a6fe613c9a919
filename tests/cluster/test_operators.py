"""What an operator must see: each kind of trouble is one log line, one entry of
`coherenced nodes --events`, one event of the stream, and a metric."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from coherenced.cli import http
from coherenced.lab.proxy import role
from coherenced.observe.events import WORDS
from tests.cluster.daemons import Cluster, Daemon
from tests.cluster.nemesis import META
from tests.servers import wait_until

SETTINGS: Final = {
    "coherence.max_staleness_ms": 400,
    "coherence.on_unavailable": "spool",
    "redis.command_timeout_ms": 400,
    "redis.reconnect_max_ms": 200,
}


class Heard:
    """The stream of one daemon, as long as the test lives."""

    def __init__(self, daemon: Daemon) -> None:
        self.events: list[http.Event] = []
        self._path = str(daemon.http_socket)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for event in http.listen(self._path, "/v1/invalidations"):
            self.events.append(event)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(2, settings=SETTINGS, durable=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def heard(cluster: Cluster) -> Heard:
    heard = Heard(cluster.daemons[0])
    wait_until(lambda: heard.events)
    return heard


def gap(cluster: Cluster) -> None:
    with cluster.proxies["n1"].half_open(role("bus")):
        cluster.daemons[1].command("SET", "seen:a", "1")
        settled(cluster)


def lost_bus(cluster: Cluster) -> None:
    cluster.primary.command("CLIENT", "KILL", "TYPE", "pubsub")


def new_epoch(cluster: Cluster) -> None:
    cluster.primary.command("DEL", META)


def other_server(cluster: Cluster) -> None:
    told = listed(cluster.daemons[0], "redis_unreachable")
    cluster.primary.kill()
    # One that is back before a probe has missed it was never away.
    wait_until(lambda: listed(cluster.daemons[0], "redis_unreachable") > told, 20)
    cluster.primary.start()


def fencing(cluster: Cluster) -> None:
    one, two = cluster.daemons
    settled(cluster)
    two.pause()
    try:
        one.command("COH.SET", "seen:f", "1", "ACK", "all", "TIMEOUT", "5000")
    finally:
        two.resume()


def applied_unheard(cluster: Cluster) -> None:
    settled(cluster)
    with cluster.proxies["n1"].lose_replies(role("writes")):
        assert cluster.daemons[0].command("SET", "seen:r", "1") == b"OK"


def indeterminate(cluster: Cluster) -> None:
    settled(cluster)
    with cluster.proxies["n1"].half_open(role("writes")):
        writer = threading.Thread(
            target=cluster.daemons[0].command, args=("INCR", "seen:i"), kwargs={"timeout_s": 20.0}
        )
        writer.start()
        wait_until(lambda: cluster.primary.command("GET", "seen:i") == b"1")
        cluster.primary.command("DEL", META)
        writer.join(20)


def spooled(cluster: Cluster) -> None:
    proxy = cluster.proxies["n1"]
    proxy.refuse()
    proxy.cut()
    reply: Any = cluster.daemons[0].command("COH.INVALIDATE", "KEYS", "1", "seen:s")
    assert reply[2] == [b"(spooled)"]
    assert cluster.daemons[0].stats()["spool"]["waiting"] == 1
    proxy.accept()
    wait_until(lambda: cluster.daemons[0].stats()["spool"]["waiting"] == 0)


def settled(cluster: Cluster) -> None:
    """n1 answers what must be current, and it writes again."""

    def can_write() -> bool:
        reply = cluster.daemons[0].command("SET", "seen:settled", "1")
        return bool(reply == b"OK")

    wait_until(can_write)
    proved = ("COH.GET", "seen:settled", "MAXSTALE", "0")
    wait_until(lambda: cluster.daemons[0].command(*proved) == b"1")  # its other connections, too


TROUBLES: Final[dict[str, tuple[Callable[[Cluster], None], tuple[str, ...], str]]] = {
    "a gap and its replay": (
        gap,
        ("gap_found", "gap_repaired"),
        r'coherenced_gaps_found_total\{lane="0"\} (\S+)',
    ),
    "a lost bus": (
        lost_bus,
        ("bus_lost", "bus_connected"),
        r'coherenced_reconnects_total\{connection="bus"\} (\S+)',
    ),
    "a lineage change and a drop": (
        new_epoch,
        ("lane_dropped",),
        r'coherenced_lane_drops_total\{lane="0"\} (\S+)',
    ),
    "another server process": (
        other_server,
        ("redis_unreachable", "redis_reachable", "server_changed"),
        r'coherenced_events_total\{event="server_changed"\} (\S+)',
    ),
    "a fencing": (fencing, ("node_fenced",), r"coherenced_fenced_nodes_total (\S+)"),
    "a write whose reply was lost": (
        applied_unheard,
        ("lost_write_was_applied",),
        r"coherenced_writes_resolved_total (\S+)",
    ),
    "an indeterminate write": (
        indeterminate,
        ("write_indeterminate",),
        r'coherenced_writes_total\{outcome="indeterminate"\} (\S+)',
    ),
    "a spooled invalidation": (
        spooled,
        ("spooled", "spool_replayed"),
        r"coherenced_spool_sent_total (\S+)",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_seen(cluster: Cluster, heard: Heard, trouble: str) -> None:
    make, names, metric = TROUBLES[trouble]
    daemon = cluster.daemons[0]
    settled(cluster)
    time.sleep(0.2)  # what the trouble before it may still have to say
    metric_before, streamed = value_of(daemon, metric), len(heard.events)
    lines_before = {name: log_lines(daemon, name) for name in names}
    events_before = {name: listed(daemon, name) for name in names}
    make(cluster)
    for name in names:
        wait_until(lambda n=name: listed(daemon, n) > events_before[n], 20, name)
        told = [e.data for e in heard.events[streamed:] if e.name == "node"]
        wait_until(
            lambda n=name: any(
                e.name == "node" and e.data["event"] == n for e in heard.events[streamed:]
            ),
            20,
            f"{name} in the stream: {told}",
        )
        # One line for each event, and in the words of the table.
        more = listed(daemon, name) - events_before[name]
        wait_until(
            lambda n=name: (
                log_lines(daemon, n) - lines_before[n] == listed(daemon, n) - events_before[n]
            ),
            5,
            f"{more} lines of {name}",
        )
        assert WORDS[name].text in daemon.log_text()
        counted = rf'coherenced_events_total{{event="{name}"}} (\S+)'
        assert value_of(daemon, counted) == listed(daemon, name)
    assert value_of(daemon, metric) > metric_before


def test_the_command_shows_them(cluster: Cluster, heard: Heard) -> None:
    daemon = cluster.daemons[0]
    command = [sys.executable, "-m", "coherenced", "--socket", str(daemon.socket), "nodes"]
    done = subprocess.run([*command, "--events"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert WORDS["bus_connected"].text in done.stdout


def test_events_are_shown_though_redis_is_gone(cluster: Cluster, heard: Heard) -> None:
    daemon = cluster.daemons[0]
    settled(cluster)
    cluster.primary.kill()
    try:
        wait_until(lambda: "outdated" in json.loads(daemon.http("/v1/nodes?events=1")[1]), 20)
        told = json.loads(daemon.http("/v1/nodes?events=1")[1])
        assert [member["name"] for member in told["nodes"]] == ["n1", "n2"]
        assert any(event["event"] == "bus_lost" for event in told["events"])
        command = [sys.executable, "-m", "coherenced", "--socket", str(daemon.socket), "nodes"]
        done = subprocess.run([*command, "--events"], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0
        assert "the roster as it was last read" in done.stderr
        assert WORDS["bus_lost"].text in done.stdout
    finally:
        cluster.primary.start()


def test_who_resumes_resumes_the_records(cluster: Cluster, heard: Heard) -> None:
    """Events have no id: the last id is an invalidation's, whatever came after it."""
    settled(cluster)
    wait_until(lambda: any(e.name == "invalidation" for e in heard.events))
    assert all(bool(e.id) == (e.name == "invalidation") for e in heard.events)


def value_of(daemon: Daemon, metric: str) -> float:
    found = re.search(f"^{metric}$", daemon.http("/metrics")[1].decode(), re.M)
    return float(found[1]) if found else 0.0


def log_lines(daemon: Daemon, name: str) -> int:
    lines = [json.loads(line) for line in daemon.log_text().splitlines() if line.startswith("{")]
    return sum(line.get("name") == name for line in lines)


def listed(daemon: Daemon, name: str) -> int:
    events = json.loads(daemon.http("/v1/nodes?events=1")[1])["events"]
    return sum(event["event"] == name for event in events)
