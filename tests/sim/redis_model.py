"""The modelled Redis: every call of the core answered in one atomic step.

    server = Server()
    answer, messages, acks = server.execute(call, now_ms)

One `Server` is one process: its data, the lane's metadata, log, roster and
labels. `Server.copy()` is a replica or a dump file; `fenced`, `out_of_memory`
and `loading` are what a real server may be in. It knows nothing of connections
and of time: both are the world's.

Three laws of the protocol are the server's part, and so their switches are here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from coherenced.core.calls import (
    Answer,
    Call,
    Claim,
    Claimed,
    Claims,
    Failed,
    Failure,
    Fetch,
    FetchedAll,
    Leave,
    Left,
    Logged,
    Mutate,
    Mutated,
    Probe,
    Probed,
    ReadLog,
    ReadRoster,
    Reap,
    ReplicasReached,
    Resolve,
    RosterRead,
    SendAck,
    WaitReplicas,
)
from coherenced.core.globs import compiled
from coherenced.core.model import (
    EVERYTHING,
    WANT_ACK,
    Acknowledgement,
    Declared,
    Done,
    Fetched,
    Lineage,
    Member,
    Message,
    Mutation,
    Op,
    Query,
    Record,
    Reply,
    ReplyError,
)
from tests.core.driver import as_read
from tests.sim.redis_commands import Keyspace
from tests.sim.redis_labels import MARK_GONE, Labels, Marks, Seen
from tests.sim.redis_leases import Leases

LOG_LENGTH: Final = 10_000
MESSAGE_BYTES: Final = 4096
RECORD_OVERHEAD_BYTES: Final = 48
FENCED_TEXT: Final = "NOREPLICAS Not enough good replicas to write."
OOM_TEXT: Final = "OOM command not allowed when used memory > 'maxmemory'."
MOST_CHECKED: Final = 1000
"""Compare-and-set looks at no more records than this."""
MOST_WORDS: Final = 7_000
TOO_LONG: Final = ReplyError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
TOO_MANY_WORDS: Final = ReplyError(f"ERR more than {MOST_WORDS} words in one atomic command")
DELETES: Final = (b"DEL", b"UNLINK", b"GETDEL")
ONE_PHASE: Final = "a node declares the namespace linearizable"
CONFLICT: Final = ReplyError("CONFLICT the key has changed since that version")


class ServerLaws(msgspec.Struct, frozen=True, kw_only=True):
    """The server's part of the protocol. All on, but in the tests that prove they matter."""

    fenced_probe: bool = True
    """V2: a server that may not accept writes refuses probes and fetches too."""
    atomic_script: bool = True
    """W1: the record and the change of the data are one atomic step."""
    one_lease: bool = True
    """L1: a key is leased to one at a time."""
    empty_delete_acknowledged: bool = True
    """K5: a delete that asks for acknowledgements is recorded though nothing was there: other
    nodes may still hold what an earlier one has removed."""
    roster_counted: bool = True
    """K2: whoever reads the roster is told whether it names all who have joined."""
    commit_whole: bool = True
    """K6: what a transaction does beside its linearizable keys is done with them, or not at all."""
    one_phase_refused: bool = True
    """K6: a key that a live node declares linearizable changes only under a mark of its writer."""
    empty_delete_ends_lease: bool = True
    """L1: so is a delete of what somebody is loading."""
    earlier_connection_ended: bool = True
    """L1: what a node had sent on an earlier connection is not carried out after what it sends on
    a later one: a late claim would bring a token back to life that has died meanwhile."""


class Executed(NamedTuple):
    """What one call did: its answer (None: it wants none), and what it published."""

    answer: Answer | None
    messages: tuple[Message, ...] = ()
    acks: tuple[tuple[bytes, Acknowledgement], ...] = ()
    """(incarnation of the writer, acknowledgement) pairs."""


class LogEntry(NamedTuple):
    record: Record
    reply: Reply


class Server:
    """One Redis process with one lane (0) and one database."""

    def __init__(self, laws: ServerLaws | None = None, log_length: int = LOG_LENGTH) -> None:
        self.laws = laws or ServerLaws()
        self.log_length = log_length
        self.space = Keyspace()
        self.lineage: Lineage | None = None
        self.roster_version = 0
        self.roster_count = 0
        """How many nodes the metadata says are on the roster."""
        self.log: list[LogEntry] = []
        self.roster: dict[bytes, Member] = {}
        self.declared: dict[bytes, Declared] = {}
        self.labels = Labels()
        self.marks = Marks()
        self.leases = Leases()
        self.leased = False
        """Whether there may be leases: only then invalidations are remembered for their sake."""
        self.fenced = False
        """It may not accept writes: cut off from its replicas, demoted, or its disk is broken."""
        self.out_of_memory = False
        self.clock_offset_ms = 0.0
        self.ends_answers = False
        """Whether its answers to fetches end early now and then, as those do that become large."""
        self.unapplied: list[tuple[Mutation, bytes]] = []
        """With `atomic_script` off: changes of the data that come later than their records."""

    def copy(self) -> Server:
        """A replica, a dump file: the same data, independent from now on."""
        other = Server(self.laws, self.log_length)
        other.space = self.space.copy()
        other.lineage = self.lineage
        other.roster_version = self.roster_version
        other.roster_count = self.roster_count
        other.log = list(self.log)
        other.roster = dict(self.roster)
        other.declared = dict(self.declared)
        other.labels = self.labels.copy()
        other.marks = self.marks.copy()
        other.leases = self.leases.copy()
        other.leased = self.leased
        other.clock_offset_ms = self.clock_offset_ms
        other.ends_answers = self.ends_answers
        return other

    # -- what may happen to a server -----------------------------------------------

    def flush_all(self) -> None:
        """FLUSHALL by an operator: the data and everything of ours."""
        self.space.items.clear()
        self.lineage = None
        self.log.clear()
        self.roster.clear()
        self.declared.clear()
        self.labels.flushed()
        self.marks.on.clear()
        self._end_leases()

    def lose_metadata(self) -> None:
        """The metadata hash is deleted or evicted; the log and the data stay."""
        self.lineage = None

    def lose_roster(self, keep: int = 0) -> None:
        """The roster hash is deleted or evicted: who was on it is unknown. Or somebody has deleted
        lines of it, all but the first so many."""
        for incarnation in sorted(self.roster)[keep:]:
            del self.roster[incarnation]

    def trim(self, keep: int) -> None:
        """XTRIM: only the last `keep` records stay."""
        del self.log[: max(0, len(self.log) - keep)]

    # -- the calls -------------------------------------------------------------------

    def execute(self, call: Call, now_ms: float) -> Executed:
        """Carry out one call atomically. `now_ms` is the world's time."""
        self.space.now_ms = int(now_ms + self.clock_offset_ms)
        match call:
            case Probe():
                return Executed(self._refused(call.call_id) or self._probe(call))
            case Fetch():
                return Executed(self._refused(call.call_id) or self._fetch(call))
            case Claim():
                return Executed(self._refused(call.call_id) or self._claim(call))
            case Mutate():
                return self._mutate(call)
            case ReadLog():
                read = self._read_log(call.call_id, call.start_seq, call.limit)
                return Executed(self._refused(call.call_id) or read)
            case Resolve():
                read = self._read_log(call.call_id, call.start_seq, len(self.log))
                return Executed(self._refused(call.call_id) or read)
            case ReadRoster():
                version = self.roster_version if self.lineage is not None else 0
                joined = self.roster_count if self.lineage is not None else -1
                roster = RosterRead(
                    call.call_id,
                    version,
                    tuple(self.roster.values()),
                    self._declared_lines(),
                    joined == len(self.roster) or not self.laws.roster_counted,
                )
                return Executed(self._refused(call.call_id) or roster)
            case Reap():
                member = self.roster.get(call.incarnation)
                if member is not None and member.beat == call.beat and not self.fenced:
                    self._remove_member(call.incarnation)
                return Executed(None)
            case Leave():
                if self.fenced:
                    return Executed(_unreachable(call.call_id))
                if call.incarnation in self.roster:
                    self._remove_member(call.incarnation)
                return Executed(Left(call.call_id))
            case SendAck():
                return Executed(None, acks=((call.writer, call.ack),))
            case WaitReplicas():
                return Executed(ReplicasReached(call.call_id, 0))
        raise AssertionError(f"not a call of the server: {call!r}")

    def _remove_member(self, incarnation: bytes) -> None:
        del self.roster[incarnation]
        if self.declared.pop(incarnation, None) is not None:
            self._forget_declarers()
        if self.lineage is not None:
            self.roster_count -= 1
            self.roster_version += 1

    def _refused(self, call_id: int) -> Failed | None:
        return _unreachable(call_id) if self.fenced and self.laws.fenced_probe else None

    def _live_lineage(self, new_epoch: bytes) -> Lineage:
        """W2: metadata that is gone starts a new epoch, and takes the log with it."""
        if self.lineage is None:
            self._start_epoch(new_epoch, 0)
        assert self.lineage is not None
        return self.lineage

    def _start_epoch(self, new_epoch: bytes, last_seq: int) -> None:
        """`last_seq`: the sequence to go on from. The roster's version starts from the clock,
        so that it does not repeat one that a node remembers."""
        self.lineage = Lineage(new_epoch, last_seq, new_epoch)
        self.log.clear()
        self.marks.on.clear()
        # Whether values have labels stood in the metadata; what was remembered for them tells.
        self.labels.used = self.labels.used or self.labels.remembers()
        self.labels.forget_invalidations()
        self._end_leases()
        self.roster_version = self.space.now_ms * 1000
        self.roster_count = len(self.roster)

    def _probe(self, call: Probe) -> Probed:
        if self._live_lineage(call.new_epoch).epoch == call.forked:
            assert self.lineage is not None
            self._start_epoch(call.new_epoch, self.lineage.seq)
        if call.member is not None:
            self._join(msgspec.structs.replace(call.member, seen_ms=self.space.now_ms), call)
        assert self.lineage is not None
        return Probed(call.call_id, self.lineage, self.space.now_ms, self.roster_version)

    def _declare(self, incarnation: bytes, rules: Declared, *, joined: bool) -> None:
        """K6. Who is not on the roster any more declares nothing."""
        if rules == self.declared.get(incarnation, ()) and not joined:
            return
        self.declared.pop(incarnation, None)
        if rules:
            self.declared[incarnation] = rules
        self._forget_declarers()

    def _forget_declarers(self) -> None:
        self.declared = {who: r for who, r in self.declared.items() if who in self.roster}

    def _declared_lines(self) -> tuple[Declared, ...]:
        return tuple(dict.fromkeys(self.declared.values())) if self.lineage is not None else ()

    def _is_bare(self, mutation: Mutation) -> bool:
        """K6: whether it changes a linearizable key that does not bear its writer's mark."""
        if not mutation.argv or not mutation.is_write or len(mutation.argv) > MOST_WORDS:
            return False
        token = mutation.token if mutation.op == Op.COMMIT else None
        marked = [self.marks.on.get(key, (0, b""))[1] == token for key in mutation.keys]
        if token is not None and not any(marked):
            return False  # its mark is gone, and it is told so
        return any(
            not mine and self._is_linearizable(key)
            for key, mine in zip(mutation.keys, marked, strict=True)
        )

    def _is_linearizable(self, key: bytes) -> bool:
        return any(
            next((linear for glob, linear in rules if compiled(glob).match(key)), False)
            for rules in self._declared_lines()
        )

    def _join(self, member: Member, call: Probe) -> None:
        """K2. A roster that was lost is a new epoch: who holds what is unknown (K7)."""
        added = member.incarnation not in self.roster
        self._joined(member, call, added)
        self._declare(member.incarnation, call.declares, joined=added)

    def _joined(self, member: Member, call: Probe, added: bool) -> None:
        self.roster[member.incarnation] = member
        self.roster_count += added
        if self.roster_count == len(self.roster):
            self.roster_version += added
            return
        assert self.lineage is not None
        self._start_epoch(call.new_epoch, self.lineage.seq)

    def _fetch(self, call: Fetch) -> FetchedAll:
        lineage = self._live_lineage(call.new_epoch)
        results = tuple(
            self._query(item) if isinstance(item, Query) else self.fetched(item)
            for item in call.items
        )
        if self.ends_answers and call.step and call.call_id % 3 == 0:
            results = results[: (len(results) + 1) // 2]
        return FetchedAll(call.call_id, lineage, as_read(results))

    def _claim(self, call: Claim) -> Claimed:
        lineage = self._live_lineage(call.new_epoch)
        found = self.fetched(call.key)
        now_ms = self.space.now_ms
        if not self.laws.one_lease:
            self.leases.of.pop(call.key, None)
        state, left_ms = self.leases.claim(now_ms, self.labels, call, found, lineage.seq)
        self.leased = self.leased or state == Claims.GRANTED
        return Claimed(call.call_id, lineage, found, state, left_ms)

    def _end_leases(self) -> None:
        self.leases.of.clear()
        self.leased = False

    def _query(self, query: Query) -> Reply:
        for key in query.keys:
            self._purge(key)
        return self.space.execute(query.argv)

    def fetched(self, key: bytes) -> Fetched:
        """What a fill of `key` reads now."""
        labels = self._purge(key)
        value = self.space.string(key)
        pending = self.marks.holder(self.space.now_ms, key) is not None
        if isinstance(value, ReplyError):
            return Fetched(None, error=value)
        if value is None:
            return Fetched(None, pending=pending)
        return Fetched(value, self.space.ttl_ms(key), labels, pending)

    def _purge(self, key: bytes) -> tuple[bytes, ...]:
        """Forget `key` if it is a labelled value that is dead. -> its tags."""
        epoch = self.lineage.epoch if self.lineage is not None else None
        return () if epoch is None else self.labels.purge(self.space, epoch, key)

    def _read_log(self, call_id: int, start_seq: int, limit: int) -> Answer:
        if self.lineage is None:
            return Failed(call_id, Failure.UNREACHABLE, "the lane has no metadata")
        entries = [entry for entry in self.log if entry.record.seq >= start_seq][:limit]
        return Logged(
            call_id,
            self.lineage,
            tuple(entry.record for entry in entries),
            tuple(entry.reply for entry in entries),
        )

    # -- mutations ---------------------------------------------------------------------

    def _mutate(self, call: Mutate) -> Executed:
        if self.fenced:
            return Executed(_unreachable(call.call_id))
        if self.out_of_memory and not all(m.frees_memory or not m.is_write for m in call.every):
            return Executed(Failed(call.call_id, Failure.OUT_OF_MEMORY, OOM_TEXT))
        self._live_lineage(call.new_epoch)
        if self.declared and self.laws.one_phase_refused and any(map(self._is_bare, call.every)):
            return Executed(Failed(call.call_id, Failure.TWO_PHASES, ONE_PHASE))
        done: list[Done] = []
        records: list[Record] = []
        seen = Seen([], {})
        for mutation, tag, want_ack in zip(call.every, call.tags, call.want_ack, strict=True):
            reply, record = self._one(mutation, tag, call.writer, want_ack, seen)
            if record is None:
                done.append(Done(reply, 0, b"", b""))
            else:
                records.append(record)
                done.append(Done(reply, record.seq, record.tag, record.prev))
        self.marks.release(seen.released)  # only now: a later command may be about the same key
        if self.leased and not self.leases.of:
            self.leased = False
            if not self.labels.used:
                self.labels.forget_invalidations()
        lineage = self.lineage
        assert lineage is not None
        del self.log[: max(0, len(self.log) - self.log_length)]
        answer = Mutated(call.call_id, lineage, self.roster_version, tuple(done))
        if not records:
            return Executed(answer)
        size = sum(_body_bytes(record) + RECORD_OVERHEAD_BYTES for record in records)
        small = size <= MESSAGE_BYTES
        message = Message(
            call.lane, lineage.epoch, lineage.seq, lineage.tag, tuple(records) if small else ()
        )
        return Executed(answer, (message,))

    def _one(
        self,
        mutation: Mutation,
        tag: bytes,
        writer: bytes,
        want_ack: bool,
        seen: Seen,
    ) -> tuple[Reply, Record | None]:
        """Execute one mutation and record it. -> its reply, and its record if there is one."""
        for key in mutation.keys:
            self._purge(key)
        refused = self.marks.refusal(self.space.now_ms, mutation, seen)
        if refused is not None:
            return refused, None
        goes_with_it = mutation.guard and self.laws.commit_whole
        if goes_with_it and not self.marks.is_guarded(self.space.now_ms, mutation, seen):
            return MARK_GONE, None
        if mutation.if_version is not None and not self._unchanged_since(mutation):
            return CONFLICT, None
        reply = self._told_under_lease(mutation) if mutation.lease else None
        if isinstance(reply, ReplyError):
            return reply, None
        if reply is None:
            reply = self._run(mutation, tag)
        if not mutation.is_write or isinstance(reply, ReplyError):
            return reply, None
        changed_nothing = (mutation.unchanged == b"n" and reply is None) or (
            mutation.unchanged == b"z" and reply == 0
        )
        if changed_nothing and not self._counts_all_the_same(mutation, want_ack):
            return reply, None
        if mutation.op == Op.FLUSH:
            self._flushed()
        record = self._append(mutation, tag, writer, want_ack)
        kept = reply if isinstance(reply, int) else None
        self.log.append(LogEntry(record, kept))
        self._label(mutation, record)
        if self.leased:
            self.leases.recorded(self.space.now_ms, mutation, record.seq)
        return reply, record

    def _counts_all_the_same(self, mutation: Mutation, want_ack: bool) -> bool:
        """Whether a delete that found nothing is recorded."""
        if not mutation.argv:
            return False
        words = tuple(word.upper() for word in mutation.argv)
        deletes = words[0] in DELETES
        if deletes and want_ack and self.laws.empty_delete_acknowledged:
            return True
        if not deletes and not (words[0] == b"SET" and b"XX" in words[3:]):
            return False
        ends = self.laws.empty_delete_ends_lease and self.leased
        return ends and self.leases.any_of(mutation.keys, self.space.now_ms)

    def _told_under_lease(self, mutation: Mutation) -> ReplyError | int | None:
        exists = self.space.peek(mutation.keys[0]) is not None
        return self.leases.refusal(self.space.now_ms, self.labels, mutation, exists=exists)

    def _run(self, mutation: Mutation, tag: bytes) -> Reply:
        if not mutation.argv:
            return None
        if len(mutation.argv) > MOST_WORDS:
            return TOO_MANY_WORDS
        if mutation.most_bytes:
            length = self.space.execute((b"STRLEN", mutation.keys[0]))
            if isinstance(length, int) and length + len(mutation.argv[2]) > mutation.most_bytes:
                return TOO_LONG
        if mutation.is_write and not self.laws.atomic_script:
            self.unapplied.append((mutation, tag))
            return self.copy().space.execute(mutation.argv)
        return self.space.execute(mutation.argv)

    def _flushed(self) -> None:
        """FLUSHDB keeps the metadata and the roster; the log starts again with its record."""
        self.log.clear()
        self.labels.flushed()
        self.marks.on.clear()
        self._end_leases()

    def _append(self, mutation: Mutation, tag: bytes, writer: bytes, want_ack: bool) -> Record:
        lineage = self.lineage
        assert lineage is not None
        flags = (WANT_ACK if want_ack else 0) | (EVERYTHING if mutation.everything else 0)
        record = Record(
            lineage.seq + 1,
            lineage.tag,
            tag,
            mutation.op,
            flags,
            writer,
            mutation.keys,
            mutation.tags,
            mutation.prefixes,
        )
        self.lineage = Lineage(lineage.epoch, record.seq, tag)
        return record

    def _label(self, mutation: Mutation, record: Record) -> None:
        """What a recorded mutation does to labels and marks."""
        if mutation.op == Op.PREPARE:
            self.marks.prepare(self.space.now_ms, mutation)
        elif mutation.argv:
            assert self.lineage is not None
            self.labels.written(self.space, mutation, self.lineage.epoch, record.seq)
        elif mutation.op not in (Op.ABORT, Op.RELEASE):
            self.labels.bury(self.space, record, leased=self.leased)

    def _unchanged_since(self, mutation: Mutation) -> bool:
        """Compare-and-set: no record after `unchanged_since` covers the key, as the log shows."""
        version, lineage = mutation.if_version, self.lineage
        assert version is not None
        assert lineage is not None
        if version.epoch != lineage.epoch:
            return False
        since = max(version.seq, mutation.unchanged_since)
        later = [e.record for e in self.log if e.record.seq > since]
        if len(later) != lineage.seq - since or len(later) > MOST_CHECKED:
            return False
        return not any(
            record.everything
            or (self.labels.used and (record.tags or record.prefixes))
            or any(key in record.keys for key in mutation.keys)
            for record in later
            if record.op not in (Op.PREPARE, Op.ABORT)  # they change no value
        )

    def catch_up_data(self) -> None:
        """With `atomic_script` off: the changes of the data that their records announced."""
        due, self.unapplied = self.unapplied, []
        for mutation, _ in due:
            self.space.execute(mutation.argv)

    # -- for the world ---------------------------------------------------------------------

    def foreign(self, *argv: bytes) -> Reply:
        """A command of an application that does not go through coherenced: no record."""
        return self.space.execute(argv)


def _unreachable(call_id: int) -> Failed:
    return Failed(call_id, Failure.UNREACHABLE, FENCED_TEXT)


def _body_bytes(record: Record) -> int:
    """What the writer packs for the script: all of a record but its place in the chain."""
    parts = (
        record.op,
        record.flags,
        record.writer,
        record.keys,
        record.tags,
        record.prefixes,
    )
    return sum(len(msgspec.msgpack.encode(part)) for part in parts)
