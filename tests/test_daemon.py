"""The whole daemon, from outside: what it survives, what it refuses, and in which words."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis

from coherenced.cli.http import listen
from coherenced.upstream.check import OLDEST
from tests.cluster.daemons import Daemon
from tests.servers import Server, available_kinds, wait_until

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("valkey") as server:
        yield server


@pytest.fixture(scope="module")
def daemon(server: Server) -> Iterator[Daemon]:
    daemon = Daemon("one", server.unix_url).start()
    yield daemon
    daemon.stop()


def client(daemon: Daemon, **options: Any) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(daemon.socket), retry=None, socket_timeout=20, **options
    )


def run(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`coherenced serve` that is expected to end by itself."""
    base = {k: v for k, v in os.environ.items() if not k.startswith("COHERENCED_")}
    return subprocess.run(
        [sys.executable, "-m", "coherenced", "serve", *arguments],
        env=base | (environ or {}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in result.stderr
    told = ('"error"', "coherenced:")
    lines = [line for line in result.stderr.splitlines() if any(t in line for t in told)]
    assert len(lines) == 1, result.stderr
    return lines[0]


# -- each available server ----------------------------------------------------------------


@pytest.mark.parametrize("kind", available_kinds())
def test_runs_over_each_available_server(kind: str) -> None:
    with Server(kind) as server:
        a = Daemon("a", server.unix_url).start()
        b = Daemon("b", server.unix_url).start()
        try:
            with client(a) as on_a, client(b) as on_b:
                on_a.set("k", "old")
                assert on_b.get("k") == b"old"
                assert on_b.execute_command("COH.GET", "k", "META")[2] == b"l1"
                on_a.execute_command("COH.SET", "k", "new", "ACK", "all")
                value, _, source, _, stale = on_b.execute_command("COH.GET", "k", "META")
                assert (value, source, stale) == (b"new", b"l2", 0)
                assert server.command("GET", "k") == b"new"
                pipeline = on_a.pipeline()
                pipeline.incr("n").incrby("n", 9007199254740993).get("n")
                assert pipeline.execute() == [1, 9007199254740994, b"9007199254740994"]
        finally:
            b.stop()
            a.stop()


# -- bad input ----------------------------------------------------------------------------


def raw(daemon: Daemon, data: bytes, timeout_s: float = 5.0) -> bytes:
    """Send bytes, hang up our side, and read until the daemon hangs up."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout_s)
        sock.connect(str(daemon.socket))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
        return answer


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
        (b"PING\r\n", b"+PONG\r\n"),
        (b"*1\r\n$4\r\nPI", b""),
        (b"*1\r\n:4\r\n", b"-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"*99999999\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n$999999999999\r\n", b"-ERR Protocol error: invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$5\r\na\r\nb\x00\r\n", b"$-1\r\n"),
    ],
)
def test_malformed_half_and_odd_frames(daemon: Daemon, data: bytes, answer: bytes) -> None:
    assert raw(daemon, data).startswith(answer)
    with client(daemon) as good:
        assert good.ping()


def test_binary_keys_and_values(daemon: Daemon) -> None:
    key, value = bytes(range(256)), b"\r\n$-1\r\n\x00\xff" * 10
    with client(daemon) as c:
        assert c.set(key, value)
        assert c.get(key) == value
        assert c.mget(key, b"\xff\xfe") == [value, None]
        assert c.delete(key) == 1


def test_an_oversized_key_is_refused_in_one_line(daemon: Daemon) -> None:
    with client(daemon) as c:
        with pytest.raises(redis.ResponseError, match="key"):
            c.set(b"k" * 20_000, b"v")
        assert c.ping()


def test_a_value_of_64_mib_passes_and_a_larger_one_is_refused(daemon: Daemon) -> None:
    large = b"x" * (64 * MIB)
    with client(daemon) as c:
        assert c.set("large", large)
        assert c.get("large") == large
        assert c.execute_command("COH.GET", "large", "META")[2] == b"l2"  # passed through
        c.delete("large")
        with pytest.raises((redis.ConnectionError, redis.ResponseError)):
            c.set("larger", large + b"x" * MIB)
    with client(daemon) as c:
        assert c.ping()


def test_unknown_options_and_wrong_types(daemon: Daemon, server: Server) -> None:
    server.command("RPUSH", "list", "a")
    with client(daemon) as c:
        for command, text in (
            (("GET", "list"), "WRONGTYPE"),
            (("SET", "k", "v", "NOPE"), "syntax error"),
            (("SET", "k", "v", "EX", "0"), "invalid expire time in 'set' command"),
            (("COH.SET", "k", "v", "ACK", "some"), "ack is one of"),
            (("NONSENSE", "k"), "unknown command 'NONSENSE'"),
            (("GET",), "wrong number of arguments for 'get' command"),
            (("SET", "coh:x", "v"), "reserved"),
        ):
            with pytest.raises(redis.ResponseError, match=text):
                c.execute_command(*command)
        assert c.ping()


def has_room(daemon: Daemon) -> bool:
    """Its queue of new connections takes one more: a redis client does not wait for that."""
    with socket.socket(socket.AF_UNIX) as one:
        one.setblocking(False)
        return one.connect_ex(str(daemon.socket)) != errno.EAGAIN


def test_ten_thousand_idle_connections(daemon: Daemon) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 500)), hard))
    idle: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket(socket.AF_UNIX)
            idle.append(sock)
            while sock.connect_ex(str(daemon.socket)) == errno.EAGAIN:
                time.sleep(0.001)  # its queue is full: a busy machine
        wait_until(lambda: has_room(daemon), 30)
        with client(daemon) as c:
            assert c.set("k", "v")
            assert c.get("k") == b"v"
    finally:
        for sock in idle:
            sock.close()
    with client(daemon) as c:
        wait_until(lambda: c.info("clients")["connected_clients"] < 100, 10)


def test_clients_that_never_finish_do_not_hold_up_the_end(server: Server) -> None:
    """Half a body over HTTP, and answers that nobody fetches: one short grace for both."""
    daemon = Daemon("slowpoke", server.unix_url).start()
    with contextlib.ExitStack() as open_sockets:
        half = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
        half.connect(str(daemon.http_socket))
        half.sendall(b"PUT /v1/keys/k HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nhalf")
        deaf = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
        deaf.connect(str(daemon.socket))
        deaf.sendall(b"SET big " + b"v" * 60_000 + b"\r\n" + b"GET big\r\n" * 1_000)
        with client(daemon) as c:
            wait_until(lambda: c.info("clients")["connected_clients"] > 1)
            wait_until(lambda: c.get("big"), what="the value is there")
        begun = time.monotonic()
        daemon.stop()
        assert time.monotonic() - begun < 4.5


# -- places and servers -------------------------------------------------------------------


def test_a_live_daemon_on_the_socket_is_left_alone(daemon: Daemon, server: Server) -> None:
    result = run("--redis", server.unix_url, environ={"RUNTIME_DIRECTORY": str(daemon.directory)})
    assert result.returncode == 1
    assert "already answers" in one_line(result)
    with client(daemon) as c:
        assert c.ping()


def test_a_stale_socket_file_is_replaced(server: Server) -> None:
    first = Daemon("first", server.unix_url).start()
    first.kill()
    assert first.socket.exists()
    first.start()
    with client(first) as c:
        assert c.ping()
    first.stop()


def test_a_stream_goes_on_where_it_was_after_a_restart(daemon: Daemon, server: Server) -> None:
    other = Daemon("other", server.unix_url).start()
    try:
        with client(daemon) as c:
            first = c.execute_command("COH.SET", "stream:0", "x").decode()
            other.stop()
            for number in range(1, 151):
                last = c.execute_command("COH.SET", f"stream:{number}", "x").decode()
            other.start()
            told = []
            for event in listen(str(other.http_socket), "/v1/invalidations", first):
                if event.name == "open":
                    continue
                assert event.name == "invalidation", "nothing is missing"
                told += event.data["keys"]
                if event.id == last:
                    break
            assert told == [f"stream:{number}" for number in range(1, 151)]
    finally:
        other.stop()


def test_a_missing_runtime_directory_is_named(tmp_path: Path, server: Server) -> None:
    missing = tmp_path / "not" / "there"
    result = run("--redis", server.unix_url, environ={"RUNTIME_DIRECTORY": str(missing)})
    assert result.returncode in (1, 2)
    assert str(missing) in one_line(result)


def test_a_runtime_directory_that_is_a_file_is_named(tmp_path: Path, server: Server) -> None:
    file = tmp_path / "file"
    file.write_text("")
    result = run("--redis", server.unix_url, environ={"RUNTIME_DIRECTORY": str(file)})
    assert result.returncode in (1, 2)
    assert str(file) in one_line(result)


def test_a_wrong_url_is_a_usage_error() -> None:
    result = run("--redis", "http://example")
    assert result.returncode == 2
    assert "redis" in one_line(result)


def test_an_unreachable_server_is_told_once_and_waited_for(tmp_path: Path) -> None:
    with Server("valkey") as server:
        server.kill()
        daemon = Daemon("waits", server.unix_url)
        daemon.spawn()
        try:
            wait_until(lambda: "cannot be reached" in daemon.log.read_text(), 10)
            wait_until(daemon.socket.exists, 10)
            with client(daemon) as c, pytest.raises(redis.ResponseError, match="UNAVAILABLE"):
                c.get("k")
            told = daemon.log.read_text()
            assert "not connected yet" in told and "connection lost" not in told
            server.restart("empty")
            daemon.wait_ready()
            with client(daemon) as c:
                assert c.set("k", "v")
        finally:
            daemon.stop()


def test_a_wrong_password_is_told_without_the_password() -> None:
    with Server("valkey", password="right") as server:
        url = server.url.replace("redis://", "redis://:wrong-secret@")
        daemon = Daemon("locked-out", url)
        daemon.spawn()
        try:
            wait_until(lambda: "password" in daemon.log.read_text().lower(), 10)
            assert "wrong-secret" not in daemon.log.read_text()
            assert daemon.running
        finally:
            daemon.stop()


class OldServer(socketserver.StreamRequestHandler):
    """As much of a Redis 6.2 as a client sees before it sends commands."""

    INFO = b"redis_version:6.2.14\r\nredis_mode:standalone\r\nrole:master\r\nrun_id:%040d\r\n" % 1

    def handle(self) -> None:
        reader = hiredis.Reader()
        while data := self.request.recv(65536):
            reader.feed(data)
            while (request := reader.gets()) is not False:
                if request[0].upper() == b"INFO":
                    self.wfile.write(b"$%d\r\n%b\r\n" % (len(self.INFO), self.INFO))
                else:
                    self.wfile.write(b"+OK\r\n")


def test_too_old_a_server_is_refused(tmp_path: Path) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OldServer) as old:
        old.daemon_threads = True
        threading.Thread(target=old.serve_forever, daemon=True).start()
        url = f"redis://127.0.0.1:{old.server_address[1]}"
        result = run("--redis", url, environ={"RUNTIME_DIRECTORY": str(tmp_path)})
        old.shutdown()
    assert result.returncode == 1, result.stderr
    assert ".".join(map(str, OLDEST["redis"])) in one_line(result)


# -- Redis killed and restarted under load --------------------------------------------------


def test_redis_killed_and_restarted_under_load() -> None:
    """Within the bound reads are served; past it one clear error; afterwards nothing older."""
    with Server("valkey") as server:
        nodes = [
            Daemon(name, server.unix_url, {"coherence.max_staleness_ms": 500}).start()
            for name in ("a", "b")
        ]
        stop = threading.Event()
        told: dict[str, int] = {}
        odd: list[str] = []

        def load(daemon: Daemon) -> None:
            with client(daemon) as c:
                while not stop.is_set():
                    try:
                        c.get("k")
                        c.set(f"mine:{daemon.node}", time.monotonic_ns())
                        told["ok"] = told.get("ok", 0) + 1
                    except redis.ResponseError as error:
                        word = str(error).split(maxsplit=1)[0]
                        told[word] = told.get(word, 0) + 1
                        if word not in ("UNAVAILABLE", "INDETERMINATE", "APPLIED"):
                            odd.append(str(error))

        threads = [threading.Thread(target=load, args=(node,)) for node in nodes]
        try:
            with client(nodes[0]) as a, client(nodes[1]) as b:
                a.set("k", "before")
                assert b.get("k") == b"before"
                for thread in threads:
                    thread.start()
                server.kill()
                assert b.get("k") == b"before"  # within the bound
                wait_until(lambda: told.get("UNAVAILABLE"), 10)
                server.restart("empty")
                wait_until(lambda: _answers(a) and _answers(b), 15)
                assert a.get("k") is None  # what Redis lost is not served from memory
                assert b.get("k") is None
                a.execute_command("COH.SET", "k", "after", "ACK", "all", "TIMEOUT", "5000")
                assert b.get("k") == b"after"
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for node in nodes:
                node.stop()
        assert odd == []
        assert told["ok"] > 0


def _answers(c: redis.Redis) -> bool:
    """Whether writes and reads reach Redis: they go over connections of their own."""
    try:
        return bool(c.set("probe", "1")) and c.get("probe") is not None
    except redis.ResponseError:
        return False
