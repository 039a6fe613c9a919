"""What Redis pays for one more node, lane, record, key, proof and acknowledgement, in a stream.

Its CPU time is taken by its own counter, so that it matters little how busy the machine is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Final, NamedTuple

from coherenced.bench.bare import joined_node, messages, new_id
from coherenced.bench.cost_model import fit
from coherenced.bench.load import key
from coherenced.bench.model import Context, Row
from coherenced.bench.paces import Warm
from coherenced.bench.plot import bars
from coherenced.bench.processes import Program, cpu_s
from coherenced.bench.rig import Rig
from coherenced.bench.rounds import alone
from coherenced.bench.suites.apply import flood, packed_file, scripts
from coherenced.bench.talk import pack
from coherenced.core.calls import Mutate, Probe
from coherenced.core.model import Acknowledgement, Member, Mutation, Op
from coherenced.lab.server import free_port
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


# -- one more node, and one more lane ---------------------------------------------------------


class Listener(NamedTuple):
    """What one more costs the server, in µs."""

    copy: float
    """Each message that it hears with others, in one turn."""
    push: float
    """Being written to in a turn, over a Unix socket."""
    far: float
    """More than that, over TCP; on loopback the server pays for the receiving half, too."""


def subscribers(context: Context, rig: Rig) -> tuple[list[Row], Listener]:
    """Redis's CPU for a message, by how many hear it."""
    count = context.amount(10_000, 3_000, 300)
    counts = (1, 16, 64, 256, 1000) if context.full else (1, 8) if context.quick else (1, 32, 128)
    message = encode_message(messages(joined_node(), [key(0)], 1)[0])
    published = packed_file(rig, "published", [pack((b"PUBLISH", CHANNEL, message))] * count)
    rows, slopes = [], []
    port = _open_port(rig)
    for name, in_flight, place in (
        ("many at once", SHARED, str(rig.server.socket)),
        ("one at a time", 2, str(rig.server.socket)),
        ("one at a time, over TCP", 2, port),
    ):
        points = []
        for number in counts:
            context.say(f"one more node: {number} subscribers, {name}")
            told = {"place": place, "channel": CHANNEL, "count": number}
            with Program("sink", told, rig.log) as sink:
                sink.hear()
                publish = partial(flood, rig, published, in_flight)
                points.append((float(number), server_us(rig, publish) / count))
        slopes.append(fit(points)[1])
        drawing = bars([(f"{int(x)} nodes", y) for x, y in points], "µs a message")
        row = alone(f"one more node: Redis's CPU for a message, {name}", "µs", [slopes[-1]])
        rows.append(row.drawn(drawing))
    copy, near, far = slopes
    return rows, Listener(copy, max(0.0, near - copy), max(0.0, far - near))


def _open_port(rig: Rig) -> int:
    """Have the server listen on loopback, too; which port."""
    port = free_port()
    with rig.talk_to_server() as talk:
        talk.ask("CONFIG", "SET", "port", port)
    return port


def told(context: Context, rig: Rig) -> tuple[list[Row], float, float, float]:
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
        found.append(server_us(rig, partial(flood, rig, path, SHARED)) / number)
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


def lanes(context: Context) -> list[Row]:
    """A node's CPU, and Redis's, by how many lanes it follows that bring nothing."""
    seconds = 0.3 if context.quick else 1.2
    node: list[tuple[float, float]] = []
    server: list[tuple[float, float]] = []
    for lanes in some(context, *LANES):
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
        rows.append(row.noted("a second: its proofs, and its timers").drawn(drawing))
    return rows


# -- one more record, and one more key ----------------------------------------------------------


def records(context: Context, rig: Rig) -> tuple[list[Row], Warm]:
    """Redis's CPU for a script by its records, and for a record by its keys. -> rows, and what
    a script and a record cost in a stream of them."""
    count = context.amount(64_000, 16_000, 960)
    points = []
    for framing in some(context, 1, 8, 32):
        context.say(f"one more record: {framing} to a message")
        commands = packed_file(rig, f"records-{framing}", scripts(count, framing))
        spent = server_us(rig, partial(flood, rig, commands, SHARED // framing))
        points.append((float(framing), spent * framing / count))
    script, record = fit(points)
    drawing = bars([(f"{int(x)} records", y) for x, y in points], "µs a script")
    rows = [alone("one more record: Redis's CPU", "µs", [record]).drawn(drawing)]
    points, count = [], count // 16
    for keys in some(context, 1, 10, 100):
        context.say(f"one more key: {keys} to a record")
        commands = packed_file(rig, f"keys-{keys}", wide_records(count, keys))
        spent = server_us(rig, partial(flood, rig, commands, 16))
        points.append((float(keys), spent / count))
    drawing = bars([(f"{int(x)} keys", y) for x, y in points], "µs a record")
    each = alone("one more key of a record: Redis's CPU", "µs", [fit(points)[1]])
    return [*rows, each.drawn(drawing)], Warm(script, record)


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


# -- measuring -----------------------------------------------------------------------------------


def some(context: Context, *sizes: int) -> Sequence[int]:
    """All of them, or the ends."""
    return (sizes[0], sizes[-1]) if context.quick else sizes


def server_us(rig: Rig, action: Callable[[], object]) -> float:
    """CPU time of the server while `action` lasts, in microseconds."""
    before_s = cpu_s(rig.server_pid)
    action()
    return (cpu_s(rig.server_pid) - before_s) * 1e6
