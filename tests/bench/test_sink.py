"""Subscribers that throw away what they hear."""

from __future__ import annotations

from pathlib import Path

from coherenced.bench.processes import Program
from tests.servers import Server


def test_they_subscribe_and_keep_nothing_waiting(tmp_path: Path) -> None:
    with Server("valkey") as server:
        told = {"socket": str(server.socket), "channel": "c", "count": 20}
        with Program("sink", told, tmp_path / "log") as sink:
            assert sink.hear() == 20
            for _ in range(50):
                assert server.command("PUBLISH", "c", b"x" * 10_000) == 20
