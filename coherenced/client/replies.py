"""What the daemon answers, as Python values: versions, results, and error replies as errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from coherenced.errors import (
    CoherencedError,
    CommandError,
    Conflict,
    Contended,
    Indeterminate,
    LeaseLost,
    NotAcknowledged,
    ProtocolError,
    RedisUnreachable,
    UsageError,
)


class Version(str):
    """`epoch:seq`, where in its lane's log a value was written: pass it as `min_version`.

    Empty when there is none (a write with `ack="none"`). Two versions of one epoch
    are ordered by `seq`; those of different epochs are not ordered at all.
    """

    __slots__ = ()

    @property
    def epoch(self) -> str:
        return self.partition(":")[0]

    @property
    def seq(self) -> int:
        return int(self.partition(":")[2] or 0)


class Entry(NamedTuple):
    """One key with how it was answered."""

    value: Any
    """The decoded value, or the default when the key is not there."""
    found: bool
    version: Version
    """At which this value is known to be right."""
    source: str
    """`l0` (this process's), `l1` (this host's memory), `l2` (Redis) or `origin`."""
    age_ms: float
    """How long ago its origin or loader gave or validated it; of a value whose home is Redis, how
    long ago the daemon last proved it current."""
    stale: bool
    """Past its bound, since Redis is unreachable and the configuration allows it; or past its
    ttl, since `stale_while_revalidate` or `stale_if_error` does."""
    expires_in_ms: float | None = None
    """What is left of its time to live in Redis, where that was asked for; None: no end."""


class Invalidation(NamedTuple):
    """The outcome of an invalidation."""

    version: Version
    acknowledged: dict[str, float]
    """Node name to milliseconds from the commit to its acknowledgement (the writer: 0)."""
    missing: tuple[str, ...]
    """Nodes that had not acknowledged when the asked level was reached."""
    fenced: tuple[str, ...] = ()
    """Nodes that did not answer, but can serve nothing old any more: time has fenced them."""


_BY_WIRE_CODE: Final[dict[str, type[CoherencedError]]] = {
    kind.wire_code: kind
    for kind in (RedisUnreachable, Indeterminate, Conflict, Contended, LeaseLost)
}


_TOO_LONG: Final = "Protocol error: invalid bulk length: "
_MISUSE: Final = ("start with coh:", "limits.")
"""What the daemon's own refusals name: its names, and the bounds of its configuration."""


def error_from(text: str) -> CoherencedError:
    """The error behind the text of a RESP error reply."""
    code = text.partition(" ")[0]
    if code == NotAcknowledged.wire_code:
        return _not_acknowledged(text)
    kind = _BY_WIRE_CODE.get(code)
    if kind is None:
        if code == "ERR" and any(words in text for words in _MISUSE):
            return UsageError(text.removeprefix("ERR ").removeprefix(_TOO_LONG))
        return CommandError(text)
    return kind(text.removeprefix(code).strip())


def _not_acknowledged(text: str) -> NotAcknowledged:
    """`NOACK committed epoch:seq missing=b,(2 more) acknowledged=a after_ms=0.000`: names may hold
    spaces."""
    lists: dict[str, str] = {}
    kind = ""
    for word in text.split():
        name, equals, rest = word.partition("=")
        if equals:
            kind, lists[name] = name, rest
        else:
            lists[kind] = f"{lists.get(kind, '')} {word}"
    _, _, version = lists.get("", "").partition("committed ")
    missing, acknowledged, fenced = (
        tuple(name for name in lists.get(kind, "").split(",") if name)
        for kind in ("missing", "acknowledged", "fenced")
    )
    after_ms = (float(ms) for ms in lists.get("after_ms", "").split(",") if ms)
    took_ms = dict(zip(acknowledged, after_ms, strict=False))  # an older daemon tells no times
    return not_acknowledged(Version(version), missing, acknowledged, fenced, took_ms)


def not_acknowledged(
    version: Version,
    missing: tuple[str, ...],
    acknowledged: tuple[str, ...],
    fenced: tuple[str, ...],
    took_ms: Mapping[str, float] | None = None,
) -> NotAcknowledged:
    """The error, with its one line."""
    late = ", ".join(missing) or "enough nodes"
    text = f"committed at {version}, but not acknowledged in time by {late}"
    if not version:
        text = "Redis is away: journaled by the daemon and sent later, nobody has acknowledged"
    return NotAcknowledged(text, version, missing, acknowledged, fenced, took_ms)


def checked(reply: Any) -> Any:
    """The reply itself, or its error raised."""
    if isinstance(reply, CoherencedError):
        raise reply
    return reply


def text_of(reply: Any) -> str:
    """A bulk or status reply as text."""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    if isinstance(reply, str):
        return reply
    raise unexpected("a text", reply)


def unexpected(what: str, reply: Any) -> ProtocolError:
    """The error for a reply of another shape."""
    return ProtocolError(
        f"the daemon answered {str(reply)[:80]!r} where {what} was expected: "
        "is it of another version than this client?"
    )


# -- replies of commands ---------------------------------------------------------


def decode_version(replies: list[Any]) -> tuple[Version, Version]:
    last = replies[-1] if replies else None
    version = Version("" if last is None else text_of(last))
    return version, version


def decode_added(replies: list[Any]) -> tuple[bool, Version]:
    if isinstance(replies[0], Conflict):
        return False, Version()
    return True, decode_version(replies)[0]


def decode_deleted(replies: list[Any]) -> tuple[int, Version]:
    deleted, version = 0, Version()
    for reply in replies:
        if not isinstance(reply, list) or len(reply) < 2:
            raise unexpected("a version and a number of keys", reply)
        deleted += int(reply[1])
        version = Version(text_of(reply[0] or b""))
    return deleted, version


def decode_invalidation(replies: list[Any]) -> tuple[Invalidation, Version]:
    """Several commands for one call: acknowledged is who acknowledged all of them."""
    version = Version()
    acknowledged: dict[str, float] | None = None
    missing: dict[str, None] = {}
    fenced: dict[str, None] = {}
    for reply in replies:
        if not isinstance(reply, list) or len(reply) < 3:
            raise unexpected("a version and the nodes that acknowledged", reply)
        version = Version(text_of(reply[0] or b""))
        took = {text_of(name): float(ms) for name, ms in reply[1]}
        if acknowledged is not None:
            took = {
                name: max(ms, acknowledged[name])
                for name, ms in took.items()
                if name in acknowledged
            }
        acknowledged = took
        missing.update(dict.fromkeys(text_of(name) for name in reply[2]))
        fenced.update(dict.fromkeys(text_of(name) for names in reply[3:4] for name in names))
    return Invalidation(version, acknowledged or {}, tuple(missing), tuple(fenced)), version


def decode_document(replies: list[Any]) -> dict[str, Any]:
    import json  # loaded only here: the client starts in milliseconds

    reply = checked(replies[0])
    try:
        document = json.loads(reply)
    except (TypeError, ValueError):
        document = None
    if not isinstance(document, dict):
        raise unexpected("a JSON object", reply)
    return document
