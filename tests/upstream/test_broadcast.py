"""broadcast.py: invalidating without a daemon, and counting who has seen it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from coherenced.core.calls import Delivered, Heard, Leave, SendAck
from coherenced.core.catchup import fence_after_ms
from coherenced.core.model import Acknowledgement, Member
from coherenced.core.requests import Level
from coherenced.errors import CommandError, Indeterminate, RedisUnreachable
from coherenced.lab.proxy import Proxy, role
from coherenced.upstream.broadcast import Broadcaster, broadcast
from tests.servers import Server, free_port, shared_server
from tests.upstream.lanes import EPOCH, NAMES, Lane, incr, invalidate, set_
from tests.upstream.rig import Rig, settings

LONG_MS = 60_000
NODES = b"coh:{0}:nodes"


class Node(Rig):
    """As much of a node as acknowledging needs: a line in the roster, and answering records."""

    def __init__(self, config: Any, name: str, bound_ms: int = LONG_MS) -> None:
        super().__init__(config, name)
        self.member = Member(self.incarnation, name, bound_ms, 1, "0.1.0", 0)
        self.silent = False
        self.lies = False
        """Acknowledges the sequence of another history."""

    async def join(self) -> None:
        await self.subscribe()
        await self.probe(self.member)

    def _answer(self, answer: Any) -> None:
        super()._answer(answer)
        if self.silent or not isinstance(answer, Delivered | Heard):
            return
        for message in answer.messages if isinstance(answer, Heard) else (answer.message,):
            tag = b"x" * 16 if self.lies else message.tag
            ack = Acknowledgement(
                self.incarnation, self.member.name, 0, message.epoch, message.seq, tag
            )
            for record in message.records:
                if record.wants_ack:
                    self.link.call(SendAck(0, record.writer, ack))


@pytest.fixture
def server() -> Server:
    server = shared_server()
    server.command("FLUSHALL")
    return server


@pytest.fixture
async def nodes(server: Server) -> Any:
    async with Node(settings(server.url), "a") as a, Node(settings(server.url), "b") as b:
        await a.join()
        await b.join()
        grow_old(server)
        yield a, b


def grow_old(server: Server) -> None:
    """As if the epoch had begun a day ago: nobody holds anything from before it."""
    server.command("HINCRBY", NAMES.meta, "rv", -86_400_000 * 1000)


async def test_everyone_acknowledges(server: Server, nodes: tuple[Node, Node]) -> None:
    mutations = (invalidate(b"k", tags=(b"t",)), invalidate(prefixes=(b"p",)))
    result = await broadcast(settings(server.url), mutations, Level.ALL, 5000)
    assert result.satisfied
    assert set(result.acknowledged) == {"a", "b"}
    assert all(0 <= ms < 5000 for ms in result.acknowledged.values())
    assert (result.fenced, result.missing) == ((), ())
    assert result.version == (EPOCH, 2)
    lane = Lane(server)
    records = lane.log()[1]
    lane.close()
    assert [r.keys for r in records] == [(b"k",), ()]
    assert all(r.wants_ack for r in records)


@pytest.mark.parametrize("level", [Level.REDIS, Level.NONE])
async def test_levels_that_wait_for_nobody(
    server: Server, nodes: tuple[Node, Node], level: int
) -> None:
    result = await broadcast(settings(server.url), (invalidate(b"k"),), level, 5000)
    assert result.satisfied
    assert result.acknowledged == {}
    await nodes[0].until(lambda: nodes[0].delivered)
    assert not nodes[0].delivered[-1].message.records[0].wants_ack


async def test_a_silent_node_is_missing_until_it_is_fenced(
    server: Server, nodes: tuple[Node, Node]
) -> None:
    _, b = nodes
    b.silent = True
    result = await broadcast(settings(server.url), (invalidate(b"k"),), Level.ALL, 50)
    assert not result.satisfied
    assert (set(result.acknowledged), result.fenced, result.missing) == ({"a"}, (), ("b",))

    bound_ms = 80
    async with Node(settings(server.url), "c", bound_ms) as c:
        c.silent = True
        await c.join()
        b.silent = False
        clock = asyncio.get_running_loop().time
        before_s = clock()
        result = await broadcast(settings(server.url), (invalidate(b"k"),), Level.ALL, 5000)
        assert clock() - before_s >= fence_after_ms(bound_ms) / 1e3
        assert result.satisfied
        assert (set(result.acknowledged), result.fenced) == ({"a", "b"}, ("c",))


async def test_two_nodes_of_one_name_are_two(server: Server, nodes: tuple[Node, Node]) -> None:
    config = settings(server.url)
    async with Node(config, "another") as other:
        other.member = Member(other.incarnation, "a", 600, 1, "0.1.0", 0)
        other.silent = True
        await other.join()
        result = await broadcast(config, (invalidate(b"k"),), 3, 50)
        assert (result.satisfied, result.missing) == (False, ("a",))
        result = await broadcast(config, (invalidate(b"k"),), Level.ALL, 20)
        assert (result.satisfied, result.missing) == (False, ("a",))
        result = await broadcast(config, (invalidate(b"k"),), Level.ALL, 5000)
        assert (set(result.acknowledged), result.fenced) == ({"a", "b"}, ("a",))
        other.silent = False
        assert (await broadcast(config, (invalidate(b"k"),), 3, 2000)).satisfied


async def test_numbers_and_quorum_count_acknowledgements_only(
    server: Server, nodes: tuple[Node, Node]
) -> None:
    nodes[1].silent = True
    config = settings(server.url)
    assert (await broadcast(config, (invalidate(b"k"),), 1, 2000)).satisfied
    assert not (await broadcast(config, (invalidate(b"k"),), 2, 50)).satisfied
    assert not (await broadcast(config, (invalidate(b"k"),), Level.QUORUM, 50)).satisfied
    nodes[1].silent = False
    assert (await broadcast(config, (invalidate(b"k"),), Level.QUORUM, 2000)).satisfied
    result = await broadcast(config, (invalidate(b"k"),), 3, 50)
    assert (result.satisfied, result.missing) == (False, ("(1 more node than there are)",))


async def test_an_acknowledgement_of_a_later_record_counts(
    server: Server, nodes: tuple[Node, Node]
) -> None:
    """K1: cumulative, where the log shows that the later record came after ours."""
    a, b = nodes
    b.silent = True
    async with Broadcaster(settings(server.url)) as writer:
        waiting = asyncio.ensure_future(writer.send((invalidate(b"k"),), Level.ALL, 5000))
        mine = (await b.until(lambda: b.delivered))[0].message.records[0].writer
        later = await a.write(set_(b"other", b"1"), set_(b"more", b"1"))
        head = later.lineage
        ack = Acknowledgement(b.incarnation, "b", 0, head.epoch, head.seq, head.tag)
        b.link.call(SendAck(0, mine, ack))
        result = await waiting
    assert result.satisfied
    assert set(result.acknowledged) == {"a", "b"}


async def test_an_acknowledgement_of_another_history_does_not_count(
    server: Server, nodes: tuple[Node, Node]
) -> None:
    nodes[1].lies = True
    result = await broadcast(settings(server.url), (invalidate(b"k"),), Level.ALL, 60)
    assert not result.satisfied
    assert result.missing == ("b",)


async def test_nobody_is_everybody(server: Server) -> None:
    lane = Lane(server)
    lane.probe()
    lane.close()
    grow_old(server)
    result = await broadcast(settings(server.url), (invalidate(b"k"),), Level.ALL, 5000)
    assert result.satisfied
    assert result.acknowledged == {}


async def test_after_a_lost_epoch_unknown_holders_are_waited_for(server: Server) -> None:
    """K7: whoever held something under the lost metadata may be on no roster."""
    result = await broadcast(settings(server.url), (invalidate(b"k"),), Level.ALL, 50)
    assert not result.satisfied
    assert result.missing == ("(quarantine after a lineage change)",)


async def test_holders_from_before_an_epoch_that_is_young_are_waited_for(server: Server) -> None:
    """K7: the same where a beat of another node has begun it a moment ago."""
    lane = Lane(server)
    lane.probe()
    lane.close()
    late = await broadcast(settings(server.url), (invalidate(b"k"),), Level.ALL, 50)
    assert (late.satisfied, late.missing) == (False, ("(quarantine after a lineage change)",))
    began_s = time.monotonic()
    assert (await broadcast(settings(server.url), (invalidate(b"k"),), Level.ALL, 5000)).satisfied
    assert 0.5 < time.monotonic() - began_s < 4, "one bound from when the epoch began"


async def test_a_roster_that_lacks_somebody_is_not_believed(
    server: Server, nodes: tuple[Node, Node]
) -> None:
    server.command("HDEL", NODES, nodes[0].incarnation)
    result = await broadcast(settings(server.url), (invalidate(b"k"),), Level.ALL, 500)
    assert (result.satisfied, result.missing) == (False, ("(the roster could not be read)",))
    assert result.version is not None


async def test_who_left_is_not_waited_for(server: Server, nodes: tuple[Node, Node]) -> None:
    await nodes[1].ask(lambda n: Leave(n, 0, nodes[1].incarnation))
    nodes[1].silent = True
    result = await broadcast(settings(server.url), (invalidate(b"k"),), Level.ALL, 5000)
    assert result.satisfied
    assert set(result.acknowledged) == {"a"}


async def test_many_batches_on_one_broadcaster(server: Server, nodes: tuple[Node, Node]) -> None:
    async with Broadcaster(settings(server.url)) as writer:
        for i in range(20):
            batch = tuple(invalidate(b"%d-%d" % (i, j)) for j in range(5))
            result = await writer.send(batch, Level.ALL, 5000)
            assert result.satisfied
            assert result.version == (EPOCH, 5 * (i + 1))


async def test_it_is_on_no_roster(server: Server, nodes: tuple[Node, Node]) -> None:
    before = server.command("HGETALL", b"coh:{0}:nodes")
    await broadcast(settings(server.url), (invalidate(b"k"),), Level.ALL, 5000)
    assert server.command("HGETALL", b"coh:{0}:nodes") == before


async def test_an_error_of_the_command_is_the_servers(server: Server) -> None:
    server.command("LPUSH", "list", "x")
    with pytest.raises(CommandError, match="WRONGTYPE"):
        await broadcast(settings(server.url), (incr(b"list"),), Level.REDIS, 1000)


async def test_no_server_is_one_line() -> None:
    port = free_port()
    with pytest.raises(RedisUnreachable, match=f"127.0.0.1:{port} cannot be reached"):
        await broadcast(settings(f"redis://127.0.0.1:{port}"), (invalidate(b"k"),), 1, 1000)


async def test_a_lost_reply_is_told_from_nothing_done() -> None:
    with Server() as server, Proxy(target=server.socket) as proxy:
        lane = Lane(server)
        lane.probe()
        async with Broadcaster(settings(proxy.url, command_timeout_ms=200)) as writer:
            await writer.send((invalidate(b"k"),), Level.REDIS, 1000)
            with (
                proxy.half_open(role("writes")),
                pytest.raises(Indeterminate, match="it was done, but who has seen it"),
            ):
                await writer.send((invalidate(b"k"),), Level.REDIS, 1000)
        async with Broadcaster(settings(proxy.url, command_timeout_ms=200)) as writer:
            await writer.send((invalidate(b"k"),), Level.REDIS, 1000)
            with (
                proxy.half_open(role("writes"), dead="up"),
                pytest.raises(RedisUnreachable, match="nothing was done"),
            ):
                await writer.send((invalidate(b"k"),), Level.REDIS, 1000)
        assert lane.lineage().seq == 3
        lane.close()
    assert NAMES.log
