"""Replies that wait for clients who do not read them, all connections together.

Each connection has a bound of its own (`listen.output_buffer_bytes`); many that keep to it could
still hold any amount. Only those are counted that have been told to wait: more than a megabyte of
theirs is here. Beyond the bound the one that holds the most is cut off, and the next, never the
last that is left.
"""

from __future__ import annotations

from typing import Protocol


class Waiting(Protocol):
    """A connection, as far as this file must know it."""

    def unread_bytes(self) -> int: ...

    def cut_off(self) -> None: ...


class Unread:
    """Who does not read at the moment, and about how much of theirs is here."""

    def __init__(self) -> None:
        self.total_bytes = 0
        """At most: what they have taken since is seen when it matters."""
        self._held: dict[Waiting, int] = {}

    def note(self, connection: Waiting, most_bytes: int) -> None:
        """It waits for its client; together they may hold `most_bytes`."""
        held = self._held
        size = connection.unread_bytes()
        self.total_bytes += size - held.get(connection, 0)
        held[connection] = size
        if self.total_bytes <= most_bytes:
            return
        for one in held:
            held[one] = one.unread_bytes()
        self.total_bytes = sum(held.values())
        while self.total_bytes > most_bytes and len(held) > 1:
            largest = max(held, key=held.__getitem__)
            self.forget(largest)
            largest.cut_off()

    def forget(self, connection: Waiting) -> None:
        """Its client reads, or has gone. Harmless when it was not noted."""
        self.total_bytes -= self._held.pop(connection, 0)
