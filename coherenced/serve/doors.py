"""Who is let in: one door a front end, and the room behind all of them.

Each front end has its own bound (`listen.max_connections`), and all share this process's open
files: past those the kernel would cut clients off without a word, and without anybody counting
them. So a client for whom there is no file is turned away like one too many: told, and counted.

That clients are turned away is a change of state: told when it begins, once a minute while it
lasts, and when it is over.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

SPARE_FILES: Final = 256
"""Files that are not for clients: the server, origins, the journal, those who are being told."""
LEAST_SPARE: Final = 64
"""Where there are few: three times what a daemon has open when nobody is connected."""
LOOK_S: Final = 10.0
"""It is over when nobody was turned away for so long."""
AGAIN_S: Final = 60.0
"""While it lasts it is told so often."""

Report = Callable[[str, Mapping[str, Any]], None]
"""Keeps an event, and logs it."""


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
        self.turned_away = 0
        """Since the start."""
        self._front = front
        self._room = room or Room()
        self._report = report
        part = self._room.spare // 4
        self._most = self._room.files - self._room.spare + 2 * part * for_operators
        self._crowd = self._most + part // (1 + for_operators)
        self._before = 0
        """Turned away before this time began."""
        self._looked = 0
        """Turned away at the last look."""
        self._looks = 0
        self._because = ""
        self._timer: asyncio.TimerHandle | None = None

    def admits(self, connections: int, most: int) -> bool:
        """Whether one more may come in beside `connections` others, of which there are at most
        `most`. Let in or not, tell `left` when it has gone."""
        self._room.taken += 1
        if connections >= most:
            self._because = f"listen.max_connections is {most:,}"
        elif self._room.taken > self._most:
            self._because = f"this process may open {self._room.files:,} files: raise LimitNOFILE"
        else:
            return True
        if self._timer is None:
            self._before = self._looked = self.turned_away
            self._report("clients_turned_away", {"front": self._front, "because": self._because})
            self._look_later()
        self.turned_away += 1
        return False

    def left(self) -> None:
        """A connection has gone."""
        self._room.taken -= 1

    @property
    def is_crowded(self) -> bool:
        """Not even those who are turned away have room: they are cut off without a word."""
        return self._room.taken > self._crowd

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        number = self.turned_away - self._before
        if self.turned_away == self._looked:
            self._timer, self._looks = None, 0
            self._report("clients_let_in", {"front": self._front, "turned_away": number})
            return
        self._looked = self.turned_away
        self._looks += 1
        if self._looks * LOOK_S >= AGAIN_S:
            self._looks = 0
            told = {"front": self._front, "because": self._because, "so_far": number}
            self._report("clients_turned_away", told)
        self._look_later()
