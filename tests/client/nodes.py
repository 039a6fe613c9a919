"""Two real daemons over one real server, for tests of what the clients do with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.daemons import Cluster


@pytest.fixture(scope="package")
def nodes() -> Iterator[Cluster]:
    """Started once for this package; each test uses keys of its own."""
    with Cluster(2) as cluster:
        yield cluster
