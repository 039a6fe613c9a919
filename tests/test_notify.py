"""sd_notify against a fake service manager: one datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coherenced.notify import MAX_STATUS_CHARACTERS, Notifier


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self.socket.settimeout(5)
        self.environ = {"NOTIFY_SOCKET": address}

    def received(self) -> list[str]:
        return self.socket.recv(65536).decode().split("\n")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "n") if request.param == "path" else f"@coherenced-test-{os.getpid()}"
    found = Manager(path)
    yield found
    found.socket.close()


def test_each_state_is_one_datagram(manager: Manager) -> None:
    notifier = Notifier(manager.environ, os.getpid())
    assert notifier.ready("3 nodes")
    assert manager.received() == ["READY=1", "STATUS=3 nodes"]
    assert notifier.ready()
    assert manager.received() == ["READY=1"]
    assert notifier.stopping("bye")
    assert manager.received() == ["STOPPING=1", "STATUS=bye"]
    assert notifier.status("waiting for Redis")
    assert manager.received() == ["STATUS=waiting for Redis"]
    assert notifier.alive()
    assert manager.received() == ["WATCHDOG=1"]


def test_reloading_carries_the_monotonic_clock(manager: Manager) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert Notifier(manager.environ, 1).reloading()
    state, clock = manager.received()
    assert state == "RELOADING=1"
    name, _, value = clock.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_status_can_never_smuggle_in_a_second_line(manager: Manager) -> None:
    notifier = Notifier(manager.environ, 1)
    assert notifier.status("a\nREADY=1\r\n  b\udcff")
    assert manager.received() == ["STATUS=a READY=1 b?"]
    assert notifier.status("x" * 10_000)
    assert manager.received() == ["STATUS=" + "x" * MAX_STATUS_CHARACTERS]
    assert not notifier.status("  \n "), "nothing to say, nothing is sent"


@pytest.mark.parametrize(
    "address", ["", "@", "relative", "vsock:2:1234", "/nowhere/at/all", "/" + "x" * 200, "/a\0b"]
)
def test_without_a_manager_nothing_happens_and_nothing_is_raised(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}, os.getpid())
    assert not notifier.ready("x")
    assert not notifier.reloading()
    assert not notifier.stopping()
    assert not notifier.status("x")
    assert not notifier.alive()


def test_no_variable_at_all() -> None:
    notifier = Notifier({}, 1)
    assert not notifier.ready()
    assert notifier.watchdog_ms is None
    assert notifier.watchdog_interval_ms is None


def test_a_manager_that_does_not_read_is_not_waited_for(manager: Manager) -> None:
    notifier = Notifier(manager.environ, 1)
    started = time.monotonic()
    while notifier.status("x" * 200):
        assert time.monotonic() - started < 10, "its queue never filled"
    assert time.monotonic() - started < 10
    manager.received()
    assert notifier.ready(), "and it is spoken to again once there is room"


def test_the_watchdog_asks_for_a_third_of_its_limit() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "77"}
    assert Notifier(environ, 77).watchdog_ms == 9000.0
    assert Notifier(environ, 77).watchdog_interval_ms == 3000.0
    assert Notifier(environ, 78).watchdog_interval_ms is None, "it watches another process"
    del environ["WATCHDOG_PID"]
    assert Notifier(environ, 78).watchdog_interval_ms == 3000.0
    for wrong in ("", "0", "-5", "x", "1.5", "٣"):
        assert Notifier({**environ, "WATCHDOG_USEC": wrong}, 1).watchdog_ms is None
    assert Notifier({"WATCHDOG_USEC": "9000000"}, 1).watchdog_ms is None, "nobody to tell"
