"""L1 on one node: one line a key, one claim for all who stand in it, woken by records only."""

from __future__ import annotations

from typing import Any

from coherenced.core import calls
from coherenced.core.calls import Claim, Claimed, Claims, Failure
from coherenced.core.inputs import Drain
from coherenced.core.laws import Laws
from coherenced.core.model import Done, Fetched, Op, ReplyError
from coherenced.core.requests import (
    Fault,
    FaultKind,
    Fill,
    Lease,
    LeaseResult,
    Level,
    Release,
    WriteResult,
)
from tests.core.driver import Driver, lineage, own_record, record, tag_of


def lease(d: Driver, key: bytes = b"k", **terms: Any) -> int:
    return d.submit(Lease(key, **terms))


def claimed(
    d: Driver, state: int, found: Fetched | None = None, at: int = 10, left: int = 0
) -> Claim:
    call = d.take(Claim)
    d.step(Claimed(call.call_id, lineage(at), found or Fetched(None), state, left))
    return call


def told(d: Driver, request: int) -> LeaseResult:
    outcome = d.result(request)
    assert isinstance(outcome, LeaseResult), outcome
    return outcome


def granted(d: Driver, key: bytes = b"k") -> bytes:
    request = lease(d, key)
    claimed(d, Claims.GRANTED)
    return told(d, request).token


def test_one_claim_for_all_in_line() -> None:
    d = Driver()
    requests = [lease(d, wait_ms=1000.0) for _ in range(100)]
    call = claimed(d, Claims.GRANTED, left=10_000)
    assert not d.has(Claim)
    assert told(d, requests[0]).token == call.token
    assert not set(requests[1:]) & d.outcomes.keys()
    d.submit(Fill(b"k", call.token, b"v"))
    mutate = d.take(calls.Mutate)
    assert (mutate.mutations[0].op, mutate.mutations[0].lease) == (Op.FILL, call.token)
    d.mutated(mutate, first=11)
    for request in requests[1:]:
        value = told(d, request).value
        assert value is not None
        assert value.value == b"v"
    assert not d.has(Claim)  # its own fill is a hit
    assert (d.node.waiting, d.node.leases.lines, d.node.leases.held) == (0, {}, 0)


def test_nobody_polls_a_record_wakes() -> None:
    d = Driver()
    request = lease(d, wait_ms=5000.0)
    claimed(d, Claims.HELD, left=4000)
    d.sleep(1000)
    d.forget(calls.Probe)
    assert not d.has(Claim)
    d.deliver(record(11, b"other"))
    assert not d.has(Claim)
    d.deliver(record(12, b"k", op=Op.FILL))
    claimed(d, Claims.NOTHING, Fetched(b"v"), at=12)
    value = told(d, request).value
    assert value is not None
    assert value.value == b"v"


def test_a_record_that_overtook_the_answer_is_not_missed() -> None:
    d = Driver()
    lease(d, wait_ms=5000.0)
    call = d.take(Claim)
    d.deliver(record(11, b"k", op=Op.RELEASE))
    d.step(Claimed(call.call_id, lineage(10), Fetched(None), Claims.HELD, 4000))
    assert d.has(Claim)


def test_a_lease_that_ran_out_is_asked_for() -> None:
    d = Driver()
    lease(d, wait_ms=5000.0)
    claimed(d, Claims.HELD, left=300)
    d.sleep(250)
    assert not d.has(Claim)
    d.sleep(100)
    assert d.has(Claim)
    assert d.node.leases.lapsed == 1


def test_who_does_not_wait_is_told_at_once() -> None:
    d = Driver()
    first = lease(d)
    claimed(d, Claims.HELD, left=4000)
    assert told(d, first) == LeaseResult()
    waits = lease(d, wait_ms=500.0)
    claimed(d, Claims.HELD, left=4000)
    at_once = lease(d)
    assert told(d, at_once) == LeaseResult()
    assert not d.has(Claim)
    d.sleep(600)
    assert told(d, waits) == LeaseResult()
    assert d.node.leases.lines == {}


def test_a_token_that_nobody_waits_for_any_more_is_given_back() -> None:
    d = Driver()
    lease(d, wait_ms=50.0)
    call = d.take(Claim)
    d.sleep(100)
    d.step(Claimed(call.call_id, lineage(10), Fetched(None), Claims.GRANTED, 10_000))
    release = d.take(calls.Mutate).mutations[0]
    assert (release.op, release.lease) == (Op.RELEASE, call.token)


def test_a_lost_claim_is_asked_again_with_its_token_then_given_back() -> None:
    d = Driver()
    request = lease(d)
    first = d.take(Claim)
    d.failed(first, Failure.LOST)
    second = d.take(Claim)
    assert second.token == first.token
    d.failed(second, Failure.LOST)
    assert d.fault(request).kind == FaultKind.UNAVAILABLE
    assert d.take(calls.Mutate).mutations[0].op == Op.RELEASE


def test_a_refused_fill_gives_the_token_back() -> None:
    d = Driver()
    token = granted(d)
    request = d.submit(Fill(b"k", token, b"old"))
    mutate = d.take(calls.Mutate)
    refused = Done(ReplyError("LOST no"), 0, b"", b"")
    d.step(calls.Mutated(mutate.call_id, lineage(10), 1, (refused,)))
    assert d.fault(request).kind == FaultKind.LOST
    assert d.take(calls.Mutate).mutations[0].op == Op.RELEASE
    assert d.node.leases.lost == 1
    assert d.hit(b"k") is None


def test_after_the_lane_was_dropped_a_fill_is_not_even_sent() -> None:
    for laws, sent in ((Laws(), Op.RELEASE), (Laws(lease_voided=False), Op.FILL)):
        d = Driver(laws=laws)
        token = granted(d)
        d.node.lane.generation += 1
        d.submit(Fill(b"k", token, b"old"))
        assert d.take(calls.Mutate).mutations[0].op == sent


def test_a_fill_is_never_answered_before_it_is_known() -> None:
    d = Driver()
    request = d.submit(Fill(b"k", b"t", b"v", ack=Level.NONE))
    release = d.submit(Release(b"k2", b"t"))
    assert not {request, release} & d.outcomes.keys()


def test_a_release_tells_whether_the_token_was_alive() -> None:
    d = Driver()
    token = granted(d)
    request = d.submit(Release(b"k", token, 700))
    mutate = d.take(calls.Mutate)
    assert mutate.mutations[0].token_ttl_ms == 700
    d.mutated(mutate, first=11, replies=[1])
    outcome = d.result(request)
    assert isinstance(outcome, WriteResult)
    assert outcome.replies == (1,)
    d.deliver(own_record(mutate, 0, 11, tag_of(10)))


def test_known_not_to_exist_is_a_hit_while_it_lasts() -> None:
    d = Driver()
    request = lease(d)
    claimed(d, Claims.NOTHING, left=2000)
    value = told(d, request).value
    assert value is not None
    assert (value.value, value.expires_in_ms) == (None, 2000)
    again = told(d, lease(d)).value
    assert again is not None
    assert again.source == "l1"
    d.read(b"plain")
    d.fetched(d.take(calls.Fetch), Fetched(None))
    lease(d, b"plain")  # a plain miss is no such knowledge
    assert d.has(Claim)


def test_a_value_that_is_due_goes_to_one_loader() -> None:
    d = Driver()
    due = [lease(d, refresh_ms=1000.0, wait_ms=500.0) for _ in range(2)]
    claimed(d, Claims.GRANTED, Fetched(b"old", ttl_ms=900), left=10_000)
    first, second = told(d, due[0]), told(d, due[1])
    assert first.token
    assert first.value is not None
    assert not second.token
    assert second.value is not None
    assert second.value.value == b"old"


def test_too_many_leases_and_a_stopping_node() -> None:
    d = Driver()
    request = lease(d)
    claimed(d, Claims.TOO_MANY)
    assert d.fault(request).kind == FaultKind.OVERLOADED
    waits = lease(d, wait_ms=5000.0)
    claimed(d, Claims.HELD, left=4000)
    d.step(Drain())
    outcome = d.result(waits)
    assert isinstance(outcome, Fault)
    assert outcome.kind == FaultKind.STOPPING
