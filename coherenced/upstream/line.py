"""A connection that is kept open: lost ones are made anew, for ever, with back-off and jitter.

A request meets one of three states:

    up          it is sent at once (or waits its turn while the socket takes no more)
    just lost   it waits for the connection that is being made, at most the command timeout
    down        an attempt to connect has failed: it is refused at once (`Unsent`)

so that a blip of the network costs a moment and a dead server costs nobody a wait.

A server may close what is idle for its `timeout`, and so may a load balancer: a connection on
which nothing has moved for a while is asked with a PING, more often once it was closed for that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import tenacity

from coherenced.errors import RedisUnreachable
from coherenced.upstream.connection import Callback, Pipe, dial, pack
from coherenced.upstream.faults import Lost, Unsent
from coherenced.upstream.settings import ServerSettings

MOST_WAITING: Final = 10_000
"""Requests that may wait for a connection or for room on it."""
STEADY_S: Final = 1.0
"""A connection that ends sooner counts as a failed attempt, so that it is not made in a loop."""

IDLE_S: Final = 10.0
"""A connection on which nothing has moved for so long is asked whether it is there."""
LEAST_IDLE_S: Final = 0.4
"""Nobody is asked more often than that: Redis's shortest `timeout` is a second."""

MOST_WAITING_BYTES: Final = 256 << 20
"""What they may hold together."""
MOST_EARLIER: Final = 100
"""Connections that are remembered until the server has ended them."""
Changed = Callable[[str, bool, str], None]
"""Told once per change: name of the connection, whether it is up, one line why (or where)."""
_PING: Final[bytes] = pack((b"PING",))


def backoff(settings: ServerSettings) -> tenacity.wait.wait_base:
    """How long to wait after failed attempts: exponential, with jitter."""
    first_s = settings.reconnect_min_ms / 1e3
    longest_s = settings.reconnect_max_ms / 1e3
    return tenacity.wait_exponential(multiplier=first_s, max=longest_s) + tenacity.wait_random(
        0, first_s
    )


class Dialler:
    """Connects until it succeeds; remembers quick losses and tells changes once."""

    def __init__(self, settings: ServerSettings, name: str, node: str, changed: Changed) -> None:
        self.reconnects = 0
        """Connections made after the first one."""
        self.failed: str | None = None
        """Why the last attempt failed; None while none has since the connection was lost."""
        self._settings = settings
        self._name = name
        self._title = f"coherenced:{node}:{name}"
        self._changed = changed
        self._told: bool | None = None
        self._made = 0
        self._quick_losses = 0
        self._up_since_s = 0.0
        self._hurried = asyncio.Event()

    async def connect(self, on_failure: Callable[[], None]) -> Pipe:
        """Dial until there is a connection; `on_failure` is called after each failed attempt."""
        wait = backoff(self._settings)

        def failed(state: tenacity.RetryCallState) -> None:
            assert state.outcome is not None
            self.failed = str(state.outcome.exception())
            self._tell(False, self.failed)
            on_failure()

        async for attempt in tenacity.AsyncRetrying(
            wait=wait,
            retry=tenacity.retry_if_exception_type(RedisUnreachable),
            before_sleep=failed,
            sleep=self._pause,
        ):
            with attempt:
                await self._after_quick_losses()
                pipe = await dial(self._settings, self._title)
        self._made += 1
        self.reconnects = self._made - 1
        self.failed = None
        self._up_since_s = asyncio.get_running_loop().time()
        return pipe

    def hurry(self) -> None:
        """Another connection to this server was just made: try now, not when the pause ends."""
        self._hurried.set()

    async def _pause(self, pause_s: float) -> None:
        self._hurried.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), pause_s)

    def up(self, note: str = "") -> None:
        """The connection is of use now."""
        endpoint = self._settings.endpoint()
        self._tell(True, (endpoint.unix_path or f"{endpoint.host}:{endpoint.port}") + note)

    def lost(self, reason: str) -> None:
        """The connection has ended."""
        steady = asyncio.get_running_loop().time() - self._up_since_s >= STEADY_S
        self._quick_losses = 0 if steady else self._quick_losses + 1
        self._tell(False, reason)

    async def _after_quick_losses(self) -> None:
        # The first quick loss is forgiven: a server may just have restarted.
        if self._quick_losses > 1:
            first_s = self._settings.reconnect_min_ms / 1e3
            longest_s = self._settings.reconnect_max_ms / 1e3
            await asyncio.sleep(min(longest_s, first_s * 2.0 ** min(self._quick_losses, 20)))

    def _tell(self, up: bool, detail: str) -> None:
        if up != self._told:
            self._told = up
            self._changed(self._name, up, detail)


class Line:
    """Requests on one connection that is kept open; see the module's text for the states."""

    def __init__(
        self,
        settings: ServerSettings,
        name: str,
        node: str,
        changed: Changed,
        greet: Callable[[Pipe], None] | None = None,
    ) -> None:
        self.pipe: Pipe | None = None
        """The connection, None while there is none."""
        self._dialler = Dialler(settings, name, node, changed)
        self._patience_s = settings.command_timeout_ms / 1e3
        self._greet = greet
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes, tuple[Callback, ...]]] = deque()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._idle_s = IDLE_S
        self._ended_idle = (b"", 0.0)
        """The server that the last connection led to, and the silence after which it ended."""
        self._earlier: deque[tuple[int, bytes]] = deque(maxlen=MOST_EARLIER)
        """Connections that the server may still hear, as (client id, the server's run id)."""
        self._task = self._loop.create_task(self._keep(), name=f"line-{name}")

    def hurry(self) -> None:
        """See `Dialler.hurry`."""
        self._dialler.hurry()

    @property
    def server_id(self) -> bytes:
        """The run id of the server that answers on this connection; empty while none does."""
        return self.pipe.run_id if self.pipe is not None else b""

    @property
    def reconnects(self) -> int:
        return self._dialler.reconnects

    def send(self, data: bytes, *callbacks: Callback) -> None:
        """Send packed commands; each callback gets a reply, a `Lost` or an `Unsent`."""
        pipe = self.pipe
        if pipe is not None and not self._waiting and pipe.writable:
            pipe.send(data, *callbacks)
            return
        if self._closed:
            _refuse(callbacks, "this daemon is stopping")
        elif pipe is None and self._dialler.failed is not None:
            _refuse(callbacks, self._dialler.failed)
        elif self._is_full(len(data)):
            _refuse(callbacks, "too many requests wait for the connection to Redis")
        else:
            self._waiting_bytes += len(data)
            self._waiting.append((self._loop.time() + self._patience_s, data, callbacks))
            if pipe is None and self._timer is None:
                self._timer = self._loop.call_later(self._patience_s, self._give_up)

    async def close(self) -> None:
        """End the connection and refuse what waits."""
        self._closed = True
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        pipe, self.pipe = self.pipe, None
        if pipe is not None:
            await pipe.aclose("this daemon is stopping")
        if self._timer is not None:
            self._timer.cancel()
        self._refuse_all("this daemon is stopping")

    # -- inside ----------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            pipe = await self._dialler.connect(self._attempt_failed)
            pipe.on_writable = self._flush
            self._end_earlier(pipe)
            if self._greet is not None:
                self._greet(pipe)
            self.pipe = pipe
            self._dialler.up(self._learn(pipe))
            self._flush()
            reason = await self._until_lost(pipe)
            self.pipe = None
            self._dialler.lost(reason)
            self._await_connection()

    async def _until_lost(self, pipe: Pipe) -> str:
        """Ask whenever nothing has moved for a while, until it has ended; the reason."""
        while not pipe.lost.done():
            await asyncio.wait((pipe.lost,), timeout=max(self._idle_s - pipe.silent_s, 0.01))
            if pipe.silent_s >= self._idle_s and not pipe.owed:
                pipe.send(_PING, lambda reply: None)
        self._ended_idle = (pipe.run_id, pipe.ended_after_s)
        return pipe.lost.result()

    def _learn(self, pipe: Pipe) -> str:
        """Whether it was for its silence that the last connection was closed: then the same server
        is still there. What to tell of it."""
        run_id, silent_s = self._ended_idle
        if silent_s < 2 * LEAST_IDLE_S or not run_id or run_id != pipe.run_id:
            return ""
        self._idle_s = min(self._idle_s, max(silent_s / 2, LEAST_IDLE_S))
        return (
            f"; the last connection was closed after {silent_s:.1f} s without a request: "
            f"from now on one is sent every {self._idle_s:.1f} s"
        )

    def _end_earlier(self, pipe: Pipe) -> None:
        """What went out on an earlier connection may still be on its way, and must not be carried
        out after what goes out on `pipe`: a claim that is late would bring a lease that has ended
        back to life (L1). This is said first, and again until the server has heard it."""
        for earlier in list(self._earlier):
            client_id, run_id = earlier
            if run_id == pipe.run_id:
                kill = pack((b"CLIENT", b"KILL", b"ID", client_id))
                pipe.send(kill, partial(self._ended, earlier))
            else:
                self._earlier.remove(earlier)  # of a server process that is no more
        if pipe.client_id and pipe.run_id:
            self._earlier.append((pipe.client_id, pipe.run_id))

    def _ended(self, earlier: tuple[int, bytes], reply: Any) -> None:
        if not isinstance(reply, Lost | Unsent) and earlier in self._earlier:
            self._earlier.remove(earlier)

    def _is_full(self, more_bytes: int) -> bool:
        if len(self._waiting) >= MOST_WAITING:
            return True
        return bool(self._waiting) and self._waiting_bytes + more_bytes > MOST_WAITING_BYTES

    def _attempt_failed(self) -> None:
        self._refuse_all(self._dialler.failed or "")

    def _flush(self) -> None:
        pipe, waiting = self.pipe, self._waiting
        while waiting and pipe is not None and pipe.writable:
            _, data, callbacks = waiting.popleft()
            self._waiting_bytes -= len(data)
            pipe.send(data, *callbacks)

    def _await_connection(self) -> None:
        """What waited for room on the connection now waits for a new one, for as long."""
        deadline_s = self._loop.time() + self._patience_s
        self._waiting = deque((deadline_s, data, calls) for _, data, calls in self._waiting)
        if self._waiting and self._timer is None:
            self._timer = self._loop.call_later(self._patience_s, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        if self.pipe is not None:
            return
        now_s = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now_s:
            _, data, callbacks = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            _refuse(callbacks, "Redis does not answer: connecting takes too long")
        if self._waiting:
            self._timer = self._loop.call_later(self._waiting[0][0] - now_s, self._give_up)

    def _refuse_all(self, reason: str) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        for _, _, callbacks in waiting:
            _refuse(callbacks, reason)


def _refuse(callbacks: tuple[Callback, ...], reason: str) -> None:
    for callback in callbacks:
        callback(Unsent(reason))
