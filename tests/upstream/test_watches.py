"""watches.py: a bounded pool of connections that WATCH."""

from __future__ import annotations

import pytest

from coherenced.core.calls import Failed, Failure, WaitReplicas
from coherenced.core.requests import Fault, FaultKind
from tests.servers import Server, shared_server
from tests.upstream.lanes import set_
from tests.upstream.rig import Rig, settings


@pytest.fixture
def server() -> Server:
    server = shared_server()
    server.command("FLUSHALL")
    return server


def watching(server: Server) -> int:
    return server.command("CLIENT", "LIST").decode().count(":watch ")


async def test_there_are_no_more_than_allowed(server: Server) -> None:
    async with Rig(settings(server.url, watch_connections=2)) as rig:
        first, second = await rig.watch(b"a"), await rig.watch(b"b")
        assert isinstance(first, int)
        assert isinstance(second, int)
        refused = await rig.watch(b"c")
        assert isinstance(refused, Fault)
        assert refused.kind == FaultKind.OVERLOADED
        assert "redis.watch_connections" in refused.detail
        waited = await rig.ask(lambda n: WaitReplicas(n, 0, 1, 10))
        assert isinstance(waited, Failed)
        rig.link.unwatch(first)
        assert isinstance(await rig.watch(b"c"), int)


async def test_connections_are_used_again(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        for _ in range(5):
            watch_id = await rig.watch(b"a")
            assert isinstance(watch_id, int)
            await rig.mutate(set_(b"a", b"1"), watch_id=watch_id)
        assert watching(server) == 1


async def test_unwatch_forgets_the_keys(server: Server) -> None:
    async with Rig(settings(server.url, watch_connections=1)) as rig:
        watch_id = await rig.watch(b"a")
        assert isinstance(watch_id, int)
        rig.link.unwatch(watch_id)
        rig.link.unwatch(watch_id)
        await rig.write(set_(b"a", b"1"))
        again = await rig.watch(b"b")
        assert isinstance(again, int)
        answer = await rig.mutate(set_(b"b", b"1"), watch_id=again)
        assert not answer.aborted


async def test_a_watch_ends_with_its_connection(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        watch_id = await rig.watch(b"a")
        assert isinstance(watch_id, int)
        for line in server.command("CLIENT", "LIST").decode().splitlines():
            if ":watch " in line:
                server.command("CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="))
        answer = await rig.mutate(set_(b"a", b"1"), watch_id=watch_id)
        assert isinstance(answer, Failed)
        assert answer.failure in (Failure.UNREACHABLE, Failure.LOST)
        more = await rig.watch(b"a", watch_id=watch_id)
        assert isinstance(more, Fault)
        assert more.kind == FaultKind.UNAVAILABLE
        assert isinstance(await rig.watch(b"a"), int)


async def test_no_server_is_a_fault() -> None:
    gone = Server().start()
    gone.kill()
    async with Rig(settings(gone.url)) as rig:
        answer = await rig.watch(b"a")
        assert isinstance(answer, Fault)
        assert answer.kind == FaultKind.UNAVAILABLE
    gone.stop()
