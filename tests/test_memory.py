"""A process that is given no more memory: what it says, and that it goes on."""

from __future__ import annotations

import errno
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import hiredis
import pytest
import structlog

from coherenced import memory
from coherenced.config import load
from coherenced.daemon import check_memory
from tests.cluster.daemons import Daemon
from tests.servers import Server

LARGE = b"x" * (24 << 20)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (ImportError("x.so: failed to map segment from shared object"), True),
        (ImportError("No module named x"), False),
        (RuntimeError("Failed to serialize the command."), True),
        (hiredis.ProtocolError("Out of memory"), True),
        (hiredis.ProtocolError("Protocol error"), False),
        (ValueError(), False),
    ],
)
def test_what_libraries_say(error: Exception, is_it: bool) -> None:
    assert memory.is_short(error) is is_it


def test_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, told in ((-1, "gives this process no more"), (64 << 20, "64 MiB (ulimit -v)")):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert told in memory.advice()
        assert not memory.is_tight() or limit > 0


@pytest.mark.parametrize("mebibytes", [30, 44])
def test_too_little_to_start_is_one_line(mebibytes: int) -> None:
    """The modules do not even fit; each library says so in its own words."""
    # Not by a function between fork and exec: the copy of this process is larger than that, and
    # could not allocate what the call itself needs.
    limited = f'ulimit -v {mebibytes << 10} && exec "$@"'
    serve = [sys.executable, "-m", "coherenced", "serve", "--redis", "unix:///nowhere"]
    done = subprocess.run(
        ["sh", "-c", limited, "sh", *serve], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"coherenced: out of memory: this process may have {mebibytes} MiB (ulimit -v): "
        "raise that limit\n"
    )


@pytest.mark.parametrize(("most", "lines"), [(0, 0), (1 << 30, 0), (300 << 20, 1)])
def test_a_full_l1_that_does_not_fit_is_told_at_the_start(
    most: int, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "bound", lambda: (most, "memory.max"))
    with structlog.testing.capture_logs() as told:
        check_memory(load({}, None, {}).config)
    assert [line["log_level"] for line in told] == ["warning"] * lines


def test_what_does_not_fit_is_refused_and_the_rest_is_served() -> None:
    with Server() as server:
        server.commands(["SET", "small", "v"], ["SET", "large", LARGE])
        daemon = Daemon("n1", server.url, {"redis.reconnect_max_ms": 100}).start()
        try:
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            (kibibytes,) = re.findall(r"VmSize:\s+(\d+)", status)
            limit = (int(kibibytes) << 10) + (16 << 20)
            resource.prlimit(daemon.pid, resource.RLIMIT_AS, (limit, limit))
            for _ in range(3):
                told = [daemon.command("SET", "k", LARGE[: 10 << 20])]
                told.append(daemon.command("APPEND", "k", LARGE[: 12 << 20]))
                told.append(daemon.command("GET", "large"))
                assert all("out of memory" in str(one) for one in told)
            assert daemon.http("/v1/keys/large")[0] == 503
            assert daemon.command("SET", "k", "w") == b"OK"
            assert daemon.command("GET", "k") == b"w"
            lines = [json.loads(line) for line in daemon.log_text().splitlines()]
            events = [line for line in lines if line.get("name") == "out_of_memory"]
            assert len(events) == 1, "not one each"
            assert "ulimit" in events[0]["because"]
            assert not any("exception" in line for line in lines)
            daemon.stop()
        finally:
            daemon.remove()
