"""The fence around storing (F2): what a ticket remembers, and what may be stored with it."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest

from coherenced.core.lane import RECENT_TAGS, Lane
from coherenced.core.laws import Laws
from coherenced.core.model import Done, Lineage
from coherenced.core.tickets import KeySheaf, Tickets
from tests.core.driver import EPOCH, OTHER_EPOCH, lineage, record

LAWS = ("fill_fence", "fill_not_backwards", "tags_cover", "reliance_checked")


def fence(at: int = 10, laws: Laws | None = None) -> tuple[Lane, Tickets]:
    lane = Lane(0)
    lane.anchor(lineage(at), call_id=1)
    return lane, Tickets(lane, laws or Laws())


def test_F2_what_nothing_has_covered_may_be_stored() -> None:
    _, tickets = fence()
    ticket = tickets.open(b"k")
    assert tickets.may_store(ticket, lineage(10), ())
    assert tickets.may_store(ticket, lineage(15), ())
    assert tickets.refused == 0


def test_F2_nothing_newer_may_have_hit_the_key_since_it_was_asked() -> None:
    _, tickets = fence()
    ticket, other = tickets.open(b"k"), tickets.open(b"other")
    tickets.hit(b"k", 12)
    assert not tickets.may_store(ticket, lineage(11), ())
    assert tickets.may_store(ticket, lineage(12), ())
    assert tickets.may_store(other, lineage(11), ())
    assert tickets.refused == 1


def test_F2_the_newest_hit_counts_whatever_the_order_they_come_in() -> None:
    _, tickets = fence()
    ticket = tickets.open(b"k")
    tickets.hit(b"k", 15)
    tickets.hit(b"k", 12)
    assert not tickets.may_store(ticket, lineage(14), ())


@pytest.mark.parametrize(("prefix", "covered"), [(b"k", True), (b"", True), (b"kk", False)])
def test_F2_a_prefix_hits_the_keys_under_it(prefix: bytes, covered: bool) -> None:
    _, tickets = fence()
    ticket = tickets.open(b"k")
    tickets.hit_prefix(prefix, 12)
    assert tickets.may_store(ticket, lineage(11), ()) is not covered


def test_F2_everything_hits_every_key() -> None:
    _, tickets = fence()
    asked = [tickets.open(b"a"), tickets.open(b"a"), tickets.open(b"b")]
    tickets.hit_all(12)
    assert not any(tickets.may_store(t, lineage(11), ()) for t in asked)


def test_F2_T1_a_tag_invalidated_since_covers_the_value_that_carries_it() -> None:
    lane, tickets = fence()
    ticket = tickets.open(b"k")
    lane.tag_seq[b"t"] = 12
    assert not tickets.may_store(ticket, lineage(11), (b"s", b"t"))
    assert tickets.may_store(ticket, lineage(12), (b"t",))
    assert tickets.may_store(ticket, lineage(11), (b"s",))


def test_F2_a_void_ticket_stores_nothing() -> None:
    _, tickets = fence()
    ticket, other = tickets.open(b"k"), tickets.open(b"other")
    tickets.void(b"k")
    assert not tickets.may_store(ticket, lineage(99), ())
    assert tickets.may_store(other, lineage(99), ())
    tickets.void_all()
    assert not tickets.may_store(other, lineage(99), ())


def test_F2_nothing_older_than_what_was_applied_when_it_was_asked() -> None:
    lane, tickets = fence()
    lane.advance(record(11))
    ticket = tickets.open(b"k")
    assert not tickets.may_store(ticket, lineage(10), ())
    assert tickets.may_store(ticket, lineage(11), ())


def test_F2_only_of_the_same_lineage_as_now() -> None:
    lane, tickets = fence()
    ticket = tickets.open(b"k")
    assert not tickets.may_store(ticket, lineage(10, epoch=OTHER_EPOCH), ())
    assert not tickets.may_store(ticket, lineage(10, b"b"), ())
    for seq in range(11, 11 + RECENT_TAGS):
        lane.advance(record(seq))
    assert not tickets.may_store(ticket, lineage(10), ()), "too far back to tell"


def test_A5_a_fill_asked_before_the_lane_was_dropped_is_void() -> None:
    lane, tickets = fence()
    ticket = tickets.open(b"k")
    lane.anchor(lineage(10), call_id=2)
    assert not tickets.may_store(ticket, lineage(10), ())


def test_nothing_is_stored_without_a_position() -> None:
    tickets = Tickets(Lane(0), Laws())
    assert not tickets.may_store(tickets.open(b"k"), lineage(1), ())


def test_a_ticket_opened_after_a_hit_knows_nothing_of_it() -> None:
    _, tickets = fence()
    early = tickets.open(b"k")
    tickets.hit(b"k", 12)
    late = tickets.open(b"k")
    assert not tickets.may_store(early, lineage(11), ())
    assert tickets.may_store(late, lineage(11), ())


def test_closed_tickets_are_gone_and_closing_twice_is_harmless_when_none_is_left() -> None:
    _, tickets = fence()
    first, second = tickets.open(b"k"), tickets.open(b"k")
    assert len(tickets) == 2
    tickets.close(first)
    tickets.hit(b"k", 12)
    assert (first.hit_seq, second.hit_seq) == (0, 12)
    tickets.close(second)
    tickets.close(second)
    assert len(tickets) == 0


@pytest.mark.parametrize(
    ("law", "as_of", "hit"),
    [
        ("fill_fence", lineage(11), 12),
        ("fill_not_backwards", lineage(9), 0),
        ("fill_not_backwards", lineage(10, b"b"), 0),
    ],
)
def test_with_a_law_off_what_it_refuses_is_stored(law: str, as_of: object, hit: int) -> None:
    for in_force in (True, False):
        _, tickets = fence(laws=Laws(**{law: in_force}))
        ticket = tickets.open(b"k")
        if hit:
            tickets.hit(b"k", hit)
        assert tickets.may_store(ticket, as_of, ()) is not in_force  # type: ignore[arg-type]


def test_with_the_tag_law_off_a_covered_value_is_stored() -> None:
    lane, tickets = fence(laws=Laws(tags_cover=False))
    lane.tag_seq[b"t"] = 12
    assert tickets.may_store(tickets.open(b"k"), lineage(11), (b"t",))


@pytest.mark.parametrize("seed", range(100))
def test_tickets_redeemed_together_are_judged_like_each_of_them(seed: int) -> None:
    """Whatever has happened meanwhile, and whichever law is off."""
    random = Random(seed)
    off = {law: False for law in LAWS if random.random() < 0.2}
    (lane, tickets), (twin_lane, twins) = fence(laws=Laws(**off)), fence(laws=Laws(**off))
    opened = [tickets.open(b"%d" % random.randint(0, 4)) for _ in range(8)]
    same = [twins.open(ticket.key) for ticket in opened]
    kept_open = tickets.open(b"0")
    reach = random.randint(0, 3)
    for seq in range(11, 11 + reach):
        for one in (lane, twin_lane):
            one.advance(record(seq))
    key, hit = b"%d" % random.randint(0, 4), random.randint(9, 14)
    for one in (tickets, twins):
        one.hit(key, hit)
        if seed % 3 == 0:
            one.void(b"1")
    for one in (lane, twin_lane):
        one.tag_seq[b"t"] = 12
        if seed % 7 == 0:
            one.anchor(lineage(10), call_id=2)
    as_of = lineage(random.randint(9, 14), random.choice((b"a", b"a", b"b")))
    if seed % 11 == 0:
        as_of = as_of._replace(epoch=OTHER_EPOCH)
    labels = [random.choice(((), (), (b"t",), (b"u",))) for _ in opened]
    verdicts = tickets.redeem_all(opened, as_of, labels)
    pairs = zip(same, labels, strict=True)
    assert verdicts == [twins.may_store(ticket, as_of, tags) for ticket, tags in pairs]
    assert (tickets.refused, lane.relied) == (twins.refused, twin_lane.relied)
    assert tickets.by_key == {b"0": kept_open} and kept_open.also is None


@pytest.mark.parametrize("seed", range(50))
def test_own_writes_redeemed_together_are_judged_like_each_of_them(seed: int) -> None:
    """Each as of its own record, by which the lane has just been moved along."""
    random = Random(seed)
    off = {law: False for law in LAWS if random.random() < 0.2}
    (lane, tickets), (twin_lane, twins) = fence(laws=Laws(**off)), fence(laws=Laws(**off))
    keys = [b"%d" % random.choice((number, number, 0)) for number in range(6)]
    sheaf = KeySheaf(list(dict.fromkeys(keys)))
    tickets.admit_all(sheaf)
    same = [twins.open(key) for key in keys]
    for key, hit in [(b"%d" % random.randint(0, 9), random.randint(9, 18)) for _ in range(3)]:
        for one in (tickets, twins):
            one.hit(key, hit)
            if hit == 9:
                one.void(key)
    for one in (lane, twin_lane):
        if seed % 7 == 0:
            one.anchor(lineage(10), call_id=2)
        for seq in range(11, 17):
            one.advance(record(seq))
    done = [Done(b"OK", seq, record(seq).tag, record(seq).prev) for seq in range(11, 17)]
    if seed % 5 == 0:
        done.insert(3, Done(b"OK", 0, b"", b""))
        del done[-1]
    verdicts = list(tickets.redeem_own(sheaf, EPOCH, keys, done))
    pairs = zip(same, done, strict=True)
    assert verdicts == [
        d.seq > 0 and twins.may_store(t, Lineage(EPOCH, d.seq, d.tag), ()) for t, d in pairs
    ]
    assert (tickets.refused, lane.relied) == (twins.refused, twin_lane.relied)
    assert not tickets.by_key


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_tickets_of_one_key_end_in_any_order(order: tuple[int, ...]) -> None:
    _, tickets = fence()
    opened = [tickets.open(b"k") for _ in range(3)]
    left = set(range(3))
    for number in order:
        tickets.close(opened[number])
        left.discard(number)
        tickets.close(opened[number])  # once more does no harm
        tickets.hit(b"k", 30 - len(left))
        assert len(tickets) == len(left)
        assert {i for i in range(3) if opened[i].hit_seq == 30 - len(left)} == left
    assert not tickets.by_key and all(ticket.also is None for ticket in opened)
    tickets.admit(*opened)
    assert len(tickets) == 3


@pytest.mark.parametrize("seed", range(150))
def test_a_sheaf_is_worth_the_tickets_of_its_keys(seed: int) -> None:
    """Whatever happens to one of them happens to it alone, and what is open beside it stays."""
    random = Random(seed)
    (lane, tickets), (twin_lane, twins) = fence(), fence()
    names = [b"%d" % n for n in range(6)]
    before = random.sample(names, random.choice((0, 0, 2)))
    beside = [tickets.open(key) for key in before]
    twins_beside = [twins.open(key) for key in before]
    sheaf = KeySheaf(random.sample(names, 4))
    tickets.admit_all(sheaf)
    same = [twins.open(key) for key in sheaf.keys]
    if seed % 3 == 0:
        key = random.choice(names)
        beside.append(tickets.open(key))
        twins_beside.append(twins.open(key))
    for _ in range(random.randint(0, 2)):
        what, key, seq = random.random(), random.choice(names), random.randint(9, 13)
        for one, its_lane in ((tickets, lane), (twins, twin_lane)):
            if what < 0.4:
                one.hit(key, seq)
            elif what < 0.6:
                one.void(key)
            elif what < 0.7:
                one.hit_prefix(key, seq)
            elif what < 0.8:
                its_lane.advance(record(its_lane.applied + 1))
            elif what < 0.9:
                its_lane.anchor(lineage(10), call_id=2)
    as_of = lineage(random.choice((10, 10, 11, 12)), random.choice((b"a", b"a", b"b")))
    assert len(tickets) == len(twins)
    if not sheaf.told and tickets.redeem_sheaf(sheaf, as_of):
        verdicts = [True] * 4
    else:
        verdicts = tickets.redeem_all([sheaf.apart(key) for key in sheaf.keys], as_of, [()] * 4)
    assert verdicts == twins.redeem_all(same, as_of, [()] * 4)
    assert tickets.refused == twins.refused
    for one in (tickets, twins):
        one.hit_all(20)
    assert [t.hit_seq for t in beside] == [t.hit_seq for t in twins_beside]
    assert [t.void for t in beside] == [t.void for t in twins_beside]
    assert len(tickets) == len(twins) == len(beside)
    tickets.close(*beside)
    assert tickets.by_key == {}
