"""`on_unavailable="redis"`: no daemon on this host, and the others still hear of every write."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coherenced import AsyncClient, Client
from coherenced.errors import CommandError, DaemonUnreachable, RedisUnreachable, UsageError
from tests.cluster.daemons import Cluster, Daemon


@pytest.fixture
def direct(nodes: Cluster, tmp_path: Path) -> Iterator[Client]:
    url = f"redis://127.0.0.1:{nodes.primary.port}"
    with Client(tmp_path / "none.sock", on_unavailable="redis", redis=url) as client:
        yield client


@pytest.fixture
def key() -> str:
    return f"direct:{uuid.uuid4().hex}"


def test_reads_and_writes_that_the_nodes_hear_of(nodes: Cluster, direct: Client, key: str) -> None:
    with Client(nodes.daemons[0].socket) as node:
        node.set(key, {"n": 1})
        assert direct.get(key) == node.get(key) == {"n": 1}
        version = direct.set(key, {"n": 2}, ttl=60, tags=[f"tag:{key}"], ack="all")
        assert node.get(key) == {"n": 2}
        entry = direct.get_entry(key)
        assert (entry.value, entry.source, entry.found) == ({"n": 2}, "l2", True)
        assert 0 < (entry.expires_in_ms or 0) <= 60_000
        assert entry.version.epoch == version.epoch
        done = direct.invalidate(tags=[f"tag:{key}"], ack="all")
        assert {"n1", "n2"} <= done.acknowledged.keys() | set(done.fenced)
        assert direct.get(key, "gone") == node.get(key, "gone") == "gone"
        assert direct.set_many({f"{key}{n}": n for n in range(300)}).seq
        assert direct.get_many([f"{key}{n}" for n in range(301)]) == {
            f"{key}{n}": n for n in range(300)
        }
        assert direct.delete(f"{key}1", f"{key}2", "direct:none", ack="all") == 2
        assert direct.execute("INCRBY", f"{key}:count", 5) == 5
        assert direct.add(f"{key}3", "x") is False


def test_what_is_refused_is_not_told_as_unreachable(
    nodes: Cluster, direct: Client, key: str
) -> None:
    settings = {"namespace.lin.match": f"{key}:lin:*", "namespace.lin.linearizable": True}
    server = nodes.primary
    node = Daemon("linear", server.unix_url, settings).start()
    try:
        with pytest.raises(CommandError, match=r"linearizable: only a daemon can write there"):
            direct.set(f"{key}:lin:x", 1)
        server.command("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(CommandError, match=r"^OOM "):
            direct.set(key, 1)
        assert direct.delete(key) == 0
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
        node.stop()
        node.remove()


def test_a_loader_is_called_and_nothing_stored(direct: Client, key: str) -> None:
    direct.set(f"{key}:there", "stored")
    assert direct.get_or_load(f"{key}:there", lambda: "loaded") == "stored"
    assert [direct.get_or_load(key, lambda: "loaded") for _ in range(2)] == ["loaded"] * 2
    with pytest.raises(DaemonUnreachable):
        direct.nodes()
    with pytest.raises(DaemonUnreachable):
        direct.set(key, 1, if_version="0f1e2d3c4b5a6978:1")


async def test_the_same_with_await(nodes: Cluster, tmp_path: Path, key: str) -> None:
    url = f"redis://127.0.0.1:{nodes.primary.port}"
    async with AsyncClient(tmp_path / "none.sock", on_unavailable="redis", redis=url) as client:
        await client.set(key, 1, ack="all")
        assert await asyncio.gather(*(client.get(key) for _ in range(20))) == [1] * 20


def test_a_daemon_that_comes_back_is_used_again(nodes: Cluster, tmp_path: Path, key: str) -> None:
    url = f"redis://127.0.0.1:{nodes.primary.port}"
    link = tmp_path / "link.sock"
    with Client(link, on_unavailable="redis", redis=url) as client:
        client.set(key, 1)
        assert client.get_entry(key).source == "l2"
        link.symlink_to(nodes.daemons[0].socket)
        client.get(key)
        assert client.nodes()["self"] == "n1"


def test_without_a_server(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        Client(tmp_path / "none.sock", on_unavailable="redis") as client,
        pytest.raises(UsageError, match="needs a server"),
    ):
        client.get("k")
    url = "redis://127.0.0.1:1"
    with Client(tmp_path / "none.sock", on_unavailable="redis", redis=url) as client:
        assert client.get("k", "miss") == "miss"
        with pytest.raises(RedisUnreachable):
            client.set("k", 1)
