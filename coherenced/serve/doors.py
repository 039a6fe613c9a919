"""Who is let in: one door a front end, and the room behind all of them.

Each front end has its own bound (`listen.max_connections`), and all share this process's open
files: past those the kernel would cut clients off without a word, and without anybody counting
them. So a client for whom there is no file is turned away like one too many: told, and counted.
"""

from __future__ import annotations

import sys
from typing import Final

from coherenced.spells import Report, Spell

SPARE_FILES: Final = 256
"""Files that are not for clients: the server, origins, the journal, those who are being told."""
LEAST_SPARE: Final = 64
"""Where there are few: three times what a daemon has open when nobody is connected."""


class Room:
    """The files that clients may take together, of the `files` that this process may have."""

    def __init__(self, files: int = sys.maxsize) -> None:
        self.files = files if files > 0 else sys.maxsize  # RLIM_INFINITY is -1
        self.spare = min(SPARE_FILES, max(self.files // 4, LEAST_SPARE), self.files // 2)
        self.taken = 0
        """By connections, those of clients who are being turned away counted."""


class Door:
    """Where the clients of one front end come in. `for_operators`: a part of the spare files is for
    them, too, so that one can look however many clients the other front ends have."""

    def __init__(
        self,
        front: str,
        room: Room | None = None,
        report: Report = lambda name, fields: None,
        for_operators: bool = False,
    ) -> None:
        self._front = front
        self._room = room or Room()
        self._spell = Spell("clients_turned_away", "clients_let_in", "turned_away", report)
        part = self._room.spare // 4
        self._most = self._room.files - self._room.spare + 2 * part * for_operators
        self._crowd = self._most + part // (1 + for_operators)

    @property
    def turned_away(self) -> int:
        """How many, since the start."""
        return self._spell.count

    def admits(self, connections: int, most: int) -> bool:
        """Whether one more may come in beside `connections` others, of which there are at most
        `most`. Let in or not, tell `left` when it has gone."""
        self._room.taken += 1
        if connections >= most:
            because = f"listen.max_connections is {most:,}"
        elif self._room.taken > self._most:
            because = f"this process may open {self._room.files:,} files: raise LimitNOFILE"
        else:
            return True
        self._spell.once_more({"front": self._front, "because": because})
        return False

    def left(self) -> None:
        """A connection has gone."""
        self._room.taken -= 1

    @property
    def is_crowded(self) -> bool:
        """Not even those who are turned away have room: they are cut off without a word."""
        return self._room.taken > self._crowd

    def close(self) -> None:
        self._spell.close()
