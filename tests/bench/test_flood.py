"""The flood of commands: all of them, or so many a second."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from coherenced.bench.processes import Program
from coherenced.bench.talk import pack
from coherenced.errors import StartError
from tests.servers import Server

COMMANDS = [pack((b"SET", b"first", b"1")), pack((b"INCR", b"a")), pack((b"INCR", b"b"))]


def flood(server: Server, tmp_path: Path, commands: list[bytes], **more: float) -> Program:
    path = tmp_path / "commands"
    path.write_bytes(msgspec.msgpack.encode(commands))
    told = {"socket": str(server.socket), "commands": str(path), "in_flight": 4, **more}
    return Program("flood", told, tmp_path / "log")


def test_every_command_once_or_at_a_pace(tmp_path: Path) -> None:
    with Server("valkey") as server:
        with flood(server, tmp_path, COMMANDS * 5) as once:
            assert once.hear()["seconds"] > 0
        assert server.command("GET", "a") == server.command("GET", "b") == b"5"
        with flood(server, tmp_path, COMMANDS, per_s=200.0, seconds=0.2) as paced:
            assert paced.hear()["started_s"] > 0
            told = paced.hear()
        assert 0.2 <= told["seconds"] < 5 and told["sent"] >= 35
        counted = int(server.command("GET", "a")) + int(server.command("GET", "b")) - 10
        assert counted == told["sent"]
        server.command("DEL", "a")
        with flood(server, tmp_path, COMMANDS[1:2] * 1_000, deep=1.0, seconds=0.1) as deep:
            assert deep.hear()["started_s"] > 0
            told = deep.hear()
        assert int(server.command("GET", "a")) == told["sent"] >= 1_000


def test_an_error_of_the_server_ends_it(tmp_path: Path) -> None:
    with (
        Server("valkey") as server,
        flood(server, tmp_path, [pack((b"NONSENSE",))]) as program,
        pytest.raises(StartError, match="the benchmark's flood ended"),
    ):
        program.hear()
