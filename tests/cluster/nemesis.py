"""The nemesis: strikes a cluster with one fault after the other, from a seed.

A fault is an `Action`: `strike(arena)` does the harm and returns what undoes it. The
schedule (what, when, how long) is drawn from the seed before the run; each strike's
own choices (which node, how much) from the seed and its number, so a run's harm can be
repeated. Everything is printed as it happens. Faults that lose data say so in the
history (`Kind.FLUSH`, `Kind.LOSS`), so that the checkers judge what is left.

Run it in the thread that started the daemons: a process dies with the thread that
forked it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

from coherenced.lab.proxy import Proxy
from tests.checkers.history import Operation, Outcome, Recorder
from tests.cluster.daemons import Cluster, Daemon
from tests.cluster.steps import Load
from tests.cluster.workload import ClientProcess

Undo = Callable[[], None]
META: Final = "coh:{0}:meta"
LOG: Final = "coh:{0}:log"


def nothing() -> None:
    """The undo of what needs none."""


@dataclass
class Arena:
    """What the nemesis may hurt, and where it notes what was lost."""

    cluster: Cluster
    recorder: Recorder
    random: Random
    load: Load
    clients: Sequence[ClientProcess] = ()
    details: list[str] = field(default_factory=list)
    """What the present strike chose, for the line that is printed."""

    def a_daemon(self) -> Daemon:
        """A running daemon that is not paused."""
        daemon = self.random.choice([d for d in self.cluster.daemons if d.running and not d.paused])
        self.details.append(daemon.node)
        return daemon

    def a_proxy(self) -> Proxy:
        """Some node's way to the server."""
        node = self.random.choice(sorted(self.cluster.proxies))
        self.details.append(node)
        return self.cluster.proxies[node]

    def pick(self, *choices: str) -> str:
        choice = self.random.choice(choices)
        self.details.append(choice)
        return choice

    @contextmanager
    def noting(self, kind: str, keys: tuple[str, ...] = ()) -> Iterator[Operation]:
        """Whatever happens inside is a disaster of this kind, for these keys (none: all)."""
        op = self.recorder.begin("nemesis", "redis", kind, keys)
        try:
            yield op
        finally:
            self.recorder.end(op, Outcome.OK)


@dataclass(frozen=True)
class Action:
    """One fault. `lasts_s`: shortest and longest time until it is undone."""

    name: str
    strike: Callable[[Arena], Undo]
    lasts_s: tuple[float, float] = (0.5, 2.0)


@dataclass(frozen=True)
class Event:
    """One line of the schedule; times in seconds since the start."""

    number: int
    action: Action
    start_s: float
    end_s: float


def schedule(
    actions: Sequence[Action],
    seed: int,
    duration_s: float,
    *,
    calm_s: tuple[float, float] = (0.3, 1.0),
    at_once: int = 1,
) -> list[Event]:
    """What happens when: every action once before any comes again, in random order.

    At most `at_once` faults are in force together; between two of the same row there is
    a calm. Everything is undone by `duration_s`.
    """
    random = Random(f"schedule/{seed}")
    deck: list[Action] = []
    rows = [random.uniform(*calm_s) * (row + 1) for row in range(at_once)]
    events: list[Event] = []
    while True:
        row = min(range(at_once), key=lambda r: rows[r])
        if not deck:
            deck = random.sample(list(actions), len(actions))
        action = deck.pop()
        start_s = rows[row]
        end_s = start_s + random.uniform(*action.lasts_s)
        if end_s > duration_s:
            return events
        events.append(Event(len(events) + 1, action, start_s, end_s))
        rows[row] = end_s + random.uniform(*calm_s)


class Nemesis:
    """Carries out a schedule."""

    def __init__(
        self,
        arena: Arena,
        events: Sequence[Event],
        seed: int,
        say: Callable[[str], None] = print,
    ) -> None:
        self.arena = arena
        self.done: list[str] = []
        """The names of the faults that were carried out."""
        self.lines: list[str] = []
        self._seed = seed
        self._say = say
        agenda: list[tuple[float, int, Event]] = []
        for event in events:
            agenda += [(event.start_s, 1, event), (event.end_s, 0, event)]
        self._agenda = sorted(agenda, key=lambda item: item[:2])
        self._undos: dict[int, Undo] = {}
        self._zero = 0.0

    def run(self) -> None:
        """Strike and undo until the schedule is through.

        Some strikes take their time (a daemon restarts): what follows is put off by as much,
        and what would then begin after the schedule's end is left out. What is still in force
        at a failure is undone before it is raised.
        """
        self._zero = time.monotonic()
        last_s = max((event.end_s for *_, event in self._agenda), default=0.0)
        late_s = 0.0
        try:
            for at_s, begins, event in self._agenda:
                time.sleep(max(0.0, self._zero + at_s + late_s - time.monotonic()))
                late_s = max(late_s, time.monotonic() - self._zero - at_s)
                if begins and at_s + late_s <= last_s:
                    self._strike(event)
                elif not begins and event.number in self._undos:
                    self._undo(event)
        finally:
            for undo in list(self._undos.values()):
                undo()

    def _strike(self, event: Event) -> None:
        self.arena.random = Random(f"strike/{self._seed}/{event.number}")
        self.arena.details.clear()
        self._undos[event.number] = event.action.strike(self.arena)
        self.done.append(event.action.name)
        chosen = " ".join(self.arena.details)
        self._tell(f"#{event.number} {event.action.name} {chosen}".rstrip())

    def _undo(self, event: Event) -> None:
        undo = self._undos.pop(event.number)
        undo()
        if undo is not nothing:
            self._tell(f"#{event.number} {event.action.name} is over")

    def _tell(self, text: str) -> None:
        line = f"{time.monotonic() - self._zero:7.2f} s  {text}"
        self.lines.append(line)
        self._say(line)
