"""Most writes take a short way through the core: they must fare as the long one says.

Two nodes, each beside a server of its own, live through the same story, call for call. One is
asked with `Set`, the other with the write that it means, and what it is told is judged by all
the rules, also where most answers need not be.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from coherenced.core import calls
from coherenced.core.calls import Delivered, Failed, Failure
from coherenced.core.inputs import Flush, Start, Submit, Tick
from coherenced.core.model import Lineage, Set
from coherenced.core.node import Node, Settings
from coherenced.core.outbox import Settled, SettledAll
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.requests import Get, Level, Write, WriteResult
from tests.core.driver import EPOCH, delete, set_to
from tests.sim.redis_model import Server

ME, OTHER = b"%016x" % 1, b"%016x" % 2
FATES = ("lost", "never", "refused", "full", "late", "late", "late")
KEYS = (b"a", b"b", b"c", b"d", b"loose", b"strict")


class Side:
    """One node, its server, and what is on its way between them."""

    def __init__(self, policy: Policy, *, short: bool) -> None:
        self.short = short
        self.server = Server()
        self.now_ms = 1_000.0
        rules = [("loose*", Policy(ack=Level.NONE)), ("strict*", Policy(ack=Level.ALL))]
        settings = Settings(
            name="me",
            incarnation=ME,
            namespaces=Namespaces(policy, rules),
            l1_max_bytes=1 << 20,
            follow_from=3,
            gathers=True,
        )
        self.made = 0
        self.node = Node(settings, self._new_id)
        if not short:
            self.node.catchup.own_reply = self._judge  # type: ignore[method-assign]
        self.open: list[Any] = []
        self.bus: list[Any] = []
        self.answers: list[Any] = []
        """Of calls that were carried out, on their way."""
        self.outcomes: dict[int, Any] = {}
        self.step(Start())

    def _new_id(self) -> bytes:
        self.made += 1
        return b"%016x" % (self.made + 1000)

    def _judge(self, call_id: int, sent_ms: float, then: int, at: Lineage, server: bytes) -> None:
        self.node.catchup.probes.server_seen(server)
        self.node.catchup._lineage_seen(call_id, sent_ms, then, at)

    def step(self, given: Any) -> None:
        for effect in self.node.step(given, self.now_ms):
            if isinstance(effect, Settled):
                outcome = effect.outcome
                # Who asks with a `Set` is told the reply alone.
                told = outcome.replies[0] if isinstance(outcome, WriteResult) else outcome
                assert effect.request_id not in self.outcomes
                self.outcomes[effect.request_id] = told
            elif isinstance(effect, SettledAll):
                told_now = dict(zip(effect.request_ids, effect.outcomes, strict=True))
                assert told_now.keys().isdisjoint(self.outcomes)
                self.outcomes |= told_now
            elif hasattr(effect, "lane"):
                self.open.append(effect)

    def submit(self, numbered: list[tuple[int, Any]]) -> None:
        submits = []
        for number, request in numbered:
            if isinstance(request, Set) and not self.short:
                request = Write.of(request)
            submits.append(Submit(number, request))
        self.step(Flush(submits))

    def carry_out(self, at: int, fate: str) -> str:
        """Let the open call at this place meet its fate; what it was."""
        call = self.open.pop(at)
        if isinstance(call, calls.Subscribe):
            self.step(calls.Subscribed(0, call.connection))
            return "subscribe"
        if fate == "full" and isinstance(call, calls.Mutate):
            self.step(Failed(call.call_id, Failure.OUT_OF_MEMORY, "OOM"))
            return "full"
        if fate == "refused":
            self.step(Failed(call.call_id, Failure.UNREACHABLE, "refused"))
            return "refused"
        if fate == "never":
            self.step(Failed(call.call_id, Failure.LOST, "lost on its way"))
            return "never"
        done = self.server.execute(call, self.now_ms)
        self.bus += done.messages
        if fate == "lost":
            self.answers.append(Failed(call.call_id, Failure.LOST, "its reply is lost"))
        elif done.answer is not None:
            self.answers.append(done.answer)
        if fate != "late":
            self.told(len(self.answers) - 1)
        return type(call).__name__

    def told(self, at: int) -> None:
        """An answer arrives: of what was asked on one connection, in the order of asking."""
        kind = type(self.answers[at])
        first = next(i for i, answer in enumerate(self.answers) if type(answer) is kind)
        self.step(self.answers.pop(first))
        self.flush()

    def flush(self) -> None:
        if self.node.has_gathered:
            self.step(Flush(()))

    def deliver(self) -> None:
        if self.bus:
            message = self.bus.pop(0)
            self.step(Delivered(0, self.node.catchup.connection, message))
            self.flush()

    def other_writes(self, key: bytes, number: int) -> None:
        tag = b"%016x" % (900_000 + number)
        value = b"other %d" % number
        call = calls.Mutate(-1, 0, EPOCH, OTHER, (False,), (set_to(key, value),), (tag,))
        self.bus += self.server.execute(call, self.now_ms).messages

    def looks(self) -> Any:
        """All that this side shows to anybody."""
        node = self.node
        shown = {}
        for key in KEYS:
            entry = node.hit(key, self.now_ms)
            shown[key] = None if entry is None else (entry.bulk, entry.as_of, entry.deadline_ms)
        writes = node.writes
        ended = node.settling
        counts = (
            ended.committed,
            ended.refused,
            ended.waiting,
            writes.batches,
            writes.lost.resolved,
        )
        tickets = set(node.tickets.by_key), node.tickets.refused
        queue = [pending.request_id for pending in writes.queue]
        calls_open = [type(call).__name__ for call in self.open]
        log = [entry.record for entry in self.server.log]
        lane = node.lane
        position = (lane.lineage, lane.head, lane.relied, lane.relied_to, lane.recent)
        proof = (lane.verified_at_ms, lane.proved_call_id, lane.proved_seq, lane.unconfirmed)
        return (
            position,
            proof,
            (len(node.l1), node.l1.bytes_used, node.covers.records, list(lane.history)),
            shown,
            counts,
            ended.faults,
            tickets,
            queue,
            calls_open,
            log,
            self.outcomes,
        )


@pytest.mark.parametrize("group", range(6))
def test_sets_fare_like_the_writes_that_they_mean(group: int) -> None:
    fates = {fate for seed in range(50) for fate in story(Random(50 * group + seed))}
    assert fates == {"done", *FATES}


def story(random: Random) -> set[str]:
    """Both sides live through it, and are compared all along; which fates calls have met."""
    level = random.choice((Level.REDIS,) * 5 + (Level.NONE, Level.ALL))
    policy = Policy(ack=level, max_age_ms=random.choice((60_000.0, 40.0)))
    short, long = pair = Side(policy, short=True), Side(policy, short=False)
    number, fates = 0, set[str]()
    for turn in range(120):
        deed = random.random()
        if turn > 8 and deed < 0.35:
            numbered: list[tuple[int, Any]] = []
            for _ in range(random.randint(1, 7)):
                number += 1
                key, kind = random.choice(KEYS), random.random()
                request: Any = Set.to(key, b"%d" % number)
                if kind < 0.08:
                    request = Write((delete(key),))
                elif kind < 0.16:
                    request = Get(key)
                numbered.append((number, request))
            for side in pair:
                side.submit(numbered)
        elif deed < 0.75 and short.open:
            at = random.choice((0, 0, 0, len(short.open) - 1))
            fate = random.choice(("done",) * 9 + FATES)
            told = {side.carry_out(at, fate if turn > 8 else "done") for side in pair}
            assert len(told) == 1
            fates.add(fate)
        elif deed < 0.8 and short.answers:
            at = random.randrange(len(short.answers))
            for side in pair:
                side.told(at)
        elif deed < 0.85:
            for side in pair:
                side.deliver()
        elif deed < 0.855 and turn > 8:
            for side in pair:
                side.server.lose_metadata()
        elif deed < 0.9:
            key = random.choice(KEYS)
            for side in pair:
                side.other_writes(key, turn)
        else:
            pause_ms = random.choice((0.5, 5.0, 60.0))
            for side in pair:
                side.now_ms += pause_ms
                side.step(Tick())
                side.flush()
        assert short.looks() == long.looks()
    assert short.outcomes
    return fates
