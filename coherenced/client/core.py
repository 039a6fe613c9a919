"""The client without a socket: every method once, as bytes to send and a way to read the replies.

`Calls` turns a method's arguments into a `Request`; a shell (`sync`, `aio`) sends the
request's batches one after the other, collects the replies, and returns
`request.decode(replies)`. What a method means, and its documentation, is written here
and only here; `documented` gives the shells' methods the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from coherenced.client.arguments import (
    Key,
    key_bytes,
    key_list,
    label_list,
    milliseconds,
    sectioned,
    several,
    staleness,
    version,
    write_options,
)
from coherenced.client.decoding import Decoding
from coherenced.client.l0 import L0
from coherenced.client.replies import (
    Entry,
    Invalidation,
    Version,
    checked,
    decode_added,
    decode_deleted,
    decode_document,
    decode_invalidation,
    decode_version,
)
from coherenced.client.session import Session
from coherenced.client.stream import Batch, Request, batch_of, batches_of, parts
from coherenced.client.values import Serializer, serializer_of
from coherenced.errors import UsageError

ONE_EACH: Final = "{0} cannot be copied or pickled: make one in each process (a fork may go on)"
AUDIT_S: Final = 25.0
"""How much longer than other answers that of an audit may take."""
MOST_IN_SNAPSHOT: Final = 200
"""Keys that can be read as of one moment."""
MOST_AUDITED: Final = 1_000_000
"""Keys that one audit compares."""

T = TypeVar("T")
K = TypeVar("K", bound=str | bytes)
C = TypeVar("C")

_CHANGES_CONNECTION: Final = frozenset(
    b"MULTI EXEC DISCARD WATCH UNWATCH RESET QUIT HELLO AUTH SELECT".split()
)
_MGET_OPTIONS: Final = frozenset({b"SNAPSHOT", b"MAXSTALE", b"MINVER", b"META", b"TTL"})
_DELETE_OPTIONS: Final = frozenset({b"ACK", b"TIMEOUT", b"REPLICAS"})


class Calls:
    """Every method of the clients, as arguments -> `Request`."""

    def __init__(
        self,
        serializer: Serializer | None,
        max_staleness_ms: float | None = None,
        session: Session | None = None,
        *,
        misses_when_unavailable: bool = False,
        l0: L0 | None = None,
    ) -> None:
        self.serializer = serializer_of(serializer)
        self._max_staleness_ms = None if max_staleness_ms is None else staleness(max_staleness_ms)
        self._session = session
        self._misses_when_unavailable = misses_when_unavailable
        self._l0 = l0
        self._decode = Decoding(self.serializer, session, l0)

    # -- reads ----------------------------------------------------------------

    def get(
        self,
        key: Key,
        default: Any = None,
        *,
        max_staleness_ms: float | None = None,
        min_version: str | None = None,
    ) -> Request[Any]:
        """The value of `key`, or `default` when it is not there (also where a loader has found,
        with `negative_ttl`, that there is no such thing).

        `max_staleness_ms` overrides the daemon's bound for this read: 0 is linearizable; above the
        largest bound of the daemon's configuration it means that one.
        `min_version` serves nothing older than a version that a write returned.
        Raises `RedisUnreachable` when no value within the bound can be had.
        """
        l0 = self._l0
        if l0 is not None and (held := l0.held(key, max_staleness_ms, min_version)) is not None:
            return _answered(held.given(default))
        options = self._read_options(max_staleness_ms, min_version)
        name = key_bytes(key)
        otherwise = (lambda: default) if self._misses_when_unavailable else None
        note = None if l0 is None else l0.note(key, name)
        if note is not None:
            command = (b"COH.GET", name, *options, b"KEEP", note.page.incarnation.encode())
            decode = partial(self._decode.kept, note, default)
            return Request((batch_of([command]),), decode, otherwise=otherwise)
        command = (b"COH.GET", name, *options) if options else (b"GET", name)
        decode = partial(self._decode.get, default)
        return self._read_request((batch_of([command]),), decode, otherwise)

    def get_entry(
        self,
        key: Key,
        default: Any = None,
        *,
        max_staleness_ms: float | None = None,
        min_version: str | None = None,
    ) -> Request[Entry]:
        """Like `get`, with how it was answered: version, source, age, staleness, what is left."""
        l0 = self._l0
        if l0 is not None and (held := l0.held(key, max_staleness_ms, min_version)) is not None:
            return _answered(l0.entry(held, default))
        options = self._read_options(max_staleness_ms, min_version)
        name = key_bytes(key)
        note = None if l0 is None else l0.note(key, name)
        kept = (b"META", b"TTL")
        if note is not None:
            kept = (b"KEEP", note.page.incarnation.encode())
        missing = Entry(default, False, Version(), "none", 0.0, False)
        otherwise = (lambda: missing) if self._misses_when_unavailable else None
        batch = batch_of([(b"COH.GET", name, *options, *kept)])
        return self._read_request((batch,), partial(self._decode.entry, note, default), otherwise)

    def get_many(
        self,
        keys: Iterable[K],
        *,
        max_staleness_ms: float | None = None,
        min_version: str | None = None,
        snapshot: bool = False,
    ) -> Request[dict[K, Any]]:
        """Those of `keys` that are there, with their values; many keys share a round trip.

        `snapshot`: all as of one moment, so that no half of a transaction is seen (at most
        200 keys).
        """
        order = list(dict.fromkeys(several(keys)))
        if snapshot:
            return self._snapshot(order, max_staleness_ms, min_version)
        l0 = self._l0
        held: dict[K, Any] = {}
        wanted = []
        for key in order:
            copy = None if l0 is None else l0.held(key, max_staleness_ms, min_version)
            if copy is None:
                wanted.append(key)
            elif copy.found:
                held[key] = copy.given(None)
        names = [key_bytes(key) for key in wanted]
        options = self._read_options(max_staleness_ms, min_version)
        otherwise = dict[K, Any] if self._misses_when_unavailable else None
        notes = [] if l0 is None else [l0.note(*pair) for pair in zip(wanted, names, strict=True)]
        noted = [note for note in notes if note is not None]
        if names and len(noted) == len(names):
            word = noted[0].page.incarnation.encode()
            asked = ((b"COH.GET", name, *options, b"KEEP", word) for name in names)
            keep = partial(self._decode.many_kept, order, noted, held)
            return Request(tuple(batches_of(asked)), keep, otherwise=otherwise)
        if options:
            batches = tuple(batches_of((b"COH.GET", name, *options) for name in names))
        else:
            batches = tuple(batch_of([(b"MGET", *part)]) for part in parts(names))
        decode = partial(self._decode.many, order, wanted, held)
        return self._read_request(batches, decode, otherwise)

    def stats(self) -> Request[dict[str, Any]]:
        """Hits, misses and bytes of each tier: `l0` is this client's own, the rest the daemon's."""
        return Request((batch_of([(b"COH.STATS",)]),), self._decode.stats)

    def nodes(self) -> Request[dict[str, Any]]:
        """The nodes of the roster as this daemon sees them, and its recent events."""
        return Request((batch_of([(b"COH.NODES",)]),), decode_document)

    def explain(self, key: Key) -> Request[dict[str, Any]]:
        """Why `key` would be served from where, now."""
        return Request((batch_of([(b"COH.EXPLAIN", key_bytes(key))]),), decode_document)

    # -- writes ---------------------------------------------------------------

    def set(
        self,
        key: Key,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Iterable[Key] = (),
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
        if_version: str | None = None,
    ) -> Request[Version]:
        """Store `value` for `ttl` seconds (None: for ever), and return its version.

        With `tags` it is a cache entry: it lives for at most 30 days, and what invalidates it
        ends it in Redis, too.

        `ack`: "none", "redis", "quorum", "all" or a number of nodes that must have dropped
        the old value, within `timeout` seconds; else `NotAcknowledged` is raised, and the
        value is stored all the same. `replicas`: so many Redis replicas must have it too, within
        the same time; else "(replicas)" is missing. `if_version`: only if the key has not
        changed since that version, else `Conflict`. `Contended`: a linearizable key was being
        written by another for too long, and nothing was done. `Indeterminate`: the reply was
        lost, it may be stored.
        """
        options = write_options(ack, timeout, replicas)
        if if_version is not None:
            options += (b"IFVER", version(if_version))
        command = self._set_command(key, value, ttl, label_list("tag", tags), options)
        return self._write([command], timeout, decode_version)

    def add(
        self,
        key: Key,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Iterable[Key] = (),
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
    ) -> Request[bool]:
        """Store `value` unless `key` is there already; whether it was stored. Errors: as `set`."""
        options = (b"NX", *write_options(ack, timeout, replicas))
        command = self._set_command(key, value, ttl, label_list("tag", tags), options)
        return self._write([command], timeout, decode_added)

    def execute(self, *words: Key | int | float, write: bool = True) -> Request[Any]:
        """One of Redis's own commands, as the daemon's RESP socket knows it, and its raw reply.

        `write=False`: a read, which is repeated when its connection turns out to be dead.
        Not for what changes a connection, as MULTI does: other calls share it.
        """
        command = tuple(
            key_bytes(str(word) if isinstance(word, int | float) else word) for word in words
        )
        if not command:
            raise UsageError("execute takes a command and its arguments")
        if command[0].upper() in _CHANGES_CONNECTION:
            raise UsageError(
                f"{command[0].decode().upper()} is not for execute: it changes a connection that "
                "other calls share; use a Redis client at the daemon's socket for it"
            )
        return Request((batch_of([command]),), lambda replies: checked(replies[0]), is_write=write)

    def set_many(
        self,
        items: Mapping[Any, Any],
        *,
        ttl: float | None = None,
        tags: Iterable[Key] = (),
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
    ) -> Request[Version]:
        """Store all items, pipelined, and return the last version.

        Not atomic: when it raises, some of them may be stored.
        """
        if not isinstance(items, Mapping):
            raise UsageError(f"set_many takes a mapping from key to value, not {items!r:.40}")
        options, labels = write_options(ack, timeout, replicas), label_list("tag", tags)
        commands = (
            self._set_command(key, value, ttl, labels, options) for key, value in items.items()
        )
        return self._write(commands, timeout, decode_version)

    def delete(
        self,
        *keys: Key,
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
    ) -> Request[int]:
        """Delete `keys`, everywhere, and return how many of them were there. Errors: as `set`."""
        options = write_options(ack, timeout, replicas)
        names = [key_bytes(key) for key in keys]
        # A key that reads like an option travels alone, where it cannot be taken for one.
        alone = [name for name in names if name.upper() in _DELETE_OPTIONS]
        others = [name for name in names if name.upper() not in _DELETE_OPTIONS]
        groups = [*parts(others), *([name] for name in alone)]
        commands = ((b"COH.DEL", *group, *options) for group in groups)
        return self._write(commands, timeout, decode_deleted)

    def invalidate(
        self,
        keys: Iterable[Key] = (),
        *,
        tags: Iterable[Key] = (),
        prefixes: Iterable[Key] = (),
        everything: bool = False,
        ack: str | int | None = None,
        timeout: float | None = None,
        replicas: int = 0,
    ) -> Request[Invalidation]:
        """Make every node drop what it holds of these keys, tags and prefixes, or everything.

        Plain values stay in Redis as they are; cache entries (stored with tags, by a loader, or
        over HTTP with a Content-Type) are gone from there, too. Errors: as `set`.
        """
        targets = [
            *((b"KEYS", name) for name in key_list(keys)),
            *((b"TAGS", name) for name in label_list("tag", tags)),
            *((b"PREFIXES", name) for name in label_list("prefix", prefixes)),
        ]
        if not targets and not everything:
            raise UsageError("nothing to invalidate: give keys, tags, prefixes or everything=True")
        options = write_options(ack, timeout, replicas)
        commands = [(b"COH.INVALIDATE", *sectioned(part), *options) for part in parts(targets)]
        if everything:
            commands.append((b"COH.INVALIDATE", b"ALL", *options))
        return self._write(commands, timeout, decode_invalidation)

    def audit(self, keys: Iterable[Key] = (), *, count: int = 1000) -> Request[dict[str, Any]]:
        """Compare what the daemon holds of `keys`, or of `count` of its keys, with Redis.

        `{"node", "compared", "agreed", "moved", "not_held", "diverged": [...]}`; *moved* are
        those that changed meanwhile. Copies that differ are dropped.
        """
        names = key_list(keys)
        if not isinstance(count, int) or not 1 <= count <= MOST_AUDITED:
            raise UsageError(f"count is a whole number from 1 to {MOST_AUDITED}, not {count!r}")
        what = (b"KEYS", b"%d" % len(names), *names) if names else (b"COUNT", b"%d" % count)
        return Request((batch_of([(b"COH.AUDIT", *what)]),), decode_document, ack_s=AUDIT_S)

    # -- shared ---------------------------------------------------------------

    def _set_command(
        self,
        key: Key,
        value: Any,
        ttl: float | None,
        tags: list[bytes],
        options: tuple[bytes, ...],
    ) -> tuple[bytes, ...]:
        command: tuple[bytes, ...] = (b"COH.SET", key_bytes(key), self.serializer.dumps(value))
        if ttl is not None:
            command += (b"PX", milliseconds("ttl", ttl))
        if tags:
            command += (b"TAGS", b"%d" % len(tags), *tags)
        return command + options

    def _read_options(
        self, max_staleness_ms: float | None, min_version: str | None
    ) -> tuple[bytes, ...]:
        options: tuple[bytes, ...] = ()
        if max_staleness_ms is None:
            max_staleness_ms = self._max_staleness_ms
        if max_staleness_ms is not None:
            options = (b"MAXSTALE", b"%d" % staleness(max_staleness_ms))
        if min_version is None and self._session is not None:
            min_version = self._session.token
        if min_version:
            options += (b"MINVER", version(min_version))
        return options

    def _write(
        self,
        commands: Iterable[tuple[bytes, ...]],
        timeout: float | None,
        decode: Callable[[list[Any]], tuple[T, Version]],
    ) -> Request[T]:
        return Request(
            tuple(batches_of(commands)),
            partial(self._decode.write, decode),
            is_write=True,
            ack_s=timeout or 0.0,
        )

    def _snapshot(
        self, order: list[K], max_staleness_ms: float | None, min_version: str | None
    ) -> Request[dict[K, Any]]:
        if len(order) > MOST_IN_SNAPSHOT:
            raise UsageError(f"a snapshot has at most {MOST_IN_SNAPSHOT} keys")
        options = self._read_options(max_staleness_ms, min_version)
        # Keys that read like options come first, and behind them two others (here "-", which is
        # asked for nothing, where there are too few), so that they cannot be taken for some.
        plain_last = sorted(order, key=lambda key: key_bytes(key).upper() not in _MGET_OPTIONS)
        names = [key_bytes(key) for key in plain_last]
        padding = [b"-"] * sum(name.upper() in _MGET_OPTIONS for name in names[-2:])
        words = (b"COH.MGET", *names, *padding, b"SNAPSHOT", *options)
        batches = (batch_of([words]),) if names else ()
        otherwise = dict[K, Any] if self._misses_when_unavailable else None
        decode = partial(self._decode.many, order, plain_last, {})
        return Request(batches, decode, otherwise=otherwise)

    def _read_request(
        self,
        batches: tuple[Batch, ...],
        decode: Callable[[list[Any]], T],
        otherwise: Callable[[], T] | None,
    ) -> Request[T]:
        """A read that goes to the daemon: on its way, ask where the page is, if that is wanted."""
        l0 = self._l0
        if l0 is None or not batches or not l0.wants_page():
            return Request(batches, decode, otherwise=otherwise)
        batches = (batch_of([(b"COH.PAGE",)]), *batches)
        return Request(batches, partial(self._decode.opening, decode), otherwise=otherwise)


def documented(*described: type) -> Callable[[type[C]], type[C]]:
    """Class decorator of the shells: each method has the text of its namesake in `described`."""

    def describe(shell: type[C]) -> type[C]:
        for one in described:
            for name, method in vars(one).items():
                own = vars(shell).get(name)
                if own is not None and not name.startswith("_") and own.__doc__ is None:
                    own.__doc__ = method.__doc__
        return shell

    return describe


def _answered(answer: T) -> Request[T]:
    """A call that nobody has to be asked for."""
    return Request((), lambda replies: answer)
