"""Comparing what is held with what Redis holds."""

from __future__ import annotations

from typing import Any

from coherenced.core.calls import Fetch, FetchedAll
from coherenced.core.model import Fetched, ReplyError
from coherenced.core.requests import Audit, AuditResult, Fault
from tests.core.driver import Driver, lineage, record


def audit(d: Driver, *keys: bytes) -> int:
    return d.submit(Audit(keys))


def answered(d: Driver, *results: Any, at: int) -> list[Any]:
    call = d.take(Fetch)
    return d.step(FetchedAll(call.call_id, lineage(at), results))


def test_what_is_held_and_untouched_agrees() -> None:
    d = Driver()
    d.hold(b"k", b"v")
    d.hold(b"none", None)
    asked = audit(d, b"k", b"none", b"not held")
    call = d.open[-1]
    assert call.items == (b"k", b"none")
    answered(d, Fetched(b"v"), Fetched(None), at=10)
    assert d.result(asked) == AuditResult(agreed=2)
    assert d.node.audits.agreed == 2
    assert d.hit(b"k") == b"v"


def test_a_difference_that_no_record_explains_is_reported_and_dropped() -> None:
    d = Driver()
    d.hold(b"k", b"v")
    asked = audit(d, b"k")
    answered(d, Fetched(b"other!"), at=10)
    (found,) = d.result(asked).diverged
    assert (found.key, found.held.seq, found.found.seq) == (b"k", 10, 10)
    assert (found.held_bytes, found.found_bytes) == (1, 6)
    assert d.event("audit_diverged")[0]["key"] == b"k"
    assert d.hit(b"k") is None
    assert d.node.audits.diverged == 1


def test_a_value_where_nothing_was_held_and_a_wrong_type_diverge() -> None:
    d = Driver()
    d.hold(b"none", None)
    d.hold(b"list", b"v")
    asked = audit(d, b"none", b"list")
    answered(d, Fetched(b"v"), Fetched(None, error=ReplyError("WRONGTYPE …")), at=10)
    first, second = d.result(asked).diverged
    assert (first.held_bytes, first.found_bytes) == (None, 1)
    assert (second.held_bytes, second.found_bytes) == (1, None)


def test_it_waits_for_the_records_before_the_answer() -> None:
    """The answer is from the future of this node: the record that explains it is on its way."""
    d = Driver()
    d.hold(b"k", b"v")
    d.hold(b"other", b"o")
    asked = audit(d, b"k", b"other")
    answered(d, Fetched(b"new"), Fetched(b"o"), at=11)
    assert asked not in d.outcomes
    d.deliver(record(11, b"k"))
    assert d.result(asked) == AuditResult(agreed=1, moved=1)


def test_what_changes_after_the_answer_has_moved() -> None:
    d = Driver()
    d.hold(b"k", b"v")
    asked = audit(d, b"k")
    call = d.take(Fetch)
    d.deliver(record(11, b"k"))
    d.step(FetchedAll(call.call_id, lineage(10), (Fetched(b"v"),)))
    assert d.result(asked) == AuditResult(moved=1)


def test_nothing_is_said_when_the_records_do_not_come() -> None:
    d = Driver()
    d.hold(b"k", b"v")
    asked = audit(d, b"k")
    answered(d, Fetched(b"new"), at=12)
    d.sleep(1_100.0)
    assert d.result(asked) == AuditResult(moved=1)
    assert d.node.waiting == 0


def test_nothing_is_said_about_another_history_or_a_pending_key() -> None:
    d = Driver()
    d.hold(b"k", b"v")
    asked = audit(d, b"k")
    call = d.take(Fetch)
    d.step(FetchedAll(call.call_id, lineage(10, epoch=b"00000000000000e9"), (Fetched(b"x"),)))
    assert d.result(asked) == AuditResult(moved=1)
    d = Driver()
    d.hold(b"k", b"v")
    asked = audit(d, b"k")
    answered(d, Fetched(b"new", pending=True), at=10)
    assert d.result(asked) == AuditResult(moved=1)


def test_an_expiry_that_redis_sees_a_little_earlier_is_no_divergence() -> None:
    d = Driver()
    d.hold(b"k", b"v", ttl_ms=500)
    d.now_ms += 450.0
    asked = audit(d, b"k")
    answered(d, Fetched(None), at=10)
    assert d.result(asked) == AuditResult(moved=1)


def test_without_redis_it_fails_in_one_line() -> None:
    d = Driver()
    d.hold(b"k", b"v")
    asked = audit(d, b"k")
    d.failed(d.take(Fetch))
    assert isinstance(d.result(asked), Fault)
    assert d.node.waiting == 0


def test_nothing_held_nothing_asked() -> None:
    d = Driver()
    assert d.result(audit(d, b"k")) == AuditResult()
    assert not d.has(Fetch)


def test_what_is_dead_already_is_not_held() -> None:
    """Covered by its tag's invalidation, or past its time: never served again."""
    d = Driver()
    d.hold(b"k", b"v", labels=(b"t",))
    d.hold(b"short", b"v", ttl_ms=50)
    d.deliver(record(11, tags=(b"t",)))
    d.now_ms += 60.0
    assert d.result(audit(d, b"k", b"short")) == AuditResult()
    assert not d.has(Fetch)
