"""The host between a node and its server: what it knows of this node's own messages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coherenced.bench.bare import new_id
from coherenced.core import calls
from coherenced.core.inputs import Tick
from coherenced.core.model import Message, Set
from coherenced.core.node import Node, Settings
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.requests import Get
from coherenced.host import LAG_WATCHED, Host
from coherenced.upstream.bus import Own, Subscriber
from coherenced.upstream.names import lane_names
from coherenced.wire.framing import pack
from coherenced.wire.message import encode_message
from tests.core.driver import EPOCH, set_to
from tests.sim.redis_model import Server


class Upstream:
    """A modelled server whose bus is the test's to deliver."""

    def __init__(self, host: Host) -> None:
        self.server = Server()
        self.host = host
        self.calls: list[Any] = []
        self.bus: list[Message] = []
        self.subscriber: Subscriber

    def call(self, call: Any) -> None:
        self.calls.append(call)
        if isinstance(call, calls.Subscribe):
            told, own = self.host.answer, Own(self.host.own_applied, self.host.own_came)
            names = lane_names(0, 0)
            self.subscriber = Subscriber(0, names, b"i" * 16, 1e3, told, lambda: None, own)
            self.subscriber.connection = call.connection
            self.host.answer(calls.Subscribed(0, call.connection))
            return
        done = self.server.execute(call, self.host.now_ms())
        self.bus += done.messages
        if done.answer is not None:
            asyncio.get_running_loop().call_soon(self.host.answer, done.answer)

    def other_writes(self) -> None:
        tag, writer = new_id(), b"%016x" % 2
        call = calls.Mutate(-1, 0, EPOCH, writer, (False,), (set_to(b"k", b"v"),), (tag,))
        self.bus += self.server.execute(call, self.host.now_ms()).messages

    def deliver(self) -> None:
        messages, self.bus = self.bus, []
        channel = lane_names(0, 0).bus
        told = [b"*" + pack([b"message", channel, encode_message(m)])[1:] for m in messages]
        self.subscriber.data_received(b"".join(told))


async def started() -> tuple[Host, Upstream]:
    settings = Settings(
        name="a", incarnation=b"%016x" % 1, namespaces=Namespaces(Policy()), gathers=True
    )
    host = Host(Node(settings, new_id), dict)
    upstream = Upstream(host)
    host.attach(upstream)  # type: ignore[arg-type]
    host.start()
    await host.wait_ready()
    return host, upstream


async def set_key(host: Host) -> None:
    told = asyncio.get_running_loop().create_future()
    host.submit(Set.to(b"mine", b"v"), told.set_result)
    assert await told == b"OK"


async def test_an_own_message_behind_one_of_another_node_is_applied_from_the_bus() -> None:
    """Its reply came first and could not move the lane: the log need not be read for it."""
    host, upstream = await started()
    upstream.other_writes()
    await set_key(host)
    assert host.node.lane.applied == 0
    upstream.deliver()
    assert host.node.lane.applied == 2
    assert not any(isinstance(call, calls.ReadLog) for call in upstream.calls)
    assert host.bus_lag.count == 1


async def test_an_own_message_that_is_applied_already_is_nothing_new() -> None:
    host, upstream = await started()
    heard: list[Any] = []
    await set_key(host)
    assert host.node.lane.applied == 1
    upstream.subscriber._answer = heard.append
    (own,) = upstream.bus
    upstream.deliver()
    assert heard == [] and host.messages == 1 and host.bus_lag.count == 1
    assert not host.own_applied, "each comes once"
    upstream.bus.append(own)
    upstream.deliver()
    host.answer(heard.pop())
    assert host.node.lane.applied == 1 and host.node.catchup.duplicates == 1
    upstream.other_writes()
    upstream.deliver()
    host.answer(heard.pop())
    assert host.node.lane.applied == 2


async def test_what_is_remembered_of_own_messages_has_a_bound() -> None:
    host, upstream = await started()
    for _ in range(LAG_WATCHED + 3):
        await set_key(host)
    assert len(host.own_applied) <= len(host._own_commits) <= LAG_WATCHED
    upstream.deliver()
    assert host.node.lane.applied == LAG_WATCHED + 3


async def test_an_answer_for_which_there_is_no_memory_keeps_nobody_else_from_theirs() -> None:
    host, _ = await started()
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    answered = asyncio.Event()

    def starved(outcome: Any) -> None:
        raise MemoryError

    for _ in range(2):
        host.get(b"k", starved)
        host.submit(Get(b"k"), starved)
    host.get(b"k", lambda outcome: answered.set())
    await asyncio.wait_for(answered.wait(), 10)
    assert [type(context["exception"]) for context in told] == [MemoryError] * 4


async def test_a_connection_whose_answer_does_not_fit_hangs_up() -> None:
    """Half of it may have left: the client would wait for the rest."""
    host, _ = await started()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: None)
    hung_up = asyncio.Event()

    class Connection:
        def __call__(self, outcome: Any) -> None:
            raise MemoryError

        def abort(self) -> None:
            hung_up.set()

    host.get(b"k", Connection())
    await asyncio.wait_for(hung_up.wait(), 10)


async def test_a_step_that_is_not_taken_to_its_end_ends_the_process() -> None:
    """What the node holds is not to be trusted any more."""
    host, _ = await started()
    ended: list[bool] = []
    host.give_up = lambda: ended.append(True)

    def starved(given: Any, now_ms: float) -> Any:
        raise MemoryError

    host.node.step = starved  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        host.give(Tick())
    assert ended
