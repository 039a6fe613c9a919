"""The container probe against a socket that answers well, badly, or not at all."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY

PROBE = DEPLOY / "docker" / "probe.py"


class Answering:
    """An HTTP socket in `directory` that says `answer` to whoever asks."""

    def __init__(self, directory: Path) -> None:
        self.answer = b""
        self.asked: list[bytes] = []
        self.hold = threading.Event()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(directory / "http.sock"))
        self.socket.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(4096))
                if self.answer:
                    connection.sendall(self.answer)
                else:
                    self.hold.wait(20)

    def close(self) -> None:
        self.hold.set()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Answering]:
    found = Answering(tmp_path)
    yield found
    found.close()


def probe(directory: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-IS", str(PROBE), *arguments],
        capture_output=True,
        text=True,
        env={"COHERENCED_NODE__RUNTIME_DIR": str(directory)},
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_200_is_healthy(server: Answering, tmp_path: Path) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
    assert probe(tmp_path) == (0, "")
    assert probe(tmp_path, "/readyz") == (0, "")
    assert [asked.split(b"\r\n")[0] for asked in server.asked] == [
        b"GET /healthz HTTP/1.1",
        b"GET /readyz HTTP/1.1",
    ]


def test_503_is_not_and_the_reason_is_told(server: Answering, tmp_path: Path) -> None:
    server.answer = b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + b"joining\n" + b"x" * 9999
    code, said = probe(tmp_path, "/readyz")
    assert code == 1
    assert said.startswith("/readyz: HTTP/1.1 503 Service Unavailable joining x")
    assert len(said) < 500


@pytest.mark.parametrize("answer", [b"200\r\n\r\n", b"\xff\xfe\r\n\r\n", b"HTTP/1.1\r\n\r\n"])
def test_anything_else_is_not(server: Answering, tmp_path: Path, answer: bytes) -> None:
    server.answer = answer
    assert probe(tmp_path)[0] == 1


def test_a_daemon_that_does_not_answer_is_not_waited_for(server: Answering, tmp_path: Path) -> None:
    code, said = probe(tmp_path)
    assert (code, said.strip().endswith("timed out")) == (1, True)


def test_no_daemon_at_all(tmp_path: Path) -> None:
    code, said = probe(tmp_path)
    assert code == 1
    assert said == f"{tmp_path}/http.sock: [Errno 2] No such file or directory\n"
