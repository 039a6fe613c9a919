"""Machines in blocking code: threads wait for each other's loads, refreshes run in a few more,
and a loader with a hard timeout in one of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import BoundedSemaphore, Event, Lock, Thread
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from coherenced.client.flights import Flight, Flights
from coherenced.client.steps import (
    TOO_LONG,
    Await,
    Background,
    Board,
    Call,
    Machine,
    Step,
    Together,
)
from coherenced.client.stream import Request
from coherenced.errors import LoadTimeout, UsageError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

LOADERS: Final = 32
"""Loaders with a hard timeout running at once, each in a thread of its own."""
THREADS: Final = 4
"""Refreshes running at once."""
MAX_PENDING: Final = 64
"""Refreshes running or waiting for a thread; past it none is begun."""


class Driver:
    """Carries out steps. `ask` sends a request and returns its result."""

    def __init__(self, ask: Callable[[Request[Any]], Any]) -> None:
        self._ask = ask
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._flights = Flights(Event)
        self._threads: ThreadPoolExecutor | None = None
        self._pending = 0
        self._lock = Lock()
        self._loaders = BoundedSemaphore(LOADERS)

    def run(self, machine: Machine[T]) -> T:
        """What the machine returns."""
        if self._pid != os.getpid():
            self._begin()  # a forked child: the parent's threads, and what they load, are not here
        advance, given = machine.send, None
        try:
            while True:
                step = advance(given)
                try:
                    advance, given = machine.send, self._carry_out(step)
                except BaseException as error:
                    advance, given = machine.throw, error
        except StopIteration as done:
            result: T = done.value
            return result

    def close(self) -> None:
        """Refreshes that have not begun never will; those that run are waited for."""
        threads, self._threads = self._threads, None
        if threads is not None and self._pid == os.getpid():
            threads.shutdown(wait=True, cancel_futures=True)

    def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Request):
            return self._ask(step)
        if isinstance(step, Call):
            within_s = step.timeout_s
            made = step.function() if within_s is None else self._call(step.function, within_s)
            if isinstance(made, CoroutineType):
                made.close()
                raise UsageError("a loader that is a coroutine function is for AsyncClient")
            return made
        if isinstance(step, Board):
            return self._flights.board(step.name)
        if isinstance(step, Await):
            return self._await(step.flight, step.timeout_s)
        if isinstance(step, Background):
            return self._start(step.machine)
        return self._run_together(step)

    def _call(self, function: Callable[[], Any], within_s: float) -> Any:
        """What it returns, from a thread of its own: Python cannot interrupt one. A loader that
        hangs keeps its thread, and its place; none of them keeps the process from ending."""
        from contextvars import copy_context

        started = time.monotonic()
        room = self._loaders
        if not room.acquire(timeout=within_s):
            raise LoadTimeout(f"{LOADERS} loaders with a hard_timeout are running already")
        ended, context = Event(), copy_context()
        result: list[Any] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                result.append(context.run(function))
            except BaseException as error:
                raised.append(error)
            finally:
                room.release()
                ended.set()

        try:
            Thread(target=run, name="coherenced-loader", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter is going down
            room.release()
            raise
        if not ended.wait(max(0.0, started + within_s - time.monotonic())):
            raise LoadTimeout(TOO_LONG.format(within_s))
        if raised:
            raise raised[0]
        return result[0]

    def _await(self, flight: Flight, timeout_s: float) -> bool:
        signal = flight.signal
        assert isinstance(signal, Event)
        return signal.wait(timeout_s)

    def _start(self, machine: Machine[Any]) -> bool:
        from concurrent.futures import ThreadPoolExecutor  # loaded only here: seldom needed
        from contextvars import copy_context

        with self._lock:
            if self._pending >= MAX_PENDING:
                return False
            self._pending += 1
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, "coherenced-refresh")
        try:
            self._threads.submit(copy_context().run, self._finish, machine)
        except RuntimeError:  # the interpreter, or this client, is going down
            self._ended()
            return False
        return True

    def _finish(self, machine: Machine[Any]) -> None:
        try:
            self.run(machine)
        finally:
            self._ended()

    def _ended(self) -> None:
        with self._lock:
            self._pending -= 1

    def _run_together(self, step: Together) -> list[Any]:
        """After a failure none is begun any more; those under way go on to their end."""
        if len(step.machines) == 1 or step.limit == 1:
            return [self.run(machine) for machine in step.machines]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(step.limit, "coherenced-warm") as threads:
            futures = [threads.submit(self.run, machine) for machine in step.machines]
            try:
                return [future.result() for future in futures]
            finally:
                threads.shutdown(wait=True, cancel_futures=True)
