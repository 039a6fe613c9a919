"""What the modelled Redis keeps beside values: their tags (T1), and the marks of writes in two
phases (K6)."""

from __future__ import annotations

from typing import Final, NamedTuple

from coherenced.core.model import Mutation, Op, Record, ReplyError
from tests.sim.redis_commands import Keyspace

LABELLED_LIVE_MS: Final = 30 * 24 * 3600 * 1000
"""A labelled value never lives without a bound: labels must not pile up for ever."""
KEEPS_LABEL: Final = frozenset(
    {
        b"APPEND", b"DECR", b"DECRBY", b"EXPIRE", b"EXPIREAT", b"GETEX", b"INCR", b"INCRBY",
        b"INCRBYFLOAT", b"PERSIST", b"PEXPIRE", b"PEXPIREAT",
    }
)  # fmt: skip
"""Commands that change a value in place: its tags stay."""
MARK_GONE: Final = ReplyError("TRYAGAIN the mark of this write has expired or was taken away")
MARKED: Final = ReplyError("TRYAGAIN another write is between its two phases on this key")


class Labels:
    """A labelled value is a cache entry: dead as soon as a record covers it. A plain value is
    the application's own data, and no invalidation ends it."""

    def __init__(self) -> None:
        self.of: dict[bytes, tuple[bytes, int, tuple[bytes, ...]]] = {}
        """key -> (epoch and sequence it was labelled at, its tags)."""
        self.used = False
        """Whether any value was ever labelled: only then invalidations are remembered, and while
        there are leases."""
        self._tags: dict[bytes, int] = {}
        """tag -> the sequence of its last invalidation."""
        self._prefixes: dict[bytes, int] = {}
        self._before = 0
        """Labels older than this sequence are dead: everything was invalidated there."""

    def copy(self) -> Labels:
        other = Labels()
        other.of = dict(self.of)
        other.used = self.used
        other._tags = dict(self._tags)
        other._prefixes = dict(self._prefixes)
        other._before = self._before
        return other

    def flushed(self) -> None:
        """No labelled value is left."""
        self.of.clear()
        self.used = False
        self.forget_invalidations()

    def forget_invalidations(self) -> None:
        """A new epoch: labels of the one before are dead by that."""
        self._tags.clear()
        self._prefixes.clear()
        self._before = 0

    def purge(self, space: Keyspace, epoch: bytes, key: bytes) -> tuple[bytes, ...]:
        """T1: forget `key` if it is a labelled value that a record has covered. -> its tags."""
        label = self.of.get(key)
        if label is None:
            return ()
        in_epoch, since, tags = label
        alive = in_epoch == epoch and self.covered_at(key, tags) <= since
        if space.peek(key) is not None and alive:
            return tags
        del self.of[key]
        space.items.pop(key, None)
        return ()

    def covered_at(self, key: bytes, tags: tuple[bytes, ...]) -> int:
        """The sequence of the last invalidation, but those by key, that covers it."""
        covered = [self._before, *(self._tags.get(tag, 0) for tag in tags)]
        covered += [seq for prefix, seq in self._prefixes.items() if key.startswith(prefix)]
        return max(covered)

    def remembers(self) -> bool:
        """Whether any invalidation is remembered."""
        return bool(self._tags or self._before)

    def written(self, space: Keyspace, mutation: Mutation, epoch: bytes, seq: int) -> None:
        """A recorded write replaces the labels of its keys, or keeps them, or ends them."""
        keeps = mutation.argv[0].upper() in KEEPS_LABEL
        for key in mutation.keys:
            label = self.of.pop(key, None) if keeps else None
            self.of.pop(key, None)
            if mutation.label is not None:
                label = (epoch, seq, mutation.label)
            item = space.peek(key)
            if label is None or item is None:
                continue
            latest_ms = space.now_ms + LABELLED_LIVE_MS
            item.expire_ms = min(item.expire_ms or latest_ms, latest_ms)
            self.of[key] = label
        self.used = self.used or mutation.label is not None

    def bury(self, space: Keyspace, record: Record, *, leased: bool = False) -> None:
        """An invalidation: what it covers is dead."""
        if not self.used and not leased:
            return
        for key in record.keys:
            if self.of.pop(key, None) is not None:
                space.items.pop(key, None)
        self._tags.update((tag, record.seq) for tag in record.tags)
        self._prefixes.update((prefix, record.seq) for prefix in record.prefixes)
        if record.everything:
            self.forget_invalidations()
            self._before = record.seq


class Seen(NamedTuple):
    """What one script knows of the marks that it has come to."""

    released: list[bytes]
    guarded: dict[bytes, bool]
    """token -> whether it was there at first: a FLUSHDB on the way ends no write."""


class Marks:
    """K6: keys between the two phases of a write."""

    def __init__(self) -> None:
        self.on: dict[bytes, tuple[int, bytes]] = {}
        """key -> (when its mark ends by the server's clock, token)."""

    def copy(self) -> Marks:
        other = Marks()
        other.on = dict(self.on)
        return other

    def holder(self, now_ms: int, key: bytes) -> bytes | None:
        """The token of the mark on `key`, None when it bears none that is still alive."""
        ends_ms, token = self.on.get(key, (0, b""))
        if ends_ms > now_ms:
            return token
        self.on.pop(key, None)
        return None

    def refusal(self, now_ms: int, mutation: Mutation, seen: Seen) -> ReplyError | None:
        """Why this must not be done while its keys are, or are not, pending."""
        ends_it = mutation.is_write and mutation.op in (Op.COMMIT, Op.ABORT)
        harmless = not mutation.is_write or mutation.op in (Op.INVALIDATE, Op.RELEASE)
        token = mutation.token if mutation.op in (Op.PREPARE, Op.COMMIT, Op.ABORT) else None
        mine = 0
        for key in mutation.keys:
            held = self.holder(now_ms, key)
            if held is not None and held == token:
                mine += 1
            elif held is not None and not harmless:
                return MARKED
        if ends_it:  # only the linearizable ones of its keys were marked
            if not mine and not seen.guarded.get(mutation.token):
                return MARK_GONE
            seen.guarded.setdefault(mutation.token, True)
            seen.released.extend(mutation.keys)
        return None

    def is_guarded(self, now_ms: int, mutation: Mutation, seen: Seen) -> bool:
        """Whether the write that this goes with still has its mark."""
        if mutation.token not in seen.guarded:
            held = self.holder(now_ms, mutation.guard)
            seen.guarded[mutation.token] = held == mutation.token
        return seen.guarded[mutation.token]

    def prepare(self, now_ms: int, mutation: Mutation) -> None:
        mark = (now_ms + mutation.token_ttl_ms, mutation.token)
        self.on.update((key, mark) for key in mutation.keys)

    def release(self, keys: list[bytes]) -> None:
        for key in keys:
            self.on.pop(key, None)
