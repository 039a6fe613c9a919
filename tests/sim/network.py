"""Connections between nodes and server processes, in virtual time.

Like TCP: what is sent on one connection arrives in order or not at all; between
two connections nothing is promised. A connection can be slow, stuck (nothing
moves, then everything does), cut (both ends learn it) or half open (the server
has let go, the node does not know). A request under way when its sender gives
up may still be executed: that is what makes a lost reply hard.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from tests.sim.redis_model import Server

BUS: Final = "bus"
CONTROL: Final = "control"
WRITES: Final = "writes"
READS: Final = "reads"
ROLES: Final = (BUS, CONTROL, WRITES, READS)


class Process:
    """One run of a server. A restarted server is another process."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.up = True
        self.connections: list[Connection] = []
        self.subscribers: list[Connection] = []

    def __repr__(self) -> str:
        return self.name

    def forget_closed(self) -> None:
        """Drop what is closed at both ends, so that long runs stay small."""
        self.connections = [c for c in self.connections if c.server_open or c.node_open]
        self.subscribers = [c for c in self.subscribers if c.server_open]


class Delays:
    """How long a message travels: uniform, with a slow one now and then."""

    def __init__(self, random: Random, least_ms: float, most_ms: float, slow_share: float) -> None:
        self.random = random
        self.least_ms = least_ms
        self.most_ms = most_ms
        self.slow_share = slow_share
        self.slow_ms = 40.0

    def draw(self) -> float:
        delay = self.least_ms + self.random.random() * (self.most_ms - self.least_ms)
        if self.slow_share and self.random.random() < self.slow_share:
            delay += self.random.random() * self.slow_ms
        return delay


class Connection:
    """One TCP connection of one role. `number` is the bus connection's number, else 0."""

    __slots__ = (
        "_down_free_ms",
        "_stuck",
        "_up_free_ms",
        "delays",
        "extra_ms",
        "host",
        "mute",
        "node_open",
        "number",
        "process",
        "role",
        "server_open",
        "stuck",
    )

    def __init__(
        self, host: str, role: str, process: Process, number: int, delays: Delays, now_ms: float
    ) -> None:
        self.host = host
        self.role = role
        self.process = process
        self.number = number
        self.delays = delays
        self.node_open = True
        """The node's end: what arrives for a closed end is thrown away."""
        self.server_open = True
        """The server's end: what arrives for a closed end is not executed."""
        self.extra_ms = 0.0
        """A slow path: added to each delay."""
        self.mute = False
        """Replies are lost: what was asked is executed, and then the connection breaks."""
        self.stuck = False
        self._stuck: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._up_free_ms = now_ms + 2 * delays.draw()  # the handshake
        self._down_free_ms = now_ms
        process.connections.append(self)

    def arrival_up_ms(self, now_ms: float) -> float:
        """When something sent now to the server arrives there: never before what went before."""
        self._up_free_ms = max(self._up_free_ms, now_ms + self.delays.draw() + self.extra_ms)
        return self._up_free_ms

    def arrival_down_ms(self, now_ms: float) -> float:
        self._down_free_ms = max(self._down_free_ms, now_ms + self.delays.draw() + self.extra_ms)
        return self._down_free_ms

    def hold(self, action: Callable[..., None], *args: Any) -> bool:
        """While the connection is stuck: keep this for later. -> whether it was kept."""
        if self.stuck:
            self._stuck.append((action, args))
        return self.stuck

    def unstick(self) -> None:
        """Everything that was held moves again, in order."""
        self.stuck = False
        held, self._stuck = self._stuck, []
        for action, args in held:
            action(*args)
