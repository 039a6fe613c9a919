"""What one step of the node produces, and who gets the answers to its calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from coherenced.core.calls import Answer, Call
from coherenced.core.model import NEVER, Record
from coherenced.core.requests import Outcome, Write
from coherenced.core.timers import Timers


class Settled(msgspec.Struct, frozen=True, gc=False):
    """The outcome of the request that was submitted under this id."""

    request_id: int
    outcome: Outcome


class SettledAll(msgspec.Struct, frozen=True, gc=False):
    """The outcomes of several requests, all of them submitted."""

    request_ids: Sequence[int]
    outcomes: Sequence[Outcome]


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something an operator wants to know of: one log line and one entry in the event ring."""

    name: str
    fields: dict[str, Any]
    write: Write | None = None
    """What was accepted with ack=none and could not be carried out: nobody else hears of it."""


class Applied(msgspec.Struct, frozen=True, gc=False):
    """A record was applied (only while somebody streams invalidations)."""

    lane: int
    epoch: bytes
    record: Record


Effect = Call | Settled | SettledAll | Event | Applied
Handler = Callable[[Any], None]


class Outbox:
    """The surroundings of a step: the time it happens at, its effects, its call ids, its timers.

    `now_ms` is set by `Node.step` from its argument; nothing in the core reads a clock.
    """

    __slots__ = ("_handlers", "_internal", "effects", "next_call_id", "now_ms", "timers")

    def __init__(self) -> None:
        self.now_ms: float = NEVER
        self.effects: list[Effect] = []
        self.timers = Timers()
        self.next_call_id = 1
        """The id that the next call will get: a call with at least this id is sent after now."""
        self._handlers: dict[int, Handler] = {}
        self._internal: dict[int, Callable[[Outcome], None]] = {}

    @property
    def calls_open(self) -> int:
        return len(self._handlers)

    def new_call_id(self, handler: Handler) -> int:
        call_id = self.next_call_id
        self.next_call_id = call_id + 1
        self._handlers[call_id] = handler
        return call_id

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def event(self, name: str, **fields: Any) -> None:
        self.effects.append(Event(name, fields))

    def settle(self, request_id: int, outcome: Outcome) -> None:
        if request_id < 0:
            self._internal.pop(request_id)(outcome)
        else:
            self.effects.append(Settled(request_id, outcome))

    def internal(self, done: Callable[[Outcome], None]) -> int:
        """A request id for a request of the core's own: its outcome goes to `done`."""
        request_id = -self.next_call_id
        self.next_call_id += 1
        self._internal[request_id] = done
        return request_id

    def answer(self, call_id: int, answer: Answer) -> None:
        """Give an answer to whoever made the call; an answer that nobody waits for is dropped."""
        handler = self._handlers.pop(call_id, None)
        if handler is not None:
            handler(answer)

    def take(self) -> list[Effect]:
        effects, self.effects = self.effects, []
        return effects
