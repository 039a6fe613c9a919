"""HTTP headers as both sides of the daemon read them: its own front, and what asks origins."""

from __future__ import annotations

from collections.abc import Mapping


def field(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value; None: it is not there. Of several lines, all: together they are one list
    (RFC 9110 5.3), and of what is no list there is one value at most."""
    text = headers.get(name)
    if text is not None and (lines := getattr(headers, "getall", None)) is not None:
        text = ", ".join(lines(name))
    return text
