"""Subscribers that throw away what they hear."""

from __future__ import annotations

from pathlib import Path

import pytest

from coherenced.bench.processes import Program
from tests.servers import Server


@pytest.mark.parametrize("over", ["socket", "port"])
def test_they_subscribe_and_keep_nothing_waiting(tmp_path: Path, over: str) -> None:
    with Server("valkey") as server:
        place = str(server.socket) if over == "socket" else server.port
        told = {"place": place, "channel": "c", "count": 20}
        with Program("sink", told, tmp_path / "log") as sink:
            assert sink.hear() == 20
            for _ in range(50):
                assert server.command("PUBLISH", "c", b"x" * 10_000) == 20
