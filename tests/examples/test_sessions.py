from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import pytest

from coherenced import Client
from tests.cluster.daemons import Cluster
from tests.examples.sessions import Sessions
from tests.examples.watching import watch


@pytest.fixture
def hosts(nodes: Cluster, tmp_path: Path) -> Iterator[list[Sessions]]:
    """The same sessions on two hosts, two processes each."""
    clients = [Client(daemon.socket) for daemon in nodes.daemons for _ in range(2)]
    made = [Sessions(tmp_path / "sessions.sqlite", client) for client in clients]
    made[0].create()
    yield made
    for client in clients:
        client.close()


def test_after_a_change_nobody_reads_older_data(hosts: list[Sessions]) -> None:
    sessions = [hosts[0].login(f"user{n}") for n in range(3)]

    def read(worker: int, number: int) -> int:
        found = hosts[worker].get(sessions[number])
        assert found is not None
        return len(found["data"])

    def update(worker: int, number: int) -> int:
        """Another field each time: so many there are at least, whoever else adds some."""
        with counting:
            added[number] += 1
            field = added[number]
        hosts[worker].put(sessions[number], f"field{field}", True)
        with counting:
            done[number] += 1
            return done[number]

    counting = Lock()
    added, done = [0] * 3, [0] * 3
    seen = watch(read, update, workers=4, rows=3, seconds=1.5)
    assert seen.older == []
    assert seen.updates > 10


def test_a_logout_holds_everywhere(hosts: list[Sessions]) -> None:
    for turn in range(20):
        here, there = hosts[turn % 4], hosts[(turn + 2) % 4]
        session = here.login("Ada")
        assert there.get(session) == {"user": "Ada", "data": {}}
        assert here.get(session) == {"user": "Ada", "data": {}}
        there.logout(session)
        assert [host.get(session) for host in hosts] == [None] * 4
    one, two = hosts[0].login("Bob"), hosts[2].login("Bob")
    assert all(host.get(session) for host in hosts for session in (one, two))
    hosts[1].logout_everywhere("Bob")
    assert not any(host.get(session) for host in hosts for session in (one, two))


def test_a_forged_cookie_costs_one_query(hosts: list[Sessions]) -> None:
    for _ in range(10):
        assert [host.get("forged") for host in hosts] == [None] * 4
    assert sum(host.queries for host in hosts) == 1
    with pytest.raises(KeyError):
        hosts[0].put("forged", "a", 1)
