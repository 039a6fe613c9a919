"""A linearizable namespace of which only one of two daemons is configured to know (K6)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coherenced.core.model import Op
from coherenced.upstream.names import lane_names
from coherenced.wire.message import decode_record
from tests.cluster.daemons import Cluster, Daemon
from tests.servers import wait_until

SETTINGS = {"namespace.lin.match": "lin:*", "namespace.lin.linearizable": True}
NAMES = lane_names(0, 0)
TWO = [Op.PREPARE, Op.COMMIT]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The first daemon knows of no namespace, and is there before the one that does."""
    with Cluster(1) as cluster:
        lin = Daemon("lin", cluster.proxies["n1"].url, SETTINGS)
        cluster.daemons.append(lin)
        lin.start()
        yield cluster


def ops(cluster: Cluster) -> list[int]:
    """What the log says was done, in order."""
    entries = cluster.primary.command("XRANGE", NAMES.log, "-", "+")
    records = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]
    return [decode_record(1, r[b"p"], r[b"t"], r[b"b"]).op for r in records]


def test_a_daemon_that_is_not_configured_writes_in_two_phases(cluster: Cluster) -> None:
    plain, lin = cluster.daemons
    # This one is refused at first: nothing has told the daemon before.
    assert plain.command("SET", "lin:x", "1") == b"OK"
    assert ops(cluster) == TWO
    assert b"coherenced_writes_one_phase_refused_total 1.0" in plain.http("/metrics")[1]
    assert lin.command("GET", "lin:x") == b"1"
    assert plain.command("INCR", "lin:x") == 2
    assert lin.command("GET", "lin:x") == b"2"
    assert plain.command("MSET", "a", "1", "lin:y", "2") == b"OK"
    assert plain.command("DEL", "lin:y") == 1
    assert ops(cluster) == 4 * TWO
    assert plain.command("SET", "a", "2") == b"OK"
    assert ops(cluster) == [*4 * TWO, Op.WRITE]
    assert "other nodes declare other linearizable namespaces" in plain.log_text()


def test_it_is_declared_again_after_a_loss_and_ends_with_who_declared_it(cluster: Cluster) -> None:
    plain, lin = cluster.daemons
    server = cluster.primary

    def is_declared() -> bool:
        return bool(server.command("HEXISTS", NAMES.meta, "lz") == 1)

    server.command("FLUSHALL")
    wait_until(is_declared, 20.0, "the namespace is declared again")
    assert plain.command("SET", "lin:x", "3", timeout_s=20.0) == b"OK"
    assert ops(cluster)[-2:] == TWO
    lin.stop()
    assert not is_declared()
    lin.start()
    assert is_declared()
