"""A fleet's server says what the simulator's modelled Redis says, to whatever a fleet asks."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import msgspec
import pytest

from coherenced.bench.fleet.server import Executed, LaneServer
from coherenced.core.calls import (
    Call,
    Fetch,
    Leave,
    Logged,
    Mutate,
    Probe,
    Probed,
    ReadLog,
    ReadRoster,
    Reap,
    SendAck,
)
from coherenced.core.model import Acknowledgement, Member, Mutation, Op, Query
from tests.sim.redis_model import Server

EPOCH = b"00000000000000e1"
NODES = [b"%016x" % number for number in range(1, 4)]


def calls(count: int) -> list[Call]:
    """What nodes of a fleet may ask, in a random order. The first is a probe."""
    random = Random("calls of a fleet")
    tags = (b"%016x" % random.getrandbits(64) for _ in range(10 * count))
    made: list[Call] = [Probe(1, 0, EPOCH, None)]
    for number in range(2, count):
        node = random.choice(NODES)
        member = Member(node, node.decode(), 1000, number, "sim", 0)
        records = random.randint(1, 3)
        invalidation = Mutation((), op=Op.INVALIDATE, keys=(b"key:%d" % number,))
        mutate = Mutate(
            number, 0, EPOCH, node, (random.random() < 0.5,) * records, (invalidation,) * records,
            tuple(next(tags) for _ in range(records)),
        )  # fmt: skip
        made.append(
            random.choice(
                [
                    mutate,
                    mutate,
                    Probe(number, 0, EPOCH, member),
                    ReadRoster(number, 0),
                    ReadLog(number, 0, random.randint(0, 20), 5),
                    SendAck(0, node, Acknowledgement(node, "n", 0, EPOCH, number, EPOCH)),
                    Reap(0, node, 0),
                    Leave(number, 0, node),
                ]
            )
        )
    return made


def told(done: Executed) -> tuple[object, ...]:
    """Without what is each server's own: its name, and how a reply to nothing is called."""
    answer = done.answer
    if answer is not None and "server_id" in answer.__struct_fields__:
        answer = msgspec.structs.replace(answer, server_id=b"")
    if isinstance(answer, Probed):
        answer = msgspec.structs.replace(answer, roster_version=0)
    if answer is not None and "roster_version" in answer.__struct_fields__:
        answer = msgspec.structs.replace(answer, roster_version=0)
    if isinstance(answer, Logged):
        answer = msgspec.structs.replace(answer, replies=())
    if answer is not None and "done" in answer.__struct_fields__:
        plain = tuple(msgspec.structs.replace(one, reply=None) for one in answer.done)
        answer = msgspec.structs.replace(answer, done=plain)
    return (answer, done.messages, done.acks)


def test_it_answers_as_the_modelled_redis_does() -> None:
    ours, theirs = LaneServer(EPOCH), Server()
    versions: list[tuple[int, int]] = []
    for now_ms, call in enumerate(calls(600)):
        mine, other = ours.execute(call, now_ms), theirs.execute(call, now_ms)
        assert told(mine) == told(Executed(*other)), call
        versions.append((ours.roster_version, theirs.roster_version))
    changes = [
        (before[0] != after[0], before[1] != after[1]) for before, after in pairwise(versions)
    ]
    assert all(mine == other for mine, other in changes)
    assert any(mine for mine, _ in changes)


def test_a_log_that_is_lost_begins_another_epoch() -> None:
    lane = LaneServer(EPOCH)
    lane.execute(Mutate(1, 0, EPOCH, NODES[0], (False,), (Mutation(()),), (b"t" * 16,)), 0.0)
    lane.lose_log(b"00000000000000e2")
    found = lane.execute(Probe(2, 0, EPOCH, None), 1.0).answer
    assert isinstance(found, Probed)
    assert found.lineage == (b"00000000000000e2", 0, b"00000000000000e2")


def test_what_no_fleet_asks_is_refused_loudly() -> None:
    with pytest.raises(AssertionError):
        LaneServer(EPOCH).execute(Fetch(1, 0, EPOCH, (Query((b"TTL", b"k")),)), 0.0)
