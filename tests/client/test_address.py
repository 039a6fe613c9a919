from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from coherenced.client.address import Address, candidate_sockets, find_daemon, parse_address
from coherenced.errors import DaemonUnreachable, UsageError


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("unix:///run/coherenced/coherenced.sock", Address(path="/run/coherenced/coherenced.sock")),
        ("unix:/run/c.sock", Address(path="/run/c.sock")),
        ("/run/c.sock", Address(path="/run/c.sock")),
        ("./c.sock", Address(path="./c.sock")),
        ("c.sock", Address(path="c.sock")),
        ("unix://:s%20t@/run/c.sock", Address(path="/run/c.sock", password="s t")),
        ("tcp://127.0.0.1:6399", Address(host="127.0.0.1", port=6399)),
        ("tcp://127.0.0.1:6399/", Address(host="127.0.0.1", port=6399)),
        ("tcp://:p@ss@host:1", Address(host="host", port=1, password="p@ss")),
        (b"/run/\xff.sock", Address(path="/run/\udcff.sock")),
        ("localhost:6399", Address(host="localhost", port=6399)),
        ("tcp://[::1]:6399", Address(host="::1", port=6399)),
    ],
)
def test_addresses_as_people_write_them(written: str | bytes, address: Address) -> None:
    assert parse_address(written) == address


@pytest.mark.parametrize(
    "written", ["unix://", "", "http://x", "tcp://host", "tcp://:1", "tcp://h:70000", "tcp://h:x"]
)
def test_a_wrong_address_says_what_is_right(written: str) -> None:
    with pytest.raises(UsageError, match=r"unix:///|tcp://"):
        parse_address(written)


def test_an_address_is_shown_without_its_password() -> None:
    assert str(parse_address("tcp://:secret@[::1]:1")) == "tcp://[::1]:1"
    assert str(parse_address("unix://:secret@/c.sock")) == "unix:///c.sock"


def make_socket(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.delenv("COHERENCED_SOCKET", raising=False)
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}/unit:{tmp_path}/other")
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{tmp_path}/user")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    private = tmp_path / "tmp" / f"coherenced-{os.getuid()}"
    return {
        "unit": tmp_path / "unit/coherenced.sock",
        "other": tmp_path / "other/coherenced.sock",
        "user": tmp_path / "user/coherenced/coherenced.sock",
        "system": Path("/run/coherenced/coherenced.sock"),
        "private": private / "coherenced.sock",
    }


def test_candidates_come_in_the_documented_order(places: dict[str, Path]) -> None:
    assert list(candidate_sockets()) == [str(path) for path in places.values()]


def test_the_first_place_with_a_socket_is_taken(places: dict[str, Path]) -> None:
    make_socket(places["user"])
    assert find_daemon().path == str(places["user"])
    make_socket(places["other"])
    assert find_daemon().path == str(places["other"])
    places["unit"].parent.mkdir()
    places["unit"].write_text("no socket")
    assert find_daemon().path == str(places["other"])


def test_the_environment_names_the_socket(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_socket(places["unit"])
    monkeypatch.setenv("COHERENCED_SOCKET", "tcp://127.0.0.1:9")
    assert find_daemon() == Address(host="127.0.0.1", port=9)
    monkeypatch.setenv("COHERENCED_SOCKET", "/elsewhere.sock")
    assert find_daemon().path == "/elsewhere.sock"


@pytest.mark.skipif(
    Path("/run/coherenced/coherenced.sock").exists(), reason="a daemon of this host is running"
)
def test_nowhere_names_every_place(places: dict[str, Path]) -> None:
    with pytest.raises(DaemonUnreachable) as caught:
        find_daemon()
    assert all(str(path) in str(caught.value) for path in places.values())
    assert "coherenced serve" in str(caught.value)


@pytest.mark.skipif(
    Path("/run/coherenced/coherenced.sock").exists(), reason="a daemon of this host is running"
)
def test_a_socket_planted_under_tmp_is_not_believed(places: dict[str, Path]) -> None:
    make_socket(places["private"])
    places["private"].parent.chmod(0o755)
    with pytest.raises(DaemonUnreachable):
        find_daemon()
    places["private"].parent.chmod(0o700)
    assert find_daemon().path == str(places["private"])
