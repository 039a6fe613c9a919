"""What RFC 9111 says of a shared cache: which responses may be stored, and for whom they serve.

No I/O and no framework: header lists as ASGI has them, (lower-case name, value) pairs of bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple

Headers = list[tuple[bytes, bytes]]

STORABLE: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""Final status codes that a cache may store without further knowledge of them (RFC 9110, 15.1)."""
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}
    | {b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization"}
)
CONDITIONS: Final = frozenset({b"if-none-match", b"if-modified-since"})
PRIVATE: Final = frozenset({"Authorization", "the request says no-store"})
"""Of `why_not`: reasons that lie in the request; another one may be stored."""
LONGEST_S: Final = 31_536_000


def values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def first(headers: Headers, name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)


def directives(headers: Headers, name: bytes = b"cache-control") -> dict[str, str]:
    """Cache-Control as directive -> argument ("" for none); of a repeated one the first."""
    told: dict[str, str] = {}
    for value in values(headers, name):
        for part in _split(value.decode("latin-1")):
            directive, _, argument = part.partition("=")
            told.setdefault(directive.strip().lower(), argument.strip().strip('"'))
    return told


def _split(text: str) -> Iterable[str]:
    """At commas outside of quotes."""
    start, quoted = 0, False
    for at, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            yield text[start:at]
            start = at + 1
    yield text[start:]


def seconds(told: Mapping[str, str], name: str) -> int | None:
    """A directive's delta-seconds; None when it is not given; 0 for what is no number."""
    argument = told.get(name)
    if argument is None:
        return None
    return min(int(argument), LONGEST_S) if argument.isascii() and argument.isdigit() else 0


class Verdict(NamedTuple):
    """Of one response: how long it may be kept (0: not at all), and why not."""

    lifetime_s: float
    why_not: str = ""
    serves_authorized: bool = False
    """Also for requests with Authorization (RFC 9111, 3.5)."""
    must_revalidate: bool = False
    """Never answered stale (4.2.4)."""


class Terms(NamedTuple):
    """What the operator allows beside the RFC."""

    default_ttl: float | None = None
    """Lifetime of a 200 that says nothing of its own; None: not stored."""
    stores_cookies: bool = False
    max_body_bytes: int = 1 << 20


def judge(request: Headers, status: int, response: Headers, terms: Terms) -> Verdict:
    """Whether, and for how long, a GET's response may be stored."""
    told, asked = directives(response), directives(request)
    if status not in STORABLE:
        return Verdict(0, f"status {status}")
    if "no-store" in asked:
        return Verdict(0, "the request says no-store")
    for word in ("no-store", "private", "no-cache"):
        if word in told:
            return Verdict(0, f"the response says {word}")
    if values(response, b"set-cookie") and not terms.stores_cookies:
        return Verdict(0, "Set-Cookie")
    if b"*" in vary_names(response):
        return Verdict(0, "Vary: *")
    serves = not {"public", "s-maxage", "must-revalidate"}.isdisjoint(told)
    if first(request, b"authorization") is not None and not serves:
        return Verdict(0, "Authorization")
    lifetime_s = _lifetime_s(status, response, told, terms)
    if lifetime_s is None:
        return Verdict(0, "it does not say for how long")
    lifetime_s -= initial_age_s(response)
    if lifetime_s <= 0:
        return Verdict(0, "stale already")
    strict = not {"must-revalidate", "proxy-revalidate", "s-maxage"}.isdisjoint(told)
    return Verdict(lifetime_s, "", serves, strict)


def _lifetime_s(
    status: int, response: Headers, told: Mapping[str, str], terms: Terms
) -> float | None:
    """4.2.1: s-maxage, else max-age, else Expires, else what the operator says."""
    for name in ("s-maxage", "max-age"):
        given = seconds(told, name)
        if given is not None:
            return given
    expires = first(response, b"expires")
    if expires is not None:
        end, begin = _date(expires), _date(first(response, b"date") or b"")
        if end is None:
            return 0
        if begin is None:
            return None  # no clock of ours is compared with the origin's
        return min(end - begin, LONGEST_S)
    return terms.default_ttl if status == 200 else None


def _date(value: bytes) -> float | None:
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def initial_age_s(response: Headers) -> int:
    """How old it was when it came to us."""
    age = first(response, b"age")
    return min(int(age), LONGEST_S) if age is not None and age.isdigit() else 0


def vary_names(response: Headers) -> list[bytes]:
    """Header names of the request that chose this response, sorted; perhaps `*`."""
    names = {
        name.strip().lower() for value in values(response, b"vary") for name in value.split(b",")
    }
    return sorted(names - {b""})


def variant(request: Headers, names: Iterable[bytes]) -> str:
    """Which of an address's responses this request means, as a short text; "" for the only one."""
    chosen = list(names)
    if not chosen:
        return ""
    digest = sha256()
    for name in chosen:
        given = b",".join(b" ".join(value.split()) for value in values(request, name))
        digest.update(b"%d:%b%d:%b" % (len(name), name, len(given), given))
    return digest.hexdigest()[:32]


def storable_headers(response: Headers) -> list[list[bytes]]:
    """Without what is for one connection only, and without Age, which is told anew."""
    named = {
        name.strip().lower()
        for value in values(response, b"connection")
        for name in value.split(b",")
    }
    left_out = HOP_BY_HOP | named | {b"age"}
    return [[name, value] for name, value in response if name not in left_out]


def accepts(request: Headers, verdict: Mapping[str, Any], age_s: float, is_stale: bool) -> str:
    """ "" when a stored response may answer this request; else why not, as Cache-Status has it."""
    asked = directives(request)
    if first(request, b"authorization") is not None and not verdict["auth"]:
        return "bypass"
    if "no-cache" in asked or (not asked and b"no-cache" in (first(request, b"pragma") or b"")):
        return "request"
    most_s = seconds(asked, "max-age")
    if most_s is not None and age_s > most_s:
        return "request"
    spare_s = seconds(asked, "min-fresh")
    if spare_s is not None and verdict["ttl"] - age_s < spare_s:
        return "request"
    if is_stale and verdict["strict"]:
        return "stale"
    return ""


# -- a part of it (RFC 9110, 14) ---------------------------------------------------------------

_RANGE: Final = re.compile(rb"\s*bytes\s*=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)


def has_parts(request: Headers, stored: Mapping[str, Any]) -> bool:
    """Whether this Range is one that a stored response can be asked for."""
    held: Headers = stored["headers"]
    refuses = any(bytes(n) == b"accept-ranges" and bytes(v).strip() == b"none" for n, v in held)
    return stored["status"] == 200 and not refuses and _wanted(request) is not None


def part(request: Headers, code: int, body: bytes, headers: Headers) -> tuple[int, bytes, Headers]:
    """What a GET is answered with: 206 and the part that it wants, 416, or all of it."""
    wanted = _wanted(request)
    if wanted is None or not _is_same(first(request, b"if-range"), headers):
        return code, body, headers
    begin, end = wanted
    size = len(body)
    if begin is None:  # the last so many
        begin, end = max(0, size - (end or 0)), size - 1
    else:
        end = size - 1 if end is None else min(end, size - 1)
    headers = [(n, v) for n, v in headers if n not in (b"content-length", b"content-range")]
    if begin >= size or end < begin:
        told = [(b"content-range", b"bytes */%d" % size), (b"content-length", b"0")]
        return 416, b"", [*(h for h in headers if h[0] != b"content-type"), *told]
    body = body[begin : end + 1]
    told = [
        (b"content-range", b"bytes %d-%d/%d" % (begin, end, size)),
        (b"content-length", b"%d" % len(body)),
    ]
    return 206, body, [*headers, *told]


def _wanted(request: Headers) -> tuple[int | None, int | None] | None:
    """One range of bytes: (first, last or None), (None, so many of the last); None: no such."""
    given = values(request, b"range")
    match = _RANGE.fullmatch(given[0]) if len(given) == 1 else None
    if match is None or not (match[1] or match[2]):
        return None
    begin, end = int(match[1]) if match[1] else None, int(match[2]) if match[2] else None
    return None if begin is not None and end is not None and end < begin else (begin, end)


def _is_same(held: bytes | None, headers: Headers) -> bool:
    """If-Range: whether what the client has a part of is this very representation (13.1.5)."""
    if held is None:
        return True
    held = held.strip()
    if held.startswith(b'"'):
        return held == first(headers, b"etag")
    # A date is a strong validator only where it is surely the only version of its second.
    changed, made = (_date(first(headers, name) or b"") for name in (b"last-modified", b"date"))
    certain = changed is not None and made is not None and made - changed >= 1
    return certain and held == first(headers, b"last-modified")


def not_modified(request: Headers, stored: Headers) -> bool:
    """Whether what the client holds already is this (RFC 9110, 13.1)."""
    held = values(request, b"if-none-match")
    if held:
        etag = first(stored, b"etag")
        tags = {_opaque(tag) for value in held for tag in value.split(b",")}
        return etag is not None and (_opaque(etag) in tags or b"*" in tags)
    since, changed = first(request, b"if-modified-since"), first(stored, b"last-modified")
    if since is None or changed is None:
        return False
    held_at, changed_at = _date(since), _date(changed)
    return held_at is not None and changed_at is not None and changed_at <= held_at


def _opaque(tag: bytes) -> bytes:
    return tag.strip().removeprefix(b"W/")
