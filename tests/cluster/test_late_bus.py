"""One client on one node never goes back, by whatever command it has seen the newer state.

The bus of n1 is held up; n2 changes a key that n1 has cached; a command on n1 is
answered by Redis and shows (or could have shown) the change; a GET on n1 must not show
the older state after that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from coherenced.lab.proxy import role
from tests.cluster.daemons import Cluster, Daemon
from tests.servers import wait_until

DELETED: Final = ("DEL", "{key}")
CHANGED: Final = ("SET", "{key}", "newer")

CASES: Final = {
    "DEL": (DELETED, ("DEL", "{key}")),
    "COH.DEL": (DELETED, ("COH.DEL", "{key}")),
    "GETDEL": (DELETED, ("GETDEL", "{key}")),
    "EXPIRE": (DELETED, ("EXPIRE", "{key}", "100")),
    "PERSIST": (DELETED, ("PERSIST", "{key}")),
    "SET XX": (DELETED, ("SET", "{key}", "mine", "XX")),
    "SETNX": (CHANGED, ("SETNX", "{key}", "mine")),
    "APPEND": (CHANGED, ("APPEND", "{key}", "!")),
    "GETEX": (CHANGED, ("GETEX", "{key}", "PERSIST")),
    "EXISTS": (DELETED, ("EXISTS", "{key}")),
    "TYPE": (DELETED, ("TYPE", "{key}")),
    "TTL": (DELETED, ("TTL", "{key}")),
    "STRLEN": (CHANGED, ("STRLEN", "{key}")),
    "COH.GET MAXSTALE 0": (CHANGED, ("COH.GET", "{key}", "MAXSTALE", "0")),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(2, settings={"coherence.max_staleness_ms": 5000}) as cluster:
        yield cluster


def cached(daemon: Daemon, key: str, value: bytes | None) -> bool:
    answer = daemon.command("COH.GET", key, "META")
    return isinstance(answer, list) and answer[0] == value and answer[2] == b"l1"


def fill(words: tuple[str, ...], key: str) -> tuple[str, ...]:
    return tuple(word.replace("{key}", key) for word in words)


@pytest.mark.parametrize(("others", "own"), CASES.values(), ids=list(CASES))
def test_what_a_command_has_shown_stays_seen(
    cluster: Cluster, others: tuple[str, ...], own: tuple[str, ...], request: Any
) -> None:
    one, two = cluster.daemons
    key = request.node.name
    before = None if own[0] == "SETNX" else b"older"
    if before is not None:
        two.command("SET", key, before)
    wait_until(lambda: cached(one, key, before), what="n1 has it in L1")
    with cluster.proxies["n1"].partition(role("bus")):
        two.command(*fill(others, key))
        one.command(*fill(own, key))
        assert one.command("GET", key) == cluster.primary.command("GET", key)


def test_a_delete_of_what_another_has_just_deleted_is_acknowledged_too(cluster: Cluster) -> None:
    """K5: it finds nothing, but n1 has not heard of the one that did, and holds the value."""
    one, two = cluster.daemons
    two.command("SET", "k", "older")
    wait_until(lambda: cached(one, "k", b"older"), what="n1 has it in L1")
    with cluster.proxies["n1"].partition(role("bus")):
        assert two.command("DEL", "k") == 1
        version, count = two.command("COH.DEL", "k", "j", "ACK", "2")
        assert (count, bool(version)) == (0, True)
        assert one.command("GET", "k") is None
