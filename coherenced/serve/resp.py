"""The RESP front end: one protocol object per connection, replies in the order of requests.

What happens to a chunk of bytes:

    reader -> requests -> GET and MGET that hit: the stored bytes go out   (nothing else happens)
                       -> everything else: the table says what it is        (`_dispatch`)
                             answered here        `resp_local`, `resp_transaction`
                             asked of the node    a slot waits for the outcome

Replies leave in order: while a slot waits, whatever is ready after it is kept behind it.
Requests of one connection see each other as in Redis: reads may be under way together,
writes too (the core keeps their order), but neither starts while the other kind is still
unanswered; a request that must wait keeps all later ones waiting, and then nothing more
is read from the client.

Bounds: `resp_settings`. A client that does not read its replies is not read from either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import msgspec

from coherenced.core.requests import Fault, FaultKind, Outcome, Read, ReadResult, Request
from coherenced.errors import UsageError
from coherenced.serve import resp_local, resp_transaction
from coherenced.wire import resp
from coherenced.wire.answers import answer
from coherenced.wire.commands import CROSS_PROTOCOL, Access, Command, lookup
from coherenced.wire.framing import RequestReader, malformed
from coherenced.wire.plan import Plan

if TYPE_CHECKING:
    from coherenced.serve.resp_front import RespFront

SLICE: Final = 64
"""Requests taken before replies are handed to the socket: bounds what one chunk can pile up."""
SAMPLE_EVERY: Final = 256
"""Of so many requests one's latency is measured, roughly."""
FIRST_GUESS_BYTES: Final = 16_384
"""How large a reply is taken to be before any was seen."""
FEWEST_PENDING: Final = 16

_GETS: Final = (b"GET", b"get")
_MGETS: Final = (b"MGET", b"mget")


class Slot:
    """The place of a reply that is not there yet, and the replies behind it that are."""

    __slots__ = ("after", "data")

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.after: list[bytes] = []


class RespConnection(asyncio.Protocol):
    """One client."""

    __slots__ = (
        "_deaf",
        "_ending",
        "_flying_bytes",
        "_hit",
        "_now_ms",
        "_out",
        "_paused",
        "_queue",
        "_reader",
        "_reading",
        "_reads",
        "_reply_bytes",
        "_running",
        "_slots",
        "_tail",
        "_transport",
        "_window",
        "_writes",
        "authenticated",
        "front",
        "library",
        "lost",
        "name",
        "number",
        "peer",
        "quick",
        "resp3",
        "since_ms",
        "transaction",
        "watched",
    )

    def __init__(self, front: RespFront) -> None:
        self.front = front
        self.number = 0
        self.peer = ""
        self.name = b""
        self.library = [b"", b""]
        """What the client says of itself: library name and version."""
        self.resp3 = False
        self.authenticated = not front.settings.password
        self.transaction: resp_transaction.Transaction | None = None
        self.watched = resp_transaction.Watched()
        self.lost = False
        self.since_ms = 0.0
        self.quick = self.authenticated
        """Whether GET and MGET may be answered by the short path; see `settle_mode`."""
        self._hit = front.port.hit
        self._now_ms = front.port.now_ms
        self._reader = RequestReader(front.settings.frame, self.authenticated)
        self._slots: deque[Slot] = deque()
        self._queue: deque[list[bytes]] = deque()
        """Requests that must wait; while there are any, nothing is read."""
        self._out: list[bytes] = []
        """Replies to be written now."""
        self._tail = self._out
        """Where the next reply belongs: `_out`, or behind the last slot."""
        self._reads = self._writes = 0
        """Unanswered ones."""
        self._flying_bytes = 0
        """Arguments of unanswered writes."""
        self._reply_bytes = FIRST_GUESS_BYTES
        """A moving average over replies that were waited for."""
        self._window = FEWEST_PENDING
        self._running = self._paused = self._deaf = False
        self._ending = ""
        """`close` or `linger` once everything is answered."""
        self._reading = True

    # -- asyncio's side ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self.front.settings.pause_bytes)
        self._resize_window()
        if not self.front.enter(self):
            self._deaf = True
            self._transport.write(resp.error("ERR max number of clients reached"))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self._deaf = True
        self._slots.clear()
        self._queue.clear()
        self._out.clear()
        self.transaction = None
        self.watched.release(self.front.port)
        self.front.leave(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if not self._running:
            self._proceed()

    def eof_received(self) -> bool:
        """A client may close its sending side and still wait for its replies."""
        self._deaf = True
        if not self._slots and not self._queue and not self._paused:
            return False
        self._ending = self._ending or "close"
        return True

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        reader = self._reader
        requests = reader.feed(data)
        front = self.front
        front.requests += len(requests)
        if self._queue:
            self._queue.extend(requests)
        elif len(requests) <= SLICE:
            self._run(requests)
        else:
            self._queue.extend(requests)
            self._proceed()
        if reader.error:
            self._deaf = True
            if not self._queue:
                self.fail(reader.error)
        if front.requests >= front.sample_at:
            front.sample(data)

    # -- the hot loop -----------------------------------------------------------------

    def _run(self, requests: list[list[bytes]]) -> None:
        """Execute these in order; what must wait goes to the front of the queue."""
        hit = self._hit
        now_ms = self._now_ms()
        quick, resp3 = self.quick, self.resp3
        append = self._tail.append
        remaining = iter(requests)
        self._running = True
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
                            continue
                    elif verb in _MGETS and (reply := self._hits(request, now_ms)) is not None:
                        append(reply)
                        continue
                if not self._dispatch(request):
                    self._queue.extendleft(reversed([request, *remaining]))
                    break
                if self._ending:
                    self._queue.clear()
                    break
                quick, resp3 = self.quick, self.resp3
                append = self._tail.append
        except (TypeError, LookupError, AttributeError):
            # The quick reader passes on what is no request, and it is not looked at above.
            text = malformed(request)
            if not text:
                raise
            self.fail(text)
        finally:
            self._running = False
        if self._slots or self._queue or not self._reading:
            self._balance()
        self._flush()

    def _hits(self, request: list[bytes], now_ms: float) -> bytes | None:
        """The reply to an MGET of which every key hits, or None."""
        hit = self._hit
        bulks = []
        size = 0
        for key in request[1:]:
            entry = hit(key, now_ms)
            if entry is None:
                return None
            size += len(entry.bulk)
            bulks.append(entry.bulk)
        if not bulks or size > self.front.settings.output_buffer_bytes:
            return None
        if self.resp3 and resp.NIL2 in bulks:
            bulks = [resp.NIL3 if bulk == resp.NIL2 else bulk for bulk in bulks]
        return resp.array(bulks)

    # -- everything else --------------------------------------------------------------

    def _dispatch(self, request: list[bytes]) -> bool:
        """Answer or begin one request; False: it must wait, nothing was done."""
        if self._paused or len(self._slots) >= self._window:
            return False
        text = malformed(request)
        if text:
            self.fail(text)
            return True
        command, refused = lookup(request)
        if command is None:
            if request[0].upper() in CROSS_PROTOCOL:
                self._transport.abort()
                self._ending = "close"
            elif self.authenticated or refused.startswith("ERR unknown"):
                self._refuse(refused)
            else:
                self._refuse(resp_local.NO_AUTH)
            return True
        if not self.authenticated and not command.needs_no_auth:
            self._refuse(resp_local.NO_AUTH)
            return True
        if self.transaction is not None and command.name not in resp_transaction.IMMEDIATE:
            self.reply(resp_transaction.queue(self, command, request))
            return True
        access = command.access
        if (access & Access.READ and self._writes) or (access & Access.WRITE and self._reads):
            return False
        if command.plan is None:
            data = resp_local.HANDLERS[command.name](self, request)
            if data is not None:
                self.reply(data)
            return True
        return self._begin(command, request)

    def _begin(self, command: Command, request: list[bytes]) -> bool:
        """Ask the node."""
        size = 0
        if command.access == Access.WRITE:
            size = sum(map(len, request))
            bound = self.front.settings.frame.max_query_bytes
            if self._flying_bytes and self._flying_bytes + size > bound:
                return False
        request[0] = request[0].upper()
        try:
            plan = cast(Plan, command.plan(request, self.front.settings.bounds))  # type: ignore[misc]
        except UsageError as error:
            self._refuse(f"ERR {error}")
            return True
        self._flying_bytes += size
        slot = self.open(command.access)
        asked = plan.requests
        if self.watched:
            asked = tuple(_past_l1(wanted) for wanted in asked)
        if len(asked) == 1:
            done = partial(self._answered, slot, plan, command.access, size, self.resp3)
            self.front.port.submit(asked[0], done)
        else:
            self._ask_many(slot, plan, asked)
        return True

    def _ask_many(self, slot: Slot, plan: Plan, asked: Sequence[Request]) -> None:
        """A read that was cut: its parts are under way together, and answered as one."""
        outcomes: list[Outcome | None] = [None] * len(asked)
        left = [len(asked)]
        resp3 = self.resp3

        def answered(index: int, outcome: Outcome) -> None:
            outcomes[index] = outcome
            left[0] -= 1
            if not left[0]:
                data = answer(plan, [o for o in outcomes if o is not None], resp3)
                self.fill(slot, data, Access.READ)

        for index, request in enumerate(asked):
            self.front.port.submit(request, partial(answered, index))

    def _answered(
        self, slot: Slot, plan: Plan, access: int, size: int, resp3: bool, outcome: Outcome
    ) -> None:
        self._flying_bytes -= size
        if self.lost:
            return
        if isinstance(outcome, ReadResult) and len(outcome.values) > 1:
            outcome = self._bounded(outcome)
        self.fill(slot, answer(plan, (outcome,), resp3), access)

    def _bounded(self, outcome: ReadResult) -> Outcome:
        """A reply that no buffer may hold is refused before it is put together."""
        bound = self.front.settings.output_buffer_bytes
        size = sum(len(v.value) for v in outcome.values if v.value is not None)
        if size <= bound:
            return outcome
        text = f"the reply has more than {bound} bytes (listen.output_buffer_bytes): ask for fewer"
        return Fault(FaultKind.OVERLOADED, text)

    # -- replies, in order --------------------------------------------------------------

    def reply(self, data: bytes) -> None:
        """The answer to the request that is being executed."""
        if data[0] == 45:  # '-'
            self.front.errors += 1
        self._tail.append(data)

    def _refuse(self, text: str) -> None:
        if self.transaction is not None:
            self.transaction.failed = True
        self.reply(resp.error(text))

    def open(self, access: int) -> Slot:
        """A place for the reply to the request that is being executed; `fill` it once."""
        slot = Slot()
        self._slots.append(slot)
        self._tail = slot.after
        if access & Access.READ:
            self._reads += 1
        if access & Access.WRITE:
            self._writes += 1
            self.settle_mode()
        return slot

    def fill(self, slot: Slot, data: bytes, access: int) -> None:
        """The reply has come. Possibly before the request's execution returns."""
        if self.lost:
            return
        if access & Access.READ:
            self._reads -= 1
        if access & Access.WRITE:
            self._writes -= 1
            self.settle_mode()
        slot.data = data
        if data[0] == 45:
            self.front.errors += 1
        self._reply_bytes += (len(data) - self._reply_bytes) >> 3
        slots = self._slots
        if slot is slots[0]:
            out = self._out
            while slots and slots[0].data is not None:
                ready = slots.popleft()
                out.append(cast(bytes, ready.data))
                out += ready.after
            if not slots:
                self._tail = out
            self._resize_window()
        if not self._running:
            self._proceed()

    def settle_mode(self) -> None:
        """Reads may take the short path only if nothing of this connection could change them."""
        self.quick = (
            not self._writes
            and self.transaction is None
            and not self.watched
            and self.authenticated
        )

    def _resize_window(self) -> None:
        """As many requests may wait as would fill half the output buffer."""
        settings = self.front.settings
        room = settings.output_buffer_bytes // (2 * self._reply_bytes + 1)
        self._window = min(settings.max_pending, max(FEWEST_PENDING, room))

    def _proceed(self) -> None:
        """Go on with what waited, as far as it goes, and hand over what is ready."""
        queue = self._queue
        while queue and not self._paused:
            size = min(SLICE, len(queue))
            before = len(queue)
            self._run([queue.popleft() for _ in range(size)])
            if len(queue) == before:
                break
        if self._reader.error and not queue and not self._ending:
            self.fail(self._reader.error)
        self._balance()
        self._flush()

    def _flush(self) -> None:
        out = self._out
        if out and not self.lost:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            transport = self._transport
            transport.write(data)
            if self._paused and self._overflows(transport):
                return
        if self._ending and not self._slots and not self._queue:
            self._end()

    def _overflows(self, transport: asyncio.Transport) -> bool:
        """A client that asks and never reads is cut off at the bound."""
        if transport.get_write_buffer_size() <= 2 * self.front.settings.output_buffer_bytes:
            return False
        self.front.overflows += 1
        self._deaf = True
        transport.abort()
        return True

    def _balance(self) -> None:
        """Read on only while there is room for what would come."""
        wanted = not (self._queue or self._paused or len(self._slots) >= self._window)
        if wanted != self._reading and not self.lost:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # -- the end ------------------------------------------------------------------------

    def trust(self) -> None:
        """The client has given the password."""
        self.authenticated = self._reader.trusted = True
        self.settle_mode()

    def distrust(self) -> None:
        """RESET: the password is wanted again."""
        self.authenticated = self._reader.trusted = not self.front.settings.password
        self.settle_mode()

    def fail(self, text: str) -> None:
        """The stream cannot be understood any more: say why, then hang up."""
        self.reply(resp.error(f"ERR {text}"))
        self.end("linger")
        if not self._running:
            self._flush()

    def end(self, how: str = "close") -> None:
        """Take no more requests; close once everything before is answered."""
        self._deaf = True
        self._ending = how
        self._queue.clear()

    def _end(self) -> None:
        transport = self._transport
        if self._ending == "linger" and not transport.is_closing():
            # A plain close with unread input would take the error text from the client.
            self._ending = "gone"
            if not self._reading:
                self._reading = True
                transport.resume_reading()
            transport.write_eof()
            linger_s = self.front.settings.linger_ms / 1e3
            asyncio.get_running_loop().call_later(linger_s, transport.abort)
        elif self._ending == "close":
            transport.close()


def _past_l1(request: Request) -> Request:
    """WATCH: what is read decides a transaction, so Redis is asked."""
    if isinstance(request, Read):
        return msgspec.structs.replace(request, skip_l1=True)
    return request
