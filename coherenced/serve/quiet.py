"""A quiet connection: compiled (`_quiet.c`) where that was built, else in Python (`quiet_pure`).

The one place where it is chosen, when the front end is imported; nothing else differs by it. With
`COHERENCED_PURE` in the environment, whatever its value, it is Python: for who suspects the other,
and for measuring.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from coherenced.core.entry import Entry
from coherenced.core.lane import Lane
from coherenced.serve.quiet_pure import (
    BUSY,
    GETTING,
    PIECE_BYTES,
    QUIET,
    SETTING,
    TURN_BYTES,
    Poller,
    Quiet,
    Tally,
    boottime_ms,
    piece_of,
)

if TYPE_CHECKING:
    from coherenced.core.node import Node

__all__ = [
    "BUSY",
    "GETTING",
    "NATIVE",
    "OFF",
    "PIECE_BYTES",
    "QUIET",
    "SETTING",
    "TURN_BYTES",
    "Poller",
    "Quiet",
    "Tally",
    "boottime_ms",
    "hit_of",
    "piece_of",
]

OFF: Final = "COHERENCED_PURE"

NATIVE = False
"""Whether it is compiled."""

_Hit: Any = None

if not TYPE_CHECKING and OFF not in os.environ:
    try:
        from coherenced.serve import _quiet

        _compiled = _quiet.Hit, _quiet.Poller, _quiet.Quiet, _quiet.Tally, _quiet.boottime_ms
    except (ImportError, AttributeError):
        pass  # not built, or for another Python, or of a source that had less
    else:
        NATIVE = True
        _Hit, _Poller, _Quiet, Tally, boottime_ms = _compiled

        class Poller(_Poller):
            __slots__ = ("_loop",)

            def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
                self._loop = loop
                loop.add_reader(self.fileno(), self.turn)

            def close(self) -> None:
                if (fd := self.fileno()) >= 0:
                    self._loop.remove_reader(fd)
                super().close()

        class Quiet(_Quiet, asyncio.Protocol):
            __slots__ = ()

            def take_socket(self) -> bool:
                transport, poller = self._transport, self.front.poller
                sock = transport.get_extra_info("socket")
                if poller is None or sock is None or transport.is_closing():
                    return False
                transport.pause_reading()
                self.use_socket(poller, sock.fileno())
                return True


def hit_of(node: Node) -> Callable[[bytes, float], Entry | None]:
    """The short path to what this node holds: `node.hit`, or what does the same at once."""
    if _Hit is None:
        return node.hit
    hit: Callable[[bytes, float], Entry | None] = _Hit(node.l1, node.hit, Entry, Lane)
    return hit
