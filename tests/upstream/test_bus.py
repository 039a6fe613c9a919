"""bus.py: what arrives, what is dropped, and how a dead subscription is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from coherenced.core.calls import Answer, BusLost, Delivered, Heard, Subscribe, Subscribed
from coherenced.core.model import Message, Record
from coherenced.lab.proxy import Proxy, role
from coherenced.upstream import bus
from coherenced.upstream.bus import Own, Subscriber
from coherenced.upstream.connection import pack
from coherenced.wire.message import encode_message
from tests.servers import Server, shared_server, wait_until
from tests.upstream.lanes import EPOCH, NAMES, set_
from tests.upstream.rig import Rig, settings


@pytest.fixture
def server() -> Server:
    server = shared_server()
    server.command("FLUSHALL")
    return server


def message(seq: int, lane: int = 0) -> bytes:
    return encode_message(Message(lane, EPOCH, seq, b"t" * 16))


async def test_messages_arrive_in_order_with_their_connection(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.subscribe(3)
        written = await rig.write(set_(b"a", b"1"), set_(b"b", b"1"))
        server.commands(*(["PUBLISH", NAMES.bus, message(i)] for i in range(100)))
        await rig.until(lambda: len(rig.delivered) == 101)
        assert rig.bus[0] == Subscribed(0, 3)
        assert {d.connection for d in rig.delivered} == {3}
        first, *rest = [d.message for d in rig.delivered]
        assert [r.tag for r in first.records] == [d.tag for d in written.done]
        assert [m.seq for m in rest] == list(range(100))


async def test_what_is_no_message_is_counted_and_dropped(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.subscribe()
        junk = [b"", b"\xff", b"\x95", b"x" * 100_000, message(1, lane=7), message(1)[:-1]]
        ack = NAMES.ack(rig.incarnation)
        server.commands(
            *(["PUBLISH", NAMES.bus, item] for item in junk),
            ["PUBLISH", ack, b"junk"],
            ["PUBLISH", NAMES.bus, message(2)],
        )
        await rig.until(lambda: rig.delivered)
        assert [d.message.seq for d in rig.delivered] == [2]
        assert rig.link.malformed == len(junk) + 1
        assert not any(isinstance(item, BusLost) for item in rig.bus)
        rig.link.call(Subscribe(0, 2))
        await rig.until(lambda: Subscribed(0, 2) in rig.bus)
        assert rig.link.malformed == len(junk) + 1, "the count outlives a connection"


async def test_a_new_subscription_silences_the_old_one(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.subscribe(1)
        await rig.subscribe(2)
        server.command("PUBLISH", NAMES.bus, message(1))
        await rig.until(lambda: rig.delivered)
        assert rig.delivered == [Delivered(0, 2, Message(0, EPOCH, 1, b"t" * 16))]
        assert BusLost not in {type(item) for item in rig.bus}, "it was the core's own wish"
        assert server.command("PUBSUB", "NUMSUB", NAMES.bus)[1] == 1


async def test_a_killed_subscriber_is_told_lost(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.subscribe(1)
        server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await rig.until(lambda: isinstance(rig.bus[-1], BusLost))
        await rig.subscribe(2)
        assert ("bus", False) in [c[:2] for c in rig.changes]
        assert rig.changes[-1][:2] == ("bus", True)
        assert rig.link.reconnects()["bus"] == 1


async def test_a_half_open_bus_is_noticed(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setattr(bus, "SILENCE_S", 0.05)
    with Proxy(target=server.socket) as proxy:
        async with Rig(settings(proxy.url, command_timeout_ms=100)) as rig:
            await rig.subscribe(1)
            with proxy.half_open(role("bus")):
                await rig.until(lambda: isinstance(rig.bus[-1], BusLost))
            assert "silent" in rig.bus[-1].reason


async def test_a_quiet_bus_lives(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setattr(bus, "SILENCE_S", 0.02)
    async with Rig(settings(server.url, command_timeout_ms=60)) as rig:
        await rig.subscribe(1)
        pings = int(server.info("commandstats").partition("cmdstat_ping:calls=")[2].split(",")[0])
        async with asyncio.timeout(10):
            for _ in range(100):
                info = server.info("commandstats")
                if int(info.partition("cmdstat_ping:calls=")[2].split(",")[0]) >= pings + 5:
                    break
                await asyncio.sleep(0.01)
            else:
                raise AssertionError("a silent bus is not asked")
        assert rig.bus == [Subscribed(0, 1)]


async def test_a_subscription_that_is_forbidden_is_tried_again_and_said(server: Server) -> None:
    server.command("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "resetchannels", "+@all")
    async with Rig(settings(server.url, username="deaf", password="pw")) as rig:
        rig.link.call(Subscribe(0, 1))
        await rig.until(lambda: [c for c in rig.changes if c[0] == "bus"])
        name, up, detail = next(c for c in rig.changes if c[0] == "bus")
        assert (name, up, detail[:6]) == ("bus", False, "NOPERM")
        server.command("ACL", "SETUSER", "deaf", "&*")
        await rig.until(lambda: Subscribed(0, 1) in rig.bus)
        assert len([c for c in rig.changes if c[0] == "bus" and not c[1]]) == 1


async def test_it_subscribes_once_there_is_a_server() -> None:
    server = Server().start()
    server.kill()
    async with Rig(settings(server.url)) as rig:
        rig.link.call(Subscribe(0, 1))
        await rig.until(lambda: ("bus", False) in [c[:2] for c in rig.changes])
        server.start()
        await rig.until(lambda: Subscribed(0, 1) in rig.bus)
    server.stop()


async def test_a_subscriber_that_the_server_cuts_off_is_told() -> None:
    with Server(args=["--client-output-buffer-limit", "pubsub", "1mb", "1mb", "1"]) as small:
        async with Rig(settings(small.url)) as rig:
            await rig.subscribe(1)

            def cut_off() -> bool:
                # This loop has no turn meanwhile, so nothing is read.
                small.command("PUBLISH", NAMES.bus, b"x" * (1 << 20))
                return b":bus" not in small.command("CLIENT", "LIST", "TYPE", "pubsub")

            wait_until(cut_off)
            await rig.until(lambda: isinstance(rig.bus[-1], BusLost))


async def test_clients_have_their_turn_while_much_is_taken() -> None:
    """A thousand messages at once: in order, none lost, never more than a slice at a time."""
    heard: list[int] = []
    turns: list[int] = []
    transport = _Transport()
    subscriber = Subscriber(0, NAMES, b"i" * 16, 1000.0, _collect(heard), lambda: None)
    subscriber._transport = transport  # type: ignore[assignment]
    payloads = [message(seq) for seq in range(1000)]
    data = b"".join(_pushed(payload) for payload in payloads)
    subscriber.data_received(data[:-7])
    assert transport.paused
    assert len(heard) <= bus.SLICE_RECORDS
    while transport.paused:
        before = len(heard)
        await asyncio.sleep(0)
        turns.append(len(heard) - before)
    assert max(turns) <= bus.SLICE_RECORDS
    assert heard == list(range(999)), "the last one has not arrived as a whole"
    subscriber.data_received(data[-7:])
    assert heard == list(range(1000))
    assert not transport.paused


async def test_what_this_node_has_written_and_applied_itself_is_not_told() -> None:
    told: list[Answer] = []
    came: list[bytes] = []
    octets: list[int] = []
    own = Own({b"%016x" % 2, b"other"}, came.append, octets.append)

    def message(seq: int) -> bytes:
        tag, prev = b"%016x" % seq, b"%016x" % (seq - 1)
        record = Record(seq, prev, tag, 0, 0, b"w" * 16, (b"k",))
        return encode_message(Message(0, EPOCH, seq, tag, (record,)))

    subscriber = Subscriber(0, NAMES, b"i" * 16, 1000.0, told.append, lambda: None, own)
    arrived = b"".join(_pushed(message(seq)) for seq in (1, 2, 3))
    subscriber.data_received(arrived)
    assert octets == [len(arrived)]
    (heard,) = told
    assert isinstance(heard, Heard)
    assert [(one.seq, len(one.records)) for one in heard.messages] == [(1, 1), (3, 1)]
    assert came == [b"%016x" % 2]
    assert [one.tag for one in heard.messages] == [b"%016x" % seq for seq in (1, 3)]


async def test_a_connection_that_ends_takes_what_waits_with_it() -> None:
    heard: list[int] = []
    transport = _Transport()
    subscriber = Subscriber(0, NAMES, b"i" * 16, 1000.0, _collect(heard), lambda: None)
    subscriber._transport = transport  # type: ignore[assignment]
    subscriber.data_received(b"".join(_pushed(message(seq)) for seq in range(1000)))
    before = len(heard)
    subscriber.connection_lost(None)
    await asyncio.sleep(0.01)
    assert len(heard) == before < 1000, "the log tells the rest"
    assert transport.aborted


def _pushed(payload: bytes) -> bytes:
    return pack((b"message", NAMES.bus, payload))


def _collect(heard: list[int]) -> Callable[[Answer], None]:
    def answer(told: Answer) -> None:
        assert isinstance(told, Delivered | Heard)
        messages = told.messages if isinstance(told, Heard) else (told.message,)
        heard.extend(one.seq for one in messages)

    return answer


class _Transport:
    """As much of a transport as a subscriber needs."""

    def __init__(self) -> None:
        self.paused = self.aborted = False

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def abort(self) -> None:
        self.aborted = True
