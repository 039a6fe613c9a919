"""What two states of the core have in common: everything but names, counters and the clock.

The explorer visits a state once. Two states are taken for the same when they
look the same here: times relative to now, call ids relative to the next one,
random ids by the order in which they appear.
"""

from __future__ import annotations

import math
from collections import deque
from types import FunctionType, MethodType
from typing import Any, Final

from coherenced.core.acks import Acks
from coherenced.core.catchup import Catchup
from coherenced.core.covers import Covers
from coherenced.core.fills import Fills
from coherenced.core.flights import Flights
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.lost import LostReplies
from coherenced.core.node import Node, Settings
from coherenced.core.outbox import Outbox
from coherenced.core.phases import TwoPhase
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.probes import Probes
from coherenced.core.reads import Reads
from coherenced.core.roster import Roster
from coherenced.core.settling import Settling
from coherenced.core.tickets import Tickets
from coherenced.core.writes import Writes
from tests.sim.host import Host
from tests.sim.world import World

_STATIC: Final = (Laws, Namespaces, Policy, Settings, World, Host)
_MACHINES: Final = (
    Node,
    Acks,
    Catchup,
    Covers,
    Fills,
    Flights,
    LostReplies,
    Probes,
    Reads,
    Roster,
    Settling,
    Tickets,
    TwoPhase,
    Writes,
)
"""Their public numbers are counters for people, which no behaviour depends on."""


class Freezer:
    """Objects of the core as nested tuples: times relative to now, call ids to the next one,
    random ids by their first appearance, and identity left out."""

    def __init__(self, now_ms: float) -> None:
        self.now_ms = now_ms
        self.next_call_id = 0
        self._seen: dict[int, int] = {}
        self._names: dict[bytes, int] = {}
        self._times: list[float] = []
        self.exact = False
        """Of what is proved, committed and seen the order matters, to the moment."""

    def __call__(self, value: Any) -> Any:
        kind = value.__class__
        if value is None or kind is bool or kind is int or kind is str:
            return value
        if kind is bytes:
            return self._names.setdefault(value, len(self._names)) if len(value) == 16 else value
        if kind is float:
            return value if not math.isfinite(value) else self.time(value)
        if kind is tuple or kind is list or kind is deque:
            return tuple([self(item) for item in value])
        if kind is dict:
            return tuple([(self(k), self(v)) for k, v in value.items()])
        if kind is set:
            return tuple(sorted(map(repr, value)))
        return self._object(value)

    def time(self, at_ms: float) -> int:
        """About how long ago; which of two was first is told by `ranks`."""
        if self.exact:
            self._times.append(at_ms)
        return round(at_ms - self.now_ms)

    def ranks(self) -> tuple[int, ...]:
        """The order of all times met so far, those that equal each other alike."""
        order = {at_ms: rank for rank, at_ms in enumerate(sorted(set(self._times)))}
        return tuple([order[at_ms] for at_ms in self._times])

    def _object(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            cells = value.__closure__ or ()
            return (value.__qualname__, tuple([self(cell.cell_contents) for cell in cells]))
        if isinstance(value, MethodType):
            return value.__qualname__
        if isinstance(value, _STATIC):
            return None
        known = self._seen.get(id(value))
        if known is not None:
            return known
        self._seen[id(value)] = len(self._seen)
        if isinstance(value, Node):
            self.next_call_id = value.box.next_call_id
        if isinstance(value, L1):
            held = tuple([self(entry) for entry in value.entries.values()])
            hand = None if value._hand is None else value._hand.key
            return (held, self(value.marks), hand, len(value._aside))
        if isinstance(value, Outbox):
            return self._box(value)
        self.exact = isinstance(value, Lane)
        fields = [
            self._call_id(getattr(value, name)) if counted else self(getattr(value, name))
            for name, counted in _fields_of(value)
            if hasattr(value, name)
        ]
        self.exact = False
        return (type(value).__name__, tuple(fields))

    def _call_id(self, value: int) -> int:
        return self.next_call_id - value if value else 0

    def _box(self, box: Outbox) -> Any:
        handlers = [(box.next_call_id - n, self(h)) for n, h in box._handlers.items()]
        timers = sorted(
            (round(at - self.now_ms), repr((self(what), self(with_))))
            for at, _, what, with_ in box.timers._heap
        )
        return (tuple(handlers), tuple(timers))


_shapes: dict[type, tuple[tuple[str, bool], ...]] = {}


def _fields_of(value: Any) -> tuple[tuple[str, bool], ...]:
    """What makes up the state of such an object: (name, whether it is a call id)."""
    kind = type(value)
    shape = _shapes.get(kind)
    if shape is None:
        names = getattr(value, "__struct_fields__", None) or getattr(value, "__slots__", None)
        if names is None:
            names = tuple(getattr(value, "__dict__", ()))
        shape = tuple(
            (name, name.endswith("call_id")) for name in names if _matters(kind, value, name)
        )
        _shapes[kind] = shape
    return shape


def _matters(kind: type, value: Any, name: str) -> bool:
    content = getattr(value, name, None)
    if name in ("next", "beat", "_beat") or (name == "prev" and not isinstance(content, bytes)):
        return False  # links of a ring; how often a node has probed
    if kind not in _MACHINES:
        return True
    count = content.__class__ is int and not name.startswith("_")
    return not (count or callable(content) or isinstance(content, _STATIC))
