"""Sockets of our own and of systemd's, and one clear line for each thing that is wrong."""

from __future__ import annotations

import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coherenced.config_tree import Listen
from coherenced.config_values import Address
from coherenced.errors import StartError
from coherenced.paths import Paths
from coherenced.serve import listeners
from coherenced.serve.listeners import (
    open_sockets,
    passed_sockets,
    raise_file_limit,
    tcp_socket,
    unix_socket,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def paths(directory: Path) -> Paths:
    return Paths(directory, directory / "r.sock", directory / "h.sock", directory / "page")


def refused(path: Path) -> str:
    with pytest.raises(StartError) as caught:
        unix_socket(path, 0o600)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text or str(path.parent) in text
    return text


# -- Unix sockets -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_it_listens_at_once_with_its_mode(directory: Path, mode: int) -> None:
    path = directory / "s"
    with unix_socket(path, mode) as sock, socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        client.connect(str(path))
        accepted, _ = sock.accept()
        accepted.close()
        assert not os.get_inheritable(sock.fileno())


def test_what_a_dead_daemon_left_is_removed(directory: Path) -> None:
    path = directory / "s"
    unix_socket(path, 0o600).close()
    assert path.exists()
    unix_socket(path, 0o600).close()


def test_a_living_daemon_is_not_disturbed(directory: Path) -> None:
    path = directory / "s"
    with unix_socket(path, 0o600) as alive:
        assert refused(path).startswith(f"a live daemon already answers on {path}: stop it, or")
        alive.accept()[0].close()  # the look was a connection
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_daemon_with_a_full_backlog_is_alive(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "ALIVE_PATIENCE_S", 0.05)
    path = directory / "s"
    waiting = []
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen(0)
        try:
            for _ in range(3):
                client = socket.socket(socket.AF_UNIX)
                client.setblocking(False)
                waiting.append(client)
                client.connect_ex(str(path))
            assert "already answers" in refused(path)
        finally:
            for client in waiting:
                client.close()


def test_a_file_that_is_no_socket_stays(directory: Path) -> None:
    path = directory / "s"
    path.write_text("precious")
    assert "exists and is no socket" in refused(path)
    assert path.read_text() == "precious"


def test_a_missing_directory(directory: Path) -> None:
    assert "does not exist: create it" in refused(directory / "none" / "s")


def test_a_directory_that_is_none(directory: Path) -> None:
    (directory / "file").touch()
    assert "cannot be used" in refused(directory / "file" / "s")


def test_a_path_that_is_too_long(directory: Path) -> None:
    assert "longer than the 107 bytes" in refused(directory / ("x" * 120))


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from coherenced.errors import StartError
from coherenced.serve.listeners import unix_socket
os.setgid(65534); os.setuid(65534)
try:
    unix_socket(Path(sys.argv[1]), 0o600)
except StartError as error:
    print(error)
"""


@pytest.mark.parametrize("stale", [False, True])
def test_a_directory_that_may_not_be_written_to(stale: bool) -> None:
    with tempfile.TemporaryDirectory() as name:  # one that nobody can reach, too
        directory = Path(name)
        path = directory / "s"
        if stale:
            unix_socket(path, 0o666).close()
        directory.chmod(0o555)
        if os.getuid() == 0:  # root may do anything: ask as nobody
            code = [sys.executable, "-c", UNPRIVILEGED, str(path)]
            text = subprocess.run(code, capture_output=True, text=True).stdout
        else:
            text = refused(path)
        directory.chmod(0o700)
    assert f"cannot listen on {path}: this user may not write to {directory}" in text


def test_two_that_start_at_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "LOCK_PATIENCE_S", 0.05)
    with listeners._locked(directory):
        assert "another daemon is just starting" in refused(directory / "s")
    unix_socket(directory / "s", 0o600).close()


# -- TCP --------------------------------------------------------------------------------


def test_tcp() -> None:
    with tcp_socket(Address("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(StartError, match=f"127.0.0.1:{port}: something else listens there"):
            tcp_socket(Address("127.0.0.1", port))


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_tcp_over_ipv6() -> None:
    try:
        sock = tcp_socket(Address("::1", 0))
    except StartError as error:
        pytest.skip(str(error))
    assert sock.family == socket.AF_INET6
    sock.close()


def test_a_tcp_address_that_is_not_ours() -> None:
    with pytest.raises(StartError, match="this host does not have that address"):
        tcp_socket(Address("192.0.2.1", 0))
    with pytest.raises(StartError, match=r"the host is not known|cannot be looked up"):
        tcp_socket(Address("no such host", 0))


# -- all of them ------------------------------------------------------------------------


def test_all_sockets_of_a_configuration(directory: Path) -> None:
    listen = Listen(socket_mode="0600", tcp="127.0.0.1:0", http="127.0.0.1:0")
    sockets = open_sockets(listen, paths(directory), {})
    assert [s.family for s in sockets.resp] == [socket.AF_UNIX, socket.AF_INET]
    assert [s.family for s in sockets.http] == [socket.AF_UNIX, socket.AF_INET]
    assert stat.S_IMODE((directory / "h.sock").stat().st_mode) == 0o600
    sockets.close()
    assert list(directory.iterdir()) == []


def test_what_is_another_daemons_by_now_is_not_removed(directory: Path) -> None:
    sockets = open_sockets(Listen(), paths(directory), {})
    (directory / "r.sock").rename(directory / "aside")  # keeps its inode from being used again
    with unix_socket(directory / "r.sock", 0o600):
        sockets.close()
        assert (directory / "r.sock").exists()
        assert not (directory / "h.sock").exists()


def test_nothing_stays_open_when_one_cannot_be_had(directory: Path) -> None:
    (directory / "h.sock").write_text("in the way")
    with pytest.raises(StartError, match="is no socket"):
        open_sockets(Listen(), paths(directory), {})
    assert not (directory / "r.sock").exists()


def test_the_limit_of_open_files_is_raised() -> None:
    limit = raise_file_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limit == soft == hard


# -- systemd ----------------------------------------------------------------------------

ACTIVATED = """
import os, sys
from pathlib import Path
from coherenced.config_tree import Listen
from coherenced.errors import StartError
from coherenced.paths import Paths
from coherenced.serve.listeners import open_sockets
directory = Path(sys.argv[1])
environ = {**os.environ, "LISTEN_PID": os.environ["LISTEN_PID"] or str(os.getpid())}
try:
    paths = Paths(directory, directory / "r", directory / "h", directory / "p")
    sockets = open_sockets(Listen(), paths, environ)
except StartError as error:
    print(error)
else:
    for name, those in (("resp", sockets.resp), ("http", sockets.http)):
        for s in those:
            print(name, s.family.name, s.getsockname(), s.get_inheritable(), s.getblocking())
    sockets.close()
print(sorted(p.name for p in directory.iterdir()))
"""


def activated(
    directory: Path, passed: list[socket.socket], names: str | None = None, pid: str = ""
) -> list[str]:
    """Run a process that is given these sockets as systemd gives them; what it says."""
    environ = os.environ | {"LISTEN_FDS": str(len(passed)), "LISTEN_PID": pid}
    if names is not None:
        environ["LISTEN_FDNAMES"] = names

    def place() -> None:
        # Out of the way first: a target may be one of the sources.
        copies = [os.dup2(s.fileno(), 100 + i) for i, s in enumerate(passed)]
        for i, copy in enumerate(copies):
            os.dup2(copy, 3 + i)

    command = [sys.executable, "-c", ACTIVATED, str(directory)]
    done = subprocess.run(
        command, env=environ, preexec_fn=place, close_fds=False, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[socket.socket]]:
    directory = tmp_path_factory.mktemp("given")
    sockets = [unix_socket(directory / name, 0o600) for name in ("first", "http.sock")]
    sockets.append(socket.create_server(("127.0.0.1", 0)))
    yield sockets
    for sock in sockets:
        sock.close()


def test_sockets_from_systemd_by_name(directory: Path, given: list[socket.socket]) -> None:
    told = activated(directory, given, "http:resp:resp")
    assert [line.split()[:2] for line in told[:-1]] == [
        ["resp", "AF_UNIX"],
        ["resp", "AF_INET"],
        ["http", "AF_UNIX"],
    ]
    assert all(line.endswith(" False False") for line in told[:-1])
    assert told[-1] == "[]"  # nothing was made, and the passed files are not ours to remove
    assert Path(given[0].getsockname()).exists()


def test_sockets_from_systemd_by_type(directory: Path, given: list[socket.socket]) -> None:
    told = activated(directory, given)
    assert "first" in told[0]
    assert told[0].startswith("resp AF_UNIX")
    assert told[1].startswith("http AF_UNIX")
    assert told[2].startswith("http AF_INET")


def test_what_systemd_does_not_pass_is_opened(directory: Path, given: list[socket.socket]) -> None:
    told = activated(directory, given[:1], "resp")
    assert "first" in told[0]
    assert told[1] == f"http AF_UNIX {directory / 'h'} False False"


def test_sockets_for_another_process_are_left_alone(
    directory: Path, given: list[socket.socket]
) -> None:
    told = activated(directory, given, "resp:http:http", pid="1")
    assert [line.split()[2] for line in told[:2]] == [str(directory / "r"), str(directory / "h")]


def test_what_is_no_listening_socket_is_refused(directory: Path) -> None:
    with socket.socket() as plain:
        (told, _) = activated(directory, [plain], "resp")
    assert told.startswith("descriptor 3 from systemd is no listening stream socket")


def test_a_wrong_environment_passes_nothing() -> None:
    pid = str(os.getpid())
    for environ in ({}, {"LISTEN_PID": pid}, {"LISTEN_PID": pid, "LISTEN_FDS": "x"}):
        assert passed_sockets(environ, os.getpid()) == ([], [], [])
