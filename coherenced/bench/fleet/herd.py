"""A herd after a drop: every node of a fleet loses its lane, and is asked for all it had held."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from coherenced.bench.fleet.fleet import Fleet, Member
from coherenced.core.calls import Fetch
from coherenced.core.requests import Outcome, Read, ReadResult

PATIENCE_MS: Final = 600_000.0
ASKED_AT_ONCE: Final = 50
"""Keys in one request of a reader."""


class Herd(NamedTuple):
    """What came of it. Times since the drop, in ms."""

    asked: int
    answered: int
    drops: int
    fetches: Sequence[tuple[float, int]]
    """(when it reached Redis, how many keys), in order."""
    first_ms: dict[str, float]
    """When each node's first read did."""
    took_ms: float
    """Until the last reader was answered."""

    @property
    def fetched(self) -> int:
        return sum(keys for _, keys in self.fetches)

    def peak(self, window_ms: float) -> int:
        """The most keys that Redis was asked for within so long."""
        times = [when_ms for when_ms, _ in self.fetches]
        sums = [0]
        for _, keys in self.fetches:
            sums.append(sums[-1] + keys)
        return max(
            (
                sums[bisect_left(times, when_ms + window_ms)] - sums[place]
                for place, when_ms in enumerate(times)
            ),
            default=0,
        )


def herd(fleet: Fleet, keys: int) -> Herd:
    """Each node holds so many entries; the lane's metadata is lost; each is asked for all again."""
    names = [b"key:%07d" % number for number in range(keys)]
    _ask(fleet, names)
    assert all(len(member.node.l1) == keys for member in fleet.members)
    drops = {id(member): member.node.catchup.drops for member in fleet.members}
    fleet.lane.lose_log(fleet.new_id())
    while any(member.node.catchup.drops == drops[id(member)] for member in fleet.members):
        fleet.clock.run_until(fleet.clock.now_ms + 1.0)
    began_ms = fleet.clock.now_ms
    fetches: list[tuple[float, int]] = []
    first_ms: dict[str, float] = {}

    def heard(member: Member, call: Fetch) -> None:
        when_ms = fleet.clock.now_ms - began_ms
        fetches.append((when_ms, len(call.items)))
        first_ms.setdefault(member.node.settings.name, when_ms)

    fleet.on_fetch = heard
    answered, last_ms = _ask(fleet, names)
    fleet.on_fetch = None
    dropped = sum(m.node.catchup.drops - drops[id(m)] for m in fleet.members)
    asked = keys * len(fleet.members)
    return Herd(asked, answered, dropped, fetches, first_ms, last_ms - began_ms)


def _ask(fleet: Fleet, names: Sequence[bytes]) -> tuple[int, float]:
    """Every node for every key, at once, until all are answered. -> how many keys were answered
    with a value, and when the last was."""
    answered, last_ms = 0, fleet.clock.now_ms

    def done(outcome: Outcome) -> None:
        nonlocal answered, last_ms
        if isinstance(outcome, ReadResult):
            answered += sum(value.value is not None for value in outcome.values)
            last_ms = fleet.clock.now_ms

    for member in fleet.members:
        for first in range(0, len(names), ASKED_AT_ONCE):
            member.submit(Read(tuple(names[first : first + ASKED_AT_ONCE])), done)
    until_ms = fleet.clock.now_ms + PATIENCE_MS
    while any(member.waiting for member in fleet.members) and fleet.clock.now_ms < until_ms:
        fleet.clock.run_until(fleet.clock.now_ms + 1.0)
    return answered, last_ms
