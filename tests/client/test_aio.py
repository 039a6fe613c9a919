"""What only the asyncio client has to do: pipelining, cancellation, loops."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
import uvloop

from coherenced import AsyncClient
from coherenced.client import link as link_module
from coherenced.errors import DaemonUnreachable
from tests.client.fake_daemon import SILENCE, FakeDaemon, bulk


def echo(command: list[bytes]) -> bytes | None:
    return bulk(command[1]) if command[0] == b"GET" else None


async def test_concurrent_calls_share_a_connection_in_order(daemon: FakeDaemon) -> None:
    daemon.script = echo
    keys = [f"k{n}" for n in range(500)]
    async with AsyncClient(daemon.path, l0=False) as cache:
        values = await asyncio.gather(*(cache.get(key) for key in keys))
    assert values == [key.encode() for key in keys]
    assert [command[1] for command in daemon.commands] == values
    assert daemon.connections == 1


async def test_closing_ends_though_what_was_under_way_has_ended_this_very_moment(
    daemon: FakeDaemon,
) -> None:
    async def nothing() -> None: ...

    async with AsyncClient(daemon.path, l0=False) as cache:
        await cache.get_or_load("k", lambda: 1)
        task = asyncio.ensure_future(nothing())
        cache._driver._keep(task)
        await asyncio.sleep(0)
        assert task.done() and task in cache._driver._tasks
    assert not cache._driver._tasks


async def test_a_slow_write_does_not_hold_up_reads(daemon: FakeDaemon) -> None:
    daemon.script = lambda command: SILENCE if command[0] == b"COH.SET" else None
    async with AsyncClient(daemon.path, l0=False) as cache:
        write = asyncio.create_task(cache.set("k", 1, ack="all", timeout=60))
        assert await cache.get("k") is None
        assert not write.done()
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write


async def test_a_cancelled_calls_reply_is_counted_off(daemon: FakeDaemon) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold(command: list[bytes]) -> bytes | None:
        if command[1] == b"slow":
            entered.set()
            leave.wait(10)
        return echo(command)

    daemon.script = hold
    async with AsyncClient(daemon.path, l0=False) as cache:
        slow = asyncio.create_task(cache.get("slow"))
        assert await asyncio.to_thread(entered.wait, 10)
        behind = asyncio.create_task(cache.get("behind"))
        await asyncio.sleep(0)
        slow.cancel()
        leave.set()
        assert await behind == b"behind"
        assert await cache.get("after") == b"after"
    assert daemon.connections == 1


async def test_calls_in_flight_are_bounded(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "MAX_IN_FLIGHT", 4)
    daemon.script = echo
    async with AsyncClient(daemon.path, l0=False) as cache:
        calls = [asyncio.create_task(cache.get(f"k{n}")) for n in range(60)]
        await asyncio.sleep(0)
        for cancelled in calls[20:30]:
            cancelled.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
    values = [value for value in done if not isinstance(value, asyncio.CancelledError)]
    assert len(values) == 50
    assert set(values) <= {f"k{n}".encode() for n in range(60)}


async def test_no_room_in_time_is_an_error(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "MAX_IN_FLIGHT", 1)
    daemon.script = lambda command: SILENCE
    async with AsyncClient(daemon.path, l0=False, timeout=0.05) as cache:
        done = await asyncio.gather(cache.get("a"), cache.get("b"), return_exceptions=True)
    assert all(isinstance(error, DaemonUnreachable) for error in done)


async def test_many_callers_open_one_connection(daemon: FakeDaemon) -> None:
    async with AsyncClient(daemon.path, l0=False) as cache:
        await asyncio.gather(*(cache.get("k") for _ in range(20)))
        daemon.drop_connections()
        await asyncio.gather(*(cache.get("k") for _ in range(20)))
    assert daemon.connections == 2


async def test_a_call_is_not_late_before_those_ahead_of_it(daemon: FakeDaemon) -> None:
    leave = threading.Event()
    daemon.script = lambda command: leave.wait(10) and None  # type: ignore[func-returns-value]
    async with AsyncClient(daemon.path, l0=False, timeout=0.05) as cache:
        patient = asyncio.create_task(cache.set("a", 1, ack="all", timeout=5))
        await asyncio.sleep(0)
        behind = asyncio.create_task(cache.set("b", 1))
        await asyncio.sleep(0.15)  # three times what `behind` would wait by itself
        assert not behind.done()
        leave.set()
        assert (await patient).seq == 1
        assert (await behind).seq == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_under_another_loop_it_opens_connections_of_its_own(
    daemon: FakeDaemon, factory: type[asyncio.AbstractEventLoop]
) -> None:
    daemon.script = echo
    cache = AsyncClient(daemon.path, l0=False)
    for _ in range(2):
        with asyncio.Runner(loop_factory=factory) as runner:
            assert runner.run(cache.get("k")) == b"k"
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(cache.close())
    assert daemon.connections == 2
    gc.collect()  # the transports of the closed loops warn here, and not in another test
