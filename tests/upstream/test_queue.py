"""A namespace's queue in Redis, step by step, against real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from coherenced.core.model import Mutation
from coherenced.errors import RedisUnreachable
from coherenced.upstream.queue import BehindQueue, Count, enqueuing, queue_names
from tests.servers import Server
from tests.upstream.rig import Rig, settings

ME, OTHER = b"1" * 16, b"2" * 16


class Two:
    """Two nodes' queues on one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        quiet = lambda name, up, detail: None  # noqa: E731
        self.mine = BehindQueue(settings(server.url), "a", ME, quiet)
        self.others = BehindQueue(settings(server.url), "b", OTHER, quiet)

    def enqueue(self, key: bytes, payload: bytes) -> None:
        for mutation in enqueuing("row", key, payload):
            self.server.command(*mutation.argv)


@pytest.fixture
async def two(server: Server) -> AsyncIterator[Two]:
    two = Two(server)
    yield two
    await two.mine.close()
    await two.others.close()


async def test_one_node_owns_it_for_a_while(two: Two) -> None:
    assert await two.mine.own("row", 60_000) and await two.mine.own("row", 60_000)
    assert not await two.others.own("row", 60_000)
    assert (await two.others.count("row")).owner == ME
    await two.others.disown("row")  # not its own to give
    assert not await two.others.own("row", 60_000)
    await two.mine.disown("row")
    assert await two.others.own("row", 1)


async def test_what_was_read_and_not_finished_goes_to_the_next_owner(two: Two) -> None:
    for number in range(250):
        two.enqueue(b"k%d" % (number % 3), b"v%d" % number)
    assert await two.mine.claim("row") == []
    read = await two.mine.read("row", 120) + await two.mine.read("row", 100)
    assert [entry.key for entry in read[:4]] == [b"k0", b"k1", b"k2", b"k0"]
    claimed = await two.others.claim("row")
    assert claimed == read, "in their order, all pages of them"
    rest = await two.others.read("row", 100)
    assert len(rest) == 30 and await two.others.read("row", 100) == []
    assert await two.mine.count("row") == Count(250, 3, 0, b"")


async def test_sent_settles_entries_but_not_a_newer_value(two: Two) -> None:
    two.enqueue(b"k", b"one")
    await two.mine.claim("row")
    (first,) = await two.mine.read("row", 10)
    two.enqueue(b"k", b"two")
    await two.mine.sent("row", b"k", b"one", [first.id])
    assert await two.mine.newest("row", b"k") == b"two"
    (second,) = await two.mine.read("row", 10)
    await two.mine.sent("row", b"k", b"two", [second.id])
    assert await two.mine.newest("row", b"k") is None
    assert await two.mine.count("row") == Count(0, 0, 0, b"")
    assert await two.others.claim("row") == []


async def test_dead_letters_are_kept_replayed_and_dropped(two: Two) -> None:
    for key in (b"a", b"b", b"c"):
        two.enqueue(key, b"one")
    await two.mine.claim("row")
    for entry in await two.mine.read("row", 10):
        await two.mine.bury("row", entry.key, b"one", "no ü", 7, [entry.id])
    assert await two.mine.count("row") == Count(0, 0, 3, b"")
    a, b, c = await two.mine.dead("row", 10)
    assert (a.key, a.payload, a.why, a.tries) == (b"a", b"one", "no ü", 7)
    assert await two.mine.dead("row", 0) == []
    two.enqueue(b"b", b"newer")
    assert await two.mine.replay("row", a.id) == 1
    assert await two.mine.replay("row", b.id) == 2, "a newer write waits: it is void"
    assert await two.mine.drop("row", c.id) and not await two.mine.drop("row", c.id)
    assert await two.mine.replay("row", c.id) == 0
    assert [key for _, key in await two.mine.waiting("row", 10)] == [b"b", b"a"]
    found = await two.mine.read("row", 10)
    assert [(entry.key, entry.replayed) for entry in found] == [(b"b", False), (b"a", True)]
    assert await two.mine.newest("row", b"a") == b"one"


async def test_a_flushed_server_and_a_foreign_key_are_told_in_one_line(two: Two) -> None:
    await two.mine.claim("row")
    two.server.command("FLUSHALL")
    with pytest.raises(RedisUnreachable, match="NOGROUP"):
        await two.mine.read("row", 10)
    assert await two.mine.claim("row") == [], "claiming makes the group anew"
    two.server.command("DEL", queue_names("row").stream)
    two.server.command("SET", queue_names("row").stream, "mine")
    with pytest.raises(RedisUnreachable, match="WRONGTYPE"):
        await two.mine.claim("row")


async def test_a_write_is_queued_within_its_own_atomic_step(server: Server) -> None:
    write = Mutation((b"SET", b"k", b"v"), keys=(b"k",))
    async with Rig(settings(server.url)) as rig:
        done = (await rig.mutate(*enqueuing("row", b"k", b"payload"), write)).done
    assert [one.seq for one in done] == [0, 0, 1], "one record, of the write itself"
    names = queue_names("row")
    assert server.command("HGET", names.newest, "k") == b"payload"
    assert server.command("XLEN", names.stream) == 1
    assert server.command("GET", "k") == b"v"
