"""What a client asks of a node, and what it is told: the core's front side.

The serving floors (RESP, HTTP) turn bytes into these requests and outcomes
into bytes; nothing here knows either format.
"""

from __future__ import annotations

from typing import Final

import msgspec

from coherenced.core.life import is_past
from coherenced.core.model import Member, Mutation, Query, Record, Reply, Set, Version


class Level:
    """Acknowledgement levels below a number of nodes. N > 0 is written as that number."""

    NONE: Final = -1
    REDIS: Final = 0
    QUORUM: Final = -2
    ALL: Final = -3

    NAMES: Final = {"none": NONE, "redis": REDIS, "quorum": QUORUM, "all": ALL}

    @classmethod
    def parse(cls, text: str) -> int:
        """Read `none`, `redis`, `quorum`, `all` or a number (1 to 9999); ValueError else."""
        level = cls.NAMES.get(text.strip().lower())
        if level is not None:
            return level
        if text.isascii() and text.isdigit() and 1 <= int(text) <= 9999:
            return int(text)
        raise ValueError("ack is one of none, redis, quorum, all or a number of nodes from 1")

    @classmethod
    def name(cls, level: int) -> str:
        return next((n for n, v in cls.NAMES.items() if v == level), str(level))


class Source:
    """Where a value came from."""

    L1: Final = "l1"
    L2: Final = "l2"
    ORIGIN: Final = "origin"


class Read(msgspec.Struct, frozen=True, gc=False):
    """Look these keys up. -> ReadResult, one `Value` per key, in order."""

    keys: tuple[bytes, ...]
    max_staleness_ms: float | None = None
    """None: the keys' namespace decides. 0: linearizable."""
    min_version: Version | None = None
    stale_if_error_ms: float | None = None
    snapshot: bool = False
    """S2: all values as of one moment of the lane's log (at most 200 keys)."""
    skip_l1: bool = False
    """Ask Redis whatever L1 holds (a connection that WATCHes keys)."""
    stale_while_revalidate_ms: float | None = None
    """Where the keys have an origin: how long past its time a value may be answered while it is
    loaded anew; None: their namespace decides."""
    max_age_ms: float | None = None
    """Where the keys have an origin: what it gave or validated longer ago is loaded anew; 0: all
    is, also if a load is under way. Like `min_fresh_ms`, it takes nothing stale that the call does
    not allow by itself."""
    min_fresh_ms: float | None = None
    """Where the keys have an origin: what is not fresh for so long still is loaded anew."""
    cached_only: bool = False
    """Where the keys have an origin: it is not asked; what would have to be loaded is not there."""

    most_bytes: int = 0
    """The values together are to be no larger, else there is a Fault and none is held; 0: they may
    be as large as they are. Of several keys only."""
    uncounted: bool = False
    """Of the node's own, not of a client: no hit and no miss."""

    @property
    def is_particular(self) -> bool:
        """Whether it says how old or fresh an answer is to be: nothing configured may answer it
        stale."""
        return self.max_age_ms is not None or self.min_fresh_ms is not None


class Get(msgspec.Struct, frozen=True, gc=False):
    """What `Read((key,))` asks, by a client that wants to know no more than the value.

    -> the reply as it is sent (`bulk.bulk_of`), or whatever else a Read may be answered with.
    """

    key: bytes


class Ask(msgspec.Struct, frozen=True, gc=False):
    """Ask Redis a read command that L1 does not answer. -> AskResult."""

    query: Query


class Write(msgspec.Struct, frozen=True, gc=False):
    """Execute these mutations in order; with `atomic`, as one script. -> WriteResult."""

    mutations: tuple[Mutation, ...]
    atomic: bool = False
    ack: int | None = None
    """A `Level` or a number of nodes; None: the keys' namespace decides."""
    timeout_ms: float | None = None
    """For the acknowledgements; None: the configured default."""
    replicas: int = 0
    """Also WAIT for this many Redis replicas."""
    watch_id: int = 0

    @classmethod
    def of(cls, given: Set) -> Write:
        """What a `Set` means as a request. -> the server's reply alone, or whatever else the same
        Write may be answered with."""
        return cls((given.as_mutation(),))


class Lease(msgspec.Struct, frozen=True, gc=False):
    """L1: the key's value, or else the right to be the one who loads it. -> LeaseResult | Fault."""

    key: bytes
    lease_ms: int = 10_000
    """How long the token lives if nobody fills or releases it."""
    wait_ms: float = 0.0
    """How long to wait while somebody else loads it."""
    max_staleness_ms: float | None = None
    refresh_ms: float | None = None
    """A value with at most this much left until its expiry is to be loaded anew, by one caller;
    everybody else gets the value. None: only a missing one is loaded."""


class Fill(msgspec.Struct, frozen=True, gc=False):
    """L1: store what was loaded under a token. -> WriteResult | Fault (LOST: refused, for good)."""

    key: bytes
    token: bytes
    value: bytes
    ttl_ms: int | None = None
    tags: tuple[bytes, ...] = ()
    ack: int | None = None
    timeout_ms: float | None = None


class Release(msgspec.Struct, frozen=True, gc=False):
    """L1: give a token back, so that the next in line gets one at once.

    -> WriteResult, whose one reply is 1, or 0 when the token was not alive any more.
    """

    key: bytes
    token: bytes
    absent_ms: int | None = None
    """The loader has found that there is no such thing: whoever asks for a lease during this
    time is told so ("not there") instead of being given a token. Ends with any write to the key."""


class AskMembers(msgspec.Struct, frozen=True, gc=False):
    """Read the roster. -> MembersResult."""


class Audit(msgspec.Struct, frozen=True, gc=False):
    """Compare what this node holds of these keys (at most 200) with Redis. -> AuditResult."""

    keys: tuple[bytes, ...]


class Recall(msgspec.Struct, frozen=True, gc=False):
    """The records of this lane's log after a version, some of them at a time. -> RecallResult."""

    after: Version
    until: int
    """The last one that is wanted, by its sequence: one that this node has applied."""


Request = Get | Set | Read | Ask | Write | AskMembers | Lease | Fill | Release | Audit | Recall

# -- outcomes -------------------------------------------------------------------


class Value(msgspec.Struct, frozen=True, gc=False):
    """One key's answer. `value` None: the key is not there."""

    value: bytes | None
    version: Version
    source: str
    age_ms: float
    """How long ago its origin or loader gave or validated it, where that is known (`life`); else
    Redis is its home, and it is as old as `proved_ms`."""
    stale: bool = False
    """Past its bound, served because `stale_if_error_ms` allows it."""
    ttl_ms: float | None = None
    """What is left until this node's deadline for it; None when unknown."""
    error: Reply = None
    """A `ReplyError` (WRONGTYPE …) instead of a value."""
    labels: tuple[bytes, ...] = ()
    """The tags stored with the value."""
    keep_ms: float = 0.0
    """How long a client on this host may keep a copy that the shared page proves (P2); 0: this
    node does not hold it itself, or may not serve it without asking."""
    bound_ms: float = 0.0
    """V3, for that copy: the bound of the key's namespace."""
    expires_in_ms: float | None = None
    """What is left of Redis's own time to live, whatever this node's deadline; None: no expiry."""
    proved_ms: float = 0.0
    """How long ago this node last proved it current (0 for a value just read from Redis)."""

    @property
    def told_stale(self) -> bool:
        """Whether a reader is to be told so: also what is past the time its loader gave it."""
        return self.stale or is_past(self.labels, self.expires_in_ms)


class ReadResult(msgspec.Struct, frozen=True, gc=False):
    values: tuple[Value, ...]


class LeaseResult(msgspec.Struct, frozen=True, gc=False):
    """One of three: a value (also "not there", known by its loader); a token, with the value that
    is due for a refresh if there is one; or neither: somebody else is loading it still."""

    value: Value | None = None
    token: bytes = b""
    version: Version | None = None
    """Where the lane's log stood when the token was given."""


class AskResult(msgspec.Struct, frozen=True, gc=False):
    reply: Reply


class Fault(msgspec.Struct, frozen=True, gc=False):
    """The request failed as a whole. `kind` is one of `FaultKind`; `detail` is one line."""

    kind: str
    detail: str
    version: Version | None = None


class FaultKind:
    UNAVAILABLE: Final = "unavailable"
    """Redis cannot be reached (or refuses), nothing was done, no value can be proved fresh."""
    INDETERMINATE: Final = "indeterminate"
    """A write was sent, its reply was lost, and the log cannot tell whether it was applied."""
    APPLIED_UNKNOWN_REPLY: Final = "applied"
    """The write is committed (`version`), but its reply was lost."""
    CONTENDED: Final = "contended"
    """K6: a linearizable write did not get its turn in time: another one was between its phases, or
    a node did not drop its copy. Nothing was done."""
    TOO_LARGE: Final = "too-large"
    """The values have more than `most_bytes` together."""
    OUT_OF_MEMORY: Final = "oom"
    CONFLICT: Final = "conflict"
    """`if_version` no longer holds."""
    LOST: Final = "lost"
    """A fill whose token is dead: it expired, or the key or a tag of it was changed meanwhile."""
    OTHER_LINEAGE: Final = "lineage"
    """`min_version` is from another epoch: Redis has lost or replaced its data since."""
    BEHIND: Final = "behind"
    """`min_version` is from the future of this lane."""
    OVERLOADED: Final = "overloaded"
    """A bound of this daemon (waiting requests, queued bytes) is reached."""
    STOPPING: Final = "stopping"


class WriteResult(msgspec.Struct, frozen=True, gc=False):
    replies: tuple[Reply, ...]
    version: Version | None
    """Of the last recorded mutation; None with ack `none` or when nothing was recorded."""
    acknowledged: dict[str, float]
    """Node name -> milliseconds from commit to its acknowledgement (this node counts, 0.0)."""
    fenced: tuple[str, ...] = ()
    """Nodes that did not answer but can serve nothing old any more (K3)."""
    missing: tuple[str, ...] = ()
    """Nodes that had not acknowledged and were not fenced when the deadline passed."""
    satisfied: bool = True
    """False: committed, but the asked level was not reached in time."""
    aborted: bool = False
    """WATCH: a watched key had changed; nothing was executed."""
    replicas: int = 0


class MembersResult(msgspec.Struct, frozen=True, gc=False):
    members: tuple[tuple[Member, bool], ...]
    """Each member, and whether its beat has moved lately by this node's clock."""


class Divergence(msgspec.Struct, frozen=True, gc=False):
    """This node held one thing, Redis another, and no record in between explains it."""

    key: bytes
    held: Version
    """As of when this node's copy was."""
    found: Version
    """As of when Redis was asked."""
    held_bytes: int | None
    """The length of what was held; None: "not there"."""
    found_bytes: int | None


class AuditResult(msgspec.Struct, frozen=True, gc=False):
    """Of the keys that were held: how many agreed, and how many had moved meanwhile."""

    agreed: int = 0
    moved: int = 0
    diverged: tuple[Divergence, ...] = ()


class RecallResult(msgspec.Struct, frozen=True, gc=False):
    records: tuple[Record, ...] | None
    """The first of them, without a gap; None: not all of them are known any more."""


Outcome = (
    bytes
    | ReadResult
    | AskResult
    | WriteResult
    | MembersResult
    | LeaseResult
    | AuditResult
    | RecallResult
    | Fault
)
