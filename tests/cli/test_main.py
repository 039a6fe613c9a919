from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import click
import pytest

import coherenced as package
from coherenced.cli import http, main, options
from coherenced.cli.cluster import Cluster, Daemon
from coherenced.errors import (
    CommandError,
    ConfigError,
    DaemonUnreachable,
    NotAcknowledged,
    RedisUnreachable,
    StartError,
)
from tests.cli.conftest import Done
from tests.cluster.daemons import Daemon as OfItsOwn
from tests.servers import wait_until

Call = Callable[..., Done]
PROGRAM = [sys.executable, "-m", "coherenced"]


def test_the_help_names_every_command_without_loading_one(coherenced: Call) -> None:
    done = coherenced("--help")
    assert done.code == 0
    for name, command in main.COMMANDS.items():
        assert f"  {name} " in done.text
        assert command.help in done.text
    assert "Exit codes: 0 done" in done.text


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_is_where_the_table_says_and_describes_itself(name: str) -> None:
    command = main.cli.get_command(click.Context(main.cli), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_every_option_has_a_help_text() -> None:
    for name in main.COMMANDS:
        command = main.cli.get_command(click.Context(main.cli), name)
        assert command is not None
        commands = command.commands.values() if isinstance(command, click.Group) else [command]
        for one in commands:
            options = [param for param in one.params if isinstance(param, click.Option)]
            assert all(option.help for option in options), name


def test_version(coherenced: Call) -> None:
    assert coherenced("--version").text == f"coherenced, version {package.__version__}\n"


def test_a_password_in_the_address_goes_with_every_command(
    coherenced: Call, cluster: Cluster
) -> None:
    secret = "p@ss /:%é"
    closed = OfItsOwn("closed", cluster.server.url, {"listen.password": secret})
    try:
        closed.spawn()
        wait_until(lambda: closed.socket.exists() and closed.http("/readyz")[0] == 200, 30)
        address = f"unix://:{quote(secret, safe='')}@{closed.socket}"
        for words in (["get", "k"], ["nodes"], ["writebehind"], ["watch"], ["audit"]):
            done = coherenced(*words, "--socket", closed.socket)
            assert (done.code, done.out) == (1, b"")
            assert "NOAUTH Authentication required. Give the daemon's listen.password" in done.err
            assert done.err.count("\n") == 1
            if words != ["watch"]:
                assert "NOAUTH" not in coherenced(*words, "--socket", address).err
        version = coherenced("set", "secret:1", "v", "--socket", address).text.strip()
        assert coherenced("set", "secret:2", "v", "--socket", address).code == 0
        once = ("--after", version, "--count", 1, "--json", "--socket", address)
        assert coherenced("watch", *once).document["keys"] == ["secret:2"]
        assert coherenced("top", "--count", 1, "--every", "100ms", "--socket", address).err == ""
        found = coherenced("doctor", "--socket", closed.socket)
        assert (found.code, "give its password: COHERENCED_SOCKET" in found.text) == (1, True)
        told = coherenced("doctor", "--socket", address).text
        assert "NOAUTH" not in told and "the daemon will start" not in told
        closed.stop()
    finally:
        closed.remove()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["get"], "Missing argument 'KEY'"),
        (["get", "k", "--frob"], "No such option"),
        (["get", "k", "--max-staleness", "-1"], "max-staleness"),
        (["set", "k", "v", "--ttl", "soon"], "'soon' is no duration"),
        (["set", "k", "v", "--ack", "most"], "'most' is no level"),
        (["set", "k", "v", "--replicas", "-1"], "replicas"),
        (["invalidate", "k", "--redis", "redis://h", "--replicas", "1"], "goes through a daemon"),
        (["set", "k", "v", "--if-version", "7"], "'7' is no version"),
        (["get", "k", "--min-version", "7"], "'7' is no version"),
        (["set", "k", "v", "--tag", ""], "'--tag': it must not be empty"),
        (["lease", "k", "--tag", "", "true"], "'--tag': it must not be empty"),
        (["invalidate", "--tag", ""], "'--tag': it must not be empty"),
        (["invalidate", "--prefix", ""], "'--prefix': it must not be empty"),
        (["watch", "--after", "7"], "'7' is no version"),
        (["invalidate"], "nothing to invalidate"),
        (["invalidate", "k", "--via", "redis"], "give --redis URL"),
        (["invalidate", "k", "--via", "socket", "--redis", "redis://h"], "goes with --via redis"),
        (["invalidate", "--from-file", "/no/such/file"], "No such file"),
        (["watch", "--socket", "tcp://127.0.0.1:1"], "give --http-socket"),
        (["get", "k", "--socket", "ftp://x"], "unknown address"),
        (["demo", "--nodes", "1"], "--nodes"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    coherenced: Call, words: list[str], said: str
) -> None:
    done = coherenced(*words)
    assert done.code == 2
    assert done.out == b""
    assert said in done.err
    assert done.err.startswith("coherenced: ")
    assert done.err.count("\n") == 1


@pytest.mark.skipif(not hasattr(click.exceptions, "NoArgsIsHelpError"), reason="click 8.2")
@pytest.mark.parametrize("words", [[], ["config"]])
def test_a_group_alone_shows_its_help_as_it_is_and_is_bad_usage(
    coherenced: Call, words: list[str]
) -> None:
    done = coherenced(*words)
    assert (done.code, done.out) == (2, b"")
    assert done.err == coherenced(*words, "--help").text


def test_no_daemon_is_exit_code_4(coherenced: Call, tmp_path: Path) -> None:
    for words in (["get", "k"], ["invalidate", "k"], ["nodes"], ["stats"], ["watch"]):
        done = coherenced(*words, "--socket", tmp_path / "missing.sock")
        assert done.code == 4
        assert "no such socket: start the daemon with 'coherenced serve'" in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "stats",
        "nodes",
        "explain k",
        "get k",
        "mget k",
        "set k v --ack all --timeout 8s",
        "del k",
        "invalidate k --timeout 1m",
        "audit",
        "top",
        "watch",
        "warm k",
        "lease k echo",
        "writebehind dead",
        "writebehind drop --all --namespace n",
    ],
)
def test_a_stopped_daemon_is_told_in_one_line_and_soon(
    line: str, coherenced: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel accepts connections for it. Also a write was never given to it, and is told so."""
    monkeypatch.setattr(options, "GREETING_S", 0.1)
    monkeypatch.setattr(http, "ANSWER_S", 0.1)
    with socket.socket(socket.AF_UNIX) as resp, socket.socket(socket.AF_UNIX) as web:
        for listener, path in ((resp, "coherenced.sock"), (web, "http.sock")):
            listener.bind(str(tmp_path / path))
            listener.listen()
        began = time.monotonic()
        done = coherenced("--socket", tmp_path / "coherenced.sock", *line.split())
    assert done.code == 4
    assert re.fullmatch(r"coherenced: the daemon .* answer.*\n", done.err)
    assert time.monotonic() - began < 3


def test_the_socket_may_be_named_before_or_after_the_command_or_in_the_environment(
    coherenced: Call, a: Daemon, b: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(done: Done) -> str:
        told: str = done.document["self"]
        return told

    assert name(coherenced("--socket", a.socket, "nodes", "--json")) == "a"
    assert name(coherenced("nodes", "--json", "--socket", f"unix://{b.socket}")) == "b"
    monkeypatch.setenv("COHERENCED_SOCKET", str(b.socket))
    assert name(coherenced("nodes", "--json")) == "b"
    assert name(coherenced("nodes", "--json", "--socket", a.socket)) == "a"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandError("ERR no\r\nsecond line \x1b[31m"), 1),
        (StartError("cannot start"), 1),
        (ConfigError("wrong key"), 2),
        (NotAcknowledged("late"), 3),
        (DaemonUnreachable("gone"), 4),
        (RedisUnreachable("gone"), 4),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (RuntimeError("a bug"), 1),
    ],
)
def test_every_error_is_one_line_and_a_code(
    coherenced: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(main.cli, "main", fail)
    done = coherenced("nodes")
    assert done.code == code
    assert done.err.count("\n") == (0 if code == 130 else 1)
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err
    if type(error) is RuntimeError:  # click.Abort is one, too
        assert "internal error: RuntimeError: a bug (set COHERENCED_DEBUG=1" in done.err


def test_debug_shows_where(coherenced: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(main.cli, "main", fail)
    monkeypatch.setenv("COHERENCED_DEBUG", "1")
    with pytest.raises(RuntimeError):
        coherenced("nodes")


def test_a_reader_that_goes_away_is_no_error(a: Daemon) -> None:
    watch = subprocess.Popen(
        [*PROGRAM, "--socket", a.socket, "stats", "--json", "--watch", "10ms"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watch.stdout is not None
    assert watch.stderr is not None
    with watch.stdout, watch.stderr:
        watch.stdout.readline()
        watch.stdout.close()
        assert watch.wait(20) == 1
        assert watch.stderr.read() == b""


@pytest.mark.parametrize(
    ("output", "code", "told"),
    [
        (">/dev/full", 1, "coherenced: the output cannot be written: No space left on device\n"),
        (">&-", 0, ""),
        ("<&- >&-", 0, ""),
        (">&- 2>&-", 0, ""),
    ],
)
def test_output_that_goes_nowhere(output: str, code: int, told: str) -> None:
    command = f"exec {sys.executable} -m coherenced bench --list {output}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (code, told)


def test_ctrl_c_is_quiet(a: Daemon) -> None:
    with subprocess.Popen(
        [*PROGRAM, "--socket", a.socket, "stats", "--watch", "10s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 130
        assert watch.stderr.read().strip() == b""


def cpu_ms(words: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*PROGRAM, *words], stdout=subprocess.DEVNULL, env=os.environ | environment, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


@pytest.mark.parametrize("words", [["--help"], ["invalidate", "start-up"], ["get", "warm-up"]])
def test_start_up_costs_less_than_200_ms_of_cpu(a: Daemon, words: list[str]) -> None:
    environment = {"COHERENCED_SOCKET": str(a.socket)}
    assert min(cpu_ms(words, environment) for _ in range(3)) < 200


@pytest.mark.parametrize("words", [["--help"], ["invalidate", "start-up"], ["get", "warm-up"]])
def test_a_short_command_loads_little(a: Daemon, words: list[str]) -> None:
    code = (
        "import sys; from coherenced.cli.main import run; code = run(sys.argv[1:])\n"
        "print(code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=os.environ | {"COHERENCED_SOCKET": str(a.socket)},
        capture_output=True,
        check=True,
    )
    exit_code, *modules = done.stderr.decode().split()
    assert exit_code == "0"
    heavy = {"asyncio", "rich", "redis", "aiohttp", "msgspec", "structlog", "uvloop", "http.client"}
    assert not heavy & set(modules)
