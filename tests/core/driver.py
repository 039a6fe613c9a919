"""One node of the real core, driven by hand: no server, no clock, no randomness.

    d = Driver()                        # joined, standing at record 10, at 1000 ms
    read = d.read(b"k")
    d.fetched(d.take(Fetch), b"v")      # the server answers, standing where the node stands
    assert d.value(read) == b"v"

Records are named by their sequence and a branch: `record(12, b"k")` follows
`record(11)`; `record(12, b"k", branch=b"b", prev=tag_of(11))` forks away after 11.
The invariants are checked after every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from coherenced.core import calls
from coherenced.core.entry import MAX_FREQUENCY
from coherenced.core.inputs import Flush, Input, Start, Submit, Tick
from coherenced.core.invariants import check
from coherenced.core.laws import Laws
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
    PlainValues,
    Record,
    Reply,
    Version,
)
from coherenced.core.node import Node, Settings
from coherenced.core.outbox import Applied, Event, Settled, SettledAll
from coherenced.core.page import Page
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.requests import Ask, Fault, Get, Outcome, Read, ReadResult, Request, Write

EPOCH = b"00000000000000e1"
OTHER_EPOCH = b"00000000000000e2"
ME = b"00000000000000aa"
PEER = b"00000000000000bb"
THIRD = b"00000000000000cc"

COVERING_K: tuple[dict[str, Any], ...] = (
    {"keys": (b"k",)},
    {"prefixes": (b"k",)},
    {"tags": (b"t",)},
    {"flags": EVERYTHING},
)
"""The kinds of invalidation that cover the key `k`, if its value is tagged `t`."""

Call = TypeVar("Call")


def tag_of(seq: int, branch: bytes = b"a") -> bytes:
    """The tag of record `seq` on a branch; every branch begins with the epoch."""
    return EPOCH if seq == 0 else b"%b%015d" % (branch, seq)


def lineage(seq: int, branch: bytes = b"a", epoch: bytes = EPOCH) -> Lineage:
    return Lineage(epoch, seq, tag_of(seq, branch))


def record(
    seq: int,
    *keys: bytes,
    branch: bytes = b"a",
    prev: bytes | None = None,
    op: int = Op.WRITE,
    flags: int = 0,
    writer: bytes = PEER,
    tags: tuple[bytes, ...] = (),
    prefixes: tuple[bytes, ...] = (),
) -> Record:
    before = tag_of(seq - 1, branch) if prev is None else prev
    return Record(seq, before, tag_of(seq, branch), op, flags, writer, keys, tags, prefixes)


def message(*records: Record, seq: int = 0, epoch: bytes = EPOCH) -> Message:
    """What one PUBLISH carries: these records, or only the news that the log is at `seq`."""
    if records:
        last = records[-1]
        return Message(0, epoch, last.seq, last.tag, records)
    return Message(0, epoch, seq, tag_of(seq))


def member(incarnation: bytes, name: str, bound_ms: int = 1000, beat: int = 1) -> Member:
    return Member(incarnation, name, bound_ms, beat, "1", 0)


def set_to(key: bytes, value: bytes, **more: Any) -> Mutation:
    """A plain SET whose value the node may keep."""
    return Mutation(
        (b"SET", key, value),
        keys=(key,),
        keeps=value,
        expected_reply=b"OK",
        reply_is_known=True,
        **more,
    )


def delete(*keys: bytes) -> Mutation:
    return Mutation((b"DEL", *keys), op=Op.DELETE, keys=keys, unchanged=b"z", frees_memory=True)


def invalidate(
    *keys: bytes,
    tags: tuple[bytes, ...] = (),
    prefixes: tuple[bytes, ...] = (),
    everything: bool = False,
) -> Mutation:
    return Mutation(
        (),
        op=Op.INVALIDATE,
        keys=keys,
        tags=tags,
        prefixes=prefixes,
        everything=everything,
        frees_memory=True,
    )


def as_read(results: tuple[Fetched | Reply, ...]) -> Sequence[Fetched | Reply]:
    """These, in the form in which the answer to a fetch has them."""
    found = [r for r in results if isinstance(r, Fetched) and r == Fetched(r.value, r.ttl_ms)]
    if len(found) < len(results):
        return results
    ttls_ms = [r.ttl_ms for r in found]
    values = [r.value for r in found]
    return PlainValues(values, ttls_ms if any(ttl != -1 for ttl in ttls_ms) else None)


class Driver:
    """Steps a node, keeps its open calls, its answers and its events."""

    def __init__(
        self,
        *,
        laws: Laws | None = None,
        policy: Policy | None = None,
        rules: Sequence[tuple[str, Policy]] = (),
        at: int | None = 10,
        max_bytes: int = 1 << 20,
        max_value_bytes: int = 1 << 16,
        max_waiting: int = 1000,
        checked: bool = True,
        page: Page | None = None,
        follow_from: int = 8,
        tidy_entries: int = 250,
    ) -> None:
        self._ids = 0
        self._checked = checked
        settings = Settings(
            name="me",
            incarnation=ME,
            namespaces=Namespaces(policy or Policy(), rules),
            l1_max_bytes=max_bytes,
            l1_max_value_bytes=max_value_bytes,
            max_waiting=max_waiting,
            follow_from=follow_from,
            tidy_entries=tidy_entries,
        )
        self.node = Node(settings, self._new_id, laws, page)
        self.now_ms = 1000.0
        self.open: list[Any] = []
        self.outcomes: dict[int, Outcome] = {}
        self.together = 0
        """Those of them that came with others in one piece."""
        self.events: list[Event] = []
        self.applied: list[Applied] = []
        self._requests = 0
        if at is not None:
            self.join(at)

    def _new_id(self) -> bytes:
        self._ids += 1
        return b"%016x" % self._ids

    # -- stepping -----------------------------------------------------------------

    def step(self, given: Input) -> list[Any]:
        """One input at the present time. -> the calls that this very step made."""
        calls_made = []
        for effect in self.node.step(given, self.now_ms):
            if isinstance(effect, Settled):
                assert effect.request_id not in self.outcomes, "answered twice"
                self.outcomes[effect.request_id] = effect.outcome
            elif isinstance(effect, SettledAll):
                told = dict(zip(effect.request_ids, effect.outcomes, strict=True))
                assert not self.outcomes.keys() & told, "answered twice"
                self.outcomes |= told
                self.together += len(told)
            elif isinstance(effect, Event):
                self.events.append(effect)
            elif isinstance(effect, Applied):
                self.applied.append(effect)
            else:
                calls_made.append(effect)
        self.open.extend(calls_made)
        if self._checked:
            assert check(self.node) == []
        return calls_made

    def tick(self, after_ms: float = 0.0) -> list[Any]:
        self.now_ms += after_ms
        return self.step(Tick())

    def sleep(self, ms: float) -> list[Any]:
        """Let time pass with the node woken whenever it wants to be."""
        made: list[Any] = []
        until_ms = self.now_ms + ms
        while (next_ms := self.node.next_deadline_ms()) <= until_ms:
            self.now_ms = max(self.now_ms, next_ms)
            made += self.step(Tick())
        self.now_ms = until_ms
        return made + self.step(Tick())

    def join(self, at: int) -> None:
        """Start, subscribe, anchor and prove at record `at`; the roster holds this node alone."""
        self.step(Start())
        subscribe = self.take(calls.Subscribe)
        self.step(calls.Subscribed(0, subscribe.connection))
        self.prove(at)
        self.roster(member(ME, "me"))

    # -- calls and answers ----------------------------------------------------------

    def take(self, kind: type[Call]) -> Call:
        """The oldest open call of this kind."""
        for index, call in enumerate(self.open):
            if isinstance(call, kind):
                return self.open.pop(index)  # type: ignore[no-any-return]
        raise AssertionError(f"no {kind.__name__} among {self.open}")

    def has(self, kind: type) -> bool:
        return any(isinstance(call, kind) for call in self.open)

    def forget(self, *kinds: type) -> None:
        """Leave the open calls of these kinds unanswered for good."""
        self.open = [call for call in self.open if not isinstance(call, kinds)]

    def event(self, name: str) -> list[dict[str, Any]]:
        return [e.fields for e in self.events if e.name == name]

    def probed(
        self, call: calls.Probe, at: Lineage | int, *, server_ms: float = 0.0, server: bytes = b"s1"
    ) -> list[Any]:
        where = lineage(at) if isinstance(at, int) else at
        clock_ms = int(server_ms or self.now_ms + 500_000)
        return self.step(calls.Probed(call.call_id, where, clock_ms, 1, server))

    def prove(self, at: Lineage | int, *, server: bytes = b"s1") -> None:
        """Answer every open probe with the lane's place."""
        while self.has(calls.Probe):
            self.probed(self.take(calls.Probe), at, server=server)

    def refuse_probes(self, failure: str = calls.Failure.UNREACHABLE) -> None:
        """Redis answers no probe."""
        while self.has(calls.Probe):
            self.failed(self.take(calls.Probe), failure)

    def roster(
        self, *members: Member, version: int = 1, declared: tuple[Declared, ...] = ()
    ) -> None:
        assert self.has(calls.ReadRoster), "the roster is not being read"
        while self.has(calls.ReadRoster):
            call = self.take(calls.ReadRoster)
            self.step(calls.RosterRead(call.call_id, version, members, declared))

    def failed(self, call: Any, failure: str = calls.Failure.UNREACHABLE) -> list[Any]:
        return self.step(calls.Failed(call.call_id, failure, "connection refused"))

    def deliver(
        self,
        *records: Record,
        seq: int = 0,
        connection: int | None = None,
        epoch: bytes = EPOCH,
    ) -> list[Any]:
        number = self.node.catchup.connection if connection is None else connection
        return self.step(calls.Delivered(0, number, message(*records, seq=seq, epoch=epoch)))

    def logged(
        self, call: Any, *records: Record, at: Lineage | int, replies: tuple[Reply, ...] = ()
    ) -> list[Any]:
        where = lineage(at) if isinstance(at, int) else at
        return self.step(calls.Logged(call.call_id, where, records, replies))

    def ack(self, incarnation: bytes, name: str, seq: int, tag: bytes | None = None) -> None:
        tag = tag_of(seq) if tag is None else tag
        self.step(calls.AckReceived(Acknowledgement(incarnation, name, 0, EPOCH, seq, tag)))

    # -- requests ---------------------------------------------------------------------

    def submit(self, request: Request) -> int:
        self._requests += 1
        self.step(Submit(self._requests, request))
        return self._requests

    def turn(self, *requests: Request) -> list[int]:
        """All of these in one step, as they come in one turn of the shell's loop."""
        numbers = range(self._requests + 1, self._requests + 1 + len(requests))
        self._requests += len(requests)
        pairs = list(zip(numbers, requests, strict=True))
        gets = {number: request.key for number, request in pairs if isinstance(request, Get)}
        submits = [Submit(number, request) for number, request in pairs if number not in gets]
        self.step(Flush(submits, list(gets.values()), list(gets)))
        return list(numbers)

    def read(self, *keys: bytes, **terms: Any) -> int:
        return self.submit(Read(keys, **terms))

    def ask(self, query: Any) -> int:
        return self.submit(Ask(query))

    def write(self, *mutations: Mutation, **terms: Any) -> int:
        return self.submit(Write(mutations, **terms))

    def fetched(
        self, call: calls.Fetch, *values: bytes | Fetched | Reply | None, at: Lineage | int = 10
    ) -> list[Any]:
        where = lineage(at) if isinstance(at, int) else at
        results = tuple(
            v if not isinstance(v, bytes) and v is not None else Fetched(v) for v in values
        )
        return self.step(calls.FetchedAll(call.call_id, where, as_read(results)))

    def mutated(
        self,
        call: calls.Mutate,
        *,
        first: int,
        replies: Iterable[Reply] = (),
        prev: bytes | None = None,
        rv: int = 1,
        epoch: bytes = EPOCH,
    ) -> list[Any]:
        """The batch is committed as records `first`, `first`+1, … with the tags it chose."""
        done = []
        before = tag_of(first - 1) if prev is None else prev
        answers = list(replies) or [b"OK"] * len(call.tags)
        for index, (tag, reply) in enumerate(zip(call.tags, answers, strict=True)):
            done.append(Done(reply, first + index, tag, before))
            before = tag
        where = Lineage(epoch, first + len(done) - 1, before)
        return self.step(calls.Mutated(call.call_id, where, rv, tuple(done)))

    def hold(
        self, key: bytes, value: bytes | None = b"v", *, at: Lineage | int = 10, **more: Any
    ) -> None:
        """Have the node fetch and store `key` as of record `at`."""
        self.read(key, **more.pop("terms", {}))
        self.fetched(self.take(calls.Fetch), Fetched(value, **more), at=at)
        assert key in self.node.l1.entries

    # -- what came out ------------------------------------------------------------------

    def result(self, request: int) -> Any:
        return self.outcomes[request]

    def value(self, request: int) -> bytes | None:
        outcome = self.outcomes[request]
        assert isinstance(outcome, ReadResult), outcome
        return outcome.values[0].value

    def fault(self, request: int) -> Fault:
        outcome = self.outcomes[request]
        assert isinstance(outcome, Fault), outcome
        return outcome

    def hit(self, key: bytes) -> bytes | None:
        """What the short path serves now; None for no hit. `hits` must serve the very same,
        whether the entry is new or well used."""
        node = self.node
        held, counted = node.l1.entries.get(key), node.l1.hits
        frequency = 0 if held is None else held.frequency
        several: list[list[bytes]] = []
        for used in (0, MAX_FREQUENCY):
            if held is not None:
                held.frequency = used
            several.append(node.hits((key,), self.now_ms))
        if held is not None:
            held.frequency = frequency
        node.l1.hits = counted
        entry = node.hit(key, self.now_ms)
        assert several == [[] if entry is None else [entry.bulk]] * 2
        return None if entry is None else entry.value


def own_record(call: calls.Mutate, index: int, seq: int, prev: bytes, flags: int = 0) -> Record:
    """The record that mutation `index` of a batch became, as it comes over the bus or the log."""
    mutation = call.mutations[index]
    if call.want_ack[index]:
        flags |= WANT_ACK
    return Record(
        seq,
        prev,
        call.tags[index],
        mutation.op,
        flags,
        ME,
        mutation.keys,
        mutation.tags,
        mutation.prefixes,
    )


def version(seq: int, epoch: bytes = EPOCH) -> Version:
    return Version(epoch, seq)
