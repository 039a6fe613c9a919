"""Waiting for acknowledgements: who counts, who is fenced by time, and when it is enough."""

from __future__ import annotations

import pytest

from coherenced.core import calls
from coherenced.core.laws import Laws
from coherenced.core.model import WANT_ACK, Lineage, Record
from coherenced.core.policy import Policy
from coherenced.core.requests import Level
from tests.core.driver import (
    EPOCH,
    ME,
    OTHER_EPOCH,
    PEER,
    THIRD,
    Driver,
    lineage,
    member,
    record,
    set_to,
    tag_of,
)


def settled(*others: tuple[bytes, str], laws: Laws | None = None, bound_ms: int = 1000) -> Driver:
    """A node long past its first quarantine, on a roster with these others."""
    d = Driver(laws=laws)
    d.sleep(5100)
    d.prove(10)
    d.roster(member(ME, "me"), *(member(i, n, bound_ms) for i, n in others), version=1)
    return d


BOTH = ((PEER, "peer"), (THIRD, "third"))


def commit(
    d: Driver, level: int, first: int = 11, rv: int = 1, **terms: object
) -> tuple[int, bytes]:
    """Commit one write at this level. -> the request and the tag of its record."""
    write = d.write(set_to(b"k", b"v"), ack=level, **terms)
    batch = d.take(calls.Mutate)
    d.mutated(batch, first=first, rv=rv, prev=d.node.lane.tag)
    return write, batch.tags[0]


# -- levels -----------------------------------------------------------------------------------


def test_redis_is_answered_by_the_commit() -> None:
    d = settled(*BOTH)
    write, _ = commit(d, Level.REDIS)
    assert d.result(write).acknowledged == {}
    assert d.result(write).satisfied


def test_K3_all_waits_for_every_node_of_the_roster() -> None:
    d = settled(*BOTH)
    write, tag = commit(d, Level.ALL)
    d.now_ms += 3
    d.ack(PEER, "peer", 11, tag)
    assert write not in d.outcomes
    d.now_ms += 4
    d.ack(THIRD, "third", 11, tag)
    result = d.result(write)
    assert result.acknowledged == {"me": 0.0, "peer": 3.0, "third": 7.0}
    assert (result.fenced, result.missing, result.satisfied) == ((), (), True)


def test_K3_all_alone_is_answered_at_once() -> None:
    d = settled()
    write, _ = commit(d, Level.ALL)
    assert d.result(write).acknowledged == {"me": 0.0}


@pytest.mark.parametrize(("level", "needed"), [(1, 0), (2, 1), (3, 2), (Level.QUORUM, 1)])
def test_K4_a_number_and_a_quorum_count_acknowledgements_this_node_included(
    level: int, needed: int
) -> None:
    d = settled(*BOTH)
    write, tag = commit(d, level)
    for count, (incarnation, name) in enumerate(BOTH):
        assert (write in d.outcomes) == (count >= needed)
        d.ack(incarnation, name, 11, tag)
    assert d.result(write).satisfied


def test_K4_more_nodes_than_there_are_is_told() -> None:
    d = settled((PEER, "peer"))
    write, tag = commit(d, 4, timeout_ms=100)
    d.ack(PEER, "peer", 11, tag)
    d.sleep(100)
    result = d.result(write)
    assert not result.satisfied
    assert result.missing == ("(2 more nodes than there are)",)


def test_K4_fencing_does_not_count_towards_a_number() -> None:
    d = settled(*BOTH)
    write, _ = commit(d, 2, timeout_ms=2000)
    d.sleep(1999)
    assert write not in d.outcomes
    d.sleep(1)
    assert not d.result(write).satisfied


def test_K3_without_the_law_nobody_is_waited_for() -> None:
    d = settled(*BOTH, laws=Laws(wait_for_all=False))
    write, _ = commit(d, Level.ALL)
    assert d.result(write).satisfied


# -- acknowledgements (K1) --------------------------------------------------------------------


def test_K1_an_acknowledgement_is_cumulative() -> None:
    d = settled((PEER, "peer"))
    first, _ = commit(d, Level.ALL)
    second, tag = commit(d, Level.ALL, first=12)
    d.ack(PEER, "peer", 12, tag)
    assert d.result(first).satisfied and d.result(second).satisfied


def test_K1_one_of_before_the_record_does_not_count() -> None:
    d = settled((PEER, "peer"))
    write, _ = commit(d, Level.ALL)
    d.ack(PEER, "peer", 10)
    assert write not in d.outcomes


@pytest.mark.parametrize("wrong", ["tag", "epoch", "not applied here"])
def test_K1_one_of_another_history_does_not_count(wrong: str) -> None:
    """After a failover the same numbers mean other records."""
    d = settled((PEER, "peer"))
    write, tag = commit(d, Level.ALL)
    if wrong == "tag":
        d.ack(PEER, "peer", 11, tag_of(11, b"b"))
    elif wrong == "epoch":
        ack = calls.Acknowledgement(PEER, "peer", 0, OTHER_EPOCH, 11, tag)
        d.step(calls.AckReceived(ack))
    else:
        d.ack(PEER, "peer", 12, tag_of(12))
    assert write not in d.outcomes


def test_K1_one_that_came_before_this_node_got_so_far_itself_counts_later() -> None:
    d = settled((PEER, "peer"))
    write = d.write(set_to(b"k", b"v"), ack=Level.ALL)
    batch = d.take(calls.Mutate)
    d.mutated(batch, first=12, prev=tag_of(11))
    d.ack(PEER, "peer", 12, batch.tags[0])
    assert write not in d.outcomes, "a failover may be hiding behind the commit"
    mine = Record(12, tag_of(11), batch.tags[0], 0, WANT_ACK, ME, (b"k",))
    d.deliver(record(11), mine)
    assert sorted(d.result(write).acknowledged) == ["me", "peer"]


def test_K1_a_node_acknowledges_what_it_has_applied_once_per_writer() -> None:
    d = Driver()
    made = d.deliver(
        record(11, b"a", flags=WANT_ACK),
        record(12, b"b", flags=WANT_ACK),
        record(13, b"c", flags=WANT_ACK, writer=THIRD),
        record(14, b"d"),
    )
    acks = [c for c in made if isinstance(c, calls.SendAck)]
    assert [a.writer for a in acks] == [PEER, THIRD]
    assert all((a.ack.seq, a.ack.tag, a.ack.incarnation) == (14, tag_of(14), ME) for a in acks)


def test_K1_nothing_is_acknowledged_before_it_is_applied() -> None:
    d = Driver()
    made = d.deliver(record(12, b"a", flags=WANT_ACK))
    assert not any(isinstance(c, calls.SendAck) for c in made)
    made = d.logged(
        d.take(calls.ReadLog), record(10), record(11), record(12, b"a", flags=WANT_ACK), at=12
    )
    assert [c.ack.seq for c in made if isinstance(c, calls.SendAck)] == [12]


def test_K1_without_the_law_what_has_only_arrived_is_acknowledged() -> None:
    d = Driver(laws=Laws(ack_after_applied=False))
    made = d.deliver(record(12, b"a", flags=WANT_ACK))
    assert [c.ack.seq for c in made if isinstance(c, calls.SendAck)] == [12]


def test_K1_a_node_does_not_acknowledge_to_itself() -> None:
    d = settled()
    commit(d, Level.ALL)
    assert not d.has(calls.SendAck)


# -- fencing by time (K3) ---------------------------------------------------------------------


def test_K3_a_silent_node_is_fenced_one_bound_after_the_commit() -> None:
    d = settled(*BOTH)
    write, tag = commit(d, Level.ALL)
    committed_ms = d.now_ms
    d.ack(PEER, "peer", 11, tag)
    d.sleep(1014)
    assert write not in d.outcomes
    d.sleep(1.001)
    result = d.result(write)
    assert (sorted(result.acknowledged), result.fenced) == (["me", "peer"], ("third",))
    assert result.satisfied and result.missing == ()
    assert d.now_ms - committed_ms == pytest.approx(1015, abs=1)


def test_K3_each_node_is_fenced_by_its_own_published_bound() -> None:
    d = Driver()
    d.sleep(5100)
    d.prove(10)
    d.roster(member(ME, "me"), member(PEER, "slow", 2000), member(THIRD, "quick", 100))
    write, _ = commit(d, Level.ALL)
    d.sleep(150)
    assert d.event("node_fenced") == [{"node": "quick", "version": f"{EPOCH.decode()}:11"}]
    d.sleep(1900)
    assert d.result(write).fenced == ("quick", "slow")


def test_K3_the_fence_counts_from_the_commit_not_from_the_roster() -> None:
    d = settled((PEER, "peer"))
    write, _ = commit(d, Level.ALL, rv=2)
    d.sleep(1020)
    assert write not in d.outcomes
    d.roster(member(ME, "me"), member(PEER, "peer"), version=2)
    d.tick()
    assert d.result(write).fenced == ("peer",)


def test_K3_who_joined_after_the_roster_was_last_read_is_waited_for() -> None:
    d = settled()
    write, tag = commit(d, Level.ALL, rv=2)
    assert write not in d.outcomes
    d.roster(member(ME, "me"), member(PEER, "peer"), version=2)
    assert write not in d.outcomes
    d.ack(PEER, "peer", 11, tag)
    assert d.result(write).satisfied


def test_a_dead_node_is_one_line_not_one_per_write() -> None:
    d = settled((PEER, "peer"))
    writes = [commit(d, Level.ALL, first=11 + i)[0] for i in range(5)]
    d.sleep(1100)
    assert all(d.result(w).fenced == ("peer",) for w in writes)
    assert len(d.event("node_fenced")) == 1


def test_an_acknowledgement_makes_a_fencing_news_again() -> None:
    d = settled((PEER, "peer"))
    commit(d, Level.ALL)
    d.sleep(1100)
    _, tag = commit(d, Level.ALL, first=12)
    d.ack(PEER, "peer", 12, tag)
    commit(d, Level.ALL, first=13)
    d.sleep(1100)
    assert len(d.event("node_fenced")) == 2


def test_a_node_that_did_not_answer_is_looked_at() -> None:
    d = settled((PEER, "peer"))
    commit(d, Level.ALL)
    d.forget(calls.ReadRoster)
    d.sleep(1016)
    assert d.has(calls.ReadRoster)


# -- deadlines --------------------------------------------------------------------------------


def test_a_deadline_passes_and_the_missing_are_named() -> None:
    d = settled(*BOTH)
    write, tag = commit(d, Level.ALL, timeout_ms=50)
    d.ack(THIRD, "third", 11, tag)
    d.sleep(50)
    result = d.result(write)
    assert (result.satisfied, result.missing) == (False, ("peer",))
    assert result.version is not None, "it stays committed, and the caller is told so"
    assert d.node.waiting == 0


def test_an_acknowledgement_after_the_deadline_changes_nothing() -> None:
    d = settled((PEER, "peer"))
    write, tag = commit(d, Level.ALL, timeout_ms=50)
    d.sleep(50)
    d.ack(PEER, "peer", 11, tag)
    d.sleep(2000)
    assert not d.result(write).satisfied


def test_a_roster_that_cannot_be_read_is_asked_again_until_the_deadline() -> None:
    d = settled()
    write, _ = commit(d, Level.ALL, rv=2)
    d.failed(d.take(calls.ReadRoster))
    assert write not in d.outcomes
    d.sleep(500)
    d.roster(member(ME, "me"), version=2)
    assert d.result(write).satisfied


def test_a_roster_that_can_never_be_read_is_told() -> None:
    d = settled()
    write, _ = commit(d, Level.ALL, rv=2, timeout_ms=300)
    d.sleep(300)
    assert d.result(write).missing == ("(the roster could not be read)",)


def test_K4_a_number_that_is_reached_needs_no_roster() -> None:
    d = settled()
    write, _ = commit(d, 1, rv=2)
    assert d.result(write).satisfied


# -- replicas ---------------------------------------------------------------------------------


def test_replicas_are_waited_for_as_well() -> None:
    d = settled((PEER, "peer"))
    write, tag = commit(d, Level.ALL, replicas=2)
    wait = d.take(calls.WaitReplicas)
    assert wait.replicas == 2
    d.ack(PEER, "peer", 11, tag)
    assert write not in d.outcomes
    d.step(calls.ReplicasReached(wait.call_id, 2))
    assert (d.result(write).satisfied, d.result(write).replicas) == (True, 2)


def test_replicas_without_a_level_are_waited_for_alone() -> None:
    d = settled((PEER, "peer"))
    write, _ = commit(d, Level.REDIS, replicas=1, timeout_ms=100)
    wait = d.take(calls.WaitReplicas)
    d.step(calls.ReplicasReached(wait.call_id, 0))
    assert write not in d.outcomes
    d.sleep(100)
    result = d.result(write)
    assert (result.satisfied, result.replicas, result.missing) == (False, 0, ("(replicas)",))


@pytest.mark.parametrize("asked", [None, Level.NONE], ids=["namespace", "call"])
def test_replicas_are_waited_for_where_no_node_is(asked: int | None) -> None:
    d = Driver(policy=Policy(ack=Level.NONE))
    write = d.write(set_to(b"k", b"v"), ack=asked, replicas=1)
    assert write not in d.outcomes
    d.mutated(d.take(calls.Mutate), first=11)
    d.step(calls.ReplicasReached(d.take(calls.WaitReplicas).call_id, 1))
    assert (d.result(write).satisfied, d.result(write).replicas) == (True, 1)


# -- lineage changes (K7) ---------------------------------------------------------------------


def test_K7_after_a_lineage_change_all_waits_one_bound_before_it_is_believed() -> None:
    d = settled()
    d.tick(250)
    d.prove(lineage(1, epoch=OTHER_EPOCH))
    write = d.write(set_to(b"k", b"v"), ack=Level.ALL)
    batch = d.take(calls.Mutate)
    d.mutated(batch, first=2, epoch=OTHER_EPOCH, prev=tag_of(1))
    d.roster(member(ME, "me"))
    d.sleep(1000)
    assert write not in d.outcomes
    d.sleep(20)
    assert d.result(write).satisfied


def test_K7_a_quarantine_longer_than_the_patience_is_told() -> None:
    d = settled()
    d.tick(250)
    d.prove(lineage(1, epoch=OTHER_EPOCH))
    write = d.write(set_to(b"k", b"v"), ack=Level.ALL, timeout_ms=100)
    d.mutated(d.take(calls.Mutate), first=2, epoch=OTHER_EPOCH, prev=tag_of(1))
    d.roster(member(ME, "me"))
    d.sleep(100)
    assert d.result(write).missing == ("(quarantine after a lineage change)",)


def test_K7_the_quarantine_is_as_long_as_the_largest_bound_that_was_seen() -> None:
    """The holders that the roster may have lost were on it before."""
    d = settled((PEER, "peer"), bound_ms=5000)
    d.tick(250)
    d.prove(lineage(1, epoch=OTHER_EPOCH))
    assert d.node.lane.quarantined_until_ms == pytest.approx(d.now_ms + 5055)


def test_K7_without_the_law_it_is_believed_at_once() -> None:
    d = settled(laws=Laws(quarantine=False))
    d.tick(250)
    d.prove(lineage(1, epoch=OTHER_EPOCH))
    write = d.write(set_to(b"k", b"v"), ack=Level.ALL)
    d.mutated(d.take(calls.Mutate), first=2, epoch=OTHER_EPOCH, prev=tag_of(1))
    d.roster(member(ME, "me"))
    assert d.result(write).satisfied


@pytest.mark.parametrize("applied", [True, False])
def test_K7_a_write_whose_lineage_is_lost_is_never_told_acknowledged(applied: bool) -> None:
    """Whether its node had applied the record already or not: it is not in the new history."""
    d = settled((PEER, "peer"))
    write = d.write(set_to(b"k", b"v"), ack=Level.ALL, timeout_ms=10_000)
    batch = d.take(calls.Mutate)
    d.mutated(batch, first=11 if applied else 12, prev=tag_of(10 if applied else 11))
    d.tick(250)
    fork = lineage(20, b"b")
    d.deliver(record(11, branch=b"b", prev=tag_of(9)))
    d.forget(calls.Probe)
    d.logged(d.take(calls.ReadLog), record(11 if applied else 10, branch=b"b"), at=fork)
    d.prove(fork)
    d.ack(PEER, "peer", 20, tag_of(20, b"b"))
    d.sleep(3000)
    result = d.result(write)
    assert not result.satisfied
    assert result.missing == ("(the lineage changed)",)


def test_K7_the_roster_of_the_old_lineage_is_not_used_even_if_its_number_is_the_same() -> None:
    d = settled()
    d.tick(250)
    d.prove(lineage(1, epoch=OTHER_EPOCH))
    write = d.write(set_to(b"k", b"v"), ack=Level.ALL, timeout_ms=10_000)
    batch = d.take(calls.Mutate)
    d.mutated(batch, first=2, epoch=OTHER_EPOCH, prev=tag_of(1), rv=1)
    d.roster(member(ME, "me"), member(PEER, "peer"), version=1)
    d.sleep(1010)
    assert write not in d.outcomes
    ack = calls.Acknowledgement(PEER, "peer", 0, OTHER_EPOCH, 2, batch.tags[0])
    d.step(calls.AckReceived(ack))
    d.sleep(20)
    assert sorted(d.result(write).acknowledged) == ["me", "peer"]


def test_K7_another_server_is_a_lineage_change_even_where_the_log_shows_none() -> None:
    """A failover may have lost nothing but a node's joining."""
    d = settled()
    d.tick(250)
    d.prove(10, server=b"s2")
    assert d.event("server_changed") == [{"lane": 0}]
    assert d.event("lane_dropped") == []
    write, _ = commit(d, Level.ALL)
    d.sleep(1000)
    if d.has(calls.ReadRoster):
        d.roster(member(ME, "me"))
    assert write not in d.outcomes
    d.sleep(20)
    assert d.result(write).satisfied


def test_K7_the_roster_of_the_server_before_is_not_used_even_if_its_number_is_the_same() -> None:
    """It had version 1 for other members: the new server counts on from where it was."""
    d = settled()
    d.tick(250)
    d.prove(10, server=b"s2")
    write, tag = commit(d, Level.ALL, rv=1, timeout_ms=10_000)
    d.roster(member(ME, "me"), member(PEER, "peer"), version=1)
    d.sleep(1013)
    assert write not in d.outcomes
    d.ack(PEER, "peer", 11, tag)
    d.sleep(20)
    assert sorted(d.result(write).acknowledged) == ["me", "peer"]


def test_K7_a_write_that_waits_goes_on_waiting_when_the_server_changes_and_is_answered() -> None:
    d = settled((PEER, "peer"))
    write, tag = commit(d, Level.ALL, timeout_ms=10_000)
    d.sleep(250)
    d.prove(Lineage(EPOCH, 11, tag), server=b"s2")
    d.roster(member(ME, "me"), member(PEER, "peer"))
    d.ack(PEER, "peer", 11, tag)
    assert write not in d.outcomes
    d.sleep(1020)
    assert d.result(write).satisfied


def test_K7_a_node_that_the_roster_of_the_new_server_lacks_is_not_waited_for() -> None:
    """It was waited for by the roster before: its fence finds it gone."""
    d = settled((PEER, "peer"))
    write, tag = commit(d, Level.ALL, timeout_ms=10_000)
    d.sleep(250)
    d.prove(Lineage(EPOCH, 11, tag), server=b"s2")
    d.roster(member(ME, "me"))
    d.sleep(1270)
    assert d.result(write).satisfied
    assert (d.result(write).fenced, d.event("node_fenced")) == ((), [])


def test_K7_a_node_that_both_rosters_name_is_fenced_once() -> None:
    d = settled((PEER, "peer"))
    write, tag = commit(d, Level.ALL, timeout_ms=10_000)
    d.sleep(250)
    d.prove(Lineage(EPOCH, 11, tag), server=b"s2")
    d.roster(member(ME, "me"), member(PEER, "peer"))
    d.sleep(1270)
    assert d.result(write).fenced == ("peer",)
    assert d.node.acks.fenced_nodes == 1


def test_the_first_contact_is_a_lineage_change_too() -> None:
    """A node that has just started cannot know who held what before."""
    d = Driver()
    write = d.write(set_to(b"k", b"v"), ack=Level.ALL)
    d.mutated(d.take(calls.Mutate), first=11)
    assert write not in d.outcomes
    d.sleep(1020)
    assert d.result(write).satisfied


def test_what_is_remembered_of_nodes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coherenced.core.acks.MAX_NODES", 10)
    d = settled()
    for i in range(50):
        d.ack(b"%016x" % i, f"n{i}", 10)
    assert len(d.node.acks._last) <= 10


def test_bounds_of_a_policy_reach_the_waits() -> None:
    d = Driver(policy=Policy(ack=Level.ALL, ack_timeout_ms=70))
    d.sleep(5100)
    d.prove(10)
    d.roster(member(ME, "me"), member(PEER, "peer"))
    write = d.write(set_to(b"k", b"v"))
    d.mutated(d.take(calls.Mutate), first=11)
    d.sleep(69)
    assert write not in d.outcomes
    d.sleep(1)
    assert d.result(write).missing == ("peer",)
    assert isinstance(d.node.lane.lineage, Lineage)
