"""A link driven as the core would drive it: calls in, answers awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self, TypeVar

from coherenced.config_tree import Redis
from coherenced.core.calls import (
    AckReceived,
    Answer,
    BusLost,
    Call,
    Delivered,
    Failed,
    Fetch,
    FetchedAll,
    Heard,
    Mutate,
    Mutated,
    Probe,
    Subscribe,
    Subscribed,
)
from coherenced.core.model import Member, Mutation, Query
from coherenced.core.requests import Fault
from coherenced.upstream.link import Link
from tests.upstream.lanes import EPOCH, new_tag

T = TypeVar("T")
PATIENCE_S = 10.0


def settings(url: str, **more: Any) -> Redis:
    """The section [redis] with patience fit for tests."""
    values: dict[str, Any] = {
        "connect_timeout_ms": 5000,
        "command_timeout_ms": 3000,
        "reconnect_min_ms": 5,
        "reconnect_max_ms": 50,
    }
    return Redis(url=url, **(values | more))


class Rig:
    """One link and everything it has answered."""

    def __init__(self, config: Redis, node: str = "a") -> None:
        self.incarnation = node.encode().ljust(16, b"-")
        self.changes: list[tuple[str, bool, str]] = []
        self.bus: list[Answer] = []
        """What came from the bus, in order."""
        self.calls = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._news = asyncio.Event()
        self.link = Link(config, node, self.incarnation, self._answer, self._changed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.link.close()

    # -- calls ------------------------------------------------------------------------

    def start(self, make: Callable[[int], Call]) -> asyncio.Future[Any]:
        """Make a call; its answer will be the future's result."""
        self.calls += 1
        answered = asyncio.get_running_loop().create_future()
        self._waiting[self.calls] = answered
        self.link.call(make(self.calls))
        return answered

    async def ask(self, make: Callable[[int], Call]) -> Any:
        return await asyncio.wait_for(self.start(make), PATIENCE_S)

    async def keep_asking(self, make: Callable[[int], Call]) -> Any:
        """Ask again until the answer is no `Failed`."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self.ask(make)
                if not isinstance(answer, Failed):
                    return answer
                await asyncio.sleep(0.005)

    async def probe(self, member: Member | None = None) -> Any:
        return await self.ask(lambda n: Probe(n, 0, EPOCH, member))

    def start_mutate(self, *mutations: Mutation, watch_id: int = 0) -> asyncio.Future[Any]:
        tags = tuple(new_tag() for _ in mutations)
        acks = (False,) * len(mutations)
        return self.start(
            lambda n: Mutate(n, 0, EPOCH, self.incarnation, acks, mutations, tags, watch_id)
        )

    async def mutate(self, *mutations: Mutation, watch_id: int = 0) -> Any:
        """Mutated or Failed."""
        return await asyncio.wait_for(self.start_mutate(*mutations, watch_id=watch_id), PATIENCE_S)

    async def write(self, *mutations: Mutation) -> Mutated:
        answer = await self.mutate(*mutations)
        assert isinstance(answer, Mutated), answer
        return answer

    def start_fetch(self, *items: bytes | Query) -> asyncio.Future[Any]:
        return self.start(lambda n: Fetch(n, 0, EPOCH, items))

    async def fetch(self, *items: bytes | Query) -> FetchedAll:
        answer = await asyncio.wait_for(self.start_fetch(*items), PATIENCE_S)
        assert isinstance(answer, FetchedAll), answer
        return answer

    async def watch(self, *keys: bytes, watch_id: int = 0) -> int | Fault:
        answered: asyncio.Future[int | Fault] = asyncio.get_running_loop().create_future()
        self.link.watch(watch_id, keys, answered.set_result)
        return await asyncio.wait_for(answered, PATIENCE_S)

    # -- the bus -----------------------------------------------------------------------

    async def subscribe(self, connection: int = 1) -> None:
        self.link.call(Subscribe(0, connection))
        await self.until(lambda: Subscribed(0, connection) in self.bus)

    @property
    def delivered(self) -> list[Delivered]:
        found: list[Delivered] = []
        for item in self.bus:
            if isinstance(item, Delivered):
                found.append(item)
            elif isinstance(item, Heard):
                found += [Delivered(item.lane, item.connection, m) for m in item.messages]
        return found

    async def until(self, condition: Callable[[], T], what: str = "") -> T:
        """Wait until `condition` is true, looking whenever something has come."""
        async with asyncio.timeout(PATIENCE_S):
            while not (value := condition()):
                self._news.clear()
                await self._news.wait()
            return value

    # -- what the link says ---------------------------------------------------------------

    def _answer(self, answer: Answer) -> None:
        if isinstance(answer, Subscribed | BusLost | Delivered | Heard | AckReceived):
            self.bus.append(answer)
        else:
            waiting = self._waiting.pop(answer.call_id)  # exactly one answer for each call
            if not waiting.done():
                waiting.set_result(answer)
        self._news.set()

    def _changed(self, name: str, up: bool, detail: str) -> None:
        self.changes.append((name, up, detail))
        self._news.set()
