"""Leases among real daemons: the herd, the filler that dies, the update that comes in between."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest

from coherenced import Client
from coherenced.errors import UsageError
from tests.cluster.daemons import Cluster, Daemon
from tests.servers import wait_until

READERS = 100
"""On each node."""
LOAD_S = 0.2
"""How long the database takes."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(3) as cluster:
        yield cluster


class Session:
    """One client connection."""

    def __init__(self, daemon: Daemon) -> None:
        self._path = str(daemon.socket)
        self._parser = hiredis.Reader()

    async def open(self) -> Session:
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        return self

    def send(self, *argv: bytes | str) -> None:
        self._writer.write(hiredis.pack_command(argv))

    async def reply(self) -> Any:
        while (reply := self._parser.gets()) is False:
            data = await asyncio.wait_for(self._reader.read(65536), 30)
            assert data, "the daemon hung up"
            self._parser.feed(data)
        return reply

    async def ask(self, *argv: bytes | str) -> Any:
        self.send(*argv)
        return await self.reply()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


class Database:
    """What is dear to ask."""

    def __init__(self) -> None:
        self.loads = 0
        self.row = b"row 1"

    async def load(self) -> bytes:
        self.loads += 1
        row = self.row
        await asyncio.sleep(LOAD_S)
        return row


async def read_without(session: Session, key: str, database: Database) -> bytes:
    """Cache-aside as everybody writes it."""
    value = await session.ask("GET", key)
    if value is None:
        value = await database.load()
        await session.ask("SET", key, value, "PX", "60000")
    return bytes(value)


async def read_with(session: Session, key: str, database: Database) -> bytes:
    """The same with a lease."""
    answer = await session.ask("COH.LEASE", key, "WAIT", "20000")
    assert answer is not None
    if answer[0] == b"VALUE":
        return bytes(answer[1])
    value = await database.load()
    version = await session.ask("COH.FILL", key, answer[1], value, "PX", "60000")
    assert isinstance(version, bytes)
    return value


async def herd(cluster: Cluster, key: str, read: Any) -> tuple[int, float]:
    """Everybody at once. -> how often the database was asked, and the s until all had it."""
    sessions = [await Session(daemon).open() for daemon in cluster.daemons for _ in range(READERS)]
    database = Database()
    began = time.monotonic()
    values = await asyncio.gather(*(read(session, key, database) for session in sessions))
    took_s = time.monotonic() - began
    assert set(values) == {b"row 1"}
    for session in sessions:
        await session.close()
    return database.loads, took_s


async def test_three_hundred_readers_are_one_load(cluster: Cluster) -> None:
    without, without_s = await herd(cluster, "herd:without", read_without)
    claims_before = sum(d.stats()["leases"]["claims"] for d in cluster.daemons)
    loads, with_s = await herd(cluster, "herd:with", read_with)
    claims = sum(d.stats()["leases"]["claims"] for d in cluster.daemons) - claims_before
    print(
        f"{3 * READERS} readers of one missing key on 3 nodes, a load takes {LOAD_S:g} s: "
        f"{without} loads in {without_s:.2f} s without leases, "
        f"{loads} in {with_s:.2f} s with them ({claims} claims of Redis)"
    )
    assert loads == 1
    assert without > 3
    # A claim a node, once more when the fill is heard of; some hear of it before they ask.
    assert claims <= 12


async def test_a_row_that_was_read_before_its_update_is_never_cached(cluster: Cluster) -> None:
    one, two = [await Session(daemon).open() for daemon in cluster.daemons[:2]]
    token = (await one.ask("COH.LEASE", "row"))[1]
    old = b"row 1"  # …is what the database said; now it is updated, and its key invalidated
    assert await two.ask("COH.INVALIDATE", "KEYS", "1", "row", "ACK", "all")
    lost = await one.ask("COH.FILL", "row", token, old)
    assert isinstance(lost, hiredis.ReplyError)
    assert str(lost).startswith("LOST ")
    for daemon in cluster.daemons:
        assert daemon.command("GET", "row") is None
    token = (await two.ask("COH.LEASE", "row"))[1]
    version = await two.ask("COH.FILL", "row", token, b"row 2", "TAGS", "1", "table", "ACK", "all")
    assert b":" in version
    for daemon in cluster.daemons:
        assert daemon.command("GET", "row") == b"row 2"
    assert two_tags(cluster, "row") == ["table"]
    await one.close()
    await two.close()


def two_tags(cluster: Cluster, key: str) -> list[str]:
    import json

    told = json.loads(cluster.daemons[1].command("COH.EXPLAIN", key))
    tags: list[str] = told["tags"]
    return tags


async def test_a_client_that_goes_away_hands_over_at_once(cluster: Cluster) -> None:
    one, two = [await Session(daemon).open() for daemon in cluster.daemons[:2]]
    spare = await Session(cluster.daemons[0]).open()
    asked = await one.ask("COH.LEASE", "gone", "PX", "60000", "EPHEMERAL")
    assert asked[0] == b"TOKEN"
    waiting = asyncio.ensure_future(two.ask("COH.LEASE", "gone", "WAIT", "20000"))
    await asyncio.sleep(0.1)
    # As long as its process has another connection, it may fill on that one.
    await one.close()
    await asyncio.sleep(0.2)
    assert not waiting.done()
    began = time.monotonic()
    await spare.close()
    answer = await asyncio.wait_for(waiting, 10)
    assert answer[0] == b"TOKEN"
    assert time.monotonic() - began < 5.0
    assert await two.ask("COH.RELEASE", "gone", answer[1]) == 1
    await two.close()


def test_a_token_outlives_the_process_that_asked_and_may_be_filled_by_another(
    cluster: Cluster,
) -> None:
    """As a shell script does it, with a `redis-cli` for each step."""
    one, other = cluster.daemons[:2]
    asked = one.command("COH.LEASE", "scripted", "PX", "60000")  # and its connection closes
    assert asked[0] == b"TOKEN"
    assert other.command("COH.LEASE", "scripted", "WAIT", "300") is None
    assert b":" in one.command("COH.FILL", "scripted", asked[1], "made")
    assert other.command("GET", "scripted") == b"made"


async def test_a_client_does_not_wait_for_itself(cluster: Cluster) -> None:
    """On one connection: a lease that waits, and behind it the fill it waits for."""
    session = await Session(cluster.daemons[0]).open()
    token = (await session.ask("COH.LEASE", "self"))[1]
    session.send("COH.LEASE", "self", "WAIT", "20000")
    session.send("COH.FILL", "self", token, "v")
    began = time.monotonic()
    leased, version = await session.reply(), await session.reply()
    assert leased[:2] == [b"VALUE", b"v"]
    assert b":" in version
    assert time.monotonic() - began < 5.0
    await session.close()


async def test_known_not_to_exist(cluster: Cluster) -> None:
    one, two = [await Session(daemon).open() for daemon in cluster.daemons[:2]]
    waiting = [asyncio.ensure_future(two.ask("COH.LEASE", "ghost", "WAIT", "20000"))]
    token = (await waiting[0])[1]
    waiting = [asyncio.ensure_future(one.ask("COH.LEASE", "ghost", "WAIT", "20000"))]
    await asyncio.sleep(0.05)
    assert await two.ask("COH.RELEASE", "ghost", token, "ABSENT", "30000") == 1
    told = await waiting[0]
    assert told[:2] == [b"VALUE", None]
    assert 0 < told[3] <= 30_000
    assert await one.ask("SET", "ghost", "there") == b"OK"
    answer = await two.ask("COH.LEASE", "ghost", "MAXSTALE", "0")
    assert answer[:2] == [b"VALUE", b"there"]
    await one.close()
    await two.close()


def test_a_daemon_that_is_killed_is_replaced_after_the_lease(cluster: Cluster) -> None:
    killed, other = cluster.daemons[2], cluster.daemons[0]
    # And its client goes:
    assert killed.command("COH.LEASE", "orphan", "PX", "60000", "EPHEMERAL") is not None
    wait_until(lambda: other.command("COH.LEASE", "orphan") is not None)
    with SessionOf(killed) as session:
        assert session.ask("COH.LEASE", "orphan2", "PX", "1500")[0] == b"TOKEN"
        began = time.monotonic()
        killed.kill()
        answer = other.command("COH.LEASE", "orphan2", "WAIT", "20000", timeout_s=25.0)
        took_s = time.monotonic() - began
    killed.start()
    assert answer[0] == b"TOKEN"
    assert took_s < 10.0


class SessionOf:
    """A connection that stays open, without asyncio."""

    def __init__(self, daemon: Daemon) -> None:
        import socket

        self._parser = hiredis.Reader()
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(10)
        self._sock.connect(str(daemon.socket))

    def ask(self, *argv: str) -> Any:
        self._sock.sendall(hiredis.pack_command(argv))
        while (reply := self._parser.gets()) is False:
            self._parser.feed(self._sock.recv(65536))
        return reply

    def __enter__(self) -> SessionOf:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()


def test_on_the_command_line(cluster: Cluster, tmp_path: Path) -> None:
    counted = tmp_path / "runs"
    script = f"echo run >> {counted}; sleep 0.5; echo made"

    def start(daemon: Daemon, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "coherenced", "lease", "--socket", str(daemon.socket)]
        return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    several = [
        start(daemon, "cli:k", "--ttl", "60s", "--", "sh", "-c", script)
        for daemon in cluster.daemons[:2]
        for _ in range(2)
    ]
    outcomes = [one.communicate(timeout=60) for one in several]
    assert [out for out, _ in outcomes] == [b"made\n"] * 4, outcomes
    assert [one.returncode for one in several] == [0] * 4
    assert counted.read_text() == "run\n"
    failing = start(cluster.daemons[0], "cli:fails", "--", "sh", "-c", "exit 7")
    _, told = failing.communicate(timeout=60)
    assert (failing.returncode, b"ended with 7" in told) == (1, True)
    # The token was given back: the next in line need not wait for the lease.
    answer = cluster.daemons[1].command("COH.LEASE", "cli:fails")
    assert answer[0] == b"TOKEN"


def test_on_the_command_line_what_a_loader_has_not_found_is_no_value(cluster: Cluster) -> None:
    daemon = cluster.daemons[0]
    with Client(f"unix://{daemon.socket}") as cache:
        assert cache.get_or_load("cli:none", lambda: None, negative_ttl=60) is None
    command = [sys.executable, "-m", "coherenced", "lease", "--socket", str(daemon.socket)]
    ran = subprocess.run(
        [*command, "cli:none", "--", "echo", "made"], capture_output=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert b"known that there is no such thing" in ran.stderr


def test_a_snapshot_through_the_client_and_the_command_line(cluster: Cluster) -> None:
    daemon = cluster.daemons[0]
    assert daemon.command("MSET", "s:a", "1", "s:b", "1") == b"OK"
    with Client(f"unix://{daemon.socket}", serializer=None) as cache:
        assert cache.get_many(["s:a", "s:b", "s:c"], snapshot=True) == {"s:a": b"1", "s:b": b"1"}
        with pytest.raises(UsageError):
            cache.get_many([f"k{n}" for n in range(201)], snapshot=True)
    command = [sys.executable, "-m", "coherenced", "mget", "--socket", str(daemon.socket)]
    ran = subprocess.run(
        [*command, "--snapshot", "s:a", "s:b"], capture_output=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, b"s:a\t1\ns:b\t1\n")
