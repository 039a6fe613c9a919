"""A node for the front ends' tests: a dictionary behind `NodePort`, with every mood on a switch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from coherenced.core.bulk import bulk_of
from coherenced.core.entry import Entry
from coherenced.core.lane import Lane
from coherenced.core.model import EVERYTHING, FOREVER, Mutation, Op, Record, ReplyError, Version
from coherenced.core.requests import (
    Fault,
    FaultKind,
    Fill,
    Get,
    Lease,
    LeaseResult,
    Level,
    Outcome,
    Read,
    ReadResult,
    Recall,
    RecallResult,
    Release,
    Request,
    Source,
    Value,
    Write,
    WriteResult,
)

EPOCH = b"0f1e2d3c4b5a6978"


class FakePort:
    """Answers at once, unless `held` is a list: then callbacks wait in it."""

    def __init__(self) -> None:
        self.clock_ms = 1_000_000.0
        self.lane = Lane(0)
        self.lane.epoch = EPOCH
        self.lane.verified_at_ms = self.clock_ms
        self.l1: dict[bytes, Entry] = {}
        self.redis: dict[bytes, tuple[bytes, tuple[bytes, ...], int]] = {}
        """key -> value, labels, sequence of its last change."""
        self.wrong_type: set[bytes] = set()
        self.leases: dict[tuple[bytes, bytes], bool] = {}
        """(key, token) that are alive."""
        self.absent: set[bytes] = set()
        self.fault: Fault | None = None
        self.reply_error: ReplyError | None = None
        self.stale = False
        self.missing: tuple[str, ...] = ()
        self.is_ready = (True, "")
        self.held: list[Callable[[], None]] | None = None
        self.requests: list[Request] = []
        self.listeners: list[Callable[[Record, str], None]] = []
        self.event_listeners: list[Callable[[dict[str, Any]], None]] = []
        self.history: list[tuple[Record, str]] = []
        self.served = 0

    # -- NodePort ---------------------------------------------------------------------

    def now_ms(self) -> float:
        return self.clock_ms

    def hit(self, key: bytes, now_ms: float) -> Entry | None:
        entry = self.l1.get(key)
        if entry is None or now_ms >= entry.deadline_ms:
            return None
        if now_ms - self.lane.verified_at_ms > entry.bound_ms:
            return None
        self.served += 1
        return entry

    def hits(self, keys: Sequence[bytes], now_ms: float) -> list[bytes]:
        bulks: list[bytes] = []
        for key in keys:
            entry = self.hit(key, now_ms)
            if entry is None:
                break
            bulks.append(entry.bulk)
        return bulks

    def has_origin(self, key: bytes) -> bool:
        return key.startswith(b"origin:")

    def submit(self, request: Request, done: Callable[[Outcome], None]) -> None:
        self.requests.append(request)
        if self.held is not None:
            self.held.append(lambda: done(self._outcome(request)))
        else:
            done(self._outcome(request))

    def get(self, key: bytes, done: Callable[[Outcome], None]) -> None:
        self.submit(Get(key), done)

    def watch(self, watch_id: int, keys: tuple[bytes, ...], done: Any) -> None:
        raise NotImplementedError

    def unwatch(self, watch_id: int) -> None:
        raise NotImplementedError

    def write_behind(self, done: Callable[[dict[str, Any] | Fault], None]) -> None:
        done(self.fault if self.fault is not None else {"namespaces": {}})

    def settle_letters(
        self,
        namespace: str,
        ids: Sequence[str] | None,
        replay: bool,
        done: Callable[[dict[str, Any] | Fault | None], None],
    ) -> None:
        self.settled = (namespace, ids, replay)
        if self.fault is not None:
            done(self.fault)
        else:
            known = namespace != "other"
            done({"done": 1, "superseded": 0, "unknown": []} if known else None)

    def nodes(self, done: Callable[[dict[str, Any] | Fault], None]) -> None:
        if self.fault is not None:
            done(self.fault)
            return
        names = [("a", True), ("b", True), ("c", False)]
        nodes = [
            {
                "name": name,
                "incarnation": name * 16,
                "beat": 7,
                "bound_ms": 1000,
                "version": "0.1.0",
                "live": live,
                "self": name == "a",
                "applied": f"{EPOCH.decode()}:{self.lane.applied}",
            }
            for name, live in names
        ]
        events = [{"at": "2026-01-02T03:04:05", "event": "bus_connected", "text": "connected"}]
        done({"self": "a", "nodes": nodes, "events": events})

    def audit(self, keys: Any, done: Callable[[dict[str, Any] | Fault], None]) -> None:
        asked = keys if isinstance(keys, int) else [key.decode() for key in keys]
        done(self.fault or {"node": "a", "asked": asked})

    def stats(self) -> dict[str, Any]:
        return {"node": {"name": "a"}, "l1": {"hits": self.served}}

    def page(self) -> dict[str, Any]:
        return {"path": "/run/page.shm", "layout": 1, "incarnation": "a" * 16}

    def explain(self, key: bytes) -> dict[str, Any]:
        return {"key": key.decode("utf-8", "backslashreplace"), "in_l1": key in self.l1}

    def ready(self) -> tuple[bool, str]:
        return self.is_ready

    def stream(self, listener: Callable[[Record, str], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def stream_events(self, listener: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        self.event_listeners.append(listener)
        return lambda: self.event_listeners.remove(listener)

    def version(self) -> Version | None:
        return Version(EPOCH, self.lane.applied)

    def metrics(self) -> bytes:
        return b"# HELP coherenced_ready x\n# TYPE coherenced_ready gauge\ncoherenced_ready 1.0\n"

    def settings(self) -> dict[str, Any]:
        return {"redis": {"password": "***"}}

    # -- moods ------------------------------------------------------------------------

    def cache(
        self,
        key: bytes,
        value: bytes | None,
        labels: tuple[bytes, ...] = (),
        left_ms: float = FOREVER,
    ) -> Entry:
        """Put an entry straight into L1, current now, for 60 s; Redis keeps it for `left_ms`."""
        deadline_ms, ends_ms = self.clock_ms + 60_000.0, self.clock_ms + left_ms
        at = self.lane.applied
        entry = Entry(key, bulk_of(value), self.lane, at, deadline_ms, 1000.0, labels, ends_ms)
        self.l1[key] = entry
        return entry

    def release(self) -> None:
        held, self.held = self.held or [], None
        for answer in held:
            answer()

    def record(self, op: int, keys: tuple[bytes, ...] = (), **fields: Any) -> str:
        """Apply one more record and tell every listener."""
        self.lane.applied += 1
        sequence = self.lane.applied
        tag = b"%016x" % sequence
        record = Record(
            sequence,
            b"%016x" % (sequence - 1),
            tag,
            op,
            EVERYTHING if fields.pop("everything", False) else 0,
            b"a" * 16,
            keys,
            **fields,
        )
        version = str(Version(EPOCH, sequence))
        self.history.append((record, version))
        for key in keys:
            self.l1.pop(key, None)
        for listener in list(self.listeners):
            listener(record, version)
        return version

    # -- outcomes ---------------------------------------------------------------------

    def _outcome(self, request: Request) -> Outcome:
        if self.fault is not None:
            return self.fault
        if isinstance(request, Read):
            return ReadResult(tuple(self._value(key) for key in request.keys))
        if isinstance(request, Lease):
            return self._lease(request)
        if isinstance(request, Fill):
            mutation = Mutation(
                (b"SET", request.key, request.value),
                keys=(request.key,),
                label=request.tags or None,
            )
            if not self.leases.pop((request.key, request.token), False):
                return Fault(FaultKind.LOST, "load it anew")
            return self._write(Write((mutation,), ack=request.ack))
        if isinstance(request, Release):
            alive = self.leases.pop((request.key, request.token), False)
            if alive and request.absent_ms:
                self.absent.add(request.key)
            return WriteResult((int(alive),), Version(EPOCH, self.lane.applied), {})
        if isinstance(request, Recall):
            return self._recall(request)
        assert isinstance(request, Write)
        return self._write(request)

    def _recall(self, recall: Recall) -> RecallResult:
        """Two at a time."""
        seqs = range(recall.after.seq + 1, recall.until + 1)
        later = tuple(record for record, _ in self.history if record.seq in seqs)
        fits = bool(later) and later[0].seq == recall.after.seq + 1
        return RecallResult(later[:2] if fits else None)

    def _lease(self, lease: Lease) -> Outcome:
        value = self._value(lease.key)
        due = lease.refresh_ms is not None
        if lease.key in self.absent:
            return LeaseResult(msgspec.structs.replace(value, expires_in_ms=1000.0))
        if value.error is not None or (value.value is not None and not due):
            return LeaseResult(value)
        if any(key == lease.key for key, _ in self.leases):
            return LeaseResult(value if due and value.value is not None else None)
        token = b"%016x" % (len(self.requests))
        self.leases[lease.key, token] = True
        return LeaseResult(None if value.value is None else value, token, value.version)

    def _value(self, key: bytes) -> Value:
        version = Version(EPOCH, self.lane.applied)
        if key in self.wrong_type:
            error = ReplyError("WRONGTYPE Operation against a key holding the wrong kind of value")
            return Value(None, version, Source.L2, 0.0, error=error)
        value, labels, _ = self.redis.get(key, (None, (), 0))
        if self.stale:
            return Value(
                value,
                version,
                Source.L1,
                7_300.0,
                stale=True,
                labels=labels,
                bound_ms=1_000.0,
                proved_ms=7_300.0,
            )
        self.cache(key, value, labels)
        return Value(value, version, Source.L2, 0.0, ttl_ms=60_000.0, labels=labels)

    def _write(self, write: Write) -> Outcome:
        if self.reply_error is not None:
            return WriteResult((self.reply_error,), None, {})
        replies = [self._execute(mutation) for mutation in write.mutations]
        version = Version(EPOCH, self.lane.applied)
        if write.ack == Level.NONE:
            return WriteResult(tuple(replies), None, {})
        waits = write.mutations[0].op == Op.DELETE and write.ack not in (None, Level.REDIS)
        if all(reply in (None, 0) for reply in replies) and write.mutations[0].argv and not waits:
            return WriteResult(tuple(replies), None, {})
        acknowledged = {"a": 0.0, "b": 0.4123}
        acknowledged = {n: ms for n, ms in acknowledged.items() if n not in self.missing}
        return WriteResult(
            tuple(replies),
            version,
            acknowledged,
            missing=self.missing,
            satisfied=not self.missing,
        )

    def _execute(self, mutation: Mutation) -> Any:
        if not mutation.argv:
            self.record(
                Op.INVALIDATE,
                mutation.keys,
                tags=mutation.tags,
                prefixes=mutation.prefixes,
                everything=mutation.everything,
            )
            return b"OK"
        key = mutation.keys[0]
        there = self.redis.get(key)
        if mutation.if_version is not None and (
            mutation.if_version.epoch != EPOCH
            or there is None
            or there[2] > mutation.if_version.seq
        ):
            return ReplyError("CONFLICT the key has changed since that version")
        if mutation.argv[0] == b"DEL":
            if there is None:
                return 0
            del self.redis[key]
            self.record(Op.DELETE, (key,))
            return 1
        if (b"NX" in mutation.argv[3:] and there) or (b"XX" in mutation.argv[3:] and not there):
            return None
        self.record(Op.WRITE, (key,))
        self.redis[key] = (mutation.argv[2], mutation.label or (), self.lane.applied)
        return b"OK"


UNAVAILABLE = Fault(FaultKind.UNAVAILABLE, "connection refused by 127.0.0.1:6379")
