"""The short way of the requests that most are: GETs and SETs without options.

One that comes alone is read without a parser (`wire.plain`), and a GET that hits is answered
within the call that brought it. What must be asked of the node opens its slot by a few
assignments, and its reply leaves by as few, unless something has come after it meanwhile: then it
is a request like any other. Whatever is of another form goes the general way (`resp_connection`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from coherenced.core.model import Set
from coherenced.core.requests import Outcome
from coherenced.serve.resp_flow import ReplyFlow, Slot
from coherenced.serve.resp_transaction import Watched
from coherenced.wire import resp
from coherenced.wire.commands import Access
from coherenced.wire.plain import PLAIN_GETS, PLAIN_HEAD, plain_gets, plain_set
from coherenced.wire.plan import OK, RESERVED_PREFIX, Plan, is_usable, status_shape

if TYPE_CHECKING:
    from coherenced.serve.resp import RespFront

TURN_BYTES: Final = 8192
"""Of requests that came at once: after so many the other clients have their turn."""

SLICE_BYTES: Final = 2048
"""Of a chunk that is nothing but GETs: so many are answered before the socket is given replies."""

_HEAD: Final = slice(0, PLAIN_HEAD)
_KEY: Final = slice(PLAIN_HEAD, -2)
_GETS: Final = (b"GET", b"get")
_SETS: Final = (b"SET", b"set")

_READ: Final = Access.READ
_GET: Final = Plan(())
_SET: Final = Plan((), status_shape)
"""What becomes of the replies of a plain GET and SET."""


class ShortWay(ReplyFlow):
    """One connection's plain GETs and SETs."""

    __slots__ = ("_get", "_hit", "_lone", "_longest_key", "_now_ms", "resp3", "watched")

    def __init__(self, front: RespFront) -> None:
        super().__init__(front)
        self.resp3 = False
        self.watched = Watched()
        self._get = front.port.get
        self._hit = front.port.hit
        self._now_ms = front.port.now_ms
        self._longest_key = front.settings.bounds.max_key_bytes
        self._lone = Slot(_READ, 0)
        """That of a lone GET; again and again, as long as nothing has come after it."""

    def _answered(self, slot: Slot, plan: Plan, resp3: bool, outcome: Outcome) -> None:
        """The general way of `_got_for` and `_stored_for`."""
        raise NotImplementedError

    def _short_way(self, data: bytes) -> int:
        """Take what a chunk begins with, of a connection of which nothing is under way: nothing
        of it, one request that is all of it, or GETs that hit. -> where the rest begins."""
        size = len(data)
        if PLAIN_GETS.get(data[_HEAD]) == size:
            key, now_ms, front = data[_KEY], self._now_ms(), self.front
            entry = self._hit(key, now_ms)
            if entry is not None:
                bulk = entry.bulk
                self._transport.write(resp.NIL3 if self.resp3 and bulk == resp.NIL2 else bulk)
                front.requests = requests = front.requests + 1
                if requests >= front.sample_at:
                    front.sample(now_ms)
                return size
            if key[:4] == RESERVED_PREFIX or len(key) > self._longest_key:
                return 0
            front.requests += 1
            # `open`, where nothing is under way and nothing waits.
            slot = self._lone
            if slot.resp3 is not self.resp3:
                slot.resp3 = self.resp3
            self._slots.append(slot)
            self._tail = slot.after
            self._reads = 1
            self._get(key, self._got)
            return size
        told = plain_set(data)
        if told is not None:
            return size if self._lone_set(*told) else 0
        return self._leading_hits(data) if size <= TURN_BYTES else 0

    def _got(self, outcome: Outcome) -> None:
        """The node's answer to a lone GET: nothing was under way before it, so its slot is the
        first until it is filled."""
        slots = self._slots
        if (
            outcome.__class__ is bytes
            and len(slots) == 1
            and self._reading
            and not (self._tail or self._ending)
        ):
            # `fill`, where nothing has come after it, nor waits: then it would not be read on.
            slots.clear()
            self._reads = 0
            self._tail = self._out
            if change := (len(outcome) - self._reply_bytes) >> 3:
                self._reply_bytes += change
                self._resize_window()
            nil = self._lone.resp3 and outcome == resp.NIL2
            self._transport.write(resp.NIL3 if nil else outcome)
        elif slots:  # else the client has gone
            self._lone = Slot(_READ, 0)
            self._got_for(slots[0], outcome)

    def _got_for(self, slot: Slot, outcome: Outcome) -> None:
        if outcome.__class__ is bytes:
            self.fill(slot, resp.NIL3 if slot.resp3 and outcome == resp.NIL2 else outcome)
        else:
            self._answered(slot, _GET, slot.resp3, outcome)

    def _lone_set(self, key: bytes, bulk: bytes) -> bool:
        """Have the node carry out the one SET that a chunk is; False: it goes the general way."""
        front = self.front
        settings = front.settings
        if not is_usable(key, settings.bounds) or len(bulk) > settings.frame.max_bulk_bytes:
            return False
        front.requests += 1
        self.open_lone_write(len(key) + len(bulk))
        front.port.submit(Set(key, bulk), self._stored)
        return True

    def _stored(self, outcome: Outcome) -> None:
        """The node's answer to a lone SET; its slot is the first, as in `_got`."""
        if self.lost:
            return
        if outcome == OK:
            self.fill_lone_write(resp.OK)
        else:
            self._answered(self._slots[0], _SET, self.resp3, outcome)

    def _stored_for(self, slot: Slot, outcome: Outcome) -> None:
        if outcome == OK:
            self.fill(slot, resp.OK)
        else:
            self._answered(slot, _SET, self.resp3, outcome)

    def _leading_hits(self, data: bytes) -> int:
        """Answer the GETs that a chunk begins with, as long as they hit; where the rest begins.

        Most chunks are nothing else. No parser is needed to see that: the beginning of such
        a request tells its length.
        """
        if data[_HEAD] not in PLAIN_GETS:
            return 0
        hits, now_ms = self.front.port.hits, self._now_ms()
        size, done = len(data), 0
        while done < size and not self._paused:
            keys, ends = plain_gets(data, done, done + SLICE_BYTES)
            bulks = hits(keys, now_ms)
            if not bulks:
                break
            number = len(bulks)
            done = ends[number - 1]
            if self.resp3 and resp.NIL2 in bulks:
                bulks = [resp.NIL3 if bulk == resp.NIL2 else bulk for bulk in bulks]
            self._transport.write(b"".join(bulks))
            self.front.requests += number
            if number < len(keys):
                break
        if done and self.front.requests >= self.front.sample_at:
            self.front.sample(now_ms)
        return done

    def _begin_plain(self, request: list[bytes]) -> bool:
        """Ask the node, as for a lone one, if it is a SET or GET without options, as most are."""
        settings, key = self.front.settings, request[1]
        if self.watched or not is_usable(key, settings.bounds):
            return False
        if len(request) == 2 and request[0] in _GETS:
            slot = self.open(Access.READ)
            slot.resp3 = self.resp3
            self._get(key, partial(self._got_for, slot))
            return True
        if len(request) != 3 or request[0] not in _SETS:
            return False
        value = request[2]
        size = len(key) + len(value)
        if not self.has_room(size):
            return False  # and so it is told the general way
        slot = self.open(Access.WRITE, size)
        self.front.port.submit(Set.to(key, value), partial(self._stored_for, slot))
        return True
