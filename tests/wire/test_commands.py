"""The table: as the real servers have it, and the texts for what is not in it."""

from __future__ import annotations

from typing import Any

import pytest

from coherenced.wire.commands import COMMANDS, Access, keys_of, listed, lookup
from tests.servers import available_kinds, shared_server

REDIS = [c for c in listed() if not c.is_extension]


def words(text: str) -> list[bytes]:
    return [word.encode() for word in text.split()]


@pytest.fixture(scope="module", params=available_kinds())
def table(request: pytest.FixtureRequest) -> dict[str, Any]:
    names = [c.name for c in REDIS]
    described = shared_server(request.param).command("COMMAND", "INFO", *names)
    return {name: d for name, d in zip(names, described, strict=True) if d is not None}


def test_arity_and_keys_are_the_servers(table: dict[str, Any]) -> None:
    for command in REDIS:
        if command.name not in table:
            continue  # an older server
        _, arity, _, first, last, step = table[command.name][:6]
        if command.name in ("zrank", "zrevrank"):
            assert arity in (command.arity, 3)  # WITHSCORE came with Redis 7.2
        else:
            assert command.arity == arity, command.name
        assert command.keys == (first, last, step), command.name


def test_reads_are_reads_and_writes_are_writes(table: dict[str, Any]) -> None:
    for command in REDIS:
        flags = (
            {flag.decode() for flag in table[command.name][2]} if command.name in table else set()
        )
        if not flags & {"readonly", "write"}:
            continue
        expected = Access.WRITE if "write" in flags else Access.READ
        assert command.access == expected, command.name
        ours = set(command.flags) & {"readonly", "write", "denyoom"}
        assert ours == flags & {"readonly", "write", "denyoom"}, command.name


def test_arities_of_subcommands_are_the_servers(table: dict[str, Any]) -> None:
    for command in REDIS:
        theirs = {s[0].decode().partition("|")[2]: s[1] for s in table[command.name][9]}
        for name, arity in command.subcommands.items():
            if name == "getkeys":
                assert theirs[name] in (arity, -4)  # until Redis 7.0
            elif name in theirs:
                assert arity == theirs[name], f"{command.name}|{name}"
            else:
                assert name in ("no-touch", "setinfo"), name


TEXTS = [
    "get",
    "GET a b",
    "set a",
    "mset a",
    "expire a",
    "incr",
    "client",
    "client nosuch",
    "client setname",
    "CLIENT SETNAME a b",
    "client id x",
    "config",
    "config get",
    "config nosuch",
    "command nosuch",
    "command count x",
    "nosuch",
    "nosuch a b",
    "NoSuch " + "x" * 200 + " y",
    "nosuch " + "y" * 100 + " " + "z" * 100 + " more",
    "x" * 200 + " a",
    "reset x",
    "hello",
    "select",
    "touch",
]


@pytest.mark.parametrize("kind", available_kinds())
@pytest.mark.parametrize("text", TEXTS)
def test_refusals_are_in_the_servers_words(kind: str, text: str) -> None:
    from tests.servers import ServerError

    _, refused = lookup(words(text))
    try:
        shared_server(kind).command(*words(text))
        told = ""
    except ServerError as error:
        told = str(error)
    assert refused == told


def test_arguments_are_shown_up_to_a_nul() -> None:
    _, told = lookup([b"no\0such", b"a\0b", b"\xff"])
    assert told == "ERR unknown command 'no', with args beginning with: 'a' '\udcff' "


@pytest.mark.parametrize("kind", available_kinds())
def test_every_command_of_the_servers_is_here_or_told_where_it_is(kind: str) -> None:
    for name in shared_server(kind).command("COMMAND", "LIST"):
        if b"." in name or b"|" in name:  # of modules; subcommands
            continue
        command, refused = lookup([name])
        told = "connect to Redis itself" in refused
        assert told or command is not None or refused.startswith("ERR wrong number"), name


def test_what_is_elsewhere_begins_as_the_servers_own_text() -> None:
    assert lookup(words("xlen x"))[1] == (
        "ERR unknown command 'xlen', not supported through coherenced: "
        "connect to Redis itself for it"
    )


def test_names_are_found_in_any_case() -> None:
    for text in ("GET k", "get k", "gEt k", "Coh.Get k", "client GETNAME", "CLIENT getname"):
        command, refused = lookup(words(text))
        assert refused == ""
        assert command is not None
        assert command.name == text.split()[0].lower()


def test_what_would_change_the_connection_is_refused_in_plain_words() -> None:
    for name in ("SUBSCRIBE", "psubscribe", "MONITOR"):
        command, told = lookup([name.encode(), b"x"])
        assert command is None
        assert told == (
            f"ERR {name.upper()} is not supported through coherenced: "
            "connect to Redis itself for it"
        )


def test_keys_by_position() -> None:
    def keys(text: str) -> list[bytes]:
        command, _ = lookup(words(text))
        assert command is not None
        return keys_of(command, words(text))

    assert keys("GET a") == [b"a"]
    assert keys("MGET a b c") == [b"a", b"b", b"c"]
    assert keys("MSET a 1 b 2") == [b"a", b"b"]
    assert keys("SET a b EX 5") == [b"a"]
    assert keys("PING a") == []


def test_every_command_says_what_it_is() -> None:
    for command in listed():
        assert command.summary.endswith((".", "?"))
        assert command.group
        assert COMMANDS[command.name.upper().encode()] is command
        if command.plan is not None:
            assert command.access in (Access.READ, Access.WRITE)
