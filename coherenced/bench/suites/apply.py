"""Invalidations that one node applies a second, and what each costs it.

A writer process appends records to the log as fast as the atomic script takes them, 32 to a
message as a busy daemon does; the node hears of them over the bus. Beside it: a redis-py
subscriber (asyncio) that only counts as many messages, one for each invalidation. The rate
is what writer, server and node reach together on this machine; what a second of CPU time is
worth is what the node itself can do, and what the target speaks of. Last, the core alone: no
socket, no decoding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from coherenced.bench.bare import CONNECTION, joined_node, messages, new_id
from coherenced.bench.load import fill, key, warm
from coherenced.bench.model import Context, Figure, Row, Target
from coherenced.bench.peers import FLOOD, LAST
from coherenced.bench.processes import Program, cpu_s
from coherenced.bench.rig import LASTING, Daemon, Rig
from coherenced.bench.rounds import Sample, Wanted, alone, duel
from coherenced.bench.talk import Talk, pack
from coherenced.core.calls import Delivered, Mutate
from coherenced.core.model import Mutation, Op
from coherenced.errors import CommandError
from coherenced.upstream.codec import eval_command, mutate_words
from coherenced.upstream.names import lane_names
from coherenced.upstream.scripts import MUTATE_FREEING
from coherenced.wire.message import encode_message

BATCH: Final = 32
"""Records in one message: as many as a daemon puts into one script."""
IN_FLIGHT: Final = 256
"""Records that the writer has on their way: the server never waits for it."""
LOG_LENGTH: Final = 1_000_000
"""Nothing is trimmed while it is measured."""
TARGET: Final = Target(150_000, "at least", "ours")
PEER: Final = "redis-py counting messages"
COUNTED: Final = ("drops", "gaps_found")
POLL_S: Final = 0.01
PATIENCE_S: Final = 60.0

Write = Callable[[], dict[str, float]]
"""Sends everything; see `flood`."""


def run(context: Context) -> list[Row]:
    """See the module."""
    count = context.amount(200_000, 40_000, 5_000)
    rows = []
    with Rig(context.directory) as rig:
        receiver = rig.program("peers", {"peer": "receive", "with": [str(rig.server.socket)]})
        daemon = rig.daemons(1, {**LASTING, "redis.log_length": LOG_LENGTH})[0]
        receiver.hear()
        published = packed_file(rig, "published", publications(count))
        for name, held, framing in (
            ("keys not held", False, BATCH),
            ("keys held", True, BATCH),
            ("keys not held, a message each", False, 1),
        ):
            context.say(f"{count} invalidations of {name}")
            # Each round sends the same: only a record's place in the log must be its own.
            recorded = packed_file(rig, f"recorded-{framing}", scripts(count, framing))
            write = partial(flood, rig, recorded, IN_FLIGHT // framing)
            found = duel(
                context.rounds,
                partial(_applied, rig, daemon, write, count, held),
                PEER,
                partial(_received, receiver, partial(flood, rig, published, IN_FLIGHT)),
            )
            wanted = (
                Wanted("capacity", "in a second of CPU time", "/s", TARGET),
                Wanted("rate", "writer, server and node together", "/s"),
            )
            rows += found.rows(name, wanted, _notes(found.ours))
    context.say("the core alone")
    rates = [_core(count) for _ in range(context.rounds)]
    return [*rows, alone("the core alone, keys not held", "/s", rates)]


# -- what is sent --------------------------------------------------------------------------


def scripts(count: int, framing: int, first_key: int = 0, *, want_ack: bool = False) -> list[bytes]:
    """The commands of `count` records of one key each, `framing` records in a command; before
    them the one that loads the script. `want_ack`: every node is asked to acknowledge."""
    names, writer = lane_names(0, 0), new_id()
    packed = [pack((b"SCRIPT", b"LOAD", MUTATE_FREEING.text))]
    for first in range(0, count, framing):
        mutations = tuple(
            Mutation((), op=Op.INVALIDATE, keys=(key(first_key + number),), frees_memory=True)
            for number in range(first, min(first + framing, count))
        )
        asks = (want_ack,) * len(mutations)
        tags = tuple(new_id() for _ in mutations)
        call = Mutate(1, 0, new_id(), writer, asks, mutations, tags)
        script, args = mutate_words(call, names, LOG_LENGTH)
        packed.append(eval_command(script, names, args))
    return packed


def publications(count: int) -> list[bytes]:
    """As many PUBLISH, each of a message of one record."""
    message = encode_message(messages(joined_node(), [key(0)], 1)[0])
    one = pack((b"PUBLISH", FLOOD, message))
    return [*[one] * count, pack((b"PUBLISH", FLOOD, LAST))]


def packed_file(rig: Rig, name: str, commands: list[bytes]) -> Path:
    """Commands as `flood` wants them."""
    path = rig.directory / name
    path.write_bytes(msgspec.msgpack.encode(commands))
    return path


def flood(rig: Rig, commands: Path, in_flight: int) -> dict[str, float]:
    """Send the commands; when that began, and how many seconds it took."""
    told = {
        "socket": str(rig.server.socket),
        "commands": str(commands),
        "in_flight": in_flight,
    }
    with Program("flood", told, rig.log) as sender:
        timing: dict[str, float] = sender.hear()
    return timing


# -- the turns -----------------------------------------------------------------------------


def _applied(rig: Rig, daemon: Daemon, write: Write, count: int, held: bool) -> Sample:
    """One turn of ours: from the first record to the last one that was applied."""
    with Talk(daemon.socket) as talk:
        if held:
            with rig.talk_to_server() as upstream:
                fill(upstream, count, 10)
            warm(talk, count)
        before, spent_s = talk.stats(), cpu_s(daemon.pid)
        sent = write()
        applied_s = _wait_applied(talk, before["lanes"][0]["applied"] + count)
        spent_s = cpu_s(daemon.pid) - spent_s
        after = talk.stats()
    lane = {name: after["lanes"][0][name] - before["lanes"][0][name] for name in COUNTED}
    if lane["drops"]:
        raise CommandError("the node lost its place in the log, and dropped what it held")
    if held and after["l1"]["invalidated"] - before["l1"]["invalidated"] < count:
        raise CommandError("the node did not hold what was invalidated")
    return {
        "rate": count / (applied_s - sent["started_s"]),
        "capacity": count / spent_s,
        "sent": count / sent["seconds"],
        "gaps": lane["gaps_found"],
    }


def _wait_applied(talk: Talk, seq: int) -> float:
    """When the node had applied everything up to `seq`, by the monotonic clock."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        asked_s = time.monotonic()
        if talk.stats()["lanes"][0]["applied"] >= seq:
            return asked_s
        if asked_s > until_s:
            raise CommandError(f"the node has not applied everything within {PATIENCE_S:g} s")
        time.sleep(POLL_S)


def _received(receiver: Program, write: Write) -> Sample:
    """One turn of the peer."""
    write()
    told: dict[str, Any] = receiver.hear()
    return {"rate": told["count"] / told["seconds"], "capacity": told["count"] / told["cpu_s"]}


def _notes(turns: Sequence[Sample]) -> str:
    sent = Figure.of("/s", [turn["sent"] for turn in turns])
    gaps = sum(turn["gaps"] for turn in turns)
    return f"the writer sent {sent.value:,.0f} a second; {gaps:.0f} gaps were found and repaired"


def _core(count: int) -> float:
    """Records a second through `Node.step`, of keys that are not held."""
    node = joined_node()
    given = messages(node, [key(number) for number in range(count)], BATCH)
    started_s = time.perf_counter()
    for message in given:
        node.step(Delivered(0, CONNECTION, message), 0.0)
    seconds = time.perf_counter() - started_s
    if node.lane.applied != count:
        raise CommandError("the core has not applied what it was given")
    return count / seconds
