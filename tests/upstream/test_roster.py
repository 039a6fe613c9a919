"""probe.lua, roster.lua, part.lua, log.lua, fetch.lua: proofs, membership, and plain reading."""

from __future__ import annotations

import time

import pytest

from coherenced.core.model import Fetched, ReplyError
from tests.servers import Server, ServerError, primary_and_replica
from tests.upstream.lanes import EPOCH, FLUSH, NAMES, Lane, invalidate, member, set_

OTHER_EPOCH = b"f" * 16
NODES = b"coh:{0}:nodes"


def test_a_probe_starts_the_epoch_once(lane: Lane) -> None:
    first = lane.probe()
    assert first.lineage == (EPOCH, 0, EPOCH)
    assert lane.probe(new_epoch=OTHER_EPOCH).lineage == first.lineage


def test_a_probe_tells_the_servers_time(lane: Lane) -> None:
    before = int(time.time() * 1000)
    assert before - 1 <= lane.probe().server_ms <= int(time.time() * 1000) + 1


def test_joining_and_beating(lane: Lane) -> None:
    joined = lane.probe(member("a", beat=1))
    version, members = lane.roster()
    assert version == joined.roster_version
    assert members["a"].seen_ms == joined.server_ms
    again = lane.probe(member("a", beat=2, bound_ms=5))
    assert again.roster_version == version
    assert lane.roster()[1]["a"].beat == 2
    assert lane.probe(member("b")).roster_version == version + 1
    assert lane.probe().roster_version == version + 1
    assert set(lane.roster()[1]) == {"a", "b"}


def test_a_write_tells_the_rosters_version(lane: Lane) -> None:
    version = lane.probe(member("a")).roster_version
    assert lane.mutate(set_(b"a", b"1")).roster_version == version
    lane.part(member("a"))
    assert lane.mutate(set_(b"a", b"1")).roster_version == version + 1


def test_leaving(lane: Lane) -> None:
    version = lane.probe(member("a")).roster_version
    assert lane.part(member("a")) == 1
    assert lane.part(member("a")) == 0
    assert lane.roster() == (version + 1, {})


def test_a_silent_node_is_reaped_only_where_its_beat_still_stands(lane: Lane) -> None:
    lane.probe(member("a", beat=7))
    lane.probe(member("b", beat=1))
    assert lane.part(member("a"), beat=6) == 0
    assert lane.part(member("c"), beat=6) == 0
    assert lane.part(member("a"), beat=7) == 1
    assert set(lane.roster()[1]) == {"b"}


def test_a_line_that_is_none_can_be_reaped_and_is_not_read(lane: Lane) -> None:
    lane.probe(member("a"))
    lane.server.command("HSET", NODES, member("b").incarnation, "junk")
    assert set(lane.roster()[1]) == {"a"}
    assert lane.part(member("b"), beat=1) == 1


@pytest.mark.parametrize("loss", [["DEL", NODES], ["SET", NODES, "nonsense"]])
def test_a_lost_roster_is_a_new_epoch(lane: Lane, loss: list[str | bytes]) -> None:
    lane.probe(member("a"))
    lane.probe(member("b"))
    seq = lane.mutate(set_(b"k", b"1")).lineage.seq
    lane.server.command(*loss)
    again = lane.probe(member("a", beat=2), new_epoch=OTHER_EPOCH)
    assert again.lineage == (OTHER_EPOCH, seq, OTHER_EPOCH)
    assert set(lane.roster()[1]) == {"a"}
    back = lane.probe(member("b", beat=2), new_epoch=b"g" * 16)
    assert back.lineage.epoch == OTHER_EPOCH
    assert back.roster_version == again.roster_version + 1


def test_flushdb_does_not_hide_that_the_roster_was_lost(lane: Lane) -> None:
    lane.probe(member("a"))
    lane.probe(member("b"))
    lane.server.command("DEL", NODES)
    lane.mutate(FLUSH, FLUSH)
    assert lane.probe(member("a"), new_epoch=OTHER_EPOCH).lineage.epoch == OTHER_EPOCH


def test_after_flushall_the_roster_fills_again(lane: Lane) -> None:
    lane.probe(member("a"))
    lane.probe(member("b"))
    lane.server.command("FLUSHALL")
    assert lane.roster() == (0, {})
    first = lane.probe(member("a", beat=2), new_epoch=OTHER_EPOCH)
    second = lane.probe(member("b", beat=2), new_epoch=b"g" * 16)
    assert first.lineage.epoch == second.lineage.epoch == OTHER_EPOCH
    assert second.roster_version == first.roster_version + 1


# -- the log ------------------------------------------------------------------------------


def test_the_log_is_read_from_a_place_on(lane: Lane) -> None:
    assert lane.log()[0] == (b"", 0, b"")
    lane.mutate(*(set_(b"%d" % i, b"") for i in range(10)))
    head, records, replies = lane.log(4, 3)
    assert head == lane.lineage()
    assert [r.seq for r in records] == [4, 5, 6]
    assert replies == [None] * 3
    assert lane.log(11)[1] == []


def test_a_log_of_another_type_reads_as_empty(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"1"))
    lane.server.command("SET", NAMES.log, "x")
    assert lane.log()[1:] == ([], [])


# -- fills ----------------------------------------------------------------------------------


def test_a_fill_reads_value_ttl_and_lineage(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"1", b"PX", b"5000"), set_(b"b", b""))
    lane.server.command("LPUSH", "list", "x")
    found = lane.fetch_all(b"a", b"b", b"missing", b"list")
    assert found.lineage == lane.lineage()
    a, b, missing, wrong = found.results
    assert a.value == b"1"
    assert 0 < a.ttl_ms <= 5000
    assert (b.value, b.ttl_ms) == (b"", -1)
    assert missing == Fetched(None)
    assert isinstance(wrong.error, ReplyError)
    assert wrong.error.text.startswith("WRONGTYPE")


def test_our_own_keys_are_not_seen(lane: Lane) -> None:
    lane.probe(member("a"))
    lane.mutate(set_(b"a", b"1"), set_(b"b", b"1"), invalidate(prefixes=(b"x",)))
    assert lane.query(b"DBSIZE") == 2
    cursor, keys = lane.query(b"SCAN", b"0", b"COUNT", b"1000")
    assert cursor == b"0"
    assert sorted(keys) == [b"a", b"b"]
    assert lane.query(b"scan", b"0", b"MATCH", b"coh:*")[1] == []
    assert sorted(lane.query(b"KEYS", b"*")) == [b"a", b"b"]
    assert lane.query(b"keys", b"coh:*") == []


def test_an_error_of_a_query_is_its_reply(lane: Lane) -> None:
    lane.server.command("LPUSH", "list", "x")
    assert isinstance(lane.query(b"STRLEN", b"list", keys=(b"list",)), ReplyError)
    assert isinstance(lane.query(b"SCAN", b"nonsense"), ReplyError)


# -- V2: fenced -----------------------------------------------------------------------------


def test_a_cut_off_primary_refuses_proofs_and_fills(server: Server) -> None:
    lane = Lane(server)
    lane.mutate(set_(b"a", b"1"))
    server.command("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        for refused in (
            lane.probe,
            lambda: lane.fetch(b"a"),
            lambda: lane.log(),
            lambda: lane.mutate(set_(b"a", b"2")),
        ):
            with pytest.raises(ServerError, match=r"^NOREPLICAS"):
                refused()
    finally:
        server.command("CONFIG", "SET", "min-replicas-to-write", "0")
    lane.close()


def test_a_replica_refuses_proofs_and_fills() -> None:
    with primary_and_replica() as (primary, replica):
        on_primary, on_replica = Lane(primary), Lane(replica)
        on_primary.mutate(set_(b"a", b"1"))
        for refused in (
            on_replica.probe,
            lambda: on_replica.fetch(b"a"),
            lambda: on_replica.mutate(set_(b"a", b"2")),
        ):
            with pytest.raises(ServerError, match=r"^READONLY"):
                refused()
        on_primary.close()
        on_replica.close()
