"""COMMAND, CONFIG GET, INFO: enough for every client, and true to the table."""

from __future__ import annotations

import pytest

from coherenced.serve.resp_settings import RespSettings
from coherenced.wire.commands import COMMANDS
from tests.serve.resp_rig import Client


@pytest.fixture
def client() -> Client:
    return Client(settings=RespSettings(version="1.2.3", node="n1", database=2))


def test_all_commands_are_described(client: Client) -> None:
    assert client.ask("COMMAND COUNT") == len(COMMANDS)
    every = client.ask("COMMAND")
    assert len(every) == len(COMMANDS)
    assert all(len(entry) == 10 for entry in every)
    assert client.ask("COMMAND INFO") == every


def test_one_command(client: Client) -> None:
    get, unknown = client.ask("COMMAND INFO get nosuch")
    assert get == [b"get", 2, [b"readonly", b"fast"], 1, 1, 1, [], [], [], []]
    assert unknown is None
    client.send("COMMAND INFO nosuch")
    assert client.raw() == b"*1\r\n$-1\r\n"


def test_what_is_a_set_in_resp3(client: Client) -> None:
    client.ask("HELLO 3")
    client.send("CLIENT TRACKINGINFO")
    assert client.raw().startswith(b"%3\r\n$5\r\nflags\r\n~1\r\n$3\r\noff\r\n")
    client.send("COMMAND INFO get")
    told = b"~2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n~0\r\n~0\r\n~0\r\n*0\r\n"
    assert client.raw().endswith(told)


def test_docs_in_both_protocols(client: Client) -> None:
    docs = client.ask("COMMAND DOCS get nosuch COH.GET")
    assert docs[::2] == [b"get", b"coh.get"]
    client.ask("HELLO 3")
    docs = client.ask("COMMAND DOCS")
    assert len(docs) == len(COMMANDS)
    assert docs[b"del"][b"group"] == b"generic"
    assert docs[b"get"][b"summary"] == b"The value of a key."


def test_lists_of_commands(client: Client) -> None:
    names = client.ask("COMMAND LIST")
    assert names == sorted(c.name.encode() for c in COMMANDS.values())
    assert client.ask("COMMAND LIST FILTERBY PATTERN COH.D*") == [b"coh.del"]
    assert client.ask("COMMAND LIST FILTERBY MODULE x") == []
    assert client.ask("COMMAND LIST FILTERBY ACLCAT read") == []


def test_keys_of_a_command(client: Client) -> None:
    assert client.ask("COMMAND GETKEYS MSET a 1 b 2") == [b"a", b"b"]
    assert client.ask("COMMAND GETKEYS GET a b") == (
        "ERR Invalid number of arguments specified for command"
    )


@pytest.mark.parametrize("name", ["COMMAND", "CLIENT", "CONFIG"])
def test_help(client: Client, name: str) -> None:
    lines = client.ask(f"{name} HELP")
    assert lines[0].startswith(f"{name} <subcommand>".encode())
    assert len(lines) > 4


def test_config_answers_what_clients_ask(client: Client) -> None:
    assert client.ask("CONFIG GET save appendonly") == [b"save", b"", b"appendonly", b"no"]
    assert client.ask("CONFIG GET databases") == [b"databases", b"3"]
    client.ask("HELLO 3")
    assert client.ask("CONFIG GET max*")[b"maxmemory-policy"] == b"noeviction"


def test_info(client: Client) -> None:
    text = client.ask("INFO").decode()
    titles = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    assert titles == ["Server", "Clients", "Memory", "Stats", "Replication", "Coherenced"]
    assert "redis_version:7.2.4\r\n" in text
    assert "coherenced_version:1.2.3\r\n" in text
    assert "connected_clients:1\r\n" in text
    assert "used_memory:42\r\n" in text
    assert "l1_max_bytes:7\r\n" in text
    assert client.ask("INFO everything").decode().count("# ") == 6


def test_sections_of_info(client: Client) -> None:
    assert client.ask("INFO server").decode().startswith("# Server\r\n")
    assert b"# Clients" not in client.ask("INFO server")
    assert client.ask("INFO CLIENTS memory").decode().count("# ") == 2
    assert client.ask("INFO nosuch") == b""
    client.ask("HELLO 3")
    client.send("INFO clients")
    assert client.raw().startswith(b"=")
