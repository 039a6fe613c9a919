"""What the core tells the shared page, and when: within the step, whether held in L1 or not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coherenced.core import calls
from coherenced.core.calls import Failure, Fetch, Mutate, SendAck
from coherenced.core.inputs import Forget, Stop
from coherenced.core.model import EVERYTHING, NEVER, WANT_ACK, Fetched, Op, Query
from coherenced.core.policy import Policy
from coherenced.core.requests import Level
from tests.core.driver import (
    EPOCH,
    OTHER_EPOCH,
    Driver,
    delete,
    invalidate,
    lineage,
    record,
    set_to,
    tag_of,
)


class Told:
    """A page that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.verified_at_ms = NEVER
        self.position: tuple[bytes | None, int] = (None, 0)

    def touch(self, keys: Iterable[bytes]) -> None:
        self.said += keys

    def touch_tags(self, tags: Iterable[bytes]) -> None:
        self.said += [("tag", tag) for tag in tags]

    def drop(self) -> None:
        self.said.append("drop")

    def publish(self, verified_at_ms: float, epoch: bytes | None, applied: int) -> None:
        self.verified_at_ms = verified_at_ms
        self.position = (epoch, applied)

    def take(self) -> list[Any]:
        said, self.said = self.said, []
        return said


def told(**options: Any) -> tuple[Driver, Told]:
    page = Told()
    driver = Driver(page=page, **options)
    page.take()
    return driver, page


def test_every_key_of_a_record_whether_held_or_not() -> None:
    d, page = told()
    d.hold(b"held")
    page.take()
    d.deliver(record(11, b"held", b"unknown"))
    assert page.take() == [b"held", b"unknown"]


def test_it_is_told_in_the_step_that_acknowledges() -> None:
    d, page = told()
    made = d.deliver(record(11, b"k", flags=WANT_ACK))
    assert any(isinstance(call, SendAck) for call in made)
    assert page.take() == [b"k"]


def test_tags_prefixes_and_everything() -> None:
    d, page = told()
    d.deliver(record(11, tags=(b"t", b"u")))
    assert page.take() == [("tag", b"t"), ("tag", b"u")]
    d.deliver(record(12, prefixes=(b"a",)))
    assert page.take() == ["drop"]
    d.deliver(record(13, flags=EVERYTHING, op=Op.FLUSH))
    assert page.take() == ["drop"]


def test_a_duplicate_tells_nothing() -> None:
    d, page = told()
    d.deliver(record(11, b"k"))
    page.take()
    d.deliver(record(11, b"k"))
    assert page.take() == []


def test_an_own_write_is_told_before_its_reply() -> None:
    d, page = told()
    request = d.write(set_to(b"k", b"v"))
    assert page.take() == []
    d.mutated(d.take(Mutate), first=11)
    assert page.take() == [b"k"]
    assert request in d.outcomes


def test_an_accepted_write_is_told_at_once() -> None:
    d, page = told()
    d.write(set_to(b"k", b"v"), ack=Level.NONE)
    assert page.take() == [b"k"]
    d.write(invalidate(tags=(b"t",), prefixes=(b"p",)), ack=Level.NONE)
    assert page.take() == [("tag", b"t"), "drop"]


def test_a_lost_write_and_a_journaled_one() -> None:
    d, page = told()
    d.write(delete(b"k"))
    d.failed(d.take(Mutate), Failure.LOST)
    assert page.take() == [b"k"]
    d.step(Forget((invalidate(b"j"),)))
    assert page.take() == [b"j"]


def test_a_value_from_ahead_of_the_position_is_news_and_not_to_be_kept() -> None:
    d, page = told()
    request = d.read(b"k")
    d.fetched(d.take(Fetch), b"v", at=12)
    assert page.take() == [b"k"]
    assert d.result(request).values[0].keep_ms == 0.0


def test_a_stored_fill_tells_nothing_and_may_be_kept_as_long_as_l1_does() -> None:
    d, page = told(policy=Policy(max_age_ms=5000.0))
    request = d.read(b"k")
    d.fetched(d.take(Fetch), Fetched(b"v", ttl_ms=700, labels=(b"t",)))
    assert page.take() == []
    value = d.result(request).values[0]
    assert (value.keep_ms, value.bound_ms, value.labels) == (700.0, 1000.0, (b"t",))
    d.tick(100.0)
    again = d.read(b"k")
    assert d.result(again).values[0].keep_ms == 600.0


def test_what_l1_does_not_hold_may_not_be_kept() -> None:
    d, page = told(max_value_bytes=10)
    for got in (Fetched(b"v", pending=True), Fetched(b"x" * 11)):
        request = d.read(b"k")
        d.fetched(d.take(Fetch), got)
        assert d.result(request).values[0].keep_ms == 0.0
        assert page.take() == [b"k"]
    overtaken = d.read(b"k")
    call = d.take(Fetch)
    d.deliver(record(11, b"k"))
    d.fetched(call, b"old", at=10)
    assert d.result(overtaken).values[0].keep_ms == 0.0


def test_nothing_is_kept_where_every_read_is_proved() -> None:
    d, _ = told(policy=Policy(max_staleness_ms=0.0))
    request = d.read(b"k")
    d.fetched(d.take(Fetch), b"v")
    assert d.result(request).values[0].keep_ms == 0.0


def test_other_answers_about_a_key_are_told_when_copies_may_be_older() -> None:
    d, page = told()
    d.ask(Query((b"TTL", b"k"), (b"k",)))
    d.fetched(d.take(Fetch), 5, at=12)
    assert page.take() == [b"k"]


def test_a_dropped_lane_and_a_lost_proof() -> None:
    d, page = told()
    assert page.verified_at_ms == 1000.0
    d.tick(1.0)
    d.forget(calls.Probe)
    d.node.catchup.probes.request()
    d.tick()
    d.prove(lineage(5, epoch=OTHER_EPOCH))
    assert "drop" in page.take()
    assert page.position[0] == OTHER_EPOCH
    d.step(Stop())
    assert page.verified_at_ms == NEVER


def test_what_leaves_l1_by_itself_is_not_told() -> None:
    d, page = told(max_bytes=4000)
    for number in range(30):
        d.hold(b"key%d" % number)
    assert d.node.l1.evictions
    d.sleep(70_000.0)
    assert page.take() == []


def test_the_position_is_published_with_the_proof() -> None:
    d, page = told()
    assert page.position == (EPOCH, 10)
    d.deliver(record(11, b"k"))
    assert page.position == (EPOCH, 11)


def test_new_rules_let_go_of_all_copies() -> None:
    d, page = told()
    d.hold(b"k")
    d.node.let_go()
    assert page.take() == ["drop"]
    assert d.hit(b"k") is None


def test_a_found_write_is_told() -> None:
    d, page = told()
    d.write(delete(b"k"))
    call = d.take(Mutate)
    d.failed(call, Failure.LOST)
    page.take()
    found = record(11, b"k")
    found = type(found)(11, tag_of(10), call.tags[0], Op.DELETE, 0, b"me", (b"k",))
    d.logged(d.take(calls.Resolve), found, at=lineage(11))
    assert b"k" in page.take()
