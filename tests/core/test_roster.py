"""Who must acknowledge (K2): read when needed, reported when it changes, the dead taken off."""

from __future__ import annotations

from collections.abc import Callable

from coherenced.core.calls import Failed, Failure, ReadRoster, Reap, RosterRead
from coherenced.core.model import Member
from coherenced.core.outbox import Event, Outbox
from coherenced.core.roster import REFRESH_MS, Members, Roster
from tests.core.driver import ME, PEER, THIRD, member


class Bench:
    """A roster alone, with its calls and what it told."""

    def __init__(self) -> None:
        self.box = Outbox()
        self.box.now_ms = 0.0
        self.roster = Roster(self.box, ME)
        self.told: list[Members | None] = []
        self.reads: list[ReadRoster] = []
        self.reaps: list[Reap] = []
        self.events: list[Event] = []

    def collect(self) -> Bench:
        for effect in self.box.take():
            if isinstance(effect, ReadRoster):
                self.reads.append(effect)
            elif isinstance(effect, Reap):
                self.reaps.append(effect)
            elif isinstance(effect, Event):
                self.events.append(effect)
        return self

    def answer(self, *members: Member, version: int = 1) -> Bench:
        call = self.collect().reads.pop(0)
        self.box.answer(call.call_id, RosterRead(call.call_id, version, members))
        return self.collect()

    def fail(self) -> Bench:
        call = self.collect().reads.pop(0)
        self.box.answer(call.call_id, Failed(call.call_id, Failure.LOST, "gone"))
        return self.collect()

    def pass_ms(self, ms: float) -> Bench:
        self.box.now_ms += ms
        self.box.timers.run(self.box.now_ms)
        return self.collect()

    @property
    def use(self) -> Callable[[Members | None], None]:
        return self.told.append


def test_K2_the_roster_is_read_before_it_is_used() -> None:
    bench = Bench()
    bench.roster.with_members(1, bench.use)
    assert bench.told == []
    bench.answer(member(ME, "me"), member(PEER, "peer"))
    assert [sorted(m) for m in bench.told if m is not None] == [[ME, PEER]]


def test_the_same_version_is_not_read_again() -> None:
    bench = Bench()
    bench.roster.with_members(1, bench.use)
    bench.answer(member(ME, "me"))
    bench.roster.with_members(1, bench.use)
    assert len(bench.told) == 2
    assert bench.collect().reads == []


def test_K2_another_version_is_read_anew() -> None:
    bench = Bench()
    bench.roster.with_members(1, bench.use)
    bench.answer(member(ME, "me"))
    bench.roster.with_members(2, bench.use)
    bench.answer(member(ME, "me"), member(PEER, "peer"), version=2)
    assert [len(m or {}) for m in bench.told] == [1, 2]


def test_K2_a_read_that_was_under_way_may_be_too_old_and_is_not_used() -> None:
    bench = Bench()
    bench.roster.read(bench.use)
    bench.collect()
    late: list[Members | None] = []
    bench.roster.with_members(2, late.append)
    bench.answer(member(ME, "me"))
    assert late == [] and len(bench.told) == 1
    bench.answer(member(ME, "me"), member(PEER, "peer"), version=2)
    assert [len(m or {}) for m in late] == [2]


def test_K3_an_unknown_version_is_never_the_one_that_is_held() -> None:
    """After a lost reply the roster's version at the commit is unknown; after a dropped lane the
    held roster is nobody's. The two must not be taken for the same."""
    bench = Bench()
    bench.roster.with_members(-1, bench.use)
    assert bench.told == []
    bench.answer(member(ME, "me"))
    bench.roster.forget()
    bench.roster.with_members(-1, bench.use)
    assert len(bench.told) == 1
    bench.answer(member(ME, "me"), member(PEER, "peer"))
    assert [len(m or {}) for m in bench.told] == [1, 2]


def test_K7_after_the_lane_was_dropped_even_the_same_version_is_read_anew() -> None:
    bench = Bench()
    bench.roster.with_members(3, bench.use)
    bench.answer(member(ME, "me"), version=3)
    bench.roster.forget()
    bench.roster.with_members(3, bench.use)
    assert len(bench.told) == 1
    bench.answer(member(ME, "me"), member(THIRD, "third"), version=3)
    assert [len(m or {}) for m in bench.told] == [1, 2]


def test_whoever_asked_is_told_when_it_cannot_be_read() -> None:
    bench = Bench()
    bench.roster.read(bench.use)
    bench.collect()
    bench.roster.read(bench.use)
    bench.fail()
    assert bench.told == [None]
    bench.answer(member(ME, "me"))
    assert len(bench.told) == 2 and bench.told[1] is not None


def test_joining_and_leaving_are_reported_once() -> None:
    bench = Bench()
    for members in (
        [member(ME, "me")],
        [member(ME, "me"), member(PEER, "peer")],
        [member(ME, "me"), member(PEER, "peer", beat=2)],
        [member(ME, "me")],
    ):
        bench.roster.read(bench.use)
        bench.answer(*members)
    assert [(e.name, e.fields["node"]) for e in bench.events] == [
        ("node_joined", "me"),
        ("node_joined", "peer"),
        ("node_left", "peer"),
    ]


def test_who_was_there_before_is_told_in_one_line_however_many() -> None:
    bench = Bench()
    there = [member(b"%016x" % (1 << 32 | i), f"n{i}") for i in range(2_000)]
    for members in ([member(ME, "me"), *there], [member(ME, "me"), *there[1:]]):
        bench.roster.read(bench.use)
        bench.answer(*members)
    assert [e.name for e in bench.events] == ["nodes_found", "node_joined", "node_left"]
    assert bench.events[0].fields["count"] == 2_000


def test_the_roster_is_looked_at_now_and_then_and_less_often_when_it_is_long() -> None:
    bench = Bench()
    bench.roster.start()
    bench.answer(*(member(b"%016x" % i, f"n{i}") for i in range(200)))
    assert bench.pass_ms(REFRESH_MS - 1).reads == []
    assert len(bench.pass_ms(1).reads) == 1
    bench.answer(*(member(b"%016x" % i, f"n{i}") for i in range(200)))
    assert bench.pass_ms(50.0 * 200 - 1).reads == []
    assert len(bench.pass_ms(1).reads) == 1


def test_after_a_stop_nothing_is_read_by_itself() -> None:
    bench = Bench()
    bench.roster.start()
    bench.answer(member(ME, "me"))
    bench.roster.stop()
    assert bench.pass_ms(10 * REFRESH_MS).reads == []


def silent(bench: Bench, ms: float, *members: Member) -> Bench:
    bench.box.now_ms += ms
    bench.roster.read(bench.use)
    return bench.answer(*members)


def test_K2_a_beat_that_stands_still_for_long_is_a_dead_nodes() -> None:
    bench = Bench()
    silent(bench, 0.0, member(ME, "me"), member(PEER, "peer", bound_ms=3000, beat=7))
    patience_ms = 3 * 3000 + 1000
    silent(bench, patience_ms, member(ME, "me"), member(PEER, "peer", bound_ms=3000, beat=7))
    assert bench.reaps == []
    silent(bench, 1.0, member(ME, "me"), member(PEER, "peer", bound_ms=3000, beat=7))
    assert bench.reaps == [Reap(0, PEER, 7)]
    assert bench.roster.reaped == 1


def test_K2_a_beat_that_moves_is_alive_however_slow_it_looks() -> None:
    bench = Bench()
    for beat in range(5):
        silent(bench, 5000.0, member(PEER, "peer", beat=beat))
    assert bench.reaps == []


def test_a_node_never_reaps_itself() -> None:
    bench = Bench()
    silent(bench, 0.0, member(ME, "me", beat=1))
    silent(bench, 1e6, member(ME, "me", beat=1))
    assert bench.reaps == []
    assert bench.roster.is_live(member(ME, "me"))


def test_liveness_is_told_by_this_nodes_own_clock_A7() -> None:
    """`seen_ms` is the server's clock: for people only."""
    bench = Bench()
    peer = Member(PEER, "peer", 1000, 1, "1", 0)
    silent(bench, 0.0, peer)
    assert bench.roster.is_live(peer)
    bench.box.now_ms += 6001.0
    assert not bench.roster.is_live(peer)
    assert bench.roster.is_live(Member(THIRD, "never seen", 1000, 1, "1", 0))
