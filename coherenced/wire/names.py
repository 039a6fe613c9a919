"""Names (keys, tags, prefixes) are bytes, and JSON has none: how each is written there, and shown.

A name that is UTF-8 is its text, any other `{"base64": "..."}`: no two names are written alike, and
what was read can be sent back as it is.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from typing import Any


def json_name(raw: bytes) -> str | dict[str, str]:
    """`raw` as JSON holds it."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": b2a_base64(raw, newline=False).decode("ascii")}


def legible(named: Any) -> str:
    """For people: what `json_name` has written, as text; bytes that are none as `\\xNN`.

    Of anything else, its `str`."""
    if isinstance(named, dict) and named.keys() == {"base64"}:
        try:
            return a2b_base64(named["base64"]).decode("utf-8", "backslashreplace")
        except (TypeError, ValueError):
            pass
    return str(named)
