"""K6 is a property of the keys: a node follows what others declare linearizable."""

from __future__ import annotations

from coherenced.core.batches import WRITE_TRIES
from coherenced.core.calls import Failure, Mutate, Probe, ReadRoster
from coherenced.core.laws import Laws
from coherenced.core.model import Op, Set
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.requests import FaultKind, Level
from tests.core.driver import ME, PEER, Driver, delete, member, record, set_to

LIN = ((b"l:*", True),)
LINEAR = Policy(linearizable=True)
ALONE = member(ME, "me")


def joined(**settings: object) -> Driver:
    """Long past its quarantine, on a roster of its own; nothing is in flight."""
    d = Driver(**settings)  # type: ignore[arg-type]
    d.sleep(5100)
    d.prove(10)
    d.sleep(260)
    d.prove(10)
    d.roster(ALONE)
    return d


def refuse(d: Driver) -> None:
    d.failed(d.take(Mutate), Failure.TWO_PHASES)


def in_flight(d: Driver) -> list[list[int]]:
    return [[m.op for m in call.every] for call in d.open if isinstance(call, Mutate)]


def answer(d: Driver) -> Mutate:
    """The oldest batch is committed."""
    call = d.take(Mutate)
    d.mutated(call, first=d.node.lane.applied + 1, prev=d.node.lane.tag)
    return call


# -- what a node declares ----------------------------------------------------------------


def test_what_is_declared_is_what_decides_in_the_order_configured() -> None:
    rules = [("l:no*", Policy()), ("l:*", LINEAR), ("k*", Policy())]
    assert Namespaces(Policy(), rules).declares == ((b"l:no*", False), (b"l:*", True))
    assert Namespaces(Policy(), [("k*", Policy())]).declares == ()
    assert Namespaces(LINEAR, [("k*", Policy())]).declares == ((b"k*", False), (b"*", True))


def test_whoever_declares_a_key_linearizable_wins_and_the_rest_stays_as_configured() -> None:
    names = Namespaces(Policy(), [("l:*", Policy(name="mine", ack=2))])
    names.learn([((b"l:no*", False), (b"l:*", True)), ((b"l:not", True),)])
    assert names.for_key(b"l:x") == Policy(name="mine", ack=2, linearizable=True)
    assert not names.for_key(b"l:no").linearizable
    assert names.for_key(b"l:not").linearizable
    assert not names.for_key(b"k").linearizable
    assert not names.uniform
    names.learn([])
    assert names.for_key(b"l:x") == Policy(name="mine", ack=2)


def test_K6_each_beat_says_what_is_declared() -> None:
    d = Driver(rules=[("l:*", LINEAR)], at=None)
    d.join(10)
    d.sleep(300)
    assert d.take(Probe).declares == LIN
    silent = Driver(rules=[("l:*", LINEAR)], laws=Laws(namespaces_declared=False))
    silent.sleep(300)
    assert silent.take(Probe).declares == ()


# -- what others declare ------------------------------------------------------------------


def test_K6_a_refused_write_learns_why_and_takes_two_phases() -> None:
    d = joined()
    write = d.write(set_to(b"l:x", b"v"))
    refuse(d)
    later = d.write(set_to(b"k", b"v"))
    assert in_flight(d) == [], "nothing is sent until it is known which keys that are"
    d.roster(ALONE, declared=(LIN,))
    assert in_flight(d) == [[Op.PREPARE, Op.WRITE]]  # one after the other, as they come
    answer(d)
    assert d.result(later).replies == (b"OK",)
    assert [m.op for m in answer(d).mutations] == [Op.COMMIT]
    assert d.result(write).replies == (b"OK",)
    assert d.node.waiting == 0
    assert d.event("linearizable_learned") == [{"lane": 0, "patterns": ["l:*"]}]
    # From now on it needs no refusal.
    d.write(delete(b"l:x"))
    assert in_flight(d) == [[Op.PREPARE]]


def test_what_was_refused_for_anothers_sake_goes_again_and_in_order() -> None:
    d = joined()
    one, lin, two, three = d.turn(
        Set.to(b"k", b"1"), Set.to(b"l:x", b"1"), Set.to(b"l:x", b"2"), Set.to(b"k", b"2")
    )
    refuse(d)
    d.roster(ALONE, declared=(LIN,))
    sent = d.take(Mutate)
    assert [m.keys[0] for m in sent.every if m.op == Op.WRITE] == [b"k", b"k"]
    assert [m.op for m in sent.every] == [Op.WRITE, Op.PREPARE, Op.WRITE]
    d.mutated(sent, first=11)
    values = []
    while d.has(Mutate):
        values += [m.argv[-1] for m in answer(d).every if m.op == Op.COMMIT]
    assert values == [b"1", b"2"]  # W4
    assert all(number in d.outcomes for number in (one, lin, two, three))
    assert d.node.waiting == 0


def test_W4_what_comes_behind_a_write_that_gets_two_phases_stays_behind_it() -> None:
    d = joined()
    d.write(set_to(b"l:x", b"1"), set_to(b"k", b"1"), atomic=True)
    refuse(d)
    d.write(set_to(b"k", b"2"))
    d.roster(ALONE, declared=(LIN,))
    values = []
    while d.has(Mutate):
        values += [m.argv[-1] for m in answer(d).every if m.argv and m.keys == (b"k",)]
    assert values == [b"1", b"2"]
    assert d.node.waiting == 0


def test_W4_what_is_learned_while_a_write_is_in_flight_waits_for_it() -> None:
    d = joined()
    d.write(set_to(b"l:x", b"1"))
    first = d.take(Mutate)
    d.sleep(5100)
    d.prove(10)
    d.roster(ALONE, declared=(LIN,))
    d.write(set_to(b"l:x", b"2"))
    assert in_flight(d) == []
    d.mutated(first, first=11)  # it was in time
    assert in_flight(d) == [[Op.PREPARE]]


def test_a_write_that_was_answered_at_acceptance_is_carried_out_all_the_same() -> None:
    d = joined()
    write = d.write(set_to(b"l:x", b"v"), ack=Level.NONE)
    assert d.result(write).replies == (b"OK",)
    refuse(d)
    d.roster(ALONE, declared=(LIN,))
    answer(d)
    answer(d)
    assert d.node.waiting == 0
    assert not d.event("accepted_write_failed")


def test_a_transaction_that_watches_begins_anew() -> None:
    d = joined()
    write = d.write(set_to(b"l:x", b"v"), atomic=True, watch_id=7)
    refuse(d)
    assert d.result(write).aborted
    d.roster(ALONE, declared=(LIN,))
    d.write(set_to(b"l:x", b"v"), atomic=True, watch_id=8)
    assert in_flight(d) == [[Op.PREPARE]]


def test_it_is_not_tried_for_ever() -> None:
    d = joined()
    write = d.write(set_to(b"l:x", b"v"))
    for number in range(WRITE_TRIES):
        refuse(d)
        if number % 2:
            d.failed(d.take(ReadRoster))
        else:
            d.roster(ALONE)
    fault = d.fault(write)
    assert fault.kind == FaultKind.CONTENDED
    assert d.node.writes.one_phase_refused == WRITE_TRIES
    assert fault.detail.endswith("the write was not applied: try again")
    assert d.node.waiting == 0


def test_what_nobody_declares_any_more_has_one_phase_again() -> None:
    d = joined()
    d.write(set_to(b"l:x", b"v"))
    refuse(d)
    d.roster(ALONE, declared=(LIN,))
    prepare = d.take(Mutate)
    d.sleep(5100)
    d.prove(10)
    d.roster(ALONE)
    assert d.node.namespaces.learned, "not while a write is between its phases"
    d.mutated(prepare, first=11)
    answer(d)
    d.sleep(5100)
    d.prove(12)
    d.roster(ALONE)
    d.write(set_to(b"l:x", b"v"))
    assert in_flight(d) == [[Op.WRITE]]


def test_anothers_first_phase_tells_that_the_key_is_linearizable() -> None:
    d = joined(rules=[("m:*", LINEAR)])
    d.deliver(record(11, b"m:x", op=Op.PREPARE, flags=1))
    assert not d.has(ReadRoster)
    d.deliver(record(12, b"l:x", op=Op.PREPARE, flags=1))
    d.roster(ALONE, member(PEER, "peer"), declared=(LIN, ((b"m:*", True),)))
    assert d.node.namespaces.for_key(b"l:x").linearizable
    assert d.node.namespaces.learned == {LIN}, "what is declared here, too, is not learned"


def test_new_rules_of_this_node_take_effect_with_the_next_write() -> None:
    d = joined()
    d.node.namespaces.replace(Policy(), [("l:*", LINEAR)])
    d.node.let_go()
    d.write(set_to(b"l:x", b"v"))
    assert in_flight(d) == [[Op.PREPARE]]
