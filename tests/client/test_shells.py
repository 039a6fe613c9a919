"""What `Client` and `AsyncClient` (on asyncio and on uvloop) promise alike, against one suite."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from coherenced import AsyncClient, Client
from coherenced.client.core import Calls
from coherenced.client.patterns import Patterns
from coherenced.errors import (
    CommandError,
    DaemonUnreachable,
    Indeterminate,
    NotAcknowledged,
    ProtocolError,
    UsageError,
)
from tests.client.fake_daemon import CLOSE, EPOCH, SILENCE, FakeDaemon, array, bulk, error

Connect = Callable[..., Any]


def verbs(daemon: FakeDaemon) -> list[str]:
    return [command[0].decode() for command in daemon.commands]


# -- the methods ------------------------------------------------------------------


def test_a_round_trip_of_everything(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    value = {"name": "Ada", "tags": [1, 2.5, None, b"\xff"]}
    assert cache.get("user:1", "absent") == "absent"
    assert cache.set("user:1", value, ttl=60, tags=["users"]) == f"{EPOCH}:1"
    assert cache.get("user:1") == value
    entry = cache.get_entry("user:1")
    assert (entry.value, entry.version, entry.source) == (value, f"{EPOCH}:1", "l1")
    assert cache.set_many({"a": b"1", "b": "2"}).seq == 3
    assert cache.get_many(["a", "b", "c"]) == {"a": b"1", "b": "2"}
    assert cache.delete("a", "b", "c") == 2
    assert cache.invalidate(["user:1"], tags=["users"]).acknowledged == {"a": 0.0}
    stats = cache.stats()
    assert stats["asked"] == ["COH.STATS"]
    assert stats["origin"]["loads"] == 0
    assert cache.nodes() == {"asked": ["COH.NODES"]}
    assert cache.explain("k") == {"asked": ["COH.EXPLAIN", "k"]}


def test_add_stores_only_what_is_not_there(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    assert cache.add("k", b"first", ttl=60, tags=["t"]) is True
    assert cache.add("k", b"second") is False
    assert cache.get("k") == b"first"
    assert daemon.commands[0][3:] == [b"PX", b"60000", b"TAGS", b"1", b"t", b"NX"]
    daemon.script = lambda command: error(f"NOACK committed {EPOCH}:9 missing=b")
    with pytest.raises(NotAcknowledged):
        cache.add("k", b"v", ack="all")


def test_any_command(daemon: FakeDaemon, connect: Connect) -> None:
    daemon.script = lambda command: b":7\r\n" if command[0] == b"INCRBY" else None
    assert connect().execute("INCRBY", "k", 7) == 7
    assert daemon.commands == [[b"INCRBY", b"k", b"7"]]
    with pytest.raises(CommandError, match="unknown command 'NONSENSE'"):
        connect().execute("NONSENSE", write=False)


def test_nothing_to_do_opens_nothing(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    assert cache.get_many([]) == {}
    assert cache.delete() == 0
    assert not cache.set_many({})
    assert daemon.connections == 0


def test_a_large_value_both_ways(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    value = bytes(range(256)) * (1 << 15)  # 8 MiB: more than any socket buffer
    cache.set("big", value)
    assert cache.get("big") == value


def test_many_keys_both_ways(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    items = {f"k{n}": n for n in range(1001)}
    assert cache.set_many(items).seq == 1001
    assert cache.get_many(items) == items
    assert cache.delete(*items) == 1001


def test_requests_and_replies_larger_than_the_buffers_at_once(
    daemon: FakeDaemon, connect: Connect
) -> None:
    """Neither side may wait for the other to read first."""
    daemon.script = lambda command: bulk(bytes(1 << 16)) if command[0] == b"COH.GET" else None
    keys = [b"%05d" % n + bytes(1 << 14) for n in range(60)]
    found = connect().get_many(keys, max_staleness_ms=0)
    assert {len(value) for value in found.values()} == {1 << 16}


def test_a_session_reads_its_own_writes(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect(session=True)
    version = cache.set("k", b"v")
    assert cache.get("k") == b"v"
    assert daemon.commands[-1] == [b"COH.GET", b"k", b"MINVER", version.encode()]


def test_raw_bytes(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect(serializer=None)
    cache.set("k", b"\xc1\x05")
    assert cache.get("k") == b"\xc1\x05"
    assert daemon.values == {b"k": b"\xc1\x05"}


# -- errors -------------------------------------------------------------------------


def test_error_replies_leave_the_connection_usable(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    daemon.script = lambda command: error("WRONGTYPE no") if command[1:2] == [b"list"] else None
    with pytest.raises(CommandError, match="WRONGTYPE"):
        cache.get("list")
    daemon.values[b"k"] = b"v"
    assert cache.get("k") == b"v"
    assert daemon.connections == 1


def test_a_write_that_was_not_acknowledged(daemon: FakeDaemon, connect: Connect) -> None:
    daemon.script = lambda command: error(f"NOACK committed {EPOCH}:9 missing=b")
    with pytest.raises(NotAcknowledged) as caught:
        connect().set("k", b"v", ack="all", timeout=0.1)
    assert (caught.value.version, caught.value.missing) == (f"{EPOCH}:9", ("b",))


def test_no_daemon(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    daemon.close()
    with pytest.raises(DaemonUnreachable, match=r"nobody listens there.*coherenced serve"):
        cache.get("k")
    daemon.path.unlink()
    with pytest.raises(DaemonUnreachable, match=rf"{daemon.path}.*no such socket"):
        cache.get("k")


def test_a_peer_that_is_not_resp(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    daemon.script = lambda command: b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with pytest.raises(ProtocolError, match=r"http\.sock"):
        cache.get("k")
    daemon.script = lambda command: None
    assert cache.get("k") is None


def test_more_replies_than_commands_close_the_connection(
    daemon: FakeDaemon, connect: Connect
) -> None:
    cache = connect()
    daemon.script = lambda command: bulk("one") + bulk("two")
    with contextlib.suppress(ProtocolError):
        cache.get("k")
    daemon.script = lambda command: None
    try:
        assert cache.get("k") is None  # never the reply of another call
    except ProtocolError:
        assert cache.get("k") is None


def test_a_closed_client_says_so(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    cache.get("k")
    cache.close()
    with pytest.raises(UsageError, match="closed"):
        cache.get("k")


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -1}])
def test_wrong_options(connect: Connect, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        connect(**options)


# -- time-outs, lost connections, and what may be repeated -----------------------------


def test_a_refusal_of_what_is_still_being_sent_is_the_answer(
    daemon: FakeDaemon, connect: Connect
) -> None:
    """A daemon answers an oversized value with an error and closes before it has read it all."""
    cache = connect()
    daemon.max_unread = 1 << 16
    with pytest.raises(CommandError, match="too long"):
        cache.set("big", bytes(1 << 24))
    daemon.max_unread = 1 << 30
    assert cache.get("k") is None


def test_a_silent_daemon_costs_the_timeout(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect(timeout=0.05)
    daemon.script = lambda command: SILENCE
    with pytest.raises(DaemonUnreachable, match=r"no answer within 0\.05 s"):
        cache.get("k")
    with pytest.raises(Indeterminate, match="may or may not"):
        cache.set("k", b"v")
    assert verbs(daemon) == ["GET", "COH.SET"]  # neither was repeated
    daemon.script = lambda command: None
    assert cache.get("k") is None


def test_a_late_reply_is_never_given_to_another_call(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect(timeout=0.05)
    daemon.script = lambda command: SILENCE if command[1] == b"slow" else bulk(command[1])
    with pytest.raises(DaemonUnreachable):
        cache.get("slow")
    assert cache.get("fast") == b"fast"


def test_a_read_is_repeated_once_when_its_connection_was_dead(
    daemon: FakeDaemon, connect: Connect
) -> None:
    cache = connect()
    daemon.values[b"k"] = b"v"
    assert cache.get("k") == b"v"
    daemon.drop_connections()
    assert cache.get("k") == b"v"
    assert daemon.connections == 2


def test_a_read_is_not_repeated_for_ever(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    cache.get("k")
    daemon.script = lambda command: CLOSE
    with pytest.raises(DaemonUnreachable, match=r"closed the connection|reset"):
        cache.get("k")
    assert len(daemon.commands) <= 3


def test_a_write_whose_connection_died_while_idle_is_sent_on_a_new_one(
    daemon: FakeDaemon, connect: Connect
) -> None:
    cache = connect()
    cache.set("k", b"1")
    daemon.drop_connections()
    try:
        cache.set("k", b"2")
    except Indeterminate:  # the loop had not yet noticed: nothing may be assumed
        cache.set("k", b"2")
    assert daemon.values == {b"k": b"2"}


def test_a_write_that_was_sent_is_never_repeated(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    cache.set("k", b"1")
    daemon.script = lambda command: CLOSE
    with pytest.raises(Indeterminate):
        cache.set("k", b"2")
    assert [command[2] for command in daemon.commands] == [b"1", b"2"]


def test_a_restarted_daemon_is_found_again(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    cache.get("k")
    daemon.close()
    daemon.path.unlink()
    with pytest.raises(DaemonUnreachable):
        cache.get("k")
    with FakeDaemon(daemon.path) as again:
        again.values[b"k"] = b"new"
        assert cache.get("k") == b"new"


# -- the two shells are one ----------------------------------------------------------


METHODS = {name: Calls for name in vars(Calls) if not name.startswith("_")}
METHODS |= dict.fromkeys(("get_or_load", "get_entry_or_load", "warm"), Patterns)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shell", [Client, AsyncClient])
def test_each_method_is_declared_as_in_the_core(shell: type, name: str) -> None:
    method, described = getattr(shell, name), getattr(METHODS[name], name)
    ours, core = inspect.signature(method), inspect.signature(described)
    assert ours.parameters == core.parameters
    kind = "Request" if METHODS[name] is Calls else "Machine"
    assert core.return_annotation == f"{kind}[{ours.return_annotation}]"
    assert method.__doc__ == described.__doc__
    assert inspect.iscoroutinefunction(method) == (shell is AsyncClient)


@pytest.mark.parametrize("shell", [Client, AsyncClient])
def test_a_shell_has_no_other_methods(shell: type) -> None:
    public = {name for name in vars(shell) if not name.startswith("_")}
    assert public == {*METHODS, "cached", "close"}
    for made in (Client, AsyncClient):
        with pytest.raises(UsageError, match="max_connections is a whole number, at least 1"):
            made(max_connections=0)
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters
    ours, theirs = inspect.signature(Client.cached), inspect.signature(AsyncClient.cached)
    assert ours.parameters == theirs.parameters


@pytest.mark.parametrize("shell", [Client, AsyncClient])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_client_is_not_copied_but_says_what_to_do(shell: type, duplicate: Any) -> None:
    with pytest.raises(
        TypeError, match=f"^{shell.__name__} cannot be .*: make one in each process"
    ):
        duplicate(shell("/nowhere.sock"))


def test_a_password_opens_the_conversation(daemon: FakeDaemon, connect: Connect) -> None:
    daemon.password = "secret"
    with Client(f"unix://:secret@{daemon.path}", l0=False) as cache:
        assert cache.get("k") is None
    assert verbs(daemon) == ["AUTH", "GET"]
    with (
        Client(f"unix://:wrong@{daemon.path}", l0=False) as cache,
        pytest.raises(CommandError, match="WRONGPASS"),
    ):
        cache.get("k")


def test_the_reply_shape_of_another_version_is_named(daemon: FakeDaemon, connect: Connect) -> None:
    daemon.script = lambda command: array([])
    with pytest.raises(ProtocolError, match="another version"):
        connect().get_entry("k")
