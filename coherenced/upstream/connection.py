"""One connection to the server: dialled by redis-py, then spoken on by ourselves.

redis-py opens the socket and does what must be right before the first command: TLS, ACL
or password, SELECT. Then its transport is taken over by `Pipe`, an asyncio protocol with
the C parser that answers callbacks in order: no task, no future and no lock a request,
which is what thousands of replies a turn need.

`_take_over` is the one place that touches redis-py's private attributes.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)

from coherenced import memory
from coherenced.config_values import RedisEndpoint
from coherenced.errors import ConfigError, RedisUnreachable
from coherenced.upstream.faults import Lost, Unsent, plain
from coherenced.upstream.settings import ServerSettings

Callback = Callable[[Any], None]
"""Takes a reply (None, int, bytes, list, hiredis.ReplyError), or a `Lost` or `Unsent`."""

MOST_IN_FLIGHT: Final = 10_000
"""Replies that one connection may be waiting for."""
LARGE_BYTES: Final = 1 << 20
"""A reply from which on it is looked whether there is memory for it."""
NO_ROOM: Final = "out of memory: there is no room for a reply of Redis"
WRITE_HIGH_BYTES: Final = 1 << 20
"""Unsent bytes at which a connection takes no further request for the moment."""

pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command
"""Words -> the bytes of a command."""


class Pipe(asyncio.Protocol):
    """A connected, authenticated connection: requests out, replies to callbacks in order.

    A reply that does not come within the command timeout ends the connection, for replies
    come in order and none can be skipped. The clock starts again whenever bytes move, so
    a large value may take longer than the timeout as long as it is on its way.
    """

    def __init__(self, timeout_ms: float) -> None:
        self.client_id = 0
        self.run_id = b""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with the reason, once the connection has ended. Shield it when waiting for it."""
        self.on_writable: Callable[[], None] | None = None
        self.ended_after_s = 0.0
        """How long nothing had moved when it ended; 0 where a reply was owed."""
        self.extra_ms = 0.0
        """How much longer a reply may take: for commands that block on the server."""
        self._timeout_s = timeout_ms / 1e3
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._kept: object = None
        self._reader = hiredis.Reader()
        self._waiting: deque[Callback] = deque()
        self._moved_s = 0.0
        self._coming_bytes = 0
        """What was read since the last reply that is whole."""
        self._unsent_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False

    # -- requests -----------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether a request may be sent now."""
        return not self._paused and not self.lost.done() and len(self._waiting) < MOST_IN_FLIGHT

    @property
    def owed(self) -> int:
        """How many replies have not come yet."""
        return len(self._waiting)

    @property
    def silent_s(self) -> float:
        """For how long nothing has moved (seconds)."""
        return self._loop.time() - self._moved_s

    def send(self, data: bytes, *callbacks: Callback) -> None:
        """Send one or several packed commands, with a callback for each reply."""
        transport = self._transport
        if transport is None or self.lost.done():
            for callback in callbacks:
                callback(Unsent("the connection is closed"))
            return
        if not self._waiting:
            self._moved_s = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(self._timeout_s, self._check)
        self._waiting.extend(callbacks)
        try:
            transport.write(data)
        except MemoryError:
            self.close("out of memory: a request could not be sent")

    async def ask(self, *words: bytes | str | int) -> Any:
        """Send one command and wait for its reply. RedisUnreachable when none comes."""
        answered: asyncio.Future[Any] = self._loop.create_future()

        def take(reply: Any) -> None:
            if not answered.done():
                answered.set_result(reply)

        self.send(pack(words), take)
        reply = await answered
        if isinstance(reply, Lost | Unsent):
            raise RedisUnreachable(reply.reason)
        return reply

    def close(self, reason: str) -> None:
        """End it now: every callback that waits is given a `Lost`. Harmless when it has ended."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        self.ended_after_s = 0.0 if self._waiting else self.silent_s
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for callback in waiting:
            callback(Lost(reason, self.client_id, self.run_id))

    async def aclose(self, reason: str) -> None:
        """`close`, and wait until the socket is closed."""
        self.close(reason)
        if self._transport is not None:
            await self._gone.wait()

    def hand_over(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Let `protocol` speak on this connection from now on; nothing may be waiting."""
        transport = self._transport
        assert transport is not None and not self._waiting
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        transport.set_protocol(protocol)
        return transport

    @property
    def kept(self) -> object:
        """What must live as long as the transport: its finaliser would close it."""
        return self._kept

    def _check(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        assert self._transport is not None
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent_bytes:
            self._moved_s = self._loop.time()
        self._unsent_bytes = unsent
        patience_s = self._timeout_s + self.extra_ms / 1e3
        left_s = self._moved_s + patience_s - self._loop.time()
        if left_s <= 0:
            self.close(f"no reply within {patience_s * 1e3:.0f} ms")
        else:
            self._timer = self._loop.call_later(left_s, self._check)

    # -- asyncio.Protocol -------------------------------------------------------------

    def take(self, transport: asyncio.Transport, kept: object) -> None:
        """Speak on `transport` from now on; `kept` must live as long as it."""
        self._transport = transport
        self._kept = kept
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self._moved_s = self._loop.time()
        reader, waiting = self._reader, self._waiting
        self._coming_bytes += len(data)
        try:
            reader.feed(data)
            reply = reader.gets()
            if reply is not False and self._coming_bytes > LARGE_BYTES:
                bytearray(self._coming_bytes)  # there must be room for the copy that L1 makes of it
        except MemoryError:
            self.close(NO_ROOM)
            return
        except hiredis.ProtocolError as error:
            self.close(misunderstood(error))
            return
        if reply is not False:
            self._coming_bytes = 0
        try:
            while reply is not False:
                if not waiting:
                    self.close("the server sent a reply that nobody had asked for")
                    return
                waiting.popleft()(reply)
                reply = reader.gets()
        except hiredis.ProtocolError as error:
            self.close(misunderstood(error))
            return
        if self.on_writable is not None and self.writable:
            self.on_writable()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self.on_writable is not None:
            self.on_writable()

    def eof_received(self) -> None:
        self.close("the server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self.close(f"the connection broke: {exc}" if exc else "the server closed the connection")


def misunderstood(error: hiredis.ProtocolError) -> str:
    """Why a connection ends whose replies cannot be read."""
    if memory.is_short(error):
        return NO_ROOM
    return f"the server sent bytes that are not its protocol: {error}"


def _connection(settings: ServerSettings, endpoint: RedisEndpoint) -> AbstractConnection:
    common: dict[str, Any] = {
        "db": endpoint.db,
        "username": endpoint.username or None,
        "password": endpoint.password or None,
        "socket_timeout": settings.command_timeout_ms / 1e3,
        "socket_connect_timeout": settings.connect_timeout_ms / 1e3,
        "protocol": 2,
        "retry": None,  # W3: nothing is ever repeated behind our back
        "health_check_interval": 0,
    }
    if endpoint.unix_path:
        return UnixDomainSocketConnection(path=endpoint.unix_path, **common)
    common |= {"host": endpoint.host, "port": endpoint.port, "socket_keepalive": True}
    if not endpoint.tls:
        return Connection(**common)
    for key in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
        path = getattr(settings, key)
        if path and not os.access(path, os.R_OK):
            raise ConfigError(f"redis.{key}: cannot read {path}")
    return SSLConnection(
        ssl_cert_reqs="required",
        ssl_check_hostname=settings.tls_check_hostname,
        ssl_ca_certs=settings.tls_ca_file or None,
        ssl_certfile=settings.tls_cert_file or None,
        ssl_keyfile=settings.tls_key_file or None,
        **common,
    )


def _take_over(connection: AbstractConnection, pipe: Pipe) -> None:
    """Move the socket of a connected redis-py connection to `pipe`."""
    writer = connection._writer
    assert writer is not None
    # The stream writer is kept: when it goes, it closes its transport.
    pipe.take(cast(asyncio.Transport, writer.transport), writer)
    connection._writer = connection._reader = None


async def dial(settings: ServerSettings, name: str) -> Pipe:
    """Connect, authenticate, name the connection. RedisUnreachable: one line that says why not.

    `name` is what CLIENT LIST shows. A server that hides INFO or CLIENT still serves: then
    the pipe's `run_id` or `client_id` is empty.
    """
    try:
        endpoint = settings.endpoint()
    except ConfigError as error:
        raise RedisUnreachable(str(error)) from None
    place = endpoint.unix_path or f"{endpoint.host}:{endpoint.port}"
    patience_s = (settings.connect_timeout_ms + 2 * settings.command_timeout_ms) / 1e3
    try:
        connection = _connection(settings, endpoint)
        try:
            async with asyncio.timeout(patience_s):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            await asyncio.sleep(0)  # a closed transport lets its socket go in the next turn
            raise
    except Exception as error:
        raise RedisUnreachable(explain(error, endpoint, settings)) from None
    pipe = Pipe(settings.command_timeout_ms)
    _take_over(connection, pipe)
    try:
        await _identify(pipe, name)
        _check_cancelled()
    except RedisUnreachable as error:
        raise RedisUnreachable(f"Redis at {place}: {error}") from None
    except BaseException:
        await pipe.aclose("cancelled")
        raise
    return pipe


def _check_cancelled() -> None:
    """Python 3.11's `wait_for`, which redis-py uses, can swallow a cancellation: raise it again."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _identify(pipe: Pipe, name: str) -> None:
    await pipe.ask("CLIENT", "SETNAME", re.sub(r"[^!-~]", "_", name))
    client_id = await pipe.ask("CLIENT", "ID")
    info = await pipe.ask("INFO", "server")
    if isinstance(client_id, int):
        pipe.client_id = client_id
    if isinstance(info, bytes) and (found := re.search(rb"^run_id:(\w+)", info, re.MULTILINE)):
        pipe.run_id = found[1]


_ENDED: Final = r"while writing to socket\. Connection lost|Connection closed by server"
"""What the client library makes of a server that hangs up on who has just connected."""


def explain(error: BaseException, endpoint: RedisEndpoint, settings: ServerSettings) -> str:
    """One line: what went wrong with this server and what to do. Never shows the password."""
    place = endpoint.unix_path or f"{endpoint.host}:{endpoint.port}"
    text = plain(str(error)) or type(error).__name__
    tls = _tls_cause(error)
    if isinstance(error, redis_errors.AuthenticationError) or text.startswith(
        (
            *("WRONGPASS", "NOAUTH", "Authentication required", "AUTH "),
            *("invalid username-password", "invalid password"),
        )
    ):
        who = f"user {endpoint.username!r}" if endpoint.username else "the default user"
        return f"Redis at {place} refuses {who}: check redis.username and redis.password ({text})"
    if isinstance(error, ConfigError):
        return text
    if tls is not None:
        return f"TLS with Redis at {place} failed: {tls}; check redis.tls_ca_file and the URL"
    timed_out = isinstance(error, TimeoutError | redis_errors.TimeoutError)
    if timed_out or text.startswith("Timeout "):  # redis-py wraps some, and names the place again
        hint = ": is that a TLS port?" if endpoint.tls else ""
        return f"Redis at {place} does not answer within {settings.connect_timeout_ms} ms{hint}"
    if "Invalid Database" in text or "DB index is out of range" in text:
        return f"Redis at {place} has no database {endpoint.db}: check the number in redis.url"
    if endpoint.tls and ("reset" in text.lower() or "closed" in text.lower()):
        return f"Redis at {place} ended the TLS handshake: is that a TLS port? ({text})"
    if "max number of clients" in text or re.search(_ENDED, text):
        return (
            f"Redis at {place} ends new connections at once: it may have reached its maxclients "
            f"(INFO clients tells)"
        )
    if connecting := re.match(r"Error (-?\d+) connecting to .*\. ", text):
        # The client library names the address once more, or twice: it has been said already.
        number = int(connecting[1])
        text = os.strerror(number) if number > 0 else text[connecting.end() :]
    why = text.rstrip(".")
    return f"Redis at {place} cannot be reached: {why}; check redis.url and that it is running"


def _tls_cause(error: BaseException | None) -> str | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ssl.SSLError):
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            return str(reason).replace("_", " ").lower()
        error = error.__cause__ or error.__context__
    return None
