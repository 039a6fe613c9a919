"""Linearizable and ordinary keys in one command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from coherenced import Client
from coherenced.cli.main import run
from coherenced.errors import Contended
from tests.cluster.daemons import Cluster, UnixHTTPConnection

SETTINGS = {"namespace.lin.match": "lin:*", "namespace.lin.linearizable": True}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(2, settings=SETTINGS) as cluster:
        yield cluster


@pytest.mark.parametrize(
    ("command", "reply", "left"),
    [
        (("DEL", "plain", "lin:0"), 2, [None, None]),
        (("UNLINK", "lin:0", "plain"), 2, [None, None]),
        (("MSET", "plain", "1", "lin:0", "2"), b"OK", [b"1", b"2"]),
        (("MSET", "lin:0", "2", "plain", "1"), b"OK", [b"1", b"2"]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_command_over_both_kinds_of_keys(
    cluster: Cluster, command: tuple[str, ...], reply: object, left: list[bytes | None]
) -> None:
    one, two = cluster.daemons
    assert one.command("SET", "plain", "x") == b"OK"
    assert one.command("SET", "lin:0", "x") == b"OK"
    assert two.command("MGET", "plain", "lin:0") == [b"x", b"x"]
    assert one.command(*command) == reply
    assert cluster.primary.commands(("GET", "plain"), ("GET", "lin:0")) == left
    assert one.command("MGET", "plain", "lin:0") == left
    # The key is free again for the next writer.
    assert two.command("SET", "lin:0", "next", timeout_s=2.0) == b"OK"


def test_a_delete_works_when_memory_is_full(cluster: Cluster) -> None:
    one, two = cluster.daemons
    server = cluster.primary
    assert one.command("SET", "lin:full", "x") == b"OK"
    assert two.command("GET", "lin:full") == b"x"
    server.command("CONFIG", "SET", "maxmemory", "1mb")
    try:
        assert str(one.command("SET", "lin:full", "y")).startswith("OOM ")
        assert one.command("DEL", "lin:full") == 1
        assert two.command("GET", "lin:full") is None
        assert str(one.command("SET", "lin:full", "z")).startswith("OOM ")
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    # A write that was refused for lack of memory left no mark behind.
    assert two.command("SET", "lin:full", "next", timeout_s=2.0) == b"OK"


def test_compare_and_set(cluster: Cluster) -> None:
    """A linearizable write's own mark is in the log behind the version that it was given."""
    one, two = cluster.daemons
    version = one.command("COH.SET", "lin:cas", "a")
    newer = two.command("COH.SET", "lin:cas", "b", "IFVER", version)
    assert isinstance(newer, bytes), newer
    assert str(one.command("COH.SET", "lin:cas", "c", "IFVER", version)).startswith("CONFLICT ")
    assert isinstance(one.command("COH.SET", "lin:cas", "c", "IFVER", newer), bytes)
    assert two.command("GET", "lin:cas") == b"c"


def test_a_write_that_does_not_get_its_turn_is_told_as_such(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is unreachable: it is worth while to try again, and nothing was done."""
    one, two = cluster.daemons
    assert one.command("SET", "lin:turn", "x") == b"OK"
    two.pause()  # it holds no copy, but nobody can know that before its time has passed
    try:
        late = ("COH.SET", "lin:turn", "y", "TIMEOUT", "100")
        assert str(one.command(*late)).startswith("TRYAGAIN not every node dropped its copy")
        with (
            redis.Redis(unix_socket_path=str(one.socket)) as common,
            pytest.raises(redis.exceptions.TryAgainError),
        ):
            common.execute_command(*late)
        with Client(one.socket) as cache, pytest.raises(Contended, match=r"not every node .* try"):
            cache.set("lin:turn", "y", timeout=0.1)
        words = ["set", "--socket", str(one.socket), "--timeout", "100ms", "lin:turn", "y"]
        assert run(words) == 1
        assert capsys.readouterr().err.startswith("coherenced: not every node dropped its copy")
        http = UnixHTTPConnection(one.http_socket, 10.0)
        http.request("PUT", "/v1/keys/lin:turn", "y", {"Coherenced-Timeout-Ms": "100"})
        answer = http.getresponse()
        assert (answer.status, b"problem:contended" in answer.read()) == (503, True)
        http.close()
    finally:
        two.resume()
    assert one.command("GET", "lin:turn") == b"x"
    assert one.command("SET", "lin:turn", "y") == b"OK"
