"""Hits of L0 in Python, for where `_hits.c` is not compiled: the same names, the same answers.

    Kept         what a hit looks at: the counters of the shared page, and what a caller is given
    hits_first   makes of a method one that looks for a hit before it is called
    look         the same for who is no such method: the answer, or what says that there is none

A hit is `L0.find`, shortened to what is left to see while a copy's last proof lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, TypeVar, cast

from coherenced.page.layout import GENERATION_AT

F = TypeVar("F", bound=Callable[..., Any])

BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_clock_s: Final = time.clock_gettime
_BOOTTIME: Final = BOOTTIME
_GENERATION_AT: Final = GENERATION_AT


class Kept:
    """One kept object. What it was kept under does not change; `until_s` and `hits` do."""

    __slots__ = (
        "count",
        "found",
        "fresh",
        "generation",
        "hits",
        "slot",
        "tags",
        "until_s",
        "value",
        "words",
    )

    def __init__(self, words: memoryview, counters: tuple[tuple[int, int], ...]) -> None:
        """`counters`: (slot, what it stood at) of its key, of the lane, and of each tag."""
        (self.slot, self.count), (_, self.generation), *tags = counters
        self.words = words
        self.tags = tags
        self.until_s = 0.0
        """The end of what has been proved: its deadline, or a bound after the verified-at that
        was last read. Proofs that move back move the lane's counter too, so a hit before this
        time needs to look at the counters only."""
        self.found = False
        self.value: Any = None
        self.fresh: Callable[[], Any] | None = None
        """Makes what a caller is given; None: that is `value` itself."""
        self.hits = 0

    def holds(self) -> bool:
        """P1: none of its counters has moved."""
        words = self.words
        return (
            words[self.slot] == self.count
            and words[_GENERATION_AT] == self.generation
            and all(words[slot] == count for slot, count in self.tags)
        )


def hits_first(method: F) -> F:
    """A `get` that finds the client's copies by itself, in `_hot`."""

    @wraps(method)
    def get(
        self: Any,
        key: Any,
        default: Any = None,
        *,
        max_staleness_ms: float | None = None,
        min_version: str | None = None,
    ) -> Any:
        if max_staleness_ms is None and min_version is None:
            try:
                kept = self._hot[key]
            except (KeyError, TypeError):
                pass
            else:
                words = kept.words  # as `look` does it: a call less
                if (
                    _clock_s(_BOOTTIME) < kept.until_s
                    and words[kept.slot] == kept.count
                    and words[_GENERATION_AT] == kept.generation
                    and (not kept.tags or kept.holds())
                ):
                    kept.hits += 1
                    fresh = kept.fresh
                    if fresh is not None:
                        return fresh()
                    return kept.value if kept.found else default
        return method(
            self, key, default, max_staleness_ms=max_staleness_ms, min_version=min_version
        )

    return cast(F, get)


def look(hot: Mapping[Any, Kept], key: Any, default: Any, nowhere: Any) -> Any:
    """What a caller of `key` is given, or `nowhere` when no copy of it may be served as it is."""
    try:
        kept = hot[key]
    except (KeyError, TypeError):
        return nowhere
    if not (_clock_s(_BOOTTIME) < kept.until_s and kept.holds()):
        return nowhere
    kept.hits += 1
    if kept.fresh is not None:
        return kept.fresh()
    return kept.value if kept.found else default
