"""The methods of the clients that load, once: arguments -> a machine for the shell to carry out.

As `core.Calls` for the plain ones: what they mean is written here and only here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import clock_gettime_ns as clock_ns
from typing import Any, Final, Unpack

from coherenced.client.arguments import Key, key_bytes
from coherenced.client.copies import Copy
from coherenced.client.core import Calls, K
from coherenced.client.freshness import LoadOptions, LoadPolicy
from coherenced.client.l0 import BOOTTIME, L0
from coherenced.client.loading import Job, Loads, Tags
from coherenced.client.replies import Entry
from coherenced.client.steps import Machine
from coherenced.client.values import ABSENT
from coherenced.client.warming import Progress, Warmed, Warming
from coherenced.errors import UsageError

MODES: Final = ("raise", "load", "redis")
"""What `on_unavailable` may be."""


NOWHERE: Final[Any] = object()
"""Of `get`: nothing is there."""


class Patterns:
    """Cache-aside with leases, in each of its forms."""

    def __init__(
        self,
        calls: Calls,
        policy: LoadPolicy,
        on_unavailable: str,
        clock: Callable[[], float],
        random: Callable[[], float],
        l0: L0 | None = None,
    ) -> None:
        if on_unavailable not in MODES:
            raise UsageError(f"on_unavailable is one of {', '.join(MODES)}")
        self._calls = calls
        self._l0 = l0
        if not isinstance(policy, LoadPolicy):
            raise UsageError(f"load_policy is a LoadPolicy, not {policy!r:.40}")
        self._policy = policy.checked()
        self._loads = Loads(calls, policy, clock, random, on_unavailable != "raise")
        self._known: dict[tuple[Any, ...], LoadPolicy] = {}

    def get_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
        *,
        tags: Tags = (),
        **options: Unpack[LoadOptions],
    ) -> Machine[Any]:
        """The value of `key`; when it is not there, what `loader()` returns, which is stored.

        Of all callers in the cluster one calls its loader, the others wait for what it
        stores (or answer stale, where `stale_while_revalidate` allows it). A value that was
        loaded before an update and comes after it is refused, not cached. What the loader
        raises, the caller gets, at once, and the next in line may try.

        `ttl`, `stale_while_revalidate`, `stale_if_error`, `negative_ttl`, `jitter`,
        `early_refresh`, `lease`, `wait`, `retry_after`: see `LoadPolicy`; what is not given
        is as in the client's `load_policy`. `tags`: names, or a function of the value.
        The loader may return a `Loaded(value, ttl=…, tags=…)` to decide by itself.
        With `negative_ttl`, None and `KeyError` from the loader are kept, and answered as None.
        Past `soft_timeout` a stale value is answered, if `stale_if_error` allows one; past
        `hard_timeout` the loader is given up.

        A key whose namespace has an origin is loaded from there by the daemon: `loader` is never
        called for it, and what the origin has not is None.
        """
        return self.value(key, loader, self.policy_of(options), tags)

    def get_entry_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
        *,
        tags: Tags = (),
        **options: Unpack[LoadOptions],
    ) -> Machine[Entry]:
        """Like `get_or_load`, with how it was answered: `.stale`, `.source`, `.version`."""
        job = Job(key_bytes(key), callable_loader(loader), self.policy_of(options), tags)
        return self._loads.entry(job)

    def warm(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Any],
        *,
        tags: Tags = (),
        concurrency: int = 4,
        progress: Progress | None = None,
        **options: Unpack[LoadOptions],
    ) -> Machine[Warmed]:
        """Read `keys` into this host's memory, and load those that are nowhere.

        `loader(keys)` gets up to 200 keys at a time and returns a mapping from key to value
        (or `Loaded`) of those that exist; `concurrency` calls of it run at once. Nothing is
        loaded that another process is loading. `progress(done, total)` after each part.
        """
        policy = self.policy_of(options)
        warming = Warming(self._calls, self._loads, loader, policy, tags, progress)
        return warming.warm(keys, concurrency)

    # -- for the shells -------------------------------------------------------------------

    def value(
        self,
        key: Key,
        loader: Callable[[], Any],
        policy: LoadPolicy,
        tags: Tags,
        *,
        is_missing: bool = False,
    ) -> Machine[Any]:
        """`get_or_load`, with its policy ready made, perhaps after a look that found nothing."""
        job = Job(key_bytes(key), callable_loader(loader), policy, tags)
        entry = yield from self._loads.entry(job, is_missing=is_missing)
        return entry.value

    def fresh_copy(self, key: Key, policy: LoadPolicy) -> Copy | None:
        """This process's copy, when it may be served and is fresh: nothing else is to be done."""
        if self._l0 is None or policy.early_refresh:
            return None
        copy = self._l0.held(key_bytes(key), None, None)  # as the machine names it
        if copy is None or copy.value == ABSENT:
            return None
        ends_ns = copy.expires_ns
        if not copy.found and ends_ns is None:
            return None  # not there; what is known not to exist has an end
        if ends_ns is not None and ends_ns - clock_ns(BOOTTIME) <= policy.grace * 1e9:
            return None
        return copy

    def known_absent(self, key: Key) -> bool:
        """Whether this process's copy says that a loader has found nothing: that has an end."""
        copy = None if self._l0 is None else self._l0.held(key, None, None)
        return copy is not None and not copy.found and copy.expires_ns is not None

    def stats(self, daemons: dict[str, Any]) -> dict[str, Any]:
        """The daemon's document, with what this client has loaded beside its origins."""
        return {
            **daemons,
            "origin": {**daemons.get("origin", {}), **self._loads.counters.as_json()},
        }

    def policy_of(self, options: LoadOptions) -> LoadPolicy:
        """The client's policy with a call's options; remembered, as calls repeat themselves."""
        if not options:
            return self._policy
        wanted = tuple(options.items())
        try:
            policy = self._known.get(wanted)
        except TypeError:  # a list or its like: no number at all, which is said there
            return self._policy.but(options)
        if policy is None:
            policy = self._policy.but(options)
            if len(self._known) >= 1000:
                self._known.clear()
            self._known[wanted] = policy
        return policy


def callable_loader(loader: Callable[[], Any]) -> Callable[[], Any]:
    """Itself, if it can be called."""
    if not callable(loader):
        raise UsageError(f"a loader is a function without arguments, not {loader!r}")
    return loader


def draw() -> float:
    """A random number from 0 to below 1."""
    from random import random  # loaded only here: seldom needed, and slow to load

    return random()
