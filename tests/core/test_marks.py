"""Marks of invalidated prefixes: whatever the number, they cover what a naive list would cover."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from coherenced.core.marks import Marks
from tests.core.entries import entry

WORDS = st.text("ab", max_size=4).map(str.encode)


def marked(*marks: tuple[bytes, int]) -> Marks:
    made = Marks()
    for prefix, seq in marks:
        made.add(prefix, seq, fresh=False)
    return made


def test_T1_a_mark_covers_what_begins_with_it_and_is_older() -> None:
    marks = marked((b"user:", 7))
    assert marks.cover(entry(b"user:1", as_of=6))
    assert marks.cover(entry(b"user:", as_of=6))
    assert not marks.cover(entry(b"user:1", as_of=7))
    assert not marks.cover(entry(b"user", as_of=6))
    assert not marks.cover(entry(b"users", as_of=6))


def test_a_longer_prefix_that_was_invalidated_later_covers_no_more_than_itself() -> None:
    marks = marked((b"a", 5), (b"abc", 9), (b"ab", 7))
    covered = {key: [marks.cover(entry(key, as_of=at)) for at in (4, 6, 8, 9)]
               for key in (b"a", b"ab", b"abc", b"abcd", b"abd", b"b")}  # fmt: skip
    assert covered == {
        b"a": [True, False, False, False],
        b"ab": [True, True, False, False],
        b"abc": [True, True, True, False],
        b"abcd": [True, True, True, False],
        b"abd": [True, True, False, False],
        b"b": [False] * 4,
    }


def test_tagged_entries_are_covered_by_a_mark_of_their_own() -> None:
    marks = Marks()
    marks.add_tagged(7, fresh=False)
    assert marks.cover(entry(b"k", as_of=6, tags=(b"t",)))
    assert not marks.cover(entry(b"k", as_of=7, tags=(b"t",)))
    assert not marks.cover(entry(b"k", as_of=6))
    assert len(marks) == 1
    assert not marks.end_round()


def test_a_mark_is_forgotten_by_the_end_of_a_round_that_began_after_it() -> None:
    marks = marked((b"early", 5))
    marks.add(b"late", 6, fresh=True)
    marks.add_tagged(7, fresh=True)
    assert marks.end_round()
    assert [marks.cover(entry(key, as_of=4)) for key in (b"early", b"late")] == [False, True]
    assert marks.cover(entry(b"k", as_of=6, tags=(b"t",)))
    marks.add(b"late", 8, fresh=True)  # once more: it is to be looked for from the start
    assert marks.end_round()
    assert marks.cover(entry(b"late", as_of=7))
    assert not marks.cover(entry(b"k", as_of=6, tags=(b"t",)))
    assert not marks.end_round()
    assert len(marks) == 0


def test_an_older_record_takes_nothing_back() -> None:
    """An own record may be covered ahead of older ones."""
    marks = marked((b"k", 9), (b"k", 5))
    assert marks.cover(entry(b"k", as_of=8))


def test_with_too_many_marks_all_that_is_older_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coherenced.core.marks.MOST_MARKS", 3)
    marks = marked((b"a", 5), (b"b", 9), (b"c", 6))
    assert not marks.cover(entry(b"other", as_of=1))
    marks.add(b"d", 7, fresh=True)
    assert len(marks) == 1
    assert marks.cover(entry(b"other", as_of=8))
    assert not marks.cover(entry(b"other", as_of=9))
    assert marks.end_round() and not marks.end_round()


class MarksAgainstList(RuleBasedStateMachine):
    """The naive one: a list of (prefix, seq, fresh), of which any may cover."""

    def __init__(self) -> None:
        super().__init__()
        self.marks = Marks()
        self.naive: list[tuple[bytes, int, bool]] = []

    @rule(prefix=WORDS, seq=st.integers(1, 20), fresh=st.booleans())
    def add(self, prefix: bytes, seq: int, fresh: bool) -> None:
        self.marks.add(prefix, seq, fresh=fresh)
        # What is set again stays as long as its latest setting: all of it is looked for anew.
        known = [(p, s, f or fresh) for p, s, f in self.naive if p == prefix]
        self.naive = [one for one in self.naive if one[0] != prefix]
        self.naive += [*known, (prefix, seq, fresh or any(f for _, _, f in known))]

    @rule()
    def end_round(self) -> None:
        self.naive = [(p, s, False) for p, s, fresh in self.naive if fresh]
        assert self.marks.end_round() == bool(self.naive)

    @rule(key=WORDS)
    def look(self, key: bytes) -> None:
        for as_of in range(0, 21, 2):
            covered = any(key.startswith(p) and as_of < s for p, s, _ in self.naive)
            assert self.marks.cover(entry(key, as_of=as_of)) == covered

    @invariant()
    def the_newest_is_known(self) -> None:
        assert self.marks.newest == max((s for _, s, _ in self.naive), default=0)
        assert len(self.marks) == len({p for p, _, _ in self.naive})


MarksAgainstList.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestMarksAgainstList = MarksAgainstList.TestCase
