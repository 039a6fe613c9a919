"""What only the blocking client has to do: threads, its pool, forks, and a quick start."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from coherenced import Client
from coherenced.errors import DaemonUnreachable
from tests.client.fake_daemon import FakeDaemon, bulk


def test_threads_share_a_bounded_number_of_connections(daemon: FakeDaemon) -> None:
    daemon.script = lambda command: bulk(command[1]) if command[0] == b"GET" else None

    def work(thread: int) -> bool:
        return all(
            cache.get(f"{thread}:{call}") == f"{thread}:{call}".encode() for call in range(100)
        )

    with (
        Client(daemon.path, l0=False, max_connections=3) as cache,
        ThreadPoolExecutor(8) as threads,
    ):
        assert all(threads.map(work, range(8)))
    assert 1 <= daemon.connections <= 3
    assert len(daemon.commands) == 800


def test_one_thread_uses_one_connection(daemon: FakeDaemon) -> None:
    with Client(daemon.path, l0=False) as cache:
        for _ in range(10):
            cache.set("k", 1)
            cache.get("k")
    assert daemon.connections == 1


def test_waiting_for_a_connection_ends_in_an_error_that_says_what_to_do(
    daemon: FakeDaemon,
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold(command: list[bytes]) -> None:
        if command[1] == b"slow":
            entered.set()
            leave.wait(10)

    daemon.script = hold
    with (
        Client(daemon.path, l0=False, max_connections=1, timeout=0.2) as cache,
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(cache.set, "slow", b"", timeout=10)
        assert entered.wait(10)
        with pytest.raises(DaemonUnreachable, match="max_connections"):
            cache.get("k")
        leave.set()
        assert slow.result().seq == 1
        assert cache.get("k") is None


def test_a_waiting_thread_gets_the_connection_that_is_given_back(daemon: FakeDaemon) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold(command: list[bytes]) -> None:
        if command[1] == b"slow":
            entered.set()
            leave.wait(10)

    daemon.script = hold
    with Client(daemon.path, l0=False, max_connections=1) as cache, ThreadPoolExecutor(2) as pool:
        slow = pool.submit(cache.get, "slow")
        assert entered.wait(10)
        quick = pool.submit(cache.get, "quick")
        leave.set()
        assert slow.result(5) is None
        assert quick.result(5) is None
    assert daemon.connections == 1


def test_a_forked_child_opens_its_own_connection(daemon: FakeDaemon) -> None:
    daemon.values[b"k"] = b"v"
    with Client(daemon.path, l0=False) as cache:
        assert cache.get("k") == b"v"
        with warnings.catch_warnings():
            # From 3.12 on Python warns of a fork beside threads: here those of the fake daemon.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = 1
            try:
                ok = cache.get("k") == b"v" and cache.set("child", b"1").seq == 1
                cache.close()
                status = 0 if ok else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert cache.get("k") == b"v"  # on the connection from before the fork
    assert daemon.connections == 2
    assert daemon.values[b"child"] == b"1"


def test_an_interrupted_call_does_not_poison_the_connection(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coherenced.client.stream import Conversation

    with Client(daemon.path, l0=False) as cache:
        cache.get("k")
        with monkeypatch.context() as patch:

            def interrupt(self: Conversation, data: bytes) -> list[object]:
                raise KeyboardInterrupt

            patch.setattr(Conversation, "received", interrupt)
            with pytest.raises(KeyboardInterrupt):
                cache.get("k")
        daemon.values[b"k"] = b"v"
        assert cache.get("k") == b"v"
    assert daemon.connections == 2


def test_a_call_broken_off_anywhere_gives_its_place_back(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coherenced.client.transport import Connection, Pool

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt  # as a signal handler does, between any two steps

    with Client(daemon.path, l0=False, max_connections=1) as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its socket is closed by being forgotten
        for broken in ([(Pool, "give_back")], [(Connection, "exchange"), (Pool, "_gone")]):
            with monkeypatch.context() as patch:
                for owner, method in broken:
                    patch.setattr(owner, method, interrupt)
                with contextlib.suppress(KeyboardInterrupt):
                    cache.get("k")
            assert cache.get("k") is None
    assert daemon.connections == 3


START = "import sys, coherenced; coherenced.Client; print(*sys.modules)"


def test_starting_a_client_loads_no_server_code() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", START], capture_output=True, text=True, check=True
    )
    modules = set(loaded.stdout.split())
    ours = {name for name in modules if name.startswith("coherenced")}
    assert all(
        name in ("coherenced", "coherenced.errors")
        or name.startswith(("coherenced.client", "coherenced.page"))
        for name in ours
    )
    assert not modules & {"asyncio", "aiohttp", "redis", "click", "structlog", "msgspec", "uvloop"}


def test_starting_a_client_is_cheap() -> None:
    def cpu_ms(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000

    bare = min(cpu_ms("pass") for _ in range(5))
    assert min(cpu_ms(START) for _ in range(5)) - bare < 90  # 49 on an idle machine
