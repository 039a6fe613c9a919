"""The proxy, with a plain echo server and a real Valkey behind it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from coherenced.lab.flows import Flow
from coherenced.lab.proxy import Proxy, everything, head_has, role
from tests.servers import Server, wait_until

TIMEOUT_S = 5.0


class Echo:
    """Answers each byte with itself; counts what it has seen."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.received = 0
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()[:2]
        return host, port

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(1 << 18):
                self.received += len(data)
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        # shutdown wakes the thread in accept; close alone does not
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.address) as proxy:
        yield proxy


@contextlib.contextmanager
def client(proxy: Proxy, name: str = "") -> Iterator[socket.socket]:
    address = proxy.address
    if isinstance(address, Path):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(address))
    else:
        connection = socket.create_connection(address)
    with connection:
        connection.settimeout(TIMEOUT_S)
        if name:
            hello = f"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n${len(name)}\r\n{name}\r\n".encode()
            assert ask(connection, hello) == hello
        yield connection


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            break
        data += more
    return data


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return receive(connection, len(data))


def is_cut(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_passes_both_ways_and_ends_cleanly(proxy: Proxy) -> None:
    with client(proxy) as connection:
        assert ask(connection, b"hello") == b"hello"
        connection.sendall(b"last")
        connection.shutdown(socket.SHUT_WR)
        assert receive(connection, 5) == b"last"
    wait_until(lambda: not proxy.connections())


def test_a_unix_socket_on_both_sides(tmp_path: Path) -> None:
    listen = tmp_path / "p.sock"
    with Server("valkey") as server, Proxy(server.socket, listen) as proxy:
        plain = redis.Redis.from_url(proxy.url)
        assert plain.set("a", "1")
        assert plain.get("a") == b"1"
        plain.close()
    assert not (tmp_path / "p.sock").exists()


def test_a_megabyte_message_arrives_whole(proxy: Proxy) -> None:
    data = os.urandom(1 << 20)
    with client(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        assert receive(connection, len(data)) == data
        sender.join()


def test_cut_resets_at_once_and_lets_new_ones_in(proxy: Proxy) -> None:
    with client(proxy) as connection:
        assert ask(connection, b"x") == b"x"
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with client(proxy) as connection:
        assert ask(connection, b"y") == b"y"


def test_delay_keeps_the_order_and_ends(proxy: Proxy) -> None:
    with client(proxy) as connection:
        assert ask(connection, b"x") == b"x"
        with proxy.delay(60):
            begun = time.monotonic()
            for byte in b"abc":
                connection.sendall(bytes([byte]))
            assert receive(connection, 3) == b"abc"
            assert time.monotonic() - begun >= 0.118
        begun = time.monotonic()
        assert ask(connection, b"z") == b"z"
        assert time.monotonic() - begun < 0.1


def test_an_end_waits_behind_what_is_delayed(proxy: Proxy) -> None:
    with client(proxy) as connection, proxy.delay(40):
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        assert receive(connection, 4) == b"bye"


def test_partition_delivers_when_it_heals(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        assert ask(connection, b"x") == b"x"
        partition = proxy.partition()
        connection.sendall(b"abc")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert echo.received == 1
        partition.undo()
        connection.settimeout(TIMEOUT_S)
        assert receive(connection, 3) == b"abc"


def test_a_new_connection_in_a_partition_waits_too(proxy: Proxy) -> None:
    with proxy.partition():
        address = proxy.address
        assert not isinstance(address, Path)
        connection = socket.create_connection(address)
        connection.sendall(b"early")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    connection.settimeout(TIMEOUT_S)
    assert receive(connection, 5) == b"early"
    connection.close()


def test_black_hole_swallows_and_cuts_when_it_ends(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as old:
        assert ask(old, b"x") == b"x"
        with proxy.black_hole(), client(proxy) as new:
            for connection in (old, new):
                connection.sendall(b"lost")
                connection.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                connection.settimeout(TIMEOUT_S)
            hole_ends = new.dup()
        assert is_cut(old)
        assert is_cut(hole_ends)
        hole_ends.close()
    assert echo.received == 1
    with client(proxy) as connection:
        assert ask(connection, b"y") == b"y"


def test_in_a_black_hole_the_server_is_not_told_that_the_client_has_gone(
    proxy: Proxy, echo: Echo
) -> None:
    with client(proxy) as connection:
        assert ask(connection, b"x") == b"x"
        hole = proxy.black_hole()
    server_end = echo.connections[0]
    server_end.settimeout(0.05)
    with pytest.raises((TimeoutError, BlockingIOError)):
        server_end.recv(1, socket.MSG_PEEK)
    hole.undo()
    wait_until(lambda: not proxy.connections())


@pytest.mark.parametrize("dead", ["up", "down"])
def test_half_open_kills_one_direction_only(proxy: Proxy, echo: Echo, dead: str) -> None:
    with client(proxy) as connection:
        assert ask(connection, b"x") == b"x"
        with proxy.half_open(dead=dead):
            connection.sendall(b"abc")
            if dead == "down":
                wait_until(lambda: echo.received == 4)
            connection.settimeout(0.05)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            assert echo.received == (4 if dead == "down" else 1)
            connection.settimeout(TIMEOUT_S)
        assert is_cut(connection)


def test_lost_replies_reach_the_server_and_not_the_client(proxy: Proxy, echo: Echo) -> None:
    with proxy.lose_replies(every=3), client(proxy) as connection:
        assert ask(connection, b"1") == b"1"
        assert ask(connection, b"2") == b"2"
        connection.sendall(b"3")
        assert is_cut(connection)
        assert echo.received == 3
        assert proxy.lost_chunks == 1


def test_refuse_lets_nobody_in_and_keeps_those_who_are(proxy: Proxy) -> None:
    with client(proxy) as connection:
        assert ask(connection, b"x") == b"x"
        address = proxy.address
        assert not isinstance(address, Path)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with pytest.raises(OSError, match="in use"):  # nor does anybody else get the port
            socket.create_server(address)
        assert ask(connection, b"y") == b"y"
        proxy.accept()
        assert proxy.address == address
    with client(proxy) as connection:
        assert ask(connection, b"z") == b"z"


def test_a_dead_target_resets_the_client(proxy: Proxy, echo: Echo) -> None:
    echo.close()
    address = proxy.address
    assert not isinstance(address, Path)
    with socket.create_connection(address) as connection:
        connection.settimeout(TIMEOUT_S)
        assert is_cut(connection)
    wait_until(lambda: not proxy.connections())


def test_a_new_target_gets_the_new_connections(proxy: Proxy) -> None:
    other = Echo()
    proxy.target = other.address
    with client(proxy) as connection:
        assert ask(connection, b"abc") == b"abc"
    assert other.received == 3
    other.close()


def test_only_the_selected_connections_suffer(proxy: Proxy) -> None:
    with (
        client(proxy, "coherenced:n1:bus") as bus,
        client(proxy, "coherenced:n1:reads") as reads,
        client(proxy) as nameless,
        proxy.half_open(role("bus", "control")),
    ):
        assert ask(reads, b"r") == b"r"
        assert ask(nameless, b"n") == b"n"
        bus.sendall(b"b")
        bus.settimeout(0.05)
        with pytest.raises(TimeoutError):
            bus.recv(1)
        found = proxy.connections(role("bus"))
        assert [(c.node, c.role) for c in found] == [("n1", "bus")]
        assert proxy.cut(role("reads")) == 1
        assert is_cut(reads)


def test_a_connection_that_says_its_name_during_the_fault_is_caught(proxy: Proxy) -> None:
    with proxy.half_open(role("bus")), client(proxy) as connection:
        assert ask(connection, b"first") == b"first"
        name = b"coherenced:n1:bus"
        connection.sendall(
            b"*3\r\n$6\r\nCLIENT\r\n$7\r\nsetname\r\n$%d\r\n%b\r\n" % (len(name), name)
        )
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_the_latest_rule_wins_and_heal_ends_all(proxy: Proxy) -> None:
    with client(proxy) as connection:
        assert ask(connection, b"hold me") == b"hold me"
        proxy.partition(head_has(b"hold"))
        newer = proxy.rule(everything, up=Flow(), down=Flow())
        assert ask(connection, b"x") == b"x"
        newer.undo()
        connection.sendall(b"y")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(TIMEOUT_S)
        proxy.refuse()
        proxy.heal()
        assert receive(connection, 1) == b"y"
    with client(proxy) as connection:
        assert ask(connection, b"z") == b"z"


def test_a_slow_reader_is_not_buffered_without_bound(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        connection.setblocking(False)
        sent = 0
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 0.1:
            with contextlib.suppress(BlockingIOError):
                sent += connection.send(bytes(1 << 16))
                quiet_since = time.monotonic()
            assert sent < 100 << 20


def test_a_real_server_through_the_proxy_under_faults() -> None:
    with Server("valkey") as server, Proxy(("127.0.0.1", server.port)) as proxy:
        with redis.Redis.from_url(proxy.url, client_name="coherenced:n1:writes") as plain:
            assert plain.incr("n") == 1
            with proxy.lose_replies(role("writes")), pytest.raises(redis.ConnectionError):
                plain.execute_command("INCR", "n")
            # Sent and applied at least once, whatever the client library did about it.
            assert int(server.command("GET", "n")) >= 2
            assert plain.ping()
        with redis.Redis.from_url(proxy.url, client_name="coherenced:n1:bus") as bus:
            pubsub = bus.pubsub()
            pubsub.subscribe("c")
            assert pubsub.get_message(timeout=TIMEOUT_S)["type"] == "subscribe"
            with proxy.half_open(role("bus")):
                server.command("PUBLISH", "c", "lost")
                assert pubsub.get_message(timeout=0.05) is None
            with pytest.raises(redis.ConnectionError):
                pubsub.connection.read_response()
            pubsub.close()


def test_at_least_fifty_megabytes_a_second() -> None:
    """One way, to a server that only counts: the proxy alone is measured."""
    total = 64 << 20
    counted = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def count() -> None:
        connection, _ = listener.accept()
        buffer = bytearray(1 << 20)
        received = 0
        with connection:
            while received < total and (size := connection.recv_into(buffer)):
                received += size
        if received == total:
            counted.set()

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    host, port = listener.getsockname()[:2]
    with listener, Proxy((host, port)) as proxy, client(proxy) as connection:
        chunk = bytes(1 << 20)
        begun = time.perf_counter()
        for _ in range(total // len(chunk)):
            connection.sendall(chunk)
        assert counted.wait(30)
        seconds = time.perf_counter() - begun
        thread.join()
    assert total / seconds / 1e6 > 50
