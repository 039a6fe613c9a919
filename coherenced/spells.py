"""Something that happens again and again, told as a change of state: when it begins, once a minute
while it lasts, and when it is over. What each time would make a line makes three."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

LOOK_S: Final = 10.0
"""It is over when it has not happened for so long."""
AGAIN_S: Final = 60.0
"""While it lasts it is told so often."""

Report = Callable[[str, Mapping[str, Any]], None]
"""Keeps an event, and logs it."""


class Spell:
    """A time in which something happens. The events are `begins` and `ends`; `ends` tells by
    `counted_as` how often it has happened."""

    def __init__(self, begins: str, ends: str, counted_as: str, report: Report) -> None:
        self.count = 0
        """How often since the start."""
        self._names = (begins, ends, counted_as)
        self._report = report
        self._before = self._looked = 0
        """How often before this time began, and until the last look."""
        self._looks = 0
        self._fields: Mapping[str, Any] = {}
        self._timer: asyncio.TimerHandle | None = None

    def once_more(self, fields: Mapping[str, Any]) -> None:
        """It happens."""
        self._fields = fields
        if self._timer is None:
            self._before = self._looked = self.count
            self._report(self._names[0], fields)
            self._look_later()
        self.count += 1

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        begins, ends, counted_as = self._names
        number = self.count - self._before
        if self.count == self._looked:
            self._timer, self._looks = None, 0
            fields = {key: told for key, told in self._fields.items() if key != "because"}
            self._report(ends, {**fields, counted_as: number})
            return
        self._looked = self.count
        self._looks += 1
        if self._looks * LOOK_S >= AGAIN_S:
            self._looks = 0
            self._report(begins, {**self._fields, "so_far": number})
        self._look_later()
