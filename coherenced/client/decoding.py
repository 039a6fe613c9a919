"""What the daemon's replies mean to a client: values, entries, errors; the other half of `core`.

What passes here leaves its traces: a session learns of versions, L0 keeps what it may.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from coherenced.client.copies import Note
from coherenced.client.l0 import L0
from coherenced.client.replies import (
    Entry,
    Version,
    checked,
    decode_added,
    decode_document,
    not_acknowledged,
    text_of,
    unexpected,
)
from coherenced.client.session import Session
from coherenced.client.values import NOTHING, Serializer
from coherenced.errors import CoherencedError, CommandError, Conflict, NotAcknowledged

T = TypeVar("T")
K = TypeVar("K", bound=str | bytes)

_LOST_LINEAGE: Final = ("LINEAGE ", "BEHIND ")


class Decoding:
    """Replies -> what the caller gets, or an exception, for one client."""

    def __init__(self, serializer: Serializer, session: Session | None, l0: L0 | None) -> None:
        self._serializer = serializer
        self._session = session
        self._l0 = l0

    def write(self, decode: Callable[[list[Any]], tuple[T, Version]], replies: list[Any]) -> T:
        """Errors first, then the result; the session learns of every version that was committed."""
        late: list[NotAcknowledged] = []
        for reply in replies:
            if isinstance(reply, NotAcknowledged):
                late.append(reply)
            elif not (decode is decode_added and isinstance(reply, Conflict)):
                checked(reply)
        if late:
            version = Version(late[-1].version)
            self._wrote(version)
            if len(replies) == 1:
                raise late[0]
            missing = tuple(dict.fromkeys(name for error in late for name in error.missing))
            fenced = tuple(dict.fromkeys(name for error in late for name in error.fenced))
            raise not_acknowledged(version, missing, (), fenced)
        result, version = decode(replies)
        self._wrote(version)
        return result

    def _wrote(self, version: Version) -> None:
        if self._session is not None:
            self._session.wrote(version)

    def _read(self, reply: Any) -> Any:
        """Like `checked`. A session whose lineage is gone says so once, and starts anew."""
        lost = isinstance(reply, CommandError) and str(reply).startswith(_LOST_LINEAGE)
        if lost and self._session is not None:
            self._session.forget()
        return checked(reply)

    def get(self, default: Any, replies: list[Any]) -> Any:
        reply = replies[0]
        if reply is None or reply == NOTHING:
            return default
        if isinstance(reply, bytes):
            return self._serializer.loads(reply)
        raise unexpected("a value", self._read(reply))

    def kept(self, note: Note, default: Any, replies: list[Any]) -> Any:
        return self.entry(note, default, replies).value

    def entry(self, note: Note | None, default: Any, replies: list[Any]) -> Entry:
        reply = self._read(replies[0])
        if not isinstance(reply, list) or len(reply) < 5:
            raise unexpected("a value with its version", reply)
        stored, version, source, age_ms, stale = reply[:5]
        if stored == NOTHING:
            stored = None
        left_ms = float(reply[5]) if len(reply) > 5 else -1.0
        entry = Entry(
            default if stored is None else self._serializer.loads(stored),
            stored is not None,
            Version(text_of(version)),
            text_of(source),
            float(age_ms),
            bool(int(stale)),
            None if left_ms < 0 else left_ms,
        )
        if note is not None and self._l0 is not None and len(reply) > 6:
            grace_ms = int(reply[7]) if len(reply) > 7 else -1
            self._l0.keep(note, stored, entry, reply[6], grace_ms)
        return entry

    def many_kept(
        self, order: list[K], notes: list[Note], held: dict[K, Any], replies: list[Any]
    ) -> dict[K, Any]:
        if len(replies) != len(notes):
            raise unexpected(f"{len(notes)} values", len(replies))
        for note, reply in zip(notes, replies, strict=True):
            if _holds_no_string(reply):
                continue
            entry = self.entry(note, None, [reply])
            if entry.found:
                held[note.key] = entry.value  # type: ignore[index]  # the caller's own key
        return {key: held[key] for key in order if key in held}

    def opening(self, decode: Callable[[list[Any]], T], replies: list[Any]) -> T:
        """Where the page is, and then what was asked for."""
        assert self._l0 is not None
        try:
            document = decode_document(replies[:1])
        except CoherencedError:
            document = {}  # a daemon that knows of no such thing
        self._l0.open(document)
        return decode(replies[1:])

    def stats(self, replies: list[Any]) -> dict[str, Any]:
        document = decode_document(replies)
        return document if self._l0 is None else {"l0": self._l0.stats(), **document}

    def many(
        self, order: list[K], wanted: list[K], held: dict[K, Any], replies: list[Any]
    ) -> dict[K, Any]:
        values: list[Any] = []
        for reply in replies:
            if isinstance(reply, list):
                values += reply
            else:
                values.append(None if _holds_no_string(reply) else self._read(reply))
        if len(values) < len(wanted):
            raise unexpected(f"{len(wanted)} values", len(values))
        loads = self._serializer.loads
        for key, value in zip(wanted, values, strict=False):  # padding may come behind
            if value is not None and value != NOTHING:
                held[key] = loads(value)
        return {key: held[key] for key in order if key in held}


def _holds_no_string(reply: Any) -> bool:
    """One of many keys, which MGET answers as if it was not there."""
    return isinstance(reply, CommandError) and str(reply).startswith("WRONGTYPE ")
