"""Replies in the order of requests, and no more of either than there is room for.

A request whose answer must be waited for opens a *slot*; what is answered meanwhile is kept
behind it, and leaves when it does. The same class holds the other end of that: it stops
reading while a client does not take its replies, while too much waits for Redis, and while what
was read at once is taken in turns with other clients.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

import msgspec

from coherenced import memory
from coherenced.serve.quiet import BUSY, PIECE_BYTES, Quiet, piece_of
from coherenced.wire import resp
from coherenced.wire.commands import Access

if TYPE_CHECKING:
    from coherenced.serve.resp import RespFront

TOO_MUCH: Final = "out of memory: ask this daemon for less at once, or give it more"
FIRST_GUESS_BYTES: Final = 16_384
"""How large a reply is taken to be before any was seen."""
FEWEST_PENDING: Final = 16
MOST_AHEAD: Final = 8
"""So many times the output buffer's bound is kept for a client that reads more slowly than what it
has asked for at once comes, or behind a reply that does not come; beyond, it is cut off."""
MOST_TOGETHER: Final = 8
"""So many times that bound is kept for all who do not read; beyond, who has the most is cut off."""
SHORT_BYTES: Final = 4096
"""A reply of less waits for others that come in the same turn: one call of the kernel for all."""
_MINUS: Final = ord("-")
_READ: Final = Access.READ
_WRITE: Final = Access.WRITE


class Slot(msgspec.Struct, gc=False, eq=False):
    """The place of a reply that is not there yet, and the replies behind it that are."""

    access: int
    size: int
    """Bytes of the request that are kept until it is answered."""
    data: bytes | None = None
    after: list[bytes] = []
    resp3: bool = False
    """Of a GET: the protocol that it was asked in."""
    keys: Sequence[bytes] = ()
    """What a read is about that may be shown something newer than L1 holds now."""
    among: dict[bytes, int] | None = None
    """Where they are counted: the connection's `_asked` or `_looked_up`."""


class ReplyFlow(Quiet):
    """One connection's side towards the socket. What requests mean: `resp_connection`."""

    __slots__ = (
        "_asked",
        "_deaf",
        "_ending",
        "_flying_bytes",
        "_handing_over",
        "_held_bytes",
        "_looked_up",
        "_out",
        "_queue",
        "_reading",
        "_reads",
        "_rest",
        "_rest_at",
        "_running",
        "_slots",
        "_stopped",
        "_tail",
        "_turn_due",
        "_unread",
        "_unread_bytes",
        "_weighed",
        "_window",
        "_writes",
        "lost",
        "quick",
    )

    def __init__(self, front: RespFront) -> None:
        super().__init__(front)
        self.lost = False
        """Nobody is there any more."""
        self.quick = False
        """Whether GET and MGET may be answered by the short path; see `settle_mode`."""
        self._slots: deque[Slot] = deque()
        self._queue: deque[list[bytes]] = deque()
        """Requests that must wait; while there are any, nothing is read."""
        self._out: list[bytes] = []
        """Replies to be written now, or as soon as the client takes those before them; always the
        same list."""
        self._tail = self._out
        """Where the next reply belongs: `_out`, or behind the last slot."""
        self._reads = self._writes = 0
        """Unanswered ones."""
        self._asked: dict[bytes, int] = {}
        """The keys of unanswered reads that may be shown something newer than whoever comes next,
        and how often each."""
        self._looked_up: dict[bytes, int] = {}
        """The same of usual ones: they look into L1 at the end of this turn."""
        self._flying_bytes = 0
        """Arguments of unanswered writes."""
        self._held_bytes = 0
        """Replies that are ready and wait behind one that is not."""
        self._reply_bytes = FIRST_GUESS_BYTES
        self._window = FEWEST_PENDING
        self._handing_over = False
        """`_hand_over` is due in the next turn."""
        self._running = False
        """Requests are being executed: replies are handed over at the end of that."""
        self._reading = True
        self._deaf = False
        """Nothing more is taken from the client."""
        self._stopped = False
        """Nothing more is executed either."""
        self._rest = b""
        """What was read, from `_rest_at` on, and waits for this client's next turn."""
        self._rest_at = 0
        self._turn_due = False
        self._unread: asyncio.TimerHandle | None = None
        """When it will be looked whether a client that leaves much unread reads at all."""
        self._unread_bytes = 0
        """What the socket held for it when that was decided."""
        self._weighed = 0
        """How many replies waited when they were last weighed."""
        self._ending = ""
        """`close` or `linger` once everything is answered; `gone` while it lingers."""

    def proceed(self) -> None:
        """Go on with what waited, as far as it goes, and hand over what is ready."""
        raise NotImplementedError

    def take_turn(self) -> None:
        """Go on with `_rest`."""
        raise NotImplementedError

    def settle_mode(self) -> None:
        """Something changed that decides whether reads may take the short path."""
        raise NotImplementedError

    def rest(self) -> None:
        """It is quiet from now on, if nothing is under way any more."""
        raise NotImplementedError

    # -- asyncio's side ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self.front.settings.pause_bytes)
        self._resize_window()
        if self.front.poller is not None:
            self.front.soon(self._settle_in)  # the transport begins to read behind this

    def _settle_in(self) -> None:
        if not self.lost and self.take_socket() and self._reading:
            self._resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave_socket()
        self.state = BUSY
        self.lost = self._deaf = self._stopped = True
        self._slots.clear()
        self._asked.clear()
        self._looked_up.clear()
        self._queue.clear()
        self._out.clear()
        self._rest = b""
        self._forget_unread()
        self.front.unread.forget(self)

    def pause_writing(self) -> None:
        self.busy()
        self._paused = True
        self._balance()
        self.front.unread.note(self, MOST_TOGETHER * self.front.settings.output_buffer_bytes)

    def resume_writing(self) -> None:
        self._paused = False
        self._forget_unread()
        self.front.unread.forget(self)
        if self._out and not self.lost:
            self._write_on()
        if not (self._running or self._paused):
            self.proceed()

    def eof_received(self) -> bool:
        """A client may close its sending side and still wait for its replies."""
        if self._ending == "gone":
            self._transport.close()
        else:
            self.retire()
        return True

    # -- replies, in order --------------------------------------------------------------

    def reply(self, data: bytes) -> None:
        """The answer to the request that is being executed."""
        if data[0] == _MINUS:
            self.front.errors += 1
        self._tail.append(data)
        if self._slots:
            self._held_bytes += len(data)

    def has_room(self, size: int) -> bool:
        """Whether a write of `size` bytes may be under way together with those that are."""
        bound = self.front.settings.frame.max_query_bytes
        return not self._flying_bytes or self._flying_bytes + size <= bound

    def open(
        self,
        access: int,
        size: int = 0,
        keys: Sequence[bytes] = (),
        among: dict[bytes, int] | None = None,
    ) -> Slot:
        """A place for the reply to the request that is being executed; `fill` it once."""
        slot = Slot(access, size)
        if keys:
            slot.keys = keys
            slot.among = among = self._asked if among is None else among
            for key in keys:
                among[key] = among.get(key, 0) + 1
        self._slots.append(slot)
        self._tail = slot.after
        if access & _READ:
            self._reads += 1
        if access & _WRITE:
            self._flying_bytes += size
            self._writes += 1
            self.quick = False  # a read may be about what is being written
        return slot

    def fill(self, slot: Slot, data: bytes) -> None:
        """The reply has come. Possibly before the request's execution returns."""
        if self.lost:
            return
        access = slot.access
        if access & _READ:
            self._reads -= 1
        if access & _WRITE:
            self._flying_bytes -= slot.size
            self._writes -= 1
            if not self._writes:
                self.settle_mode()
        if slot.keys:
            self._no_longer_ask(slot)
        if data[0] == _MINUS:
            self.front.errors += 1
        if change := (len(data) - self._reply_bytes) >> 3:
            self._reply_bytes += change
            self._resize_window()
        slots = self._slots
        if (
            slot is slots[0]
            and len(slots) == 1
            and not (self._tail or self._out or self._queue)
            and not (self._running or self._paused or self._ending)
            and self._reading
        ):
            # The usual case: nothing else of this client is under way.
            slots.clear()
            self._tail = self._out
            try:
                self._write(data)
            except MemoryError as error:  # what the socket does not take is copied
                self.failed(error)
            self.rest()
            return
        slot.data = data
        self._held_bytes += len(data)
        if slot is slots[0]:
            self._release()
        elif self._held_bytes > MOST_AHEAD * self.front.settings.output_buffer_bytes:
            self.cut_off()
            return
        if self._running:
            return
        if slots and not self._queue and len(data) < SHORT_BYTES:
            self._hand_over_soon()  # the others' replies, which often come at once, go with it
        else:
            try:
                self.proceed()
            except MemoryError as error:
                self.failed(error)

    def _no_longer_ask(self, slot: Slot) -> None:
        asked = slot.among
        assert asked is not None
        for key in slot.keys:
            if left := asked[key] - 1:
                asked[key] = left
            else:
                del asked[key]

    def _hand_over_soon(self) -> None:
        if not self._handing_over:
            self._handing_over = True
            self.front.soon(self._hand_over)

    def _hand_over(self) -> None:
        self._handing_over = False
        if not (self.lost or self._running):
            self.proceed()

    def _release(self) -> None:
        """The first replies that are there have nothing before them any more."""
        slots, out = self._slots, self._out
        while slots and (data := slots[0].data) is not None:
            after = slots.popleft().after
            out.append(data)
            out += after
            self._held_bytes -= len(data) + sum(map(len, after))
        if not slots:
            self._tail = out

    def _resize_window(self) -> None:
        """As many requests may wait as would fill half the output buffer."""
        settings = self.front.settings
        room = settings.output_buffer_bytes // (2 * self._reply_bytes + 1)
        self._window = min(settings.max_pending, max(FEWEST_PENDING, room))

    def _flush(self) -> None:
        out = self._out
        if out and not self.lost:
            if self._paused:
                self._wait_for_reader()
                return
            if len(out) > 1 and sum(map(len, out)) > PIECE_BYTES:
                self._write_on()
                if out:
                    return
            else:
                data = out[0] if len(out) == 1 else b"".join(out)
                out.clear()
                self._write(data)
        if self._ending and not self._slots and not self._queue:
            self._end()

    def _write_on(self) -> None:
        """Write what is ready, some at a time, for as long as the client takes it."""
        out = self._out
        while out and not self._paused:
            piece = piece_of(out)
            data = b"".join(out[:piece])
            del out[:piece]
            self._write(data)
        self._weighed = 0
        if out:
            self._wait_for_reader()

    def _wait_for_reader(self) -> None:
        """Replies to what was asked at once may be more than is written ahead: they wait here for
        a client that reads. Whether it does is looked at later."""
        settings, number = self.front.settings, len(self._out)
        if number >= 2 * self._weighed:  # rarely: all of them are looked at
            self._weighed = number
            if self.unread_bytes() > MOST_AHEAD * settings.output_buffer_bytes:
                self.cut_off()
                return
            self.front.unread.note(self, MOST_TOGETHER * settings.output_buffer_bytes)
        if self._unread is None:
            self._unread_bytes = self._transport.get_write_buffer_size()
            self._unread = self.front.later(settings.stalled_ms, self._look_at_reader)

    def _look_at_reader(self) -> None:
        """Cut off a client that asked and does not read; not one that is slow."""
        self._unread = None
        if self._transport.get_write_buffer_size() < self._unread_bytes:
            self._wait_for_reader()
        elif self.unread_bytes() > self.front.settings.output_buffer_bytes:
            self.cut_off()

    def unread_bytes(self) -> int:
        """Replies that its client has not taken yet."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._out))

    def cut_off(self) -> None:
        """Hang up on a client that does not read."""
        if not self._transport.is_closing():
            self.front.overflows += 1
            self.abort()

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _balance(self) -> None:
        """Read on only while there is room for what would come, and all that came is taken."""
        wanted = not (self._queue or self._paused or len(self._slots) >= self._window)
        if self._rest:
            if wanted and not self._turn_due:
                self._turn_due = True
                self.front.soon(self.take_turn)
            wanted = False
        if wanted != self._reading and not self.lost:
            self._reading = wanted
            if wanted:
                self._resume_reading()
            else:
                self._pause_reading()

    # -- the end ------------------------------------------------------------------------

    def fail(self, text: str) -> None:
        """The stream cannot be understood any more: say why, then hang up."""
        self.reply(resp.error(f"ERR {text}"))
        self.end("linger")
        if not self._running:
            self._flush()

    def end(self, how: str = "close") -> None:
        """Take no more requests; close once everything before is answered."""
        self.busy()
        self._deaf = self._stopped = True
        self._ending = how
        self._queue.clear()
        self.settle_mode()

    def retire(self) -> None:
        """Take no more requests, execute those that were taken, answer them, and close."""
        self.busy()
        self._deaf = True
        self.settle_mode()
        self._ending = self._ending or "close"
        if not self._running:
            self._flush()

    def starved(self, error: MemoryError) -> None:
        """There is no memory for what the client has sent: it is told so, and nothing more is
        read of what it sends."""
        memory.tell(asyncio.get_running_loop(), "a request", error)
        if not self._stopped:
            self.fail(TOO_MUCH)

    def failed(self, error: BaseException) -> None:
        loop = asyncio.get_running_loop()
        told = {"message": "a request could not be taken in", "exception": error, "protocol": self}
        loop.call_exception_handler(told)
        self.abort()

    def abort(self) -> None:
        """Hang up now."""
        self.end()
        self._transport.abort()

    def _end(self) -> None:
        transport = self._transport
        if self._ending == "linger" and not transport.is_closing():
            # A plain close with unread input would take the error text from the client.
            self._ending = "gone"
            if not self._reading:
                self._reading = True
                self._resume_reading()
            transport.write_eof()
            linger_s = self.front.settings.linger_ms / 1e3
            asyncio.get_running_loop().call_later(linger_s, transport.abort)
        elif self._ending == "close":
            transport.close()
