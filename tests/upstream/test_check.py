"""check.py: what a look at a server shows, and what stands in the way, a line each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import hiredis
import pytest

from coherenced.errors import RedisUnreachable
from coherenced.upstream.check import UNKNOWN, ServerFacts, inspect
from tests.servers import Server, free_port, primary_and_replica, shared_server
from tests.upstream.pretend import pretended
from tests.upstream.rig import settings


def one_line(facts: ServerFacts) -> str:
    """The one blocker there is."""
    (line,) = facts.blockers
    assert "\n" not in line
    return line


async def test_a_server_that_is_fit(server: Server) -> None:
    facts = await inspect(settings(server.url))
    assert facts.place == f"127.0.0.1:{server.port}"
    assert facts.server == ("valkey" if server.kind == "valkey" else "redis")
    assert facts.version.startswith({"valkey": "9.", "redis8": "8.", "redis7": "7."}[server.kind])
    assert (facts.role, facts.mode) == ("master", "standalone")
    assert (facts.maxmemory_bytes, facts.maxmemory_policy) == (0, "noeviction")
    assert facts.pubsub_limit_bytes == 32 << 20
    assert (facts.blockers, facts.warnings, facts.refused) == ((), (), ())
    assert facts.can_write
    assert 0 < facts.latency_ms < 1000
    assert server.command("DBSIZE") == 0, "it leaves nothing behind"


async def test_by_unix_socket(server: Server) -> None:
    assert (await inspect(settings(server.unix_url))).place == str(server.socket)


async def test_eviction_and_small_buffers_are_warned_of() -> None:
    limit = ["--client-output-buffer-limit", "pubsub", "100kb", "50kb", "1"]
    with Server(args=["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru", *limit]) as s:
        facts = await inspect(settings(s.url))
    assert facts.blockers == ()
    eviction, buffers = facts.warnings
    assert "allkeys-lru can evict coherenced's own metadata" in eviction
    assert "client-output-buffer-limit pubsub 102400" in buffers


async def test_a_full_server_is_fit_and_told() -> None:
    server = shared_server()
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        facts = await inspect(settings(server.url))
        assert facts.blockers == ()
        (full,) = facts.warnings
        assert "of maxmemory 1 bytes are used, and past it writes are refused" in full
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")


async def test_a_replica_and_a_cut_off_primary() -> None:
    with primary_and_replica() as (primary, replica):
        facts = await inspect(settings(replica.url))
        assert "is a replica: give redis.url its primary" in one_line(facts)
        assert facts.refused[0].startswith("READONLY")
        primary.command("CONFIG", "SET", "min-replicas-to-write", "2")
        facts = await inspect(settings(primary.url))
        assert "accepts no writes: NOREPLICAS" in one_line(facts)
        assert not facts.can_write


async def test_a_user_with_too_few_permissions(server: Server) -> None:
    for name, rules in {
        "no-publish": ["~*", "&*", "+@all", "-publish"],
        "no-channels": ["~*", "resetchannels", "+@all"],
        "no-keys": ["~app:*", "&*", "+@all"],
        "no-scripts": ["~*", "&*", "+@all", "-@scripting"],
        "no-streams": ["~*", "&*", "+@all", "-xadd"],
    }.items():
        server.command("ACL", "SETUSER", name, "reset", "on", ">pw", *rules)
        facts = await inspect(settings(server.url, username=name, password="pw"))
        line = one_line(facts)
        assert line.startswith("the user of redis.url may not do what coherenced needs")
        assert "@user_script" not in line
        if name == "no-streams":
            assert facts.refused[0].startswith("XADD")
        server.command("ACL", "DELUSER", name)


async def test_what_is_hidden_is_unknown(server: Server) -> None:
    server.command(
        "ACL", "SETUSER", "shy", "reset", "on", ">pw", "~*", "&*", "+@all", "-info", "-config"
    )
    facts = await inspect(settings(server.url, username="shy", password="pw"))
    server.command("ACL", "DELUSER", "shy")
    assert facts.blockers == ()
    assert (facts.maxmemory_bytes, facts.maxmemory_policy) == (-1, UNKNOWN)
    assert facts.pubsub_limit_bytes == -1
    assert facts.version != UNKNOWN, "HELLO still tells it"
    assert facts.role == "master"


async def test_nobody_there() -> None:
    with pytest.raises(RedisUnreachable, match="cannot be reached"):
        await inspect(settings(f"redis://127.0.0.1:{free_port()}"))


@contextlib.asynccontextmanager
async def pretended_server(info: bytes) -> AsyncIterator[int]:
    """Answers as a server would whose INFO is `info`, and knows no scripts with a shebang."""
    answers = {
        b"CLIENT": b":7\r\n",
        b"INFO": b"$%d\r\n%b\r\n" % (len(info), info),
        b"PING": b"+PONG\r\n",
        b"CONFIG": b"*0\r\n",
    }

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(1 << 16):
            parser.feed(data)
            while (words := parser.gets()) is not False:
                writer.write(answers.get(words[0], b"-ERR Error compiling script\r\n"))

    async with pretended(serve) as port:
        yield port


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (b"redis_version:6.2.14\r\nrole:master\r\n", "redis 6.2.14"),
        (b"redis_version:7.2.4\r\nvalkey_version:7.1.0\r\n", "valkey 7.1.0"),
    ],
)
async def test_a_server_that_is_too_old(info: bytes, told: str) -> None:
    async with pretended_server(info) as port:
        facts = await inspect(settings(f"redis://127.0.0.1:{port}"))
    assert one_line(facts) == (
        f"{told} at 127.0.0.1:{port} is too old: coherenced needs at least redis 7.0, valkey 7.2"
    )


async def test_a_cluster_is_not_for_us_yet() -> None:
    args = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    with Server(args=args) as server:
        facts = await inspect(settings(server.url))
    assert any("runs as cluster: give redis.url a standalone server" in b for b in facts.blockers)
