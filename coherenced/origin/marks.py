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

ORIGIN: Final = b"origin="
VALIDATORS: Final = b"validators="
CONTENT_TYPE: Final = b"content-type="
"""As the HTTP front end keeps it."""

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
    name: str, headers: Mapping[str, str], load_ms: float, *, most_tags: int = MOST_TAGS
) -> tuple[bytes, ...]:
    """The labels of a value that came with these headers. `Coherenced-Tags` adds tags."""
    labels = [ORIGIN + name.encode()]
    marks = [str(int(load_ms))]
    for header in ("ETag", "Last-Modified"):
        text = headers.get(header, "").strip()
        fits = text.isprintable() and text.isascii() and len(text) <= MOST_CHARS
        marks.append(text if fits else "")
    labels.append(VALIDATORS + "\n".join(marks).encode())
    kind = headers.get("Content-Type", "").strip()
    if kind and kind != _SAYS_NOTHING and len(kind) <= MOST_CHARS and _TYPE.fullmatch(kind):
        labels.append(CONTENT_TYPE + kind.encode())
    tags = [unquote_to_bytes(t.strip()) for t in headers.get("Coherenced-Tags", "").split(",")]
    labels += [tag for tag in tags if tag and not is_mark(tag)][:most_tags]
    return tuple(dict.fromkeys(labels))


def marks_of(labels: tuple[bytes, ...]) -> Marks:
    """What is known of a value with these labels; nothing when no origin brought it."""
    for label in labels:
        if label.startswith(VALIDATORS):
            took, _, rest = label[len(VALIDATORS) :].decode("latin-1").partition("\n")
            etag, _, modified = rest.partition("\n")
            return Marks(etag, modified, float(took) if took.isdigit() else 0.0)
    return Marks()


def renewed(
    labels: tuple[bytes, ...], headers: Mapping[str, str], load_ms: float, name: str
) -> tuple[bytes, ...]:
    """The labels after a 304 with these headers: what it does not say stays as it was."""
    old = marks_of(labels)
    said = {"ETag": old.etag, "Last-Modified": old.modified} | {
        h: headers[h] for h in ("ETag", "Last-Modified") if headers.get(h)
    }
    own = labels_of(name, said, load_ms)
    rest = [label for label in labels if not label.startswith((ORIGIN, VALIDATORS, OWN))]
    return tuple(dict.fromkeys((*own, *rest)))


def is_loaded(labels: tuple[bytes, ...]) -> bool:
    """Whether a value with these labels is an origin's: loaded from it, or written through us."""
    return any(label.startswith(ORIGIN) for label in labels)


def is_mark(label: bytes) -> bool:
    """Whether this label is one of ours and not an application's tag."""
    return label.startswith((ORIGIN, VALIDATORS, CONTENT_TYPE, OWN))
