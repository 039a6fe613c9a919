"""Leases on RESP connections: which client holds which token, and what becomes of it.

A token lives for the time it was asked for, whoever brings it back: a script may ask for it in
one process and fill from another. A client that goes away while it loads keeps everybody
waiting for all that time, so one that knows that it will fill itself asks for an EPHEMERAL
token (the word is ZooKeeper's), which is given back when it has gone: on a Unix socket when the
last connection of its process closes (a client may use several, and fill on another one than
it asked on), on TCP, where nobody knows whose a connection is, with the connection that was
given the token.
"""

from __future__ import annotations

import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Final

from coherenced.core.requests import Fill, Lease, LeaseResult, Outcome, Release
from coherenced.wire.answers import answer
from coherenced.wire.commands import Access, Command
from coherenced.wire.plan import Plan

if TYPE_CHECKING:
    import asyncio

    from coherenced.serve.port import NodePort
    from coherenced.serve.resp_connection import RespConnection
    from coherenced.serve.resp_flow import Slot

REQUESTS: Final = frozenset((Lease, Fill, Release))
MOST_HELD: Final = 10_000
"""Tokens of one client that are remembered; those beyond end by themselves."""

Owner = tuple[str, int]


class Borrowers:
    """Who holds which ephemeral token: owner -> token -> key."""

    def __init__(self, port: NodePort) -> None:
        self.held: dict[Owner, dict[bytes, bytes]] = {}
        self._port = port

    def given(self, connection: RespConnection, key: bytes, token: bytes) -> None:
        held = self.held.setdefault(_owner(connection), {})
        if len(held) >= MOST_HELD:
            held.pop(next(iter(held)))
        held[token] = key

    def returned(self, connection: RespConnection, token: bytes) -> None:
        owner = _owner(connection)
        held = self.held.get(owner)
        if held is not None:
            held.pop(token, None)
            if not held:
                del self.held[owner]

    def gone(self, connection: RespConnection) -> None:
        """This connection has closed."""
        if not self.held or (owner := _owner(connection)) not in self.held:
            return
        others = connection.front.connections.values()
        if any(_owner(other) == owner for other in others if other is not connection):
            return
        for token, key in self.held.pop(owner).items():
            self.give_back(key, token)

    def give_back(self, key: bytes, token: bytes) -> None:
        self._port.submit(Release(key, token), lambda outcome: None)


def begin(connection: RespConnection, command: Command, plan: Plan, size: int) -> None:
    """Ask the node for, or with, a lease."""
    request = plan.requests[0]
    waits = isinstance(request, Lease) and request.wait_ms > 0
    # Writes behind it are not kept waiting: the one it waits for may be among them. Nor are reads
    # of its key, then: those writes may be behind them.
    keys = (request.key,) if isinstance(request, Lease) and not waits else ()
    slot = connection.open(Access.LOCAL if waits else command.access, size, keys)
    if isinstance(request, Fill | Release):
        connection.front.borrowers.returned(connection, request.token)
    done = partial(_answered, connection, slot, plan, connection.resp3)
    connection.front.port.submit(request, done)


def _answered(
    connection: RespConnection, slot: Slot, plan: Plan, resp3: bool, outcome: Outcome
) -> None:
    request = plan.requests[0]
    if isinstance(request, Lease) and isinstance(outcome, LeaseResult) and outcome.token:
        borrowers = connection.front.borrowers
        if connection.lost:  # nobody has heard of it
            borrowers.give_back(request.key, outcome.token)
        elif plan.ephemeral:
            borrowers.given(connection, request.key, outcome.token)
    if not connection.lost:
        connection.fill(slot, answer(plan, (outcome,), resp3))


def _owner(connection: RespConnection) -> Owner:
    return ("process", connection.peer) if connection.peer else ("connection", connection.number)


def peer_of(transport: asyncio.BaseTransport) -> int:
    """The process at the other end of a Unix socket; 0 when that is not known."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return 0
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return 0
    pid, _, _ = struct.unpack("3i", raw)
    return int(pid)
