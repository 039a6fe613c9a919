"""L0: decoded objects kept in this process, each hit proved from the daemon's shared page.

A hit is a look-up in a dict, the clock, and a few words of memory: no system call, no lock, no
decoding. What a copy holds on to (`Copy`) was read from the page *before* the daemon was asked,
so an invalidation that overtook the answer has moved a counter already, and the copy is born
worthless. Law by law: P1 to P5 in core/PROTOCOL.md.

    note    the counters of a key, before the question
    keep    the answer, under those counters, for as long as the daemon said
    find    the copy, iff it may be served now (`hits` has what is left of it after a proof)

Bounded in entries and in bytes; past either bound the copy that was stored first and not used
since makes room. A copy counts COPY_BYTES, its key, and RAW_FACTOR times its stored bytes, since
objects are larger than their encoding.

What callers are given (`l0_values="copy"`): immutable objects themselves; of a dict, list or set
of immutable ones a copy; of anything else (nested, or of a class we do not know) an object
decoded anew, which is always right and costs what decoding costs. `"shared"`: the kept object
itself, which nobody may change.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any, Final, Literal

from coherenced.client.arguments import staleness
from coherenced.client.copies import Copy, Note
from coherenced.client.hits import NATIVE
from coherenced.client.pure import BOOTTIME as BOOTTIME
from coherenced.client.replies import Entry, Version
from coherenced.errors import UsageError
from coherenced.page.layout import (
    APPLIED_AT,
    EPOCH_AT,
    TAGS_AT,
    VERIFIED_AT,
    number_of,
    tag_slot,
)
from coherenced.page.reader import PageReader, Unusable

MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024
COPY_BYTES: Final = 400
RAW_FACTOR: Final = 2
RETRY_S: Final = 1.0
"""How soon a page that could not be used is tried again."""
CHANCES: Final = 32
"""Copies that one eviction may spare because they were used: it must end soon."""

Values = Literal["copy", "shared"]

_clock_s: Final = time.clock_gettime
_clock_ns: Final = time.clock_gettime_ns

_IMMUTABLE: Final = frozenset({str, bytes, int, float, bool, type(None), complex})


class L0:
    """The copies of one client. `bound_ms`: its own bound for reads that give none. `token`: the
    version that its session wants to see, or ''."""

    def __init__(
        self,
        loads: Callable[[bytes], Any],
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        values: Values = "copy",
        bound_ms: float | None = None,
        token: Callable[[], str] = str,
    ) -> None:
        if max_entries < 1 or max_bytes < 1:
            raise UsageError("l0_max_entries and l0_max_bytes are at least 1; l0=False: no L0")
        if values not in ("copy", "shared"):
            raise UsageError('l0_values is "copy" or "shared"')
        self.copies: OrderedDict[str | bytes, Copy] = OrderedDict()
        self.page: PageReader | None = None
        self.because = "nothing was read yet"
        """Why there is no page."""
        self.beside = ""
        """The daemon's socket: in another mount namespace the page may be beside it only."""
        self.bytes_used = self.misses = self.evictions = self.pages = 0
        self._loads = loads
        self._token = token
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._shared = values == "shared"
        self._bound_ns = None if bound_ms is None else int(staleness(bound_ms) * 1e6)
        self._retry_s = 0.0
        self._past_hits = 0
        self._lock = Lock()
        self._closed = False

    # -- hits ---------------------------------------------------------------------------------

    def held(
        self, key: str | bytes, max_staleness_ms: float | None, min_version: str | None
    ) -> Copy | None:
        """`find`, under the terms that a call was given."""
        if not self.copies:
            return None
        if max_staleness_ms is not None and not staleness(max_staleness_ms) > 0:
            return None
        token = self._token() if min_version is None else min_version
        try:
            return self.find(key, max_staleness_ms, str(token or ""))
        except TypeError:
            return None  # no key at all: who asks the daemon for it says so

    def find(
        self,
        key: str | bytes,
        max_staleness_ms: float | None = None,
        token: str = "",
        now_ns: int | None = None,
    ) -> Copy | None:
        """The copy, iff it may be served now under these terms. Loads the proof first (P2)."""
        copy = self.copies.get(key)
        if copy is None:
            return None
        now_ns = _clock_ns(BOOTTIME) if now_ns is None else now_ns
        words, page = copy.words, self.page
        if page is None or now_ns >= copy.deadline_ns:
            return None
        epoch, applied, verified_ns = words[EPOCH_AT], words[APPLIED_AT], words[VERIFIED_AT]
        bound_ns = copy.bound_ns if max_staleness_ms is None else int(max_staleness_ms * 1e6)
        bound_ns = min(bound_ns, page.bound_ns)
        if bound_ns <= 0 or not verified_ns or now_ns - verified_ns > bound_ns:
            return None
        if token and not _reaches(copy.version, epoch, applied, token):
            return None
        if not copy.holds():
            return None
        if max_staleness_ms is None:
            copy.until_s = min(copy.deadline_ns, verified_ns + bound_ns) / 1e9
        copy.hits += 1
        return copy

    def entry(self, copy: Copy, default: Any) -> Entry:
        """A copy as `get_entry` tells it."""
        now_ns = _clock_ns(BOOTTIME)
        born_ns = copy.words[VERIFIED_AT] if copy.born_ns is None else copy.born_ns
        age_ms = max(0.0, (now_ns - born_ns) / 1e6)
        left_ms = None if copy.expires_ns is None else max(0.0, (copy.expires_ns - now_ns) / 1e6)
        given = copy.given(default)
        stale = copy.stale_ns is not None and now_ns >= copy.stale_ns
        return Entry(given, copy.found, copy.version, "l0", age_ms, stale, left_ms)

    # -- fills --------------------------------------------------------------------------------

    def note(self, key: str | bytes, name: bytes, now_s: float | None = None) -> Note | None:
        """Before the daemon is asked. None: there is no page, nothing can be kept."""
        self.misses += 1
        page = self.page
        if page is None:
            return None
        return Note(key, name, page, _clock_s(BOOTTIME) if now_s is None else now_s)

    def keep(
        self,
        note: Note,
        stored: bytes | None,
        entry: Entry,
        terms: list[Any],
        grace_ms: int = -1,
    ) -> None:
        """The daemon's answer: the stored bytes (None: not there), what became of them, and its
        terms `[ms, bound in ms, tag...]`. `grace_ms`, if it is no -1: the value ages on from the
        age it has, and for the last so much of its time it is stale."""
        keep_ms, bound_ms = int(terms[0]), int(terms[1])
        if keep_ms < 0:
            self.leave("the daemon that answers is not the one of this page")
            return
        if keep_ms == 0 or note.page is not self.page:
            self.discard(note.key)
            return
        bound_ns = bound_ms * 1_000_000 if self._bound_ns is None else self._bound_ns
        tags: tuple[tuple[int, int], ...] = ()
        if len(terms) > 2:
            words, slots = note.page.words, note.page.slots
            tag_slots = [tag_slot(tag, slots) for tag in terms[2:]]
            tags = tuple((slot, words[slot]) for slot in tag_slots)
            if words[TAGS_AT] != note.tags_seen:
                self.discard(note.key)  # P4: perhaps it was one of these
                return
        copy = Copy(note, int((note.asked_s + keep_ms / 1e3) * 1e9), bound_ns, tags)
        copy.version = entry.version
        if entry.expires_in_ms is not None:
            copy.expires_ns = int(note.asked_s * 1e9 + entry.expires_in_ms * 1e6)
        if grace_ms >= 0:
            copy.born_ns = int(note.asked_s * 1e9 - entry.age_ms * 1e6)
            if grace_ms and copy.expires_ns is not None:
                copy.stale_ns = copy.expires_ns - grace_ms * 1_000_000
        copy.size = COPY_BYTES + len(note.key)
        if stored is not None:
            copy.found = True
            copy.size += RAW_FACTOR * len(stored)
            copy.value, copy.fresh = self._kept(stored, entry.value)
        self._insert(note.key, copy)

    def _kept(self, stored: bytes, value: Any) -> tuple[Any, Callable[[], Any] | None]:
        """What to keep, and how a caller is given its own. The `copy` of an object that nobody
        else has: bound to it beforehand it costs half of what `dict.copy(value)` does."""
        kind = type(value)
        if self._shared or kind in _IMMUTABLE:
            return value, None
        if kind is dict:
            flat = _IMMUTABLE.issuperset(map(type, value.values()))
            return None, dict(value).copy if flat else partial(self._loads, stored)
        if kind in (list, set, tuple, frozenset) and _IMMUTABLE.issuperset(map(type, value)):
            if kind in (tuple, frozenset):
                return value, None
            return None, kind(value).copy
        return None, partial(self._loads, stored)

    def _insert(self, key: str | bytes, copy: Copy) -> None:
        if copy.size > self._max_bytes:
            self.discard(key)
            return
        with self._lock:
            if self._closed:
                return
            copies = self.copies
            self._forget(copies.pop(key, None))
            copies[key] = copy
            self.bytes_used += copy.size
            chances = CHANCES
            while len(copies) > self._max_entries or self.bytes_used > self._max_bytes:
                oldest_key, oldest = copies.popitem(last=False)
                if oldest is copy or (chances and oldest.hits > oldest.seen_hits):
                    chances -= 1
                    oldest.seen_hits = oldest.hits
                    copies[oldest_key] = oldest
                else:
                    self._forget(oldest)
                    self.evictions += 1

    def _forget(self, copy: Copy | None) -> None:
        if copy is not None:
            self.bytes_used -= copy.size
            self._past_hits += copy.hits

    def discard(self, key: str | bytes) -> None:
        """What is held of `key` is not to be shown any more: the daemon has shown another."""
        if key in self.copies:
            with self._lock:
                self._forget(self.copies.pop(key, None))

    # -- the page -----------------------------------------------------------------------------

    def wants_page(self) -> bool:
        """Whether to ask the daemon (COH.PAGE) where its page is."""
        return self.page is None and not self._closed and _clock_s(BOOTTIME) >= self._retry_s

    def open(self, document: object) -> None:
        """The daemon's answer to COH.PAGE; anything else than a page leaves L0 off for a while."""
        told = document if isinstance(document, dict) else {}
        path, incarnation = told.get("path"), told.get("incarnation")
        self._retry_s = _clock_s(BOOTTIME) + RETRY_S
        if not isinstance(path, str) or not isinstance(incarnation, str):
            self.because = str(told.get("because") or "this daemon knows of no shared page")
            return
        directory = self.beside.rpartition("/")[0]
        places = dict.fromkeys([f"{directory}/{path.rpartition('/')[2]}", path])
        for place in places if directory else [path]:
            try:
                page = PageReader(place, incarnation)
            except (Unusable, ValueError) as why:
                self.because = str(why)
            else:
                self.use(page)
                return

    def use(self, page: PageReader) -> None:
        """Keep copies under this page from now on."""
        with self._lock:
            if not self._closed:
                self.page = page
                self.pages += 1

    def leave(self, why: str) -> None:
        """The page is not to be believed any more, nor anything kept under it."""
        with self._lock:
            self.page, self.because = None, why
            self._retry_s = 0.0
            for copy in self.copies.values():
                copy.until_s, copy.deadline_ns = 0.0, 0  # for who is just looking at it
                self._past_hits += copy.hits
            self.copies.clear()
            self.bytes_used = 0

    def connected(self, socket_path: str) -> None:
        """A connection was opened, or broke: is this still the page of who is there?"""
        self.beside = socket_path or self.beside
        page = self.page
        if page is not None and not page.is_named():
            self.leave("another daemon has taken the place of the one of this page")

    def forked(self) -> None:
        """In a child: the page and the copies are as good as in the parent; its lock is not."""
        self._lock = Lock()

    def close(self) -> None:
        self.leave("this client is closed")
        self._closed = True

    def stats(self) -> dict[str, Any]:
        """Of this client. Hits of several threads at once may be counted as one."""
        with self._lock:
            hits = self._past_hits + sum(copy.hits for copy in self.copies.values())
            return {
                "on": self.page is not None,
                "native": NATIVE,
                "because": "" if self.page is not None else self.because,
                "hits": hits,
                "misses": self.misses,
                "evictions": self.evictions,
                "entries": len(self.copies),
                "bytes": self.bytes_used,
                "max_entries": self._max_entries,
                "max_bytes": self._max_bytes,
            }


def _reaches(version: Version, epoch: int, applied: int, token: str) -> bool:
    """S1: of the token's epoch, and read or proved at its sequence or later."""
    token_epoch, _, seq = token.partition(":")
    try:
        if number_of(token_epoch) != epoch:
            return False
        return applied >= int(seq) or (version.epoch == token_epoch and version.seq >= int(seq))
    except ValueError:
        return False
