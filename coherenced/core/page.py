"""What the core tells the shared page (PROTOCOL.md, P1 to P5): the port, and one nobody reads.

Clients on this host keep copies in their own memory, which no daemon can reach: all it can do
is count. Whoever holds a copy has noted the counters of its key, of its tags and of the lane
from before it asked; once one of them has moved, the copy is worth nothing. So each of these
is told within the step in which the thing happens: before an acknowledgement of it leaves, and
before anybody is shown anything newer. What merely leaves L1 (evicted, expired) is not told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from coherenced.core.model import FOREVER


class Page(Protocol):
    """Called within a step; must not raise."""

    def touch(self, keys: Iterable[bytes]) -> None:
        """Copies of these keys are worth nothing from now on, whether L1 held one or not."""

    def touch_tags(self, tags: Iterable[bytes]) -> None:
        """The same for every copy that carries one of these tags."""

    def drop(self) -> None:
        """The same for all copies of the lane: a prefix, everything, A5."""

    def publish(self, verified_at_ms: float, epoch: bytes | None, applied: int) -> None:
        """The lane's proof and position, as they stand when the step ends.

        A verified-at that has moved back (V7, another history seen) ends what it had proved.
        """


class NoPage:
    """For a node without one."""

    def touch(self, keys: Iterable[bytes]) -> None: ...

    def touch_tags(self, tags: Iterable[bytes]) -> None: ...

    def drop(self) -> None: ...

    def publish(self, verified_at_ms: float, epoch: bytes | None, applied: int) -> None: ...


LATE_MS: Final = 50.0


class LatePage:
    """What the law `page_before_ack` forbids: to tell afterwards (for tests)."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._due_ms = FOREVER
        self.now_ms = 0.0
        self._keys: list[bytes] = []
        self._tags: list[bytes] = []
        self._dropped = False

    def touch(self, keys: Iterable[bytes]) -> None:
        self._keys += keys
        self._hold()

    def touch_tags(self, tags: Iterable[bytes]) -> None:
        self._tags += tags
        self._hold()

    def drop(self) -> None:
        self._dropped = True
        self._hold()

    def publish(self, verified_at_ms: float, epoch: bytes | None, applied: int) -> None:
        self._page.publish(verified_at_ms, epoch, applied)

    def _hold(self) -> None:
        self._due_ms = min(self._due_ms, self.now_ms + LATE_MS)

    def begin(self, now_ms: float) -> None:
        """A step begins: tell what has been held back for long enough."""
        self.now_ms = now_ms
        if now_ms < self._due_ms:
            return
        self._due_ms = FOREVER
        if self._dropped:
            self._page.drop()
        self._page.touch(self._keys)
        self._page.touch_tags(self._tags)
        self._keys, self._tags, self._dropped = [], [], False
