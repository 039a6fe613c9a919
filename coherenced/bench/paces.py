"""What a message costs Redis and a node by how long they had slept before it came.

A process that has slept finds its caches and its core cold, and pays for being woken: its costs at
a hundred messages a second are not those of a stream. So commands are sent at a steady pace, the
server's own count of its turns is read beside its CPU time, and the same is done at several paces,
up to one that leaves it no rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from coherenced.bench.cost_model import (
    LEAST_REST_US,
    Rested,
)
from coherenced.bench.model import Context, Row
from coherenced.bench.plot import bars
from coherenced.bench.processes import Program, cpu_s
from coherenced.bench.rig import Daemon, Rig
from coherenced.bench.rounds import alone
from coherenced.bench.suites.apply import packed_file, scripts
from coherenced.bench.talk import pack
from coherenced.upstream.names import lane_names

PACES: Final = (100.0, 400.0, 1_500.0, 6_000.0)
FLAT_OUT: Final = 1e6
"""The next command is always there."""
SCRIPTS: Final = 16_000
TRIES: Final = 3
EVEN: Final = 0.8
"""Turns a script: fewer, and they have left in bursts."""
FEW: Final = b"bench:few0000"
MANY: Final = b"bench:many000"
"""Channels, as long as the lane's own."""
FEW_LISTEN: Final = 8
MANY_LISTEN: Final = 64
WIDER: Final = 2
"""Messages of many records come at a pace so many times slower."""
ROUNDS: Final = 20
RECORDS: Final = 8
CRON_S: Final = 10.0
"""Turns that the server makes of itself a second."""


class Steady(NamedTuple):
    """One second at a steady pace."""

    records: int
    """In each script."""
    scripts: float
    turns: float
    """Of the server's loop."""
    server_us: float
    node_us: tuple[float, ...]
    """Of each node that was watched."""

    @property
    def rest_us(self) -> float:
        """How long the server slept before a turn, on average."""
        return (1e6 - self.server_us) / self.turns

    @property
    def node_turns(self) -> float:
        """What the server sends in one turn of its own, a node hears in one."""
        return min(self.scripts, self.turns)

    @property
    def node_rest_us(self) -> float:
        return (1e6 - self.node_us[0]) / self.node_turns


class Curves(NamedTuple):
    """Unit costs by how long the process had slept; see `cost_model`."""

    wake: Rested
    record: Rested
    push: Rested
    node_wake: Rested
    applied: Rested

    def rows(self) -> list[Row]:
        """Each as it is after the longest rest, with all of it drawn."""
        named = (
            ("Redis is woken for a turn", self.wake),
            ("one more record, Redis", self.record),
            ("one more node, Redis", self.push),
            ("a node is woken for a message", self.node_wake),
            ("one more record, a node", self.applied),
        )
        rows = []
        for name, curve in named:
            points = [(f"after {rest_us:,.0f} µs of rest", us) for rest_us, us in curve.points]
            row = alone(
                f"{name}: CPU after {curve.points[-1][0] / 1e3:.0f} ms of rest",
                "µs",
                [curve.points[-1][1]],
            )
            rows.append(row.drawn(bars(points, "µs")))
        return rows


def steady(
    rig: Rig,
    records: int,
    per_s: float,
    seconds: float,
    daemons: Sequence[Daemon],
    channel: bytes = b"",
) -> Steady:
    """So many scripts a second, of so many records each, on a connection of their own. On a busy
    machine they may leave in bursts: it is tried again, and the steadiest is what counts."""
    found = []
    for _ in range(TRIES):
        found.append(_steady(rig, records, per_s, seconds, daemons, channel))
        if per_s == FLAT_OUT or found[-1].turns > EVEN * per_s:
            break
    return max(found, key=lambda one: one.turns)


def _steady(
    rig: Rig,
    records: int,
    per_s: float,
    seconds: float,
    daemons: Sequence[Daemon],
    channel: bytes,
) -> Steady:
    path = rig.directory / f"steady-{records}{channel.decode()}"
    if not path.exists():
        commands = scripts(max(2_000 * records, SCRIPTS), records)
        if channel:  # in a database of its own, which no node follows
            own = lane_names(0, 0).bus
            commands = [pack((b"SELECT", 1)), *(_to(channel, own, one) for one in commands[1:])]
        packed_file(rig, path.name, commands)
    told: dict[str, object] = {
        "socket": str(rig.server.socket),
        "commands": str(path),
        "in_flight": 2,
    }
    if per_s != FLAT_OUT:
        told |= {"per_s": per_s, "seconds": seconds}
    pids = (rig.server_pid, *(daemon.pid for daemon in daemons))
    with Program("flood", told, rig.log) as flood, rig.talk_to_server() as talk:
        if per_s != FLAT_OUT:
            flood.hear()
        turns = int(talk.info("stats").get("eventloop_cycles", 0))
        before_s = [cpu_s(pid) for pid in pids]
        sent = flood.hear()
        after_s = [cpu_s(pid) for pid in pids]
        turns = int(talk.info("stats").get("eventloop_cycles", 0)) - turns
    sent.setdefault("sent", max(2_000, SCRIPTS // records))
    spent = [
        (after - before) * 1e6 / sent["seconds"]
        for after, before in zip(after_s, before_s, strict=True)
    ]
    scripts_s = sent["sent"] / sent["seconds"]
    # A server that does not count its turns makes one for each command.
    turns_s = turns / sent["seconds"] if turns else scripts_s
    return Steady(records, scripts_s, turns_s, spent[0], tuple(spent[1:]))


def curves(
    context: Context, rig: Rig, daemon: Daemon, server: Warm, node: Warm, push: float, idle: float
) -> Curves:
    """Measure them all, of one node that follows. `push`: µs for one more who listens, in a stream;
    `idle`: µs a second of the node without any message."""
    seconds = 0.2 if context.quick else 0.6
    paces = (PACES[0], FLAT_OUT) if context.quick else (*PACES, FLAT_OUT)
    narrow, wide = [], []
    for pace in paces * (1 if context.quick else 2):
        context.say(f"the cost of {pace:,.0f} messages a second")
        narrow.append(steady(rig, 1, pace, seconds, [daemon]))
        wide.append(
            steady(rig, RECORDS, pace / WIDER if pace != FLAT_OUT else pace, seconds, [daemon])
        )
    pushes = _pushes(context, rig, push)
    wake, record = solved(_of_server(narrow, pushes), _of_server(wide, pushes), server)
    node_wake, applied = solved(_of_node(narrow, idle), _of_node(wide, idle), node)
    return Curves(wake, record, pushes, node_wake, applied)


def _pushes(context: Context, rig: Rig, warm: float) -> Rested:
    """What one more costs who listens, in turns with few of them and with many. They are
    connections of one process: a node on another host is not woken by the server either."""
    seconds, rounds = (0.2, 1) if context.quick else (0.4, 3)
    points = [(LEAST_REST_US, warm)]
    with contextlib.ExitStack() as last:
        for channel, count in ((FEW, FEW_LISTEN), (MANY, MANY_LISTEN)):
            told = {"place": str(rig.server.socket), "channel": channel.decode(), "count": count}
            last.enter_context(Program("sink", told, rig.log)).hear()
        for pace in (PACES[0],) if context.quick else PACES[:-1]:
            context.say(f"the cost of {pace:,.0f} messages a second to who listens")
            each, rests = [], []
            for _ in range(rounds):
                few, many = (steady(rig, 1, pace, seconds, [], name) for name in (FEW, MANY))
                more = many.server_us / many.turns - few.server_us / few.turns
                each.append(max(warm, more / (MANY_LISTEN - FEW_LISTEN)))
                rests.append(many.rest_us)
            points.append((median(rests), median(each)))
    return Rested(points)


def _of_server(found: Sequence[Steady], push: Rested) -> list[Spent]:
    return [
        Spent(
            one.rest_us,
            one.turns,
            one.scripts,
            one.scripts * one.records,
            one.server_us - one.turns * push.at(one.rest_us),
        )
        for one in found
    ]


def _of_node(found: Sequence[Steady], idle: float) -> list[Spent]:
    return [
        Spent(
            one.node_rest_us,
            one.node_turns,
            one.scripts,
            one.scripts * one.records,
            one.node_us[0] - idle,
        )
        for one in found
    ]


class Warm(NamedTuple):
    """What a process pays, in µs, for a script (or a message) and for a record of a stream."""

    each: float
    record: float


class Spent(NamedTuple):
    """One second of one process."""

    rest_us: float
    turns: float
    each: float
    records: float
    us: float


def solved(narrow: Sequence[Spent], wide: Sequence[Spent], warm: Warm) -> tuple[Rested, Rested]:
    """What a turn costs, and what a record, after each rest: the same two costs must explain the
    seconds of one record to a message and those of many. Each in turn is taken for known."""
    record = Rested([(LEAST_REST_US, warm.record)])
    for _ in range(ROUNDS):
        wake = Rested([(one.rest_us, _left(one, record, warm) / one.turns) for one in narrow])
        record = Rested(
            [
                (one.rest_us, max(warm.record / 2, _unexplained(one, wake, warm) / one.records))
                for one in wide
            ]
        )
    return wake, record


def _left(one: Spent, record: Rested, warm: Warm) -> float:
    return max(0.0, one.us - one.each * warm.each - one.records * record.at(one.rest_us))


def _unexplained(one: Spent, wake: Rested, warm: Warm) -> float:
    return one.us - one.each * warm.each - one.turns * wake.at(one.rest_us)


def _to(channel: bytes, own: bytes, command: bytes) -> bytes:
    """The same command, that tells another channel of the same length."""
    assert len(channel) == len(own)
    return command.replace(own, channel)
