"""Other servers, where they are installed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from coherenced.bench.load import Load, Loader, exchanges
from coherenced.bench.rivals import PROGRAMS, Rival, executable
from coherenced.errors import StartError


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_is_filled_loaded_and_gone(program: str, tmp_path: Path) -> None:
    where = executable(program)
    if where is None:
        pytest.skip(f"{program} is not installed")
    load = Load(connections=2, pipeline=3, keys=250, value_bytes=2000)
    if program == "memcached":
        load = Load(connections=2, pipeline=3, keys=250, value_bytes=2000, dialect="memcached")
    with Rival(program, where, tmp_path) as rival:
        assert rival.name.startswith(PROGRAMS[program] + " ") and "." in rival.name
        rival.fill(load.keys, load.value_bytes)
        told = Loader(tmp_path, "").run(rival.place, load, 0.05)
        assert told["rate"] > 0 and 0 < told["p50"] <= told["p99.9"]
        pid = rival.place.pid
    assert not Path(f"/proc/{pid}").exists()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        assert link.connect_ex(str(tmp_path / f"{program}.sock"))


def test_one_that_does_not_come_up_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="memcached does not come up"):
        Rival("memcached", "/bin/false", tmp_path)


def test_a_reply_of_memcached_is_as_long_as_it_says() -> None:
    requests, reply = exchanges(Load(keys=3, value_bytes=5, dialect="memcached"))
    assert sorted(requests)[0] == b"get key:000000000000\r\n"
    assert reply == b"VALUE key:000000000000 0 5\r\nxxxxx\r\nEND\r\n"
