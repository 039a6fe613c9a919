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
from collections.abc import Sequence
from functools import partial

from coherenced.bench.bare import new_id
from coherenced.bench.cost_model import UnitCosts, fit
from coherenced.bench.fleet.table import fleets
from coherenced.bench.load import key
from coherenced.bench.model import Context, Row
from coherenced.bench.paces import Warm, curves
from coherenced.bench.plot import bars
from coherenced.bench.processes import cpu_s
from coherenced.bench.rig import LASTING, Daemon, Rig, wait_until
from coherenced.bench.rounds import alone, compare
from coherenced.bench.server_costs import (
    LOG_LENGTH,
    lanes,
    records,
    some,
    subscribers,
    told,
    wide_records,
)
from coherenced.bench.suites.apply import flood, packed_file, scripts
from coherenced.bench.talk import Talk, Word, pack
from coherenced.bench.truth import check
from coherenced.core.model import Acknowledgement
from coherenced.upstream.names import lane_names
from coherenced.wire.message import encode_ack


def run(context: Context) -> list[Row]:
    """See the module."""
    with Rig(context.directory) as rig:
        node_rows, listener = subscribers(context, rig)
        record_rows, script = records(context, rig)
        told_rows, probe, ack, member = told(context, rig)
        rows = [*node_rows, *record_rows, *told_rows]
    rows += lanes(context)
    settings = {**LASTING, "redis.log_length": LOG_LENGTH}
    with Rig(context.directory) as rig:
        node = rig.daemons(1, settings)[0]
        idle = _idle_us(context, node)
        applied_rows, message = _applied(context, rig, node)
        ack_rows, sends_ack, hears_ack = _node_acks(context, rig, node)
        by_pace = curves(context, rig, node, script, message, listener.push, idle)
        rows += [*applied_rows, *ack_rows, *by_pace.rows()]
        unit = UnitCosts(
            by_pace.wake, script.each, by_pace.record, probe, ack, member, by_pace.push,
            listener.copy, by_pace.node_wake, message.each, by_pace.applied, sends_ack,
            hears_ack, idle,
        )  # fmt: skip
        rows += check(context, rig, [node], settings, unit)
        rows += _tags(context, node)
    # A fleet's nodes are on other hosts.
    return [*rows, *fleets(context, unit._replace(push=unit.push.more(listener.far)))]


def _idle_us(context: Context, node: Daemon) -> float:
    """A node's CPU when it has nothing to do, in µs a second."""
    seconds = 0.3 if context.quick else 2.0
    context.say("a node that has nothing to do")
    time.sleep(seconds / 2)
    before_s = cpu_s(node.pid)
    time.sleep(seconds)
    return (cpu_s(node.pid) - before_s) * 1e6 / seconds


# -- one more record, and one more key ----------------------------------------------------------


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
        [(n, scripts(count, n), count) for n in some(context, 1, 8, 32)],
    )
    message, applied = fit(points)
    drawing = bars([(f"{int(x)} records", y) for x, y in points], "µs a message")
    rows.append(alone("one more record: a node's CPU", "µs", [applied]).drawn(drawing))
    few = count // 16
    points = _node_points(
        context,
        rig,
        daemon,
        "key",
        [(n, wide_records(few, n), few * n) for n in some(context, 1, 10, 100)],
    )
    drawing = bars([(f"{int(x)} keys", y) for x, y in points], "µs a record")
    each = alone("one more key of a record: a node's CPU", "µs", [fit(points)[1]])
    return [*rows, each.drawn(drawing)], Warm(message, applied)


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
            flood(rig, path, 2)
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
        flood(rig, path, 32)
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
            flood(rig, path, max(2, 32 // size))
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
        for tags in some(context, 0, 4, 16):
            context.say(f"one more tag: {tags} to a value")
            names = [b"tag:%d" % number for number in range(tags)]
            words: list[Word] = ["TAGS", tags, *names] if tags else []
            spent_s = cpu_s(daemon.pid)
            for number in range(count):
                talk.ask("COH.SET", key(number), value, *words)
            points.append((float(tags), (cpu_s(daemon.pid) - spent_s) * 1e6 / count))
        drawing = bars([(f"{int(x)} tags", y) for x, y in points], "µs a write")
        tag = alone("one more tag of a value: a node's CPU", "µs", [fit(points)[1]])
        each = tag.drawn(drawing)
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
    return [each, row.noted(f"ours: a tag of {sizes[1]} values").drawn(drawing)]
