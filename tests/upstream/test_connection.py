"""connection.py: dialling by every kind of URL, on both event loops, and one line when it fails."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio.connection as redis_connection
import uvloop

import coherenced
from coherenced.errors import RedisUnreachable
from coherenced.upstream import connection
from coherenced.upstream.connection import Pipe, dial, explain, pack
from coherenced.upstream.faults import Lost, Unsent
from tests.servers import Server, free_port, shared_server
from tests.upstream.lanes import set_
from tests.upstream.pretend import pretended
from tests.upstream.rig import Rig, settings
from tests.upstream.tls import authority, tls_port

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine on each kind of event loop."""

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(coroutine, 20))

    return run


async def exercise(rig: Rig) -> None:
    """All four connections, small and large, both ways."""
    big = bytes(range(256)) * 40_000  # 10 MB
    await rig.subscribe()
    await rig.write(set_(b"small", b"1"), set_(b"big", big))
    await rig.until(lambda: rig.delivered)
    found = await rig.fetch(b"small", b"big", b"small")
    assert [f.value for f in found.results] == [b"1", big, b"1"]
    many = await asyncio.gather(*(rig.start_fetch(b"small") for _ in range(200)))
    assert all(answer.results[0].value == b"1" for answer in many)


# -- URLs --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis", "valkey", "unix", "valkey+unix"])
def test_plain_urls(run: Any, scheme: str) -> None:
    server = shared_server()
    server.command("FLUSHALL")
    place = str(server.socket) if "unix" in scheme else f"127.0.0.1:{server.port}"

    async def go() -> None:
        async with Rig(settings(f"{scheme}://{place}")) as rig:
            await exercise(rig)

    run(go())


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_tls_urls(run: Any, scheme: str) -> None:
    server = shared_server()
    server.command("FLUSHALL")

    async def go() -> None:
        async with tls_port(server) as port:
            url = f"{scheme}://localhost:{port}"
            async with Rig(settings(url, tls_ca_file=str(authority().ca))) as rig:
                await exercise(rig)

    run(go())


def test_tls_with_a_client_certificate(run: Any) -> None:
    server, keys = shared_server(), authority()
    files = {"tls_ca_file": str(keys.ca)}
    mine = {"tls_cert_file": str(keys.cert), "tls_key_file": str(keys.key)}

    async def go() -> None:
        async with tls_port(server, client_cert=True) as port:
            url = f"rediss://127.0.0.1:{port}"
            pipe = await dial(settings(url, **files, **mine), "test")
            assert await pipe.ask("PING") == b"PONG"
            await pipe.aclose("done")
            with pytest.raises(RedisUnreachable):
                await dial(settings(url, **files), "test")

    run(go())


def test_a_database_and_a_user(run: Any) -> None:
    server = shared_server()
    server.commands(
        ["FLUSHALL"], ["ACL", "SETUSER", "app", "on", ">p@ss:w/rd", "~*", "&*", "+@all"]
    )

    async def go() -> None:
        pipe = await dial(settings(f"redis://app:p%40ss%3Aw%2Frd@127.0.0.1:{server.port}/5"), "x")
        assert await pipe.ask("ACL", "WHOAMI") == b"app"
        await pipe.ask("SET", "a", "1")
        await pipe.aclose("done")

    run(go())
    with server.session() as session:
        session.command("SELECT", 5)
        assert session.command("GET", "a") == b"1"


# -- one line for each way to fail -----------------------------------------------------------


async def failure(config: Any) -> str:
    with pytest.raises(RedisUnreachable) as raised:
        await dial(config, "test")
    text = str(raised.value)
    assert "\n" not in text
    assert "secret" not in text
    return text


async def test_nobody_listens() -> None:
    port = free_port()
    text = await failure(settings(f"redis://:secret@127.0.0.1:{port}"))
    assert f"127.0.0.1:{port} cannot be reached: " in text
    assert text.count(str(port)) == 1
    assert "; check redis.url" in text


async def test_no_socket_file(tmp_path: Path) -> None:
    text = await failure(settings(f"unix://{tmp_path}/none.sock"))
    assert f"{tmp_path}/none.sock cannot be reached: No such file or directory; check" in text


async def test_no_such_host() -> None:
    assert "cannot be reached" in await failure(settings("redis://no-such-host.invalid"))


async def test_a_server_that_has_enough_clients() -> None:
    """How the client library meets with it is a matter of who is faster; the cause is told."""
    with Server(args=("--maxclients", "1")) as server, server.session():
        for _ in range(5):
            with pytest.raises(RedisUnreachable, match="maxclients"):
                await dial(settings(server.url), "test")


async def test_a_wrong_password() -> None:
    with Server(password="right") as server:
        text = await failure(settings(server.url, password="secret"))
        assert "refuses the default user: check redis.username and redis.password" in text
        text = await failure(settings(server.url, username="bob", password="secret"))
        assert "refuses user 'bob'" in text
        for url in (server.url, server.unix_url):
            assert "refuses the default user" in await failure(settings(url))
        pipe = await dial(settings(server.url, password="right"), "x")
        assert await pipe.ask("PING") == b"PONG"
        await pipe.aclose("done")


async def test_no_such_database() -> None:
    text = await failure(settings(f"{shared_server().url}/99"))
    assert "has no database 99" in text


async def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = settings(f"redis://127.0.0.1:{port}", command_timeout_ms=100)
        assert "does not answer" in await failure(config)


def test_a_time_out_that_redis_py_wraps_names_the_place_once() -> None:
    config = settings("unix:///run/redis.sock")
    wrapped = redis.ConnectionError("Timeout reading from /run/redis.sock")
    text = explain(wrapped, config.endpoint(), config)
    assert text == f"Redis at /run/redis.sock does not answer within {config.connect_timeout_ms} ms"


async def test_a_server_that_speaks_something_else() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(100)

    async with pretended(serve) as port:
        assert "Redis at" in await failure(settings(f"redis://127.0.0.1:{port}"))


async def test_tls_failures() -> None:
    server = shared_server()
    ca = str(authority().ca)
    async with tls_port(server) as port:
        text = await failure(settings(f"rediss://127.0.0.1:{port}"))
        assert re.search("TLS with Redis at .* failed: .*certificate", text)
        text = await failure(settings(f"redis://127.0.0.1:{port}", command_timeout_ms=200))
        assert f"127.0.0.1:{port}" in text
    brief = settings(f"rediss://127.0.0.1:{server.port}", tls_ca_file=ca, connect_timeout_ms=300)
    assert "is that a TLS port?" in await failure(brief)
    text = await failure(settings("rediss://localhost:1", tls_ca_file="/no/such/file"))
    assert text == "redis.tls_ca_file: cannot read /no/such/file"


# -- the pipe --------------------------------------------------------------------------------


async def test_it_knows_its_server_and_its_own_id() -> None:
    server = shared_server()
    pipe = await dial(settings(server.url), "coherenced:host a:test")
    assert pipe.run_id.decode() == server.info_field("server", "run_id")
    listed = server.command("CLIENT", "LIST", "ID", pipe.client_id).decode()
    assert "name=coherenced:host_a:test" in listed
    await pipe.aclose("done")


async def test_what_is_hidden_is_unknown() -> None:
    server = shared_server()
    server.command("ACL", "SETUSER", "shy", "on", ">pw", "~*", "&*", "+@all", "-info", "-client")
    pipe = await dial(settings(server.url, username="shy", password="pw"), "test")
    assert (pipe.run_id, pipe.client_id) == (b"", 0)
    assert await pipe.ask("PING") == b"PONG"
    await pipe.aclose("done")


async def test_a_reply_that_does_not_come_ends_the_connection() -> None:
    server = shared_server()
    pipe = await dial(settings(server.url, command_timeout_ms=50), "test")
    replies: list[Any] = []
    pipe.send(pack(("BLPOP", "nothing", 0)) + pack(("PING",)), replies.append, replies.append)
    assert await asyncio.wait_for(asyncio.shield(pipe.lost), 5) == "no reply within 50 ms"
    assert [type(reply) for reply in replies] == [Lost, Lost]
    assert replies[0].client_id == pipe.client_id
    pipe.send(pack(("PING",)), replies.append)
    assert isinstance(replies[2], Unsent)
    await pipe.aclose("done")


async def plain_pipe(port: int, timeout_ms: float) -> Pipe:
    """A pipe on a socket that nobody has spoken on."""
    pipe = Pipe(timeout_ms)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: pipe, "127.0.0.1", port)
    pipe.take(transport, None)
    return pipe


async def test_bytes_on_their_way_are_patience() -> None:
    """A value that takes longer than the timeout, but keeps coming."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"$10\r\n")
        for _ in range(10):
            await asyncio.sleep(0.03)
            writer.write(b"x")
        writer.write(b"\r\n")
        await reader.read(1000)

    async with pretended(serve) as port:
        pipe = await plain_pipe(port, timeout_ms=120)
        assert await pipe.ask("GET", "slow") == b"x" * 10
        await pipe.aclose("done")


@pytest.mark.parametrize("junk", [b"nonsense\r\n", b"+OK\r\n+unasked\r\n"])
async def test_bytes_that_are_no_replies_end_the_connection(junk: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(junk)
        await reader.read(1000)

    async with pretended(serve) as port:
        pipe = await plain_pipe(port, timeout_ms=5000)
        pipe.send(pack(("PING",)), lambda reply: None)
        assert "the server sent" in await asyncio.wait_for(asyncio.shield(pipe.lost), 5)
        await pipe.aclose("done")


# -- redis-py's private attributes ------------------------------------------------------------


def test_redis_py_still_has_what_is_taken_over() -> None:
    source = inspect.getsource(redis_connection.AbstractConnection)
    for used in ("self._reader", "self._writer"):
        assert used in source


def test_one_function_touches_private_attributes_of_redis_py() -> None:
    folder = Path(coherenced.__file__).parent
    pattern = re.compile(r"connection\._\w+")
    found = {
        path.name: pattern.findall(path.read_text())
        for path in folder.rglob("*.py")
        if pattern.search(path.read_text()) and "redis" in path.read_text()
    }
    inside = pattern.findall(inspect.getsource(connection._take_over))
    assert found == {"connection.py": inside}
