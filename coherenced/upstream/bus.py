"""The subscription: the lane's channel and this node's own acknowledgements, on one connection.

Receiving is the hottest path of a quiet node, so it is one loop from the bytes to the
callback: parser, decoder, callback, nothing between. What is malformed or forged is
counted and dropped (the chain of tags decides later what is believed). When much has come
at once it is taken in slices: between two of them every client has its turn, and nothing
more is read from the bus, so that what waits stays with the server.

Pub/sub loses silently, so silence is not trusted: a connection that has brought nothing
for a second is asked, and ended when it does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

import hiredis

from coherenced.core.calls import (
    AckReceived,
    Answer,
    BusLost,
    Delivered,
    Heard,
    Subscribed,
)
from coherenced.core.model import Message
from coherenced.errors import ProtocolError, RedisUnreachable
from coherenced.upstream.connection import Pipe, misunderstood, pack
from coherenced.upstream.faults import plain
from coherenced.upstream.line import Changed, Dialler
from coherenced.upstream.names import LaneNames
from coherenced.upstream.settings import ServerSettings
from coherenced.wire.message import decode_ack, decode_message, told_tag

SILENCE_S: Final = 1.0
"""A bus that has brought nothing for so long is asked whether it is there."""

SLICE_RECORDS: Final = 128
"""Messages and their records handed over before clients have their turn: what a hit may have to
wait for, some 0.3 ms."""

_PING: Final[bytes] = pack((b"PING",))


class Own(NamedTuple):
    """This node's own messages, as far as it has applied what they tell: nobody else hears them."""

    tags: Collection[bytes]
    """The last tag of each that has not come yet."""
    came: Callable[[bytes], None]
    heard: Callable[[int], None] = lambda octets: None
    """Told how many bytes of the bus have come, everybody's messages counted."""


class Subscriber(asyncio.Protocol):
    """Speaks on a connection from its SUBSCRIBE on."""

    def __init__(
        self,
        lane: int,
        names: LaneNames,
        incarnation: bytes,
        timeout_ms: float,
        answer: Callable[[Answer], None],
        on_confirmed: Callable[[], None],
        own: Own | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.connection = 0
        """The core's number of this connection, once it is subscribed."""
        self.confirmed: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.malformed = 0
        self._lane = lane
        self._channels = (names.bus, names.ack(incarnation))
        self._timeout_s = timeout_ms / 1e3
        self._answer = answer
        self._on_confirmed = on_confirmed
        self._own = own or Own(set(), lambda tag: None)
        self._loop = loop
        self._unconfirmed = set(self._channels)
        self._reader = hiredis.Reader()
        self._heard_s = loop.time()
        self._pinged_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._gone = asyncio.Event()
        self._kept: object = None
        self._rest: asyncio.Handle | None = None
        """The next slice of what was read; until it has been taken nothing more is read."""

    def take(self, pipe: Pipe) -> None:
        """Take `pipe`'s connection and subscribe on it."""
        self._kept = pipe.kept
        self._transport = pipe.hand_over(self)
        self._heard_s = self._loop.time()
        self._transport.write(pack((b"SUBSCRIBE", *self._channels)))
        self._timer = self._loop.call_later(SILENCE_S, self._check)

    def close(self, reason: str) -> None:
        """End the connection. Harmless when it has ended."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if not self.confirmed.done():
            self.confirmed.set_exception(RedisUnreachable(reason))
            self.confirmed.exception()  # whoever waits is told; nobody waiting is fine
        if self._timer is not None:
            self._timer.cancel()
        if self._rest is not None:
            self._rest.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def aclose(self, reason: str) -> None:
        """`close`, and wait until the socket is closed."""
        self.close(reason)
        if self._transport is not None:
            await self._gone.wait()

    def _check(self) -> None:
        now_s = self._loop.time()
        assert self._transport is not None
        if self._pinged_s > self._heard_s:
            next_s = self._pinged_s + self._timeout_s - now_s
            if next_s <= 0:
                self.close(f"the bus was silent for {SILENCE_S + self._timeout_s:.1f} s")
                return
        elif (next_s := self._heard_s + SILENCE_S - now_s) <= 0:
            self._transport.write(_PING)
            self._pinged_s = now_s
            next_s = self._timeout_s
        self._timer = self._loop.call_later(next_s, self._check)

    # -- asyncio.Protocol --------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        self._own.heard(len(data))
        try:
            self._reader.feed(data)
        except hiredis.ProtocolError as error:
            self._misunderstood(error)
            return
        if self._rest is None and self._take_slice() and self._transport is not None:
            self._transport.pause_reading()
            self._rest = self._loop.call_soon(self._take_rest)

    def _take_rest(self) -> None:
        self._heard_s = self._loop.time()
        if self._take_slice():
            self._rest = self._loop.call_soon(self._take_rest)
            return
        self._rest = None
        if self._transport is not None and not self.lost.done():
            self._transport.resume_reading()

    def _take_slice(self) -> bool:
        """Hand over what was read, as far as one slice goes; whether there may be more."""
        gets, lane, bus = self._reader.gets, self._lane, self._channels[0]
        own, came, _ = self._own
        heard: list[Message] = []
        left = SLICE_RECORDS
        try:
            while left > 0 and (item := gets()) is not False:
                left -= 1
                if item.__class__ is not list or len(item) != 3:
                    self._other(item)
                elif item[0] != b"message" or item[1] != bus:
                    self._tell(heard)
                    self._push(*item)
                else:
                    payload = item[2]
                    if own and (tag := told_tag(payload)) in own:
                        came(tag)
                        continue
                    try:
                        message = decode_message(payload)
                    except ProtocolError:
                        self.malformed += 1
                        continue
                    if message.lane == lane:
                        heard.append(message)
                        left -= len(message.records)
                    else:
                        self.malformed += 1
        except hiredis.ProtocolError as error:
            self._tell(heard)
            self._misunderstood(error)
        self._tell(heard)
        return left <= 0 and not self.lost.done()

    def _misunderstood(self, error: hiredis.ProtocolError) -> None:
        self.close(misunderstood(error))

    def _tell(self, heard: list[Message]) -> None:
        """Hand these over, in one piece where there are several."""
        if len(heard) == 1:
            self._answer(Delivered(self._lane, self.connection, heard[0]))
        elif heard:
            self._answer(Heard(self._lane, self.connection, tuple(heard)))
        heard.clear()

    def _other(self, item: Any) -> None:
        """What is not about a channel: the reply to PING, or an error."""
        if isinstance(item, hiredis.ReplyError):
            self.close(plain(str(item)))

    def _push(self, kind: bytes, channel: bytes, payload: Any) -> None:
        """What is about a channel but not the lane's message: acknowledgements, confirmations."""
        if kind == b"message" and channel == self._channels[1]:
            try:
                ack = decode_ack(payload)
            except ProtocolError:
                self.malformed += 1
                return
            self._answer(AckReceived(ack))
        elif kind == b"subscribe":
            self._unconfirmed.discard(channel)
            if not self._unconfirmed and not self.confirmed.done():
                self.confirmed.set_result(None)
                self._on_confirmed()
        elif kind == b"unsubscribe":
            self.close("the server ended the subscription")

    def eof_received(self) -> None:
        self.close("the server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self.close(f"the connection broke: {exc}" if exc else "the server closed the connection")


class Bus:
    """The lane's subscription as the core knows it: numbered connections, opened when asked."""

    def __init__(
        self,
        settings: ServerSettings,
        lane: int,
        names: LaneNames,
        node: str,
        incarnation: bytes,
        answer: Callable[[Answer], None],
        changed: Changed,
        own: Own | None,
    ) -> None:
        self._settings = settings
        self._own = own
        self._lane = lane
        self._names = names
        self._incarnation = incarnation
        self._answer = answer
        self._dialler = Dialler(settings, "bus", node, changed)
        self._subscriber: Subscriber | None = None
        self._task: asyncio.Task[None] | None = None
        self._malformed = 0

    @property
    def malformed(self) -> int:
        """Messages that were not ones, since the start."""
        return self._malformed + (self._subscriber.malformed if self._subscriber else 0)

    def hurry(self) -> None:
        """See `Dialler.hurry`."""
        self._dialler.hurry()

    @property
    def reconnects(self) -> int:
        return self._dialler.reconnects

    def open(self, connection: int) -> None:
        """Open the bus as connection number `connection`, closing the one before."""
        self._end("another one is opened")
        self._task = asyncio.get_running_loop().create_task(self._run(connection), name="bus")

    async def close(self) -> None:
        """End it."""
        task, subscriber = self._task, self._subscriber
        self._end("this daemon is stopping")
        if task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if subscriber is not None:
            await subscriber.aclose("this daemon is stopping")

    def _end(self, reason: str) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._subscriber is not None:
            self._malformed += self._subscriber.malformed
            self._subscriber.close(reason)
            self._subscriber = None

    async def _run(self, connection: int) -> None:
        subscriber = await self._subscribe(connection)
        reason = await asyncio.shield(subscriber.lost)
        if self._subscriber is not subscriber:
            return  # the core has asked for another one
        self._dialler.lost(reason)
        self._answer(BusLost(self._lane, connection, reason))

    async def _subscribe(self, connection: int) -> Subscriber:
        """Try until the server has confirmed both channels."""

        def confirmed() -> None:
            self._dialler.up()
            self._answer(Subscribed(self._lane, connection))

        while True:
            pipe = await self._dialler.connect(lambda: None)
            subscriber = Subscriber(
                self._lane,
                self._names,
                self._incarnation,
                self._settings.command_timeout_ms,
                self._answer,
                confirmed,
                self._own,
            )
            subscriber.connection = connection
            self._subscriber = subscriber
            subscriber.take(pipe)
            try:
                async with asyncio.timeout(self._settings.command_timeout_ms / 1e3):
                    await asyncio.shield(subscriber.confirmed)
            except (RedisUnreachable, TimeoutError) as error:
                reason = str(error) or "the subscription was not confirmed in time"
                self._malformed += subscriber.malformed
                subscriber.close(reason)
                self._subscriber = None
                self._dialler.lost(reason)
            else:
                return subscriber
