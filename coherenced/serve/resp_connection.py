"""One RESP client: requests in, replies out in the order of the requests.

What happens to a chunk of bytes:

    reader -> requests -> GET and MGET that hit: the stored bytes go out   (nothing else happens)
                       -> everything else: the table says what it is        (`_dispatch`)
                             answered here        `resp_local`, `resp_transaction`
                             asked of the node    a slot waits for the outcome

Replies leave in order: while a slot waits, whatever is ready after it is kept behind it.
Requests of one connection see each other as in Redis: reads may be under way together,
writes too (the core keeps their order), but neither starts while the other kind is still
unanswered, nor a read of a key while one is that may be shown something newer of it than L1
holds (it asks for less staleness, or asks Redis): no key goes back in time. Nor is a read a hit at
once while a usual one of its key is unanswered: the node looks for both at the end of the turn. A
request that must wait keeps all later ones waiting, and then nothing more is read from the client.

Bounds: `resp_settings`. A client that does not read its replies is not read from either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import msgspec

from coherenced import memory
from coherenced.core.model import FOREVER
from coherenced.core.requests import (
    Outcome,
    Read,
    ReadResult,
    Request,
)
from coherenced.errors import UsageError
from coherenced.serve import resp_leases, resp_local, resp_transaction
from coherenced.serve.quiet import BUSY, PIECE_BYTES, QUIET, TURN_BYTES
from coherenced.serve.resp_flow import TOO_MUCH, Slot
from coherenced.serve.resp_short import ShortWay
from coherenced.wire import resp
from coherenced.wire.answers import answer
from coherenced.wire.commands import CROSS_PROTOCOL, Access, Command, keys_of, lookup
from coherenced.wire.extensions import aging, keep_terms
from coherenced.wire.framing import RequestReader, malformed
from coherenced.wire.plan import Plan

if TYPE_CHECKING:
    from coherenced.serve.resp import RespFront

SLICE: Final = 64
"""Requests taken before replies are handed to the socket: bounds what one chunk can pile up. If the
replies are large there are fewer."""

_GETS: Final = (b"GET", b"get")
_MGETS: Final = (b"MGET", b"mget")
_PLAIN: Final = ("get", "set")


class RespConnection(ShortWay):
    """One client."""

    __slots__ = (
        "_reader",
        "authenticated",
        "library",
        "name",
        "number",
        "peer",
        "since_ms",
        "transaction",
    )

    def __init__(self, front: RespFront) -> None:
        super().__init__(front)
        self.number = 0
        self.peer = 0
        """The client's process, where it is known."""
        self.name = b""
        self.library = [b"", b""]
        """What the client says of itself: library name and version."""
        self.authenticated = not front.settings.password
        self.transaction: resp_transaction.Transaction | None = None
        self.since_ms = 0.0
        self.quick = self.authenticated
        self._reader = RequestReader(front.settings.frame, self.authenticated)

    def reconfigured(self) -> None:
        """The front's settings are others: take over what is kept of them here."""
        self.bound()
        self._reader.limits = self.front.settings.frame

    @property
    def address(self) -> object:
        """Where the client is, or, on a Unix socket, where it came in."""
        transport = self._transport
        return transport.get_extra_info("peername") or transport.get_extra_info("sockname")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.peer = resp_leases.peer_of(transport)
        if self.front.enter(self):
            self.rest()
        elif not self._stopped:
            self.fail("max number of clients reached")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.transaction = None
        self.watched.release(self.front.port)
        self.front.leave(self)
        self.front.borrowers.gone(self)

    def received(self, data: bytes) -> None:
        self._receive(data)
        self.rest()

    def _receive(self, data: bytes) -> None:
        try:
            self._read(data)
        except MemoryError as error:
            self._reader.forget()
            self.starved(error)

    def _read(self, data: bytes) -> None:
        reader = self._reader
        if self._deaf or (len(data) > TURN_BYTES and self._shares(data)):
            return
        trusted = reader.trusted
        requests = reader.feed(data)
        self._take(requests)
        while requests and not trusted and not self._deaf:
            requests = reader.feed(b"")  # one by one: the first may have been the password
            self._take(requests)
        if reader.error:
            self._deaf = True
            if not self._queue and not self._stopped:
                self.fail(reader.error)

    def _shares(self, data: bytes) -> bool:
        """Have so much be taken in turns; False: nothing of it seems to end within the first."""
        if _turn_end(data, 0) == len(data):
            return False
        self._rest, self._rest_at = data, 0
        self._balance()
        return True

    def take_turn(self) -> None:
        self._turn_due = False
        rest, start = self._rest, self._rest_at
        if self._deaf or not (self._queue or self._paused or len(self._slots) >= self._window):
            self._rest_at = end = _turn_end(rest, start)
            if self._deaf or end == len(rest):
                self._rest = b""
            if not self._deaf:
                data = rest[start:end]
                if self.quick and not self._slots and self._reader.idle:
                    data = data[self.leading_hits(data) :]
                if data:
                    self._receive(data)
        self._balance()
        self.rest()

    def _take(self, requests: list[list[bytes]]) -> None:
        self.tally.requests += len(requests)
        if self._queue or self._paused:
            self._queue.extend(requests)
        elif len(requests) <= SLICE:
            self._run(requests)
            if self._queue and not (self._paused or self._slots):
                self.proceed()  # there was more than is written at once
        else:
            self._queue.extend(requests)
            self.proceed()

    def proceed(self) -> None:
        queue = self._queue
        while queue and not self._paused:
            before = len(queue)
            self._run([queue.popleft() for _ in range(min(SLICE, before))])
            if len(queue) == before:
                break
        if self._reader.error and not queue and not self._stopped:
            self.fail(self._reader.error)
        self._flush()
        self._balance()
        self.rest()

    # -- the hot loop -----------------------------------------------------------------

    def _run(self, requests: list[list[bytes]]) -> None:
        """Execute these in order; what must wait goes to the front of the queue."""
        now_ms = self._now_ms()
        self._running = True
        try:
            self._execute(requests, now_ms)
        finally:
            self._running = False
        self._flush()
        if self._slots or self._queue or not self._reading:
            self._balance()
        if self.tally.requests >= self.tally.sample_at and not self._slots:
            self.front.sample(now_ms)

    def _execute(self, requests: list[list[bytes]], now_ms: float) -> None:
        hit = self._hit
        quick, resp3 = self.quick and not self._slots, self.resp3
        out, room = self._out, PIECE_BYTES
        append = out.append
        remaining = iter(requests)
        request: list[bytes] = []
        try:
            for request in remaining:
                if quick:
                    verb = request[0]
                    if verb in _GETS and len(request) == 2:
                        entry = hit(request[1], now_ms)
                        if entry is not None:
                            bulk = entry.bulk
                            append(resp.NIL3 if resp3 and bulk == resp.NIL2 else bulk)
                            if (room := room - len(bulk)) > 0:
                                continue
                            break
                    elif verb in _MGETS and (reply := self._hits(request, now_ms)) is not None:
                        append(reply)
                        if (room := room - len(reply)) > 0:
                            continue
                        break
                if not self._dispatch(request):
                    self._queue.extendleft(reversed([request, *remaining]))
                    return
                if self._stopped:
                    return
                if out and not self._slots and (room := room - len(out[-1])) <= 0:
                    break
                quick, resp3 = self.quick and not self._slots, self.resp3
            else:
                return
            self._queue.extendleft(reversed([*remaining]))
        except (TypeError, LookupError, AttributeError):
            # The quick reader passes on what is no request, and it is not looked at above.
            text = malformed(request)
            if not text:
                raise
            self.fail(text)

    def _hits(self, request: list[bytes], now_ms: float) -> bytes | None:
        """The reply to an MGET of which every key hits, or None."""
        number = len(request) - 1
        bulks = self.front.port.hits(request[1:], now_ms)
        if len(bulks) < number or not number:
            return None
        if sum(map(len, bulks)) > self.front.settings.output_buffer_bytes:
            return None
        if self.resp3 and resp.NIL2 in bulks:
            bulks = [resp.NIL3 if bulk == resp.NIL2 else bulk for bulk in bulks]
        return resp.array(bulks)

    # -- everything else --------------------------------------------------------------

    def _dispatch(self, request: list[bytes]) -> bool:
        """Answer or begin one request; False: it must wait, nothing was done."""
        if (
            self._paused
            or len(self._slots) >= self._window
            or self._held_bytes > self.front.settings.pause_bytes
        ):
            return False
        text = malformed(request)
        if text:
            self.fail(text)
            return True
        command, refused = lookup(request)
        if command is None:
            verb = request[0].upper()
            if verb in CROSS_PROTOCOL:
                self.end()
            elif verb == b"EXEC" and self._slots:
                return False  # it forgets what is watched: a WATCH may be under way
            else:
                self.reply(resp.error(resp_transaction.refused(self, request, refused)))
            return True
        if not self.authenticated and not command.needs_no_auth:
            self.reply(resp.error(resp_local.NO_AUTH))
            return True
        if self.transaction is not None and command.name not in resp_transaction.IMMEDIATE:
            self.reply(resp_transaction.queue(self, command, request))
            return True
        access = command.access
        if (access & Access.READ and self._writes) or (access & Access.WRITE and self._reads):
            return False
        if self._asked and access == Access.READ and _is_about(self._asked, command, request):
            return False
        if command.name == "exec" and self.transaction is not None:
            if not self.has_room(self.transaction.size):
                return False
        elif (
            (access == Access.READ and self.quick)
            and not (self._looked_up and _is_about(self._looked_up, command, request))
            and (data := self._short(request)) is not None
        ):
            self.reply(data)
            return True
        if command.name in _PLAIN and self._begin_plain(request):
            return True
        if command.plan is None:
            data = resp_local.HANDLERS[command.name](self, request)
            if data is not None:
                self.reply(data)
            return True
        return self._begin(command, request)

    def _short(self, request: list[bytes]) -> bytes | None:
        """A hit while earlier requests are still waiting: its reply is kept behind theirs."""
        verb = request[0]
        if verb == b"COH.GET":
            return self._kept(request) if len(request) == 4 else None
        if verb in _GETS:
            entry = self._hit(request[1], self._now_ms())
            if entry is None:
                return None
            return resp.NIL3 if self.resp3 and entry.bulk == resp.NIL2 else entry.bulk
        return self._hits(request, self._now_ms()) if verb in _MGETS else None

    def _kept(self, request: list[bytes]) -> bytes | None:
        """COH.GET key KEEP incarnation, as a client asks that keeps copies of its own: a hit."""
        page = self.front.settings.bounds.page
        if request[2] != b"KEEP" or request[3] != page or not page:
            return None
        now_ms = self._now_ms()
        entry = self._hit(request[1], now_ms)
        if entry is None:
            return None
        lane = entry.lane
        bulk = resp.NIL3 if self.resp3 and entry.bulk == resp.NIL2 else entry.bulk
        version = b"%b:%d" % (lane.epoch or b"", entry.as_of)
        known_ms = entry.known_age_ms(now_ms)
        age_ms = max(0.0, now_ms - lane.verified_at_ms) if known_ms is None else known_ms
        age = b"%.3f" % age_ms
        terms = keep_terms(entry.deadline_ms - now_ms, entry.bound_ms, entry.tags)
        left_ms = -1 if entry.expires_ms == FOREVER else max(0, int(entry.expires_ms - now_ms))
        grace_ms = -1 if known_ms is None else aging(entry.tags, left_ms)
        stale = grace_ms > 0 and left_ms <= grace_ms
        return b"*8\r\n%b$%d\r\n%b\r\n$2\r\nl1\r\n$%d\r\n%b\r\n:%d\r\n:%d\r\n%b:%d\r\n" % (
            *(bulk, len(version), version),
            *(len(age), age, stale, left_ms, terms, grace_ms),
        )

    def _begin(self, command: Command, request: list[bytes]) -> bool:
        """Ask the node."""
        size = sum(map(len, request)) if command.access == Access.WRITE else 0
        if not self.has_room(size):
            return False
        request[0] = request[0].upper()
        try:
            plan = cast(Plan, command.plan(request, self.front.settings.bounds))  # type: ignore[misc]
        except UsageError as error:
            self.reply(resp.error(f"ERR {error}"))
            return True
        asked = plan.requests
        if asked[0].__class__ in resp_leases.REQUESTS:
            resp_leases.begin(self, command, plan, size)
            return True
        if command.access == Access.READ:
            is_usual = _is_usual(asked[0]) and not self.watched
            among = self._looked_up if is_usual else self._asked
            slot = self.open(command.access, size, keys_of(command, request), among)
        else:
            slot = self.open(command.access, size)
        if self.watched:
            asked = tuple(resp_transaction.past_l1(wanted) for wanted in asked)
        if len(asked) == 1:
            done = partial(self._answered, slot, plan, self.resp3)
            self.front.port.submit(self._bounded(asked[0]), done)
        else:
            self._ask_many(slot, plan, asked)
        return True

    def _ask_many(self, slot: Slot, plan: Plan, asked: Sequence[Request]) -> None:
        """A read that was cut: its parts are under way together, and answered as one."""
        outcomes: dict[int, Outcome] = {}
        resp3 = self.resp3

        def answered(index: int, outcome: Outcome) -> None:
            outcomes[index] = outcome
            if len(outcomes) == len(asked):
                self._fill_with(slot, plan, list(outcomes.values()), resp3)

        for index, request in enumerate(asked):
            self.front.port.submit(self._bounded(request), partial(answered, index))

    def _bounded(self, request: Request) -> Request:
        """It, for no more at once than a reply may hold."""
        if request.__class__ is not Read or len(request.keys) < 2:
            return request
        most_bytes = self.front.settings.output_buffer_bytes
        return msgspec.structs.replace(request, most_bytes=most_bytes)

    def _answered(self, slot: Slot, plan: Plan, resp3: bool, outcome: Outcome) -> None:
        if self.lost:
            return
        refused = ""
        if isinstance(outcome, ReadResult) and len(outcome.values) > 1:
            refused = self._too_large(outcome)
        if refused:
            self.fill(slot, resp.error(refused))
        else:
            self._fill_with(slot, plan, (outcome,), resp3)

    def _fill_with(self, slot: Slot, plan: Plan, outcomes: Sequence[Outcome], resp3: bool) -> None:
        try:
            data = answer(plan, outcomes, resp3)
        except MemoryError as error:
            memory.tell(asyncio.get_running_loop(), "a request", error)
            data = resp.error(f"ERR {TOO_MUCH}")
        self.fill(slot, data)

    def _too_large(self, outcome: ReadResult) -> str:
        """Why a reply that no buffer may hold is refused, before it is put together; or ''. It is
        for the caller to ask for less: not UNAVAILABLE, which clients may take for a miss."""
        bound = self.front.settings.output_buffer_bytes
        if sum(len(v.value) for v in outcome.values if v.value is not None) <= bound:
            return ""
        return (
            f"ERR the reply has more than {bound} bytes (listen.output_buffer_bytes): ask for fewer"
        )

    def settle_mode(self) -> None:
        """Reads may take the short path only if nothing of this connection could change them."""
        self.quick = (
            not self._writes
            and self.transaction is None
            and not (self.watched.watch_id or self.watched.broken)
            and self.authenticated
            and not self._deaf
        )

    def rest(self) -> None:
        if (
            (self.state == BUSY and self.quick)
            and (self._reading and self._reader.idle)
            and not (self._slots or self._out or self._queue or self._rest)
            and not (self._running or self._paused or self._ending or self._deaf or self.lost)
            and not (self._turn_due or self._handing_over)
        ):
            self.state = QUIET

    def trust(self) -> None:
        """The client has given the password."""
        self.authenticated = self._reader.trusted = True
        self.settle_mode()

    def distrust(self) -> None:
        """RESET: the password is wanted again."""
        self.authenticated = self._reader.trusted = not self.front.settings.password
        self.settle_mode()


def _turn_end(data: bytes, start: int) -> int:
    """Where the turn from `start` on ends: where a request seems to begin. (If none does, no harm
    is done: the reader waits for the rest of it.)"""
    if len(data) - start <= TURN_BYTES:
        return len(data)
    at = data.rfind(b"\r\n*", start, start + TURN_BYTES)
    return at + 2 if at >= 0 else len(data)


def _is_about(keys: dict[bytes, int], command: Command, request: list[bytes]) -> bool:
    """Whether an unanswered read is about one of the keys of this one, too: what is answered after
    it must not be older."""
    return not keys.keys().isdisjoint(keys_of(command, request))


def _is_usual(asked: Request) -> bool:
    """Whether this read is shown what any other of its keys would be, were it to come next."""
    return (
        isinstance(asked, Read)
        and asked.max_staleness_ms is None
        and asked.min_version is None
        and not asked.snapshot
    )
