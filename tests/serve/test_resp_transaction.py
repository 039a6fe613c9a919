"""MULTI, EXEC, DISCARD, WATCH, UNWATCH: Redis's semantics, one atomic request."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coherenced.core.model import Mutation
from coherenced.core.requests import Fault, FaultKind, Get, Read, Write
from coherenced.serve.resp_settings import RespSettings
from coherenced.wire.framing import FrameLimits
from tests.serve.resp_rig import Client

ABORTED = "EXECABORT Transaction discarded because of previous errors."


@pytest.fixture
def client() -> Client:
    return Client()


def last_write(client: Client) -> Write:
    request = client.port.requests[-1]
    assert isinstance(request, Write)
    return request


def test_a_transaction_is_one_atomic_request(client: Client) -> None:
    replies = client.ask(
        "MULTI", "SET k 1", "incr k", "GET k", "MGET k none", "DEL k none", "TYPE k", "EXEC"
    )
    assert replies[:7] == [b"OK"] + [b"QUEUED"] * 6
    assert replies[7] == [b"OK", 2, b"2", [b"2", None], 1, b"none"]
    (write,) = client.port.requests
    assert isinstance(write, Write)
    assert write.atomic
    assert write.watch_id == 0
    assert [m.is_write for m in write.mutations] == [True, True, False, False, True, False]
    assert write.mutations[2] == Mutation((b"GET", b"k"), keys=(b"k",), is_write=False)


def test_reads_inside_never_come_from_l1(client: Client) -> None:
    client.port.keep(b"k", b"stale")
    assert client.ask("MULTI", "GET k", "EXEC")[-1] == [None]


def test_statuses_and_bulks_are_told_apart(client: Client) -> None:
    client.send("MULTI", "SET k v", "SET k w GET", "TYPE k", "EXEC")
    assert client.raw().endswith(b"*3\r\n+OK\r\n$1\r\nv\r\n+string\r\n")


def test_nothing_is_sent_before_exec(client: Client) -> None:
    client.ask("MULTI", "SET k v")
    assert client.port.requests == []
    assert client.ask("DISCARD") == b"OK"
    assert client.ask("GET k") is None
    assert client.ask("DISCARD") == "ERR DISCARD without MULTI"
    assert client.ask("EXEC") == "ERR EXEC without MULTI"


def test_an_empty_transaction(client: Client) -> None:
    assert client.ask("MULTI", "EXEC") == [b"OK", []]
    assert client.port.requests == []


def test_only_commands_of_the_connection(client: Client) -> None:
    batch = ("MULTI", "PING", "ECHO x", "CLIENT SETNAME me", "CLIENT GETNAME", "SELECT 5", "EXEC")
    replies = client.ask(*batch)
    assert replies[-1] == [b"PONG", b"x", b"OK", b"me", "ERR DB index is out of range"]
    assert client.port.requests == []


def test_connection_commands_between_data(client: Client) -> None:
    replies = client.ask("MULTI", "SET k v", "PING", "HELLO 3", "GET none", "UNWATCH", "EXEC")
    assert replies[-1][:2] == [b"OK", b"PONG"]
    assert replies[-1][2][b"proto"] == 3
    assert replies[-1][3:] == [None, b"OK"]
    client.send("GET none")
    assert client.raw() == b"_\r\n"


def test_errors_at_execution_stand_in_their_place(client: Client) -> None:
    client.port.space.execute((b"RPUSH", b"l", b"x"))
    replies = client.ask("MULTI", "GET l", "MSET a b c", "SET coh:x 1", "SET k v NO", "EXEC")
    assert replies[-1] == [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR wrong number of arguments for 'mset' command",
        "ERR keys that start with coh: are reserved",
        "ERR syntax error",
    ]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("NOSUCH", "ERR unknown command 'NOSUCH', with args beginning with: "),
        ("GET", "ERR wrong number of arguments for 'get' command"),
        ("CLIENT NOSUCH", "ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP."),
        ("COH.GET k", "ERR COH.GET is not possible inside a transaction: use Redis's commands"),
        ("DISCARD x", "ERR wrong number of arguments for 'discard' command"),
    ],
)
def test_what_cannot_be_queued_aborts_it_all(client: Client, command: str, told: str) -> None:
    replies = client.ask("MULTI", "SET k v", command, "EXEC", "EXEC")
    assert replies[2:] == [told, ABORTED, "ERR EXEC without MULTI"]
    assert client.port.requests == []


def test_exec_with_arguments(client: Client) -> None:
    told = (
        "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command"
    )
    assert client.ask("MULTI", "EXEC x", "EXEC")[1:] == [told, "ERR EXEC without MULTI"]


def test_exec_with_arguments_forgets_a_watch_that_is_under_way(client: Client) -> None:
    client.port.hold()
    client.send("WATCH k", "EXEC x", "PING")
    client.port.release()
    assert client.replies()[2] == b"PONG"
    assert client.port.watches == {}


def test_multi_and_watch_inside_multi(client: Client) -> None:
    replies = client.ask("MULTI", "MULTI", "WATCH k", "PING", "EXEC")
    assert replies[1:] == [
        "ERR MULTI calls can not be nested",
        "ERR WATCH inside MULTI is not allowed",
        b"QUEUED",
        [b"PONG"],
    ]


def test_reset_and_quit_leave_it(client: Client) -> None:
    assert client.ask("MULTI", "SET k v", "RESET", "EXEC")[2:] == [
        b"RESET",
        "ERR EXEC without MULTI",
    ]
    assert client.ask("MULTI", "SET k v", "QUIT")[2:] == [b"OK"]
    assert client.wire.closing
    assert client.port.requests == []


@pytest.mark.parametrize("count", [5, 6])
def test_its_commands_are_bounded(count: int) -> None:
    settings = RespSettings(max_transaction_commands=5)
    client = Client(settings=settings)
    replies = client.ask("MULTI", *["PING"] * count, "EXEC")
    if count == 5:
        assert replies[-1] == [b"PONG"] * 5
    else:
        assert replies[-2].startswith("ERR a transaction has at most 5 commands")
        assert replies[-1] == ABORTED


def test_its_bytes_are_bounded() -> None:
    client = Client(settings=RespSettings(frame=FrameLimits(max_query_bytes=1_000)))
    replies = client.ask("MULTI", *["SET k " + "x" * 400] * 3, "EXEC")
    assert "1000 bytes" in replies[3]
    assert replies[4] == ABORTED


def test_big_operations_inside_are_added_up(client: Client) -> None:
    keys = " ".join(f"k{i}" for i in range(500))
    pairs = " ".join(f"k{i} v" for i in range(500))
    replies = client.ask("MULTI", f"MSET {pairs}", f"EXISTS {keys} none", f"DEL {keys}", "EXEC")
    assert replies[-1] == [b"OK", 500, 500]
    assert len(last_write(client).mutations) == 9


def test_exec_waits_for_reads_before_it_and_reads_wait_for_exec(client: Client) -> None:
    client.port.hold()
    client.send("GET k", "MULTI", "SET k v", "EXEC", "GET k")
    assert client.port.requests == [Get(b"k")]
    client.port.release(1)
    assert len(client.port.requests) == 2
    client.port.release(1)
    client.port.release()
    assert client.replies() == [None, b"OK", b"QUEUED", [b"OK"], b"v"]


def test_transactions_are_pipelined(client: Client) -> None:
    client.port.hold()
    client.send(*["MULTI", "INCR n", "GET n", "EXEC"] * 3)
    assert len(client.port.requests) == 3
    client.port.release()
    assert [r for r in client.replies() if isinstance(r, list)] == [
        [1, b"1"],
        [2, b"2"],
        [3, b"3"],
    ]


def test_transactions_under_way_are_bounded_in_bytes() -> None:
    client = Client(settings=RespSettings(frame=FrameLimits(max_query_bytes=1_000)))
    client.port.hold()
    client.send(*["MULTI", "SET k " + "x" * 400, "EXEC"] * 3)
    assert len(client.port.requests) == 2
    client.port.release()
    assert client.replies() == [b"OK", b"QUEUED", [b"OK"]] * 3


def test_exec_answers_in_the_protocol_of_its_time(client: Client) -> None:
    client.port.hold()
    client.send("MULTI", "GET none", "EXEC", "HELLO 3")
    client.port.release()
    assert client.raw().startswith(b"+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n%7\r\n")


def test_a_fault_answers_exec(client: Client) -> None:
    client.port.fault = Fault(FaultKind.INDETERMINATE, "the reply was lost")
    told = "INDETERMINATE the reply was lost"
    assert client.ask("MULTI", "SET k v", "EXEC")[-1] == told
    assert client.ask("EXEC") == "ERR EXEC without MULTI"


# -- WATCH ------------------------------------------------------------------------------


def test_watched_and_unchanged(client: Client) -> None:
    replies = client.ask("WATCH k other", "GET k", "MULTI", "SET k v", "EXEC", "GET k")
    assert replies == [b"OK", None, b"OK", b"QUEUED", [b"OK"], b"v"]
    write = client.port.requests[1]
    assert isinstance(write, Write)
    assert write.watch_id == 1
    assert client.port.watches == {}


@pytest.mark.parametrize(("resp3", "nil"), [(False, b"*-1\r\n"), (True, b"_\r\n")])
def test_watched_and_changed(client: Client, resp3: bool, nil: bytes) -> None:
    other = Client(front=client.front)
    if resp3:
        client.ask("HELLO 3")
    client.ask("WATCH k")
    other.ask("SET k theirs")
    client.send("MULTI", "SET k ours", "EXEC")
    assert client.raw() == b"+OK\r\n+QUEUED\r\n" + nil
    assert client.ask("GET k") == b"theirs"
    assert client.ask("MULTI", "SET k ours", "EXEC")[-1] == [b"OK"]


def test_its_own_write_after_watch_counts_too(client: Client) -> None:
    assert client.ask("WATCH k", "SET k v", "MULTI", "GET k", "EXEC")[-1] is None


def test_only_local_commands_under_watch_are_still_checked(client: Client) -> None:
    other = Client(front=client.front)
    client.ask("WATCH k")
    assert client.ask("MULTI", "PING", "EXEC")[-1] == [b"PONG"]
    client.ask("WATCH k")
    other.ask("SET k v")
    assert client.ask("MULTI", "PING", "EXEC")[-1] is None


def test_while_watching_reads_ask_redis(client: Client) -> None:
    client.port.keep(b"a-key-of-some-length", b"stale")
    client.ask("WATCH other")
    assert client.ask("GET a-key-of-some-length") is None
    assert client.port.requests == [Read((b"a-key-of-some-length",), skip_l1=True)]
    assert client.ask("UNWATCH") == b"OK"
    client.port.keep(b"a-key-of-some-length", b"fresh")
    assert client.ask("GET a-key-of-some-length") == b"fresh"
    assert client.port.watches == {}


def test_discard_and_abort_give_the_watch_back(client: Client) -> None:
    client.ask("WATCH k", "MULTI", "DISCARD")
    assert client.port.watches == {}
    assert client.ask("WATCH k", "MULTI", "NOSUCH", "EXEC")[-1] == ABORTED
    assert client.port.watches == {}
    client.ask("WATCH k", "RESET")
    assert client.port.watches == {}


def test_a_client_that_goes_gives_its_watch_back(client: Client) -> None:
    client.ask("WATCH k")
    client.wire.close()
    assert client.port.watches == {}


def test_a_client_that_goes_before_its_watch_is_there(client: Client) -> None:
    client.port.hold()
    client.send("WATCH k")
    client.wire.close()
    client.port.release()
    assert client.port.watches == {}


def test_watch_waits_for_everything_and_everything_waits_for_it(client: Client) -> None:
    client.port.hold()
    client.send("SET k 1", "WATCH k", "GET k", "MULTI", "SET k 2", "EXEC")
    told: list[Any] = []
    for _ in range(4):
        assert client.port.held is not None
        told.append(len(client.port.held))
        client.port.release(1)
    client.port.release()
    assert told == [1, 1, 1, 1]
    assert client.replies() == [b"OK", b"OK", b"1", b"OK", b"QUEUED", [b"OK"]]


def test_a_watch_that_broke_aborts(client: Client) -> None:
    client.ask("WATCH a")
    client.port.fault = Fault(FaultKind.UNAVAILABLE, "the connection is gone")
    assert client.ask("WATCH b") == "UNAVAILABLE the connection is gone"
    client.port.fault = None
    assert client.ask("WATCH c") == b"OK"
    assert client.ask("MULTI", "SET k v", "EXEC")[-1] is None
    assert client.port.space.execute((b"GET", b"k")) is None
    assert client.ask("MULTI", "SET k v", "EXEC")[-1] == [b"OK"]


def test_watched_keys_are_bounded_and_checked(client: Client) -> None:
    assert client.ask("WATCH coh:x") == "ERR keys that start with coh: are reserved"
    settings = msgspec.structs.replace(client.front.settings, max_watched_keys=3)
    bounded = Client(settings=settings)
    assert bounded.ask("WATCH a b") == b"OK"
    assert bounded.ask("WATCH c d") == "ERR at most 3 keys can be watched at once"
