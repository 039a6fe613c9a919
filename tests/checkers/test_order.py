"""What the history proves about the order of writes, and what it leaves open."""

from __future__ import annotations

from tests.checkers.history import KeyRead
from tests.checkers.order import Event, Order
from tests.checkers.story import tell


def events(text: str) -> dict[str | None, Event]:
    order = Order(tell(text))
    return {e.value: e for t in order.timelines.values() for e in t.events if e.operation}


def test_real_time_orders_writes_that_do_not_overlap() -> None:
    found = events("A@n write k=a 0 10\n B@n write k=b 11 20\n C@n write k=c 15 30")
    assert found["a"].precedes(found["b"])
    assert not found["b"].precedes(found["c"])
    assert not found["c"].precedes(found["b"])


def test_sequence_numbers_order_writes_that_overlap() -> None:
    found = events("A@n write k=a 0 30 v=8\n B@n write k=b 0 30 v=7")
    assert found["b"].precedes(found["a"])
    assert not found["a"].precedes(found["b"])


def test_sequence_numbers_of_other_epochs_say_nothing() -> None:
    found = events("A@n write k=a 0 30 v=8\n B@n write k=b 0 30 v=b:7")
    assert not found["b"].precedes(found["a"])
    assert not found["a"].precedes(found["b"])


def test_a_read_proves_that_its_write_had_been_applied() -> None:
    found = events("A@n write k=a 0 ?\n B@n read k=a 5 9\n C@n write k=c 10 20")
    assert found["a"].definite
    assert found["a"].precedes(found["c"])


def test_an_unanswered_write_may_come_at_any_time() -> None:
    found = events("A@n write k=a 0 ?\n C@n write k=c 10 20")
    assert not found["a"].definite
    assert not found["a"].precedes(found["c"])
    assert not found["c"].precedes(found["a"])


def test_a_write_with_ack_none_is_as_open_as_an_unanswered_one() -> None:
    found = events("A@n write k=a 0 1 ack=none\n C@n write k=c 10 20")
    assert not found["a"].precedes(found["c"])


def test_sequences_narrow_the_times_of_other_keys() -> None:
    # The write to j has number 6 and ended at 10: number 5 was applied by then.
    found = events("A@n write k=a 0 100 v=5\n B@n write j=b 0 10 v=6\n C@n write k=c 20 30")
    assert found["a"].hi == 10_000_000
    assert found["a"].precedes(found["c"])


def test_a_loss_separates_sequence_numbers_that_were_issued_twice() -> None:
    found = events(
        """
        A@n write k=a   0  10 v=9
        N@r loss         20  30
        B@n write k=b  40  50 v=8
        C@n write k=c  25  60 v=3
        """
    )
    assert found["a"].precedes(found["b"])
    assert not found["b"].precedes(found["a"])
    assert found["c"].lineage is None


def test_absence_may_be_any_earlier_delete() -> None:
    history = tell(
        """
        A@n write  k=a  0  5
        A@n delete k   10 20
        B@n delete k   15 40
        C@n delete k   50 60
        D@n read   k=- 30 45
        """
    )
    order = Order(history)
    read = KeyRead(history.operations[4], "k", None)
    assert sorted(e.lo for e in order.candidates(read)) == [float("-inf"), 10e6, 15e6]
    assert sorted(e.lo for e in order.candidates(read, floor_lo=20e6)) == [10e6, 15e6]
    assert sorted(e.lo for e in order.candidates(read, floor_lo=21e6)) == [15e6]
