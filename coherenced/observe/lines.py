"""A log's way out of the process that never holds it up, and never fails.

Who reads our stderr may stop reading (a stuck collector, Ctrl-S), go away, or be a file on a
full disk. The daemon's one thread writes its log; a write that waits would stop every answer of
this host, and one that raises would end what it was doing in the middle. So a line is written
only where there is room for it, else lost; once there is room again, how many were lost is told.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

PATIENCE_MS: Final = 20
"""How long the first line for which there is no room waits. Those after it do not wait."""
PIECE_BYTES: Final = 4096
"""What a pipe, a socket or a terminal takes without waiting, once it says that it has room."""


class Lines:
    """A text stream to a descriptor; what is written between two flushes is one line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._line: list[str] = []
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._torn = False
        self.lost = 0
        """Lines lost since the last that was written."""
        self.tell_lost: Callable[[int], str] = lambda lost: ""
        """Makes the line that tells of them."""

    def write(self, text: str) -> int:
        self._line.append(text)
        return len(text)

    def flush(self) -> None:
        text, self._line = "".join(self._line), []
        if not text:
            return
        if self.lost:
            text = "\n" * self._torn + self.tell_lost(self.lost) + text
        if self._send(text.encode(errors="backslashreplace")):
            self.lost, self._torn = 0, False
        else:
            self.lost += 1

    def isatty(self) -> bool:
        try:
            return os.isatty(self._descriptor)
        except OSError:
            return False

    def _send(self, left: bytes) -> bool:
        """Whether all of it was written. What was begun may be torn off."""
        patience_ms = 0 if self.lost else PATIENCE_MS
        try:
            while left and self._room.poll(patience_ms):
                left = left[os.write(self._descriptor, left[:PIECE_BYTES]) :]
                self._torn = bool(left)
        except OSError:
            pass
        return not left
