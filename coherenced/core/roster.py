"""Who must acknowledge: the nodes that may hold something (K2).

Membership is written by the probe itself, so "I am on the roster" and "I am
current up to here" are one atomic step: a node that was taken off while it
slept is back on it before it can serve anything again.

A node is taken off only when its beat has stood still for several of its own
bounds on *this* node's clock, and only if the beat still stands when the
removal is executed. By then it can serve nothing old: whatever proves it without a
beat counts only until one bound before that (`Catchup.is_member`). No clocks are compared.
"""

from __future__ import annotations

from collections.abc import Callable

from coherenced.core.calls import Failed, ReadRoster, Reap, RosterRead
from coherenced.core.model import Declared, Member
from coherenced.core.outbox import Outbox

REFRESH_MS = 5_000.0
"""How often the roster is read when nothing asks for it (times the share of many nodes)."""
REAP_BOUNDS = 3.0
"""A beat that stands still for this many of its bounds, and a second, is a dead node's."""
REAP_MARGIN_MS = 1_000.0

Members = dict[bytes, Member]


def still_for_ms(bound_ms: float) -> float:
    """A node with this bound is on the roster for at least so long after a beat of its own."""
    return max(REAP_BOUNDS * bound_ms, REFRESH_MS)


class Roster:
    def __init__(
        self,
        box: Outbox,
        own_incarnation: bytes,
        lane_index: int = 0,
        declared: Callable[[tuple[Declared, ...]], None] = lambda declared: None,
    ) -> None:
        """`declared` is told with each reading what the members declare (K6)."""
        self.version = -1
        self.members: Members = {}
        self.live_at_ms: dict[bytes, tuple[int, float]] = {}
        """incarnation -> (last beat seen, local time it was first seen at that beat)."""
        self.reaped = 0
        self._box = box
        self._own = own_incarnation
        self._lane_index = lane_index
        self._declared = declared
        self._reading = False
        self._wanted: list[Callable[[Members | None], None]] = []
        self._late: list[Callable[[Members | None], None]] = []
        self._stopped = False

    def start(self) -> None:
        self._refresh()

    def stop(self) -> None:
        self._stopped = True

    def with_members(self, version: int, use: Callable[[Members | None], None]) -> None:
        """Call `use` with a roster at least as new as `version`; None if it cannot be read."""
        if version >= 0 and self.version == version:
            use(self.members)
            return
        # A read that is under way may have been executed before the commit: wait for the next.
        self.read(use)

    def read(self, use: Callable[[Members | None], None]) -> None:
        """Call `use` with the roster as it is from now on; None if it cannot be read."""
        self._late.append(use)
        self._read()

    def forget(self) -> None:
        """The lane was dropped: its roster may have been lost or rewritten with it."""
        self.version = -1

    def suspect(self, member: Member) -> None:
        """Somebody did not answer within its bound: look at its beat now."""
        self._read()

    def is_live(self, member: Member) -> bool:
        """Whether its beat has moved lately, by this node's clock."""
        seen = self.live_at_ms.get(member.incarnation)
        if seen is None or member.incarnation == self._own:
            return True
        return self._box.now_ms - seen[1] <= self._patience_ms(member)

    def _patience_ms(self, member: Member) -> float:
        return still_for_ms(member.bound_ms) + REAP_MARGIN_MS

    def _refresh(self) -> None:
        if self._stopped:
            return
        self._read()
        # Many nodes share the work of looking after the roster.
        every_ms = max(REFRESH_MS, 50.0 * len(self.members))
        self._box.timers.at(self._box.now_ms + every_ms, self._refresh)

    def _read(self) -> None:
        if self._reading:
            return
        self._reading = True
        self._wanted, self._late = self._late, []
        number = self._box.new_call_id(self._on_read)
        self._box.emit(ReadRoster(number, self._lane_index))

    def _on_read(self, answer: RosterRead | Failed) -> None:
        self._reading = False
        wanted, self._wanted = self._wanted, []
        if isinstance(answer, Failed) or not answer.is_whole:
            # Who is missing on it may hold something: the next beat of any node begins a new epoch
            # for that reason, and whoever asks then is told of all (K7).
            for use in wanted:
                use(None)
            self._read_late()
            return
        before = self.members
        is_first = self.version < 0 and not before
        self.version = answer.roster_version
        self.members = {member.incarnation: member for member in answer.members}
        if is_first:
            before = self._found()
        self._report(before)
        self._watch_beats()
        self._declared(answer.declared)
        for use in wanted:
            # Read after they asked, so it is new enough, even if it counts anew since a data loss.
            use(self.members)
        self._read_late()

    def _read_late(self) -> None:
        if self._late:
            self._read()

    def _found(self) -> Members:
        """Tell in one line who was there before this node: thousands may have been."""
        there = {key: one for key, one in self.members.items() if key != self._own}
        if there:
            names = sorted(member.name for member in there.values())
            self._box.event("nodes_found", count=len(there), nodes=names)
        return there

    def _report(self, before: Members) -> None:
        for incarnation, member in self.members.items():
            if incarnation not in before:
                self._box.event("node_joined", node=member.name, incarnation=incarnation.decode())
        for incarnation, member in before.items():
            if incarnation not in self.members:
                self._box.event("node_left", node=member.name, incarnation=incarnation.decode())

    def _watch_beats(self) -> None:
        now_ms = self._box.now_ms
        watched: dict[bytes, tuple[int, float]] = {}
        for incarnation, member in self.members.items():
            last = self.live_at_ms.get(incarnation)
            if last is None or last[0] != member.beat:
                watched[incarnation] = (member.beat, now_ms)
                continue
            watched[incarnation] = last
            if incarnation != self._own and now_ms - last[1] > self._patience_ms(member):
                self.reaped += 1
                self._box.event("node_reaped", node=member.name, beat=member.beat)
                self._box.emit(Reap(self._lane_index, incarnation, member.beat))
        self.live_at_ms = watched
