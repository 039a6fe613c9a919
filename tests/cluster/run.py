"""One recorded run: clients work, the nemesis strikes, everything heals, all are asked."""

from __future__ import annotations

import collections
import contextlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.checkers.eventual import REDIS
from tests.checkers.history import History, Kind, Operation, Outcome, Recorder
from tests.checkers.suite import check_all
from tests.checkers.verdict import Verdict, report
from tests.cluster.daemons import Cluster, Daemon
from tests.cluster.nemesis import Action, Arena, Nemesis, schedule
from tests.cluster.remains import Remains
from tests.cluster.steps import Load, text
from tests.cluster.workload import ClientProcess, Workload
from tests.servers import wait_until

AGREE_WITHIN_S: Final = 10.0
ROUND_S: Final = 0.02
"""Pause between two rounds of reads while nodes do not agree yet."""
LONG_MS: Final = 60_000
"""What lives longer than this does not expire while the final reads are made."""


@dataclass
class Run:
    """What came of it."""

    history: History
    counters: dict[str, int]
    errors: collections.Counter[str]
    struck: list[str]
    """Names of the faults."""
    lines: list[str] = field(default_factory=list)
    """What the nemesis told."""
    say: Callable[[str], None] = print

    def judge(self, *, margin_ms: float = 0.0, skip: Collection[str] = ()) -> list[Verdict]:
        """Every level's verdict. Tells how much was done, and the table."""
        self.say(self.describe())
        verdicts = check_all(self.history, margin_ms=margin_ms, counters=self.counters, skip=skip)
        self.say(report(verdicts))
        return verdicts

    def describe(self) -> str:
        """How much was done, for people."""
        ops = self.history.operations
        outcomes = collections.Counter(op.outcome for op in ops)
        sources = collections.Counter(op.source for op in ops if op.source)
        return (
            f"{len(ops)} operations: {dict(outcomes)}, "
            f"answers from {dict(sources)}, errors {dict(self.errors)}"
        )


def record(
    cluster: Cluster,
    actions: Sequence[Action],
    *,
    seed: int,
    duration_s: float,
    bound_ms: float,
    load: Load | None = None,
    sessions: int = 8,
    wanderers: int = 2,
    own_clients: int = 0,
    client_processes: int = 0,
    at_once: int = 1,
    calm_s: tuple[float, float] = (0.3, 1.0),
    patience_s: float = AGREE_WITHIN_S,
    remains: Remains | None = None,
) -> Run:
    """Let clients work on a started cluster for `duration_s` while `actions` are struck.

    `patience_s`: how long, when all is healed, the nodes may take to agree with Redis.
    `remains`: where everything is kept if it fails.
    """
    load = load or Load()
    say = print if remains is None else remains.say
    say(f"seed {seed}")
    recorder = Recorder() if remains is None else remains.recorder
    sockets = {daemon.node: daemon.socket for daemon in cluster.daemons}
    events = schedule(actions, seed, duration_s, at_once=at_once, calm_s=calm_s)
    workload = Workload(
        sockets,
        recorder,
        load,
        sessions=sessions,
        wanderers=wanderers,
        own_clients=own_clients,
        seed=seed,
    )
    with _journals(remains) as directory:
        clients = [
            ClientProcess(f"p{number}", sockets, load, directory, wanderers=1, seed=seed)
            for number in range(client_processes)
        ]
        arena = Arena(cluster, recorder, Random(seed), load, clients)
        nemesis = Nemesis(arena, events, seed, say=say)
        if remains is not None:
            remains.bound_ms = bound_ms
            remains.notes["faults"] = nemesis.lines
        end = time.monotonic() + duration_s
        with contextlib.ExitStack() as stack:
            for client in clients:
                client.start()
                stack.callback(client.kill)
            workload.start()
            stack.callback(workload.stop)
            nemesis.run()
            time.sleep(max(0.0, end - time.monotonic()))
            cluster.heal()
        for client in clients:
            recorder.operations += client.operations()
    counters = finish(cluster, recorder, load, patience_s)
    notes = {"seed": seed, "faults": nemesis.lines, "counters": counters}
    if remains is not None:
        remains.notes |= notes
    history = recorder.history(bound_ms=bound_ms, notes=notes)
    return Run(history, counters, workload.errors, nemesis.done, nemesis.lines, say)


@contextlib.contextmanager
def _journals(remains: Remains | None) -> Iterator[Path]:
    """A directory for those of client processes."""
    if remains is not None:
        yield remains.clients
        return
    with tempfile.TemporaryDirectory(prefix="coh-j-") as directory:
        yield Path(directory)


def finish(cluster: Cluster, recorder: Recorder, load: Load, patience_s: float) -> dict[str, int]:
    """Wait until nothing is about to expire, then read everything on every node and in Redis,
    until all agree (or do not, for too long); the final counters.

    Each round is recorded, and judged like all reads; the last one is final. What is compared is
    what was recorded: a write that was accepted with ack=none, or whose fate was not known, may
    reach Redis between two reads of one round, so that only another one can tell.
    """
    server = cluster.primary
    wait_until(
        lambda: all(
            not 0 <= ends <= LONG_MS
            for ends in server.commands(*[("PTTL", key) for key in load.values])
        ),
        what="nothing is about to expire",
    )
    end_s = time.monotonic() + patience_s
    while True:
        reads = _read_everywhere(cluster, recorder, load)
        agreed = all(op.values == reads[-1].values for op in reads)
        if (agreed and all(op.outcome == Outcome.OK for op in reads)) or time.monotonic() > end_s:
            break
        time.sleep(ROUND_S)
    for op in reads:
        assert op.outcome == Outcome.OK, f"{op.node} still does not answer: {op.detail}"
        op.final = True
    replies = server.commands(*[("GET", key) for key in load.all_counters])
    return {key: int(value or 0) for key, value in zip(load.all_counters, replies, strict=True)}


def _read_everywhere(cluster: Cluster, recorder: Recorder, load: Load) -> list[Operation]:
    """One read of all values on each node, and of Redis, which comes last."""
    reads = []
    ways: list[tuple[str, Callable[[], Sequence[Any]]]] = [
        (daemon.node, partial(node_answers, daemon, load)) for daemon in cluster.daemons
    ]
    for node, ask in [*ways, (REDIS, partial(truth, cluster, load))]:
        op = recorder.begin("final", node, Kind.MGET, tuple(load.values))
        answers = ask()
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if errors:
            recorder.end(op, Outcome.FAIL, detail=str(errors[0]))
        else:
            recorder.end(op, Outcome.OK, values=tuple(text(value) for value in answers))
        reads.append(op)
    return reads


def node_answers(daemon: Daemon, load: Load) -> Sequence[Any]:
    """What one node answers for every key; an error in place of all of them."""
    try:
        reply = daemon.command("MGET", *load.values)
    except OSError as error:
        reply = error
    return reply if isinstance(reply, list) else [reply]


def truth(cluster: Cluster, load: Load) -> Sequence[Any]:
    """What Redis holds. A tagged value may be dead there without having been removed yet: for
    those, what a node fetches now (or its error)."""
    values = cluster.primary.commands(*[("GET", key) for key in load.values])
    for place, key in enumerate(load.values):
        if key.startswith("t:"):
            values[place] = cluster.daemons[0].command("COH.GET", key, "MAXSTALE", "0")
    return values
