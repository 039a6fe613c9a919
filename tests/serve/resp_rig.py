"""A RESP connection without sockets: a node behind `NodePort`, and a transport that records."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hiredis
import msgspec

from coherenced.core.bulk import bulk_of
from coherenced.core.entry import Entry
from coherenced.core.lane import Lane
from coherenced.core.model import FOREVER, Mutation, Op, Reply, ReplyError, Set, Version
from coherenced.core.requests import (
    Ask,
    AskResult,
    Fault,
    Get,
    Outcome,
    Read,
    ReadResult,
    Request,
    Source,
    Value,
    Write,
    WriteResult,
)
from coherenced.serve.resp import RespFront
from coherenced.serve.resp_connection import RespConnection
from coherenced.serve.resp_settings import RespSettings
from tests.sim.redis_commands import Keyspace

EPOCH = b"0f1e2d3c4b5a6978"


class RespPort:
    """A node over the naive key space: answers at once, or when told to.

    `hold()`: from now on callbacks wait in `held`, in the order of the requests.
    """

    def __init__(self) -> None:
        self.clock_ms = 1_000_000.0
        self.lane = Lane(0)
        self.lane.epoch = EPOCH
        self.lane.verified_at_ms = self.clock_ms
        self.space = Keyspace()
        self.l1: dict[bytes, Entry] = {}
        self.requests: list[Request] = []
        self.held: list[Callable[[], None]] | None = None
        self.fault: Fault | None = None
        self.fills = True
        """Whether a value that was read is kept in L1."""
        self.changes: dict[str, Any] = {}
        """Fields of every WriteResult to be others, for example `satisfied`."""
        self.watches: dict[int, dict[bytes, int]] = {}
        self.changed: dict[bytes, int] = {}
        self.seq = 0
        self.served = 0

    # -- NodePort ---------------------------------------------------------------------

    def now_ms(self) -> float:
        return self.clock_ms

    def hit(self, key: bytes, now_ms: float) -> Entry | None:
        entry = self.l1.get(key)
        if entry is not None:
            self.served += 1
        return entry

    def hits(self, keys: Sequence[bytes], now_ms: float) -> list[bytes]:
        bulks: list[bytes] = []
        for key in keys:
            entry = self.hit(key, now_ms)
            if entry is None:
                break
            bulks.append(entry.bulk)
        return bulks

    def submit(self, request: Request, done: Callable[[Outcome], None]) -> None:
        """Executed at once; told when it is released, as a slow network would."""
        self.requests.append(request)
        outcome = self.fault or self._outcome(request)
        self._tell(lambda: done(outcome))

    def get(self, key: bytes, done: Callable[[Outcome], None]) -> None:
        self.submit(Get(key), done)

    def watch(self, watch_id: int, keys: tuple[bytes, ...], done: Any) -> None:
        number = watch_id or len(self.watches) + 1
        if self.fault is not None:
            fault = self.fault
            self._tell(lambda: done(fault))
            return
        watched = self.watches.setdefault(number, {})
        watched.update({key: self.changed.get(key, 0) for key in keys})
        self._tell(lambda: done(number))

    def unwatch(self, watch_id: int) -> None:
        self.watches.pop(watch_id)

    def nodes(self, done: Callable[[dict[str, Any] | Fault], None]) -> None:
        answer = self.fault or {"self": "a", "nodes": [], "events": []}
        self._tell(lambda: done(answer))

    def audit(self, keys: Any, done: Callable[[dict[str, Any] | Fault], None]) -> None:
        asked = keys if isinstance(keys, int) else [key.decode() for key in keys]
        answer = self.fault or {"node": "a", "asked": asked}
        self._tell(lambda: done(answer))

    def stats(self) -> dict[str, Any]:
        return {"l1": {"hits": self.served, "max_bytes": 7}, "process": {"rss_bytes": 42}}

    def explain(self, key: bytes) -> dict[str, Any]:
        return {"key": key.decode(), "cached": key in self.l1}

    # -- moods ------------------------------------------------------------------------

    def hold(self) -> None:
        self.held = []

    def release(self, count: int | None = None) -> None:
        """Tell what was held, the oldest first; all of it: and hold no more."""
        assert self.held is not None
        told, rest = (self.held, None) if count is None else (self.held[:count], self.held[count:])
        self.held = rest
        for tell in told:
            tell()

    def _tell(self, tell: Callable[[], None]) -> None:
        if self.held is None:
            tell()
        else:
            self.held.append(tell)

    def keep(
        self,
        key: bytes,
        value: bytes | None,
        labels: tuple[bytes, ...] = (),
        left_ms: float = FOREVER,
    ) -> Entry:
        """Put an entry into L1; Redis keeps it for `left_ms`."""
        until_ms, ends_ms = self.clock_ms + 60_000.0, self.clock_ms + left_ms
        entry = Entry(key, bulk_of(value), self.lane, self.seq, until_ms, 1000.0, labels, ends_ms)
        self.l1[key] = entry
        return entry

    # -- executing --------------------------------------------------------------------

    def _outcome(self, request: Request) -> Outcome:
        if isinstance(request, Get):
            value = self._value(request.key)
            return bulk_of(value.value) if value.error is None else ReadResult((value,))
        if isinstance(request, Read):
            return ReadResult(tuple(self._value(key) for key in request.keys))
        if isinstance(request, Ask):
            return AskResult(self.space.execute(request.query.argv))
        if isinstance(request, Set):
            written = self._outcome(Write.of(request))
            assert isinstance(written, WriteResult)
            is_done = written.satisfied and written.replies == (b"OK",)
            return b"OK" if is_done else written
        assert isinstance(request, Write)
        watched = self.watches.pop(request.watch_id, {})
        if any(self.changed.get(key, 0) != seq for key, seq in watched.items()):
            return WriteResult((), None, {}, aborted=True)
        replies = tuple(self._execute(mutation) for mutation in request.mutations)
        version = Version(EPOCH, self.seq)
        result = WriteResult(replies, version, {"a": 0.0, "b": 0.4125})
        return msgspec.structs.replace(result, **self.changes)

    def _value(self, key: bytes) -> Value:
        value = self.space.string(key)
        version = Version(EPOCH, self.seq)
        if isinstance(value, ReplyError):
            return Value(None, version, Source.L2, 0.0, error=value)
        if self.fills:
            self.keep(key, value)
        return Value(value, version, Source.L2, 0.0)

    def _execute(self, mutation: Mutation) -> Reply:
        reply = self.space.execute(mutation.argv) if mutation.argv else None
        if mutation.is_write and not isinstance(reply, ReplyError):
            self.seq += 1
            self.lane.applied = self.seq
            for key in mutation.keys:
                self.changed[key] = self.seq
                self.l1.pop(key, None)
            if mutation.op == Op.FLUSH or mutation.everything:
                self.l1.clear()
        return reply


class Wire:
    """A transport that remembers. `blocked`: the client does not read."""

    def __init__(self) -> None:
        self.connection: RespConnection
        self.sent = bytearray()
        self.writes = 0
        self.buffer = bytearray()
        self.blocked = False
        self.reading = True
        self.closing = self.aborted = self.eof = False
        self.high = 65_536
        self.take_turns: Callable[[], None] = lambda: None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or self.high

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return "/run/x.sock" if name == "sockname" else default

    def write(self, data: bytes) -> None:
        assert not self.eof, "written after the end"
        if self.closing:
            return
        self.writes += 1
        if not self.blocked:
            self.sent += data
            return
        was_over = len(self.buffer) > self.high
        self.buffer += data
        if len(self.buffer) > self.high and not was_over:
            self.connection.pause_writing()

    def drain(self) -> None:
        """The client reads everything."""
        while self.buffer:
            self.sent += self.buffer
            was_over = len(self.buffer) > self.high
            self.buffer.clear()
            if was_over:
                self.connection.resume_writing()
            self.take_turns()

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self._lose()

    def abort(self) -> None:
        self.aborted = True
        self.buffer.clear()
        self._lose()

    def _lose(self) -> None:
        if not self.closing:
            self.closing = True
            self.connection.connection_lost(None)


class Timer:
    """What asyncio's `call_later` returns."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def _later(timers: list[Timer], delay_ms: float, callback: Callable[[], None]) -> Timer:
    timers.append(Timer(callback))
    return timers[-1]


class Client:
    """One connection to a front, spoken to by hand."""

    def __init__(
        self,
        port: RespPort | None = None,
        settings: RespSettings | None = None,
        front: RespFront | None = None,
    ) -> None:
        self.front = front or RespFront(port or RespPort(), settings)
        self.port: RespPort = self.front.port  # type: ignore[assignment]
        self.turns: deque[Callable[[], None]] = vars(self.front).setdefault("turns", deque())
        """What clients of this front have left for a later turn of the loop."""
        self.front.soon = self.turns.append  # type: ignore[method-assign]
        self.timers: list[Timer] = vars(self.front).setdefault("timers", [])
        """What is to happen later: see `pass_time`."""
        self.front.later = partial(_later, self.timers)  # type: ignore[assignment]
        self.wire = Wire()
        self.connection = self.front.connection()
        self.wire.connection = self.connection
        self.wire.take_turns = self.take_turns
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]

    def feed(self, data: bytes) -> None:
        """What the client sends, byte for byte; lost when the daemon does not read."""
        assert self.wire.reading, "the daemon does not read now"
        self.connection.data_received(data)
        self.take_turns()

    def pass_time(self) -> None:
        """All timers that run are due."""
        due = [timer for timer in self.timers if not timer.cancelled]
        self.timers.clear()
        for timer in due:
            timer.callback()

    def take_turns(self) -> None:
        """Until nobody has anything left."""
        while self.turns:
            self.turns.popleft()()

    def send(self, *commands: str | bytes | tuple[Any, ...]) -> None:
        """Pipelined in one chunk. A text is split at spaces."""
        self.feed(packed(*commands))

    def raw(self) -> bytes:
        """All replies since the last look."""
        self.take_turns()
        data = bytes(self.wire.sent)
        self.wire.sent.clear()
        return data

    def replies(self) -> list[Any]:
        """The same, decoded; errors as their text."""
        return decoded(self.raw())

    def ask(self, *commands: str | bytes | tuple[Any, ...]) -> Any:
        """Send, and the replies so far: one reply for one command."""
        self.send(*commands)
        replies = self.replies()
        return replies[0] if len(commands) == 1 and len(replies) == 1 else replies


def packed(*commands: str | bytes | tuple[Any, ...]) -> bytes:
    words = (c.split() if isinstance(c, str | bytes) else c for c in commands)
    return b"".join(hiredis.pack_command(tuple(w)) for w in words)


def decoded(data: bytes) -> list[Any]:
    reader = hiredis.Reader(replyError=str, notEnoughData=decoded)
    reader.feed(data)
    replies: list[Any] = []
    while (reply := reader.gets()) is not decoded:
        replies.append(reply)
    assert not reader.has_data(), "half a reply"
    return replies
