"""A circuit breaker: an origin that fails again and again is left alone for a while. Pure.

    closed     -> open        after `failures` failed requests in a row
    open       -> half-open   when `open_ms` have passed: one request may try
    half-open  -> closed      it succeeded
    half-open  -> open        it failed

Whoever is let through must say what became of it (`succeeded`, `failed` or `abandoned`).
"""

from __future__ import annotations

from typing import Final

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half-open"


class Breaker:
    """The state of one origin. `failures` 0: it never opens."""

    __slots__ = ("_failures", "_open_ms", "_opened_ms", "_probing", "in_a_row", "opened", "state")

    def __init__(self, failures: int, open_ms: float) -> None:
        self._failures = failures
        self._open_ms = open_ms
        self._opened_ms = 0.0
        self._probing = False
        self.state = CLOSED
        self.in_a_row = 0
        """Failed requests since the last one that did not fail."""
        self.opened = 0
        """How often it has opened."""

    def admits(self, now_ms: float) -> bool:
        """Whether a request may be sent now; True also reserves the one try when half-open."""
        if self.state == CLOSED:
            return True
        if self.state == OPEN and now_ms - self._opened_ms >= self._open_ms:
            self.state = HALF_OPEN
            self._probing = False
        if self.state == HALF_OPEN and not self._probing:
            self._probing = True
            return True
        return False

    def succeeded(self) -> None:
        self.state = CLOSED
        self.in_a_row = 0
        self._probing = False

    def failed(self, now_ms: float) -> None:
        self.in_a_row += 1
        due = self._failures > 0 and self.in_a_row >= self._failures
        if self.state == HALF_OPEN or (self.state == CLOSED and due):
            self.state = OPEN
            self.opened += 1
            self._opened_ms = now_ms
            self._probing = False

    def abandoned(self) -> None:
        """The request was given up before it could tell anything."""
        self._probing = False

    def opens_in_ms(self, now_ms: float) -> float:
        """How long until a request is let through again."""
        if self.state != OPEN:
            return 0.0
        return max(0.0, self._opened_ms + self._open_ms - now_ms)
