"""What is kept beside a loaded value: which origin it is of, its validators, how long it took.

They are labels, as tags are: they travel with the value, so that every node can
revalidate it with `If-None-Match` and knows how long loading it took (XFetch), and
they end with it. The first one is a tag like any other: invalidating `origin=user`
drops everything that was loaded from the origin of the namespace `user`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from coherenced.core.life import OWN
from coherenced.origin.freshness import directives
from coherenced.wire.header import field

ORIGIN: Final = b"origin="
VALIDATORS: Final = b"validators="
CONTENT_TYPE: Final = b"content-type="
"""As the HTTP front end keeps it."""

STALE_WORDS: Final = ("stale-while-revalidate", "stale-if-error")
MOST_CHARS: Final = 200
"""A longer validator or media type is not kept."""
MOST_TAGS: Final = 64
_TYPE: Final = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*;[ -~]*)?"
)
_SAYS_NOTHING: Final = "application/octet-stream"


class Marks(NamedTuple):
    """What the labels of a value say about its origin."""

    etag: str = ""
    modified: str = ""
    """Last-Modified, as the origin wrote it."""
    load_ms: float = 0.0
    while_revalidate_ms: float | None = None
    """How long past its time it may be answered while it is loaded anew, as the origin says
    (RFC 5861); None: it says nothing."""
    if_error_ms: float | None = None
    """The same for when that fails."""

    @property
    def conditions(self) -> dict[str, str]:
        """The headers of a revalidation; none when there is nothing to compare with."""
        found = {}
        if self.etag:
            found["If-None-Match"] = self.etag
        elif self.modified:
            found["If-Modified-Since"] = self.modified
        return found


def labels_of(
    name: str,
    headers: Mapping[str, str],
    load_ms: float,
    *,
    respect: bool = False,
) -> tuple[bytes, ...]:
    """The labels of a value that came with these headers. `Coherenced-Tags` adds tags.

    `respect`: what its Cache-Control says of stale answers counts, and is kept."""
    labels = [ORIGIN + name.encode()]
    marks = [str(int(load_ms))]
    said = directives(field(headers, "Cache-Control")) if respect else {}
    allowed = [_seconds(said.get(word)) for word in STALE_WORDS]
    if any(allowed):
        marks = [" ".join([*marks, *(one or "-" for one in allowed)])]
    for header in ("ETag", "Last-Modified"):
        text = headers.get(header, "").strip()
        fits = text.isprintable() and text.isascii() and len(text) <= MOST_CHARS
        marks.append(text if fits else "")
    labels.append(VALIDATORS + "\n".join(marks).encode())
    kind = headers.get("Content-Type", "").strip()
    if kind and kind != _SAYS_NOTHING and len(kind) <= MOST_CHARS and _TYPE.fullmatch(kind):
        labels.append(CONTENT_TYPE + kind.encode())
    named = (field(headers, "Coherenced-Tags") or "").split(",")
    tags = [unquote_to_bytes(name.strip()) for name in named]
    labels += [tag for tag in tags if tag and not is_mark(tag)][:MOST_TAGS]
    return tuple(dict.fromkeys(labels))


def marks_of(labels: tuple[bytes, ...]) -> Marks:
    """What is known of a value with these labels; nothing when no origin brought it."""
    for label in labels:
        if label.startswith(VALIDATORS):
            told, _, rest = label[len(VALIDATORS) :].decode("latin-1").partition("\n")
            etag, _, modified = rest.partition("\n")
            took, while_s, if_error_s = [*told.split(" "), "", ""][:3]
            return Marks(
                etag,
                modified,
                float(took) if took.isdigit() else 0.0,
                float(while_s) * 1000.0 if while_s.isdigit() else None,
                float(if_error_s) * 1000.0 if if_error_s.isdigit() else None,
            )
    return Marks()


def _seconds(text: str | None) -> str:
    """Delta-seconds, or nothing where it is none."""
    return text if text and text.isascii() and text.isdigit() and len(text) <= 10 else ""


def renewed(
    labels: tuple[bytes, ...],
    headers: Mapping[str, str],
    load_ms: float,
    name: str,
    *,
    respect: bool = False,
) -> tuple[bytes, ...]:
    """The labels after a 304 with these headers: what it does not say stays as it was."""
    old = marks_of(labels)
    allowed = zip(STALE_WORDS, (old.while_revalidate_ms, old.if_error_ms), strict=True)
    before = [f"{word}={ms / 1000.0:.0f}" for word, ms in allowed if ms is not None]
    said = {
        "ETag": old.etag,
        "Last-Modified": old.modified,
        "Cache-Control": ", ".join(before),
    } | {h: headers[h] for h in ("ETag", "Last-Modified", "Cache-Control") if headers.get(h)}
    own = labels_of(name, said, load_ms, respect=respect)
    rest = [label for label in labels if not label.startswith((ORIGIN, VALIDATORS, OWN))]
    return tuple(dict.fromkeys((*own, *rest)))


def is_loaded(labels: tuple[bytes, ...]) -> bool:
    """Whether a value with these labels is an origin's: loaded from it, or written through us."""
    return any(label.startswith(ORIGIN) for label in labels)


def is_mark(label: bytes) -> bool:
    """Whether this label is one of ours and not an application's tag."""
    return label.startswith((ORIGIN, VALIDATORS, CONTENT_TYPE, OWN))
