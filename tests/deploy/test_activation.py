"""The real daemon under a service manager: readiness, restarts that refuse nobody, watchdog.

`ServiceManager` holds the sockets as systemd does; one test uses systemd's own
`systemd-socket-activate` where it is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.manager import (
    PROGRAM,
    ServiceManager,
    connect,
    http_status,
    read_until,
    wait_until_accepting,
)
from tests.servers import Server

ROSTER = "coh:{0}:nodes"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("valkey") as found:
        yield found


@pytest.fixture
def manager(server: Server, tmp_path: Path) -> Iterator[ServiceManager]:
    server.command("FLUSHALL")
    found = ServiceManager(tmp_path, {"COHERENCED_REDIS__URL": server.unix_url})
    yield found
    found.close()


def ping(path: Path) -> bytes:
    with connect(path) as connection:
        connection.sendall(b"PING\r\n")
        return read_until(connection, b"\r\n")


def test_ready_is_said_once_it_has_joined_and_serves(
    manager: ServiceManager, server: Server
) -> None:
    manager.start().wait_for("READY=1")
    assert server.command("HLEN", ROSTER) == 1, "it is on the roster"
    assert ping(manager.resp) == b"+PONG\r\n"
    assert http_status(manager.http, "/readyz") == b"HTTP/1.1 200 OK"
    assert manager.stop() == 0
    assert server.command("HLEN", ROSTER) == 0, "it has left"
    assert "STOPPING=1" in manager.heard_by_now()


def test_ready_is_not_said_while_redis_does_not_answer(tmp_path: Path) -> None:
    server = Server("valkey")
    manager = ServiceManager(tmp_path, {"COHERENCED_REDIS__URL": server.unix_url})
    try:
        # Somebody listens where Redis should, and never answers.
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(server.socket))
            silent.listen()
            silent.settimeout(20)
            manager.start()
            connection, _ = silent.accept()
            with connection:
                # The daemon has come this far, and has given this attempt up.
                connection.settimeout(20)
                while connection.recv(65536):
                    pass
            assert "READY=1" not in manager.heard_by_now()
        # A client may come already: it waits for the daemon, which waits for Redis.
        with connect(manager.resp) as early:
            early.sendall(b"PING\r\n")
            server.start()
            manager.wait_for("READY=1")
            assert read_until(early, b"\r\n") == b"+PONG\r\n"
        assert manager.stop() == 0
    finally:
        manager.close()
        server.stop()


def test_what_connects_between_two_daemons_waits_and_is_answered(manager: ServiceManager) -> None:
    manager.start().wait_for("READY=1")
    with connect(manager.resp) as connection:
        connection.sendall(b"SET k v\r\n")
        assert read_until(connection, b"\r\n") == b"+OK\r\n"
        assert manager.stop() == 0
        assert connection.recv(1) == b"", "the old daemon has ended its connections"

    waiting = [connect(manager.resp) for _ in range(50)]
    page = connect(manager.http)
    for connection in waiting:
        connection.sendall(b"GET k\r\n")
    page.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")

    manager.start().wait_for("READY=1")
    for connection in waiting:
        with connection:
            assert read_until(connection, b"v\r\n") == b"$1\r\nv\r\n"
    with page:
        assert read_until(page, b"\r\n").startswith(b"HTTP/1.1 200")
    assert manager.stop() == 0


def test_clients_that_keep_coming_are_never_refused_while_it_restarts(
    manager: ServiceManager,
) -> None:
    manager.start().wait_for("READY=1")
    enough = threading.Event()
    refused: list[OSError] = []
    answered = [0] * 4

    def come_and_go(number: int) -> None:
        while not enough.is_set():
            try:
                connection = connect(manager.resp)
            except OSError as error:
                refused.append(error)
                return
            with connection:
                try:
                    connection.sendall(b"PING\r\n")
                    answered[number] += read_until(connection, b"\r\n") == b"+PONG\r\n"
                except OSError:
                    pass  # it was connected to the daemon that has just stopped

    clients = [threading.Thread(target=come_and_go, args=(n,)) for n in range(len(answered))]
    for client in clients:
        client.start()
    for _ in range(2):
        assert manager.stop() == 0
        manager.start().wait_for("READY=1")
    # The new daemon answers all of them, and then they may go.
    before = list(answered)
    for _ in range(2000):
        if all(now > then for now, then in zip(answered, before, strict=True)):
            break
        threading.Event().wait(0.005)
    enough.set()
    for client in clients:
        client.join()
    assert refused == []
    assert all(now > then for now, then in zip(answered, before, strict=True))
    assert manager.stop() == 0


def test_a_daemon_that_was_killed_is_replaced_without_a_refusal(manager: ServiceManager) -> None:
    manager.start().wait_for("READY=1")
    assert manager.process is not None
    manager.signal(signal.SIGKILL)
    manager.process.wait(20)
    manager.process = None
    with connect(manager.resp) as connection:
        connection.sendall(b"PING\r\n")
        manager.start().wait_for("READY=1")
        assert read_until(connection, b"\r\n") == b"+PONG\r\n"
    assert manager.stop() == 0


def test_inherited_sockets_are_left_where_they_are(manager: ServiceManager) -> None:
    before = [(path.stat().st_ino, path.stat().st_mode) for path in (manager.resp, manager.http)]
    manager.start().wait_for("READY=1")
    assert manager.stop() == 0
    assert before == [
        (path.stat().st_ino, path.stat().st_mode) for path in (manager.resp, manager.http)
    ], "the service manager made them, and they outlive the daemon"


def test_the_watchdog_is_fed_while_the_event_loop_turns(manager: ServiceManager) -> None:
    manager.start(watchdog_ms=300).wait_for("READY=1")
    manager.wait_for("WATCHDOG=1", count=3)
    assert manager.stop() == 0


def test_without_a_watchdog_nothing_is_fed(manager: ServiceManager) -> None:
    manager.start().wait_for("READY=1")
    assert ping(manager.resp) == b"+PONG\r\n"
    assert manager.stop() == 0
    assert "WATCHDOG=1" not in manager.heard_by_now()


def test_a_reload_is_told_from_its_begin_to_its_end(manager: ServiceManager) -> None:
    file = manager.directory / "coherenced.toml"
    file.write_text('[log]\nlevel = "info"\n')
    manager.start().wait_for("READY=1")
    file.write_text('[log]\nlevel = "debug"\n[l1]\nmax_bytes = "8MiB"\n')
    manager.signal(signal.SIGHUP)
    manager.wait_for("RELOADING=1")
    manager.wait_for("READY=1")
    assert "log.level" in manager.log()
    assert "l1.max_bytes" in manager.log(), "what needs a restart is said"
    assert ping(manager.resp) == b"+PONG\r\n"
    assert manager.stop() == 0


def test_a_reload_of_a_broken_file_changes_nothing(manager: ServiceManager) -> None:
    file = manager.directory / "coherenced.toml"
    file.write_text("")
    manager.start().wait_for("READY=1")
    file.write_text("[l1]\nmax_byte = 1\n")
    manager.signal(signal.SIGHUP)
    manager.wait_for("RELOADING=1")
    manager.wait_for("READY=1")
    assert "did you mean l1.max_bytes?" in manager.log()
    assert ping(manager.resp) == b"+PONG\r\n"
    assert manager.stop() == 0


def test_the_status_line_tells_of_the_last_reload_and_not_of_one_before(
    manager: ServiceManager,
) -> None:
    file = manager.directory / "coherenced.toml"
    file.write_text("[log]\nlevel = 'info'\n")
    manager.start().wait_for("READY=1")
    assert manager.process is not None
    serving = f"STATUS=serving on {manager.resp}"
    for written, told in (("[log", f"{serving}; not reloaded"), ("[log]\n", serving)):
        manager.heard.clear()
        file.write_text(written)
        manager.process.send_signal(signal.SIGHUP)
        manager.wait_for("READY=1")
        statuses = [line for line in manager.heard_by_now() if line.startswith("STATUS=")]
        assert len(statuses) == 1 and statuses[0].startswith(told), statuses
    assert statuses == [serving]


def test_a_broken_configuration_is_exit_code_2_in_one_line(manager: ServiceManager) -> None:
    (manager.directory / "coherenced.toml").write_text("[l1]\nmax_byte = 1\n")
    manager.start()
    assert manager.process is not None
    assert manager.process.wait(20) == 2
    assert "did you mean l1.max_bytes?" in manager.log()
    assert "Traceback" not in manager.log()
    assert len(manager.log().splitlines()) == 1


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="systemd-socket-activate is not installed",
)
def test_under_systemds_own_socket_activation(server: Server, tmp_path: Path) -> None:
    resp, http = tmp_path / "coherenced.sock", tmp_path / "http.sock"
    settings = {
        "COHERENCED_REDIS__URL": server.unix_url,
        "RUNTIME_DIRECTORY": str(tmp_path),
        "PATH": os.environ["PATH"],
    }
    command = ["systemd-socket-activate", "--fdname=resp:http", "-l", str(resp), "-l", str(http)]
    for name, value in settings.items():
        command += ["-E", f"{name}={value}"]
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [*command, PROGRAM, "serve"], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        wait_until_accepting(resp)  # which also makes it start the daemon
        assert ping(resp) == b"+PONG\r\n", (tmp_path / "log").read_text()
        assert http_status(http, "/readyz") == b"HTTP/1.1 200 OK"
        daemon.terminate()
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.wait()
