"""What one more node, lane, key and tag cost, measured; and what a fleet costs, from counts.

Of Redis and of a node the CPU time of each step is taken by its own counter, so that it
matters little how busy the machine is. One more *node* is one more subscriber of the bus
(here: connections that throw away what they hear) and one more who asks for proof that it is
current; one more *lane* is a core, four connections and those proofs once more (`lanes`); one
more *key* of a record and one more *tag* of a value are bytes that Redis and each node go through.

With these unit costs `cost_model` says what fleets take that no single machine can hold. What a
fleet does in a second, turn by turn, is counted in virtual time with the real core (`fleet/`). How
far all that is from the truth is measured where it can be: 1 to 8 real nodes at several rates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Final

import msgspec

from coherenced.bench.bare import joined_node, messages, new_id
from coherenced.bench.cost_model import UnitCosts, fit
from coherenced.bench.fleet.table import fleets
from coherenced.bench.load import key
from coherenced.bench.model import Context, Row
from coherenced.bench.paces import Warm, curves
from coherenced.bench.plot import bars
from coherenced.bench.processes import Program, cpu_s
from coherenced.bench.rig import LASTING, Daemon, Rig, wait_until
from coherenced.bench.rounds import alone, compare
from coherenced.bench.suites.apply import packed_file, scripts
from coherenced.bench.talk import Talk, Word, pack
from coherenced.bench.truth import check
from coherenced.core.calls import Mutate, Probe
from coherenced.core.model import Acknowledgement, Member, Mutation, Op
from coherenced.upstream.codec import eval_command, mutate_words, probe_args, words
from coherenced.upstream.names import lane_names
from coherenced.upstream.scripts import MUTATE_FREEING, PROBE, ROSTER, Script
from coherenced.wire.message import encode_ack, encode_message

CHANNEL: Final = "bench:scale"
LOG_LENGTH: Final = 1_000_000
SHARED: Final = 256
"""Messages on their way at once, so that many of them share a turn of the server's loop."""
ROSTER_OF: Final = 200
LANES: Final = (1, 2, 4, 8)


def run(context: Context) -> list[Row]:
    """See the module."""
    with Rig(context.directory) as rig:
        node_rows, copy, push = _subscribers(context, rig)
        record_rows, script = _records(context, rig)
        told_rows, probe, ack, member = _told(context, rig)
        rows = [*node_rows, *record_rows, *told_rows]
    rows += _lanes(context)
    settings = {**LASTING, "redis.log_length": LOG_LENGTH}
    with Rig(context.directory) as rig:
        node = rig.daemons(1, settings)[0]
        idle = _idle_us(context, node)
        applied_rows, message = _applied(context, rig, node)
        ack_rows, sends_ack, hears_ack = _node_acks(context, rig, node)
        by_pace = curves(context, rig, node, script, message, push, idle)
        rows += [*applied_rows, *ack_rows, *by_pace.rows()]
        unit = UnitCosts(
            by_pace.wake, script.each, by_pace.record, probe, ack, member, by_pace.push, copy,
            by_pace.node_wake, message.each, by_pace.applied, sends_ack, hears_ack, idle,
        )  # fmt: skip
        rows += check(context, rig, [node], settings, unit)
        rows += _tags(context, node)
    return [*rows, *fleets(context, unit)]


# -- one more node, and one more lane ---------------------------------------------------------


def _subscribers(context: Context, rig: Rig) -> tuple[list[Row], float, float]:
    """Redis's CPU for a message, by how many hear it. -> rows, and µs for one more who hears it
    with others of the same turn, and for being written to in a turn at all."""
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
    return rows, slopes[0], max(0.0, slopes[1] - slopes[0])


def _told(context: Context, rig: Rig) -> tuple[list[Row], float, float, float]:
    """Redis's CPU for what nodes say beside their writes. -> rows, and µs of a probe, of an
    acknowledgement, and of each member of a roster that is read."""
    count = context.amount(10_000, 3_000, 300)
    found: list[float] = []
    ack = encode_ack(Acknowledgement(new_id(), "node", 0, new_id(), 1_000_000, new_id()))
    publishes = [pack((b"PUBLISH", lane_names(0, 0).ack(new_id()), ack))] * count
    for what, commands, number in (
        ("a node's proof", [*probe_commands(count)], count),
        ("an acknowledgement", publishes, count),
        ("a roster", [*roster_commands(count // 10)], count // 10),
    ):
        context.say(f"one more of {what}")
        path = packed_file(rig, f"told-{len(found)}", commands)
        found.append(_server_us(rig, partial(_flood, rig, str(path), SHARED)) / number)
    probe, ack_us, roster = found
    member = max(0.0, roster - probe) / ROSTER_OF
    return (
        [
            alone("one more proof: Redis's CPU", "µs", [probe]),
            alone("one more acknowledgement: Redis's CPU", "µs", [ack_us]),
            alone("one more member of a roster that is read: Redis's CPU", "µs", [member]),
        ],
        probe,
        ack_us,
        member,
    )


def probe_commands(count: int) -> Iterator[bytes]:
    """As many probes, each of a node that is on the roster, after what loads their script."""
    yield pack((b"SCRIPT", b"LOAD", PROBE.text))
    member = Member(new_id(), "node", 1000, 1, "bench", 0)
    yield from repeat(_one(PROBE, probe_args(Probe(1, 0, new_id(), member))), count)


def roster_commands(count: int) -> Iterator[bytes]:
    """As many reads of a roster of ROSTER_OF nodes, after what makes it."""
    yield pack((b"SCRIPT", b"LOAD", PROBE.text))
    yield pack((b"SCRIPT", b"LOAD", ROSTER.text))
    for number in range(ROSTER_OF):
        member = Member(new_id(), f"node-{number}", 1000, 1, "bench", 0)
        yield _one(PROBE, probe_args(Probe(1, 0, new_id(), member)))
    yield from repeat(_one(ROSTER, []), count)


def _one(script: Script, args: Sequence[object]) -> bytes:
    return eval_command(script, lane_names(0, 0), words(args))


def _lanes(context: Context) -> list[Row]:
    """A node's CPU, and Redis's, by how many lanes it follows that bring nothing."""
    seconds = 0.3 if context.quick else 2.0
    node: list[tuple[float, float]] = []
    server: list[tuple[float, float]] = []
    for lanes in _some(context, *LANES):
        context.say(f"one more lane: {lanes}")
        with Rig(context.directory) as rig:
            told = {"socket": str(rig.server.socket), "lanes": lanes}
            with Program("lanes", told, rig.log) as program:
                program.hear()
                time.sleep(seconds / 4)  # what it does at the start has been done
                before_s = cpu_s(program.pid), cpu_s(rig.server_pid)
                time.sleep(seconds)
                after_s = cpu_s(program.pid), cpu_s(rig.server_pid)
        for points, before, after in zip((node, server), before_s, after_s, strict=True):
            points.append((float(lanes), (after - before) * 1e3 / seconds))
    rows = []
    for who, points in (("a node", node), ("Redis", server)):
        drawing = bars([(f"{int(x)} lanes", y) for x, y in points], "ms a second")
        row = alone(f"one more lane that brings nothing: {who}'s CPU", "ms", [fit(points)[1]])
        rows.append(_drawn(row.noted("a second: its proofs, and its timers"), drawing))
    return rows


def _idle_us(context: Context, node: Daemon) -> float:
    """A node's CPU when it has nothing to do, in µs a second."""
    seconds = 0.3 if context.quick else 2.0
    context.say("a node that has nothing to do")
    time.sleep(seconds / 2)
    before_s = cpu_s(node.pid)
    time.sleep(seconds)
    return (cpu_s(node.pid) - before_s) * 1e6 / seconds


# -- one more record, and one more key ----------------------------------------------------------


def _records(context: Context, rig: Rig) -> tuple[list[Row], Warm]:
    """Redis's CPU for a script by its records, and for a record by its keys. -> rows, and what
    a script and a record cost in a stream of them."""
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
    points, count = [], count // 16
    for keys in _some(context, 1, 10, 100):
        context.say(f"one more key: {keys} to a record")
        commands = packed_file(rig, f"keys-{keys}", wide_records(count, keys))
        spent = _server_us(rig, partial(_flood, rig, str(commands), 16))
        points.append((float(keys), spent / count))
    drawing = bars([(f"{int(x)} keys", y) for x, y in points], "µs a record")
    each = alone("one more key of a record: Redis's CPU", "µs", [fit(points)[1]])
    return [*rows, _drawn(each, drawing)], Warm(script, record)


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


def _applied(context: Context, rig: Rig, daemon: Daemon) -> tuple[list[Row], Warm]:
    """A node's CPU for what it applies. -> rows, and what a message and a record cost in a stream
    of them."""
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
    each = alone("one more key of a record: a node's CPU", "µs", [fit(points)[1]])
    return [*rows, _drawn(each, drawing)], Warm(message, applied)


def _node_acks(context: Context, rig: Rig, daemon: Daemon) -> tuple[list[Row], float, float]:
    """A node's CPU for acknowledgements. -> rows, and µs of one sent, and heard."""
    count = context.amount(32_000, 8_000, 300)
    context.say("one more acknowledgement: a node")
    with Talk(daemon.socket) as talk:
        spent = []
        for want_ack in (False, True):
            until = talk.stats()["lanes"][0]["applied"] + count
            before = talk.stats()["acks"]["sent"]
            path = packed_file(rig, "asked", scripts(count, 1, want_ack=want_ack))
            spent_s = cpu_s(daemon.pid)
            _flood(rig, str(path), 2)
            wait_until(partial(_has_applied, talk, until), "the node to apply everything")
            spent.append((cpu_s(daemon.pid) - spent_s) * 1e6)
            sent = talk.stats()["acks"]["sent"] - before
        sends = max(0.0, spent[1] - spent[0]) / sent
        incarnation = talk.stats()["node"]["incarnation"].encode()
        heard = talk.stats()["acks"]["received"] + count
        ack = encode_ack(Acknowledgement(new_id(), "node", 0, new_id(), 1, new_id()))
        publish = pack((b"PUBLISH", lane_names(0, 0).ack(incarnation), ack))
        path = packed_file(rig, "acks", [publish] * count)
        spent_s = cpu_s(daemon.pid)
        _flood(rig, str(path), 32)
        wait_until(lambda: talk.stats()["acks"]["received"] >= heard, "the node to hear all")
        hears = (cpu_s(daemon.pid) - spent_s) * 1e6 / count
    return (
        [
            alone("one more acknowledgement sent: a node's CPU", "µs", [sends]),
            alone("one more acknowledgement heard: a node's CPU", "µs", [hears]),
        ],
        sends,
        hears,
    )


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
