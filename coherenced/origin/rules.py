"""What one namespace says of its origin, and where a key is at it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import msgspec

from coherenced.config import Config, Namespace

READ: Final = "read"
THROUGH: Final = "write-through"
BEHIND: Final = "write-behind"

_GLOB: Final = re.compile(r"[*?\[\\]")


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """One namespace with an origin. Times in milliseconds."""

    name: str
    match: str
    url: str
    """With `{key}` or `{rest}` in its path."""
    mode: str = READ
    ttl_ms: float = 60_000.0
    """How long what was loaded is fresh, where the origin does not say."""
    jitter: float = 0.1
    """The share of it that a load may fall short of it."""
    respect_cache_control: bool = True
    negative_ms: float = 5_000.0
    """How long "there is no such thing" (404, 410) is believed."""
    while_revalidate_ms: float = 0.0
    if_error_ms: float = 0.0
    beta: float = 0.0
    """XFetch; 0: off."""
    soft_timeout_ms: float = 100.0
    hard_timeout_ms: float = 5_000.0
    connect_timeout_ms: float = 1_000.0
    retries: int = 2
    breaker_failures: int = 5
    breaker_open_ms: float = 5_000.0
    max_requests: int = 64
    write_behind_tries: int = 10
    max_value_bytes: int = 64 * 1024 * 1024

    @property
    def grace_ms(self) -> float:
        """How much longer than it is fresh a value is kept, to be answered stale."""
        return max(self.while_revalidate_ms, self.if_error_ms)

    @property
    def early_ms(self) -> float:
        """XFetch: for this long before the end each read is looked at, so L1 may not answer it.

        The chance that a refresh would be due earlier is below 0.5 % as long as a load takes less
        than a fiftieth of the TTL (with beta 1).
        """
        return min(self.ttl_ms / 10.0, 10_000.0) if self.beta > 0 else 0.0

    @property
    def unix_path(self) -> str:
        """Not empty: the origin listens on this Unix socket."""
        parts = urlsplit(self.url)
        return unquote(parts.netloc) if parts.scheme == "http+unix" else ""

    @property
    def prefix(self) -> bytes:
        """The fixed beginning of `match`."""
        found = _GLOB.search(self.match)
        fixed = self.match if found is None else self.match[: found.start()]
        return fixed.encode("utf-8", "surrogateescape")

    def address(self, key: bytes) -> str:
        """The URL of `key`; over a Unix socket its host is `localhost`."""
        scheme, _, rest = self.url.partition("://")
        place, _, path = rest.partition("/")
        if scheme == "http+unix":
            scheme, place = "http", "localhost"
        path = path.replace("{key}", quote(key, safe=""))
        path = path.replace("{rest}", quote(key.removeprefix(self.prefix), safe=""))
        return f"{scheme}://{place}/{path}"


def rules_of(name: str, space: Namespace, config: Config) -> Rules | None:
    """The rules of one namespace, or None when it has no origin."""
    if not space.origin:
        return None
    common = config.coherence.stale_if_error_ms
    negative = config.l1.negative_max_age_ms
    given = {
        "mode": space.origin_mode,
        "ttl_ms": space.ttl_ms,
        "jitter": None if space.ttl_jitter_percent is None else space.ttl_jitter_percent / 100.0,
        "respect_cache_control": space.respect_cache_control,
        "while_revalidate_ms": space.stale_while_revalidate_ms,
        "if_error_ms": common if space.stale_if_error_ms is None else space.stale_if_error_ms,
        "negative_ms": negative if space.negative_max_age_ms is None else space.negative_max_age_ms,
        "beta": space.refresh_ahead,
        "soft_timeout_ms": space.soft_timeout_ms,
        "hard_timeout_ms": space.hard_timeout_ms,
        "connect_timeout_ms": space.connect_timeout_ms,
        "retries": space.origin_retries,
        "breaker_failures": space.breaker_failures,
        "breaker_open_ms": space.breaker_open_ms,
        "max_requests": space.max_origin_requests,
        "write_behind_tries": space.write_behind_tries,
    }
    return msgspec.convert(
        {name: value for name, value in given.items() if value is not None}
        | {
            "name": name,
            "match": space.match,
            "url": space.origin,
            "max_value_bytes": config.limits.max_value_bytes,
        },
        Rules,
    )


def all_rules(config: Config) -> dict[str, Rules]:
    """Namespace name -> rules, for those with an origin."""
    found = ((name, rules_of(name, space, config)) for name, space in config.namespace.items())
    return {name: rules for name, rules in found if rules is not None}


def place(rules: Rules) -> str:
    """Where the origin is, for people: without what its URL may hold of a password."""
    parts = urlsplit(rules.url)
    return f"{parts.scheme}://{unquote(parts.netloc).rpartition('@')[2]}"
