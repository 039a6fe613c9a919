"""What the core asks of a Redis server, and what comes back.

Each *call* is an effect of `Node.step`: the shell carries it out on the lane's
server and brings the answer back as an input. The same calls are answered by
`upstream` (a real server, through the scripts beside it) and by the
simulator's modelled Redis; one contract suite runs over both.

Every call carries a `call_id` that its answer repeats. Every call that cannot
be answered comes back as `Failed`. The atomicity stated on each call is what
the protocol rests on: one call is one atomic step on the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from coherenced.core.model import (
    Acknowledgement,
    Declared,
    Done,
    Fetched,
    Lineage,
    Member,
    Message,
    Mutation,
    Query,
    Record,
    Reply,
    Set,
)

# -- calls: core -> server ----------------------------------------------------


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """(Re)open the bus of this lane as connection number `connection`.

    Answered by `Subscribed(connection)` once the server has confirmed it, or by
    `BusLost(connection)`. The shell reconnects by itself (with back-off) only
    through this call: the core asks again after a `BusLost`.
    """

    lane: int
    connection: int


class Probe(msgspec.Struct, frozen=True, gc=False):
    """V1, V2: the fenced probe. -> Probed | Failed.

    Atomically: if the lane's metadata is missing, start epoch `new_epoch` (W2);
    if `member` is given, write it into the roster (this joins, re-joins and
    refreshes it: membership and proof are one atomic step); return the lineage.
    A server that may not accept writes must refuse it.
    """

    call_id: int
    lane: int
    new_epoch: bytes
    member: Member | None
    """None for the small read-only probe of V4 and for `coherenced doctor`."""
    forked: bytes = b""
    """The epoch whose history forked: if it is still the lane's, `new_epoch` follows it now."""
    declares: Declared = ()
    """K6, with a `member`: what this node declares of the lane's keys for as long as it is on the
    roster, instead of what it declared before. See `Failure.TWO_PHASES`."""


class Fetch(msgspec.Struct, frozen=True, gc=False):
    """F1: read these, atomically with the lineage. -> FetchedAll | Failed.

    `items` holds a key (bytes: a fill) or a `Query`. Fenced like a probe, and it
    works when memory is full. Values whose tags were invalidated count as absent.
    """

    call_id: int
    lane: int
    new_epoch: bytes
    items: tuple[bytes | Query, ...]
    step: int = 0
    """0: all of it, as of one moment. Else the answer may end after any of the items, once it is
    large: the size is looked at after each so many keys. The keys come first then."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """L1: read `key`, and lease it to this caller if it has to be loaded. -> Claimed | Failed.

    Atomically with the lineage, fenced like a fetch. At most one lease of a key lives, by the
    server's own clock; asking again with the token that holds it is granted again. It ends with
    any recorded change of the key, and it is worth nothing once an invalidation of a prefix or
    of everything covers the key, or one of a tag the value that is to be stored.
    """

    call_id: int
    lane: int
    new_epoch: bytes
    key: bytes
    token: bytes
    """Which token it shall be, if it is granted: 16 random hex digits."""
    lease_ms: int
    refresh_ms: int = -1
    """A value with at most this left to live is to be loaded anew; -1: only a missing one."""


class Claims:
    """What became of a claim."""

    NOTHING: Final = 0
    """There is nothing to load: the value, or (for `left_ms`) the knowledge that there is none."""
    GRANTED: Final = 1
    HELD: Final = 2
    """Somebody else has the lease, for at most `left_ms` more."""
    TOO_MANY: Final = 3
    """The server keeps no more leases at once."""


class Mutate(msgspec.Struct, frozen=True, gc=False):
    """W1: execute and record these, in order, as one atomic script. -> Mutated | Failed.

    `tags[i]` is the chain tag for mutation i if it gets recorded. A second
    Mutate may be in flight behind one whose keys are others; the server takes them in order.
    """

    call_id: int
    lane: int
    new_epoch: bytes
    writer: bytes
    """This node's incarnation."""
    want_ack: tuple[bool, ...]
    mutations: tuple[Mutation, ...]
    tags: tuple[bytes, ...]
    watch_id: int = 0
    """Not 0: run it on that WATCHing connection between MULTI and EXEC; see `Mutated.aborted`."""
    sets: tuple[Set, ...] = ()
    """All of the batch, instead of `mutations`, where it is nothing but these."""

    @property
    def every(self) -> tuple[Mutation, ...]:
        """The whole batch, whichever way it is said."""
        return self.mutations or tuple([given.as_mutation() for given in self.sets])


class Resolve(msgspec.Struct, frozen=True, gc=False):
    """W3: a Mutate's reply was lost. -> Logged | Failed.

    First make sure that the old connection can execute nothing any more (kill it
    by its client id on the same server; a restarted server has no old
    connections), then read the log from `start_seq` *inclusive* to its end.
    """

    call_id: int
    lane: int
    failed_call_id: int
    start_seq: int


class ReadLog(msgspec.Struct, frozen=True, gc=False):
    """A2: read at most `limit` records from `start_seq` *inclusive*. -> Logged | Failed."""

    call_id: int
    lane: int
    start_seq: int
    limit: int


class ReadRoster(msgspec.Struct, frozen=True, gc=False):
    """-> RosterRead | Failed."""

    call_id: int
    lane: int


class Reap(msgspec.Struct, frozen=True, gc=False):
    """Take a silent node off the roster, if its beat still stands at `beat`. No answer needed."""

    lane: int
    incarnation: bytes
    beat: int


class Leave(msgspec.Struct, frozen=True, gc=False):
    """Take this node off the roster: it serves nothing any more. -> Left | Failed."""

    call_id: int
    lane: int
    incarnation: bytes


class SendAck(msgspec.Struct, frozen=True, gc=False):
    """K1: tell `writer` how far this node has applied. Lost ones only delay: no answer."""

    lane: int
    writer: bytes
    ack: Acknowledgement


class WaitReplicas(msgspec.Struct, frozen=True, gc=False):
    """WAIT until `replicas` have the last Mutate, or `timeout_ms`. -> ReplicasReached | Failed."""

    call_id: int
    lane: int
    replicas: int
    timeout_ms: int


Call = (
    Subscribe
    | Probe
    | Fetch
    | Claim
    | Mutate
    | Resolve
    | ReadLog
    | ReadRoster
    | Reap
    | Leave
    | SendAck
    | WaitReplicas
)

# -- answers: server -> core ----------------------------------------------------


class Subscribed(msgspec.Struct, frozen=True, gc=False):
    lane: int
    connection: int


class BusLost(msgspec.Struct, frozen=True, gc=False):
    lane: int
    connection: int
    reason: str


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """One message that arrived on bus connection number `connection`."""

    lane: int
    connection: int
    message: Message


class Heard(msgspec.Struct, frozen=True, gc=False):
    """Several messages that arrived at once on bus connection number `connection`, in order."""

    lane: int
    connection: int
    messages: tuple[Message, ...]


class AckReceived(msgspec.Struct, frozen=True, gc=False):
    ack: Acknowledgement


class Probed(msgspec.Struct, frozen=True, gc=False):
    call_id: int
    lineage: Lineage
    server_ms: int
    """The server's own clock, for the pause alarm only (V7)."""
    roster_version: int
    server_id: bytes = b""
    """Which server process answered (its run id); empty: it does not tell."""


class FetchedAll(msgspec.Struct, frozen=True, gc=False):
    call_id: int
    lineage: Lineage
    results: Sequence[Fetched | Reply]
    """In the order asked: `Fetched` for a key, a raw reply for a Query; a `PlainValues` where they
    are all of keys and there is no more to be said of any. Fewer than were asked (`Fetch.step`):
    the rest was not read."""


class Claimed(msgspec.Struct, frozen=True, gc=False):
    call_id: int
    lineage: Lineage
    found: Fetched
    state: int
    """One of `Claims`."""
    left_ms: int = 0


class Mutated(msgspec.Struct, frozen=True, gc=False):
    call_id: int
    lineage: Lineage
    """After the last mutation of the batch."""
    roster_version: int
    done: tuple[Done, ...]
    aborted: bool = False
    """WATCH: a watched key had changed; nothing was executed, `done` is empty."""
    server_id: bytes = b""
    """As in `Probed`."""


class Logged(msgspec.Struct, frozen=True, gc=False):
    call_id: int
    lineage: Lineage
    """The head, read atomically with the records."""
    records: tuple[Record, ...]
    replies: tuple[Reply, ...] = ()
    """For each record the reply stored with it, where one was (W3); may be empty."""
    severed: bool = True
    """Resolve: whether the old connection is surely dead."""
    server_id: bytes = b""
    """As in `Probed`."""


class RosterRead(msgspec.Struct, frozen=True, gc=False):
    call_id: int
    roster_version: int
    members: tuple[Member, ...]
    declared: tuple[Declared, ...] = ()
    """K6: what they declare, each different one once."""
    is_whole: bool = True
    """Whether it names as many as have joined: some of it, or all, may have been lost."""


class Left(msgspec.Struct, frozen=True, gc=False):
    call_id: int


class ReplicasReached(msgspec.Struct, frozen=True, gc=False):
    call_id: int
    replicas: int


class Failure:
    """Why a call has no answer."""

    UNREACHABLE: Final = "unreachable"
    """It was surely not executed: never sent, or refused before execution (also NOREPLICAS,
    READONLY, MISCONF, LOADING, BUSY, NOAUTH, NOPERM: `detail` is the server's text)."""
    LOST: Final = "lost"
    """It was sent and no reply came: it may or may not have been executed."""
    OUT_OF_MEMORY: Final = "oom"
    """The server refused it before executing anything: maxmemory is reached."""
    TWO_PHASES: Final = "two-phases"
    """K6: refused before executing anything: it would change a key that a live node declares
    linearizable, and that does not bear the mark of this very write (Op.PREPARE)."""


class Failed(msgspec.Struct, frozen=True, gc=False):
    call_id: int
    failure: str
    """One of `Failure`."""
    detail: str
    """One line for people: what the server or the socket said."""


Answer = (
    Subscribed
    | BusLost
    | Delivered
    | Heard
    | AckReceived
    | Probed
    | FetchedAll
    | Claimed
    | Mutated
    | Logged
    | RosterRead
    | Left
    | ReplicasReached
    | Failed
)
