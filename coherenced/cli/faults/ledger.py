"""What the clients did and saw, and whether a promise was broken.

The load is arranged so that judging is simple. Each key has one writer, which numbers its
writes 1, 2, 3…, and the number is the value; what makes a key absent has a number too. So of
two values of a key the older one is known at a glance, and each promise is one question about
a read that returned n and began at s:

    is there a write m that surely came after n, and was *shown* by s - slack?

              shown means                                      slack
    bounded   its call had returned                            B
    ack=all   …with the acknowledgement of all                 0
    linear    …or any linearizable read had returned it        0
    session   this session had seen or made it                 0

"Surely after n": m began when n was known to have happened. A write whose reply was lost may
happen at any time after it began, once; from the first read that returned it, it has happened.

Faults that lose data are noted as *losses*. What was written before one ended is no longer
promised to a read that ends after it began.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

FOREVER: Final = float("inf")
EXPIRY_MARGIN_S: Final = 0.05
TAGGED: Final = "t:"
"""Keys with this prefix hold values stored with tags."""
LINEARIZABLE: Final = "lin:"
"""Keys with this prefix are in the linearizable namespace."""
MOST_SHOWN: Final = 5


class Fate:
    """What became of a write."""

    OK: Final = "ok"
    FAILED: Final = "failed"  # surely not applied
    UNKNOWN: Final = "unknown"  # its reply was lost


@dataclass(slots=True)
class Write:
    """One write of one key, by its only writer. Times in seconds."""

    session: str
    key: str
    number: int
    absent: bool
    """It made the key absent: a delete, or an invalidation of its tag."""
    began_s: float
    ttl_s: float = FOREVER
    ended_s: float = FOREVER
    fate: str = Fate.UNKNOWN
    by_all: bool = False
    """The call had asked for the acknowledgement of all, and got it."""
    seen_s: float = FOREVER
    """When a read had first returned it."""
    shown_s: float = FOREVER
    """When it had returned, or a linearizable read had returned it."""

    @property
    def known_s(self) -> float:
        """When it surely had happened."""
        return self.ended_s if self.fate == Fate.OK else self.seen_s


@dataclass(slots=True)
class Read:
    """One answered read of one key. Times in seconds."""

    session: str
    node: str
    key: str
    number: int | None
    """None: it was not there."""
    began_s: float
    ended_s: float
    current: bool = False
    """It was asked for with max_staleness_ms = 0."""
    source: str = ""
    was_absent: bool = False
    """Nothing was there; `number` is then the latest that may have made it so (0: none)."""


class Violation(NamedTuple):
    """A broken promise, and the operations that show it."""

    level: str
    text: str


@dataclass(slots=True)
class Level:
    """One promise, and how it was kept."""

    name: str
    checked: int = 0
    violations: list[Violation] = field(default_factory=list)

    def broken(self, text: str) -> None:
        self.violations.append(Violation(self.name, text))


class Ledger:
    """Filled by the clients' threads (appending is atomic), judged when they have stopped."""

    def __init__(self, bound_s: float) -> None:
        self.bound_s = bound_s
        self.operations: list[Read | Write] = []
        """In the order in which they ended, for reads, or began, for writes."""
        self.groups: list[tuple[str, dict[str, str | None], float]] = []
        """(session, values, when it began) of each snapshot of a group."""
        self.losses: list[tuple[float, float]] = []
        """When data was lost: from, to."""
        self.turns: list[tuple[float, float]] = []
        """When a lane may have gone on under a new epoch because of a loss: from, to. Values
        stored with tags are of one epoch: they end with it."""
        self.counters: dict[str, tuple[int, int, int]] = {}
        """Name -> increments acknowledged, without an answer, and what it stood at after them."""
        self.final: dict[str, dict[str, str | None]] = {}
        """Who was asked in the end -> what every key held there."""

    # -- judging --------------------------------------------------------------------------

    def judge(self) -> list[Level]:
        """Every level's verdict."""
        writes: dict[str, list[Write]] = defaultdict(list)
        reads: list[Read] = []
        for operation in self.operations:
            if isinstance(operation, Write):
                writes[operation.key].append(operation)
            else:
                reads.append(operation)
        for one in writes.values():
            one.sort(key=lambda write: write.number)
        made_up = self._resolve(reads, writes)
        judge = _Judge(writes, self.losses, self.turns)
        bound_ms = f"{self.bound_s * 1e3:.0f}"
        plain = [read for read in reads if not read.key.startswith(LINEARIZABLE)]
        current = [read for read in plain if read.current]
        namespace = [read for read in reads if read.key.startswith(LINEARIZABLE)]
        return [
            made_up,
            self._eventual(),
            judge.level(f"bounded (B = {bound_ms} ms)", reads, _returned, self.bound_s),
            judge.level("ack=all", reads, _acknowledged),
            self._session(judge),
            judge.level("linearizable by B = 0", current, _shown),
            judge.level("linearizable namespace", namespace, _shown),
            self._snapshot(),
            _expiry(reads, writes),
            self._counters(),
        ]

    def _resolve(self, reads: list[Read], writes: dict[str, list[Write]]) -> Level:
        """Give each read the write that it shows, and each write the time it was first seen."""
        level = Level("nothing made up")
        for read in reads:
            level.checked += 1
            known = writes.get(read.key, [])
            if read.number is None:
                read.number = max((w.number for w in known if _may_be_gone(w, read)), default=0)
                read.was_absent = True
                continue
            write = known[read.number - 1] if 0 < read.number <= len(known) else None
            if write is None or write.began_s > read.ended_s:
                level.broken(f"{_tell(read)}: nobody had written that")
                continue
            if write.fate == Fate.FAILED:
                level.broken(f"{_tell(read)}: that write was said not to have been applied")
            write.seen_s = min(write.seen_s, read.ended_s)
            if read.current or read.key.startswith(LINEARIZABLE):
                write.shown_s = min(write.shown_s, read.ended_s)
        for one in writes.values():
            for write in one:
                if write.fate == Fate.OK:
                    write.shown_s = min(write.shown_s, write.ended_s)
        return level

    def _session(self, judge: _Judge) -> Level:
        """Own writes, and never backwards."""
        level = Level("session")
        newest: dict[tuple[str, str], tuple[Write, float]] = {}
        timed = sorted(self.operations, key=lambda o: (o.began_s, isinstance(o, Read)))
        for operation in timed:
            place = (operation.session, operation.key)
            before = newest.get(place)
            if isinstance(operation, Write):
                if operation.fate == Fate.OK:
                    newest[place] = (operation, operation.began_s)
                continue
            level.checked += 1
            if before is not None:
                shown, since_s = before
                # One bound after a loss a client may still be shown the lost state once more.
                fair = judge.lost_until(operation) + self.bound_s < since_s
                if fair and judge.is_after(shown, operation):
                    level.broken(f"{_tell(operation)}, after {_tell_write(shown)} in that session")
            now = judge.write_of(operation)
            if now is not None and (
                before is None
                or now.number > before[0].number
                or judge.may_be_lost(before[0], operation)
            ):
                newest[place] = (now, operation.began_s)
        return level

    def _eventual(self) -> Level:
        level = Level("eventual")
        truth = self.final.get("Redis", {})
        for node, values in self.final.items():
            if node == "Redis":
                continue
            for key, value in values.items():
                level.checked += 1
                if value != truth.get(key):
                    level.broken(f"{key} is {value} on {node}, {truth.get(key)} in Redis")
        return level

    def _snapshot(self) -> Level:
        level = Level("snapshot")
        for session, values, began_s in self.groups:
            level.checked += 1
            if len(set(values.values())) > 1:
                level.broken(f"{session} at {began_s:.3f} s saw halves of transactions: {values}")
        return level

    def _counters(self) -> Level:
        level = Level("counters")
        for name, (acknowledged, unknown, stands_at) in self.counters.items():
            level.checked += acknowledged + unknown
            if not acknowledged <= stands_at <= acknowledged + unknown:
                level.broken(
                    f"{name} stands at {stands_at} after {acknowledged} acknowledged increments "
                    f"and {unknown} without an answer"
                )
        return level


class _Judge:
    """One question, asked of every read."""

    def __init__(
        self,
        writes: dict[str, list[Write]],
        losses: Iterable[tuple[float, float]],
        turns: Iterable[tuple[float, float]] = (),
    ):
        self._writes = writes
        self._losses = sorted(losses)
        self._tagged = sorted([*self._losses, *turns])

    def lost_until(self, read: Read) -> float:
        """Until when data was being lost that this read may miss."""
        losses = self._tagged if read.key.startswith(TAGGED) else self._losses
        place = bisect.bisect_right(losses, (read.ended_s, FOREVER))
        return max((until_s for _, until_s in losses[:place]), default=-FOREVER)

    def write_of(self, read: Read) -> Write | None:
        """The write it shows; None: the key as it was before everything."""
        known = self._writes.get(read.key, [])
        return known[read.number - 1] if read.number and read.number <= len(known) else None

    def is_after(self, later: Write, read: Read) -> bool:
        """Whether `later` surely came after what `read` shows."""
        number = read.number or 0
        if later.number <= number:
            return False
        now = self.write_of(read)
        return now is None or later.began_s >= now.known_s

    def may_be_lost(self, write: Write, read: Read) -> bool:
        return write.began_s < self.lost_until(read)

    def level(
        self,
        name: str,
        reads: Iterable[Read],
        shown_s: Callable[[Write], float],
        slack_s: float = 0.0,
    ) -> Level:
        level = Level(name)
        for read in reads:
            level.checked += 1
            since_s = self.lost_until(read)
            for write in self._writes.get(read.key, [])[read.number or 0 :]:
                if write.began_s > read.began_s:
                    break
                if (
                    write.began_s >= since_s
                    and shown_s(write) <= read.began_s - slack_s
                    and self.is_after(write, read)
                ):
                    late_ms = (read.began_s - slack_s - shown_s(write)) * 1e3
                    level.broken(f"{_tell(read)}, {late_ms:.0f} ms too late: {_tell_write(write)}")
                    break
        return level


def _may_be_gone(write: Write, read: Read) -> bool:
    """Whether `read` may have found nothing because of this write, which was there already."""
    return (write.began_s if write.absent else write.began_s + write.ttl_s) <= read.ended_s


def _returned(write: Write) -> float:
    return write.ended_s if write.fate == Fate.OK else FOREVER


def _acknowledged(write: Write) -> float:
    return write.ended_s if write.by_all else FOREVER


def _shown(write: Write) -> float:
    return write.shown_s


def _expiry(reads: Iterable[Read], writes: dict[str, list[Write]]) -> Level:
    """Nothing outlives its time."""
    level = Level("expiry")
    for read in reads:
        known = writes.get(read.key, [])
        if not known or known[0].ttl_s == FOREVER:
            continue
        level.checked += 1
        present = read.number and read.number <= len(known) and not read.was_absent
        write = known[read.number - 1] if read.number and present else None
        ended_s = FOREVER if write is None else write.known_s + write.ttl_s + EXPIRY_MARGIN_S
        if write is not None and read.began_s > ended_s:
            level.broken(f"{_tell(read)}, which had expired: {_tell_write(write)}")
    return level


def _tell(read: Read) -> str:
    value = "nothing" if read.was_absent else f"number {read.number}"
    asked = " with B = 0" if read.current else ""
    where = f" from {read.source}" if read.source else ""
    return f"{read.session} read {value} of {read.key} on {read.node}{where}{asked} at " + _span(
        read.began_s, read.ended_s
    )


def _tell_write(write: Write) -> str:
    verb = "made it absent" if write.absent else "wrote it"
    return f"{write.session} {verb} as number {write.number} at " + _span(
        write.began_s, write.ended_s
    )


def _span(began_s: float, ended_s: float) -> str:
    return f"{began_s:.3f} – {ended_s:.3f} s" if ended_s != FOREVER else f"{began_s:.3f} s"
