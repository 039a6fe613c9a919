"""What the clients did and saw, and whether every promise of every level was kept.

Each operation is noted with its true start and end. A read must have returned
something that Redis really held at some moment in a window that ends with the
read; each promise only moves the window's beginning:

    bounded(B)      not earlier than B before the read began
    B = 0           not before the read began (so it is linearizable: per key, the
                    server's order is the order of all writes)
    foreign         not earlier than its maximum age and B, if somebody changed it past us
    session         not before what this session has already seen or written
    ack=all         not before the commit of any such write that had returned
    token           not before the commit that the token names

Writes: an answer "done" means committed once, inside the call; "nothing was
done" means never committed; anything else may be either, but never twice.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Final

from coherenced.core.bulk import NIL_BULK
from coherenced.core.model import ReplyError
from coherenced.core.requests import Fault, FaultKind, Level, ReadResult, WriteResult
from tests.sim.truth import Truth

DRIFT: Final = 1.01
"""Node clocks run apart by less than this: a bound of B ms on one is less than that elsewhere."""
ROUNDING_MS: Final = 0.01
LEASE_GRAIN_MS: Final = 2.0
"""The server counts in whole milliseconds."""
TIE_MS: Final = 1e-6
"""A commit at the very moment at which a read begins may be on either side of it."""


class Violation(Exception):
    """A promise was broken; the text says which, by whom and when."""


class ReadOp:
    __slots__ = (
        "bound_ms", "end_ms", "host", "incarnation", "keys", "outcome", "session", "snapshot",
        "source", "stale_ms", "start_ms", "token_ms", "values",
    )  # fmt: skip

    def __init__(
        self,
        session: str,
        host: str,
        incarnation: int,
        keys: tuple[bytes, ...],
        bound_ms: float,
        start_ms: float,
    ) -> None:
        self.session = session
        self.host = host
        self.incarnation = incarnation
        self.keys = keys
        self.bound_ms = bound_ms
        self.start_ms = start_ms
        self.end_ms = float("inf")
        self.token_ms = float("-inf")
        self.stale_ms = 0.0
        self.snapshot = False
        self.values: tuple[bytes | None, ...] | None = None
        self.source = ""
        self.outcome = "unanswered"

    def __str__(self) -> str:
        keys = b",".join(self.keys).decode()
        return (
            f"read {keys} by {self.session} on {self.host} at {self.start_ms:.2f}.."
            f"{self.end_ms:.2f} (B={self.bound_ms:g}) -> {self.values} from {self.source}"
        )


class WriteOp:
    __slots__ = (
        "end_ms", "fault", "granted_ms", "host", "incarnation", "keys", "lapses_ms", "level",
        "result", "session", "start_ms", "tags", "value", "what",
    )  # fmt: skip

    def __init__(
        self,
        session: str,
        host: str,
        incarnation: int,
        keys: tuple[bytes, ...],
        value: bytes,
        what: str,
        level: int,
        start_ms: float,
    ) -> None:
        self.session = session
        self.host = host
        self.incarnation = incarnation
        self.keys = keys
        self.value = value
        """Unique mark of this write, by which the truth knows it; b"" when it leaves none."""
        self.what = what
        self.level = level
        self.start_ms = start_ms
        self.end_ms = float("inf")
        self.granted_ms = float("-inf")
        """When the caller had the lease that this fills under, and by when it had run out."""
        self.lapses_ms = float("inf")
        self.tags: tuple[bytes, ...] = ()
        self.result: WriteResult | None = None
        self.fault: Fault | None = None

    def __str__(self) -> str:
        keys = b",".join(self.keys).decode()
        told = self.fault.kind if self.fault else "done" if self.result else "unanswered"
        return (
            f"{self.what} {keys} {self.value!r} by {self.session} on {self.host} at "
            f"{self.start_ms:.2f}..{self.end_ms:.2f} ack={Level.name(self.level)} -> {told}"
        )


class History:
    """Operations in the order they ended, each checked as it ends."""

    def __init__(self, truth: Truth, linearizable: bytes = b"\xff") -> None:
        self.truth = truth
        self.max_age_ms = 0.0
        """The longest that anything is cached: what is promised of changes past coherenced."""
        self.clocks_stop = False
        """A machine may be stopped with all its clocks: only B = 0 is promised then."""
        self.linearizable = linearizable
        """Keys with this prefix are of a linearizable namespace (K6)."""
        self.reads: list[ReadOp] = []
        self.writes: list[WriteOp] = []
        self.unanswered = 0
        self.faults: dict[str, int] = {}
        self.checked: dict[str, int] = {}
        """Level -> how many operations were checked against it."""
        self._seen: dict[tuple[str, int, bytes], float] = {}
        """(session, node incarnation, key) -> the session's reads go no further back."""
        self._acked: dict[bytes, list[tuple[float, float]]] = {}
        """key -> (when an ack=all write had returned, latest such commit), both rising."""

    # -- reads ---------------------------------------------------------------------

    def end_read(self, op: ReadOp, outcome: ReadResult | Fault, now_ms: float) -> None:
        op.end_ms = now_ms
        self.unanswered -= 1
        if isinstance(outcome, Fault):
            op.outcome = outcome.kind
            self._count_fault(outcome)
            return
        op.values = tuple(value.value for value in outcome.values)
        op.source = ",".join(value.source for value in outcome.values)
        op.outcome = "done"
        self.reads.append(op)
        for key, value in zip(op.keys, outcome.values, strict=True):
            if value.stale:
                self._check_stale(op, key, value.value)
            elif value.error is None:
                self.check_read(op, key, value.value)
        if op.snapshot and not any(value.stale or value.error for value in outcome.values):
            self._check_snapshot(op)

    def end_hit(self, op: ReadOp, value: bytes | None, now_ms: float) -> None:
        op.end_ms = now_ms
        self.unanswered -= 1
        op.values = (value,)
        op.source = "hit"
        op.outcome = "done"
        self.reads.append(op)
        self.check_read(op, op.keys[0], value)

    def end_get(self, op: ReadOp, bulk: bytes, now_ms: float) -> None:
        """The reply to a GET, as it is sent."""
        self.end_hit(op, None if bulk == NIL_BULK else bulk[bulk.index(b"\n") + 1 : -2], now_ms)
        op.source = "get"

    def check_read(self, op: ReadOp, key: bytes, value: bytes | None) -> None:
        if self._is_foreign(op, key):
            self._check_foreign(op, key, value)
            return
        if self.clocks_stop and op.bound_ms > 0:
            return
        timeline = self.truth.timeline(key)
        lost = self.truth.lost_since(op.start_ms - op.bound_ms * DRIFT)
        if key.startswith(self.linearizable) and not lost:  # the promise is per lineage (K7)
            level, from_ms = "namespace", op.start_ms - TIE_MS
        elif op.bound_ms > 0:
            level, from_ms = "bounded", op.start_ms - op.bound_ms * DRIFT - ROUNDING_MS
        else:
            level, from_ms = "linearizable", op.start_ms - TIE_MS
        session = (op.session, op.incarnation, key)
        for name, since_ms in (
            (level, from_ms),
            ("token", float("-inf") if lost else op.token_ms),  # it does not name a branch
            ("session", self._seen.get(session, float("-inf"))),
            ("ack=all", self._acknowledged_before(key, op.start_ms)),
        ):
            if since_ms == float("-inf"):
                continue
            self.checked[name] = self.checked.get(name, 0) + 1
            if timeline.when_was(value, since_ms, op.end_ms) is None:
                raise Violation(
                    f"{name}: {op}: Redis did not hold {key!r}={value!r} at any time in "
                    f"{since_ms:.2f}..{op.end_ms:.2f}; it held {describe(self.truth, key)}"
                )
            from_ms = max(from_ms, since_ms)
        first = timeline.when_was(value, from_ms, op.end_ms)
        if first is None:
            raise Violation(
                f"all promises together: {op}: not in {from_ms:.2f}..{op.end_ms:.2f}; "
                f"{key!r} held {describe(self.truth, key)}"
            )
        if first > self._seen.get(session, float("-inf")):
            self._seen[session] = first

    def _is_foreign(self, op: ReadOp, key: bytes) -> bool:
        since_ms = op.start_ms - (op.bound_ms + self.max_age_ms) * DRIFT
        return self.truth.foreign_between(key, since_ms, op.end_ms)

    def _check_foreign(self, op: ReadOp, key: bytes, value: bytes | None) -> None:
        """Nobody told us of a change: the maximum age of what is cached is all that is promised."""
        self.checked["foreign"] = self.checked.get("foreign", 0) + 1
        since_ms = op.start_ms - (op.bound_ms + self.max_age_ms) * DRIFT - ROUNDING_MS
        if self.truth.timeline(key).when_was(value, since_ms, op.end_ms) is None:
            raise Violation(f"foreign: {op}: {key!r} held {describe(self.truth, key)}")

    def _check_stale(self, op: ReadOp, key: bytes, value: bytes | None) -> None:
        """V6: marked stale, and not older than that allows either."""
        if self.clocks_stop or self._is_foreign(op, key):
            return
        self.checked["stale"] = self.checked.get("stale", 0) + 1
        since_ms = op.start_ms - (op.bound_ms + op.stale_ms) * DRIFT - ROUNDING_MS
        if (
            op.stale_ms <= 0
            or self.truth.timeline(key).when_was(value, since_ms, op.end_ms) is None
        ):
            raise Violation(f"stale-if-error: {op}: {key!r} held {describe(self.truth, key)}")

    def _check_snapshot(self, op: ReadOp) -> None:
        """S2: one moment at which Redis held all of it."""
        if self.clocks_stop or any(self._is_foreign(op, key) for key in op.keys):
            return
        self.checked["snapshot"] = self.checked.get("snapshot", 0) + 1
        assert op.values is not None
        since_ms = op.start_ms - op.bound_ms * DRIFT - ROUNDING_MS
        timelines = [self.truth.timeline(key) for key in op.keys]
        moments = self.truth.moments(since_ms, op.end_ms)
        for timeline in timelines:
            moments += [
                (state.dies_ms, self.truth.index_at(state.dies_ms))
                for state in timeline.states
                if since_ms < state.dies_ms <= op.end_ms
            ]
        if not any(
            all(t.at(*m) == v for t, v in zip(timelines, op.values, strict=True)) for m in moments
        ):
            held = "; ".join(f"{key!r} {describe(self.truth, key)}" for key in op.keys)
            raise Violation(f"snapshot: {op}: never held together: {held}")

    def _acknowledged_before(self, key: bytes, start_ms: float) -> float:
        acked = self._acked.get(key)
        if not acked:
            return float("-inf")
        place = bisect_right(acked, (start_ms, float("inf")))
        return acked[place - 1][1] if place else float("-inf")

    # -- writes --------------------------------------------------------------------

    def end_write(self, op: WriteOp, outcome: WriteResult | Fault, now_ms: float) -> None:
        op.end_ms = now_ms
        self.unanswered -= 1
        self.writes.append(op)
        if isinstance(outcome, Fault):
            op.fault = outcome
            self._count_fault(outcome)
        else:
            op.result = outcome
        if not op.value:
            return  # it left no mark: when it was committed, if at all, nobody can tell
        self._check_claim(op)
        times = self.truth.committed.get(op.value, [])
        if not times:
            self._note_empty_delete(op, now_ms)
            return
        if op.granted_ms != float("-inf"):
            self._check_fill(op, times[-1])
        for key in op.keys:
            self._wrote(op, key, times[-1])
        done = op.result is not None and op.result.satisfied
        if op.level == Level.ALL and done:
            self.checked["ack=all write"] = self.checked.get("ack=all write", 0) + 1
            for key in op.keys:
                self._note_acked(key, now_ms, times[-1])

    def _note_empty_delete(self, op: WriteOp, now_ms: float) -> None:
        """K5: nothing was there. Nobody is shown what may have been there before it began."""
        result = op.result
        if op.level != Level.ALL or not op.what.startswith("delete"):
            return
        if result is not None and result.satisfied and result.replies == (0,):
            for key in op.keys:
                self._note_acked(key, now_ms, op.start_ms)

    def _check_fill(self, op: WriteOp, commit_ms: float) -> None:
        """L1: nothing has happened to the key, or to a tag of the value, since it was leased."""
        self.checked["fill"] = self.checked.get("fill", 0) + 1
        if self.truth.lost_since(op.granted_ms):
            return  # what had happened may be forgotten
        covered_ms = self.truth.covered_between(op.keys[0], op.tags, op.granted_ms, commit_ms)
        if covered_ms is not None:
            raise Violation(f"lease: {op}: stored though the key was changed at {covered_ms:.2f}")
        if commit_ms > op.lapses_ms + LEASE_GRAIN_MS:
            raise Violation(f"lease: {op}: stored at {commit_ms:.2f}, after the lease was over")

    def _wrote(self, op: WriteOp, key: bytes, commit_ms: float) -> None:
        session = (op.session, op.incarnation, key)
        self._seen[session] = max(self._seen.get(session, float("-inf")), commit_ms)

    def _note_acked(self, key: bytes, end_ms: float, commit_ms: float) -> None:
        acked = self._acked.setdefault(key, [])
        latest = max((c for e, c in acked if e <= end_ms), default=commit_ms)
        insort(acked, (end_ms, max(latest, commit_ms)))

    def _check_claim(self, op: WriteOp) -> None:
        """W3: what the writer is told is so. What Redis has lost since does not count."""
        self.checked["write"] = self.checked.get("write", 0) + 1
        committed = self.truth.committed.get(op.value, [])
        times = [at_ms for at_ms in committed if not self.truth.lost_since(at_ms)]
        if len(times) > 1:
            raise Violation(f"applied twice: {op}: committed at {times}")
        if op.result is not None and not op.result.aborted:
            failed = op.result.replies and isinstance(op.result.replies[0], ReplyError)
            changed = op.result.version is not None and not failed
            if changed and not any(op.start_ms <= at_ms <= op.end_ms for at_ms in committed):
                raise Violation(f"write: {op}: told it is done, but committed at {committed}")
            if not changed and times and op.level != Level.NONE:
                raise Violation(f"write: {op}: told nothing changed, but committed at {times}")
            return
        told = op.fault.kind if op.fault is not None else ""
        if told in NOTHING_DONE and times:
            raise Violation(f"write: {op}: told nothing was done, but committed at {times}")
        if told == FaultKind.APPLIED_UNKNOWN_REPLY and not committed:
            raise Violation(f"write: {op}: told it was applied, but it was not")

    def check_claims_again(self) -> None:
        """At the end: nothing that was refused, or committed once, has been committed since."""
        for op in self.writes:
            if op.value:
                self._check_claim(op)

    def _count_fault(self, fault: Fault) -> None:
        self.faults[fault.kind] = self.faults.get(fault.kind, 0) + 1


NOTHING_DONE: Final = frozenset(
    {
        FaultKind.UNAVAILABLE,
        FaultKind.CONTENDED,
        FaultKind.OUT_OF_MEMORY,
        FaultKind.CONFLICT,
        FaultKind.LOST,
        FaultKind.OVERLOADED,
        FaultKind.STOPPING,
        FaultKind.LOST,
    }
)


def describe(truth: Truth, key: bytes, last: int = 6) -> str:
    """The latest states of a key, for people."""
    states = truth.timeline(key).states[-last:]
    return " ".join(f"[{s.at_ms:.2f}: {s.value!r}]" for s in states)
