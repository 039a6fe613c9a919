"""The whole daemon against a server of the same kind: every reply to generated commands alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.daemons import Daemon
from tests.serve.command_sequences import FLUSH, FOREIGN, Endpoint, assert_alike, sequence
from tests.servers import Server, available_kinds

SEEDS = range(5)
BATCHES = 120


@pytest.fixture(scope="module", params=available_kinds())
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Daemon, Server, Server]]:
    """A daemon, the server behind it, and another server of the same kind."""
    with Server(request.param) as behind, Server(request.param) as plain:
        daemon = Daemon("n1", behind.unix_url)
        try:
            daemon.start()
            yield daemon, behind, plain
        finally:
            daemon.stop()


@pytest.mark.parametrize("resp3", [False, True], ids=["resp2", "resp3"])
@pytest.mark.parametrize("seed", SEEDS)
def test_replies_are_the_servers_own(
    pair: tuple[Daemon, Server, Server], seed: int, resp3: bool
) -> None:
    daemon, behind, plain = pair
    ours = Endpoint(daemon.socket, resp3=resp3)
    theirs = Endpoint(plain.socket, resp3=resp3)
    for endpoint, server in ((ours, behind), (theirs, plain)):
        endpoint.ask([FLUSH])
        server.command(*FOREIGN)
    try:
        for batch in sequence(seed, BATCHES):
            assert_alike(batch, ours.ask(batch), theirs.ask(batch))
    finally:
        ours.close()
        theirs.close()


def test_big_operations_are_cut_and_added_up(pair: tuple[Daemon, Server, Server]) -> None:
    daemon, _, plain = pair
    keys = tuple(b"many:%d" % i for i in range(1_000))
    pairs = tuple(part for key in keys for part in (key, b"v"))
    batch = [
        (b"MSET", *pairs),
        (b"EXISTS", *keys, b"none"),
        (b"TOUCH", *keys),
        (b"MGET", *keys, b"none"),
        (b"MULTI",),
        (b"DEL", *keys[:500], b"none"),
        (b"EXISTS", *keys),
        (b"EXEC",),
        (b"UNLINK", *keys),
        (b"EXISTS", *keys),
    ]
    ours, theirs = Endpoint(daemon.socket), Endpoint(plain.socket)
    try:
        assert ours.ask(batch) == theirs.ask(batch)
    finally:
        ours.close()
        theirs.close()
