"""A reader some of whose answers are still being loaded, and how long it waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coherenced.core.model import ReplyError
from coherenced.core.requests import Fault, Outcome, ReadResult, Value
from coherenced.origin.fetcher import Origin

Done = Callable[[Outcome], None]


class Gather:
    """One read's answers, some of which are still being loaded."""

    __slots__ = ("_done", "_left", "values")

    def __init__(self, values: tuple[Value, ...], done: Done) -> None:
        self.values = list(values)
        self._done = done
        self._left = 1

    def await_one(self) -> None:
        self._left += 1

    def put(self, index: int, outcome: Value | Fault) -> None:
        """One that was awaited has come."""
        if self._left <= 0:
            return  # the read has failed as a whole
        if isinstance(outcome, Fault):
            self._left = 0
            self._done(outcome)
            return
        self.values[index] = outcome
        self.close()

    def close(self) -> None:
        """Nothing more will be awaited (or one has come): answer, if that was the last."""
        self._left -= 1
        if self._left == 0:
            self._done(ReadResult(tuple(self.values)))


class StaleWait:
    """A reader for whom there is a stale value: it waits for the origin, but not for long."""

    __slots__ = ("_gather", "_index", "_origin", "_over", "_stale", "_timer")

    def __init__(self, gather: Gather, index: int, origin: Origin, stale: Value) -> None:
        self._gather = gather
        self._index = index
        self._origin = origin
        self._stale = stale
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        if not self._over:
            loop = asyncio.get_running_loop()
            soft_s = self._origin.rules.soft_timeout_ms / 1e3
            self._timer = loop.call_later(soft_s, self._give_stale)

    def loaded(self, outcome: Value | Fault) -> None:
        failed = isinstance(outcome, Fault) or isinstance(outcome.error, ReplyError)
        if self._over:
            self._origin.late += not failed
            return
        if self._timer is not None:
            self._timer.cancel()
        if failed:
            self._give_stale()
            return
        self._over = True
        self._gather.put(self._index, outcome)

    def _give_stale(self) -> None:
        self._over = True
        self._origin.stale_served += 1
        self._gather.put(self._index, self._stale)
