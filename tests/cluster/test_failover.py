"""What a node notices of a failover, with a real primary and a real replica.

V2: a server that may not accept writes proves nobody current, whether it is cut off from
its replicas or was demoted. A1, A2: a promoted replica that had missed the last writes gives
their numbers out again; the chain of tags shows it, where numbers alone would not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from coherenced import Client
from coherenced.errors import NotAcknowledged
from tests.cluster.daemons import Cluster, Daemon
from tests.cluster.harm import follow
from tests.servers import Server, wait_until

BOUND_MS: Final = 400
SETTINGS: Final = {"coherence.max_staleness_ms": BOUND_MS, "redis.command_timeout_ms": 500}
META: Final = "coh:{0}:meta"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(2, settings=SETTINGS, replica=True) as cluster:
        yield cluster


def meta(daemon: Daemon, key: str) -> Any:
    """[value, version, source, …], or an error's text."""
    reply = daemon.command("COH.GET", key, "META")
    return reply if isinstance(reply, list) else str(reply)


def holds(daemon: Daemon, key: str, value: bytes) -> bool:
    answer = meta(daemon, key)
    return isinstance(answer, list) and answer[0] == value and answer[2] == b"l1"


def lane(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.stats()["lanes"][0]
    return found


def leave_behind(cluster: Cluster) -> tuple[Server, Server]:
    """n1 goes to the promoted replica, n2 stays with the old primary. -> (old, new)"""
    old, new = cluster.primary, cluster.replica
    assert new is not None
    one, two = cluster.daemons
    one.command("SET", "k", "old")
    wait_until(lambda: holds(two, "k", b"old"), 20, "n2 holds it")
    wait_until(lambda: new.command("GET", "k") == b"old", what="the replica has it")
    new.command("REPLICAOF", "NO", "ONE")
    cluster.retarget(new, ["n1"])
    cluster.primary, cluster.replica = new, old
    return old, new


@pytest.mark.timeout(60)
def test_a_writer_can_wait_for_the_replica(cluster: Cluster) -> None:
    replica = cluster.replica
    assert replica is not None
    with Client(cluster.daemons[0].socket) as cache:

        def writes(timeout: float) -> list[Callable[[], Any]]:
            given: dict[str, Any] = {"replicas": 1, "timeout": timeout}
            return [
                lambda: cache.set("replicas:a", b"1", ack="all", **given),
                lambda: cache.set_many({"replicas:a": b"2", "replicas:b": b"2"}, **given),
                lambda: cache.delete("replicas:b", **given),
                lambda: cache.invalidate(["replicas:a"], **given),
            ]

        for write in writes(20.0):
            assert write()
        # It was waited for: the replica has it now, not soon.
        assert replica.command("MGET", "replicas:a", "replicas:b") == [b"2", None]
        replica.pause()
        try:
            for write in writes(0.05):
                with pytest.raises(NotAcknowledged) as late:
                    write()
                assert late.value.missing == ("(replicas)",)
        finally:
            replica.resume()
        assert cache.set("replicas:a", b"3", replicas=1, timeout=20.0)
        assert replica.command("GET", "replicas:a") == b"3"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["cut off from its replicas", "demoted"])
def test_V2_an_old_primary_proves_nobody_current(cluster: Cluster, how: str) -> None:
    one, two = cluster.daemons
    if how.startswith("cut off"):
        cluster.primary.command("CONFIG", "SET", "min-replicas-to-write", "1")
    old, new = leave_behind(cluster)
    if how == "demoted":
        old.command("REPLICAOF", "127.0.0.1", str(new.port))
    else:
        wait_until(lambda: old.info_field("replication", "connected_slaves") == "0")
    wait_until(lambda: one.command("SET", "k", "new") == b"OK", timeout_s=20)
    assert old.command("PING") == b"PONG"
    # n2 talks to a server that answers, and yet serves nothing once its bound has passed.
    wait_until(lambda: (lane(two)["verified_age_ms"] or 0) > BOUND_MS, timeout_s=20)
    refusals = lane(two)["probe_failures"]
    assert refusals > 0
    for _ in range(3):
        answer = meta(two, "k")
        assert isinstance(answer, str), answer
        assert answer.startswith("UNAVAILABLE "), answer
    cluster.retarget(new, ["n2"])
    old.command("CONFIG", "SET", "min-replicas-to-write", "0")
    wait_until(lambda: holds(two, "k", b"new"), 20, "n2 to follow the new primary")
    follow(old, new)


@pytest.mark.timeout(60)
def test_A2_a_failover_that_gives_numbers_out_again_is_a_fork(cluster: Cluster) -> None:
    old, new = cluster.primary, cluster.replica
    assert new is not None
    one, two = cluster.daemons
    one.command("SET", "k", "kept")
    wait_until(lambda: new.command("GET", "k") == b"kept")
    wait_until(lambda: holds(two, "k", b"kept"), 20)
    shared = last_number(new)
    # The last write reaches nobody but the old primary and the nodes.
    new.command("REPLICAOF", "NO", "ONE")
    lost = one.command("COH.SET", "k", "lost")
    wait_until(lambda: holds(two, "k", b"lost"), 20)
    assert last_number(old) == shared + 1
    old.kill()
    cluster.proxies["n2"].refuse()  # n2 learns of nothing until the numbers are used again
    cluster.retarget(new)
    cluster.primary, cluster.replica = new, old
    wait_until(lambda: one.command("SET", "other", "1") == b"OK", 20)
    # The number of the lost write, in another history: from here on the epoch is another one,
    # for the lost write's version would name what was never written after it.
    assert last_number(new) >= shared + 1
    wait_until(lambda: lane(one)["forks"] > 0, 20, "n1 to see a fork")
    wait_until(lambda: epoch_of(new) not in lost, 20, "the epoch to be left")
    cluster.proxies["n2"].accept()
    wait_until(lambda: meta(two, "k")[0] == b"kept", 20, "n2 to forget the lost write")
    wait_until(lambda: lane(two)["drops"] > 0, 20, "n2 to drop its lane")
    assert meta(two, "k")[0] == b"kept"
    for daemon in (one, two):
        told = daemon.command("COH.GET", "k", "MINVER", lost)
        assert str(told).startswith("LINEAGE "), told

        def refused(daemon: Daemon = daemon) -> bool:
            told = str(daemon.command("COH.SET", "k", "over", "IFVER", lost))
            assert told.startswith(("CONFLICT ", "UNAVAILABLE ")), told
            return told.startswith("CONFLICT ")

        wait_until(refused, 20, "a write that Redis can be asked about")
    assert meta(two, "k")[0] == b"kept"
    assert two.command("GET", "other") == b"1"
    old.replica_of = None
    old.start()
    follow(old, new)


def last_number(server: Server) -> int:
    return int(server.command("HGET", META, "s"))


def epoch_of(server: Server) -> bytes:
    epoch: bytes = server.command("HGET", META, "e")
    return epoch
