from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.ports import ModelPort, Port, RealPort
from tests.servers import available_kinds, shared_server


@pytest.fixture(params=["model", *available_kinds()])
async def port(request: pytest.FixtureRequest) -> AsyncIterator[Port]:
    """Each implementation in turn, empty."""
    if request.param == "model":
        yield ModelPort()
        return
    real = RealPort(shared_server(request.param))
    await real.open()
    yield real
    await real.close()
