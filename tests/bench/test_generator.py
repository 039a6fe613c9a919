"""The load generator, against a real server and against one that answers what it likes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coherenced.bench import generator
from coherenced.bench.generator import Task, drive
from coherenced.bench.talk import pack
from coherenced.errors import CommandError
from tests.servers import Server

VALUE = b"v" * 100
REPLY = b"$100\r\n" + VALUE + b"\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("valkey") as server:
        for number in range(10):
            server.command("SET", f"k{number}", VALUE)
        yield server


def gets(server: Server, pipeline: int, connections: int, **more: float) -> Task:
    one = [pack((b"GET", b"k%d" % number)) for number in range(10)]
    return Task(
        socket=str(server.socket),
        connections=connections,
        batches=[b"".join(one[:pipeline]), b"".join(one[-pipeline:])],
        pipeline=pipeline,
        begins=b"$",
        reply_bytes=len(REPLY) * pipeline,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("pipeline", "connections"), [(1, 1), (1, 20), (5, 3)])
def test_it_counts_what_the_server_has_answered(
    server: Server, pipeline: int, connections: int
) -> None:
    server.command("CONFIG", "RESETSTAT")
    told = drive(gets(server, pipeline, connections, seconds=0.05))
    calls = server.command("INFO", "commandstats").partition(b"cmdstat_get:calls=")[2]
    greeted = pipeline * connections  # before the clock starts, on each connection
    assert told["requests"] == int(calls.partition(b",")[0]) - greeted > 0
    assert 0.05 <= told["seconds"] < 5
    assert 0 < told["p50"] <= told["p99"] <= told["p99.9"] <= told["max"]


def test_a_pace_is_kept_and_lateness_is_counted(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    told = drive(gets(server, 1, 4, seconds=0.3, rate=500.0))
    assert told["requests"] == 150
    assert 0.29 <= told["seconds"] < 5
    assert 0 < told["p50"] <= told["max"]
    timer = threading.Timer(0.3, server.resume)
    greet = generator._greet

    def greet_and_pause(*told: Any) -> None:
        greet(*told)
        server.pause()
        timer.start()

    monkeypatch.setattr(generator, "_greet", greet_and_pause)
    try:
        late = drive(gets(server, 1, 2, seconds=0.4, rate=500.0))
    finally:
        timer.cancel()
        server.resume()
    assert late["requests"] == 200  # all that were due, though nobody answered for a while
    assert late["p50"] > 50  # ms: most of them had to wait, and all of those are counted


def test_without_a_time_every_batch_is_sent_once(server: Server) -> None:
    server.command("CONFIG", "RESETSTAT")
    told = drive(gets(server, 2, 10))  # more connections than there are batches
    assert told["requests"] == 4


def test_an_error_is_not_counted_as_an_answer(server: Server) -> None:
    server.command("LPUSH", "list", "x")
    task = Task(
        socket=str(server.socket),
        connections=1,
        batches=[pack((b"GET", b"list"))],
        pipeline=1,
        begins=b"$",
        reply_bytes=len(REPLY),
    )
    with pytest.raises(CommandError, match="WRONGTYPE"):
        drive(task)


@contextlib.contextmanager
def answering(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server of one connection that has `answer` speak."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            link, _ = listener.accept()
            with link:
                answer(link)

        thread = threading.Thread(target=serve)
        thread.start()
        yield str(path)
        thread.join(10)


def http(path: str, batches: int) -> Task:
    return Task(
        socket=path,
        connections=1,
        batches=[b"GET / HTTP/1.1\r\n\r\n"] * batches,
        pipeline=1,
        begins=b"HTTP/1.1 200 ",
        ends=b"\r\n\r\nbody",
    )


def test_replies_of_varying_length_end_where_they_say(tmp_path: Path) -> None:
    def answer(link: socket.socket) -> None:
        for age in (b"9", b"10", b"100"):
            link.recv(100)
            reply = b"HTTP/1.1 200 OK\r\nAge: " + age + b"\r\n\r\nbody"
            link.sendall(reply[:-3])
            link.sendall(reply[-3:])  # possibly on its own

    with answering(tmp_path / "s", answer) as path:
        assert drive(http(path, 3))["requests"] == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\nbody", "unexpected reply.*404"),
        (b"", "the connection was closed"),
    ],
)
def test_a_wrong_answer_ends_it(tmp_path: Path, answer: bytes, words: str) -> None:
    def speak(link: socket.socket) -> None:
        link.recv(100)
        link.sendall(answer)

    with answering(tmp_path / "s", speak) as path, pytest.raises(CommandError, match=words):
        drive(http(path, 1))


def test_a_reply_that_is_too_long_ends_it(tmp_path: Path) -> None:
    def speak(link: socket.socket) -> None:
        link.recv(100)
        link.sendall(b"$3\r\nabcd\r\n")

    with answering(tmp_path / "s", speak) as path:
        task = Task(
            socket=path,
            connections=1,
            batches=[b"x"],
            pipeline=1,
            begins=b"$",
            reply_bytes=len(b"$3\r\nabc\r\n"),
        )
        with pytest.raises(CommandError, match="more bytes than"):
            drive(task)
