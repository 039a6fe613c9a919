"""One load of a key per process at a time: the first to board flies, the others wait for it.

A flight that landed with a value that was *stored* serves all who waited: the store
was refused if anything had invalidated the key since the load began, so the value was
current at that moment, and they had all asked before it. One that landed with a value
that was not stored serves only who flew: the others try anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Signal(Protocol):
    """Set once; `threading.Event` or its like on an event loop."""

    def set(self) -> None: ...


class Flight:
    """One load under way in this process."""

    __slots__ = ("_home", "_name", "answer", "error", "result", "signal")

    def __init__(self, home: dict[bytes, Flight], name: bytes, signal: Signal) -> None:
        self._home = home
        self._name = name
        self.signal = signal
        self.result: Callable[[], Any] | None = None
        """Makes what each of the others may have, once it has landed, as an object of its own;
        None: each must try anew."""
        self.answer: Any = None
        """What the one may have who had it flown, stored or not."""
        self.error: Exception | None = None
        """What the loader raised: those who waited for this load get it too."""

    def depart(self) -> None:
        """Nobody boards any more. Before the value is stored: who asks after that may have to
        see an update that came after it."""
        if self._home.get(self._name) is self:
            del self._home[self._name]

    def land(self) -> None:
        """Wake all who wait. Called by who flew, whatever has happened; again does no harm."""
        self.depart()
        self.signal.set()


class Flights:
    """The flights of one process (and, in asyncio, of one event loop), by key."""

    def __init__(self, signal: Callable[[], Signal]) -> None:
        self._signal = signal
        self._flights: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def board(self, name: bytes) -> tuple[Flight, bool]:
        """The flight of `name`, and whether it is the caller who flies it."""
        flight = Flight(self._flights, name, self._signal())
        found = self._flights.setdefault(name, flight)  # atomic: no lock needed
        return found, found is flight
