"""The parameters of the HTTP interface, each described once: name, place, meaning, schema.

`http_routes` says which operation takes which; `/openapi.json` tells them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from coherenced.serve.http_headers import ETAG_PATTERN, TAG_PATTERN, VERSION_PATTERN
from coherenced.wire.leasing import MAX_ABSENT_MS
from coherenced.wire.options import MAX_ACK_TIMEOUT_MS, MAX_REPLICAS

_VERSION: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": VERSION_PATTERN,
    "examples": ["0f1e2d3c4b5a6978:42"],
}
_MILLISECONDS: Final[dict[str, Any]] = {
    "type": "integer",
    "minimum": 0,
    "maximum": MAX_ACK_TIMEOUT_MS,
}


class Parameter(msgspec.Struct, frozen=True):
    name: str
    place: str
    """`path`, `query` or `header`."""
    text: str
    schema: dict[str, Any]
    required: bool = False


KEY: Final = Parameter(
    "key",
    "path",
    "The key's bytes, percent-encoded; a / is written %2F.",
    {"type": "string", "minLength": 1},
    True,
)
MIN_VERSION: Final = Parameter(
    "Coherenced-Min-Version",
    "header",
    "Serve nothing older than this version, which a write returned.",
    _VERSION,
)
MAX_STALENESS: Final = Parameter(
    "Coherenced-Max-Staleness-Ms",
    "header",
    "An L1 hit is served only if it is provably at most this old; 0 is linearizable, and more than "
    "the largest bound of the daemon's configuration means that one. "
    "Stronger than Cache-Control: max-age or no-cache, which mean the same without an origin.",
    {"type": "integer", "minimum": 0, "maximum": 10**12},
)
READ_CACHE_CONTROL: Final = Parameter(
    "Cache-Control",
    "header",
    "max-age, min-fresh, max-stale, no-cache, only-if-cached, stale-if-error, "
    "stale-while-revalidate. Of a key with an origin no-cache has it validated there now, and "
    "only-if-cached asks L1 and Redis, but not the origin.",
    {"type": "string", "examples": ["max-age=5", "no-cache", "stale-if-error=60"]},
)
LIFETIME: Final = Parameter(
    "Cache-Control",
    "header",
    "max-age: for how many seconds the value is fresh; stale-while-revalidate, stale-if-error: for "
    "how many after that it is kept, and told stale (the longer of the two; it is a cache entry "
    "then, as with tags). Of a key with an origin its namespace says the latter.",
    {"type": "string", "examples": ["max-age=600", "max-age=60, stale-if-error=600"]},
)
ACK: Final = Parameter(
    "Coherenced-Ack",
    "header",
    "When to answer: none, redis, quorum, all, or a number of nodes.",
    {"type": "string", "pattern": "^(none|redis|quorum|all|[1-9][0-9]{0,3})$"},
)
ACK_TIMEOUT: Final = Parameter(
    "Coherenced-Timeout-Ms", "header", "How long to wait for that.", _MILLISECONDS
)
REPLICAS: Final = Parameter(
    "Coherenced-Replicas",
    "header",
    "So many Redis replicas are to have it too, within that time; else 202, and `missing` has "
    "`(replicas)`.",
    {"type": "integer", "minimum": 0, "maximum": MAX_REPLICAS},
)
TAGS: Final = Parameter(
    "Coherenced-Tags",
    "header",
    "Tags of the value, separated by commas, percent-encoded.",
    {"type": "string", "pattern": rf"^{TAG_PATTERN}(?: *, *{TAG_PATTERN})*$"},
)
_ETAGS: Final = {"type": "string", "pattern": rf"^(?:\*|{ETAG_PATTERN}(?: *, *{ETAG_PATTERN})*)$"}
READ_IF_MATCH: Final = Parameter(
    "If-Match", "header", "Only if the value is at one of these versions.", _ETAGS
)
READ_IF_NONE_MATCH: Final = Parameter(
    "If-None-Match", "header", "304 if the value is still at one of these versions.", _ETAGS
)
IF_MATCH: Final = Parameter(
    "If-Match",
    "header",
    "Only if the key has not changed since this version (*: only if it is there).",
    {"type": "string", "pattern": rf"^(?:\*|{ETAG_PATTERN})$"},
)
IF_ABSENT: Final = Parameter(
    "If-None-Match", "header", "*: only if the key is not there.", {"enum": ["*"]}
)
TOKEN: Final = Parameter(
    "token",
    "path",
    "What the lease has given.",
    {"type": "string", "pattern": "^[0-9A-Za-z]{1,64}$"},
    True,
)
ABSENT: Final = Parameter(
    "Coherenced-Absent-Ms",
    "header",
    "The loader has found that there is no such thing: for so long whoever asks is told so.",
    {"type": "integer", "minimum": 1, "maximum": MAX_ABSENT_MS},
)
LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID", "header", "The version after which to go on.", _VERSION
)
EVENTS: Final = Parameter(
    "events", "query", "1: also the recent events of this node.", {"enum": ["0", "1"]}
)
