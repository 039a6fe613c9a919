"""A TCP and Unix proxy that can be told to misbehave, per connection and per direction.

    proxy = Proxy(target=server.socket).start()      # listens on a free TCP port
    bus = role("bus")                                 # by CLIENT SETNAME coherenced:<node>:bus
    with proxy.half_open(bus):                        # nothing comes down any more, nobody is told
        ...
    proxy.cut(bus)                                    # RST, now
    proxy.target = other.socket                       # new connections go elsewhere

Every fault is a `Rule` with an `undo`; rules apply to present and to future
connections, the latest one wins. Who a connection belongs to is known once its first
bytes carry its name; until then only rules for `everything` touch it. What a fault
*holds* is delivered after it (a partition, retransmitted by TCP); what it *swallows*
is lost, so such a connection is cut when the fault is undone.

One event loop in a thread of its own; all methods may be called from any thread and
have taken effect when they return.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Self, cast

from coherenced.lab.flows import HOLD, SWALLOW, Connection, Flow, Selector

Address = Path | tuple[str, int]
"""A Unix socket's path, or (host, port)."""

CALL_TIMEOUT_S: Final = 10.0


def everything(_: Connection) -> bool:
    """Every connection, also one that has not said its name."""
    return True


def role(*roles: str) -> Selector:
    """Connections named `coherenced:<node>:<role>` with one of these roles."""
    return lambda connection: connection.role in roles


def head_has(text: bytes) -> Selector:
    """Connections whose first bytes contain `text`."""
    return lambda connection: text in connection.head


class Rule:
    """One fault in force. A context manager: leaving it undoes it."""

    def __init__(self, proxy: Proxy, select: Selector, up: Flow | None, down: Flow | None) -> None:
        self.select = select
        self.up = up
        self.down = down
        self._proxy = proxy

    def undo(self) -> None:
        """End the fault. Harmless when it has ended."""
        self._proxy.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


class Proxy:
    """Listens on `listen` (default: a free port of 127.0.0.1) and connects to `target`."""

    def __init__(self, target: Address, listen: Address = ("127.0.0.1", 0)) -> None:
        self.target = target
        """Where new connections go; may be changed at any time."""
        self.lost_chunks = 0
        """How often `lose_every` has struck."""
        self.accepted = 0
        self._listen = listen
        # What follows belongs to the loop's thread.
        self.rules: list[Rule] = []
        self.open: dict[int, Connection] = {}
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._server: asyncio.AbstractServer | None = None
        self._held: socket.socket | None = None
        """Keeps the TCP port ours while nobody listens on it: else the system may give it away."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True, name="proxy")

    # -- life -----------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen. The port stays the same from now on."""
        self._thread.start()
        self._call(self._start_listening)
        return self

    def stop(self) -> None:
        """Cut everything and end the thread."""
        if self._thread.is_alive():
            self._call(self._close)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(CALL_TIMEOUT_S)
        self.loop.close()
        if isinstance(self._listen, Path):
            self._listen.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._listen

    @property
    def url(self) -> str:
        """Where it listens, as a Redis URL."""
        if isinstance(self._listen, Path):
            return f"unix://{self._listen}"
        return f"redis://{self._listen[0]}:{self._listen[1]}"

    # -- faults ---------------------------------------------------------------------------

    def rule(
        self, select: Selector = everything, *, up: Flow | None = None, down: Flow | None = None
    ) -> Rule:
        """From now on these connections behave so; None leaves a direction as it is."""
        rule = Rule(self, select, up, down)
        self._call(self._add, rule)
        return rule

    def cut(self, select: Selector = everything) -> int:
        """Reset these connections now; how many there were. New ones are let in."""
        return cast(int, self._call(self._cut, select))

    def delay(self, ms: float, select: Selector = everything) -> Rule:
        """Each direction takes `ms` longer; order is kept."""
        return self.rule(select, up=Flow(delay_ms=ms), down=Flow(delay_ms=ms))

    def partition(self, select: Selector = everything) -> Rule:
        """Nothing passes; it arrives when the partition has healed."""
        return self.rule(select, up=HOLD, down=HOLD)

    def black_hole(self, select: Selector = everything) -> Rule:
        """Connections are accepted and everything sent is lost, without a word."""
        return self.rule(select, up=SWALLOW, down=SWALLOW)

    def half_open(self, select: Selector = everything, *, dead: str = "down") -> Rule:
        """One direction (`up`: to the server, or `down`) is lost without a word."""
        if dead == "up":
            return self.rule(select, up=SWALLOW)
        return self.rule(select, down=SWALLOW)

    def lose_replies(self, select: Selector = everything, *, every: int = 1) -> Rule:
        """Requests arrive; every n-th reply is lost and its connection cut."""
        return self.rule(select, down=Flow(lose_every=every))

    def refuse(self) -> None:
        """Stop listening: new connections are refused. Present ones stay."""
        self._call(self._stop_listening)

    def accept(self) -> None:
        """Listen again, on the same address."""
        self._call(self._start_listening)

    def heal(self) -> None:
        """Undo every rule, and listen."""
        self._call(self._heal)
        self.accept()

    def connections(self, select: Selector = everything) -> list[Connection]:
        """Those that are open now."""
        found = self._call(lambda: [c for c in self.open.values() if select(c)])
        return cast(list[Connection], found)

    # -- in the loop's thread ----------------------------------------------------------------

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run it in the loop's thread and wait: a fault is in force when the caller goes on."""
        done: Future[Any] = Future()

        async def run() -> None:
            try:
                result = function(*args)
                done.set_result(await result if asyncio.iscoroutine(result) else result)
            except BaseException as error:
                done.set_exception(error)

        self.loop.call_soon_threadsafe(lambda: self._spawn(run()))
        return done.result(CALL_TIMEOUT_S)

    def _spawn(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_listening(self) -> None:
        if self._server is not None:
            return
        if isinstance(self._listen, Path):
            self._listen.unlink(missing_ok=True)
            self._server = await self.loop.create_unix_server(self._new, str(self._listen))
            return
        if self._held is None:
            self._held = socket.socket()
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._held.bind(self._listen)
        self._listen = host, port = self._held.getsockname()
        self._server = await self.loop.create_server(
            self._new, host, port, reuse_address=True, reuse_port=True, backlog=1024
        )

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def _close(self) -> None:
        await self._stop_listening()
        if self._held is not None:
            self._held.close()
        self._cut(everything)
        mine = asyncio.current_task()
        for task in [task for task in self._tasks if task is not mine]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task
        await asyncio.sleep(0)  # let the transports close

    def _new(self) -> asyncio.Protocol:
        self.accepted += 1
        connection = Connection(self, self.accepted)
        self.open[connection.number] = connection
        connection.apply_rules()
        return connection.client

    def connect(self, connection: Connection) -> None:
        """Open the target's side of `connection`, or reset the client's."""

        async def connect() -> None:
            try:
                if isinstance(self.target, Path):
                    await self.loop.create_unix_connection(
                        lambda: connection.server, str(self.target)
                    )
                else:
                    await self.loop.create_connection(lambda: connection.server, *self.target)
            except OSError:
                connection.abort()

        self._spawn(connect())

    def _add(self, rule: Rule) -> None:
        self.rules.append(rule)
        self._apply()

    def remove(self, rule: Rule) -> None:
        """End a rule (see `Rule.undo`)."""

        def remove() -> None:
            if rule in self.rules:
                self.rules.remove(rule)
                self._apply()

        self._call(remove)

    def _heal(self) -> None:
        self.rules.clear()
        self._apply()

    def _apply(self) -> None:
        for connection in list(self.open.values()):
            connection.apply_rules()

    def _cut(self, select: Selector) -> int:
        chosen = [c for c in self.open.values() if select(c)]
        for connection in chosen:
            connection.abort()
        return len(chosen)
