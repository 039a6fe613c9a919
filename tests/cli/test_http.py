from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coherenced.cli import http
from coherenced.cli.cluster import Daemon
from coherenced.errors import CommandError, DaemonUnreachable, ProtocolError, RedisUnreachable


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[str]:
    """A server that gives one answer, whatever it is asked, and closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            link, _ = listener.accept()
            with link:
                link.recv(1 << 16)
                link.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield str(path)
        thread.join(10)


def test_a_real_daemon(a: Daemon) -> None:
    assert http.ask(str(a.http_socket), "/healthz")["status"] == "ok"
    put = http.exchange(str(a.http_socket), "PUT", "/v1/keys/http:1", b"v")
    assert put.document()["version"]
    got = http.exchange(str(a.http_socket), "GET", "/v1/keys/http:1")
    assert (got.status, got.body, got.headers["coherenced-source"]) == (200, b"v", "l1")
    with pytest.raises(CommandError, match=r"answered 404: .*: "):
        http.ask(str(a.http_socket), "/v1/keys/http:none")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="no such socket"):
        http.ask(str(tmp_path / "none"), "/")
    with pytest.raises(DaemonUnreachable, match="no such socket"):
        next(http.listen(str(tmp_path / "none"), "/"))


Ask = Callable[[str], object]


@pytest.mark.parametrize("ask", [lambda p: http.ask(p, "/"), lambda p: list(http.listen(p, "/"))])
@pytest.mark.parametrize("answer", [b"", b"+PONG\r\n"])
def test_an_answer_that_is_not_http(tmp_path: Path, answer: bytes, ask: Ask) -> None:
    with (
        answering(tmp_path / "s", answer) as path,
        pytest.raises((DaemonUnreachable, ProtocolError)),
    ):
        ask(path)


def test_an_answer_that_is_not_json(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<a/>"
    with answering(tmp_path / "s", answer) as path, pytest.raises(ProtocolError, match="not JSON"):
        http.ask(path, "/")


def test_redis_that_is_away_is_told_apart() -> None:
    """So that a command ends with 4, whichever way it asked."""
    body = b'{"type": "urn:coherenced:problem:unavailable", "title": "t", "detail": "no Redis"}'
    with pytest.raises(RedisUnreachable, match=r"\Ano Redis\Z"):
        http.Answer(503, {}, body).document()
    body = b'{"type": "urn:coherenced:problem:overloaded", "title": "t", "detail": "full"}'
    with pytest.raises(CommandError, match="answered 503: t: full"):
        http.Answer(503, {}, body).document()


def stream(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body


def test_events(tmp_path: Path) -> None:
    body = (
        b': connected\n\nid: e:1\nevent: invalidation\ndata: {"keys": ["a"]}\n\n'
        b": beat\n\nevent:reset\ndata:{}\n\nid: e:2\nda"
    )
    with answering(tmp_path / "s", stream(body)) as path:
        events = list(http.listen(path, "/", after="e:0"))
    assert events == [
        ("", "open", None),
        ("e:1", "invalidation", {"keys": ["a"]}),
        ("", "reset", {}),
    ]


def test_an_event_that_is_not_json(tmp_path: Path) -> None:
    with (
        answering(tmp_path / "s", stream(b"data: {\n\n")) as path,
        pytest.raises(ProtocolError, match="not JSON"),
    ):
        list(http.listen(path, "/"))


def test_a_stream_that_is_refused(tmp_path: Path) -> None:
    body = b'{"title": "overloaded", "detail": "too many"}'
    head = b"HTTP/1.1 503 Busy\r\nContent-Length: %d\r\n\r\n" % len(body)
    with (
        answering(tmp_path / "s", head + body) as path,
        pytest.raises(CommandError, match="503: overloaded: too many"),
    ):
        list(http.listen(path, "/"))
