"""Writes that wait for acknowledgements, and when they have waited enough (K1 to K5, K7).

An acknowledgement is cumulative, so one number per node says it all. A node
that stays silent is *fenced by time*: whatever it holds was proved before the
commit, so one staleness bound after it the node can serve nothing older. The
bound is the lease (Gray and Cheriton, SOSP 1989), and no clocks are compared:
the wait is on the writer's own clock, from the commit's reply.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from coherenced.core.calls import Failed, ReplicasReached, WaitReplicas
from coherenced.core.catchup import fence_after_ms
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.model import Acknowledgement, Member, Reply, Version
from coherenced.core.outbox import Outbox
from coherenced.core.requests import Level, WriteResult
from coherenced.core.roster import Roster

ROSTER_RETRY_MS: Final = 50.0
MAX_NODES: Final = 10_000
"""Nodes whose last acknowledgement is remembered."""


class _Wait:
    """One committed write whose caller is still waiting."""

    __slots__ = (
        "acked",
        "committed_ms",
        "deadline_ms",
        "done",
        "enrolled",
        "fenced",
        "lane",
        "level",
        "lineage_lost",
        "members",
        "replicas",
        "replicas_done",
        "replies",
        "request_id",
        "roster_version",
        "version",
    )

    def __init__(
        self,
        request_id: int,
        replies: tuple[Reply, ...],
        lane: Lane,
        version: Version,
        level: int,
        committed_ms: float,
        deadline_ms: float,
    ) -> None:
        self.request_id = request_id
        self.replies = replies
        self.lane = lane
        self.version = version
        self.level = level
        self.committed_ms = committed_ms
        self.deadline_ms = deadline_ms
        self.members: dict[bytes, Member] | None = None
        """K3: who was on the roster at or after the commit; None until it has been read."""
        self.acked: dict[bytes, tuple[str, float]] = {}
        self.fenced: dict[bytes, str] = {}
        self.enrolled = False
        """Whether this node has applied the record itself; the roster is read after that."""
        self.roster_version = -1
        self.lineage_lost = False
        self.replicas = 0
        self.replicas_done: int | None = None
        self.done = False


class Acks:
    """Every write of this node that waits. Bounded by the requests that may wait at all."""

    def __init__(
        self, box: Outbox, laws: Laws, roster: Roster, own: Member, unregister: Callable[[], None]
    ) -> None:
        self.satisfied = self.timed_out = self.fenced_nodes = self.received = 0
        self.latencies_ms: list[float] = []
        """Acknowledgement latencies since the shell last took them; bounded."""
        self._box = box
        self._laws = laws
        self._roster = roster
        self._own = own
        self._unregister = unregister
        self.waits: list[_Wait] = []
        self._silent: set[bytes] = set()
        """Nodes that were fenced and have not acknowledged anything since."""
        self._last: dict[tuple[int, bytes], Acknowledgement] = {}

    def __len__(self) -> int:
        return len(self.waits)

    def wait(
        self,
        request_id: int,
        replies: tuple[Reply, ...],
        lane: Lane,
        version: Version,
        *,
        level: int,
        timeout_ms: float,
        roster_version: int,
        replicas: int = 0,
    ) -> None:
        """Start waiting for a write committed just now at `version`."""
        now_ms = self._box.now_ms
        wait = _Wait(request_id, replies, lane, version, level, now_ms, now_ms + timeout_ms)
        wait.replicas = replicas
        wait.roster_version = roster_version
        self.waits.append(wait)
        self._box.timers.at(wait.deadline_ms, self._deadline, wait)
        if replicas:
            self._ask_replicas(wait, timeout_ms)
        if level == Level.REDIS:
            wait.members = {}
            self._check(wait)
        else:
            self._enroll(wait)

    def _enroll(self, wait: _Wait) -> None:
        """Go on once this node itself has applied the record, along its chain.

        Until then a failover may be hiding behind the commit, and with it a roster
        that knows fewer nodes than there are (K7).
        """
        lane = wait.lane
        if lane.epoch != wait.version.epoch or lane.applied < wait.version.seq:
            return
        wait.enrolled = True
        wait.acked[self._own.incarnation] = (
            self._own.name,
            self._box.now_ms - wait.committed_ms,
        )
        self._check(wait)
        self._read_roster(wait)

    def _read_roster(self, wait: _Wait) -> None:
        if not wait.done:
            self._roster.with_members(wait.roster_version, partial(self._enlist, wait))

    def on_advanced(self, lane: Lane) -> None:
        """This node's own position moved."""
        for wait in list(self.waits):
            if wait.lane is not lane or wait.level == Level.REDIS:
                continue
            if not wait.enrolled:
                self._enroll(wait)
            elif self._recall(wait):
                self._check(wait)

    def _recall(self, wait: _Wait) -> bool:
        """Look again at acknowledgements that came before this node had got so far itself."""
        news = False
        for (index, _), last in self._last.items():
            if index == wait.lane.index:
                news |= self._mark(wait, last)
        return news

    def on_quarantined(self, lane: Lane) -> None:
        """K7: what waits for all nodes waits until then, for a roster read from now on."""
        for wait in self.waits:
            if wait.lane is lane and wait.level == Level.ALL:
                wait.members = None
                self._box.timers.at(lane.quarantined_until_ms, self._check, wait)
                if wait.enrolled:
                    self._read_roster(wait)

    def on_dropped(self, lane: Lane) -> None:
        """The lineage changed under writes that wait: nobody can vouch for them any more."""
        for wait in list(self.waits):
            if wait.lane is lane and wait.level != Level.REDIS:
                wait.lineage_lost = True
                self.timed_out += 1
                self._finish(wait, satisfied=False)

    def _ask_replicas(self, wait: _Wait, timeout_ms: float) -> None:
        def answered(answer: ReplicasReached | Failed) -> None:
            wait.replicas_done = answer.replicas if isinstance(answer, ReplicasReached) else 0
            if wait.replicas_done >= wait.replicas:
                self._check(wait)

        number = self._box.new_call_id(answered)
        self._box.emit(WaitReplicas(number, wait.lane.index, wait.replicas, int(timeout_ms)))

    def _enlist(self, wait: _Wait, members: dict[bytes, Member] | None) -> None:
        if wait.done:
            return
        if members is None:
            self._box.timers.at(self._box.now_ms + ROSTER_RETRY_MS, self._read_roster, wait)
            return
        wait.members = members
        self._recall(wait)
        if wait.level == Level.ALL:
            # One timer for all nodes of one bound: of a thousand nodes there are a few bounds.
            silent: dict[float, list[bytes]] = {}
            for incarnation, member in members.items():
                if incarnation not in wait.acked:
                    silent.setdefault(fence_after_ms(member.bound_ms), []).append(incarnation)
            for after_ms, nodes in silent.items():
                self._box.timers.at(wait.committed_ms + after_ms, self._fence, wait, tuple(nodes))
        if wait.lane.quarantined_until_ms > self._box.now_ms and wait.level == Level.ALL:
            self._box.timers.at(wait.lane.quarantined_until_ms, self._check, wait)
        self._check(wait)

    def on_ack(self, ack: Acknowledgement) -> None:
        self.received += 1
        self._silent.discard(ack.incarnation)
        # One node's acknowledgements come in order; after a fork a later one has a smaller number.
        self._last[ack.lane, ack.incarnation] = ack
        if len(self._last) > MAX_NODES:
            self._last.pop(next(iter(self._last)))
        for wait in list(self.waits):
            if wait.lane.index == ack.lane and self._mark(wait, ack):
                self._check(wait)

    def _mark(self, wait: _Wait, ack: Acknowledgement) -> bool:
        """K1: cumulative, and of this node's own chain. Whether it was news to this wait."""
        lane = wait.lane
        if not wait.enrolled or ack.epoch != lane.epoch or ack.seq < wait.version.seq:
            return False
        if self._laws.chain_check and lane.recent.get(ack.seq) != ack.tag:
            return False  # another history under the same numbers, or not applied here yet
        if ack.incarnation in wait.acked:
            return False
        took_ms = self._box.now_ms - wait.committed_ms
        wait.acked[ack.incarnation] = (ack.name, took_ms)
        if len(self.latencies_ms) < 10_000:
            self.latencies_ms.append(took_ms)
        return True

    def _fence(self, wait: _Wait, incarnations: tuple[bytes, ...]) -> None:
        """K3: one bound after the commit these nodes can serve nothing older, alive or not."""
        if wait.done or wait.members is None:
            return
        for incarnation in incarnations:
            member = wait.members.get(incarnation)
            if incarnation in wait.acked or member is None or incarnation in wait.fenced:
                continue  # a later roster (K7) lacks it, or has named it once more
            wait.fenced[incarnation] = member.name
            self.fenced_nodes += 1
            if incarnation not in self._silent:
                self._silent.add(incarnation)  # one line per change, not one per write
                self._box.event("node_fenced", node=member.name, version=str(wait.version))
            self._roster.suspect(member)
        self._check(wait)

    def _check(self, wait: _Wait) -> None:
        if wait.done or not self._reached(wait):
            return
        self.satisfied += 1
        self._finish(wait, satisfied=True)

    def _reached(self, wait: _Wait) -> bool:
        if wait.level > 0 and not wait.replicas:
            return wait.enrolled and len(wait.acked) >= wait.level
        if wait.members is None:
            return False
        if (
            wait.level == Level.ALL
            and self._laws.quarantine
            and self._box.now_ms < wait.lane.quarantined_until_ms
        ):
            return False  # K7
        if wait.replicas and (wait.replicas_done or 0) < wait.replicas:
            return False
        if wait.level == Level.REDIS or not self._laws.wait_for_all:
            return True
        if wait.level == Level.ALL:
            if len(wait.acked) + len(wait.fenced) < len(wait.members):
                return False  # surely somebody is missing: no need to look at each
            return all(m in wait.acked or m in wait.fenced for m in wait.members)
        needed = wait.level
        if needed == Level.QUORUM:
            needed = len(wait.members.keys() | {self._own.incarnation}) // 2 + 1
        return len(wait.acked) >= needed

    def _deadline(self, wait: _Wait) -> None:
        if wait.done:
            return
        if self._reached(wait):
            self._check(wait)
            return
        self.timed_out += 1
        self._finish(wait, satisfied=False)

    def _finish(self, wait: _Wait, *, satisfied: bool) -> None:
        wait.done = True
        self.waits.remove(wait)
        self._unregister()
        missing = [] if satisfied else self._missing(wait)
        result = WriteResult(
            wait.replies,
            wait.version,
            dict(wait.acked.values()),
            tuple(wait.fenced.values()),
            tuple(missing),
            satisfied=satisfied,
            replicas=wait.replicas_done or 0,
        )
        self._box.settle(wait.request_id, result)

    def _missing(self, wait: _Wait) -> list[str]:
        """Who, or in parentheses what, kept the level from being reached."""
        if wait.lineage_lost:
            return ["(the lineage changed)"]
        if wait.members is None:
            return ["(the roster could not be read)"]
        silent = [
            member.name
            for incarnation, member in wait.members.items()
            if incarnation not in wait.acked and incarnation not in wait.fenced
        ]
        if wait.replicas > (wait.replicas_done or 0):
            silent.append("(replicas)")
        if silent:
            return silent
        if wait.level > len(wait.acked):
            return [lacking_nodes(wait.level - len(wait.acked))]
        return ["(quarantine after a lineage change)"]


def lacking_nodes(count: int) -> str:
    """Who is missing where more nodes were asked for than there are."""
    return f"({count} more {'node' if count == 1 else 'nodes'} than there are)"
