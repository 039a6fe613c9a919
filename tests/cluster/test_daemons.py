"""Process control of the daemons: what the other cluster tests stand on."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.cluster.daemons import Cluster, Daemon, DaemonError
from tests.servers import wait_until


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(2) as cluster:
        yield cluster


def test_a_started_daemon_is_ready_on_both_sockets(cluster: Cluster) -> None:
    for daemon in cluster.daemons:
        assert daemon.command("PING") == b"PONG"
        assert daemon.http("/readyz")[0] == 200
        assert daemon.stats()["node"]["name"] == daemon.node
    one, two = cluster.daemons
    assert one.command("SET", "a", "1") == b"OK"
    assert two.command("GET", "a") == b"1"


def test_each_daemon_goes_through_its_own_proxy_and_names_its_connections(
    cluster: Cluster,
) -> None:
    for node, proxy in cluster.proxies.items():
        named = {(c.node, c.role) for c in proxy.connections()}
        assert named >= {(node, "bus"), (node, "control"), (node, "writes"), (node, "reads")}


def test_a_paused_daemon_answers_when_it_is_resumed(cluster: Cluster) -> None:
    daemon = cluster.daemons[0]
    daemon.pause()
    with pytest.raises(TimeoutError):
        daemon.command("PING", timeout_s=0.2)
    daemon.resume()
    assert daemon.command("PING") == b"PONG"


def test_a_killed_daemon_starts_again_in_its_place(cluster: Cluster) -> None:
    daemon = cluster.daemons[1]
    daemon.kill()
    assert not daemon.running
    with pytest.raises(OSError):
        daemon.command("PING")
    daemon.start()
    assert daemon.command("GET", "nothing") is None


def test_heal_brings_everything_back(cluster: Cluster) -> None:
    one, two = cluster.daemons
    one.pause()
    two.kill()
    cluster.proxies["n1"].black_hole()
    cluster.proxies["n2"].refuse()
    cluster.heal()
    assert one.command("SET", "b", "2") == b"OK"
    assert two.command("GET", "b") == b"2"


def test_connections_that_are_held_open_are_a_leak(cluster: Cluster) -> None:
    daemon = cluster.daemons[0]
    daemon.check_leaks()
    before = daemon.fds()
    held = []
    for _ in range(60):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(daemon.socket))
        held.append(connection)
    wait_until(lambda: daemon.fds() >= before + 60)
    with pytest.raises(DaemonError, match="file descriptors"):
        daemon.check_leaks(timeout_s=0.1)
    for connection in held:
        connection.close()
    daemon.check_leaks()


def test_a_traceback_in_the_log_is_not_overlooked() -> None:
    daemon = Daemon("n1", "redis://127.0.0.1:1")
    daemon.log.write_text("fine\nTraceback (most recent call last):\n  oh no\n")
    with pytest.raises(DaemonError, match="oh no"):
        daemon.check_log()
    daemon.remove()
    assert not daemon.directory.exists()


def test_a_daemon_that_cannot_start_says_why() -> None:
    daemon = Daemon("n1", "redis://127.0.0.1:1", {"no.such_key": 1})
    with pytest.raises(DaemonError, match=r"ended with 2 before it was ready(.|\n)*such"):
        daemon.start()
    daemon.remove()
