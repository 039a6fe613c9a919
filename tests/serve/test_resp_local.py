"""Commands that the connection answers itself, in Redis's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coherenced.core.requests import Fault, FaultKind
from coherenced.serve.resp_local import HANDLERS
from coherenced.serve.resp_settings import COMPATIBLE_WITH, RespSettings
from coherenced.wire.commands import listed
from tests.serve.resp_rig import Client
from tests.servers import ServerError, available_kinds, shared_server

NO_AUTH = "NOAUTH Authentication required."
WRONG = "WRONGPASS invalid username-password pair or user is disabled."


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def guarded() -> Client:
    return Client(settings=RespSettings(password="secret"))


def test_every_command_without_a_planner_has_a_handler() -> None:
    assert set(HANDLERS) == {c.name for c in listed() if c.plan is None}


SAME_AS_REDIS = [
    *("PING", "PING hello", "PING a b", "ECHO x", "ECHO", "SELECT 0", "SELECT x", "SELECT 99"),
    *("SELECT 99999999999", f"SELECT {1 << 63}", f"SELECT {-1 << 31}", f"SELECT {1 << 31}"),
    *("SELECT -1", "AUTH x", "AUTH default x", "AUTH foo x", "AUTH a b c", "RESET", "RESET x"),
    *("HELLO x", "HELLO 4", "HELLO 3 foo", "HELLO 2 SETNAME", "HELLO 3 AUTH foo bar"),
    *("CLIENT GETNAME", "CLIENT SETNAME x", "CLIENT NO-EVICT on", "CLIENT NO-EVICT x"),
    *("CLIENT REPLY ON", "CLIENT REPLY x", "CLIENT UNBLOCK 5", "CLIENT UNBLOCK x"),
    *("CLIENT UNBLOCK 5 x", "CLIENT UNBLOCK 5 error", "COMMAND INFO nosuch"),
    *("CLIENT GETREDIR", "CLIENT TRACKINGINFO", "CLIENT TRACKING OFF", "CLIENT TRACKING x"),
    *("CLIENT CACHING YES", "CLIENT LIST TYPE foo", "CLIENT LIST x", "CLIENT LIST TYPE pubsub"),
    *("EXEC", "DISCARD", "UNWATCH", "MULTI", "WATCH", "COMMAND GETKEYS get k"),
    *("COMMAND GETKEYS foo x y", "COMMAND GETKEYS mset a 1 b 2", "COMMAND GETKEYS ping x"),
    *("COMMAND DOCS nosuch", "COMMAND LIST FILTERBY x y", "COMMAND LIST x", "COMMAND COUNT x"),
    *("CONFIG GET save", "CONFIG GET nosuch", "CONFIG GET max*memory", "CONFIG GET APPENDONLY"),
    *("QUIT", "QUIT x"),
]


@pytest.mark.parametrize("kind", available_kinds())
def test_the_same_as_the_servers(kind: str) -> None:
    for text in SAME_AS_REDIS:
        client = Client()
        ours = client.ask(text)
        try:
            theirs: Any = shared_server(kind).command(*text.split())
        except ServerError as error:
            theirs = str(error)
        assert ours == theirs, text


# -- passwords --------------------------------------------------------------------------


def test_before_the_password_nothing_is_done(guarded: Client) -> None:
    guarded.port.keep(b"a-key-of-some-length", b"v")
    for command in (
        "GET a-key-of-some-length",
        "SET k v",
        "PING",
        "MULTI",
        "COH.STATS",
        "SELECT 0",
    ):
        assert guarded.ask(command) == NO_AUTH
    assert guarded.ask("NOSUCH").startswith("ERR unknown command")
    assert guarded.ask("GET").startswith("ERR wrong number")
    assert guarded.port.requests == []


@pytest.mark.parametrize(
    "command", ["AUTH secret", "AUTH default secret", "HELLO 2 AUTH default secret"]
)
def test_the_password(guarded: Client, command: str) -> None:
    guarded.port.keep(b"a-key-of-some-length", b"v")
    for wrong in ("AUTH wrong", "AUTH default wrong", "AUTH other secret"):
        assert guarded.ask(wrong) == WRONG
    assert guarded.ask("HELLO 2 AUTH default wrong") == WRONG
    assert guarded.ask("GET a-key-of-some-length") == NO_AUTH
    told = guarded.ask("HELLO 3")
    assert told.startswith("NOAUTH HELLO must be called with the client already authenticated")
    guarded.ask(command)
    assert guarded.ask("GET a-key-of-some-length") == b"v"
    assert guarded.ask("RESET") == b"RESET"
    assert guarded.ask("GET a-key-of-some-length") == NO_AUTH


async def test_large_requests_before_the_password_are_refused(guarded: Client) -> None:
    assert guarded.ask("MGET " + "k " * 20) == (
        "ERR Protocol error: unauthenticated multibulk length"
    )


def test_a_password_counts_for_what_comes_with_it(guarded: Client) -> None:
    keys = " ".join(["k"] * 20)
    replies = guarded.ask("PING", "AUTH wrong", "AUTH secret", f"EXISTS {keys}", "GET k", "PING")
    assert replies == [NO_AUTH, WRONG, b"OK", 0, None, b"PONG"]
    assert guarded.front.requests == 6


def test_quit_needs_no_password(guarded: Client) -> None:
    assert guarded.ask("QUIT") == b"OK"
    assert guarded.wire.closing


# -- HELLO, SELECT, RESET ---------------------------------------------------------------


def test_hello(client: Client) -> None:
    told = client.ask("HELLO")
    assert told[:6] == [b"server", b"coherenced", b"version", COMPATIBLE_WITH.encode(), b"proto", 2]
    told = client.ask("HELLO 3 SETNAME me")
    assert told[b"proto"] == 3
    assert told[b"id"] == client.connection.number == 1
    assert client.ask("CLIENT GETNAME") == b"me"
    assert client.ask("HELLO")[b"proto"] == 3
    assert client.ask("HELLO 2")[5] == 2
    assert client.ask("HELLO 3 SETNAME a\x07b").startswith("ERR Client names cannot contain")


def test_the_protocol_changes_between_two_replies(client: Client) -> None:
    client.send("GET none", "HELLO 3", "GET none", "HELLO 2", "GET none")
    data = client.raw()
    assert data.startswith(b"$-1\r\n%7\r\n")
    assert data.count(b"_\r\n") == 1
    assert data.endswith(b"$-1\r\n")


def test_a_reply_is_in_the_protocol_of_its_request(client: Client) -> None:
    client.port.hold()
    client.send("GET none", "HELLO 3", "GET none")
    client.port.release()
    data = client.raw()
    assert data.startswith(b"$-1\r\n%7")
    assert data.endswith(b"_\r\n")


def test_select_of_the_database_that_is_used() -> None:
    client = Client(settings=RespSettings(database=3))
    assert client.ask("SELECT 3") == b"OK"
    assert client.ask("SELECT 0") == b"OK"
    assert client.ask("SELECT 1") == "ERR DB index is out of range"


def test_reset_forgets_what_was_said(client: Client) -> None:
    client.ask("HELLO 3 SETNAME me", "MULTI")
    assert client.ask("RESET") == b"RESET"
    client.send("CLIENT GETNAME", "GET none")
    assert client.raw() == b"$-1\r\n$-1\r\n"


# -- CLIENT -----------------------------------------------------------------------------


def test_what_clients_send_on_connecting(client: Client) -> None:
    batch = (
        "CLIENT SETNAME app",
        "CLIENT SETINFO LIB-NAME redis-py(x)",
        "CLIENT SETINFO lib-ver 8.1",
        "CLIENT NO-TOUCH OFF",
        "READONLY",
    )
    assert client.ask(*batch) == [b"OK"] * 4 + ["ERR This instance has cluster support disabled"]
    line = client.ask("CLIENT INFO").decode()
    assert " name=app " in line
    assert line.endswith("lib-name=redis-py(x) lib-ver=8.1\n")
    assert "id=1 addr=/run/x.sock " in line
    # What valkey-py reads without asking whether it is there.
    for name in ("idle", "sub", "psub", "qbuf", "qbuf-free", "argv-mem", "obl", "oll", "omem"):
        assert f" {name}=0 " in line


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("CLIENT SETINFO foo a", "ERR Unrecognized option 'foo'"),
        ("CLIENT KILL ID 1", "ERR CLIENT KILL is not supported through coherenced"),
        ("CLIENT REPLY OFF", "ERR CLIENT REPLY OFF and SKIP are not supported through coherenced"),
        ("CLIENT LIST ID x", "ERR Invalid client ID"),
        ("CONFIG SET maxmemory 1", "ERR CONFIG SET is not supported through coherenced: "),
        ("CONFIG RESETSTAT", "ERR CONFIG RESETSTAT is not supported through coherenced: "),
        ("SUBSCRIBE c", "ERR SUBSCRIBE is not supported through coherenced: "),
    ],
)
def test_what_is_refused_is_refused_clearly(client: Client, command: str, told: str) -> None:
    assert client.ask(command).startswith(told)


def test_names_without_spaces(client: Client) -> None:
    for command in (("CLIENT", "SETNAME", "a b"), ("CLIENT", "SETINFO", "LIB-NAME", "a\nb")):
        assert client.ask(command).endswith(
            "cannot contain spaces, newlines or special characters."
        )


def test_tracking_is_refused_with_the_reason(client: Client) -> None:
    assert "kept coherent" in client.ask("CLIENT TRACKING ON")


def test_the_list_of_clients(client: Client) -> None:
    other = Client(front=client.front)
    assert client.ask("CLIENT ID") == 1
    assert other.ask("CLIENT ID") == 2
    lines = client.ask("CLIENT LIST").decode().splitlines()
    assert [line.split()[0] for line in lines] == ["id=1", "id=2"]
    assert client.ask("CLIENT LIST ID 2 9").decode().startswith("id=2 ")
    assert len(client.ask("CLIENT LIST TYPE normal").splitlines()) == 2
    assert client.ask("CLIENT LIST TYPE master") == b""
    client.ask("HELLO 3")
    client.send("CLIENT LIST")
    assert client.raw().startswith(b"=")


# -- the node ---------------------------------------------------------------------------


def test_stats_explain_and_nodes_are_json(client: Client) -> None:
    assert json.loads(client.ask("COH.STATS"))["l1"]["max_bytes"] == 7
    assert json.loads(client.ask("COH.EXPLAIN k")) == {"key": "k", "cached": False}
    assert client.ask("COH.EXPLAIN coh:k") == "ERR keys that start with coh: are reserved"
    client.port.hold()
    client.send("COH.NODES", "PING")
    assert client.replies() == []
    client.port.release()
    nodes, pong = client.replies()
    assert json.loads(nodes) == {"self": "a", "nodes": [], "events": []}
    assert pong == b"PONG"


def test_audit_is_json_of_what_was_asked(client: Client) -> None:
    assert json.loads(client.ask("COH.AUDIT"))["asked"] == 1000
    assert json.loads(client.ask("COH.AUDIT COUNT 7"))["asked"] == 7
    assert json.loads(client.ask("COH.AUDIT KEYS 2 a b"))["asked"] == ["a", "b"]
    for wrong in ("COUNT 0", "COUNT x", "KEYS 2 a", "KEYS 1", "ALL", "COUNT"):
        assert str(client.ask(f"COH.AUDIT {wrong}")).startswith("ERR "), wrong
    client.port.fault = Fault(FaultKind.UNAVAILABLE, "no Redis")
    assert client.ask("COH.AUDIT") == "UNAVAILABLE no Redis"
