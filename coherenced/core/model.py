"""The words of the protocol, as values.

Everything here is a plain immutable value that travels between floors: the
core computes with them, `wire` encodes them, `upstream` moves them. Nothing
here knows a clock, a socket or a random number.

A *lane* is one ordered log of mutations (one server = lane 0). A *lineage*
`(epoch, seq, tag)` says where a lane's log is. A *version* `epoch:seq` says
where in that log a value was read or written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Final, NamedTuple, cast, overload

import msgspec

from coherenced.core.bulk import bulk_of, value_in

if TYPE_CHECKING:
    from collections.abc import Callable

TAG_BYTES: Final = 16
"""Length of an epoch and of a tag: 64 random bits written as 16 hex digits."""

NEVER: Final = float("-inf")
"""`verified_at_ms` of a lane that has proved nothing yet."""

FOREVER: Final = float("inf")


class Version(NamedTuple):
    """`epoch:seq`: where in its lane's log a value was read or written."""

    epoch: bytes
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch.decode('ascii')}:{self.seq}"

    def encode(self) -> bytes:
        return b"%b:%d" % (self.epoch, self.seq)

    @classmethod
    def parse(cls, text: bytes | str) -> Version:
        """Read `epoch:seq`; ValueError when it is not one."""
        raw = text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
        epoch, colon, seq = raw.partition(b":")
        fits = len(epoch) == TAG_BYTES and not epoch.strip(b"0123456789abcdef")
        if not colon or not fits or not seq.isdigit() or len(seq) > 18:
            raise ValueError("a version is written epoch:seq, for example 0f1e2d3c4b5a6978:42")
        return cls(epoch, int(seq))


class Lineage(NamedTuple):
    """Where a lane's log is: its epoch, its last sequence, and the tag of that mutation."""

    epoch: bytes
    seq: int
    tag: bytes


version_of: Final = cast("Callable[[tuple[bytes, int]], Version]", partial(tuple.__new__, Version))
lineage_of: Final = cast(
    "Callable[[tuple[bytes, int, bytes]], Lineage]", partial(tuple.__new__, Lineage)
)
"""The same values from tuples, three times as fast: for what is made once a key."""


class Op:
    """What a record did, for people and for the event stream; applying it does not depend on it."""

    WRITE: Final = 0
    DELETE: Final = 1
    INVALIDATE: Final = 2
    FLUSH: Final = 3
    PREPARE: Final = 4
    COMMIT: Final = 5
    FILL: Final = 6
    ABORT: Final = 7
    RELEASE: Final = 8

    NAMES: Final = (
        "write",
        "delete",
        "invalidate",
        "flush",
        "prepare",
        "commit",
        "fill",
        "abort",
        "release",
    )


WANT_ACK: Final = 1
"""Record flag: the writer waits for acknowledgements of this record."""
EVERYTHING: Final = 2
"""Record flag: the record covers every key of its lane."""


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One mutation as it stands in the log and travels on the bus.

    `prev` is the tag of the record before it (A1): two histories that share a
    sequence number are still told apart. `writer` is the incarnation of the
    node that wrote it, which is where acknowledgements go.
    """

    seq: int
    prev: bytes
    tag: bytes
    op: int
    flags: int
    writer: bytes
    keys: tuple[bytes, ...] = ()
    tags: tuple[bytes, ...] = ()
    prefixes: tuple[bytes, ...] = ()

    @property
    def everything(self) -> bool:
        return bool(self.flags & EVERYTHING)

    @property
    def wants_ack(self) -> bool:
        return bool(self.flags & WANT_ACK)


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one PUBLISH carries: the head after it, and the records it adds.

    `records` is empty when they would not fit the message bound (W6): then the
    receiver reads the log up to `seq`.
    """

    lane: int
    epoch: bytes
    seq: int
    tag: bytes
    records: tuple[Record, ...] = ()


Declared = tuple[tuple[bytes, bool], ...]
"""K6: glob patterns in order, and whether what the first to match a key says is that it is
linearizable: what one node's namespaces declare of the keys of a lane."""


class Acknowledgement(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """K1, cumulative: node `incarnation` has applied `lane` up to `seq`, whose tag is `tag`."""

    incarnation: bytes
    name: str
    lane: int
    epoch: bytes
    seq: int
    tag: bytes


class Member(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One line of the roster (K2), as its node last wrote it."""

    incarnation: bytes
    name: str
    bound_ms: int
    """The largest staleness bound B this node ever serves with."""
    beat: int
    """+1 with each of the node's periodic probes: a beat that stands still is a silent node."""
    version: str
    """coherenced's version, for people."""
    seen_ms: int
    """The server's own clock at that beat: for display only, nothing is ordered by it (A7)."""


class ReplyError(Exception):
    """An error reply of the Redis server to one command, text as Redis wrote it.

    A *value*: it is stored in replies and given to the one caller it belongs to.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReplyError) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


Reply = None | int | bytes | ReplyError | list["Reply"]
"""One Redis reply. A status and a bulk string are both bytes: the command table tells which."""


class Mutation(msgspec.Struct, frozen=True, gc=False):
    """One command of a write batch: what Redis shall execute, and what the record about it says.

    A batch is one atomic script (W1); each mutation in it is validated, executed
    and recorded on its own, in order.
    """

    argv: tuple[bytes, ...]
    """The Redis command, or () for a pure invalidation (nothing is executed)."""
    op: int = Op.WRITE
    keys: tuple[bytes, ...] = ()
    """Keys this mutation changes (or, for a read inside a transaction, touches)."""
    tags: tuple[bytes, ...] = ()
    """Tags to invalidate (op INVALIDATE)."""
    prefixes: tuple[bytes, ...] = ()
    everything: bool = False
    is_write: bool = True
    """False: a read inside a transaction: executed in its place, never recorded."""
    unchanged: bytes = b""
    """Which reply means 'nothing changed, record nothing': b'n' nil, b'z' integer 0, b'' never."""
    exact_integer: bool = False
    """The reply is a 64-bit integer that Lua's doubles would round (INCR and its kin)."""
    label: tuple[bytes, ...] | None = None
    """Tags to store beside the value (COH.SET … TAGS); None leaves the value plain."""
    if_version: Version | None = None
    """Refuse unless the key is provably unchanged since this version (compare-and-set)."""
    unchanged_since: int = -1
    """Filled in by the core for `if_version`: only records after this sequence are looked at."""
    token: bytes = b""
    """K6. PREPARE: mark the keys pending with it. COMMIT and ABORT: refused (a reply that starts
    with TRYAGAIN) unless every key carries it still; then the marks are removed."""
    guard: bytes = b""
    """K6, of what goes with a COMMIT in a transaction: refused like it, unless this key has carried
    `token` when the batch came to the first that asks for it."""
    token_ttl_ms: int = 0
    """How long a PREPARE's marks live, by the server's own clock. RELEASE: how long the key is
    known not to exist (0: nothing is known of it)."""
    lease: bytes = b""
    """L1, the token of a lease. A write: refused (a reply that starts with LOST) unless the key is
    leased under it still and nothing has covered the key or `label` since. RELEASE: 1, or 0."""
    most_bytes: int = 0
    """An APPEND: refused where the value would be longer; 0: it may be as long as Redis allows."""
    frees_memory: bool = False
    """Must work when Redis is out of memory (deletes and invalidations)."""
    keeps: bytes | None = None
    """For a plain SET: the value this node may keep in its own L1 once the write is committed."""
    keeps_ttl_ms: float | None = None
    """TTL of `keeps` in ms, None for no expiry."""
    expected_reply: Reply = None
    """What to answer when the write is found applied though its reply was lost (W3);
    used only if `reply_is_known`, else the log's stored reply is used."""
    reply_is_known: bool = False


class Set(msgspec.Struct, frozen=True, gc=False):
    """SET of a value without options, what most mutations are: asked for by a client that wants to
    know no more than the reply, sent and kept without being taken apart."""

    key: bytes
    bulk: bytes
    """`bulk_of` the value."""

    @classmethod
    def to(cls, key: bytes, value: bytes) -> Set:
        return cls(key, bulk_of(value))

    def as_mutation(self) -> Mutation:
        value = value_in(self.bulk)
        return Mutation(
            (b"SET", self.key, value),
            keys=(self.key,),
            keeps=value,
            expected_reply=b"OK",
            reply_is_known=True,
        )


class Fetched(msgspec.Struct, frozen=True, gc=False):
    """What one fill read of one key, atomically with the lane's lineage (F1)."""

    value: bytes | None
    ttl_ms: int = -1
    """Remaining TTL in Redis: -1 none, else milliseconds."""
    labels: tuple[bytes, ...] = ()
    """The tags stored beside the value."""
    pending: bool = False
    """A linearizable write is between its two phases on this key (K6): do not cache."""
    error: ReplyError | None = None
    """WRONGTYPE and its kin: given to the caller, never cached."""


class PlainValues(Sequence[Fetched]):
    """Several `Fetched`, of each of which there is only a value and a TTL: two lists."""

    __slots__ = ("ttls_ms", "values")

    def __init__(
        self, values: Sequence[bytes | None], ttls_ms: Sequence[int] | None = None
    ) -> None:
        if ttls_ms is not None and len(ttls_ms) != len(values):
            raise ValueError(f"{len(ttls_ms)} TTLs for {len(values)} values")
        self.values = values
        self.ttls_ms = ttls_ms
        """None: all are -1."""

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, at: int) -> Fetched: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Fetched]: ...
    def __getitem__(self, at: int | slice) -> Fetched | Sequence[Fetched]:
        return tuple(self)[at]

    def __iter__(self) -> Iterator[Fetched]:
        return map(Fetched, self.values, self.ttls_ms or repeat(-1))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"PlainValues({self.values!r}, {self.ttls_ms!r})"


class Query(msgspec.Struct, frozen=True, gc=False):
    """A read command that is not a plain value look-up (TTL, EXISTS, SCAN, …): asked as is."""

    argv: tuple[bytes, ...]
    keys: tuple[bytes, ...] = ()


class Done(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one mutation of a batch."""

    reply: Reply
    seq: int
    """Its sequence, or 0 when nothing was recorded (a read, an error, nothing changed)."""
    tag: bytes
    prev: bytes
