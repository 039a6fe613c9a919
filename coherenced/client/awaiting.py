"""Machines in asyncio: tasks wait for each other's loads, refreshes are tasks of their own."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

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
from coherenced.errors import CoherencedError, LoadTimeout

T = TypeVar("T")

MAX_PENDING: Final = 64
"""Refreshes under way; past it none is begun."""


class Driver:
    """Carries out steps. `ask` sends a request and returns its result."""

    def __init__(self, ask: Callable[[Request[Any]], Awaitable[Any]]) -> None:
        self._ask = ask
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flights = Flights(asyncio.Event)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    async def run(self, machine: Machine[T]) -> T:
        """What the machine returns."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Another loop than before (or the first): what is under way there is not ours.
            self._loop, self._flights, self._tasks = loop, Flights(asyncio.Event), set()
        advance, given = machine.send, None
        try:
            while True:
                step = advance(given)
                try:
                    advance, given = machine.send, await self._carry_out(step)
                except BaseException as error:
                    advance, given = machine.throw, error
        except StopIteration as done:
            result: T = done.value
            return result

    async def close(self) -> None:
        """Refreshes under way are given up."""
        self._is_closing = True
        while self._tasks and self._loop is asyncio.get_running_loop():
            tasks = [*self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # Of tasks that have ended already, gathering waits for nothing (Python 3.12): they
            # would not have been let go yet.
            self._tasks.difference_update(tasks)

    async def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Request):
            return await self._answer(step)
        if isinstance(step, Call):
            return await self._call(step)
        if isinstance(step, Board):
            return self._flights.board(step.name)
        if isinstance(step, Await):
            return await self._await(step.flight, step.timeout_s)
        if isinstance(step, Background):
            return self._start(step.machine)
        return await self._run_together(step)

    async def _call(self, step: Call) -> Any:
        made = step.function()
        if not inspect.isawaitable(made):
            return made  # it has kept the event loop from everything else: no limit could act
        if step.timeout_s is None:
            return await made
        try:
            async with asyncio.timeout(step.timeout_s) as limit:
                return await made
        except TimeoutError:
            if limit.expired():
                raise LoadTimeout(TOO_LONG.format(step.timeout_s)) from None
            raise

    async def _answer(self, request: Request[Any]) -> Any:
        """Its answer; what came too late for a cancelled caller to use is undone."""
        undo = request.undo
        if undo is None or request.waits:  # a call that waits ends with its connection
            return await self._ask(request)
        asking = asyncio.ensure_future(self._ask(request))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            if self._is_closing:
                asking.cancel()
                self._keep(asking)
                raise
            self._keep(asyncio.ensure_future(self._undo(asking, undo)))
            raise

    async def _undo(
        self, asking: asyncio.Future[Any], undo: Callable[[Any], Request[None] | None]
    ) -> None:
        with contextlib.suppress(CoherencedError):
            request = undo(await asking)
            if request is not None:
                await self._ask(request)

    async def _await(self, flight: Flight, timeout_s: float) -> bool:
        signal = flight.signal
        assert isinstance(signal, asyncio.Event)
        try:
            async with asyncio.timeout(timeout_s):
                await signal.wait()
        except TimeoutError:
            return False
        return True

    def _start(self, machine: Machine[Any]) -> bool:
        if self._is_closing or len(self._tasks) >= MAX_PENDING:
            return False
        self._keep(asyncio.ensure_future(self.run(machine)))
        return True

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_together(self, step: Together) -> list[Any]:
        """After a failure none is begun any more; those under way go on to their end."""
        room = asyncio.Semaphore(step.limit)
        failed = False

        async def one(machine: Machine[Any]) -> Any:
            nonlocal failed
            async with room:
                if failed:
                    return None
                try:
                    return await self.run(machine)
                except BaseException:
                    failed = True
                    raise

        done = await asyncio.gather(*map(one, step.machines), return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result
        return done
