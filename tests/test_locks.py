"""Two daemons in one runtime directory do not write to the same page or journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coherenced.errors import StartError
from coherenced.locks import claim
from tests.cluster.daemons import Daemon
from tests.servers import Server
from tests.test_daemon import run


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    give_back = claim(path, "the journal", "choose another")
    with pytest.raises(
        StartError, match=r"^the journal .*/journal is in use by another daemon: ch"
    ):
        claim(path, "the journal", "choose another")
    give_back()
    claim(path, "the journal", "choose another")()
    assert not path.exists()


def test_where_there_can_be_no_lock_it_is_had(tmp_path: Path) -> None:
    claim(tmp_path / "not" / "there", "the journal", "choose another")()
    (tmp_path / "page.lock").symlink_to(tmp_path / "elsewhere")
    claim(tmp_path / "page", "the page", "choose another")()
    assert not (tmp_path / "elsewhere").exists()


def test_a_second_daemon_in_the_directory_leaves_the_page_and_the_journal_alone() -> None:
    with Server("valkey") as server:
        first = Daemon("first", server.unix_url, {"coherence.on_unavailable": "spool"}).start()
        page = first.directory / "page.shm"
        made = page.stat().st_ino
        beside = {
            "RUNTIME_DIRECTORY": str(first.directory),
            "COHERENCED_LISTEN__SOCKET": str(first.directory / "second.sock"),
            "COHERENCED_LISTEN__HTTP_SOCKET": str(first.directory / "http-second.sock"),
        }
        second = Daemon("second", server.unix_url, environment=beside)
        second.socket = first.directory / "second.sock"
        second.http_socket = first.directory / "http-second.sock"
        try:
            second.start()
            told = second.command("COH.PAGE")
            assert b"is in use by another daemon" in told, told
            assert "is in use by another daemon" in second.log_text()
            second.stop()
            assert page.stat().st_ino == made
            assert json.loads(first.command("COH.PAGE"))["path"] == str(page)
            refused = run("--redis", server.unix_url, "--set", "coherence.on_unavailable=spool",
                          environ=beside)  # fmt: skip
            assert refused.returncode == 1
            lines = [line for line in refused.stderr.splitlines() if '"error"' in line]
            assert "spool.journal is in use by another daemon: give each its own" in lines[0]
            assert len(lines) == 1
            first.kill()
            first.start()  # the kernel has let its locks go
            assert json.loads(first.command("COH.PAGE"))["path"] == str(page)
            first.stop()
        finally:
            second.remove()
            first.remove()
