"""An invalidation as the bytes of one Server-Sent Event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from coherenced.core.model import Record
from coherenced.serve.http_schema import streamed


class Framer:
    """A record as the bytes of an event; made once for all listeners of a front end."""

    __slots__ = ("_frame", "_record")

    def __init__(self) -> None:
        self._record: Record | None = None
        self._frame = b""

    @staticmethod
    def event(event: Mapping[str, Any]) -> bytes:
        """Something that happened on this node. It has no id: who resumes, resumes the records."""
        return b"event: node\ndata: %b\n\n" % msgspec.json.encode(event)

    def frame(self, record: Record, version: str) -> bytes:
        if record is not self._record:
            data = msgspec.json.encode(streamed(record, version))
            self._frame = b"id: %b\nevent: invalidation\ndata: %b\n\n" % (version.encode(), data)
            self._record = record
        return self._frame
