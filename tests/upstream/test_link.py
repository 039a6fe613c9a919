"""link.py: every call on a real server, and what each kind of refusal and loss comes to."""

from __future__ import annotations

import asyncio

import pytest

from coherenced.core.calls import (
    AckReceived,
    BusLost,
    Claim,
    Failed,
    Failure,
    Leave,
    Left,
    Logged,
    Mutated,
    Probe,
    ReadLog,
    ReadRoster,
    Reap,
    ReplicasReached,
    Resolve,
    SendAck,
    Subscribe,
    Subscribed,
    WaitReplicas,
)
from coherenced.core.model import Acknowledgement, Fetched, Query
from coherenced.lab.proxy import Proxy, role
from tests.servers import Server, primary_and_replica
from tests.upstream.lanes import EPOCH, delete, incr, member, set_, write
from tests.upstream.rig import Rig, settings


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, server: Server) -> str:
    return server.url if request.param == "tcp" else server.unix_url


# -- the calls ---------------------------------------------------------------------------


async def test_every_call_has_its_answer(url: str, server: Server) -> None:
    async with Rig(settings(url)) as rig:
        joined = await rig.probe(member("a"))
        assert joined.lineage == (EPOCH, 0, EPOCH)
        written = await rig.write(set_(b"a", b"1"), incr(b"n"))
        assert [d.reply for d in written.done] == [b"OK", 1]
        found = await rig.fetch(b"a", Query((b"STRLEN", b"a"), (b"a",)), b"missing")
        assert found.results == (Fetched(b"1"), 1, Fetched(None))
        assert found.lineage == written.lineage

        log = await rig.ask(lambda n: ReadLog(n, 0, 1, 10))
        assert isinstance(log, Logged)
        assert [r.tag for r in log.records] == [d.tag for d in written.done]
        assert log.replies == (None, 1)

        roster = await rig.ask(lambda n: ReadRoster(n, 0))
        assert [m.name for m in roster.members] == ["a"]
        assert roster.roster_version == joined.roster_version
        await rig.probe(member("b", beat=3))
        rig.link.call(Reap(0, member("b").incarnation, 3))
        gone = await rig.ask(lambda n: Leave(n, 0, member("a").incarnation))
        assert isinstance(gone, Left)
        assert (await rig.ask(lambda n: ReadRoster(n, 0))).members == ()


async def test_many_fetches_are_in_flight_at_once(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.write(*(set_(b"%d" % i, b"v%d" % i) for i in range(500)))
        answers = await asyncio.gather(*(rig.start_fetch(b"%d" % i) for i in range(500)))
        assert [a.results[0].value for a in answers] == [b"v%d" % i for i in range(500)]


async def test_a_big_value_does_not_delay_a_probe(server: Server) -> None:
    big = b"x" * (64 << 20)
    async with Rig(settings(server.url, command_timeout_ms=5000)) as rig:
        await rig.write(set_(b"big", big))
        fetching = rig.start_fetch(b"big")
        await rig.probe()
        probed_first = not fetching.done()
        assert (await fetching).results[0].value == big
        assert probed_first


async def test_the_log_of_a_lane_that_is_not_there(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        answer = await rig.ask(lambda n: ReadLog(n, 0, 1, 10))
        assert isinstance(answer, Failed)
        assert answer.failure == Failure.UNREACHABLE
        assert "no metadata" in answer.detail


async def test_scripts_are_loaded_again_after_script_flush(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.write(set_(b"a", b"1"))
        for _ in range(2):
            server.command("SCRIPT", "FLUSH")
            assert (await rig.probe()).lineage.epoch == EPOCH
            assert (await rig.fetch(b"a")).results[0].value == b"1"
            assert (await rig.write(incr(b"n"))).done[0].seq


async def test_connections_are_named(server: Server) -> None:
    async with Rig(settings(server.url), node="host 1") as rig:
        await rig.subscribe()
        await rig.write(set_(b"a", b"1"))
        await rig.fetch(b"a")
        listed = server.command("CLIENT", "LIST").decode()
        for name in ("bus", "control", "writes", "reads"):
            assert f"name=coherenced:host_1:{name} " in listed


async def test_another_database_is_another_lane(server: Server) -> None:
    async with Rig(settings(f"{server.url}/3")) as third, Rig(settings(server.url)) as zeroth:
        await zeroth.subscribe()
        await third.subscribe()
        await third.write(set_(b"a", b"3"))
        await third.until(lambda: third.delivered)
        assert (await zeroth.fetch(b"a")).results[0].value is None
        assert zeroth.delivered == []
        with server.session() as session:
            session.command("SELECT", 3)
            assert session.command("GET", "a") == b"3"


# -- acknowledgements -----------------------------------------------------------------------


async def test_an_acknowledgement_reaches_its_writer_only(server: Server) -> None:
    async with Rig(settings(server.url), "a") as a, Rig(settings(server.url), "b") as b:
        await a.subscribe()
        await b.subscribe()
        ack = Acknowledgement(b.incarnation, "b", 0, EPOCH, 5, b"t" * 16)
        b.link.call(SendAck(0, a.incarnation, ack))
        await a.until(lambda: AckReceived(ack) in a.bus)
        assert AckReceived(ack) not in b.bus


# -- refusals --------------------------------------------------------------------------------


async def test_a_full_server_refuses_writes_and_takes_deletes(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.write(set_(b"a", b"1"))
        server.command("CONFIG", "SET", "maxmemory", "1")
        try:
            refused = await rig.mutate(set_(b"a", b"2"))
            assert (refused.failure, refused.detail[:4]) == (Failure.OUT_OF_MEMORY, "OOM ")
            assert "script:" not in refused.detail
            assert (await rig.fetch(b"a")).results[0].value == b"1"
            assert (await rig.write(delete(b"a"))).done[0].reply == 1
            assert (await rig.probe()).lineage.seq == 2
        finally:
            server.command("CONFIG", "SET", "maxmemory", "0")


async def test_a_cut_off_primary_refuses_everything(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.write(set_(b"a", b"1"))
        server.command("CONFIG", "SET", "min-replicas-to-write", "1")
        try:
            for answer in (
                await rig.probe(),
                await rig.mutate(set_(b"a", b"2")),
                await rig.start_fetch(b"a"),
            ):
                assert isinstance(answer, Failed)
                assert answer.failure == Failure.UNREACHABLE
                assert answer.detail.startswith("NOREPLICAS")
        finally:
            server.command("CONFIG", "SET", "min-replicas-to-write", "0")
        assert (await rig.write(set_(b"a", b"2"))).done[0].seq == 2


async def test_a_user_without_permission_is_told_so(server: Server) -> None:
    server.command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "&*", "+@all", "-evalsha", "-eval")
    async with Rig(settings(server.url, username="weak", password="pw")) as rig:
        answer = await rig.mutate(set_(b"a", b"1"))
        assert (answer.failure, answer.detail[:6]) == (Failure.UNREACHABLE, "NOPERM")


async def test_a_user_who_may_not_read_the_metadata_changes_nothing(server: Server) -> None:
    server.command("ACL", "SETUSER", "weak", "on", ">pw", "resetkeys", "~app:*", "&*", "+@all")
    async with Rig(settings(server.url, username="weak", password="pw")) as rig:
        answer = await rig.mutate(set_(b"app:a", b"1"))
        assert isinstance(answer, Failed)
        assert answer.failure == Failure.UNREACHABLE
        assert server.command("EXISTS", "app:a") == 0


async def test_a_key_that_a_user_may_not_see_fails_nobody_elses(server: Server) -> None:
    """Those who ask at the same time share a fetch; and a lease says what a read says."""
    rules = ("resetkeys", "~app:*", "~coh:*", "&*", "+@all")
    server.command("ACL", "SETUSER", "weak", "on", ">pw", *rules)
    server.command("MSET", "app:a", "1", "app:b", "2", "other", "3")
    async with Rig(settings(server.url, username="weak", password="pw")) as rig:
        found = (await rig.fetch(b"app:a", b"other", b"app:b")).results
        claimed = await rig.ask(lambda n: Claim(n, 0, EPOCH, b"other", b"t", 1000))
    assert [result.value for result in found] == [b"1", None, b"2"]
    for refused in (found[1].error, claimed.found.error):
        assert refused.text.startswith("NOPERM ")


async def test_a_batch_that_is_too_long(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        answer = await rig.mutate(*(set_(b"a", b"1") for _ in range(10_001)))
        assert (answer.failure, "10000" in answer.detail) == (Failure.UNREACHABLE, True)


# -- WATCH -----------------------------------------------------------------------------------


async def test_a_watched_batch_runs_when_nothing_has_changed(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.write(set_(b"a", b"1"))
        watch_id = await rig.watch(b"a")
        assert isinstance(watch_id, int)
        assert await rig.watch(b"b", watch_id=watch_id) == watch_id
        answer = await rig.mutate(incr(b"a"), watch_id=watch_id)
        assert isinstance(answer, Mutated)
        assert not answer.aborted
        assert (answer.done[0].reply, answer.done[0].seq) == (2, 2)


async def test_a_watched_batch_is_aborted_when_a_key_has_changed(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        watch_id = await rig.watch(b"a")
        await rig.write(set_(b"a", b"other"))
        answer = await rig.mutate(set_(b"a", b"mine"), watch_id=watch_id)
        assert isinstance(answer, Mutated)
        assert answer.aborted
        assert answer.done == ()
        assert (await rig.fetch(b"a")).results[0].value == b"other"


async def test_a_full_server_refuses_a_watched_batch(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        watch_id = await rig.watch(b"a")
        server.command("CONFIG", "SET", "maxmemory", "1")
        try:
            answer = await rig.mutate(set_(b"a", b"1"), watch_id=watch_id)
            assert isinstance(answer, Failed)
            assert answer.failure == Failure.OUT_OF_MEMORY
        finally:
            server.command("CONFIG", "SET", "maxmemory", "0")


# -- WAIT ------------------------------------------------------------------------------------


async def test_wait_for_replicas() -> None:
    with primary_and_replica() as (primary, replica):
        async with Rig(settings(primary.url)) as rig:
            await rig.write(set_(b"a", b"1"))
            reached = await rig.ask(lambda n: WaitReplicas(n, 0, 1, 5000))
            assert isinstance(reached, ReplicasReached)
            assert reached.replicas == 1
            assert replica.command("GET", "a") == b"1"
            replica.pause()
            await rig.write(set_(b"a", b"2"))
            reached = await rig.ask(lambda n: WaitReplicas(n, 0, 1, 50))
            assert reached.replicas == 0
            replica.resume()


# -- losses ------------------------------------------------------------------------------------


async def test_a_server_that_is_not_there_is_said_at_once() -> None:
    server = Server()
    server.start()
    server.kill()
    async with Rig(settings(server.url)) as rig:
        first = await rig.probe()
        assert first.failure == Failure.UNREACHABLE
        assert f"127.0.0.1:{server.port}" in first.detail
        clock = asyncio.get_running_loop().time
        before_s = clock()
        for _ in range(10):
            assert (await rig.probe()).failure == Failure.UNREACHABLE
            assert (await rig.mutate(set_(b"a", b"1"))).failure == Failure.UNREACHABLE
        assert clock() - before_s < 0.5
        server.start()
        await rig.until(lambda: ("control", True) in [c[:2] for c in rig.changes])
        assert (await rig.probe()).lineage.epoch == EPOCH
        downs = [c for c in rig.changes if c[0] == "control" and not c[1]]
        assert len(downs) == 1, "a change is told once, not with each attempt"
    server.stop()


async def test_a_restart_is_a_moment_not_an_error() -> None:
    with Server() as server:
        async with Rig(settings(server.url, reconnect_max_ms=20)) as rig:
            await rig.write(set_(b"a", b"1"))
            server.restart("keep")
            await rig.keep_asking(lambda n: Probe(n, 0, EPOCH, None))
            assert rig.link.reconnects()["control"] >= 1


async def test_a_lost_reply_is_lost_and_the_log_tells() -> None:
    with Server() as server, Proxy(target=server.socket) as proxy:
        async with Rig(settings(proxy.url, command_timeout_ms=300)) as rig:
            await rig.write(set_(b"a", b"1"))
            with proxy.half_open(role("writes")):
                call = rig.calls + 1
                answer = await rig.mutate(incr(b"n"))
                assert isinstance(answer, Failed)
                assert answer.failure == Failure.LOST
            log = await rig.ask(lambda n: Resolve(n, 0, call, 1))
            assert isinstance(log, Logged)
            assert log.severed
            assert [r.seq for r in log.records] == [1, 2]
            assert log.replies == (None, 1)
            assert log.lineage.seq == 2


async def test_resolving_ends_the_connection_that_may_still_execute() -> None:
    with Server() as server:
        async with Rig(settings(server.url, command_timeout_ms=200)) as rig:
            await rig.write(set_(b"a", b"1"))
            # Frozen, the server holds the request unread in its socket.
            server.pause()
            call = rig.calls + 1
            answer = await rig.mutate(set_(b"a", b"2"))
            assert isinstance(answer, Failed)
            assert answer.failure == Failure.LOST
            server.resume()
            log = await rig.keep_asking(lambda n: Resolve(n, 0, call, 1))
            assert log.severed
            applied = len(log.records) == 2
            # What the log says now stays true: nothing can be executed any more.
            assert (await rig.fetch(b"a")).results[0].value == (b"2" if applied else b"1")
            assert (await rig.probe()).lineage.seq == log.lineage.seq


async def test_resolving_after_a_restart_needs_no_kill() -> None:
    with Server() as server:
        async with Rig(settings(server.url, command_timeout_ms=200)) as rig:
            await rig.write(set_(b"a", b"1"))
            server.pause()
            call = rig.calls + 1
            assert (await rig.mutate(set_(b"a", b"2"))).failure == Failure.LOST
            server.resume()
            server.restart("empty")
            await rig.keep_asking(lambda n: Probe(n, 0, EPOCH, None))
            log = await rig.ask(lambda n: Resolve(n, 0, call, 0))
            assert isinstance(log, Logged)
            assert log.severed
            assert log.records == ()


async def test_resolving_after_a_restart_kills_nobody_who_has_the_old_number() -> None:
    with Server() as server:
        async with Rig(settings(server.url, command_timeout_ms=200)) as rig:
            await rig.write(set_(b"a", b"1"))
            listed = server.command("CLIENT", "LIST").decode().splitlines()
            line = next(line for line in listed if ":writes " in line)
            number = int(line.split()[0].removeprefix("id="))
            server.pause()
            call = rig.calls + 1
            assert (await rig.mutate(set_(b"a", b"2"))).failure == Failure.LOST
            server.resume()
            server.restart("empty")
            others = [server.session() for _ in range(number + 1)]
            ids = [other.command("CLIENT", "ID") for other in others]
            await rig.keep_asking(lambda n: Probe(n, 0, EPOCH, None))
            log = await rig.ask(lambda n: Resolve(n, 0, call, 0))
            assert log.severed
            assert min(ids) <= number <= max(ids)
            assert [other.command("PING") for other in others] == [b"PONG"] * len(others)
            for other in others:
                other.close()


async def test_resolving_where_the_kill_is_forbidden() -> None:
    with Server() as server:
        server.command("ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all", "-client|kill")
        config = settings(server.url, username="u", password="pw", command_timeout_ms=200)
        async with Rig(config) as rig:
            await rig.write(set_(b"a", b"1"))
            server.pause()
            call = rig.calls + 1
            assert (await rig.mutate(set_(b"a", b"2"))).failure == Failure.LOST
            server.resume()
            log = await rig.keep_asking(lambda n: Resolve(n, 0, call, 1))
            assert not log.severed


async def test_resolving_reads_a_long_log_whole(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.write(*(set_(b"%d" % (i % 9), b"") for i in range(1700)))
        log = await rig.ask(lambda n: Resolve(n, 0, 999, 3))
        assert [r.seq for r in log.records] == list(range(3, 1701))
        assert len(log.replies) == len(log.records)
        assert not log.severed, "nobody knows that call"


async def test_closing_answers_what_waits() -> None:
    with Server() as server:
        async with Rig(settings(server.url, command_timeout_ms=5000)) as rig:
            await rig.write(set_(b"a", b"1"))
            await rig.fetch(b"a")
            server.pause()
            waiting = [rig.start_mutate(set_(b"a", b"2")), rig.start_fetch(b"a")]
            await rig.link.close()
            lost, failed = await asyncio.gather(*waiting)
            assert lost.failure == Failure.LOST
            assert failed.failure in (Failure.LOST, Failure.UNREACHABLE)
            assert (await rig.probe()).failure == Failure.UNREACHABLE
            server.resume()


async def test_the_reply_of_a_write_that_returns_a_value(server: Server) -> None:
    async with Rig(settings(server.url)) as rig:
        await rig.write(set_(b"a", b"old"))
        assert (await rig.write(write(b"GETSET", b"a", b"new"))).done[0].reply == b"old"


async def test_the_bus_is_told_lost_when_the_server_goes() -> None:
    with Server() as server:
        async with Rig(settings(server.url)) as rig:
            await rig.subscribe(7)
            server.kill()
            await rig.until(lambda: any(isinstance(b, BusLost) for b in rig.bus))
            assert rig.bus[-1].connection == 7
            rig.link.call(Subscribe(0, 8))
            server.start()
            await rig.until(lambda: rig.bus[-1] == Subscribed(0, 8))
