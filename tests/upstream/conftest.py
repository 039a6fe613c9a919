from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Server, available_kinds, shared_server
from tests.upstream.lanes import Lane, Listener


@pytest.fixture(params=available_kinds())
def server(request: pytest.FixtureRequest) -> Server:
    """An empty server of each kind that this machine has, shared by all tests."""
    shared = shared_server(request.param)
    shared.commands(["FLUSHALL"], ["SCRIPT", "FLUSH"])
    return shared


@pytest.fixture
def lane(server: Server) -> Iterator[Lane]:
    lane = Lane(server)
    yield lane
    lane.close()


@pytest.fixture
def listener(server: Server) -> Iterator[Listener]:
    listener = Listener(server)
    yield listener
    listener.close()
