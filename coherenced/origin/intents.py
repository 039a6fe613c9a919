"""What a write of Redis's language means for an origin: put a value, or delete it. Pure.

An origin takes whole values. What would have to be computed where the value is
(INCR, APPEND), or depends on what is there (SET NX, IFVER), cannot be asked of it:
such a write is refused, in words, before anything is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from coherenced.core.life import OWN, life_of
from coherenced.core.model import Mutation
from coherenced.origin.marks import CONTENT_TYPE

_TTL_ONLY: Final = frozenset(
    {b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT", b"PERSIST", b"GETEX", b"TOUCH"}
)
"""How long the cache keeps it is nothing to the origin."""
_MS_PER: Final = {b"EX": 1000.0, b"PX": 1.0, b"SETEX": 1000.0, b"PSETEX": 1.0}
MOST_TTL_MS: Final = 2_592_000_000.0
"""30 days: the scripts let a value with labels live no longer."""


class Intent(msgspec.Struct, frozen=True):
    """One key's new value; None: it is deleted."""

    key: bytes
    value: bytes | None
    ttl_ms: float | None = None
    """How long it shall be fresh; None: as the namespace says."""
    labels: tuple[bytes, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        """What a PUT tells beside the value."""
        for label in self.labels:
            if label.startswith(CONTENT_TYPE):
                return {"Content-Type": label[len(CONTENT_TYPE) :].decode("latin-1")}
        return {}


class Refused(Exception):
    """This write cannot be sent to an origin. Its text is one line."""


def intents_of(mutation: Mutation) -> list[Intent] | None:
    """What `mutation` means for the origins of its keys; None: nothing. Refused when it cannot be.

    Times to live that Redis would refuse are Redis's to refuse: they come back as they are.
    """
    argv = mutation.argv
    if not argv or not mutation.is_write:
        return None
    verb = argv[0].upper()
    if verb in _TTL_ONLY:
        return None
    if mutation.if_version is not None:
        raise Refused("a write with a condition cannot be sent to an origin: leave it out")
    # How long it is kept is said anew, with the namespace's own grace, by who stores it.
    labels = tuple(label for label in mutation.label or () if not label.startswith(OWN))
    if verb == b"SET":
        life, ttl_ms = life_of(mutation.label or ()), _ttl_of_set(argv[3:])
        if life is not None and ttl_ms is not None:
            ttl_ms -= life.grace_ms
        return [Intent(argv[1], argv[2], ttl_ms, labels)]
    if verb in (b"SETEX", b"PSETEX"):
        return [Intent(argv[1], argv[3], _ttl(argv[2], _MS_PER[verb]), labels)]
    if verb in (b"DEL", b"UNLINK"):
        return [Intent(key, None) for key in mutation.keys]
    if verb == b"MSET":
        return [Intent(key, value) for key, value in zip(argv[1::2], argv[2::2], strict=True)]
    name = verb.decode("ascii", "replace")
    raise Refused(f"{name} cannot be sent to an origin: SET the whole value, or DEL")


def _ttl_of_set(options: Sequence[bytes]) -> float | None:
    if not options:
        return None
    unit = _MS_PER.get(options[0].upper())
    if unit is None or len(options) != 2:
        raise Refused("SET of a key with an origin takes EX or PX, and no other option")
    return _ttl(options[1], unit)


def _ttl(text: bytes, unit_ms: float) -> float:
    if text.isdigit() and 0 < len(text) <= 16:
        ttl_ms = int(text) * unit_ms
        if ttl_ms > 0:
            return min(ttl_ms, MOST_TTL_MS)
    raise Refused("the time to live is not a positive whole number")
