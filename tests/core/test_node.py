"""The node as a whole: the short path, its life from Start to Stop, its bounds and its clock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import coherenced.core
from coherenced.core import calls
from coherenced.core.entry import MAX_FREQUENCY
from coherenced.core.inputs import Start, Stop
from coherenced.core.laws import Laws
from coherenced.core.model import FOREVER
from coherenced.core.node import FASTEST_BEAT_MS, SLOWEST_BEAT_MS, beat_every_ms
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.requests import AskMembers, FaultKind, MembersResult
from tests.core.driver import ME, PEER, Driver, delete, member, record, set_to

CORE = Path(coherenced.core.__file__).parent

# -- the short path (V3) ----------------------------------------------------------------------


def test_V3_a_hit_is_served_within_the_bound_of_verified_at_and_not_after() -> None:
    d = Driver(policy=Policy(max_staleness_ms=1000))
    d.hold(b"k")
    verified_ms = d.node.lane.verified_at_ms
    d.now_ms = verified_ms + 1000.0
    assert d.hit(b"k") == b"v"
    d.now_ms = verified_ms + 1000.001
    assert d.hit(b"k") is None


def test_V3_each_namespace_has_its_own_bound() -> None:
    d = Driver(rules=[("quick:*", Policy(max_staleness_ms=50))])
    d.hold(b"quick:k")
    d.hold(b"k")
    d.now_ms = d.node.lane.verified_at_ms + 51
    assert (d.hit(b"quick:k"), d.hit(b"k")) == (None, b"v")


def test_V3_a_hit_is_served_before_its_deadline_and_not_at_it() -> None:
    d = Driver()
    d.hold(b"k", ttl_ms=100)
    deadline_ms = d.node.l1.entries[b"k"].deadline_ms
    d.now_ms = deadline_ms - 0.001
    assert d.hit(b"k") == b"v"
    d.now_ms = deadline_ms
    assert d.hit(b"k") is None


def test_V3_nothing_is_served_before_the_lane_was_proved_or_after_it_was_unproved() -> None:
    d = Driver()
    d.hold(b"k")
    d.node.lane.unprove()
    assert d.hit(b"k") is None


def test_T1_an_entry_whose_tag_was_invalidated_is_dead_wherever_it_is_looked_at() -> None:
    d = Driver()
    d.hold(b"k", labels=(b"t",))
    assert d.hit(b"k") == b"v"
    d.deliver(record(11, tags=(b"t",)))
    assert d.hit(b"k") is None
    d.read(b"k")
    assert d.has(calls.Fetch)


def test_T1_a_value_read_after_the_invalidation_lives() -> None:
    d = Driver()
    d.deliver(record(11, tags=(b"t",)))
    d.hold(b"k", labels=(b"t",), at=11)
    assert d.hit(b"k") == b"v"


def test_T1_without_the_law_tags_cover_nothing() -> None:
    d = Driver(laws=Laws(tags_cover=False))
    d.hold(b"k", labels=(b"t",))
    d.deliver(record(11, tags=(b"t",)))
    assert d.hit(b"k") == b"v"


def test_a_hit_counts_itself_and_marks_the_entry_as_used() -> None:
    d = Driver()
    d.hold(b"k")
    for _ in range(5):
        d.hit(b"k")
    assert d.node.l1.hits == 5
    assert d.node.l1.entries[b"k"].frequency == MAX_FREQUENCY
    assert d.hit(b"absent") is None
    assert d.node.l1.hits == 5


def test_several_hits_end_at_the_first_key_that_does_not() -> None:
    d = Driver()
    for key in (b"a", b"b", b"c"):
        d.hold(key)
    d.hold(b"tagged", labels=(b"t",))
    bulk = b"$1\r\nv\r\n"
    for _ in range(3):
        assert d.node.hits([b"a", b"b", b"tagged", b"none", b"c"], d.now_ms) == [bulk] * 3
    assert d.node.l1.hits == 9
    assert [d.node.l1.entries[k].frequency for k in (b"a", b"c")] == [MAX_FREQUENCY, 0]
    d.deliver(record(11, tags=(b"t",)))
    assert d.node.hits((b"a", b"tagged", b"b"), d.now_ms) == [bulk]
    assert d.node.hits([], d.now_ms) == []


def test_a_hit_has_no_effect() -> None:
    d = Driver()
    d.hold(b"k")
    d.hit(b"k")
    assert d.tick() == []


# -- beats (V1) -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound_ms", "every_ms"),
    [
        (1000, 250),
        (400, 100),
        (100_000, SLOWEST_BEAT_MS),
        (1, FASTEST_BEAT_MS),
        (0, SLOWEST_BEAT_MS),
    ],
)
def test_V1_a_quarter_of_the_smallest_bound_within_reason(bound_ms: float, every_ms: float) -> None:
    assert beat_every_ms(Namespaces(Policy(max_staleness_ms=bound_ms))) == every_ms


# -- life -------------------------------------------------------------------------------------


def test_K2_a_node_is_ready_only_when_it_has_joined_and_proved_itself() -> None:
    d = Driver(at=None)
    assert not d.node.ready
    d.step(Start())
    d.prove(10)
    assert not d.node.ready, "the bus is not confirmed"
    d.step(calls.Subscribed(0, d.take(calls.Subscribe).connection))
    d.prove(10)
    assert d.node.ready


def test_a_stop_leaves_the_roster_and_serves_nothing_from_then_on() -> None:
    d = Driver()
    d.hold(b"k")
    d.step(Stop())
    assert d.hit(b"k") is None
    assert not d.node.ready
    refused = d.read(b"k"), d.write(set_to(b"k", b"v"))
    assert [d.fault(r).kind for r in refused] == [FaultKind.STOPPING] * 2
    leave = d.take(calls.Leave)
    assert leave.incarnation == ME
    d.step(calls.Left(leave.call_id))
    assert d.event("left") == [{"clean": True}]


def test_a_leave_that_fails_is_told() -> None:
    d = Driver()
    d.step(Stop())
    d.step(Stop())
    d.failed(d.take(calls.Leave))
    assert d.event("left") == [{"clean": False}]
    assert not d.has(calls.Leave)


def test_what_was_accepted_before_a_stop_is_still_answered() -> None:
    d = Driver()
    write, read = d.write(delete(b"k")), d.read(b"other")
    d.step(Stop())
    d.mutated(d.take(calls.Mutate), first=11, replies=[1])
    d.fetched(d.take(calls.Fetch), b"v")
    assert d.result(write).replies == (1,)
    assert d.value(read) == b"v"


def test_after_a_stop_it_wants_nothing_more() -> None:
    d = Driver()
    d.step(Stop())
    d.open.clear()
    d.sleep(10_000)
    assert d.open == []


def test_too_many_waiting_requests_are_refused_at_once() -> None:
    d = Driver(max_waiting=3)
    waiting = [d.read(b"a"), d.write(set_to(b"b", b"")), d.read(b"c", b"d")]
    refused = d.read(b"e")
    assert d.fault(refused).kind == FaultKind.OVERLOADED
    assert "3 requests are waiting" in d.fault(refused).detail
    assert "limits.max_waiting_requests" in d.fault(refused).detail
    assert not any(w in d.outcomes for w in waiting)
    d.mutated(d.take(calls.Mutate), first=11)
    assert d.read(b"f") not in d.outcomes


def test_requests_that_wait_in_line_for_a_linearizable_key_are_bounded_too() -> None:
    d = Driver(policy=Policy(linearizable=True), max_waiting=5)
    writes = [d.write(set_to(b"k", b"%d" % i)) for i in range(10)]
    refused = [w for w in writes if w in d.outcomes]
    assert len(refused) >= 5
    assert {d.fault(w).kind for w in refused} == {FaultKind.OVERLOADED}


def test_the_members_are_read_now() -> None:
    d = Driver()
    asked = d.submit(AskMembers())
    d.roster(member(ME, "me"), member(PEER, "peer"))
    result = d.result(asked)
    assert isinstance(result, MembersResult)
    assert [(m.name, live) for m, live in result.members] == [("me", True), ("peer", True)]
    failing = d.submit(AskMembers())
    d.failed(d.take(calls.ReadRoster))
    assert d.fault(failing).kind == FaultKind.UNAVAILABLE


def test_records_are_streamed_only_while_somebody_listens() -> None:
    d = Driver()
    d.deliver(record(11, b"a"))
    d.node.stream(True)
    d.deliver(record(12, b"b"))
    d.node.stream(False)
    d.deliver(record(13, b"c"))
    assert [a.record.seq for a in d.applied] == [12]


def test_expired_entries_leave_by_themselves() -> None:
    d = Driver()
    for i in range(20):
        d.hold(b"%d" % i, ttl_ms=1000)
    assert len(d.node.l1) == 20
    for _ in range(8):
        d.sleep(200)
        d.prove(10)
    assert len(d.node.l1) == 0


def test_an_answer_to_a_call_nobody_made_is_ignored() -> None:
    d = Driver()
    d.step(calls.Probed(10**9, d.node.lane.lineage, 0, 1))  # type: ignore[arg-type]
    d.step(calls.Failed(10**9, calls.Failure.LOST, ""))


def test_it_always_says_when_it_wants_to_be_woken() -> None:
    assert Driver(at=None).node.next_deadline_ms() == FOREVER
    d = Driver()
    assert d.now_ms < d.node.next_deadline_ms() <= d.now_ms + 250


def test_a_long_sleep_is_made_up_for_by_one_probe_not_by_many() -> None:
    """SIGSTOP, suspend: every timer is due at once."""
    d = Driver()
    made = d.tick(600_000)
    assert sum(isinstance(c, calls.Probe) for c in made) == 1


# -- purity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=lambda p: p.stem)
def test_the_core_is_pure(path: Path) -> None:
    """No clock, no socket, no chance, no log: whatever happens comes in through `step`."""
    banned = {
        "asyncio",
        "logging",
        "os",
        "random",
        "redis",
        "secrets",
        "socket",
        "threading",
        "time",
    }
    banned |= {"datetime", "uuid", "structlog", "aiohttp"}
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {name.split(".")[0] for name in names} & banned
        assert all(
            n.startswith(("coherenced.core", "coherenced.errors"))
            for n in names
            if n.startswith("coherenced")
        )
