"""Linearizable namespaces: a write in two phases (K6).

    prepare   mark the keys pending with a token that expires; next seq; publish
    wait      until every node has acknowledged or is fenced by time (K3)
    commit    only if the token is still there: values set, marks removed

Between the phases nobody caches the keys, and after the wait nobody holds an
old copy: so once the new value can be seen anywhere, the old one can be seen
nowhere. A writer that dies leaves the old value and a mark that expires. (The
same shape as a write under leases in Gray and Cheriton, SOSP 1989.)

What such a write does to keys that are not linearizable happens with its second
phase, or not at all. A later write of this node to one of those waits in line behind it (W4),
and then has its one phase.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from coherenced.core.laws import Laws
from coherenced.core.model import Mutation, Op, ReplyError
from coherenced.core.outbox import Outbox
from coherenced.core.policy import Namespaces
from coherenced.core.requests import Fault, FaultKind, Level, Outcome, Write, WriteResult

BUSY_RETRY_MS: Final = 4.0
"""How soon a writer asks again when another one is between its phases on the same key."""
BUSY: Final = "TRYAGAIN"
"""First word of the error with which the server refuses a key that is pending."""
TOKEN_MARGIN_MS: Final = 1_000.0
"""How much longer than the writer's own patience its mark lives: it must not expire first."""


class _Run:
    """One write on its way through the phases."""

    __slots__ = (
        "acked",
        "deadline_ms",
        "fenced",
        "has_begun",
        "keys",
        "line",
        "request_id",
        "token",
        "write",
    )

    def __init__(self, request_id: int, write: Write, token: bytes, deadline_ms: float) -> None:
        self.request_id = request_id
        self.write = write
        self.token = token
        self.deadline_ms = deadline_ms
        self.keys: tuple[bytes, ...] = ()
        """The linearizable ones; none: it has one phase."""
        self.line: tuple[bytes, ...] = ()
        """All that it writes."""
        self.has_begun = False
        self.acked: dict[str, float] = {}
        self.fenced: tuple[str, ...] = ()


class TwoPhase:
    """Runs linearizable writes as pairs of ordinary ones. Bounded like all waiting requests."""

    def __init__(
        self,
        box: Outbox,
        laws: Laws,
        write: Callable[[int, Write], None],
        namespaces: Namespaces,
        new_token: Callable[[], bytes],
    ) -> None:
        self.prepared = self.committed = self.aborted = 0
        self.refused = 0
        """Writes that did not get their turn in time."""
        self.waiting = 0
        """Writes in line for their keys, or between their phases."""
        self._box = box
        self._laws = laws
        self._write = write
        self._namespaces = namespaces
        self._new_token = new_token
        self._lines: dict[bytes, deque[_Run]] = {}
        """Key -> the writes of this node that wait for their turn on it; the first one runs."""

    def is_before(self, write: Write) -> bool:
        """W4: whether a write that has not come to its end has to go before this one."""
        lines = self._lines
        if not lines or any(m.token for m in write.mutations):
            return False
        return any(k in lines for m in write.mutations if m.is_write for k in m.keys)

    def start(self, request_id: int, write: Write, timeout_ms: float) -> None:
        run = _Run(request_id, write, self._new_token(), self._box.now_ms + timeout_ms)
        run.line = tuple(dict.fromkeys(k for m in write.mutations if m.is_write for k in m.keys))
        # Only those have two phases.
        run.keys = tuple(k for k in run.line if self._namespaces.for_key(k).linearizable)
        self.waiting += 1
        for key in run.line:
            self._lines.setdefault(key, deque()).append(run)
        if self._is_first(run):
            self._begin(run)

    def _is_first(self, run: _Run) -> bool:
        """W4: this node's writes to one key go one after the other, in the order accepted."""
        return all(self._lines[key][0] is run for key in run.line)

    def _begin(self, run: _Run) -> None:
        run.has_begun = True
        if not run.keys:
            self._ask(run, run.write, self._end)
        elif self._laws.two_phases:
            self._prepare(run)
        else:
            self._commit(run)

    def _end(self, run: _Run, outcome: Outcome) -> None:
        self.waiting -= 1
        self._box.settle(run.request_id, outcome)
        following: dict[int, _Run] = {}
        for key in run.line:
            line = self._lines[key]
            line.popleft()
            if line:
                following[id(line[0])] = line[0]
            else:
                del self._lines[key]
        for after in following.values():
            # One of them may have come to its end at once, and have given another its turn.
            if not after.has_begun and self._is_first(after):
                self._begin(after)

    def _prepare(self, run: _Run) -> None:
        left_ms = run.deadline_ms - self._box.now_ms
        if left_ms <= 0:
            self._refuse(
                run, "another write was between its two phases on the same key for too long"
            )
            return
        prepare = Mutation(
            (),
            op=Op.PREPARE,
            keys=run.keys,
            token=run.token,
            token_ttl_ms=int(left_ms + TOKEN_MARGIN_MS),
            # A delete must work when memory is full: so must the mark that goes before it.
            frees_memory=all(m.frees_memory for m in run.write.mutations),
        )

        inner = Write((prepare,), atomic=True, ack=Level.ALL, timeout_ms=left_ms)
        self._ask(run, inner, self._on_prepared)

    def _ask(self, run: _Run, inner: Write, then: Callable[[_Run, Outcome], None]) -> None:
        """Submit one phase as a write of the core's own; it counts as waiting by itself."""

        def done(outcome: Outcome) -> None:
            self.waiting += 1
            then(run, outcome)

        self.waiting -= 1
        self._write(self._box.internal(done), inner)

    def _on_prepared(self, run: _Run, outcome: Outcome) -> None:
        if isinstance(outcome, Fault) and outcome.kind == FaultKind.OUT_OF_MEMORY:
            self._end(run, outcome)  # refused before anything was marked
            return
        if isinstance(outcome, Fault):
            # Nothing is visible yet, whatever became of the mark: it expires by itself.
            self._abort(run)
            self._end(run, Fault(FaultKind.UNAVAILABLE, outcome.detail))
            return
        assert isinstance(outcome, WriteResult)
        reply = outcome.replies[0]
        if isinstance(reply, ReplyError):
            if reply.text.startswith(BUSY):
                self._box.timers.at(self._box.now_ms + BUSY_RETRY_MS, self._prepare, run)
            else:
                self._end(run, outcome)
            return
        self.prepared += 1
        if not outcome.satisfied:
            self._abort(run)
            missing = ", ".join(outcome.missing)
            self._refuse(run, f"not every node dropped its copy in time ({missing})")
            return
        run.acked, run.fenced = outcome.acknowledged, outcome.fenced
        self._commit(run)

    def _commit(self, run: _Run) -> None:
        prepared = frozenset(run.keys)
        mutations = run.write.mutations
        if self._laws.two_phases:
            mutations = tuple([_in_second(m, run.token, run.keys[0], prepared) for m in mutations])

        # All nodes have let go of the linearizable keys; of others that it writes too, not yet.
        ack = Level.REDIS if prepared.issuperset(run.line) else run.write.ack
        inner = msgspec.structs.replace(run.write, mutations=mutations, atomic=True, ack=ack)
        self._ask(run, inner, self._on_committed)

    def _on_committed(self, run: _Run, outcome: Outcome) -> None:
        if isinstance(outcome, WriteResult) and _is_refused(outcome):
            self._abort(run)  # what it marked is not to wait for the marks' end
        elif isinstance(outcome, WriteResult):
            self.committed += 1
            if not outcome.acknowledged:
                outcome = msgspec.structs.replace(
                    outcome, acknowledged=run.acked, fenced=run.fenced
                )
        self._end(run, outcome)

    def _abort(self, run: _Run) -> None:
        """Take the mark away rather than let it expire; if that fails, it expires."""
        self.aborted += 1
        abort = Mutation((), op=Op.ABORT, keys=run.keys, token=run.token, frees_memory=True)
        self._write(self._box.internal(_ignore), Write((abort,), ack=Level.REDIS))

    def _refuse(self, run: _Run, why: str) -> None:
        self.refused += 1
        text = f"{why}; the write was not applied: try again"
        self._end(run, Fault(FaultKind.CONTENDED, text))


def _in_second(
    mutation: Mutation, token: bytes, guard: bytes, prepared: frozenset[bytes]
) -> Mutation:
    """One of a write's mutations, as its second phase has it. `guard`: one of the marked keys."""
    if not mutation.is_write:
        return mutation
    if prepared.isdisjoint(mutation.keys):
        return msgspec.structs.replace(mutation, token=token, guard=guard)
    return msgspec.structs.replace(mutation, op=Op.COMMIT, token=token)


def _is_refused(outcome: WriteResult) -> bool:
    return any(isinstance(r, ReplyError) and r.text.startswith(BUSY) for r in outcome.replies)


def _ignore(outcome: Outcome) -> None:
    """An abort needs no answer."""
