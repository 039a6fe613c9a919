"""`warm`: what is missing is loaded in bulk, many keys to a call of the loader, under leases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from threading import Lock
from typing import Any, Final, Generic, NamedTuple

from coherenced.client.arguments import key_bytes, several
from coherenced.client.core import Calls, K
from coherenced.client.freshness import LoadPolicy
from coherenced.client.leases import (
    Filling,
    Found,
    Granted,
    Lease,
    fills,
    is_refused,
    leases,
    releases,
)
from coherenced.client.loading import Job, Loads, Tags
from coherenced.client.replies import Version
from coherenced.client.steps import Call, Machine, Together
from coherenced.client.stream import BATCH_COMMANDS, parts
from coherenced.errors import CoherencedError, NotAcknowledged, UsageError

Progress = Callable[[int, int], object]
"""Told how many of how many keys are done; from one thread at a time."""

MOST_AT_ONCE: Final = 64


class Warmed(NamedTuple):
    """What became of the keys."""

    keys: int
    present: int
    """There already: now also in this host's memory."""
    loaded: int
    absent: int
    """The loader did not bring them, or they are known not to exist."""
    elsewhere: int
    """Being loaded by somebody else just now."""
    refused: int
    """Loaded and not stored: invalidated during the load, or the server refused."""


class Warming(Generic[K]):
    """One call of `warm`."""

    def __init__(
        self,
        calls: Calls,
        loads: Loads,
        loader: Callable[[list[K]], Any],
        policy: LoadPolicy,
        tags: Tags,
        progress: Progress | None,
    ) -> None:
        self._calls = calls
        self._loads = loads
        self._loader = loader
        self._policy = policy
        self._tags = tags
        self._progress = progress
        self._lock = Lock()
        self._done = self._total = 0

    def warm(self, keys: Iterable[K], concurrency: int) -> Machine[Warmed]:
        """Part by part, `concurrency` parts at a time."""
        if not 1 <= concurrency <= MOST_AT_ONCE:
            raise UsageError(f"concurrency is a number from 1 to {MOST_AT_ONCE}")
        wanted = list(dict.fromkeys(several(keys)))
        self._total = len(wanted)
        # Small calls too are to share the work.
        size = max(1, min(BATCH_COMMANDS, -(-len(wanted) // concurrency)))
        machines = [self._part(part) for part in parts(wanted, size)]
        done: list[Warmed] = (yield Together(machines, concurrency)) if machines else []
        return Warmed(*(sum(column) for column in zip(*done, strict=True))) if done else _NOTHING

    def _part(self, keys: list[K]) -> Machine[Warmed]:
        present = yield self._calls.get_many(keys)
        missing = [key for key in keys if key not in present]
        found, loaded, absent, refused = len(present), 0, 0, 0
        granted: dict[K, bytes] = {}
        if missing:
            names = [key_bytes(key) for key in missing]
            answers: list[Lease] = yield leases(names, self._policy.lease)
            for key, lease in zip(missing, answers, strict=True):
                if isinstance(lease, Granted):
                    granted[key] = lease.token
                elif isinstance(lease, Found):
                    known_absent = lease.stored is None
                    found, absent = found + (not known_absent), absent + known_absent
        elsewhere = len(keys) - found - absent - len(granted)
        if granted:
            loaded, more, refused = yield from self._load(granted)
            absent += more
        self._report(len(keys))
        return Warmed(len(keys), found, loaded, absent, elsewhere, refused)

    def _load(self, granted: dict[K, bytes]) -> Machine[tuple[int, int, int]]:
        held = {key_bytes(key): token for key, token in granted.items()}
        try:
            brought = yield Call(partial(self._loader, list(granted)), self._policy.hard_timeout)
            fillings = self._fillings(granted, brought)
            for filling in fillings:
                del held[filling.name]
            outcomes = (yield fills(fillings)) if fillings else []
        except GeneratorExit:
            raise
        except BaseException:
            yield from self._give_back(held)
            raise
        absent = len(held)
        for filling, outcome in zip(fillings, outcomes, strict=True):
            if is_refused(outcome):
                held[filling.name] = filling.token
        yield from self._give_back(held)
        stored = Version, NotAcknowledged
        refused = sum(not isinstance(outcome, stored) for outcome in outcomes)
        return len(outcomes) - refused, absent, refused

    def _fillings(self, granted: dict[K, bytes], brought: Any) -> list[Filling]:
        if not isinstance(brought, Mapping):
            raise UsageError(
                f"the loader of warm takes a list of keys and returns a mapping from key to "
                f"value, not {type(brought).__name__}"
            )
        made = []
        for key, token in granted.items():
            name = key_bytes(key)
            if key in brought:
                job = Job(name, self._nothing, self._policy, self._tags)
                one = self._loads.brought(job, brought[key])
                if one.stored_s > 0:
                    grace_s = self._policy.grace
                    made.append(Filling(name, token, one.stored, one.stored_s, one.tags, grace_s))
        return made

    def _give_back(self, held: dict[bytes, bytes]) -> Machine[None]:
        if held:
            try:
                yield releases(list(held.items()))
            except CoherencedError:
                return  # the leases end by themselves

    def _report(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress is not None:
                self._progress(self._done, self._total)

    @staticmethod
    def _nothing() -> None:
        """Values come in bulk: none is loaded by itself."""


_NOTHING: Final = Warmed(0, 0, 0, 0, 0, 0)
