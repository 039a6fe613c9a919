"""What comes and goes over a connection's socket, in both forms.

Compiled, the socket is read and written past its transport (`_quiet_socket.h`): once for what has
come, straight into one buffer for all, and what a socket does not take is the transport's.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import socket
import struct
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coherenced.serve import quiet
from coherenced.serve.resp_settings import RespSettings
from tests.serve import forms
from tests.serve.resp_rig import RespPort, packed
from tests.serve.running import Running, read_all, read_some
from tests.servers import wait_until

SETTINGS = RespSettings(linger_ms=200)
CHUNK_BYTES = 256 * 1024
"""So much is read at once."""


@pytest.fixture(params=forms.FORMS)
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    form = forms.form(request.param)
    if form is None:
        pytest.skip("the compiled form is not to be had here")
    running = Running(tmp_path / "s.sock", SETTINGS, form.resp.serve_resp)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def tcp(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.tcp_port), 10)


def test_it_is_really_read_past_its_transport(running: Running) -> None:
    """Else the rest of this file would say nothing of the compiled form."""
    with running.connect() as client:
        client.sendall(packed("PING"))
        assert read_some(client, 7) == b"+PONG\r\n"
        (connection,) = running.front.connections.values()
        is_compiled = isinstance(connection, quiet.Quiet) and quiet.NATIVE
        wait_until(lambda: connection._transport.is_reading() is not is_compiled)


@pytest.mark.parametrize("place", ["unix", "tcp"])
@pytest.mark.parametrize("asked", ["GET held", "GET far", "MGET held far", "PING", "SET k v"])
def test_the_end_may_come_with_the_last_request(running: Running, place: str, asked: str) -> None:
    """Both are there when it is looked: they are one event."""
    port = running.port
    for key, value in ((b"held", b"1"), (b"far", b"2")):
        port.space.execute((b"SET", key, value))
    running.call(lambda: port.keep(b"held", b"1"))
    answers = {
        "GET held": b"$1\r\n1\r\n",
        "GET far": b"$1\r\n2\r\n",
        "MGET held far": b"*2\r\n$1\r\n1\r\n$1\r\n2\r\n",
        "PING": b"+PONG\r\n",
        "SET k v": b"+OK\r\n",
    }
    for times in (1, 3):
        with running.connect() if place == "unix" else tcp(running) as client:
            client.sendall(packed("PING"))
            assert read_some(client, 7) == b"+PONG\r\n"
            with running.standing():
                client.sendall(packed(asked) * times)
                client.shutdown(socket.SHUT_WR)
            assert read_all(client) == answers[asked] * times
    wait_until(lambda: not running.front.connections)


@pytest.mark.parametrize("size", [CHUNK_BYTES - 40, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_more_than_is_read_at_once(running: Running, size: int) -> None:
    """All of it is there before anything is read: nothing else will tell of the rest."""
    value = random.Random(size).randbytes(size)
    with tcp(running) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * size)
        sender = threading.Thread(target=client.sendall, args=(packed(("SET", "k", value)),))
        with running.standing():
            sender.start()
            sender.join(0.5)  # the whole, where the kernel takes so much
        assert read_some(client, 5) == b"+OK\r\n"
        sender.join(10)
        client.sendall(packed("GET k"))
        reply = b"$%d\r\n%b\r\n" % (size, value)
        assert read_some(client, len(reply)) == reply


@pytest.mark.parametrize("what", ["urgent", "descriptor"])
def test_where_the_kernel_stops_reading_there_is_more(running: Running, what: str) -> None:
    """Short of an urgent byte, and behind a descriptor that is passed: neither is for us."""
    with tcp(running) if what == "urgent" else running.connect() as client:
        client.sendall(packed("PING"))
        assert read_some(client, 7) == b"+PONG\r\n"
        with running.standing():
            if what == "urgent":
                client.sendall(packed("PING"))
                client.send(b"!", socket.MSG_OOB)
            else:
                socket.send_fds(client, [packed("PING")], [client.fileno()])
            client.sendall(packed("PING", "PING"))
        assert read_some(client, 21) == b"+PONG\r\n" * 3


def test_a_slow_reader_gets_everything_in_order(running: Running) -> None:
    """Large replies fill the socket; what is answered behind them comes behind them."""
    chance = random.Random(1)
    values = {b"key:%d" % number: chance.randbytes(40_000 + number) for number in range(20)}
    for key, value in values.items():
        running.call(lambda key=key, value=value: running.port.keep(key, value))  # type: ignore[misc]
    with running.connect() as client:
        expected = []
        for _ in range(40):
            key = chance.choice([*values])
            client.sendall(packed(("GET", key)))
            expected.append(b"$%d\r\n%b\r\n" % (len(values[key]), values[key]))
        for number in range(40):
            if number % 2:
                client.sendall(packed("GET nothing", "PING"))
                expected += (b"$-1\r\n", b"+PONG\r\n")
            for _ in range(2):
                told = expected.pop(0)
                assert read_some(client, len(told)) == told
        rest = b"".join(expected)
        assert read_some(client, len(rest)) == rest
        # And all of that forgotten, once it is read.
        client.sendall(packed("GET key:0"))
        reply = b"$%d\r\n%b\r\n" % (40_000, values[b"key:0"])
        assert read_some(client, len(reply)) == reply


def test_clients_that_come_and_go_do_not_get_each_others_replies(running: Running) -> None:
    """Descriptors are used again while answers to those who had them are still to come."""
    port = running.port
    for number in range(50):
        port.space.execute((b"SET", b"key:%d" % number, b"value:%d" % number))
    port.fills = False
    chance = random.Random(2)
    for _ in range(20):
        running.call(port.hold)
        gone = [running.connect() for _ in range(10)]
        for number, client in enumerate(gone):
            client.sendall(packed(f"GET key:{number}"))
        wait_until(lambda: len(port.held or ()) == 10)
        for client in gone:
            if chance.random() < 0.5:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        fresh = [running.connect() for _ in range(10)]
        numbers = [chance.randrange(50) for _ in fresh]
        for number, client in zip(numbers, fresh, strict=True):
            client.sendall(packed(f"GET key:{number}"))
        wait_until(lambda: len(port.held or ()) == 20)
        running.call(port.release)
        for number, client in zip(numbers, fresh, strict=True):
            told = b"value:%d" % number
            reply = b"$%d\r\n%b\r\n" % (len(told), told)
            assert read_some(client, len(reply)) == reply
            client.close()
    wait_until(lambda: not running.front.connections)


def test_nothing_stays_of_connections_that_are_lost(running: Running) -> None:
    kind = type(running.call(running.front.connection))
    for way in ("close", "reset", "quit"):
        clients = [running.connect() if way != "reset" else tcp(running) for _ in range(50)]
        for client in clients:
            client.sendall(packed("PING"))
            assert read_some(client, 7) == b"+PONG\r\n"
        for client in clients:
            if way == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif way == "quit":
                client.sendall(packed("QUIT"))
                assert read_all(client) == b"+OK\r\n"
            client.close()
        wait_until(lambda: not running.front.connections)

    def left() -> int:
        gc.collect()
        return sum(type(thing) is kind for thing in gc.get_objects())

    wait_until(lambda: running.call(left) == 0)


class Failing(RespPort):
    """Some keys must not be asked for."""

    def get(self, key: bytes, done: object) -> None:
        if key == b"error":
            raise RuntimeError("this must not be")
        super().get(key, done)  # type: ignore[arg-type]


def test_an_error_of_ours_ends_one_connection_and_is_logged(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    port = running.port
    running.call(lambda: setattr(port, "__class__", Failing))
    port.space.execute((b"SET", b"key", b"1"))
    with running.connect() as one, running.connect() as other:
        for client in (one, other):
            client.sendall(packed("PING"))
            assert read_some(client, 7) == b"+PONG\r\n"
        with caplog.at_level(logging.ERROR, "asyncio"):
            running.call(
                lambda: (one.sendall(packed("GET error")), other.sendall(packed("GET key")))
            )
            assert read_all(one) == b""
            assert read_some(other, 7) == b"$1\r\n1\r\n"
        assert "this must not be" in caplog.text
        wait_until(lambda: len(running.front.connections) == 1)
        other.sendall(packed("GET key"))
        assert read_some(other, 7) == b"$1\r\n1\r\n"


def test_an_error_in_cutting_one_off_is_not_for_the_others(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have sent something meanwhile, and are told of once."""
    port = running.port
    running.call(lambda: setattr(port, "__class__", Failing))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.connect()) for _ in range(5)]
        for client in clients:
            client.sendall(packed("PING"))
            assert read_some(client, 7) == b"+PONG\r\n"
        connections = [*running.front.connections.values()]

        def failed(*_: object) -> None:
            raise RuntimeError("nor can it be cut off")

        monkeypatch.setattr(type(connections[0]), "failed", failed)
        with running.standing():
            clients[0].sendall(packed("GET error"))
            for client in clients[1:]:
                client.sendall(packed("PING"))
        for client in clients[1:]:
            assert read_some(client, 7) == b"+PONG\r\n"
        running.call(lambda: [connection.abort() for connection in connections])


@pytest.mark.skipif(not quiet.NATIVE, reason="the compiled form is not to be had here")
def test_where_the_kernel_watches_no_more_the_transport_reads(tmp_path: Path) -> None:
    running = Running(tmp_path / "s.sock", SETTINGS)
    running.start()
    try:
        poller = running.front.poller
        assert poller is not None
        with running.connect() as old:
            old.sendall(packed("PING"))
            assert read_some(old, 7) == b"+PONG\r\n"
            running.call(poller.close)
            with running.connect() as new:
                value = b"v" * 1_000_000
                new.sendall(packed(("SET", "k", value), "GET k"))
                reply = b"+OK\r\n$1000000\r\n%b\r\n" % value
                assert read_some(new, len(reply)) == reply
        wait_until(lambda: len(running.front.connections) == 1)  # nobody reads the old one
    finally:
        running.stop()


@pytest.mark.skipif(not quiet.NATIVE, reason="the compiled form is not to be had here")
def test_a_poller_used_wrongly_says_so(tmp_path: Path) -> None:
    from coherenced.serve import _quiet  # type: ignore[attr-defined,unused-ignore]

    poller = _quiet.Poller()
    poller.turn()
    poller.close()
    poller.close()
    with pytest.raises(RuntimeError, match="closed"):
        poller.turn()
    running = Running(tmp_path / "s.sock", SETTINGS)
    running.start()
    try:
        with running.connect() as client:
            client.sendall(packed("PING"))
            assert read_some(client, 7) == b"+PONG\r\n"
            (connection,) = running.front.connections.values()
            with pytest.raises(ValueError, match="once"):
                running.call(lambda: connection.use_socket(_quiet.Poller(), 0))
            with pytest.raises(TypeError):
                running.call(lambda: connection.use_socket(object(), 0))
            with pytest.raises(TypeError, match="bytes"):
                running.call(lambda: connection._write("text"))  # type: ignore[arg-type]
            client.sendall(packed("PING"))
            assert read_some(client, 7) == b"+PONG\r\n"
    finally:
        running.stop()


class Wire:
    """A transport that everything may be done with."""

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


@pytest.fixture
def raw() -> Iterator[Any]:
    """Makes connections of which nothing is served."""
    if not quiet.NATIVE:
        pytest.skip("the compiled form is not to be had here")
    from coherenced.serve import _quiet  # type: ignore[attr-defined,unused-ignore]

    class Raw(_quiet.Quiet):  # type: ignore[misc]
        at_the_end: Any = None

        def __init__(self) -> None:
            none = dict.fromkeys(("hit", "now_ms", "get", "submit"))
            bounds, frame = SimpleNamespace(max_key_bytes=9), SimpleNamespace(max_bulk_bytes=9)
            settings = SimpleNamespace(bounds=bounds, frame=frame)
            port, tally = SimpleNamespace(**none), _quiet.Tally(1)
            super().__init__(SimpleNamespace(port=port, tally=tally, settings=settings))
            self._transport = Wire()

        def __del__(self) -> None:
            if self.at_the_end is not None:
                self.at_the_end()

    yield Raw


def test_the_end_of_one_that_had_its_descriptor_before_may_end_it_too(raw: Any) -> None:
    """The process ended with SIGSEGV: it was read by one poller, and believed another's."""
    from coherenced.serve import _quiet  # type: ignore[attr-defined,unused-ignore]

    old, new = raw(), raw()
    first, second = _quiet.Poller(), _quiet.Poller()
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(one) for one in socket.socketpair()]
        number = pair[0].fileno()
        old.use_socket(first, number)
        old._resume_reading()
        pair[0].close()  # behind its back
        pair += [stack.enter_context(one) for one in socket.socketpair()]
        assert pair[2].fileno() == number
        new.use_socket(first, number)

        def moved() -> None:
            new.leave_socket()
            new.use_socket(second, pair[3].fileno())

        old.at_the_end = moved
        gone = weakref.ref(old)
        del old
        new._resume_reading()
        assert gone() is None
        new.leave_socket()
    gc.collect()


def test_a_socket_is_used_once_whoever_else_is_asked(raw: Any) -> None:
    """Its transport, asked what it has still to write, did the same meanwhile: another SIGSEGV."""
    from coherenced.serve import _quiet  # type: ignore[attr-defined,unused-ignore]

    one = raw()
    first, second = _quiet.Poller(), _quiet.Poller()
    left, right = socket.socketpair()
    with left, right:

        class Hasty(Wire):
            def get_write_buffer_size(self) -> int:
                one._transport = Wire()
                one.use_socket(first, left.fileno())
                one._resume_reading()
                return 0

        one._transport = Hasty()
        with pytest.raises(ValueError, match="once"):
            one.use_socket(second, right.fileno())
        one.leave_socket()
