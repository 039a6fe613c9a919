"""Probes of one lane: when they are sent, and what their answers say besides the lineage.

    beat      every B/4 at most (V1), with this node's membership (K2)
    request   somebody waits for a proof (V4): many share one, and those who come later the next

An answer says where the log is (`catchup` judges that), that Redis can be reached, that this node
is on the roster, which server process answers (K7), and whether its clock and ours have moved
alike since the last one (V7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from coherenced.core.calls import Failed, Probe, Probed
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.model import NEVER, Declared, Lineage, Member
from coherenced.core.outbox import Outbox
from coherenced.core.roster import still_for_ms

PAUSE_ALARM_MS: Final = 500.0
"""V7: server and local time may differ between two probes by this much beyond the round trip."""
BEATS_OPEN: Final = 4
"""Periodic probes that may be under way at once."""


class Probes:
    """The probes of one lane, and what a node learns about itself from their answers."""

    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        laws: Laws,
        *,
        new_epoch: Callable[[], bytes],
        member: Callable[[], Member],
        declares: Callable[[], Declared],
        beat_every_ms: float,
        own_bound_ms: Callable[[], float],
        unproved: Callable[[Lane, int], None],
        seen: Callable[[int, float, int, Lineage, float], None],
        server_changed: Callable[[], None],
    ) -> None:
        """`seen`: the call's id, when it was sent (ms), what was known then, the lineage it found,
        and when it was sent if it carried the membership. `server_changed`: K7."""
        self.lane = lane
        self.sent = self.failures = self.pause_alarms = 0
        self.reachable = False
        self._was_lost = False
        self.forked = b""
        """S1: the epoch under which two histories have shared numbers, until another follows it."""
        self._box = box
        self._laws = laws
        self._new_epoch = new_epoch
        self._member = member
        self._declares = declares
        self._beat_every_ms = beat_every_ms
        self._own_bound_ms = own_bound_ms
        self._unproved = unproved
        self._seen = seen
        self._server_changed = server_changed
        self._beats_open = 0
        self._joined_ms: float = NEVER
        """K2: when the latest call was sent whose answer says that this node is on the roster."""
        self._check_open = False
        self._check_wanted = False
        self._server_id = b""
        self._trusted_from = 0
        """V7: answers to calls older than this prove nothing: the clock may have stood still."""
        self._last_server: tuple[float, float, int] | None = None
        self._stopped = False

    def start(self) -> None:
        self._beat()

    def stop(self) -> None:
        self._stopped = True

    # -- sending ----------------------------------------------------------------------

    def request(self) -> None:
        """V4: have a probe sent from now on; many requests share one."""
        if self._check_open:
            self._check_wanted = True
        else:
            self.send(beat=False)

    def _beat(self) -> None:
        if self._stopped:
            return
        if self._beats_open < BEATS_OPEN:
            self.send(beat=True)
        self._box.timers.at(self._box.now_ms + self._beat_every_ms, self._beat)

    def send(self, *, beat: bool) -> None:
        """Ask where the log is. `beat`: the periodic one, which carries the membership (K2)."""
        if self._stopped:
            return
        if beat:
            self._beats_open += 1
        elif self._check_open:
            self._check_wanted = True
            return
        else:
            self._check_open = True
        self.sent += 1
        sent_ms = self._box.now_ms
        reliance = self.lane.reliance if self._laws.reliance_checked else self.lane.applied
        generation = self.lane.generation
        number = 0
        joins = beat or not self.is_member(sent_ms)

        def answered(answer: Probed | Failed) -> None:
            self._on_answer(answer, number, sent_ms, reliance, generation, beat, joins)

        number = self._box.new_call_id(answered)
        member = self._member() if joins else None
        declares = self._declares() if joins and self._says_what_is_linearizable else ()
        call = Probe(number, self.lane.index, self._new_epoch(), member, self.forked, declares)
        self._box.emit(call)

    @property
    def _says_what_is_linearizable(self) -> bool:
        """K6. Without its two phases this node itself would be refused, and show nothing wrong."""
        return self._laws.namespaces_declared and self._laws.two_phases

    def _on_answer(
        self,
        answer: Probed | Failed,
        call_id: int,
        sent_ms: float,
        known: int,
        generation: int,
        beat: bool,
        joins: bool,
    ) -> None:
        if beat:
            self._beats_open -= 1
        else:
            self._check_open = False
            if self._check_wanted:
                self._check_wanted = False
                self.send(beat=False)
        if isinstance(answer, Failed):
            self.failures += 1
            if self.reachable:
                self.reachable = False
                self._was_lost = True
                self._box.event("redis_unreachable", lane=self.lane.index, detail=answer.detail)
            if not beat:
                self._unproved(self.lane, call_id)
            return
        if self._stopped:
            return
        if not self.reachable:
            self.reachable = True
            if self._was_lost:
                self._box.event("redis_reachable", lane=self.lane.index)
        asked_ms = sent_ms
        if not self._laws.verified_when_sent:
            sent_ms = self._box.now_ms
        self.server_seen(answer.server_id)
        if self._clocks_disagree(sent_ms, answer.server_ms):
            return
        if generation != self.lane.generation:
            known = 0  # the position it was sent from is gone
        self._seen(call_id, sent_ms, known, answer.lineage, asked_ms if joins else NEVER)
        if not beat and self.lane.unconfirmed is not None:
            self.send(beat=False)  # somebody waits for this proof: confirm it at once

    # -- what an answer says besides ----------------------------------------------------

    def joined(self, sent_ms: float) -> None:
        """K2: the answer to a call sent at `sent_ms` says that this node is on the roster."""
        self._joined_ms = max(self._joined_ms, sent_ms)

    def forget_joined(self) -> None:
        """K7: whatever roster this node was on is not the one that counts."""
        self._joined_ms = NEVER

    def vouches(self, call_id: int, sent_ms: float, joined_ms: float) -> bool:
        """Whether the answer to such a call may prove this node current (V7, K2)."""
        vouched = joined_ms > NEVER or self.is_member(sent_ms)
        return call_id >= self._trusted_from and vouched

    def is_member(self, sent_ms: float) -> bool:
        """K2: whether nobody can have taken this node off the roster before what a call sent at
        `sent_ms` proves has passed its bound."""
        bound_ms = self._own_bound_ms()
        until_ms = self._joined_ms + still_for_ms(bound_ms) - bound_ms
        return self._joined_ms <= sent_ms <= until_ms or not self._laws.member_proves

    def server_seen(self, server_id: bytes) -> None:
        """K7: another process answers. Its roster may lack nodes that had joined the one before,
        even where the log shows no difference: one bound outlives what they may hold."""
        if not server_id or server_id == self._server_id:
            return
        known, self._server_id = self._server_id, server_id
        if known and self._laws.quarantine:
            self._server_changed()
            self._box.event("server_changed", lane=self.lane.index)

    def _clocks_disagree(self, sent_ms: float, server_ms: int) -> bool:
        """V7: between two probes the server's clock and ours must have moved alike."""
        now_ms = self._box.now_ms
        last, self._last_server = self._last_server, (sent_ms, now_ms, server_ms)
        if last is None or not self._laws.pause_alarm:
            return False
        last_sent_ms, last_now_ms, last_server_ms = last
        at_least = sent_ms - last_now_ms
        at_most = now_ms - last_sent_ms
        moved = server_ms - last_server_ms
        if at_least - PAUSE_ALARM_MS <= moved <= at_most + PAUSE_ALARM_MS:
            return False
        self.pause_alarms += 1
        self.lane.unprove()
        self._trusted_from = self._box.next_call_id
        self._box.event("pause_suspected", lane=self.lane.index, server_moved_ms=moved)
        self.send(beat=False)
        return True
