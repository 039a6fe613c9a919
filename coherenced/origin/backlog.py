"""Which of the queued writes is sent when: one at a time per key, the newest only. Pure.

Entries are kept by key, in the order in which they were queued. A key is sent when it is
due and no send of it is under way, so that its writes reach the origin in order; one send
settles every entry that had been read when it began, for it carries the newest value.
"""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_MS: Final = 200.0
LONGEST_PAUSE_MS: Final = 30_000.0


class Line:
    """The entries of one key."""

    __slots__ = ("due_ms", "failures", "ids", "replayed", "sending", "tries")

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.due_ms = 0.0
        self.failures = 0
        """Failed sends in a row: the pause after each is longer."""
        self.tries = 0
        """Of these, those that the origin answered with a refusal."""
        self.sending = 0
        """How many of the ids the send under way settles; 0: none is."""
        self.replayed = False


class Backlog:
    """What one sender has read and not finished."""

    def __init__(self) -> None:
        self.lines: dict[bytes, Line] = {}
        self.held = 0
        """Entries."""
        self.sending = 0
        """Keys whose send is under way."""

    def add(self, key: bytes, entry_id: bytes, *, replayed: bool = False) -> None:
        line = self.lines.setdefault(key, Line())
        line.ids.append(entry_id)
        line.replayed = line.replayed or replayed
        self.held += 1

    def begin(self, now_ms: float, most: int) -> list[bytes]:
        """Up to `most` keys whose send begins now, those that have waited longest first."""
        found: list[bytes] = []
        for key, line in self.lines.items():
            if len(found) >= most:
                break
            if not line.sending and line.due_ms <= now_ms:
                line.sending = len(line.ids)
                self.sending += 1
                found.append(key)
        return found

    def ids(self, key: bytes) -> list[bytes]:
        """The entries that the send under way settles."""
        line = self.lines[key]
        return line.ids[: line.sending]

    def settled(self, key: bytes) -> None:
        """The send is over, and its entries are dealt with."""
        line = self.lines.pop(key)
        self.sending -= 1
        self.held -= line.sending
        rest = line.ids[line.sending :]
        if rest:
            # To the end: keys that wait go before one that was just served.
            again = self.lines[key] = Line()
            again.ids, again.replayed = rest, line.replayed

    def failed(self, key: bytes, now_ms: float, chance: float, *, refused: bool) -> int:
        """The send is over, and goes again after a pause. -> how often it was refused so far."""
        line = self.lines[key]
        line.sending = 0
        self.sending -= 1
        line.failures += 1
        line.tries += refused
        line.due_ms = now_ms + pause_ms(line.failures, chance)
        return line.tries

    def tries(self, key: bytes) -> int:
        return self.lines[key].tries

    def next_due_ms(self) -> float:
        """When the next key is due that is not being sent; infinity when none is held."""
        return min(
            (line.due_ms for line in self.lines.values() if not line.sending),
            default=float("inf"),
        )


def pause_ms(failures: int, chance: float) -> float:
    """How long to wait after so many failures in a row: doubling, bounded, half of it by chance."""
    full_ms = min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2.0 ** min(failures - 1, 30))
    return full_ms * (0.5 + 0.5 * chance)
