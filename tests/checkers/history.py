"""What clients did and saw: the operations, the recorder and the file they are kept in.

All clients run on one host, so one monotonic clock orders what they saw:
`start_ns` is read just before a request is sent, `end_ns` just after its answer
arrived. Every value that is ever written is unique (`Values`), so a read tells
which write it saw; absence has many possible makers and is judged with care.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

FORMAT: Final = "coherenced-history-1"


class Kind:
    """What an operation is."""

    READ: Final = "read"
    WRITE: Final = "write"
    DELETE: Final = "delete"
    INVALIDATE: Final = "invalidate"
    """By key, tag, prefix or everything. `keys` lists only those that it makes *absent*
    (values stored with tags); a plain value stays in Redis and is not listed."""
    MGET: Final = "mget"
    MSET: Final = "mset"
    INCR: Final = "incr"
    """`values[0]` is the integer answered. Only the counter checker looks at its key."""
    FLUSH: Final = "flush"
    """Every key, or each of `keys`, became absent at some instant of the interval (FLUSHALL,
    restarted empty)."""
    LOSS: Final = "loss"
    """At some instant of the interval every key may have gone back to any earlier state
    (restarted from an old file, a replica promoted that had missed writes). Sequence
    numbers of the same epoch may be issued again after it."""
    EPOCH: Final = "epoch"
    """The metadata was lost, the data was not. Only a remark: versions of another epoch follow,
    and what was stored with tags is gone, which is noted as a flush of those keys."""


READS: Final = frozenset({Kind.READ, Kind.MGET})
MAKES_ABSENT: Final = frozenset({Kind.DELETE, Kind.INVALIDATE})
SETS: Final = frozenset({Kind.WRITE, Kind.MSET})
DISASTERS: Final = frozenset({Kind.FLUSH, Kind.LOSS})


class Outcome:
    """How an operation ended."""

    OK: Final = "ok"
    """Answered: a read returned, a mutation was applied (also with NOACK: see `satisfied`)."""
    FAIL: Final = "fail"
    """Answered with an error that promises it was not applied, or never sent."""
    UNKNOWN: Final = "unknown"
    """May or may not have been applied, at any time from `start_ns` on."""


class Operation(msgspec.Struct, kw_only=True, omit_defaults=True, eq=False):
    """One operation of one session. Mutable until it has ended."""

    id: int
    session: str
    node: str
    kind: str
    keys: tuple[str, ...] = ()
    values: tuple[str | None, ...] = ()
    """Written or read, one per key; None: absent. A delete or an invalidation has none."""
    start_ns: int = 0
    end_ns: int | None = None
    """None: never answered, which counts as infinity."""
    outcome: str = Outcome.UNKNOWN
    version: str = ""
    """`epoch:seq` of the record a mutation wrote, or as of which a read saw the value."""
    level: str = ""
    """Acknowledgement asked for; '' is the daemon's default (redis)."""
    satisfied: bool = True
    """False: committed, but the level was not reached in time (NOACK)."""
    max_staleness_ms: float | None = None
    """Asked by this read; None: the history's default bound."""
    min_version: str = ""
    """The session token sent with this read."""
    source: str = ""
    stale: bool = False
    """The answer said of itself that it is past its bound."""
    snapshot: bool = False
    """A multi-get that asked for one instant."""
    final: bool = False
    """Read after everything was healed and quiet; node `redis` is Redis itself."""
    ttl_ms: int | None = None
    """Expiry given with a write."""
    detail: str = ""
    """The error's text, or what was invalidated, for people."""

    @property
    def end(self) -> float:
        """`end_ns`, infinity when it never was answered."""
        return float("inf") if self.end_ns is None else self.end_ns

    @property
    def is_read(self) -> bool:
        return self.kind in READS


class KeyRead(NamedTuple):
    """One key's part of a read that was answered."""

    operation: Operation
    key: str
    value: str | None


class History(msgspec.Struct, kw_only=True, eq=False):
    """A recorded run."""

    operations: list[Operation] = msgspec.field(default_factory=list)
    initial: dict[str, str] = msgspec.field(default_factory=dict)
    """What was there before; a key that is not listed was absent."""
    bound_ms: float = 1000.0
    """The staleness bound of a read that asked for none."""
    notes: dict[str, Any] = msgspec.field(default_factory=dict)
    """Seed, nodes, faults: for people."""

    def reads(self) -> Iterator[KeyRead]:
        """Every answered read, key by key."""
        for op in self.operations:
            if op.kind in READS and op.outcome == Outcome.OK:
                for key, value in zip(op.keys, op.values, strict=True):
                    yield KeyRead(op, key, value)

    def where(self, keep: Callable[[Operation], bool]) -> History:
        """A history of the operations that `keep` accepts (it must keep every mutation)."""
        return History(
            operations=[op for op in self.operations if keep(op)],
            initial=self.initial,
            bound_ms=self.bound_ms,
            notes=self.notes,
        )

    def save(self, path: Path) -> None:
        """Write it as JSON lines: a header, then one operation a line."""
        header = {
            "format": FORMAT,
            "initial": self.initial,
            "bound_ms": self.bound_ms,
            "notes": self.notes,
        }
        encode = msgspec.json.Encoder().encode
        with path.open("wb") as file:
            file.write(encode(header) + b"\n")
            file.writelines(encode(op) + b"\n" for op in self.operations)

    @classmethod
    def load(cls, path: Path) -> History:
        """Read what `save` wrote; ValueError when it is not a history."""
        with path.open("rb") as file:
            header = json.loads(file.readline())
            if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
                raise ValueError(f"{path} is not a {FORMAT} file")
            return cls(operations=read_journal(file), **header)


def read_journal(lines: Iterable[bytes]) -> list[Operation]:
    """Operations from JSON lines; a later line of the same id replaces the earlier one.

    A last line that was torn (its writer was killed) is ignored.
    """
    decode = msgspec.json.Decoder(Operation).decode
    found: dict[int, Operation] = {}
    for line in lines:
        if line.endswith(b"\n"):
            op = decode(line)
            found[op.id] = op
    return list(found.values())


class Recorder:
    """Records operations from many threads: two clock readings and a list append each.

    With `journal`, each line is also written to that file as it happens, mutations
    when they begin *and* when they end, so that a client that is killed leaves its
    unanswered mutations behind.
    """

    def __init__(self, journal: Path | None = None, first_id: int = 1) -> None:
        self.operations: list[Operation] = []
        self._ids = itertools.count(first_id)
        self._lock = threading.Lock()
        self._file = journal.open("ab", buffering=0) if journal else None
        self._encode = msgspec.json.Encoder().encode

    def begin(
        self,
        session: str,
        node: str,
        kind: str,
        keys: tuple[str, ...],
        values: tuple[str | None, ...] = (),
        **details: Any,
    ) -> Operation:
        """Note that an operation is about to be sent; send it at once after this returns."""
        op = Operation(
            id=next(self._ids),
            session=session,
            node=node,
            kind=kind,
            keys=keys,
            values=values,
            **details,
        )
        op.start_ns = time.monotonic_ns()
        self.operations.append(op)
        if self._file and kind not in READS:
            self._write(op)
        return op

    def end(self, op: Operation, outcome: str, **details: Any) -> None:
        """Note its answer; call it at once when the answer is there.

        An unknown outcome has no end: it may be applied later still.
        """
        now_ns = time.monotonic_ns()
        for name, value in details.items():
            setattr(op, name, value)
        op.outcome = outcome
        op.end_ns = None if outcome == Outcome.UNKNOWN else now_ns
        if self._file:
            self._write(op)

    def _write(self, op: Operation) -> None:
        assert self._file is not None
        line = self._encode(op) + b"\n"
        with self._lock:
            self._file.write(line)

    def close(self) -> None:
        if self._file:
            self._file.close()

    def history(self, **details: Any) -> History:
        """What was recorded so far, oldest first; `details` are `History`'s fields."""
        operations = sorted(self.operations, key=lambda op: op.start_ns)
        return History(operations=operations, **details)


class Values:
    """Values no one else writes: `writer:1`, `writer:2`, …"""

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self._numbers = itertools.count(1)

    def next(self) -> str:
        return f"{self._writer}:{next(self._numbers)}"
