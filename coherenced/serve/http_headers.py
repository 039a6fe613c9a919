"""What the request headers and the request target ask for, parsed and bounded.

Every function here is pure: text in, value out, `Problem` with the header's name
when it is not what it should be.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Mapping
from math import inf
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from coherenced.core.life import OWN
from coherenced.core.model import Version
from coherenced.core.requests import Level, Read
from coherenced.serve.http_limits import HttpLimits
from coherenced.serve.problem import Problem, bad
from coherenced.wire.header import field
from coherenced.wire.leasing import MAX_ABSENT_MS
from coherenced.wire.options import MAX_ACK_TIMEOUT_MS, MAX_REPLICAS

RESERVED: Final = b"coh:"
CONTENT_TYPE_LABEL: Final = b"content-type="
"""A value's Content-Type is kept as a label (a tag) of this name beside the value in Redis, so
that every node serves it and an application that reads the plain value sees nothing of it."""
DEFAULT_TYPE: Final = "application/octet-stream"
NOT_KEPT: Final = frozenset({DEFAULT_TYPE, "application/x-www-form-urlencoded"})
"""Types that say nothing: the default, and what curl sends when it was not told any."""
MOST_SECONDS: Final = 2**31
"""RFC 9111 1.2.2: what more than this means."""
MAX_TYPE_CHARS: Final = 200

READ_HEADERS: Final = (
    "Cache-Control",
    "Coherenced-Max-Staleness-Ms",
    "Coherenced-Min-Version",
    "Content-Length",
    "Expect",
    "If-Match",
    "If-None-Match",
    "Transfer-Encoding",
    "Upgrade",
)
"""Headers that change what a GET of a key is answered with (or where its request ends). A request
without any of them is *plain*: see `http_short`."""

ENCODED_PATTERN: Final = r"(?:[!$&'()*+,\-.0-9:;=@A-Z_a-z~]|%[0-9A-Fa-f]{2})+"
TAG_PATTERN: Final = ENCODED_PATTERN.replace("+,", "+")
"""The same without the comma, which separates tags."""
ETAG_PATTERN: Final = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
VERSION_PATTERN: Final = r"^[0-9a-f]{16}:[0-9]{1,18}$"
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
MEDIA_TYPE_PATTERN: Final = rf"^{_TOKEN}/{_TOKEN}(?:[ \t]*;[ -~]*)?$"

_ENCODED: Final = re.compile(ENCODED_PATTERN)
_TAG: Final = re.compile(TAG_PATTERN)
_DIRECTIVE: Final = re.compile(rf"\s*({_TOKEN})(?:=(?:\"([^\"]*)\"|([^\s,\"]*)))?\s*(?:,|$)")
_ETAG: Final = re.compile(rf"\s*({ETAG_PATTERN})\s*(?:,|$)")
_TYPE: Final = re.compile(MEDIA_TYPE_PATTERN)


def key_of(encoded: str, limits: HttpLimits) -> bytes:
    """The key that a path's last part names: percent-encoded bytes."""
    if not encoded:
        raise bad("the address names no key", "path")
    if "?" in encoded:
        raise bad("a key's address takes no query; a ? in a key is written %3F", "path")
    if "/" in encoded:
        raise Problem("no-route", "a / in a key is written %2F", pointer="path")
    if _ENCODED.fullmatch(encoded) is None:
        raise bad(
            "bytes outside A-Z a-z 0-9 - . _ ~ ! $ & ' ( ) * + , ; = : @ are written %XX", "path"
        )
    return checked_key(unquote_to_bytes(encoded), limits, "path")


def checked_key(key: bytes, limits: HttpLimits, pointer: str) -> bytes:
    """`key` itself, when a client may use it; else the problem, which names `pointer`."""
    if len(key) > limits.max_key_bytes:
        raise Problem(
            "too-large",
            f"a key has at most {limits.max_key_bytes} bytes; this one has {len(key)}",
            pointer=pointer,
        )
    if key.startswith(RESERVED):
        raise Problem("reserved", "choose another name for the key", pointer=pointer)
    return key


def directives(value: str | None) -> dict[str, str]:
    """Cache-Control's directives, names in lower case; unknown ones are the caller's to ignore."""
    if not value:
        return {}
    found = {}
    for match in _DIRECTIVE.finditer(value):
        found[match[1].lower()] = match[2] if match[2] is not None else (match[3] or "")
    return found


def _seconds(found: Mapping[str, str], name: str, least: int) -> int | None:
    text = found.get(name)
    if text is None:
        return None
    digits = text.lstrip("0") or text[-1:]
    if not text.isascii() or not text.isdigit() or (len(digits) == 1 and int(digits) < least):
        raise bad(f"{name} is a whole number of seconds from {least}", "Cache-Control")
    return MOST_SECONDS if len(digits) > 10 else min(int(digits), MOST_SECONDS)


def _milliseconds(headers: Mapping[str, str], name: str, most: float) -> float | None:
    text = field(headers, name)
    if text is None:
        return None
    text = text.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > most:
        raise bad(f"{name} is a whole number of milliseconds from 0 to {most:.0f}", name)
    return float(text)


class ReadWish(NamedTuple):
    """How a GET wants to be answered."""

    max_staleness_ms: float | None
    min_version: Version | None
    stale_if_error_ms: float | None
    while_revalidate_ms: float | None
    max_age_ms: float | None = None
    min_fresh_ms: float | None = None
    only_if_cached: bool = False
    plain: bool = True
    """Nothing special: the keys' namespaces decide."""

    def read(self, keys: tuple[bytes, ...]) -> Read:
        return Read(
            keys,
            self.max_staleness_ms,
            self.min_version,
            self.stale_if_error_ms,
            stale_while_revalidate_ms=self.while_revalidate_ms,
            max_age_ms=self.max_age_ms,
            min_fresh_ms=self.min_fresh_ms,
            cached_only=self.only_if_cached,
        )


PLAIN: Final = ReadWish(None, None, None, None)


def read_wish(headers: Mapping[str, str]) -> ReadWish:
    """Coherenced-Max-Staleness-Ms, Coherenced-Min-Version, and Cache-Control of the request.

    Of a key with an origin, max-age, min-fresh and no-cache are about what the origin gave
    (RFC 9111 5.2.1). The home of any other is Redis: they are about how it is proved.
    """
    found = directives(field(headers, "Cache-Control"))
    max_age_ms = 0.0 if "no-cache" in found else _as_ms(found, "max-age")
    min_fresh_ms = _as_ms(found, "min-fresh")
    staleness_ms = _milliseconds(headers, "Coherenced-Max-Staleness-Ms", 1e12)
    if staleness_ms is None:
        staleness_ms = 0.0 if min_fresh_ms else max_age_ms
    stale_ms = _as_ms(found, "stale-if-error")
    while_ms = _as_ms(found, "stale-while-revalidate")
    if "max-stale" in found:
        most_ms = (_as_ms(found, "max-stale") or 0.0) if found["max-stale"] else inf
        stale_ms, while_ms = max(stale_ms or 0.0, most_ms), max(while_ms or 0.0, most_ms)
    min_version = None
    if (text := field(headers, "Coherenced-Min-Version")) is not None:
        min_version = version_of(text, "Coherenced-Min-Version")
    wish = ReadWish(
        staleness_ms,
        min_version,
        stale_ms,
        while_ms,
        max_age_ms,
        min_fresh_ms,
        "only-if-cached" in found,
    )
    return wish if wish == PLAIN else wish._replace(plain=False)


def _as_ms(found: Mapping[str, str], name: str) -> float | None:
    seconds = _seconds(found, name, 0)
    return None if seconds is None else seconds * 1000.0


def version_of(text: str, pointer: str) -> Version:
    try:
        return Version.parse(text.strip())
    except ValueError as error:
        raise bad(str(error), pointer) from None


def ack_of(headers: Mapping[str, str]) -> int | None:
    text = field(headers, "Coherenced-Ack")
    if text is None:
        return None
    try:
        return Level.parse(text)
    except ValueError as error:
        raise bad(str(error), "Coherenced-Ack") from None


def timeout_of(headers: Mapping[str, str]) -> float | None:
    return _milliseconds(headers, "Coherenced-Timeout-Ms", MAX_ACK_TIMEOUT_MS)


def replicas_of(headers: Mapping[str, str]) -> int:
    """Coherenced-Replicas: how many Redis replicas are to have the write as well."""
    text = field(headers, "Coherenced-Replicas")
    text = "0" if text is None else text.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 4 or int(text) > MAX_REPLICAS:
        raise bad(f"a whole number from 0 to {MAX_REPLICAS}", "Coherenced-Replicas")
    return int(text)


def lifetime_of(headers: Mapping[str, str]) -> tuple[int | None, int]:
    """Cache-Control of a PUT: how long the value is kept, and the last part of that in which it is
    stale, in ms. RFC 5861: it may be stale for so long *after* its max-age."""
    found = directives(field(headers, "Cache-Control"))
    fresh_s = _seconds(found, "max-age", 1)
    names = ("stale-while-revalidate", "stale-if-error")
    grace_s = max((_seconds(found, name, 0) or 0) for name in names)
    if fresh_s is None:
        if grace_s:
            raise bad("say max-age, too: after it the value is stale", "Cache-Control")
        return None, 0
    return (fresh_s + grace_s) * 1000, grace_s * 1000


def absent_of(headers: Mapping[str, str]) -> int | None:
    """Coherenced-Absent-Ms of a release: for how long there is known to be no such thing."""
    absent_ms = _milliseconds(headers, "Coherenced-Absent-Ms", MAX_ABSENT_MS)
    if absent_ms is not None and absent_ms < 1:
        raise bad("it is at least 1 ms", "Coherenced-Absent-Ms")
    return None if absent_ms is None else int(absent_ms)


def tags_of(headers: Mapping[str, str], limits: HttpLimits) -> tuple[bytes, ...]:
    """Coherenced-Tags: a comma-separated list of percent-encoded tags."""
    text = field(headers, "Coherenced-Tags")
    if text is None:
        return ()
    tags = []
    for part in text.split(","):
        part = part.strip()
        if _TAG.fullmatch(part) is None:
            raise bad(
                "tags are separated by commas; bytes other than letters, digits and - . _ ~ : "
                "are written %XX",
                "Coherenced-Tags",
            )
        tags.append(unquote_to_bytes(part))
    return checked_tags(tags, limits, "Coherenced-Tags")


def checked_tags(tags: list[bytes], limits: HttpLimits, pointer: str) -> tuple[bytes, ...]:
    if len(tags) > limits.max_tags:
        raise Problem("too-large", f"a value has at most {limits.max_tags} tags", pointer=pointer)
    for tag in tags:
        if not tag:
            raise bad("a tag must not be empty", pointer)
        if len(tag) > limits.max_key_bytes:
            text = f"a tag has at most {limits.max_key_bytes} bytes; this one has {len(tag)}"
            raise Problem("too-large", text, pointer=pointer)
        if tag.startswith(CONTENT_TYPE_LABEL):
            raise bad("tags that start with content-type= are set by Content-Type", pointer)
        if tag.startswith(OWN):
            raise bad("tags that start with coh: are the daemon's own", pointer)
    return tuple(dict.fromkeys(tags))


def content_type_label(value: str | None, pointer: str = "Content-Type") -> tuple[bytes, ...]:
    """The label that keeps this Content-Type; none for one that says nothing."""
    if value is None or value.strip().lower() in NOT_KEPT:
        return ()
    value = value.strip()
    if len(value) > MAX_TYPE_CHARS or _TYPE.fullmatch(value) is None:
        raise bad(
            f"a media type such as text/plain; charset=utf-8, at most {MAX_TYPE_CHARS} characters",
            pointer,
        )
    return (CONTENT_TYPE_LABEL + value.encode("ascii"),)


def content_type_of(labels: tuple[bytes, ...]) -> str:
    """The Content-Type among a value's labels, or the default."""
    for label in labels:
        if label.startswith(CONTENT_TYPE_LABEL):
            text = label[len(CONTENT_TYPE_LABEL) :].decode("latin-1")
            # Another client may have set any label: only what is a media type becomes a header.
            if len(text) <= MAX_TYPE_CHARS and _TYPE.fullmatch(text) is not None:
                return text
    return DEFAULT_TYPE


# -- preconditions (RFC 9110 §13) -------------------------------------------------


class Condition(NamedTuple):
    """What a PUT or DELETE demands of the key as it is."""

    if_version: Version | None = None
    must_exist: bool = False
    must_be_absent: bool = False
    hopeless: bool = False
    """It can never hold: If-Match names no version of ours, or contradicts If-None-Match."""

    @property
    def any(self) -> bool:
        return bool(self.if_version or self.must_exist or self.must_be_absent or self.hopeless)


def etags(value: str, name: str) -> list[str]:
    """The entity tags of a list, `W/` kept; a value that is not such a list is an error."""
    found = []
    at = 0
    while at < len(value):
        match = _ETAG.match(value, at)
        if match is None:
            raise bad('* or quoted entity tags, for example "0f1e2d3c4b5a6978:42"', name)
        found.append(match[1])
        at = match.end()
    if not found:
        raise bad('* or quoted entity tags, for example "0f1e2d3c4b5a6978:42"', name)
    return found


def write_condition(headers: Mapping[str, str], *, absent_allowed: bool) -> Condition:
    """If-Match and If-None-Match of a PUT (or, without `absent_allowed`, of a DELETE)."""
    match, none_match = field(headers, "If-Match"), field(headers, "If-None-Match")
    condition = Condition() if match is None else _if_match(match)
    if none_match is None:
        return condition
    if none_match.strip() != "*" or not absent_allowed:
        raise bad("only PUT with If-None-Match: * is supported on writes", "If-None-Match")
    # With If-Match too: there, and not there.
    return Condition(must_be_absent=True) if match is None else Condition(hopeless=True)


def _if_match(value: str) -> Condition:
    if value.strip() == "*":
        return Condition(must_exist=True)
    tags = etags(value, "If-Match")
    if len(tags) > 1:
        raise bad("a write compares with one version only", "If-Match")
    try:
        # A weak tag never compares equal here (RFC 9110 §13.1.1), nor does one that is not ours.
        return Condition(if_version=Version.parse(tags[0].strip('"')))
    except ValueError:
        return Condition(hopeless=True)


def matches(value: str, name: str, etag: str, *, weak: bool) -> bool:
    """Whether a list (or `*`) names `etag`, by weak or strong comparison."""
    if value.strip() == "*":
        return True
    found = etags(value, name)
    return etag in ([tag.removeprefix("W/") for tag in found] if weak else found)


# -- who may ask --------------------------------------------------------------------


def check_password(header: str | None, password: str) -> None:
    """Bearer PASSWORD, or Basic with any user name and PASSWORD; 401 otherwise."""
    scheme, _, rest = (header or "").strip().partition(" ")
    given = rest.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            given = b""
    elif scheme.lower() != "bearer":
        given = b""
    if not hmac.compare_digest(given, password.encode()):
        raise Problem(
            "unauthorized",
            "send Authorization: Bearer with the daemon's listen.password",
            pointer="Authorization",
            headers={"WWW-Authenticate": 'Basic realm="coherenced", charset="UTF-8"'},
        )


def check_host(host: str | None, names: tuple[str, ...]) -> None:
    """On TCP: answer to addresses and known names only, so that no web page can rebind to us."""
    name = (host or "").strip()
    bare = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if not bare or bare.lower() in names:
        return
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise Problem(
            "misdirected", f"use an address or {' or '.join(names)}", pointer="Host"
        ) from None


def check_same_site(headers: Mapping[str, str]) -> None:
    """A browser says when another site's page asks: refused, reads and writes alike."""
    if headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        if headers.get("Sec-Fetch-Mode") == "navigate":
            return  # a link to the dashboard: the other page learns nothing
        raise Problem("cross-site", "call from your own server instead", pointer="Sec-Fetch-Site")
    origin = headers.get("Origin")
    if origin and origin.partition("://")[2] != headers.get("Host"):
        raise Problem("cross-site", "call from your own server instead", pointer="Origin")
