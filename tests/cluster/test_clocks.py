"""A server's wall clock can be stepped, and its monotonic clock stays true."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cluster.clocks import WallClock, library
from tests.servers import Server, available_kinds, wait_until

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler here")


def is_ahead_by(server: Server, ms: float) -> bool:
    seconds, micros = server.command("TIME")
    return abs(int(seconds) * 1e3 + int(micros) / 1e3 - time.time() * 1e3 - ms) < 2_000


@pytest.mark.parametrize("kind", available_kinds())
@pytest.mark.parametrize("ms", [600_000, -5_000])
def test_a_server_follows_its_clock(kind: str, ms: int, tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    server = Server(kind)
    server.binary = clock.wrapped(server.binary)
    with server:
        assert is_ahead_by(server, 0)
        server.command("SET", "a", "1", "PX", "60000")
        clock.step(ms)
        # Valkey adds up its monotonic clock for a while before it looks at this one again.
        wait_until(lambda: is_ahead_by(server, ms))
        assert server.command("GET", "a") == (None if ms > 60_000 else b"1")
        clock.step(-ms)
        wait_until(lambda: is_ahead_by(server, 0))
