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
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from coherenced.bench.bare import CONNECTION, joined_node, messages
from coherenced.bench.load import fill, key, warm
from coherenced.bench.model import Context, Figure, Row, Target
from coherenced.bench.processes import Program, cpu_s
from coherenced.bench.rig import LASTING, Daemon, Rig
from coherenced.bench.rounds import Sample, Wanted, alone, duel
from coherenced.bench.talk import Talk
from coherenced.core.calls import Delivered
from coherenced.errors import CommandError

BATCH: Final = 32
"""Records in one message: as many as a daemon puts into one script."""
TARGET: Final = Target(150_000, "at least", "ours")
PEER: Final = "redis-py counting messages"
COUNTED: Final = ("drops", "gaps_found")
POLL_S: Final = 0.01
PATIENCE_S: Final = 60.0


def run(context: Context) -> list[Row]:
    """See the module."""
    count = context.amount(200_000, 40_000, 5_000)
    rows = []
    settings = {**LASTING, "redis.log_length": 1_000_000}
    with Rig(context.directory) as rig:
        daemon = rig.daemons(1, settings)[0]
        spec = {"peer": "receive", "with": [str(rig.server.socket)]}
        receiver = rig.program("peers", spec)
        receiver.hear()
        for name, held, framing in (
            ("keys not held", False, BATCH),
            ("keys held", True, BATCH),
            ("keys not held, a message each", False, 1),
        ):
            context.say(f"{count} invalidations of {name}")
            found = duel(
                context.rounds,
                partial(_applied, rig, daemon, count, held, framing),
                PEER,
                partial(_received, rig, receiver, count),
            )
            wanted = (
                Wanted("capacity", "in a second of CPU time", "/s", TARGET),
                Wanted("rate", "writer, server and node together", "/s"),
            )
            rows += found.rows(name, wanted, _notes(found.ours))
    context.say("the core alone")
    rates = [_core(count) for _ in range(context.rounds)]
    return [*rows, alone("the core alone, keys not held", "/s", rates)]


def _applied(rig: Rig, daemon: Daemon, count: int, held: bool, framing: int) -> Sample:
    """One turn of ours: from the first record to the last one that was applied."""
    with Talk(daemon.socket) as talk:
        if held:
            with rig.talk_to_server() as upstream:
                fill(upstream, count, 10)
            warm(talk, count)
        before, spent_s = talk.stats(), cpu_s(daemon.pid)
        socket = str(rig.server.socket)
        spec = {"how": "mutate", "socket": socket, "count": count, "framing": framing}
        with Program("flood", spec, rig.log) as flood:
            sent = flood.hear()
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


def _received(rig: Rig, receiver: Program, count: int) -> Sample:
    """One turn of the peer."""
    spec = {"how": "publish", "socket": str(rig.server.socket), "count": count}
    with Program("flood", spec, rig.log) as flood:
        told: dict[str, Any] = receiver.hear()
        flood.hear()
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
