"""Linearizability of one register by search (Wing and Gong, 1993).

`search` is for histories in which absence has several possible makers, where zones
cannot tell which delete a read saw: a depth-first search over the orders that real
time allows, remembering the states it has seen. It relies on values being unique
(absence excepted), which leaves it little to branch over.
`exhaustive` is the plain textbook search without any such cleverness, for small
histories: the yardstick that the other two are measured with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.checkers.zones import FOREVER, Contradiction, RegisterOp

MAX_STATES = 200_000


class Undecided(Exception):
    """The search has used up its budget."""


@dataclass(slots=True, frozen=True)
class _State:
    """All operations before `base` are placed, and `extra` beyond it; the register's value;
    how many of the unanswered deletes are used (always the earliest: they are alike)."""

    base: int
    extra: frozenset[int]
    value: str | None
    open_deletes: int


@dataclass(slots=True)
class _Search:
    ops: list[RegisterOp]
    """Those that must be placed, by start."""
    open_deletes: list[RegisterOp]
    """Unanswered deletes, by start: any prefix of them may be used."""
    budget: int
    reads_of: dict[str | None, list[int]] = field(default_factory=dict)
    seen: dict[tuple[int, frozenset[int], str | None], int] = field(default_factory=dict)
    deepest: _State | None = None

    def run(self, initial: str | None) -> Contradiction | None:
        for place, op in enumerate(self.ops):
            if not op.is_write:
                self.reads_of.setdefault(op.value, []).append(place)
        stack = [_State(0, frozenset(), initial, 0)]
        while stack:
            state, enabled = self._place_reads(stack.pop())
            if state.base == len(self.ops):
                return None
            if not self._is_new(state):
                continue
            if self.deepest is None or _depth(state) > _depth(self.deepest):
                self.deepest = state
            stack.extend(self._successors(state, enabled))
        return self._explain()

    def _is_new(self, state: _State) -> bool:
        key = (state.base, state.extra, state.value)
        known = self.seen.get(key)
        if known is not None and known <= state.open_deletes:
            return False
        self.seen[key] = state.open_deletes
        if len(self.seen) > self.budget:
            raise Undecided
        return True

    def _enabled(self, state: _State) -> tuple[list[int], float]:
        """Operations that may come next, and the time by which something must."""
        deadline = FOREVER
        enabled = []
        for place in range(state.base, len(self.ops)):
            op = self.ops[place]
            if op.start > deadline:
                break
            if place not in state.extra:
                enabled.append(place)
                deadline = min(deadline, op.end)
        return [place for place in enabled if self.ops[place].start <= deadline], deadline

    def _place_reads(self, state: _State) -> tuple[_State, list[int]]:
        """Place each read that may come next and sees the current value: that never hurts."""
        while True:
            enabled, _ = self._enabled(state)
            fitting = [
                place
                for place in enabled
                if not self.ops[place].is_write and self.ops[place].value == state.value
            ]
            if not fitting:
                return state, enabled
            state = self._placed(state, fitting, state.value)

    def _placed(self, state: _State, places: Sequence[int], value: str | None) -> _State:
        base, extra = state.base, set(state.extra)
        extra.update(places)
        while base in extra:
            extra.remove(base)
            base += 1
        return _State(base, frozenset(extra), value, state.open_deletes)

    def _successors(self, state: _State, enabled: list[int]) -> list[_State]:
        if state.value is not None and any(
            place >= state.base and place not in state.extra
            for place in self.reads_of.get(state.value, ())
        ):
            # Someone still has to read this value, and it can never come back.
            return []
        _, deadline = self._enabled(state)
        writes = [place for place in enabled if self.ops[place].is_write]
        writes.sort(key=lambda place: -self.ops[place].end)
        following: list[_State] = []
        used = state.open_deletes
        if (
            state.value is not None
            and used < len(self.open_deletes)
            and self.open_deletes[used].start <= deadline
        ):
            following.append(_State(state.base, state.extra, None, used + 1))
        following += [self._placed(state, [place], self.ops[place].value) for place in writes]
        return following

    def _explain(self) -> Contradiction:
        assert self.deepest is not None
        state = self.deepest
        enabled, _ = self._enabled(state)
        stuck = min((self.ops[place] for place in enabled), key=lambda op: op.end)
        near = [op for op in self.ops if op.end >= stuck.start and op.start <= stuck.end]
        holder = [op for op in self.ops if op.is_write and op.value == state.value][-1:]
        text = f"no order fits: when the register holds {state.value!r} nothing can follow"
        return Contradiction(text, (*holder, *near[:12], stuck))


def search(
    ops: Sequence[RegisterOp], initial: str | None = None, max_states: int = MAX_STATES
) -> Contradiction | None:
    """None when linearizable. Values other than absence have one writer each.

    Raises `Undecided` after `max_states` states.
    """
    first_read: dict[str | None, float] = {}
    for op in ops:
        if not op.is_write:
            first_read[op.value] = min(first_read.get(op.value, FOREVER), op.end)
    needed: list[RegisterOp] = []
    open_deletes: list[RegisterOp] = []
    for op in ops:
        if not op.is_write or op.end < FOREVER:
            needed.append(op)
        elif op.value is None:
            open_deletes.append(op)
        elif op.value in first_read:
            # Unanswered but seen: it was applied before that read had returned.
            needed.append(RegisterOp(True, op.value, op.start, first_read[op.value], op.operation))
    needed.sort(key=lambda op: op.start)
    open_deletes.sort(key=lambda op: op.start)
    return _Search(needed, open_deletes, max_states).run(initial)


def exhaustive(ops: Sequence[RegisterOp], initial: str | None = None) -> bool:
    """Whether some order of the operations (unanswered writes may be left out) respects real
    time and makes every read see the latest write. Exponential: for a dozen operations."""
    all_ops = list(ops)
    failed: set[tuple[frozenset[int], str | None]] = set()

    def possible(left: frozenset[int], value: str | None) -> bool:
        if all(all_ops[i].end == FOREVER for i in left):
            return True
        if (left, value) in failed:
            return False
        for i in left:
            op = all_ops[i]
            if any(all_ops[j].end < op.start for j in left):
                continue  # another one had ended before this one began
            if (op.is_write or op.value == value) and possible(
                left - {i}, op.value if op.is_write else value
            ):
                return True
        failed.add((left, value))
        return False

    return possible(frozenset(range(len(all_ops))), initial)


def _depth(state: _State) -> int:
    return state.base + len(state.extra)
