"""Two real daemons over one real server, for tests of what the clients do with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.daemons import Cluster


@pytest.fixture(scope="session")
def nodes() -> Iterator[Cluster]:
    """Started once; each test uses keys of its own."""
    with Cluster(2) as cluster:
        yield cluster


@pytest.fixture
def leases(nodes: Cluster) -> None:
    """Skips what needs COH.LEASE where the daemon does not know it."""
    reply = nodes.daemons[0].command("COH.LEASE", "leases-are-there", "PX", "1")
    if "unknown command" in str(reply):
        pytest.skip("no COH.LEASE yet")
