"""From one fault to the next: strike, wait, undo, and measure how long until all is well again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from coherenced.cli.faults.clients import Client, Clock, Reader, Tally, Writer
from coherenced.cli.faults.ledger import Ledger, Level
from coherenced.cli.faults.table import Fault
from coherenced.cli.faults.world import BOUND_MS, NODES, World
from coherenced.lab.server import wait_until

READERS: Final = 2
"""On each node, beside its writer; the first of them is impatient."""
WANDERERS: Final = 2
WARM_UP_S: Final = 0.5
SHARE: Final = 0.55
"""Of a fault's time in which it lasts, when it is one that lasts: the rest is for recovering."""
SHORTEST_S: Final = 0.05
QUIET_S: Final = 0.2
AGREE_S: Final = 10.0


class Passed(NamedTuple):
    """One fault, and what came of it."""

    name: str
    lasted_s: float
    recovered_s: float | None
    """From its end until every node was current and served from L1 again; None: it never was."""
    noticed: Counter[str]
    """What the nodes counted meanwhile."""


class Walk:
    """One run over a started world."""

    def __init__(
        self,
        world: World,
        seed: int,
        passed: Callable[[Passed], None] = lambda one: None,
        striking: Callable[[Fault], None] = lambda one: None,
    ) -> None:
        """`striking` and `passed` are told of each fault as it begins, and when it is over."""
        self.ledger = Ledger(BOUND_MS / 1e3)
        self.passed: list[Passed] = []
        self.errors: Counter[str] = Counter()
        self._world = world
        self._seed = seed
        self._tell_passed = passed
        self._tell_striking = striking
        self._clock = Clock()
        self._clients: list[Client] = []
        self._writers: list[Writer] = []

    def run(self, faults: Sequence[Fault], duration_s: float) -> list[Level]:
        """Walk through `faults` while clients work; about `duration_s`. Returns the verdicts."""
        world = self._world
        world.now_s = self._clock
        world.losses = self.ledger.losses
        world.until_current()
        self._start()
        try:
            time.sleep(WARM_UP_S)
            each_s = max(0.0, duration_s - WARM_UP_S) / max(1, len(faults))
            for number, one in enumerate(faults):
                self._pass(one, each_s, WARM_UP_S + (number + 1) * each_s)
        finally:
            self._stop()
        self._finish()
        return [self._recovery(), *self.ledger.judge()]

    def _pass(self, one: Fault, each_s: float, until_s: float) -> None:
        world, losses = self._world, len(self.ledger.losses)
        self._tell_striking(one)
        before = world.counts()
        tally = Tally(f"count:{len(self.passed)}")
        for writer in self._writers:
            writer.tally = tally
        began_s = self._clock()
        with one.strike(world):
            time.sleep(max(SHORTEST_S, each_s * SHARE * one.lasts))
        ended_s = self._clock()
        recovered_s = world.until_current()
        for began_lost_s, _ in self.ledger.losses[losses:]:
            self.ledger.turns.append((began_lost_s, self._clock() + self.ledger.bound_s))
        noticed = _difference(before, world.counts())
        passed = Passed(one.name, ended_s - began_s, recovered_s, noticed)
        self.passed.append(passed)
        self._tell_passed(passed)
        time.sleep(max(QUIET_S, until_s - self._clock()))
        if len(self.ledger.losses) == losses:
            self._count(tally)

    def _count(self, tally: Tally) -> None:
        """Compare a counter with what was acknowledged, when nobody increments it any more."""
        for writer in self._writers:
            writer.tally = Tally("count:between")
        wait_until(lambda: not tally.under_way, "the last increments to be answered")
        stands_at = self._world.value_of(tally.name)
        self.ledger.counters[tally.name] = (tally.acknowledged, tally.unknown, stands_at)

    def _recovery(self) -> Level:
        level = Level(f"current again within {self._world.recover_s:g} s", len(self.passed))
        for one in self.passed:
            if one.recovered_s is None:
                level.broken(f"after '{one.name}' not every node was")
        return level

    # -- the clients -----------------------------------------------------------------------------

    def _start(self) -> None:
        sockets = {daemon.name: daemon.socket for daemon in self._world.daemons}
        given = (sockets, self.ledger, str(self._seed))
        self._writers = [self._new(Writer, f"w{name}", name, given) for name in NODES]
        keys = [key for writer in self._writers for key in writer.keys]
        groups = [group for writer in self._writers for group in writer.groups]
        seen = {"keys": keys, "groups": groups}
        readers = [
            self._new(Reader, f"r{name}{number}", name, given, **seen, impatient=number == 0)
            for name in NODES
            for number in range(READERS)
        ]
        wanderers = [
            self._new(Reader, f"wanderer{number}", NODES[0], given, **seen, wanders=True)
            for number in range(WANDERERS)
        ]
        self._clients = [*self._writers, *readers, *wanderers]
        for client in self._clients:
            client.start()

    def _new(self, kind: Any, name: str, home: str, given: tuple[Any, ...], **more: Any) -> Any:
        sockets, ledger, seed = given
        client = kind(name, sockets, home, ledger, seed, **more)
        client.clock = self._clock
        return client

    def _stop(self) -> None:
        for client in self._clients:
            client.begin_stop()
        for client in self._clients:
            client.join()
            self.errors += client.errors

    def _finish(self) -> None:
        """Ask everybody for everything, now that nobody writes."""
        keys = [key for writer in self._writers for key in writer.keys]
        time.sleep(0.4)  # what expires has expired
        self.ledger.final = self._world.await_equal(keys, AGREE_S)


def _difference(before: dict[str, Counter[str]], after: dict[str, Counter[str]]) -> Counter[str]:
    """What was counted in between, by all nodes; a node that was started again counts anew."""
    total: Counter[str] = Counter()
    for node, counts in after.items():
        for name, count in counts.items():
            had = before.get(node, Counter())[name]
            total[name] += count - had if count >= had else count
    return total
