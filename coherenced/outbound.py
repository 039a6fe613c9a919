"""Invalidations that could not be sent: journaled, and sent when Redis is back.

Only pure invalidations are journaled (a write has a result that its caller needs).
Their order is kept; sending one twice does no harm, so an entry leaves the journal
only after Redis has committed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from coherenced.core.batches import strength
from coherenced.core.model import Mutation, Op
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.requests import (
    Fault,
    FaultKind,
    Level,
    Outcome,
    Request,
    Write,
    WriteResult,
)
from coherenced.errors import SPOOLED
from coherenced.spool import Spool, Spooled, SpoolError

BATCH: Final = 100
"""Journaled invalidations sent in one request."""


class Outbound:
    """Guards the writes of one host. `report` takes an event's name and fields."""

    def __init__(
        self,
        spool: Spool,
        namespaces: Namespaces,
        submit: Callable[[Request, Callable[[Outcome], None]], None],
        forget: Callable[[tuple[Mutation, ...]], None],
        report: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self.spool = spool
        self.accepted = self.sent = self.refused = 0
        self._namespaces = namespaces
        self._submit = submit
        self._forget = forget
        self.report = report
        self._sending = False

    def guarding(self, write: Write, done: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
        """`done`, or what journals the invalidation if Redis turns out to be out of reach."""
        if not self._may_wait(write):
            return done

        def settled(outcome: Outcome) -> None:
            if isinstance(outcome, Fault) and outcome.kind in _NOT_SENT:
                outcome = self._keep(write, outcome)
            done(outcome)

        return settled

    def keeps_accepted(self, write: Write, kind: str) -> bool:
        """Journal an invalidation whose caller was answered before it was sent (ack=none); False:
        it is none, or could not be journaled."""
        if kind not in _NOT_SENT or not self._may_wait(write):
            return False
        return isinstance(self._keep(write, Fault(kind, "")), WriteResult)

    def _may_wait(self, write: Write) -> bool:
        if self._sending and write.ack == Level.REDIS and write.atomic:
            return False  # a replay of our own
        pure = all(not m.argv and m.op == Op.INVALIDATE for m in write.mutations)
        if not pure or not write.mutations:
            return False
        return all(policy.spool for policy in self._policies(write))

    def _policies(self, write: Write) -> list[Policy]:
        keys = [key for m in write.mutations for key in m.keys]
        return [self._namespaces.for_key(key) for key in keys] or [self._namespaces.default]

    def _keep(self, write: Write, fault: Fault) -> Outcome:
        try:
            self.spool.append([Spooled.of(m) for m in write.mutations])
        except SpoolError as error:
            self.refused += 1
            self.report("spool_refused", {"detail": str(error)})
            return Fault(fault.kind, f"{fault.detail}; {error}")
        if not self.accepted:
            self.report("spooled", {"journal": str(self.spool.path)})
        self.accepted += 1
        self._forget(write.mutations)
        return WriteResult(
            (None,) * len(write.mutations),
            None,
            {},
            missing=(SPOOLED,),
            satisfied=not self._asks_nodes(write),
        )

    def _asks_nodes(self, write: Write) -> bool:
        """Whether the caller wants to hear of other nodes: a journal cannot speak for them."""
        level = write.ack
        if level is None:
            level = max((policy.ack for policy in self._policies(write)), key=strength)
        return level not in (Level.NONE, Level.REDIS) or write.replicas > 0

    def replay(self) -> None:
        """Send what is journaled, oldest first, batch by batch, until it is empty."""
        if self._sending or not len(self.spool):
            return
        batch = self.spool.pending()[:BATCH]
        self._sending = True

        def settled(outcome: Outcome) -> None:
            self._sending = False
            if isinstance(outcome, WriteResult):
                self._sent(len(batch))

        mutations = tuple(entry.mutation() for entry in batch)
        self._submit(Write(mutations, atomic=True, ack=Level.REDIS), settled)

    def _sent(self, count: int) -> None:
        try:
            self.spool.sent(count)
        except OSError as error:
            # Only the file still has them; the rest waits no longer for that.
            self.report("spool_refused", {"detail": f"{self.spool.path}: {error.strerror}"})
        self.sent += count
        if len(self.spool):
            self.replay()
        else:
            self.accepted = 0
            self.report("spool_replayed", {"invalidations": self.sent})


_NOT_SENT: Final = frozenset({FaultKind.UNAVAILABLE, FaultKind.INDETERMINATE})
"""An invalidation whose fate is unknown may be sent again: it does the same twice."""
