"""One seeded run: a world, its clients and its faults; and how a failing run is made shorter."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from coherenced.core.laws import Laws
from coherenced.core.policy import Policy
from tests.sim.clients import Client
from tests.sim.faults import STOPPED_CLOCKS, Fault, Nemesis, plan
from tests.sim.history import Violation
from tests.sim.mix import COUNTER, Mix
from tests.sim.redis_model import ServerLaws
from tests.sim.world import LINEARIZABLE, World

QUIET_MS: Final = 7_000.0
"""After the last fault is lifted everything must be well again within this time: a half-open
connection is noticed, and a write that waits for its acknowledgements has given up."""
SLICE_MS: Final = 100.0
READ_PATIENCE_MS: Final = 2_500.0
MOST_CALLS_OPEN: Final = 8
"""Of a node at rest: probes on a slow path, and the roster."""
WARM_MS: Final = 60.0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run depends on. `None` is chosen by the seed."""

    seed: int
    nodes: int = 3
    clients: int = 4
    run_ms: float = 1_500.0
    bound_ms: float = 200.0
    keys: int = 3
    most_delay_ms: float = 1.0
    slow_share: float = 0.02
    fault_gap_ms: float = 150.0
    kinds: tuple[str, ...] | None = None
    skip: tuple[int, ...] = ()
    """Faults of the plan that are left out, by their place in it."""
    mix: Mix = Mix()
    laws: Laws = Laws()
    server_laws: ServerLaws = ServerLaws()
    l1_max_bytes: int = 1 << 20
    tidy_entries: int = 1
    """Looked at, or freed, in one step: what a prefix covers is there for a while after it."""
    trims: bool = True
    stale_if_error_ms: float = 0.0
    drift: float = 0.004
    linearizable: bool = False
    """Whether one of the keys is of a linearizable namespace."""
    unconfigured: bool = False
    """Whether the first node is configured without that namespace (K6)."""
    ends_answers: bool = False
    """Whether answers to fetches end early now and then, as those do that become large."""
    tracing: bool = False


class Report(msgspec.Struct, kw_only=True):
    config: Config
    steps: int
    events: int
    operations: int
    checked: dict[str, int]
    struck: dict[str, int]
    """Kind of fault -> how often it was tried."""
    client_faults: dict[str, int]
    seen: dict[str, int]
    hits: int
    reads: int


class Failure(AssertionError):
    """A run that broke a promise: what, and how to see it again."""

    def __init__(self, config: Config, problem: str, faults: list[Fault], trace: list[str]):
        self.config = config
        self.problem = problem
        self.faults = faults
        self.trace = trace
        super().__init__(problem)

    @property
    def category(self) -> str:
        """Which promise was broken."""
        return self.problem.partition(": ")[2].partition(":")[0]

    def __str__(self) -> str:
        story = "\n".join(f"    {fault}" for fault in self.faults)
        return f"{self.problem}\nreplay: {command(self.config)}\nfaults:\n{story}"


def by_seed(seed: int) -> Config:
    """Draw a configuration from a seed: each explores another corner."""
    random = Random(f"config {seed}")
    return Config(
        seed=seed,
        nodes=random.choice((2, 2, 3, 3, 4, 5)),
        clients=random.choice((2, 4, 6)),
        run_ms=random.choice((600.0, 1_000.0, 2_000.0)),
        bound_ms=random.choice((80.0, 200.0, 200.0, 600.0)),
        keys=random.choice((1, 2, 3, 6)),
        most_delay_ms=random.choice((0.2, 1.0, 4.0, 12.0)),
        slow_share=random.choice((0.0, 0.02, 0.2)),
        fault_gap_ms=random.choice((40.0, 100.0, 250.0, 100_000.0)),
        l1_max_bytes=random.choice((1 << 20, 1 << 20, 2_000)),
        stale_if_error_ms=random.choice((0.0, 0.0, 300.0)),
        drift=random.choice((0.0, 0.004)),
        linearizable=random.random() < 0.3,
        tidy_entries=random.choice((1, 1, 250)),
        unconfigured=random.random() < 0.3,
        ends_answers=random.random() < 0.3,
    )


def faults_of(config: Config) -> list[Fault]:
    names = [f"n{number}" for number in range(config.nodes)]
    planned = plan(config.seed, names, config.run_ms, config.fault_gap_ms, config.kinds)
    return [fault for place, fault in enumerate(planned) if place not in config.skip]


def build(config: Config) -> tuple[World, list[Client]]:
    random = Random(f"world {config.seed}")
    policy = Policy(
        max_staleness_ms=config.bound_ms,
        ack_timeout_ms=1_500.0,
        max_age_ms=2_000.0,
        negative_max_age_ms=300.0,
        stale_if_error_ms=config.stale_if_error_ms,
    )
    world = World(
        config.seed,
        policy=policy,
        laws=config.laws,
        server_laws=config.server_laws,
        most_delay_ms=config.most_delay_ms,
        slow_share=config.slow_share,
        l1_max_bytes=config.l1_max_bytes,
        tidy_entries=config.tidy_entries,
        tracing=config.tracing,
        rules=(("l:*", msgspec.structs.replace(policy, linearizable=True)),),
    )
    world.history.max_age_ms = policy.max_age_ms
    world.primary.server.ends_answers = config.ends_answers
    if config.kinds is not None and STOPPED_CLOCKS in config.kinds:
        world.history.clocks_stop = True
        world.watch_proofs = False
    for number in range(config.nodes):
        world.add_host(
            f"n{number}",
            offset_ms=random.random() * 1e9,
            rate=1.0 + random.uniform(-config.drift, config.drift),
            is_plain=config.unconfigured and number == 0,
        )
    hosts = list(world.hosts.values())
    keys = [b"k%d" % number for number in range(config.keys)]
    mix = config.mix
    if config.linearizable:
        # A flush has one phase only, and so has the end of a labelled value by its tag.
        keys[-1:] = [LINEARIZABLE + b"1"]
        mix = msgspec.structs.replace(mix, flushes=0.0, tagged_sets=0.0)
    keys += [COUNTER + b"1", COUNTER + b"2"]
    clients = [
        Client(world, f"c{number}", hosts[number % len(hosts)], keys, mix)
        for number in range(config.clients)
    ]
    return world, clients


def run(config: Config) -> Report:
    """Run it. `Failure` when a promise was broken."""
    faults = faults_of(config)
    try:
        world, clients = build(config)
    except (Violation, AssertionError) as problem:
        raise Failure(config, f"at the start: {problem}", faults, []) from problem
    try:
        Nemesis(world, faults)
        for client in clients:
            world.at(WARM_MS, client.start)
        world.run_until(WARM_MS + config.run_ms)
        settle(world, clients, config, max((f.lifted_ms for f in faults), default=0.0))
    except (Violation, AssertionError) as problem:
        text = f"at {world.now_ms:.2f} ms: {problem}"
        raise Failure(config, text, faults, list(world.trace)) from problem
    except Exception as problem:
        where = traceback.extract_tb(problem.__traceback__)[-1]
        text = (
            f"at {world.now_ms:.2f} ms: crash: {type(problem).__name__}: {problem} in "
            f"{where.name}, line {where.lineno} of {Path(where.filename).name}"
        )
        raise Failure(config, text, faults, list(world.trace)) from problem
    history = world.history
    return Report(
        config=config,
        steps=world.steps,
        events=world.events,
        operations=len(history.reads) + len(history.writes),
        checked=history.checked,
        struck=dict(Counter(fault.kind for fault in faults)),
        client_faults=history.faults,
        seen=world.seen_events,
        hits=sum(op.source in ("hit", "l1", "l0") for op in history.reads),
        reads=len(history.reads),
    )


def settle(world: World, clients: list[Client], config: Config, last_fault_ms: float) -> None:
    """Eventual: faults end, clients stop, and soon all nodes and Redis agree."""
    for client in clients:
        client.stopped = True
    world.loss = 0.0
    world.drops.clear()
    world.run_until(max(world.now_ms, last_fault_ms))
    limit_ms = world.now_ms + QUIET_MS
    while world.history.unanswered and world.now_ms < limit_ms:
        world.run_until(world.now_ms + SLICE_MS)
    if world.history.unanswered:
        waiting = [str(c.waits_for) for c in clients if c.waits_for is not None]
        raise Violation(f"liveness: never answered: {waiting}")
    world.history.check_claims_again()
    keys = [*world.truth.keys]
    while True:
        world.run_until(world.now_ms + SLICE_MS)
        wrong = _wrong_at_rest(world, keys, config)
        if not wrong:
            return
        if world.now_ms >= limit_ms:
            raise Violation(wrong)


def _wrong_at_rest(world: World, keys: list[bytes], config: Config) -> str:
    """Read every key on every node; what is not as it should be once nothing happens any more."""
    for host in world.hosts.values():
        if host.node is None or not host.node.ready:
            return f"liveness: node {host.name} is not ready again"
        reader = Client(world, f"final-{host.name}", host, keys, config.mix)
        reader.stopped = True
        for key in keys:
            reader.read((key,), None)
    limit_ms = world.now_ms + READ_PATIENCE_MS
    while world.history.unanswered and world.now_ms < limit_ms:
        world.run_until(world.now_ms + SLICE_MS)
    if world.history.unanswered:
        raise Violation("liveness: a read after the faults was never answered")
    for host in world.hosts.values():
        wrong = _not_quiet(world, host.name, keys, config)
        if wrong:
            return wrong
    return ""


def _not_quiet(world: World, name: str, keys: list[bytes], config: Config) -> str:
    """A node at rest: everything is a hit, equal to Redis, and nothing is left over."""
    host = world.hosts[name]
    node = host.node
    assert node is not None
    leftovers = {
        "requests waiting": node.waiting,
        "tickets": len(node.tickets),
        "writes waiting for acknowledgements": len(node.acks),
        "calls open": max(0, node.box.calls_open - MOST_CALLS_OPEN),
        "timers": max(0, len(node.box.timers) - 60),
    }
    left = {what: count for what, count in leftovers.items() if count}
    if left:
        return f"left over on {name}: {left}"
    if world.truth.positions.get(node.lane.lineage) != world.truth.index:  # type: ignore[arg-type]
        return f"eventual: node {name} is not at the head of the log"
    for key in keys:
        entry = host.hit(key)
        held = world.truth.timeline(key).now(world.now_ms)
        if entry is None:
            if config.l1_max_bytes > 100_000 and node.l1.held(key) is None and held:
                return f"liveness: {key!r} was read on {name} but is not cached"
        elif entry.value != held:
            return f"eventual: {key!r} is {entry.value!r} on {name}, {held!r} in Redis"
    return ""


# -- making a failure shorter -----------------------------------------------------------


def command(config: Config) -> str:
    """The command line that replays exactly this run."""
    words = [f"python -m tests.sim --seed {config.seed}"]
    default = by_seed(config.seed)
    for name, flag in FLAGS.items():
        value = getattr(config, name)
        if value != getattr(default, name):
            words.append(
                f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {int(value)}"
            )
    if config.kinds is not None:
        words.append("--kinds '" + ",".join(config.kinds) + "'")
    if config.skip:
        words.append("--skip " + ",".join(map(str, config.skip)))
    off = [name for name in Laws.__struct_fields__ if not getattr(config.laws, name)]
    off += [name for name in ServerLaws.__struct_fields__ if not getattr(config.server_laws, name)]
    return " ".join([*words, *(f"--off {name}" for name in off)])


FLAGS: Final = {
    "nodes": "--nodes",
    "clients": "--clients",
    "run_ms": "--ms",
    "bound_ms": "--bound",
    "keys": "--keys",
    "most_delay_ms": "--delay",
    "slow_share": "--slow",
    "fault_gap_ms": "--gap",
    "l1_max_bytes": "--l1",
    "tidy_entries": "--tidy",
    "stale_if_error_ms": "--stale",
    "drift": "--drift",
    "linearizable": "--linearizable",
    "unconfigured": "--unconfigured",
    "ends_answers": "--ends-answers",
}


def attempt(config: Config) -> Failure | None:
    try:
        run(config)
    except Failure as failure:
        return failure
    return None


def shrink(failure: Failure, tries: int = 60) -> Failure:
    """Try shorter and simpler runs that still fail; the shortest found."""
    best = failure

    def better(config: Config) -> bool:
        nonlocal best, tries
        if tries <= 0:
            return False
        tries -= 1
        found = attempt(config)
        if found is None or found.category != failure.category:
            return False
        best = found
        return True

    while best.config.run_ms > 60 and better(
        msgspec.structs.replace(best.config, run_ms=round(best.config.run_ms * 0.6))
    ):
        pass
    for fewer in range(1, best.config.clients):
        if better(msgspec.structs.replace(best.config, clients=fewer)):
            break
    planned = len(faults_of(msgspec.structs.replace(best.config, skip=())))
    for place in range(planned):
        if place not in best.config.skip:
            skip = tuple(sorted({*best.config.skip, place}))
            better(msgspec.structs.replace(best.config, skip=skip))
    return best
