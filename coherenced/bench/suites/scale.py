"""What one more node, lane, key and tag cost, measured; and what a fleet costs, computed.

Of Redis and of a node the CPU time of each step is taken by its own counter, so that it
matters little how busy the machine is. One more *node* is one more subscriber of the bus
(here: connections that throw away what they hear) and one more who asks for proof that it is
current; one more *lane* is that proof once more, from every node; one more *key* of a record
and one more *tag* of a value are bytes that Redis and each node go through.

From these `cost_model` computes fleets that no single machine can hold: CPU of Redis and of
each node, what is used up first, and what to do then. How far the computation is from the
truth is measured where it can be: three real nodes, thousands of invalidations a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Final

import msgspec

from coherenced.bench.bare import joined_node, messages, new_id
from coherenced.bench.cost_model import BOUND_S, PROBES_A_BOUND, Cost, Load, UnitCosts, cost, fit
from coherenced.bench.load import key
from coherenced.bench.model import Context, Figure, Row
from coherenced.bench.plot import bars, columns
from coherenced.bench.processes import Program, cpu_s
from coherenced.bench.rig import LASTING, Daemon, Rig, wait_until
from coherenced.bench.rounds import alone, compare
from coherenced.bench.suites.apply import packed_file, scripts
from coherenced.bench.talk import Talk, Word, pack
from coherenced.core.calls import Mutate, Probe
from coherenced.core.model import Mutation, Op
from coherenced.upstream.codec import eval_command, mutate_words, probe_args, words
from coherenced.upstream.names import lane_names
from coherenced.upstream.scripts import MUTATE_FREEING, PROBE
from coherenced.wire.message import encode_message

CHANNEL: Final = "bench:scale"
LOG_LENGTH: Final = 1_000_000
SHARED: Final = 256
"""Messages on their way at once, so that many of them share a turn of the server's loop."""
CHECKED: Final = (3, 5_000, 10)
"""Nodes, invalidations a second and records a message of the check against real daemons."""
NODES: Final = (10, 100, 1_000)
RATES: Final = (1_000, 10_000, 100_000)


def run(context: Context) -> list[Row]:
    """See the module."""
    with Rig(context.directory) as rig:
        node_rows, shared, single = _subscribers(context, rig)
        record_rows, script, record, wake = _records(context, rig)
    with Rig(context.directory) as rig:
        nodes = rig.daemons(CHECKED[0], {**LASTING, "redis.log_length": LOG_LENGTH})
        lane_rows, probe = _idle(context, rig, nodes)
        applied_rows, message, applied = _applied(context, rig, nodes[0])
        unit = UnitCosts(script, record, wake, shared, single, probe, message, applied)
        checked = _check(context, rig, nodes, unit)
        tag_rows = _tags(context, nodes[0])
    rows = [*node_rows, *lane_rows, *record_rows, *applied_rows, *tag_rows]
    return [*rows, checked, *fleets(unit)]


# -- one more node, and one more lane ---------------------------------------------------------


def _subscribers(context: Context, rig: Rig) -> tuple[list[Row], float, float]:
    """Redis's CPU for a message, by how many hear it. -> rows, and µs for one more: sharing a
    turn of the loop with others, and alone."""
    count = context.amount(10_000, 3_000, 300)
    counts = (1, 16, 64, 256, 1000) if context.full else (1, 8) if context.quick else (1, 32, 128)
    message = encode_message(messages(joined_node(), [key(0)], 1)[0])
    published = packed_file(rig, "published", [pack((b"PUBLISH", CHANNEL, message))] * count)
    rows, slopes = [], []
    for name, in_flight in (("many at once", SHARED), ("one at a time", 2)):
        points = []
        for subscribers in counts:
            context.say(f"one more node: {subscribers} subscribers, {name}")
            told = {"socket": str(rig.server.socket), "channel": CHANNEL, "count": subscribers}
            with Program("sink", told, rig.log) as sink:
                sink.hear()
                flood = partial(_flood, rig, str(published), in_flight)
                points.append((float(subscribers), _server_us(rig, flood) / count))
        slopes.append(fit(points)[1])
        drawing = bars([(f"{int(x)} nodes", y) for x, y in points], "µs a message")
        row = alone(f"one more node: Redis's CPU for a message, {name}", "µs", [slopes[-1]])
        rows.append(_drawn(row, drawing))
    return rows, slopes[0], slopes[1]


def _idle(context: Context, rig: Rig, nodes: Sequence[Daemon]) -> tuple[list[Row], float]:
    """What it costs that nodes prove themselves current, with one lane. -> rows, µs a probe."""
    count = context.amount(10_000, 3_000, 300)
    context.say("one more lane: proofs")
    probes = packed_file(rig, "probes", [*probe_commands(count)])
    probe = _server_us(rig, partial(_flood, rig, str(probes), 2)) / count
    each = alone("one more lane: Redis's CPU for a node's proof", "µs", [probe])
    seconds = 0.3 if context.quick else 2.0
    context.say("one more lane: nodes that have nothing to do")
    time.sleep(seconds / 4)  # what they do at the start has been done
    spent_s = [cpu_s(node.pid) for node in nodes]
    time.sleep(seconds)
    spent_s = [cpu_s(node.pid) - before for node, before in zip(nodes, spent_s, strict=True)]
    shares = [100 * spent / seconds for spent in spent_s]
    idle = alone("an idle node with one lane: its CPU", "percent", shares)
    return [
        each.noted(f"{PROBES_A_BOUND / BOUND_S:.0f} a second from each node"),
        idle.noted(f"of a core; {len(nodes)} nodes"),
    ], probe


def probe_commands(count: int) -> Iterator[bytes]:
    """As many probes, after what loads their script."""
    names = lane_names(0, 0)
    yield pack((b"SCRIPT", b"LOAD", PROBE.text))
    one = eval_command(PROBE, names, words(probe_args(Probe(1, 0, new_id(), None))))
    yield from repeat(one, count)


# -- one more record, and one more key ----------------------------------------------------------


def _records(context: Context, rig: Rig) -> tuple[list[Row], float, float, float]:
    """Redis's CPU for a script by its records, and for a record by its keys. -> rows, and µs of
    a script, of each record, and of being woken for a script."""
    count = context.amount(64_000, 16_000, 960)
    points = []
    for framing in _some(context, 1, 8, 32):
        context.say(f"one more record: {framing} to a message")
        commands = packed_file(rig, f"records-{framing}", scripts(count, framing))
        spent = _server_us(rig, partial(_flood, rig, str(commands), SHARED // framing))
        points.append((float(framing), spent * framing / count))
    script, record = fit(points)
    drawing = bars([(f"{int(x)} records", y) for x, y in points], "µs a script")
    rows = [_drawn(alone("one more record: Redis's CPU", "µs", [record]), drawing)]
    single = packed_file(rig, "records-alone", scripts(count // 8, 1))
    spent = _server_us(rig, partial(_flood, rig, str(single), 2)) / (count // 8)
    wake = max(0.0, spent - script - record)
    rows.append(alone("a script that finds Redis asleep: its CPU beyond that", "µs", [wake]))
    points, count = [], count // 16
    for keys in _some(context, 1, 10, 100):
        context.say(f"one more key: {keys} to a record")
        commands = packed_file(rig, f"keys-{keys}", wide_records(count, keys))
        spent = _server_us(rig, partial(_flood, rig, str(commands), 16))
        points.append((float(keys), spent / count))
    drawing = bars([(f"{int(x)} keys", y) for x, y in points], "µs a record")
    each = alone("one more key of a record: Redis's CPU", "µs", [fit(points)[1]])
    return [*rows, _drawn(each, drawing)], script, record, wake


def wide_records(count: int, keys: int) -> list[bytes]:
    """`count` commands of one record each, of so many keys."""
    names, writer = lane_names(0, 0), new_id()
    packed = [pack((b"SCRIPT", b"LOAD", MUTATE_FREEING.text))]
    for number in range(count):
        held = tuple(key((number * keys + at) % 1_000_000) for at in range(keys))
        mutation = Mutation((), op=Op.INVALIDATE, keys=held, frees_memory=True)
        call = Mutate(1, 0, new_id(), writer, (False,), (mutation,), (new_id(),))
        script, args = mutate_words(call, names, LOG_LENGTH)
        packed.append(eval_command(script, names, args))
    return packed


def _applied(context: Context, rig: Rig, daemon: Daemon) -> tuple[list[Row], float, float]:
    """A node's CPU for what it applies. -> rows, and µs of a message and of each record."""
    count = context.amount(64_000, 16_000, 960)
    rows = []
    points = _node_points(
        context,
        rig,
        daemon,
        "record",
        [(n, scripts(count, n), count) for n in _some(context, 1, 8, 32)],
    )
    message, applied = fit(points)
    drawing = bars([(f"{int(x)} records", y) for x, y in points], "µs a message")
    rows.append(_drawn(alone("one more record: a node's CPU", "µs", [applied]), drawing))
    few = count // 16
    points = _node_points(
        context,
        rig,
        daemon,
        "key",
        [(n, wide_records(few, n), few * n) for n in _some(context, 1, 10, 100)],
    )
    drawing = bars([(f"{int(x)} keys", y) for x, y in points], "µs a record")
    rows.append(
        _drawn(alone("one more key of a record: a node's CPU", "µs", [fit(points)[1]]), drawing)
    )
    return rows, message, applied


def _node_points(
    context: Context,
    rig: Rig,
    daemon: Daemon,
    what: str,
    sizes: Sequence[tuple[int, list[bytes], int]],
) -> list[tuple[float, float]]:
    """µs of a node for a message of so many records, or keys; each size, its commands, and how
    many records or keys there are in all of them."""
    points = []
    with Talk(daemon.socket) as talk:
        for size, commands, total in sizes:
            context.say(f"a node applies: {size} {what}s to a message")
            number = total // size if what == "key" else total
            until = talk.stats()["lanes"][0]["applied"] + number
            path = packed_file(rig, f"{what}-{size}", commands)
            spent_s = cpu_s(daemon.pid)
            _flood(rig, str(path), max(2, 32 // size))
            wait_until(partial(_has_applied, talk, until), "the node to apply everything")
            points.append((float(size), (cpu_s(daemon.pid) - spent_s) * 1e6 * size / total))
    return points


def _has_applied(talk: Talk, seq: int) -> bool:
    time.sleep(0.02)  # to ask costs the node time, too
    applied: int = talk.stats()["lanes"][0]["applied"]
    return applied >= seq


# -- one more tag ---------------------------------------------------------------------------------


def _tags(context: Context, daemon: Daemon) -> list[Row]:
    """A node's CPU for a write by its tags; the time of an invalidation by a tag's members."""
    count = context.amount(4_000, 1_000, 100)
    value = b"x" * 100
    points = []
    with Talk(daemon.socket) as talk:
        for tags in _some(context, 0, 4, 16):
            context.say(f"one more tag: {tags} to a value")
            names = [b"tag:%d" % number for number in range(tags)]
            words: list[Word] = ["TAGS", tags, *names] if tags else []
            spent_s = cpu_s(daemon.pid)
            for number in range(count):
                talk.ask("COH.SET", key(number), value, *words)
            points.append((float(tags), (cpu_s(daemon.pid) - spent_s) * 1e6 / count))
        drawing = bars([(f"{int(x)} tags", y) for x, y in points], "µs a write")
        each = _drawn(
            alone("one more tag of a value: a node's CPU", "µs", [fit(points)[1]]), drawing
        )
        took = []
        sizes = (10, context.amount(100_000, 10_000, 500))
        for members in sizes:
            context.say(f"a tag of {members} values")
            for first in range(0, members, 100):
                for number in range(first, min(first + 100, members)):
                    talk.send("COH.SET", key(number), value, "TAGS", 1, b"all")
                for _ in range(first, min(first + 100, members)):
                    talk.receive()
            started_s = time.perf_counter()
            talk.ask("COH.INVALIDATE", "TAGS", 1, b"all")
            took.append((time.perf_counter() - started_s) * 1e3)
    drawing = bars([(f"{n} values", ms) for n, ms in zip(sizes, took, strict=True)], "ms")
    row = compare("one invalidation of a tag", "ms", [took[1]], f"of {sizes[0]} values", [took[0]])
    return [each, _drawn(row.noted(f"ours: a tag of {sizes[1]} values"), drawing)]


# -- the model, and how true it is ---------------------------------------------------------------


def _check(context: Context, rig: Rig, daemons: Sequence[Daemon], unit: UnitCosts) -> Row:
    """Redis and three nodes at a steady pace: their CPU as it is, beside what was computed."""
    nodes, per_s, records = CHECKED
    seconds = 0.5 if context.quick else 3.0
    context.say("the model beside the truth")
    path = packed_file(rig, "steady", scripts(10_000, records))
    told = {
        "socket": str(rig.server.socket),
        "commands": str(path),
        "in_flight": 1,
        "per_s": per_s / records,
        "seconds": seconds,
    }
    with Program("flood", told, rig.log) as flood:
        flood.hear()
        server_s, node_s = cpu_s(rig.server_pid), [cpu_s(daemon.pid) for daemon in daemons]
        sent = flood.hear()
        server_s = cpu_s(rig.server_pid) - server_s
        node_s = [cpu_s(d.pid) - before for d, before in zip(daemons, node_s, strict=True)]
    found = sent["sent"] * records / sent["seconds"]
    told_by_model = cost(Load(nodes, found, 1), unit, records)
    redis = server_s / sent["seconds"]
    node = sum(node_s) / nodes / sent["seconds"]
    note = f"Redis {100 * redis:.1f} % of a core, computed {100 * told_by_model.redis_low:.1f} to "
    note += f"{100 * told_by_model.redis_high:.1f} %; a node {100 * node:.1f} %, computed "
    note += f"{100 * told_by_model.node:.1f} % and what it does when idle"
    return Row(
        name=f"Redis's CPU, {nodes} nodes, {found:,.0f} invalidations a second",
        ours=Figure.of("percent", [100 * redis]),
        peer="as computed",
        theirs=Figure.of("percent", [100 * told_by_model.redis_high]),
        ratio=Figure.of("ratio", [redis / max(told_by_model.redis_high, 1e-9)]),
        note=note,
    )


def fleets(unit: UnitCosts) -> list[Row]:
    """The table of fleets: written to by all their nodes alike, and by one of them."""
    rows = []
    for who, writers in (("all nodes write alike", None), ("one node writes", 1)):
        costs = {
            (nodes, per_s): cost(Load(nodes, per_s, writers or nodes), unit)
            for nodes in NODES
            for per_s in RATES
        }
        title = ("nodes", "invalidations/s", "records/message", "Redis, cores", "node", "out", "")
        cells = [title, *(_cells(nodes, per_s, one) for (nodes, per_s), one in costs.items())]
        # Where it first does not fit is the figure: invalidations a second with 100 nodes.
        most = capacity(100, writers, unit)
        row = alone(f"100 nodes, {who}: invalidations a second that fit", "/s", [most])
        rows.append(_drawn(row.noted("computed from the unit costs above"), columns(cells)))
    return rows


def capacity(nodes: int, writers: int | None, unit: UnitCosts) -> float:
    """The most invalidations a second (to a hundredth) at which nothing is used up."""
    low, high = 1.0, 1e7
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        if cost(Load(nodes, middle, writers or nodes), unit).limit:
            high = middle
        else:
            low = middle
    return low


def _cells(nodes: int, per_s: int, one: Cost) -> tuple[str, ...]:
    what = f"{one.limit} first: {one.advice}" if one.limit else "fits"
    return (
        f"{nodes:,}",
        f"{per_s:,}",
        f"{one.records:.0f}",
        f"{one.redis_low:.2f} to {one.redis_high:.2f}",
        f"{100 * one.node:.1f} %",
        f"{one.network_bytes_s / 1e6:,.1f} MB/s",
        what,
    )


# -- measuring -----------------------------------------------------------------------------------


def _some(context: Context, *sizes: int) -> Sequence[int]:
    """All of them, or the ends."""
    return (sizes[0], sizes[-1]) if context.quick else sizes


def _server_us(rig: Rig, action: Callable[[], object]) -> float:
    """CPU time of the server while `action` lasts, in microseconds."""
    before_s = cpu_s(rig.server_pid)
    action()
    return (cpu_s(rig.server_pid) - before_s) * 1e6


def _flood(rig: Rig, commands: str, in_flight: int) -> None:
    told = {"socket": str(rig.server.socket), "commands": commands, "in_flight": max(2, in_flight)}
    with Program("flood", told, rig.log) as flood:
        flood.hear()


def _drawn(row: Row, drawing: Sequence[str]) -> Row:
    return msgspec.structs.replace(row, drawing=tuple(drawing))
