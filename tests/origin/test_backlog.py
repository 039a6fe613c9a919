"""Which queued write is sent when: pure, so also with every interleaving that chance finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coherenced.origin.backlog import LONGEST_PAUSE_MS, Backlog, pause_ms


def test_a_key_is_sent_once_at_a_time_and_settles_what_was_read_before() -> None:
    backlog = Backlog()
    for number in range(3):
        backlog.add(b"a", b"%d-0" % number)
    backlog.add(b"b", b"9-0")
    assert backlog.begin(0.0, 9) == [b"a", b"b"] and backlog.begin(0.0, 9) == []
    backlog.add(b"a", b"3-0", replayed=True)
    assert backlog.ids(b"a") == [b"0-0", b"1-0", b"2-0"] and backlog.held == 5
    backlog.settled(b"a")
    backlog.settled(b"b")
    assert backlog.held == 1 and backlog.sending == 0
    assert backlog.begin(0.0, 9) == [b"a"] and backlog.ids(b"a") == [b"3-0"]
    assert backlog.lines[b"a"].replayed


def test_after_a_failure_it_waits_longer_each_time_and_counts_refusals() -> None:
    backlog = Backlog()
    backlog.add(b"a", b"1-0")
    due_ms, now_ms = [], 0.0
    for refused in (False, True, True):
        assert backlog.begin(now_ms, 1) == [b"a"]
        tries = backlog.failed(b"a", now_ms, 1.0, refused=refused)
        due_ms.append(backlog.next_due_ms() - now_ms)
        assert backlog.begin(now_ms, 1) == []
        now_ms = backlog.next_due_ms()
    assert tries == 2 and due_ms == [200.0, 400.0, 800.0]


def test_pauses_are_bounded_and_half_of_them_is_chance() -> None:
    for failures in range(1, 200):
        full = pause_ms(failures, 1.0)
        assert 200.0 <= full <= LONGEST_PAUSE_MS
        assert pause_ms(failures, 0.0) == full / 2


def test_the_bound_on_sends_is_kept_and_served_keys_go_last() -> None:
    backlog = Backlog()
    for key in (b"a", b"b", b"c"):
        backlog.add(key, b"1-0")
    assert backlog.begin(0.0, 1) == [b"a"]
    backlog.add(b"a", b"2-0")
    backlog.settled(b"a")
    assert backlog.begin(0.0, 2) == [b"b", b"c"]
    assert Backlog().next_due_ms() == float("inf")


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 2)),
            st.tuples(st.just("begin"), st.integers(0, 3)),
            st.tuples(st.sampled_from(["settle", "fail"]), st.integers(0, 2)),
        )
    )
)
def test_nothing_is_lost_and_order_is_kept(steps: list[tuple[str, int]]) -> None:
    """Whatever happens: every entry is settled exactly once, those of one key in their order."""
    backlog = Backlog()
    queued: dict[bytes, list[bytes]] = {}
    settled: dict[bytes, list[bytes]] = {}
    sending: set[bytes] = set()
    now_ms = number = 0.0

    def finish(key: bytes) -> None:
        settled.setdefault(key, []).extend(backlog.ids(key))
        backlog.settled(key)
        sending.discard(key)

    for what, argument in steps:
        key, now_ms, number = b"k%d" % argument, now_ms + 50.0, number + 1
        if what == "add":
            backlog.add(key, b"%d" % number)
            queued.setdefault(key, []).append(b"%d" % number)
        elif what == "begin":
            begun = backlog.begin(now_ms, argument)
            assert not sending & set(begun) and len(begun) <= argument
            sending |= set(begun)
        elif key in sending and what == "settle":
            finish(key)
        elif key in sending:
            backlog.failed(key, now_ms, 0.5, refused=True)
            sending.discard(key)
        assert backlog.sending == len(sending)
    while backlog.held or sending:
        for key in list(sending):
            finish(key)
        sending |= set(backlog.begin(now_ms + 1e9, 9))
    assert settled == queued and not backlog.lines
