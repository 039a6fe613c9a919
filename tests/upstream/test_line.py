"""line.py: what a request meets while its connection is up, just lost, or down."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from coherenced.lab.proxy import Proxy
from coherenced.upstream import line as line_module
from coherenced.upstream.connection import pack
from coherenced.upstream.faults import Lost, Unsent
from coherenced.upstream.line import Line
from tests.servers import Server, shared_server
from tests.upstream.pretend import pretended
from tests.upstream.rig import settings

PING = pack(("PING",))


class Asked:
    """Sends PINGs on a line and keeps what came back."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def start(self, data: bytes = PING) -> asyncio.Future[Any]:
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.line.send(data, answered.set_result)
        return answered

    async def __call__(self, data: bytes = PING) -> Any:
        return await asyncio.wait_for(self.start(data), 10)

    async def until_answered(self) -> Any:
        """Ask again until it is not refused."""
        async with asyncio.timeout(10):
            while True:
                reply = await self()
                if not isinstance(reply, Unsent | Lost):
                    return reply
                await asyncio.sleep(0.005)


class Told(list[tuple[bool, str]]):
    """The changes of a line: whether it is up, and the detail."""

    def __call__(self, name: str, up: bool, detail: str) -> None:
        self.append((up, detail))

    async def until(self, number: int) -> tuple[bool, str]:
        """Wait for so many; the last of them."""
        async with asyncio.timeout(10):
            while True:
                if len(self) >= number:
                    return self[number - 1]
                await asyncio.sleep(0.005)


def silent(name: str, up: bool, detail: str) -> None:
    """Takes changes that the test does not look at."""


async def test_requests_before_the_first_connection_wait_for_it() -> None:
    line = Line(settings(shared_server().url), "test", "a", silent)
    ask = Asked(line)
    assert await asyncio.gather(*(ask.start() for _ in range(50))) == [b"PONG"] * 50
    await line.close()


async def test_a_cut_connection_loses_what_was_sent_and_keeps_what_was_not() -> None:
    with Proxy(target=shared_server().socket) as proxy:
        line = Line(settings(proxy.url), "test", "a", silent)
        ask = Asked(line)
        assert await ask() == b"PONG"
        hold = proxy.partition()
        sent = ask.start()
        await asyncio.sleep(0.01)
        proxy.cut()
        hold.undo()
        assert isinstance(await sent, Lost)
        assert await ask() == b"PONG", "the next one waits for the connection that is being made"
        assert line.reconnects == 1
        await line.close()


async def test_what_was_sent_before_is_never_carried_out_after_what_is_sent_later() -> None:
    """The first connection is held up on its way; who sent on it has long gone on with another."""
    server = shared_server()
    server.command("DEL", "late")
    with Proxy(target=server.socket) as proxy:
        line = Line(settings(proxy.url, command_timeout_ms=100), "test", "a", silent)
        ask = Asked(line)
        assert await ask() == b"PONG"
        held = {connection.number for connection in proxy.connections()}
        hold = proxy.partition(lambda connection: connection.number in held)
        assert isinstance(await ask(pack(("SET", "late", "x"))), Lost)
        # Nor is it forgotten when the next connection breaks before it has said so.
        with proxy.partition(lambda connection: connection.number not in held):
            await ask()
        assert await ask.until_answered() == b"PONG"
        hold.undo()
        async with asyncio.timeout(10):
            while True:
                await asyncio.sleep(0.005)
                if not held & {connection.number for connection in proxy.connections()}:
                    break
        assert server.command("GET", "late") is None
        await line.close()


async def test_while_it_is_down_requests_are_refused_at_once_with_the_reason() -> None:
    server = Server().start()
    line = Line(settings(server.url), "test", "a", silent)
    ask = Asked(line)
    assert await ask() == b"PONG"
    server.kill()
    reply = await ask()
    assert isinstance(reply, Lost | Unsent)
    while not isinstance(reply, Unsent):
        reply = await ask()
    answered = ask.start()
    assert answered.done(), "no wait"
    assert f"127.0.0.1:{server.port}" in answered.result().reason
    server.start()
    assert await ask.until_answered() == b"PONG"
    await line.close()
    server.stop()


async def test_a_connection_that_takes_too_long_is_not_waited_for() -> None:
    with Proxy(target=shared_server().socket) as proxy:
        proxy.black_hole()
        config = settings(proxy.url, command_timeout_ms=100, connect_timeout_ms=5000)
        line = Line(config, "test", "a", silent)
        clock = asyncio.get_running_loop().time
        before_s = clock()
        assert isinstance(await Asked(line)(), Unsent)
        assert clock() - before_s < 3
        await line.close()


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "MOST_WAITING", 3)
    line = Line(settings(shared_server().url), "test", "a", silent)
    ask = Asked(line)
    waiting = [ask.start() for _ in range(3)]
    refused = ask.start()
    assert refused.done()
    assert "too many requests" in refused.result().reason
    assert await asyncio.gather(*waiting) == [b"PONG"] * 3
    await line.close()


async def test_a_full_socket_makes_requests_wait_their_turn() -> None:
    server = shared_server()
    server.command("FLUSHALL")
    line = Line(settings(server.url, command_timeout_ms=5000), "test", "a", silent)
    ask = Asked(line)
    await ask()
    big = pack(("SET", "big", b"x" * (8 << 20)))
    order: list[int] = []
    sent = []
    for i in range(12):
        answered = ask.start(big if i % 4 == 0 else pack(("SET", "small", i)))
        answered.add_done_callback(lambda _, i=i: order.append(i))
        sent.append(answered)
    assert await asyncio.wait_for(asyncio.gather(*sent), 20) == [b"OK"] * 12
    assert order == list(range(12))
    await line.close()


async def test_a_connection_that_is_lost_at_once_is_not_made_in_a_loop() -> None:
    accepted = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        for reply in (b"+OK\r\n", b"+OK\r\n", b"+OK\r\n", b":1\r\n", b"$0\r\n\r\n"):
            await reader.read(1000)
            writer.write(reply)
            await asyncio.sleep(0)

    async with pretended(serve) as port:
        patience = {"reconnect_min_ms": 20, "reconnect_max_ms": 40, "command_timeout_ms": 50}
        config = settings(f"redis://127.0.0.1:{port}", **patience)
        line = Line(config, "test", "a", silent)
        await asyncio.sleep(0.4)
        await line.close()
        assert accepted <= 20


async def test_changes_are_told_once() -> None:
    changes: list[tuple[str, bool]] = []
    server = Server().start()
    server.kill()
    line = Line(settings(server.url), "test", "a", lambda n, up, _: changes.append((n, up)))
    ask = Asked(line)
    for _ in range(5):
        await ask()
        await asyncio.sleep(0.01)
    assert changes == [("test", False)]
    server.start()
    assert await ask.until_answered() == b"PONG"
    assert changes == [("test", False), ("test", True)]
    await line.close()
    assert isinstance(await ask(), Unsent)
    server.stop()


async def test_a_server_that_closes_what_is_silent_does_it_once() -> None:
    """Redis's `timeout`, or a load balancer's: from the first time on a line is not silent."""
    told = Told()
    with Proxy(target=shared_server().socket) as proxy:
        line = Line(settings(proxy.url), "test", "a", told)
        assert await Asked(line)() == b"PONG"
        await asyncio.sleep(line_module.LEAST_IDLE_S * 2.2)
        proxy.cut()
        up, why = await told.until(3)
        assert up
        assert re.search(r"closed after 0\.\d s without .* one is sent every 0\.\d s", why)
        assert line.pipe is not None
        silences_s = []
        for _ in range(50):
            await asyncio.sleep(0.02)
            silences_s.append(line.pipe.silent_s)
        assert max(silences_s) < 0.85, "somebody who closes after 0.9 s has no cause now"
        await line.close()


async def test_a_restart_is_not_taken_for_impatience() -> None:
    told = Told()
    with Server() as server:
        line = Line(settings(server.url), "test", "a", told)
        ask = Asked(line)
        assert await ask() == b"PONG"
        await asyncio.sleep(line_module.LEAST_IDLE_S * 2.2)
        server.restart("empty")
        assert await ask.until_answered() == b"PONG"
        assert [up for up, _ in told] == [True, False, True]
        assert told[0] == told[2]
        await line.close()


async def test_nor_is_a_loss_that_matters() -> None:
    told = Told()
    with Proxy(target=shared_server().socket) as proxy:
        line = Line(settings(proxy.url), "test", "a", told)
        ask = Asked(line)
        assert await ask() == b"PONG"
        proxy.partition()
        answered = ask.start()
        await asyncio.sleep(line_module.LEAST_IDLE_S * 2.2)
        proxy.cut()
        proxy.heal()
        assert isinstance(await answered, Lost)
        assert await told.until(3) == told[0]
        await line.close()


async def test_what_is_silent_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """So one that leads nowhere is found before somebody needs it."""
    monkeypatch.setattr(line_module, "IDLE_S", 0.05)
    told = Told()
    with Proxy(target=shared_server().socket) as proxy:
        line = Line(settings(proxy.url, command_timeout_ms=100), "test", "a", told)
        assert await Asked(line)() == b"PONG"
        await asyncio.sleep(0.3)
        assert len(told) == 1
        with proxy.partition():
            assert await told.until(2) == (False, "no reply within 100 ms")
        await line.close()
