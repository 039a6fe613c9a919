"""What a process costs, and programs that run as processes of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from coherenced.bench import processes
from coherenced.bench.processes import Program, cpu_s, plain_environment, rss_bytes
from coherenced.errors import StartError


def burn(seconds: float) -> None:
    until_s = time.process_time() + seconds
    while time.process_time() < until_s:
        pass


@pytest.mark.parametrize("has_schedstat", [True, False])
def test_cpu_time_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, has_schedstat: bool
) -> None:
    if not has_schedstat:
        read_text = Path.read_text

        def read(path: Path) -> str:
            if path.name == "schedstat":
                raise FileNotFoundError(path)
            return read_text(path)

        monkeypatch.setattr(Path, "read_text", read)
    before_s = cpu_s(os.getpid())
    burn(0.05)
    assert 0.03 <= cpu_s(os.getpid()) - before_s < 5


def test_memory_is_what_is_resident() -> None:
    before = rss_bytes(os.getpid())
    held = bytearray(os.urandom(1 << 20) * 16)
    assert 10 << 20 < rss_bytes(os.getpid()) - before < 64 << 20
    del held


def test_what_configures_a_daemon_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHERENCED_REDIS__URL", "redis://elsewhere")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    environment = plain_environment(NOTIFY_SOCKET="/mine")
    assert "COHERENCED_REDIS__URL" not in environment
    assert environment["NOTIFY_SOCKET"] == "/mine"
    assert environment["PATH"] == os.environ["PATH"]


def test_a_program_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    spec = {"task": str(tmp_path / "nothing")}
    with Program("generator", spec, tmp_path / "log") as program:
        with pytest.raises(StartError, match=r"generator ended: .*No such file"):
            program.hear()
        program.stop()


def test_a_program_that_waits_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Program("peers", {"peer": "http", "with": [str(path), 3]}, tmp_path / "log") as program:
        assert program.hear() == "ready"
        assert path.is_socket()
        pid = program.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_peer_that_there_is_not(tmp_path: Path) -> None:
    spec = {"peer": "squid", "with": []}
    with (
        Program("peers", spec, tmp_path / "log") as program,
        pytest.raises(StartError, match="there is no peer 'squid'"),
    ):
        program.hear()


def test_no_last_words_are_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert processes._last_line(tmp_path / "log") == "it said nothing"
