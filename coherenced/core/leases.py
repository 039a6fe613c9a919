"""Leases: a missing value is loaded by one caller in the whole cluster, and never too late (L1).

    lease    in L1 and provable        -> the value
             else one claim per key    -> the value, or the right to load it (a token),
                                          or who has that right, and for how long at most
    fill     the value, under the token: refused (LOST) once anything has happened to the key
    release  the token, so that the next in line gets it at once

Everybody of this node who wants the same key stands in one *line*, and one claim asks for all
of them. Nobody polls: a line asks again when a record covers its key (the fill, the release, a
write that voided the token) or when the holder's lease has run out. Nishtala et al., "Scaling
Memcache at Facebook" (NSDI 2013), use the same token against herds and against stale sets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from coherenced.core.calls import Claim, Claimed, Claims, Failed, Failure
from coherenced.core.fills import Fills
from coherenced.core.flights import FETCH_TRIES, Errand
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.model import Lineage, Mutation, Op, ReplyError, Version
from coherenced.core.outbox import Outbox
from coherenced.core.reads import Reads
from coherenced.core.requests import (
    Fault,
    FaultKind,
    Fill,
    Lease,
    LeaseResult,
    Level,
    Outcome,
    Release,
    Value,
    Write,
    WriteResult,
)
from coherenced.core.tickets import Ticket, Tickets

LAPSE_MARGIN_MS: Final = 5.0
"""How much later than the server said a lease is taken to be over: timers may be early there."""
LOST: Final = "LOST"
"""First word of the error with which the server refuses a fill whose token is dead."""
NOTHING: Final = LeaseResult()
"""Somebody else is loading it still."""


class _Waiter:
    """One request for a lease."""

    __slots__ = ("arrived_ms", "lease", "request_id")

    def __init__(self, request_id: int, lease: Lease, now_ms: float) -> None:
        self.request_id = request_id
        self.lease = lease
        self.arrived_ms = now_ms

    def is_due(self, value: Value) -> bool:
        """Whether this value is to be loaded anew for this caller."""
        left_ms, refresh_ms = value.expires_in_ms, self.lease.refresh_ms
        return left_ms is not None and refresh_ms is not None and left_ms <= refresh_ms


class _Line:
    """Who wants one key on this node, in order, and what is known of who loads it."""

    __slots__ = ("as_of", "asking", "key", "lapses_ms", "waiters")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.waiters: dict[int, _Waiter] = {}
        self.asking = False
        """A claim is under way or in the queue."""
        self.as_of = 0
        """The sequence at which the key was seen to be leased."""
        self.lapses_ms = 0.0
        """When that lease is over if nothing is heard of it; in the past: nobody is known."""


class _Given:
    """A token that a caller of this node has."""

    __slots__ = ("generation", "token")

    def __init__(self, token: bytes, generation: int) -> None:
        self.token = token
        self.generation = generation
        """Of the lane: once it was dropped, nobody knows what happened to the key meanwhile."""


class Leases:
    """The leases of one lane, as one node has to do with them."""

    def __init__(
        self,
        lane: Lane,
        box: Outbox,
        laws: Laws,
        tickets: Tickets,
        reads: Reads,
        fills: Fills,
        new_id: Callable[[], bytes],
        write: Callable[[int, Write], None],
    ) -> None:
        self.claims = self.granted = self.filled = self.lost = self.released = self.lapsed = 0
        self.waiting = 0
        """Requests that have not been answered yet."""
        self.lines: dict[bytes, _Line] = {}
        self._given: dict[bytes, _Given] = {}
        self._lane = lane
        self._box = box
        self._laws = laws
        self._tickets = tickets
        self._reads = reads
        self._flights = reads.flights
        self._fills = fills
        self._new_id = new_id
        self._write = write

    @property
    def held(self) -> int:
        """Tokens that callers of this node hold."""
        return len(self._given)

    # -- asking -----------------------------------------------------------------------

    def lease(self, request_id: int, lease: Lease) -> None:
        now_ms = self._box.now_ms
        waiter = _Waiter(request_id, lease, now_ms)
        line = self.lines.get(lease.key)
        held_by_other = line is not None and not line.asking and line.lapses_ms > now_ms
        value = self._held_here(waiter, being_loaded=held_by_other)
        if value is not None:
            self._box.settle(request_id, LeaseResult(value))
            return
        self._reads.misses += 1
        if held_by_other and lease.wait_ms <= 0:
            self._box.settle(request_id, NOTHING)
            return
        if line is None:
            line = self.lines[lease.key] = _Line(lease.key)
        line.waiters[request_id] = waiter
        self.waiting += 1
        if lease.wait_ms > 0:
            self._box.timers.at(now_ms + lease.wait_ms, self._give_up, line, request_id)
        if not held_by_other:
            self._ask(line)

    def _held_here(self, waiter: _Waiter, *, being_loaded: bool = False) -> Value | None:
        """What L1 holds, if it answers this caller."""
        lease = waiter.lease
        entry = self._reads.provable(lease.key, lease.max_staleness_ms)
        if entry is None:
            return None
        value = self._fills.value_of(entry)
        if value.value is None:
            # "Not there" is an answer only if a loader has found so, which has an end.
            return None if value.expires_in_ms is None else value
        return value if being_loaded or not waiter.is_due(value) else None

    def _ask(self, line: _Line) -> None:
        """Claim the key for those in line, behind this node's own writes to it."""
        if not line.asking:
            line.asking = True
            self._flights.run(Errand(line.key, partial(self._send, line)))

    def _send(self, line: _Line) -> None:
        for waiter in list(line.waiters.values()):
            value = self._held_here(waiter)
            if value is not None:
                self._answer(line, waiter, LeaseResult(value))
        if not line.waiters:
            line.asking = False
            self._leave(line)
            return
        self._claim(line, self._new_id(), 1)

    def _claim(self, line: _Line, token: bytes, attempt: int) -> None:
        self.claims += 1
        first = next(iter(line.waiters.values())).lease
        refresh_ms = -1 if first.refresh_ms is None else int(first.refresh_ms)
        ticket = self._tickets.open(line.key)
        sent_ms, generation = self._box.now_ms, self._lane.generation
        reliance = self._lane.reliance

        def answered(answer: Claimed | Failed) -> None:
            if isinstance(answer, Claimed):
                line.asking = False
                if generation == self._lane.generation:
                    self._flights.suspect(answer.lineage, reliance)
                self._on_claimed(line, call, answer, ticket, sent_ms)
                return
            self._tickets.close(ticket)
            if answer.failure == Failure.LOST and attempt < FETCH_TRIES and line.waiters:
                self._claim(line, token, attempt + 1)  # with the same token: it may be granted
            else:
                line.asking = False
                self._on_failed(line, token, answer)

        call = Claim(
            self._box.new_call_id(answered),
            self._lane.index,
            self._new_id(),
            line.key,
            token,
            first.lease_ms,
            refresh_ms,
        )
        self._box.emit(call)

    # -- answers ----------------------------------------------------------------------

    def _on_claimed(
        self, line: _Line, call: Claim, answer: Claimed, ticket: Ticket, sent_ms: float
    ) -> None:
        state = answer.state
        known_absent_ms = answer.left_ms if state == Claims.NOTHING else None
        found, lineage = answer.found, answer.lineage
        (entry,) = self._fills.keep((ticket,), (found,), lineage, sent_ms, known_absent_ms)
        value = self._fills.told(entry, found, lineage, sent_ms, known_absent_ms)
        token = call.token if state == Claims.GRANTED else b""
        for waiter in list(line.waiters.values()):
            outcome = self._outcome(waiter, value, call, state, token, answer.lineage, sent_ms)
            if outcome is None:
                continue
            if isinstance(outcome, LeaseResult) and outcome.token:
                self._give(line.key, token, waiter.lease.lease_ms)
                token = b""
            self._answer(line, waiter, outcome)
        if token:  # whoever asked has gone
            self._release_quietly(line.key, token)
        if line.waiters:
            self._stand(line, state, answer, ticket)
        self._leave(line)

    def _outcome(
        self,
        waiter: _Waiter,
        value: Value,
        call: Claim,
        state: int,
        token: bytes,
        lineage: Lineage,
        sent_ms: float,
    ) -> LeaseResult | Fault | None:
        """What one caller is told; None: it stays in line."""
        if value.error is not None:
            return LeaseResult(value)
        missing = value.value is None
        fresh = waiter.arrived_ms <= sent_ms  # F3: else it may be older than what was seen here
        if state == Claims.NOTHING:
            refresh_ms = waiter.lease.refresh_ms
            unasked = refresh_ms is not None and refresh_ms > call.refresh_ms
            stays = not fresh or (not missing and unasked and waiter.is_due(value))
            return None if stays else LeaseResult(value)
        if missing or waiter.is_due(value):
            if token:
                version = Version(lineage.epoch, lineage.seq)
                return LeaseResult(None if missing else value, token, version)
            if state == Claims.TOO_MANY:
                text = "Redis keeps no more leases: too many keys are being loaded at once"
                return Fault(FaultKind.OVERLOADED, text)
        if not missing and fresh:
            return LeaseResult(value)  # old enough to be loaded anew, which somebody does
        return NOTHING if waiter.lease.wait_ms <= 0 else None

    def _stand(self, line: _Line, state: int, answer: Claimed, ticket: Ticket) -> None:
        """Some stay in line: until a record covers the key, or the lease runs out."""
        seq = answer.lineage.seq
        if state == Claims.NOTHING or ticket.void or ticket.hit_seq > seq:
            self._ask(line)
            return
        line.as_of = seq
        line.lapses_ms = self._box.now_ms + answer.left_ms + LAPSE_MARGIN_MS
        self._box.timers.at(line.lapses_ms, self._lapse, line)

    def _lapse(self, line: _Line) -> None:
        """The holder's time is over: it has died, or takes too long."""
        current = self.lines.get(line.key) is line and not line.asking
        if current and line.lapses_ms <= self._box.now_ms:
            self.lapsed += 1
            self._ask(line)

    def _give_up(self, line: _Line, request_id: int) -> None:
        """A caller has waited as long as it wanted to."""
        waiter = line.waiters.get(request_id)
        if waiter is not None:
            self._answer(line, waiter, NOTHING)
            self._leave(line)

    def _on_failed(self, line: _Line, token: bytes, answer: Failed) -> None:
        if answer.failure == Failure.LOST:
            self._release_quietly(line.key, token)  # it may have been granted
        for waiter in list(line.waiters.values()):
            self._answer(line, waiter, Fault(FaultKind.UNAVAILABLE, answer.detail))
        self._leave(line)

    def _answer(self, line: _Line, waiter: _Waiter, outcome: LeaseResult | Fault) -> None:
        del line.waiters[waiter.request_id]
        self.waiting -= 1
        self._box.settle(waiter.request_id, outcome)

    def _leave(self, line: _Line) -> None:
        if not line.waiters and not line.asking and self.lines.get(line.key) is line:
            del self.lines[line.key]

    # -- what wakes a line ------------------------------------------------------------

    def on_covered(self, key: bytes, seq: int) -> None:
        """A record covers `key`: a fill, a release, or something that voided the token."""
        line = self.lines.get(key)
        if line is not None and seq > line.as_of:
            self._ask(line)

    def on_wide(self, prefixes: tuple[bytes, ...], seq: int) -> None:
        """A record covers every key under these prefixes."""
        for key in [k for k in self.lines if k.startswith(prefixes)]:
            self.on_covered(key, seq)

    def on_dropped(self) -> None:
        """A5: what is known of who loads what is void."""
        for line in list(self.lines.values()):
            line.as_of = 0
            self._ask(line)

    def stop(self) -> None:
        for line in list(self.lines.values()):
            for waiter in list(line.waiters.values()):
                self._answer(line, waiter, Fault(FaultKind.STOPPING, "the daemon is stopping"))
            self._leave(line)

    # -- tokens -----------------------------------------------------------------------

    def _give(self, key: bytes, token: bytes, lease_ms: int) -> None:
        self.granted += 1
        given = self._given[key] = _Given(token, self._lane.generation)
        self._box.timers.at(self._box.now_ms + lease_ms, self._forget, key, given)

    def _forget(self, key: bytes, given: _Given) -> None:
        if self._given.get(key) is given:
            del self._given[key]

    def _take_back(self, key: bytes, token: bytes) -> _Given | None:
        given = self._given.get(key)
        return self._given.pop(key) if given is not None and given.token == token else None

    def fill(self, request_id: int, fill: Fill) -> None:
        """Store a value under its token, as a write of the caller's."""
        key, token = fill.key, fill.token
        given = self._take_back(key, token)

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, WriteResult) and _is_lost(outcome):
                self._refuse(request_id, key, token)
                return
            if isinstance(outcome, WriteResult):
                self.filled += 1
            elif given is not None:
                self._given.setdefault(key, given)  # it was not stored: the caller may try again
            self._box.settle(request_id, outcome)

        voided = given is not None and given.generation != self._lane.generation
        if voided and self._laws.lease_voided:
            self._refuse(request_id, key, token)
            return
        expiry = () if fill.ttl_ms is None else (b"PX", b"%d" % fill.ttl_ms)
        mutation = Mutation(
            (b"SET", key, fill.value, *expiry),
            op=Op.FILL,
            keys=(key,),
            unchanged=b"n",  # never nil: it says that the answer must be waited for
            # Also without tags: what a loader brought is a cache entry, which an invalidation of
            # its key ends in Redis too.
            label=fill.tags,
            lease=token if self._laws.lease_voided else b"",
            keeps=fill.value,
            keeps_ttl_ms=None if fill.ttl_ms is None else float(fill.ttl_ms),
            expected_reply=b"OK",
            reply_is_known=True,
        )
        write = Write((mutation,), ack=fill.ack, timeout_ms=fill.timeout_ms)
        self._write(self._box.internal(done), write)

    def _refuse(self, request_id: int, key: bytes, token: bytes) -> None:
        """LOST. The lease may be alive (a tag of the value was invalidated, or this node knows
        less than it should): it is given back, so that the next in line loads anew."""
        self.lost += 1
        self._release_quietly(key, token)
        text = "the lease is over, or its key or a tag was changed meanwhile: load it anew"
        self._box.settle(request_id, Fault(FaultKind.LOST, text))

    def release(self, request_id: int, release: Release) -> None:
        """Give a token back. The record about it wakes whoever is in line, on every node."""
        self._take_back(release.key, release.token)
        mutation = Mutation(
            (),
            op=Op.RELEASE,
            keys=(release.key,),
            lease=release.token,
            token_ttl_ms=release.absent_ms or 0,
            unchanged=b"z",
            frees_memory=True,
        )

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, WriteResult) and outcome.version is not None:
                self.released += 1
            self._box.settle(request_id, outcome)

        # Never answered before it is known: not even where ack=none is the rule.
        self._write(self._box.internal(done), Write((mutation,), ack=Level.REDIS))

    def _release_quietly(self, key: bytes, token: bytes) -> None:
        self.release(self._box.internal(lambda outcome: None), Release(key, token))


def _is_lost(result: WriteResult) -> bool:
    return any(isinstance(r, ReplyError) and r.text.startswith(LOST) for r in result.replies)
