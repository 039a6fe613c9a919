"""Linearizable namespaces: a write in two phases (K6)."""

from __future__ import annotations

import pytest

from coherenced.core import calls
from coherenced.core.laws import Laws
from coherenced.core.model import Fetched, Op, ReplyError, Set
from coherenced.core.phases import BUSY, BUSY_RETRY_MS, TOKEN_MARGIN_MS
from coherenced.core.policy import Policy
from coherenced.core.requests import FaultKind, Level
from tests.core.driver import (
    ME,
    OTHER_EPOCH,
    PEER,
    Driver,
    delete,
    invalidate,
    lineage,
    member,
    record,
    set_to,
)

PENDING = ReplyError(f"{BUSY} another write is between its two phases on this key")


def linear(*others: tuple[bytes, str], laws: Laws | None = None) -> Driver:
    """A node whose keys `l:*` are linearizable, long past its quarantine."""
    d = Driver(laws=laws, rules=[("l:*", Policy(linearizable=True, ack_timeout_ms=3000))])
    d.sleep(5100)
    d.prove(10)
    d.sleep(260)  # a beat of now: it is on the roster
    d.prove(10)
    d.roster(member(ME, "me"), *(member(i, n) for i, n in others))
    return d


def phase(d: Driver) -> calls.Mutate:
    return d.take(calls.Mutate)


def ops(batch: calls.Mutate) -> list[int]:
    return [m.op for m in batch.mutations]


def next_seq(d: Driver) -> int:
    return d.node.lane.applied + 1


def committed(d: Driver, batch: calls.Mutate, *replies: object) -> None:
    d.mutated(batch, first=next_seq(d), replies=list(replies), prev=d.node.lane.tag)  # type: ignore[arg-type]


def refused(d: Driver, batch: calls.Mutate, *replies: object) -> None:
    done = tuple(calls.Done(r, 0, b"", b"") for r in replies)  # type: ignore[arg-type]
    where = d.node.lane.lineage
    assert where is not None
    d.step(calls.Mutated(batch.call_id, where, 1, done))


def test_K6_every_node_has_dropped_the_key_before_the_value_becomes_visible() -> None:
    d = linear((PEER, "peer"))
    write = d.write(set_to(b"l:k", b"v"))
    prepare = phase(d)
    assert (ops(prepare), prepare.mutations[0].argv) == ([Op.PREPARE], ())
    assert prepare.want_ack == (True,)
    committed(d, prepare, b"OK")
    assert not d.has(calls.Mutate), "the peer may still hold the old value"
    d.ack(PEER, "peer", 11, prepare.tags[0])
    commit = phase(d)
    assert ops(commit) == [Op.COMMIT]
    assert commit.mutations[0].token == prepare.mutations[0].token != b""
    committed(d, commit, b"OK")
    result = d.result(write)
    assert (result.replies, result.version.seq) == ((b"OK",), 12)
    assert sorted(result.acknowledged) == ["me", "peer"]
    assert d.hit(b"l:k") == b"v"
    assert d.node.waiting == 0


def test_K6_a_silent_node_is_fenced_by_time_and_then_it_is_committed() -> None:
    d = linear((PEER, "peer"))
    write = d.write(set_to(b"l:k", b"v"))
    committed(d, phase(d), b"OK")
    d.sleep(1020)
    committed(d, phase(d), b"OK")
    assert d.result(write).fenced == ("peer",)


def test_K6_the_mark_outlives_the_writers_own_patience() -> None:
    d = linear()
    d.write(set_to(b"l:k", b"v"), timeout_ms=500)
    assert phase(d).mutations[0].token_ttl_ms == 500 + TOKEN_MARGIN_MS


def test_K6_each_write_has_a_token_of_its_own() -> None:
    d = linear()
    d.write(set_to(b"l:a", b"v"), set_to(b"l:b", b"v"))
    first = phase(d)
    assert first.mutations[0].keys == (b"l:a", b"l:b")
    d.write(set_to(b"l:c", b"v"))
    committed(d, first, b"OK")
    batch = phase(d)
    tokens = {m.op: m.token for m in batch.mutations if m.op != Op.COMMIT}
    assert tokens[Op.PREPARE] not in (b"", first.mutations[0].token)


def test_K6_when_not_every_node_dropped_its_copy_in_time_nothing_is_applied() -> None:
    d = linear((PEER, "peer"))
    write = d.write(set_to(b"l:k", b"v"), timeout_ms=100)
    committed(d, phase(d), b"OK")
    d.sleep(100)
    assert d.fault(write).kind == FaultKind.CONTENDED
    assert "peer" in d.fault(write).detail and "not applied" in d.fault(write).detail
    abort = phase(d)
    assert ops(abort) == [Op.ABORT]
    assert abort.mutations[0].argv == ()
    committed(d, abort, None)
    assert d.node.waiting == 0


def test_K6_a_key_that_is_pending_for_another_writer_is_tried_again() -> None:
    d = linear()
    write = d.write(set_to(b"l:k", b"v"))
    refused(d, phase(d), PENDING)
    assert write not in d.outcomes and not d.has(calls.Mutate)
    d.sleep(BUSY_RETRY_MS)
    committed(d, phase(d), b"OK")
    committed(d, phase(d), b"OK")
    assert d.result(write).satisfied


def test_K6_but_not_longer_than_the_writers_patience() -> None:
    d = linear()
    write = d.write(set_to(b"l:k", b"v"), timeout_ms=20)
    for _ in range(5):
        if d.has(calls.Mutate):
            refused(d, phase(d), PENDING)
        d.sleep(BUSY_RETRY_MS)
    assert d.fault(write).kind == FaultKind.CONTENDED
    assert "not applied" in d.fault(write).detail
    assert d.node.phases.refused == 1
    assert not d.has(calls.Mutate)


def test_K6_a_commit_whose_mark_is_gone_is_refused_by_the_server_and_told() -> None:
    d = linear()
    write = d.write(set_to(b"l:k", b"v"))
    committed(d, phase(d), b"OK")
    gone = ReplyError(f"{BUSY} the mark is gone")
    refused(d, phase(d), gone)
    outcome = d.outcomes[write]
    assert getattr(outcome, "replies", (gone,)) == (gone,)
    assert b"l:k" not in d.node.l1.entries


def test_K6_a_prepare_that_could_not_be_sent_fails_clearly() -> None:
    d = linear()
    write = d.write(set_to(b"l:k", b"v"))
    d.failed(phase(d))
    assert d.fault(write).kind == FaultKind.UNAVAILABLE


def test_K6_a_prepare_refused_for_another_reason_is_the_writers_answer() -> None:
    d = linear()
    write = d.write(set_to(b"l:k", b"v"))
    wrong = ReplyError("OOM command not allowed")
    refused(d, phase(d), wrong)
    assert d.result(write).replies == (wrong,)
    assert not d.has(calls.Mutate)


def test_W4_two_writes_of_this_node_to_one_key_go_one_after_the_other() -> None:
    d = linear()
    first = d.write(set_to(b"l:k", b"1"))
    second = d.write(set_to(b"l:k", b"2"))
    other = d.write(set_to(b"l:other", b"x"))
    prepare = phase(d)
    assert [m.keys for m in prepare.mutations] == [(b"l:k",)]
    refused(d, prepare, PENDING)
    batch = phase(d)
    assert [m.keys for m in batch.mutations] == [(b"l:other",)], "the second waits for the first"
    committed(d, batch, b"OK")
    committed(d, phase(d), b"OK")
    assert d.result(other).satisfied
    d.sleep(BUSY_RETRY_MS)
    seen = []
    while d.has(calls.Mutate):
        batch = phase(d)
        seen += [(m.op, m.keeps) for m in batch.mutations]
        committed(d, batch, *[b"OK"] * len(batch.mutations))
    assert seen == [(Op.PREPARE, None), (Op.COMMIT, b"1"), (Op.PREPARE, None), (Op.COMMIT, b"2")]
    assert d.result(first).version < d.result(second).version
    assert d.hit(b"l:k") == b"2"


def test_W4_writes_over_several_keys_do_not_wait_for_each_other_in_a_ring() -> None:
    d = linear()
    writes = [
        d.write(set_to(b"l:a", b"1"), set_to(b"l:b", b"1")),
        d.write(set_to(b"l:b", b"2"), set_to(b"l:a", b"2")),
        d.write(set_to(b"l:a", b"3")),
    ]
    for _ in range(20):
        if d.has(calls.Mutate):
            batch = phase(d)
            committed(d, batch, *[b"OK"] * len(batch.mutations))
    assert [d.result(w).satisfied for w in writes] == [True] * 3
    assert (d.hit(b"l:a"), d.hit(b"l:b")) == (b"3", b"2")
    assert not d.node.phases._lines


def test_the_next_in_line_goes_on_when_the_first_fails() -> None:
    d = linear()
    first, second = d.write(set_to(b"l:k", b"1")), d.write(set_to(b"l:k", b"2"))
    d.failed(phase(d))
    assert first in d.outcomes
    for _ in range(5):
        if d.has(calls.Mutate):
            batch = phase(d)
            committed(d, batch, *[b"OK"] * len(batch.mutations))
    assert d.result(second).satisfied


@pytest.mark.parametrize("patience_ms", [100, 3000])
def test_W4_whoever_was_next_on_two_keys_goes_once(patience_ms: int) -> None:
    """When the first ends, the second does so at once, since its time is up; that gives the third
    its turn, which was also next behind the first."""
    d = linear()
    first = d.write(set_to(b"l:a", b"1"), set_to(b"l:b", b"1"), atomic=True)
    second = d.write(set_to(b"l:a", b"2"), timeout_ms=100)
    third = d.write(set_to(b"l:a", b"3"), set_to(b"l:b", b"3"), atomic=True, timeout_ms=patience_ms)
    d.sleep(150)
    batches = 0
    while d.has(calls.Mutate):
        batch = phase(d)
        committed(d, batch, *[b"OK"] * len(batch.mutations))
        batches += 1
    assert d.result(first).satisfied
    assert d.fault(second).kind == FaultKind.CONTENDED
    if patience_ms == 100:
        assert d.fault(third).kind == FaultKind.CONTENDED
    else:
        assert d.result(third).satisfied
    assert batches == (2 if patience_ms == 100 else 4)
    assert d.node.waiting == 0 and not d.node.phases._lines


def test_only_linearizable_keys_are_prepared() -> None:
    d = linear()
    d.write(set_to(b"plain", b"v"), set_to(b"l:k", b"v"), atomic=True)
    prepare = phase(d)
    assert [m.keys for m in prepare.mutations] == [(b"l:k",)]
    committed(d, prepare, b"OK")
    commit = phase(d)
    assert ops(commit) == [Op.WRITE, Op.COMMIT]


@pytest.mark.parametrize("plain", [set_to(b"plain", b"v"), invalidate(b"l:k")])
def test_other_writes_have_one_phase(plain: object) -> None:
    """Also an invalidation of a linearizable key: it makes no new value visible."""
    d = linear()
    d.write(plain)  # type: ignore[arg-type]
    assert ops(phase(d)) in ([Op.WRITE], [Op.INVALIDATE])


def test_W4_a_later_write_of_its_plain_key_waits_for_it_and_has_one_phase() -> None:
    d = linear()
    both = set_to(b"l:k", b"1"), set_to(b"a", b"1")
    first = d.write(*both, atomic=True)
    second = d.write(set_to(b"a", b"2"))
    third = d.turn(Set.to(b"a", b"3"))[0]
    d.write(set_to(b"b", b"1"))
    prepare = phase(d)
    assert ops(prepare) == [Op.PREPARE] and prepare.mutations[0].keys == (b"l:k",)
    committed(d, prepare, b"OK")
    other = phase(d)
    assert [m.keys for m in other.mutations] == [(b"b",), (b"l:k",), (b"a",)]
    assert d.node.waiting == 4
    committed(d, other, b"OK", b"OK", b"OK")
    assert d.result(first).satisfied and second not in d.outcomes
    values = []
    while d.has(calls.Mutate):
        batch = phase(d)
        values += [m.argv[-1] for m in batch.every]
        committed(d, batch, *[b"OK"] * len(batch.every))
    assert values == [b"2", b"3"]
    assert d.result(second).satisfied and third in d.outcomes
    assert d.node.waiting == 0 and not d.node.phases._lines


def test_W4_nor_does_it_stay_behind_what_was_refused() -> None:
    d = linear((PEER, "peer"))
    refused_one = d.write(set_to(b"l:k", b"1"), set_to(b"a", b"1"), atomic=True, timeout_ms=100)
    later = d.write(set_to(b"a", b"2"))
    committed(d, phase(d), b"OK")
    d.sleep(100)  # the peer does not answer
    assert d.fault(refused_one).kind == FaultKind.CONTENDED
    batch = phase(d)
    assert ops(batch) == [Op.ABORT, Op.WRITE]
    committed(d, batch, b"OK", b"OK")
    assert d.result(later).satisfied and d.node.waiting == 0


def test_a_delete_has_two_phases_too() -> None:
    d = linear()
    d.write(delete(b"l:k"))
    assert ops(phase(d)) == [Op.PREPARE]


def test_K6_between_the_phases_the_node_itself_holds_nothing_of_the_key() -> None:
    d = linear((PEER, "peer"))
    d.hold(b"l:k", b"old")
    d.write(set_to(b"l:k", b"new"))
    committed(d, phase(d), b"OK")
    assert d.hit(b"l:k") is None
    read = d.read(b"l:k")
    d.fetched(d.take(calls.Fetch), Fetched(b"old", pending=True), at=11)
    assert d.value(read) == b"old"
    assert b"l:k" not in d.node.l1.entries


def test_K6_another_nodes_prepare_drops_the_key_here() -> None:
    d = linear()
    d.hold(b"l:k", b"old")
    d.deliver(record(11, b"l:k", op=Op.PREPARE))
    assert d.hit(b"l:k") is None


def test_K6_none_is_not_answered_early() -> None:
    d = linear()
    write = d.write(set_to(b"l:k", b"v"), ack=Level.NONE)
    assert write not in d.outcomes
    assert ops(phase(d)) == [Op.PREPARE]


def test_K6_without_the_law_the_value_is_visible_at_once() -> None:
    d = linear((PEER, "peer"), laws=Laws(two_phases=False))
    d.write(set_to(b"l:k", b"v"))
    assert ops(phase(d)) == [Op.WRITE]


def test_K6_a_lineage_lost_between_the_phases_aborts() -> None:
    d = linear((PEER, "peer"))
    write = d.write(set_to(b"l:k", b"v"))
    committed(d, phase(d), b"OK")
    d.tick(250)
    d.prove(lineage(1, epoch=OTHER_EPOCH))
    assert d.fault(write).kind == FaultKind.CONTENDED
    assert ops(phase(d)) == [Op.ABORT]


def test_K6_a_delete_marks_and_deletes_also_when_memory_is_full() -> None:
    d = linear()
    d.write(delete(b"l:k"))
    assert all(mutation.frees_memory for mutation in phase(d).mutations)
    d = linear()
    write = d.write(set_to(b"l:k", b"v"))
    batch = phase(d)
    assert not any(mutation.frees_memory for mutation in batch.mutations)
    d.failed(batch, calls.Failure.OUT_OF_MEMORY)
    assert d.fault(write).kind == FaultKind.OUT_OF_MEMORY
    assert not d.has(calls.Mutate)  # nothing was marked: there is nothing to take back
