"""Following a log: the bus, the probes and the log itself, and what happens when they disagree."""

from __future__ import annotations

import random
from typing import Any

import pytest

from coherenced.core import calls
from coherenced.core.catchup import BUS_GRACE_MS, LOG_PAGE, fence_after_ms
from coherenced.core.inputs import Start, Stop
from coherenced.core.laws import Laws
from coherenced.core.model import NEVER, WANT_ACK, Lineage, Message, Record
from tests.core.driver import (
    ME,
    OTHER_EPOCH,
    PEER,
    Driver,
    delete,
    lineage,
    message,
    own_record,
    record,
    set_to,
    tag_of,
)


def position(d: Driver) -> tuple[int, bytes]:
    return d.node.lane.applied, d.node.lane.tag


# -- several messages at once -------------------------------------------------------------------


def some_messages(chance: random.Random) -> list[Message]:
    """Of records 11 to 30, mostly as the bus brings them, sometimes as it should not."""
    keys, told, seq = (b"a", b"b", b"c"), [], 10
    while seq < 30:
        group = []
        for _ in range(chance.randint(1, 3)):
            seq += 1
            flags = WANT_ACK if chance.random() < 0.2 else 0
            tags = (b"t",) if chance.random() < 0.1 else ()
            writer = ME if chance.random() < 0.1 else PEER
            group.append(record(seq, chance.choice(keys), flags=flags, writer=writer, tags=tags))
        told.append(message(*group))
    if chance.random() < 0.5:
        at, harm = chance.randrange(len(told)), chance.randrange(6)
        if harm == 0:
            del told[at]
        elif harm == 1:
            told.insert(at, chance.choice(told))
        elif harm == 2:
            told[at:] = reversed(told[at:])
        elif harm == 3:
            told[at] = message(*told[at].records, epoch=OTHER_EPOCH)
        elif harm == 4:
            told.insert(at, message(seq=chance.randint(5, 40)))
        else:
            told[at] = message(
                record(told[at].seq, b"a", branch=b"b", prev=tag_of(told[at].seq - 1))
            )
    return told


@pytest.mark.parametrize("seed", range(200))
def test_what_comes_at_once_is_applied_as_if_it_came_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    told, connection = some_messages(chance), 1 if chance.random() < 0.95 else 0
    streaming, asked = chance.random() < 0.1, chance.random() < 0.3
    sides = Driver(), Driver()
    for d in sides:
        if streaming:
            d.node.stream(True)
        for key in (b"a", b"b", b"c"):
            d.hold(key)
        if asked:
            d.node.lane.offer_proof(99, d.now_ms, lineage(20))
    one, other = sides
    for each in told:
        one.step(calls.Delivered(0, connection, each))
    other.step(calls.Heard(0, connection, tuple(told)))
    assert state(one) == state(other)  # K1: acknowledgements say up to where, however many
    first, second = ({type(call) for call in d.open} for d in sides)
    assert first - second <= {calls.ReadLog}  # what is there already need not be read
    assert second <= first


def state(d: Driver) -> dict[str, Any]:
    lane, catchup = d.node.lane, d.node.catchup
    return {
        "lane": (lane.lineage, lane.head, lane.recent, list(lane.history), lane.tag_seq),
        "proved": (lane.verified_at_ms, lane.proved_seq, list(lane.proofs)),
        "held": sorted(d.node.l1.entries),
        "counts": (catchup.duplicates, catchup.stale_messages, d.node.covers.records),
        "acknowledged": {call.writer for call in d.open if isinstance(call, calls.SendAck)},
        "events": [event.name for event in d.events],
        "applied": d.applied,
    }


def test_what_comes_at_once_is_one_step_along_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what a message costs by itself is paid for each."""
    d, pieces = Driver(), []
    monkeypatch.setattr(d.node.catchup, "_apply", lambda lane, some: pieces.append(len(some)))
    d.step(calls.Heard(0, 1, tuple(message(record(seq, b"k")) for seq in range(11, 75))))
    assert pieces == [64]
    assert position(d) == (74, tag_of(74))


# -- joining (A3) -----------------------------------------------------------------------------


def test_A3_subscribe_then_probe_and_the_answer_is_the_position() -> None:
    d = Driver(at=None)
    d.step(Start())
    subscribe = d.take(calls.Subscribe)
    assert subscribe.connection == 1
    before = len(d.open)
    d.step(calls.Subscribed(0, 1))
    asked = d.open[before:]
    assert [type(call) for call in asked] == [calls.Probe]
    assert not d.node.ready
    d.probed(asked[0], 10)
    assert position(d) == (10, tag_of(10))
    assert d.node.ready


def test_A3_a_message_of_an_earlier_connection_is_ignored() -> None:
    d = Driver()
    d.step(calls.BusLost(0, 1, "reset"))
    d.deliver(record(11, b"k"), connection=1)
    assert position(d) == (10, tag_of(10))
    assert d.node.catchup.stale_messages == 1
    d.deliver(record(11, b"k"), connection=2)
    assert position(d) == (11, tag_of(11))


def test_A3_without_the_law_an_earlier_connection_is_listened_to() -> None:
    d = Driver(laws=Laws(old_connection_ignored=False))
    d.step(calls.BusLost(0, 1, "reset"))
    d.deliver(record(11, b"k"), connection=1)
    assert d.node.lane.applied == 11


def test_a_lost_bus_is_subscribed_again_under_a_new_number_and_probed() -> None:
    d = Driver()
    made = d.step(calls.BusLost(0, 1, "connection reset"))
    assert [(type(c), c.connection) for c in made] == [(calls.Subscribe, 2)]
    assert d.event("bus_lost") == [{"lane": 0, "reason": "connection reset"}]
    d.step(calls.BusLost(0, 1, "late"))
    d.step(calls.Subscribed(0, 1))
    assert not d.node.catchup.subscribed
    assert any(isinstance(c, calls.Probe) for c in d.step(calls.Subscribed(0, 2)))
    assert d.node.catchup.subscribed


def test_a_bus_that_was_never_there_is_not_reported_lost_again_and_again() -> None:
    d = Driver(at=None)
    d.step(Start())
    for connection in (1, 2, 3):
        d.step(calls.BusLost(0, connection, "refused"))
    assert d.event("bus_lost") == []
    assert d.node.catchup.connection == 4


def test_before_the_first_position_messages_are_not_believed() -> None:
    d = Driver(at=None)
    d.step(Start())
    d.deliver(record(1, b"k"))
    assert d.node.lane.epoch is None


# -- applying (A1, A4) ------------------------------------------------------------------------


def test_A1_records_of_one_message_are_applied_in_order() -> None:
    d = Driver()
    d.node.stream(True)
    d.deliver(record(11, b"a"), record(12, b"b"), record(13, b"a"))
    assert position(d) == (13, tag_of(13))
    assert [a.record.seq for a in d.applied] == [11, 12, 13]
    assert not d.has(calls.ReadLog)


def test_A1_a_duplicate_is_ignored() -> None:
    d = Driver()
    d.deliver(record(11, b"k"))
    d.deliver(record(11, b"k"))
    assert d.node.lane.applied == 11
    assert d.node.catchup.duplicates == 1
    assert not d.has(calls.ReadLog)


# -- gaps (A2) --------------------------------------------------------------------------------


def test_A2_a_gap_is_repaired_from_the_log_at_once_and_never_stepped_over() -> None:
    d = Driver()
    d.hold(b"k")
    made = d.deliver(record(13, b"x"))
    assert d.node.lane.applied == 10
    ask = d.take(calls.ReadLog)
    assert made == [ask] and ask.start_seq == 10 and ask.limit == LOG_PAGE
    d.logged(ask, record(10), record(11, b"k"), record(12), record(13, b"x"), at=13)
    assert position(d) == (13, tag_of(13))
    assert d.hit(b"k") is None
    assert d.event("gap_found") == [{"lane": 0, "applied": 10, "head": 13}]
    assert d.event("gap_repaired") == [{"lane": 0, "records": 3}]


def test_A2_what_arrives_while_the_log_is_read_is_applied_after_it() -> None:
    d = Driver()
    d.deliver(record(12))
    d.deliver(record(13, b"k"))
    ask = d.take(calls.ReadLog)
    assert not d.has(calls.ReadLog), "one at a time"
    d.logged(ask, record(10), record(11), record(12), at=12)
    assert position(d) == (13, tag_of(13))
    assert len(d.event("gap_found")) == 1


def test_A2_the_log_is_read_from_the_first_record_for_a_node_that_has_none() -> None:
    d = Driver(at=0)
    d.deliver(record(2))
    d.logged(d.take(calls.ReadLog), record(1), record(2), at=2)
    assert position(d) == (2, tag_of(2))


def test_A2_a_long_gap_is_read_page_by_page() -> None:
    d = Driver()
    d.deliver(record(14))
    d.logged(d.take(calls.ReadLog), record(10), record(11), at=14)
    ask = d.take(calls.ReadLog)
    assert ask.start_seq == 11
    d.logged(ask, record(11), record(12), record(13), record(14), at=14)
    assert position(d) == (14, tag_of(14))


def test_W6_a_message_without_its_records_is_read_from_the_log() -> None:
    d = Driver()
    d.hold(b"k")
    d.deliver(seq=11)
    d.logged(d.take(calls.ReadLog), record(10), record(11, b"k"), at=11)
    assert d.hit(b"k") is None
    assert position(d) == (11, tag_of(11))


@pytest.mark.parametrize(
    ("records", "head", "reason"),
    [
        ([record(15)], lineage(15), "log trimmed"),
        ([], lineage(15), "log trimmed"),
        ([record(10, branch=b"b")], lineage(15, b"b"), "fork"),
        ([], lineage(9), "fork"),
        ([], lineage(10, b"b"), "fork"),
        ([record(10), record(12)], lineage(12), "log has a hole"),
        ([record(10), record(11, branch=b"b")], lineage(11, b"b"), "fork"),
        ([record(10)], lineage(12), "log has a hole"),
        ([], lineage(3, epoch=OTHER_EPOCH), "new epoch"),
    ],
)
def test_A2_when_the_log_does_not_continue_my_chain_the_lane_is_dropped(
    records: list[Record], head: Lineage, reason: str
) -> None:
    d = Driver()
    d.hold(b"k")
    generation = d.node.lane.generation
    d.deliver(record(13))
    d.logged(d.take(calls.ReadLog), *records, at=head)
    assert [e["reason"] for e in d.event("lane_dropped")] == [reason]
    assert d.node.lane.lineage == head
    assert d.node.lane.generation == generation + 1
    assert len(d.node.l1) == 0
    assert d.node.lane.verified_at_ms == NEVER, "A5: verified-at is never"
    assert d.has(calls.Probe), "proved again at once"


def test_A2_a_log_that_cannot_be_read_is_asked_again_later() -> None:
    d = Driver()
    d.deliver(record(12))
    d.failed(d.take(calls.ReadLog))
    assert not d.has(calls.ReadLog)
    d.sleep(60.0)
    d.logged(d.take(calls.ReadLog), record(10), record(11), record(12), at=12)
    assert position(d) == (12, tag_of(12))


def test_a_log_read_that_was_asked_before_the_lane_was_dropped_changes_nothing() -> None:
    d = Driver()
    d.deliver(record(12))
    ask = d.take(calls.ReadLog)
    d.now_ms += 300
    d.tick()
    d.prove(lineage(20, epoch=OTHER_EPOCH))
    d.logged(ask, record(10), record(11), record(12), at=12)
    assert d.node.lane.lineage == lineage(20, epoch=OTHER_EPOCH)


def test_a_gap_found_while_an_outdated_log_read_is_under_way_is_not_forgotten() -> None:
    d = Driver()
    d.deliver(record(12))
    ask = d.take(calls.ReadLog)
    d.tick(300)
    d.prove(lineage(20, epoch=OTHER_EPOCH))
    d.deliver(record(22), epoch=OTHER_EPOCH)
    d.logged(ask, record(10), record(11), record(12), at=12)
    assert d.take(calls.ReadLog).start_seq == 20


def test_a_record_that_no_log_holds_does_not_make_it_read_for_ever() -> None:
    """Records that a failover has lost, or a forged message: the log is asked once, and right."""
    d = Driver()
    d.deliver(record(15))
    d.logged(d.take(calls.ReadLog), record(10), at=10)
    assert not d.has(calls.ReadLog)
    d.forget(calls.Probe)
    made = d.sleep(100.0)
    assert not any(isinstance(c, calls.ReadLog) for c in made)
    assert position(d) == (10, tag_of(10))


def test_a_forged_head_does_not_make_it_read_for_ever() -> None:
    d = Driver()
    d.deliver(seq=10**17)
    d.logged(d.take(calls.ReadLog), record(10), at=10)
    made = d.sleep(100.0)
    assert not any(isinstance(c, calls.ReadLog) for c in made)
    assert d.node.lane.head == 10


def test_A2_without_the_law_a_trimmed_log_is_stepped_over() -> None:
    d = Driver(laws=Laws(drop_on_trimmed=False), checked=False)
    d.hold(b"k")
    d.deliver(record(15))
    d.logged(d.take(calls.ReadLog), record(15), at=15)
    assert d.node.lane.applied == 15
    assert d.hit(b"k") == b"v", "this is what the law is for"


def test_A1_without_the_law_a_gap_is_stepped_over() -> None:
    d = Driver(laws=Laws(gap_check=False), checked=False)
    d.deliver(record(13))
    assert d.node.lane.applied == 13


# -- forks and epochs (A5) --------------------------------------------------------------------


def test_A1_a_fork_on_the_bus_is_settled_by_the_log() -> None:
    d = Driver()
    d.hold(b"k")
    d.deliver(record(11))
    d.deliver(record(12, branch=b"b"))
    d.logged(d.take(calls.ReadLog), record(11, branch=b"b"), at=lineage(12, b"b"))
    assert d.node.lane.lineage == lineage(12, b"b")
    assert len(d.node.l1) == 0


def test_A1_a_forged_record_is_not_believed() -> None:
    d = Driver()
    d.hold(b"k")
    d.deliver(record(11, b"k", branch=b"x"))
    d.logged(d.take(calls.ReadLog), record(10), at=10)
    assert position(d) == (10, tag_of(10))
    assert d.hit(b"k") == b"v"
    assert d.event("lane_dropped") == []


@pytest.mark.parametrize(
    "head", [lineage(12, b"b"), lineage(9), lineage(3, epoch=OTHER_EPOCH), lineage(11, b"b")]
)
def test_A5_a_probe_of_another_history_drops_the_lane_and_proves_the_new_one(
    head: Lineage,
) -> None:
    d = Driver()
    for seq in (11, 12):
        d.deliver(record(seq))
    d.hold(b"k", at=12)
    d.tick(300)
    d.prove(head)
    assert d.node.lane.lineage == head
    assert len(d.node.l1) == 0
    assert d.node.lane.verified_at_ms == d.now_ms


def test_a_message_of_another_epoch_makes_it_probe() -> None:
    d = Driver()
    d.deliver(record(1, b"k"), epoch=OTHER_EPOCH)
    assert position(d) == (10, tag_of(10))
    d.probed(d.take(calls.Probe), lineage(1, epoch=OTHER_EPOCH))
    assert d.node.lane.epoch == OTHER_EPOCH


def test_A5_an_answer_from_before_the_new_position_cannot_move_it_back() -> None:
    d = Driver()
    d.tick(250)
    early = d.take(calls.Probe)
    d.tick(250)
    d.prove(lineage(3, epoch=OTHER_EPOCH))
    d.probed(early, 10)
    assert d.node.lane.lineage == lineage(3, epoch=OTHER_EPOCH)


# -- proofs (V1, V2) --------------------------------------------------------------------------


def test_V1_verified_at_is_the_time_before_the_probe_was_sent() -> None:
    d = Driver()
    d.tick(250)
    sent_ms = d.now_ms
    d.now_ms += 40
    d.prove(10)
    assert d.node.lane.verified_at_ms == sent_ms


def test_V1_without_the_law_it_would_be_the_time_of_the_answer() -> None:
    d = Driver(laws=Laws(verified_when_sent=False))
    d.tick(250)
    d.now_ms += 40
    d.prove(10)
    assert d.node.lane.verified_at_ms == d.now_ms


def test_V1_a_probe_ahead_of_the_bus_proves_only_when_its_records_are_applied() -> None:
    d = Driver()
    d.tick(250)
    sent_ms = d.now_ms
    d.probed(d.take(calls.Probe), 11)
    assert d.node.lane.verified_at_ms < sent_ms
    d.deliver(record(11))
    assert d.node.lane.verified_at_ms == sent_ms


def test_V1_a_record_that_the_bus_lost_in_silence_is_found_by_the_next_probe() -> None:
    d = Driver()
    d.hold(b"k")
    d.tick(250)
    d.probed(d.take(calls.Probe), 11)
    assert not d.has(calls.ReadLog), "the bus gets a moment"
    d.sleep(BUS_GRACE_MS)
    d.logged(d.take(calls.ReadLog), record(10), record(11, b"k"), at=11)
    assert d.hit(b"k") is None
    assert len(d.event("gap_found")) == 1


def test_V1_while_the_bus_moves_the_log_is_left_alone() -> None:
    d = Driver()
    d.tick(250)
    d.probed(d.take(calls.Probe), 13)
    for seq in (11, 12, 13):
        d.deliver(record(seq))
        d.sleep(BUS_GRACE_MS - 1)
    assert not d.has(calls.ReadLog)


def test_without_a_bus_a_node_follows_at_the_pace_of_its_probes() -> None:
    d = Driver()
    d.hold(b"k")
    d.step(calls.BusLost(0, 1, "cut"))
    d.tick(250)
    d.probed(d.take(calls.Probe), 11)
    d.logged(d.take(calls.ReadLog), record(10), record(11, b"k"), at=11)
    assert d.hit(b"k") is None
    assert d.node.lane.applied == 11


def test_V1_a_nodes_own_mutation_reply_is_a_probe_too() -> None:
    d = Driver()
    d.now_ms += 100
    d.write(delete(b"k"))
    sent_ms = d.now_ms
    d.now_ms += 5
    d.mutated(d.take(calls.Mutate), first=11, replies=[1])
    assert d.node.lane.verified_at_ms == sent_ms


def test_V1_an_answer_behind_what_was_applied_when_it_was_sent_is_a_fork() -> None:
    """The server had been further on: it has lost what it had."""
    d = Driver()
    d.deliver(record(11))
    d.tick(250)
    d.prove(10)
    assert [e["reason"] for e in d.event("lane_dropped")] == ["fork"]


# -- quarantine and fencing times (K3, K7) ----------------------------------------------------


def test_K3_the_fence_is_the_bound_and_a_margin_for_drifting_clocks() -> None:
    assert fence_after_ms(1000.0) == pytest.approx(1015.0)
    assert fence_after_ms(0.0) == pytest.approx(5.0)


def test_K7_a_new_lineage_is_in_quarantine_for_one_bound_but_a_trimmed_log_is_none() -> None:
    d = Driver()
    d.sleep(5000)
    d.prove(10)
    assert d.node.lane.quarantined_until_ms < d.now_ms
    d.deliver(record(30))
    d.logged(d.take(calls.ReadLog), record(30), at=30)
    assert d.node.lane.quarantined_until_ms < d.now_ms
    d.deliver(record(1), epoch=OTHER_EPOCH)
    d.forget(calls.ReadRoster)
    d.prove(lineage(1, epoch=OTHER_EPOCH))
    assert d.node.lane.quarantined_until_ms == pytest.approx(d.now_ms + 1015.0)


# -- the message that would not end -----------------------------------------------------------


def test_what_is_buffered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coherenced.core.catchup.BUFFER_RECORDS", 50)
    d = Driver()
    for seq in range(12, 200):
        d.deliver(record(seq))
    assert len(d.node.catchup._buffer) <= 50
    ask = d.take(calls.ReadLog)
    d.logged(ask, *(record(s) for s in range(10, 150)), at=150)
    while d.has(calls.ReadLog) or d.node.lane.applied < 199:
        d.sleep(BUS_GRACE_MS)
        ask = d.take(calls.ReadLog)
        start = max(ask.start_seq, 1)
        d.logged(ask, *(record(s) for s in range(start, 200)), at=199)
    assert position(d) == (199, tag_of(199))


def test_a_stopped_node_proves_nothing_and_asks_nothing() -> None:
    d = Driver()
    d.hold(b"k")
    d.tick(250)
    probe = d.take(calls.Probe)
    d.step(Stop())
    d.probed(probe, 10)
    assert d.hit(b"k") is None
    d.open.clear()
    d.step(calls.BusLost(0, 1, "closing"))
    assert d.sleep(5000) == [] == d.open


def test_own_records_that_come_back_over_the_bus_are_duplicates() -> None:
    d = Driver()
    d.write(set_to(b"k", b"new"))
    call = d.take(calls.Mutate)
    d.mutated(call, first=11)
    assert d.hit(b"k") == b"new"
    d.deliver(own_record(call, 0, 11, prev=tag_of(10)))
    assert d.hit(b"k") == b"new", "A6"
    assert d.node.catchup.duplicates == 1


def test_several_messages_in_one_step_are_taken_in_their_order() -> None:
    d = Driver()
    number = d.node.catchup.connection
    first, second = message(record(11), record(12)), message(record(13))
    d.step(calls.Heard(0, number, (first, second)))
    assert d.node.lane.applied == 13
    d.step(calls.Heard(0, number - 1, (message(record(14)),)))
    assert d.node.lane.applied == 13, "of an earlier connection"
    d.step(calls.Heard(0, number, (message(record(15)), message(record(14)))))
    assert d.has(calls.ReadLog), "there is a gap before the first"
