"""The JSON bodies of the HTTP interface, as types: they validate, and `/openapi.json` shows them.

JSON has no bytes. A key, a tag or a prefix is a string when it is UTF-8, else
`{"base64": "..."}`; a value is `value` when it is UTF-8, else `value_base64`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from coherenced.core.model import Op, Record
from coherenced.core.requests import Value, WriteResult
from coherenced.serve.http_headers import (
    MAX_TYPE_CHARS,
    MEDIA_TYPE_PATTERN,
    VERSION_PATTERN,
    content_type_of,
)
from coherenced.wire.leasing import MAX_LEASE_MS, MAX_WAIT_MS
from coherenced.wire.options import MAX_ACK_TIMEOUT_MS, MAX_REPLICAS


class Binary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that are not UTF-8."""

    base64: Annotated[bytes, Meta(min_length=1)]


Name = str | Binary
"""A key."""
Label = Annotated[str, Meta(min_length=1)] | Binary
"""A tag or a prefix."""
AckLevel = (
    Annotated[str, Meta(extra_json_schema={"pattern": "^(none|redis|quorum|all|[1-9][0-9]{0,3})$"})]
    | Annotated[float, Meta(ge=1, le=9999, multiple_of=1)]
)
Milliseconds = Annotated[float, Meta(ge=0, le=1e12)]
AckTimeout = Annotated[float, Meta(ge=0, le=MAX_ACK_TIMEOUT_MS)]
Replicas = Annotated[float, Meta(ge=0, le=MAX_REPLICAS, multiple_of=1)]
VersionText = Annotated[str, Meta(extra_json_schema={"pattern": VERSION_PATTERN})]
MediaType = Annotated[
    str, Meta(extra_json_schema={"pattern": MEDIA_TYPE_PATTERN, "maxLength": MAX_TYPE_CHARS})
]

RULES: Final[dict[str, dict[str, Any]]] = {
    "Item": {"oneOf": [{"required": ["value"]}, {"required": ["value_base64"]}]},
    "Invalidate": {
        "anyOf": [
            {"required": [name], "properties": {name: {"minItems": 1}}}
            for name in ("keys", "tags", "prefixes")
        ]
        + [{"required": ["all"], "properties": {"all": {"const": True}}}]
    },
    "SettleLetters": {
        "oneOf": [
            {"required": ["ids"], "properties": {"ids": {"minItems": 1}, "all": {"const": False}}},
            {
                "required": ["all"],
                "properties": {"all": {"const": True}, "ids": {"maxItems": 0}},
            },
        ]
    },
}
"""What a body must also obey and its type cannot say, as JSON Schema; the handlers check it."""


def bytes_of(name: Name | Label) -> bytes:
    return name.encode() if isinstance(name, str) else name.base64


def name_of(raw: bytes) -> Name:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return Binary(raw)


# -- requests -----------------------------------------------------------------------


class MGet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: Annotated[list[Name], Meta(min_length=1)]
    max_staleness_ms: Milliseconds | None = None
    min_version: VersionText | None = None
    stale_if_error_ms: Milliseconds | None = None
    snapshot: bool = False
    """All values as of one moment: at most 200 keys."""


class LeaseWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    lease_ms: Annotated[float, Meta(ge=1, le=MAX_LEASE_MS)] = 10_000
    """How long the token lives if nobody fills or releases it."""
    wait_ms: Annotated[float, Meta(ge=0, le=MAX_WAIT_MS)] = 0.0
    """How long to wait while somebody else loads it."""
    max_staleness_ms: Milliseconds | None = None
    refresh_ms: Milliseconds | None = None
    """A value with at most this left to live is to be loaded anew, by one caller."""


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key to write: exactly one of `value` and `value_base64`."""

    key: Name
    value: str | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET
    ttl_ms: Annotated[float, Meta(ge=1, le=1e15)] | None = None
    tags: list[Label] = []
    content_type: MediaType | None = None


class MSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: Annotated[list[Item], Meta(min_length=1)]
    atomic: bool = False
    """All in one step, or none: at most 200 entries."""
    ack: AckLevel | None = None
    timeout_ms: AckTimeout | None = None
    replicas: Replicas = 0


class Invalidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[Name] = []
    tags: list[Label] = []
    prefixes: list[Label] = []
    all: bool = False
    ack: AckLevel | None = None
    timeout_ms: AckTimeout | None = None
    replicas: Replicas = 0


class SettleLetters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dead letters to send again or to forget: some, or all of a namespace."""

    namespace: str
    action: Literal["replay", "drop"]
    ids: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=10_000)] = []
    all: bool = False


# -- answers ------------------------------------------------------------------------


class Found(msgspec.Struct, frozen=True):
    """One key's answer. A key that is not there has `found` false and no value."""

    key: Name
    found: bool
    version: str
    source: str
    age_ms: float
    stale: bool
    value: str | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    ttl_ms: float | UnsetType = UNSET
    """What is left of its time to live in Redis; not there: it has no end."""
    error: str | UnsetType = UNSET
    """Redis's own words, for example WRONGTYPE …"""


class MGetAnswer(msgspec.Struct, frozen=True):
    values: list[Found]


class WriteAnswer(msgspec.Struct, frozen=True):
    """What became of a write or an invalidation."""

    version: str | None
    """null when nothing had to be recorded, or it was not waited for (`ack: none`)."""
    acknowledged: dict[str, float]
    """Node -> milliseconds from the commit to its acknowledgement."""
    fenced: list[str]
    """Nodes that did not answer, but can serve nothing old any more."""
    missing: list[str]
    """Nodes that had not answered when the time was over."""
    satisfied: bool
    """Whether the asked level was reached."""


class TokenGiven(msgspec.Struct, frozen=True):
    """This caller is the one to load the value: PUT it to `Location`, or DELETE that."""

    token: str
    version: str
    """Where the log stood when the token was given."""
    value: Found | UnsetType = UNSET
    """The value that is due for a refresh (`refresh_ms`)."""


class Waiting(msgspec.Struct, frozen=True):
    """Somebody else is loading it still."""

    waiting: Literal[True] = True


class Released(msgspec.Struct, frozen=True):
    released: bool
    """false: the token was dead already."""


class StreamedRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The data of one `invalidation` event."""

    version: str
    op: str
    writer: str
    """The incarnation of the node that wrote it."""
    keys: list[Name] = []
    tags: list[Name] = []
    prefixes: list[Name] = []
    all: bool = False


class Health(msgspec.Struct, frozen=True):
    status: str
    reason: str = ""


class NodesAnswer(msgspec.Struct, frozen=True):
    self: str
    nodes: list[dict[str, Any]]
    events: list[dict[str, Any]] | UnsetType = UNSET
    outdated: str | UnsetType = UNSET
    """Why the roster is the one that was last read: Redis does not answer."""


def found_of(key: Name, value: Value, with_value: bool = True) -> Found:
    """One row of `/v1/mget`."""
    text: str | UnsetType = UNSET
    raw: bytes | UnsetType = UNSET
    if value.value is not None and with_value:
        try:
            text = value.value.decode()
        except UnicodeDecodeError:
            raw = value.value
    found = value.value is not None and value.error is None
    left_ms = value.expires_in_ms
    return Found(
        key=key,
        found=found,
        version=str(value.version),
        source=value.source,
        age_ms=round(value.age_ms, 3),
        stale=value.told_stale,
        value=text,
        value_base64=raw,
        content_type=content_type_of(value.labels) if found else UNSET,
        ttl_ms=UNSET if left_ms is None or not found else round(left_ms, 3),
        error=UNSET if value.error is None else str(value.error),
    )


def write_answer(result: WriteResult) -> WriteAnswer:
    return WriteAnswer(
        version=None if result.version is None else str(result.version),
        acknowledged={name: round(ms, 3) for name, ms in result.acknowledged.items()},
        fenced=list(result.fenced),
        missing=list(result.missing),
        satisfied=result.satisfied,
    )


def streamed(record: Record, version: str) -> StreamedRecord:
    return StreamedRecord(
        version=version,
        op=Op.NAMES[record.op] if 0 <= record.op < len(Op.NAMES) else str(record.op),
        writer=record.writer.decode("ascii", "replace"),
        keys=[name_of(key) for key in record.keys],
        tags=[name_of(tag) for tag in record.tags],
        prefixes=[name_of(prefix) for prefix in record.prefixes],
        all=record.everything,
    )
