"""Linearizable: one copy, as far as anyone can tell (B = 0, or a linearizable namespace).

Each key is a register of its own. Zones decide where every read names its write;
where absence has several possible makers, the search does. A loss of data, or a flush
that coherenced had no part in, starts a new register with whatever single state was
left; nodes learn of it within B, so until then only reads with B = 0 are judged (K7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tests.checkers.history import (
    DISASTERS,
    MAKES_ABSENT,
    READS,
    SETS,
    History,
    Kind,
    Operation,
    Outcome,
)
from tests.checkers.search import MAX_STATES, Undecided, search
from tests.checkers.verdict import Verdict
from tests.checkers.zones import (
    FOREVER,
    NEVER,
    Contradiction,
    RegisterOp,
    zones_contradiction,
)


def linearizable(
    history: History,
    *,
    keys: Callable[[str], bool] = lambda key: True,
    reads: Callable[[Operation], bool] = lambda op: True,
    max_states: int = MAX_STATES,
) -> Verdict:
    """Check each key that `keys` accepts, with all its writes and those reads that `reads`
    accepts (for B = 0: the ones that asked for it). Answers marked stale are left out."""
    verdict = Verdict("linearizable")
    disasters = sorted(
        (op for op in history.operations if op.kind in DISASTERS), key=lambda op: op.start_ns
    )
    for key, ops in _registers(history, keys, reads).items():
        mine = [op for op in disasters if not op.keys or key in op.keys]
        for before, era in _eras(ops, mine, history.bound_ms):
            initials: list[str | None] = [history.initial.get(key)]
            if before is not None:
                initials = [None] if before == Kind.FLUSH else _restorable(era)
            found, decided = _judge(era, initials, max_states)
            if not decided:
                verdict.inconclusive.append(key)
            else:
                verdict.checked += sum(not op.is_write for op in era)
            if found is not None:
                verdict.add(f"{key}: {found.text}", *(op.operation for op in found.ops))
    return verdict


def _registers(
    history: History, keys: Callable[[str], bool], reads: Callable[[Operation], bool]
) -> dict[str, list[RegisterOp]]:
    registers: dict[str, list[RegisterOp]] = {}
    for op in history.operations:
        if op.outcome == Outcome.FAIL:
            continue
        items: Iterable[tuple[str, str | None]] = ()
        open_end = op.outcome != Outcome.OK
        if op.kind in READS:
            if op.outcome == Outcome.OK and not op.stale and reads(op):
                items = zip(op.keys, op.values, strict=True)
        elif op.kind in SETS:
            items = zip(op.keys, op.values, strict=True)
        elif op.kind in MAKES_ABSENT:
            items = ((key, None) for key in op.keys)
        # With ack=none the answer comes before the write.
        end = FOREVER if open_end or op.level == "none" else op.end
        for key, value in items:
            if not keys(key):
                continue
            ops = registers.setdefault(key, [])
            ops.append(RegisterOp(not op.is_read, value, op.start_ns, end, op))
            if op.ttl_ms is not None:
                expiry = op.start_ns + op.ttl_ms * 1_000_000
                ops.append(RegisterOp(True, None, expiry, FOREVER, op))
    return registers


def _eras(
    ops: list[RegisterOp], disasters: list[Operation], bound_ms: float
) -> Iterator[tuple[str | None, list[RegisterOp]]]:
    """What happened between disasters, each with the kind of disaster before it. A read that
    overlaps one says nothing; a write that does may belong to either side, or to none."""
    before: str | None = None
    begun, lower = NEVER, NEVER  # when the disaster before began, and was over
    for disaster in [*disasters, None]:
        upper = disaster.start_ns if disaster is not None else FOREVER
        era = []
        for op in ops:
            if op.start >= lower and (op.end < upper or upper == FOREVER):
                if op.is_write or op.start >= lower + _news_takes_ns(op, bound_ms):
                    era.append(op)
            elif op.is_write and op.end >= begun and op.start < upper:
                era.append(RegisterOp(True, op.value, op.start, FOREVER, op.operation))
        yield before, era
        if disaster is not None:
            # Of two that overlap either may have come last.
            together = before is not None and disaster.start_ns <= lower
            before = before if together and before == Kind.LOSS else disaster.kind
            begun = begun if together else disaster.start_ns
            lower = max(lower, disaster.end)


def _news_takes_ns(op: RegisterOp, bound_ms: float) -> float:
    """How long after a disaster this read's node may not have heard of it."""
    asked_ms = op.operation.max_staleness_ms if op.operation is not None else 0.0
    return (bound_ms if asked_ms is None else asked_ms) * 1e6


def _restorable(era: list[RegisterOp]) -> list[str | None]:
    """What the state may be after a loss: absence, or a value that is read but not
    written in this era, or one nobody read."""
    made = {op.value for op in era if op.is_write}
    foreign = dict.fromkeys(op.value for op in era if not op.is_write and op.value not in made)
    unseen = "(restored, never read)"
    return list(dict.fromkeys([*foreign, None, unseen]))


def _judge(
    ops: list[RegisterOp], initials: list[str | None], max_states: int
) -> tuple[Contradiction | None, bool]:
    """The contradiction that remains whatever the initial state, and whether that is decided."""
    found: Contradiction | None = None
    for initial in initials:
        try:
            contradiction = decide(ops, initial, max_states)
        except Undecided:
            return None, False
        if contradiction is None:
            return None, True
        found = found or contradiction
    return found, True


def decide(
    ops: list[RegisterOp], initial: str | None, max_states: int = MAX_STATES
) -> Contradiction | None:
    """None when this register's history is linearizable. Raises `Undecided`."""
    seen = {op.value for op in ops if not op.is_write}
    # What may never have been applied and nobody saw proves nothing.
    kept = [op for op in ops if not op.is_write or op.end < FOREVER or op.value in seen]
    deletes = [op for op in kept if op.is_write and op.value is None]
    if initial is None and not deletes:
        return zones_contradiction(kept, initial)
    if initial is not None and len(deletes) <= 1:
        return zones_contradiction(kept, initial)
    if None not in seen:
        # Nobody saw an absence: give each its own name, the initial one too.
        named = [
            RegisterOp(True, f"(absent {place})", op.start, op.end, op.operation)
            if op.is_write and op.value is None
            else op
            for place, op in enumerate(kept)
        ]
        return zones_contradiction(named, initial)
    return search(kept, initial, max_states)
