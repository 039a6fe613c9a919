"""A quiet connection in Python, for where `_quiet.c` is not compiled: the same names and answers.

A connection is *quiet* while nothing of it is under way: no reply is owed, nothing is half read,
and no transaction, WATCH or end is near. Then what most clients send is read and answered here,
without a slot, a queue or a parser: GETs and SETs without options, in the form in which nearly all
clients send them (`wire.plain`). One that must be asked of the node makes the connection GETTING
or SETTING until its answer comes. Whatever else happens meanwhile makes it BUSY (`busy`): that
request gets a slot, and all goes the general way, until nothing is under way any more
(`resp_connection`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from coherenced.core.model import Set
from coherenced.core.requests import Outcome
from coherenced.wire import resp
from coherenced.wire.plain import PLAIN_GETS, PLAIN_HEAD, plain_gets, plain_set
from coherenced.wire.plan import OK, RESERVED_PREFIX

if TYPE_CHECKING:
    from coherenced.serve.resp import RespFront

BUSY: Final = 0
QUIET: Final = 1
GETTING: Final = 2
"""A GET is asked, and nothing else is under way."""
SETTING: Final = 3
"""A SET is asked, and nothing else is under way."""

TURN_BYTES: Final = 8192
"""Of requests that came at once: after so many the other clients have their turn."""
SLICE_BYTES: Final = 2048
"""Of a chunk that is nothing but GETs: so many are answered before the socket is given replies."""
PIECE_BYTES: Final = 256 * 1024
"""Of replies: about so much is put together and written at once, and then looked whether the client
takes it."""


_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_clock_s: Final = time.clock_gettime

_HEAD: Final = slice(0, PLAIN_HEAD)
_KEY: Final = slice(PLAIN_HEAD, -2)


def boottime_ms() -> float:
    """CLOCK_BOOTTIME in milliseconds: unlike the monotonic clock it runs on in suspend (V3)."""
    return _clock_s(_BOOTTIME) * 1e3


def piece_of(replies: Sequence[bytes]) -> int:
    """How many of them, at least one, are written at once."""
    size = 0
    for number, reply in enumerate(replies, 1):
        size += len(reply)
        if size >= PIECE_BYTES:
            return number
    return len(replies)


class Tally:
    """What a front counts of all its connections."""

    __slots__ = ("requests", "sample_at")

    def __init__(self, sample_at: int) -> None:
        self.requests = 0
        self.sample_at = sample_at
        """At so many requests the latency of hits is measured next."""


class Poller:
    """What reads the sockets of a front's connections where these are compiled. Here their
    transports do."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compiled it raises OSError where there are too many open files."""

    def close(self) -> None:
        """Nothing is read any more."""


class Quiet(asyncio.Protocol):
    """One connection, as long as it is quiet. What it is else: the class that is made of it."""

    __slots__ = (
        "_all_hit",
        "_alone_bytes",
        "_get",
        "_hit",
        "_longest_bulk",
        "_longest_key",
        "_now_ms",
        "_paused",
        "_reply_bytes",
        "_submit",
        "_transport",
        "front",
        "resp3",
        "state",
        "tally",
    )

    def __init__(self, front: RespFront) -> None:
        port = front.port
        self.front = front
        self.tally = front.tally
        self._hit, self._all_hit, self._now_ms = port.hit, port.hits, port.now_ms
        self._get, self._submit = port.get, port.submit
        self.bound()
        self.state = BUSY
        self.resp3 = False
        """The protocol in which replies are given."""
        self._transport: asyncio.Transport
        self._alone_bytes = 0
        """Of the SET that is asked: key and value."""
        self._reply_bytes = 0
        """A moving average over replies that were waited for."""
        self._paused = False
        """The client does not take its replies."""

    def bound(self) -> None:
        """Take over the bounds that the front's settings tell."""
        settings = self.front.settings
        self._longest_bulk = settings.frame.max_bulk_bytes
        self._longest_key = min(settings.bounds.max_key_bytes, self._longest_bulk)

    # -- the class that is made of it -----------------------------------------------------

    def received(self, data: bytes) -> None:
        """`data_received`, the general way."""
        raise NotImplementedError

    def open_alone(self, is_set: bool, size: int) -> None:
        """Give what is asked a slot: something else happens. `size`: of a SET's key and value."""
        raise NotImplementedError

    def fill_alone(self, outcome: Outcome) -> None:
        """The answer to what `open_alone` has given a slot."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """`received`, or what it has called, has raised this: compiled only, where no transport
        sees to it."""
        raise NotImplementedError

    # -- its socket: here it is the transport's, compiled it is read and written past that ----

    def take_socket(self) -> bool:
        """Compiled: whether the front's `Poller` is to read the socket from now on, once that is
        resumed."""
        return False

    def leave_socket(self) -> None:
        """The connection is lost."""

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def _pause_reading(self) -> None:
        self._transport.pause_reading()

    def _resume_reading(self) -> None:
        self._transport.resume_reading()

    # -- as long as it is quiet -------------------------------------------------------------

    def busy(self) -> None:
        """Whatever happens next goes the general way."""
        state = self.state
        self.state = BUSY
        if state > QUIET:
            self.open_alone(state == SETTING, self._alone_bytes)

    def data_received(self, data: bytes) -> None:
        if self.state != QUIET:
            self.busy()
            self.received(data)
            return
        size = len(data)
        if PLAIN_GETS.get(data[_HEAD]) == size:
            key, now_ms = data[_KEY], self._now_ms()
            entry = self._hit(key, now_ms)
            if entry is not None:
                bulk, tally = entry.bulk, self.tally
                tally.requests = requests = tally.requests + 1
                self._write(resp.NIL3 if self.resp3 and bulk == resp.NIL2 else bulk)
                if requests >= tally.sample_at:
                    self.front.sample(now_ms)
                return
            if key[:4] != RESERVED_PREFIX and len(key) <= self._longest_key:
                self.tally.requests += 1
                self.state = GETTING
                self._get(key, self)
                return
        elif (told := plain_set(data)) is not None:
            key, bulk = told
            if (
                key[:4] != RESERVED_PREFIX
                and len(key) <= self._longest_key
                and len(bulk) <= self._longest_bulk
            ):
                self.tally.requests += 1
                self.state = SETTING
                self._alone_bytes = len(key) + len(bulk)
                self._submit(Set(key, bulk), self)
                return
        elif done := self.leading_hits(data):
            if done == size:
                return
            data = data[done:]
        self.busy()
        self.received(data)

    def __call__(self, outcome: Outcome) -> None:
        """The node's answer to what was asked."""
        state = self.state
        if state == GETTING and outcome.__class__ is bytes:
            self.state = QUIET
            reply = resp.NIL3 if self.resp3 and outcome == resp.NIL2 else outcome
            self._reply_bytes += (len(reply) - self._reply_bytes) >> 3
            self._write(reply)
        elif state == SETTING and outcome == OK:
            self.state = QUIET
            self._reply_bytes += (len(resp.OK) - self._reply_bytes) >> 3
            self._write(resp.OK)
        else:
            self.busy()
            self.fill_alone(outcome)

    def leading_hits(self, data: bytes) -> int:
        """Answer the GETs that a chunk begins with, as long as they hit; -> where the rest begins.

        Most chunks are nothing else. No parser is needed to see that: the beginning of such
        a request tells its length.
        """
        size, done = len(data), 0
        if size > TURN_BYTES or data[_HEAD] not in PLAIN_GETS:
            return 0
        hits, now_ms, tally = self._all_hit, self._now_ms(), self.tally
        while done < size and not self._paused:
            keys, ends = plain_gets(data, done, done + SLICE_BYTES)
            bulks = hits(keys, now_ms)
            if not bulks:
                break
            number = len(bulks)
            if self.resp3 and resp.NIL2 in bulks:
                bulks = [resp.NIL3 if bulk == resp.NIL2 else bulk for bulk in bulks]
            if sum(map(len, bulks)) > PIECE_BYTES:
                number = self._write_pieces(bulks)
            else:
                self._write(b"".join(bulks))
            done = ends[number - 1]
            tally.requests += number
            if len(bulks) < len(keys):
                break
        if done and tally.requests >= tally.sample_at:
            self.front.sample(now_ms)
        return done

    def _write_pieces(self, replies: list[bytes]) -> int:
        """Write them, for as long as the client takes them: how many that were."""
        number = 0
        while number < len(replies) and not self._paused:
            start, number = number, number + piece_of(replies[number:])
            self._write(b"".join(replies[start:number]))
        return number
