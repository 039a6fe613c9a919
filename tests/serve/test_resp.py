"""The front end on real sockets: real clients, thousands of connections, slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import redis.asyncio

from coherenced.serve.listeners import raise_file_limit, unix_socket
from coherenced.serve.resp import RespFront, serve_resp
from coherenced.serve.resp_settings import RespSettings
from tests.serve.resp_rig import RespPort, decoded, packed
from tests.serve.running import Running, read_all, read_some
from tests.servers import wait_until

SETTINGS = RespSettings(linger_ms=200, node="n1", version="1.2.3")


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(tmp_path / "s.sock", getattr(request, "param", SETTINGS))
    running.start()
    try:
        yield running
    finally:
        running.stop()


# -- real clients -----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py(running: Running, protocol: int) -> None:
    for place in ({"unix_socket_path": str(running.path)}, {"port": running.tcp_port}):
        with redis.Redis(**place, protocol=protocol) as client:  # type: ignore[arg-type]
            use(client)


def use(client: Any) -> None:
    client.flushdb()
    assert client.ping()
    assert client.set("k", "v", ex=100)
    assert client.set("k", "w", nx=True) is None
    assert client.get("k") == b"v"
    assert client.mget("k", "none") == [b"v", None]
    assert 0 < client.ttl("k") <= 100
    assert client.incr("n", 5) == 5
    with client.pipeline() as pipe:
        assert pipe.incr("n").get("n").set("k", "x").execute() == [6, b"6", True]
    with client.pipeline(transaction=False) as pipe:
        assert pipe.get("k").get("none").incr("n").execute() == [b"x", None, 7]
    with client.pipeline() as pipe:
        pipe.watch("n")
        assert pipe.get("n") == b"7"
        client.set("n", 100)
        pipe.multi()
        pipe.set("n", 8)
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.transaction(lambda p: p.multi() or p.incr("n"), "n") == [101]
    with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
        client.execute_command("GET")
    assert client.info("server")["redis_version"] == "7.2.4"
    assert client.config_get("save") == {"save": ""}
    assert client.command_count() > 50
    assert client.client_id() > 0
    assert client.delete("k", "n", "none") == 2


async def test_redis_py_asyncio(running: Running) -> None:
    client = redis.asyncio.Redis(unix_socket_path=str(running.path), protocol=3)
    async with client:
        await client.set("k", "v")
        values = await asyncio.gather(*(client.get("k") for _ in range(50)))
        assert values == [b"v"] * 50
        async with client.pipeline() as pipe:
            assert await pipe.incr("n").incr("n").execute() == [1, 2]


# -- many and slow clients --------------------------------------------------------------


def test_a_thousand_idle_connections(running: Running) -> None:
    limit = raise_file_limit()
    count = min(1_000, (limit - 200) // 2)
    assert count == 1_000, f"only {limit} open files are allowed here"
    before = resident_bytes()
    clients = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            clients.append(stack.enter_context(running.connect()))
        for client in clients[:: count // 10]:
            client.sendall(packed("PING"))
            assert client.recv(100) == b"+PONG\r\n"
        wait_until(lambda: len(running.front.connections) == count)
        assert (resident_bytes() - before) / count < 20_000
        with running.connect() as one_more:
            one_more.sendall(packed("SET k v", "GET k"))
            assert read_some(one_more, 12) == b"+OK\r\n$1\r\nv\r\n"
    wait_until(lambda: not running.front.connections)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_client_that_reads_late_gets_everything(running: Running) -> None:
    value = b"x" * 100_000
    running.port.keep(b"a-key-of-some-length", value)
    request = packed("GET a-key-of-some-length")
    with running.connect() as client:
        sender = threading.Thread(target=client.sendall, args=(request * 5_000,))
        sender.start()
        wait_until(lambda: any(c._paused for c in list(running.front.connections.values())))
        with running.connect() as other:
            other.sendall(packed("PING"))
            assert other.recv(100) == b"+PONG\r\n"
        reply = b"$100000\r\n" + value + b"\r\n"
        for _ in range(5_000):
            assert read_some(client, len(reply)) == reply
        sender.join()


SMALL = msgspec.structs.replace(SETTINGS, output_buffer_bytes=2_000_000, max_pending=10_000)


@pytest.mark.parametrize("running", [SMALL], indirect=True)
def test_what_one_client_can_make_us_keep_is_bounded(running: Running) -> None:
    """It asks without end and reads nothing; half of its keys hit, half ask Redis."""
    running.port.keep(b"a-key-of-some-length", b"x" * 50_000)
    running.port.space.execute((b"SET", b"k", b"y" * 50_000))
    running.port.fills = False
    before = resident_bytes()
    with running.connect(0.3) as client, contextlib.suppress(TimeoutError, OSError):
        for _ in range(200):
            client.sendall(packed("GET a-key-of-some-length", "GET k") * 50)
    assert resident_bytes() - before < 30_000_000


def test_a_value_that_is_too_large(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$67108865\r\n")
        with contextlib.suppress(OSError):  # it goes on sending all the same
            client.sendall(b"x" * 1_000_000)
        (told,) = decoded(read_all(client))
        assert told.startswith("ERR Protocol error: invalid bulk length: 67108865 bytes")


def test_a_value_of_64_mib(running: Running) -> None:
    value = b"x" * (64 << 20)
    with running.connect() as client:
        client.sendall(packed(("SET", "k", value)))
        assert client.recv(100) == b"+OK\r\n"
        client.sendall(packed("STRLEN k"))
        assert client.recv(100) == b":67108864\r\n"


@pytest.mark.parametrize(
    "running", [msgspec.structs.replace(SETTINGS, max_connections=3)], indirect=True
)
def test_more_connections_than_allowed(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.connect()) for _ in range(3)]
        wait_until(lambda: len(running.front.connections) == 3)
        with running.connect() as refused:
            assert read_all(refused) == b"-ERR max number of clients reached\r\n"
        clients[0].close()
        wait_until(lambda: len(running.front.connections) == 2)
        with running.connect() as accepted:
            accepted.sendall(b"PING\r\n")
            assert accepted.recv(100) == b"+PONG\r\n"
    assert running.front.stats()["rejected"] == 1


def test_half_closed_as_printf_and_nc_do(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"SET k v\r\nGET k\r\n*2\r\n$3\r\nGET\r\n$1")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"+OK\r\n$1\r\nv\r\n"


def test_stopping_hangs_up_on_idle_clients(tmp_path: Path) -> None:
    running = Running(tmp_path / "s.sock", SETTINGS)
    running.start()
    with running.connect() as client:
        client.sendall(packed("PING"))
        assert client.recv(100) == b"+PONG\r\n"
        running.stop()
        assert read_all(client) == b""
        with pytest.raises(ConnectionRefusedError):
            running.connect()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[RespFront]:
    """On the loop that tests usually run on, which is not uvloop."""
    front = await serve_resp(RespPort(), [unix_socket(tmp_path / "s.sock", 0o600)], SETTINGS)  # type: ignore[arg-type]
    yield front
    await front.close(1.0)


async def test_it_also_runs_on_asyncio(served: RespFront, tmp_path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s.sock")
    writer.write(packed("SET k v", "GET k", "GET k", "COH.GET k META", "QUIT"))
    replies = decoded(await reader.read())
    assert replies[:3] == [b"OK", b"v", b"v"]
    assert replies[3][2] == b"l2"
    assert replies[4] == b"OK"
    writer.close()
    await writer.wait_closed()
