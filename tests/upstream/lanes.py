"""A lane driven without an event loop: the real scripts and codec on a blocking connection."""

from __future__ import annotations

import itertools
from typing import Any

import hiredis
import msgspec

from coherenced.core.calls import Fetch, FetchedAll, Mutate, Mutated, Probe, Probed
from coherenced.core.model import (
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
    Set,
)
from coherenced.upstream import codec
from coherenced.upstream.names import lane_names
from coherenced.upstream.scripts import FETCH, LOG, PART, PROBE, ROSTER, Script
from coherenced.wire.message import decode_message
from tests.servers import Server

EPOCH = b"e" * 16
WRITER = b"w" * 16
NAMES = lane_names(0, 0)

_numbers = itertools.count(1)


def new_tag() -> bytes:
    """A tag that no other call has returned."""
    return b"%016x" % next(_numbers)


def set_(key: bytes, value: bytes, *options: bytes, **more: Any) -> Mutation:
    return Mutation((b"SET", key, value, *options), keys=(key,), **more)


def delete(*keys: bytes) -> Mutation:
    return Mutation((b"DEL", *keys), op=Op.DELETE, keys=keys, unchanged=b"z", frees_memory=True)


def incr(key: bytes, by: int = 1) -> Mutation:
    return Mutation((b"INCRBY", key, b"%d" % by), keys=(key,), exact_integer=True)


def write(*argv: bytes, **more: Any) -> Mutation:
    """A command about the one key in its second word."""
    return Mutation(argv, keys=(argv[1],), **more)


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


FLUSH = Mutation((b"FLUSHDB",), op=Op.FLUSH, everything=True, frees_memory=True)


def member(name: str = "a", beat: int = 1, bound_ms: int = 1000) -> Member:
    return Member(name.encode().ljust(16, b"-"), name, bound_ms, beat, "0.1.0", 0)


def unpacked(words: codec.Words) -> list[bytes]:
    """Packed arguments, one by one: there must be as many as they say."""
    reader = hiredis.Reader()
    reader.feed(b"*%d\r\n%b" % (words.number, words.packed))
    args = reader.gets()
    assert args is not False and reader.gets() is False, "more or fewer than counted"
    return list(args)


def as_sets(call: Mutate) -> Mutate:
    """The same, where it is nothing but SETs without options, told as that."""
    sets = tuple(Set.to(m.keys[0], m.argv[-1]) for m in call.mutations if m == plain(m))
    if not sets or len(sets) < len(call.mutations):
        return call
    return msgspec.structs.replace(call, mutations=(), sets=sets)


def plain(mutation: Mutation) -> Mutation | None:
    argv = mutation.argv
    return set_(argv[1], argv[2]) if argv[:1] == (b"SET",) and len(argv) == 3 else None


class Lane:
    """Lane 0 of `server`, as a node's calls would drive it."""

    def __init__(self, server: Server, log_length: int = 10_000) -> None:
        self.server = server
        self.log_length = log_length
        self._session = server.session()

    def close(self) -> None:
        self._session.close()

    def run(self, script: Script, args: list[Any] | codec.Words) -> Any:
        """The raw reply of a script. ServerError for an error."""
        if isinstance(args, codec.Words):
            args = unpacked(args)
        return self._session.command("EVAL", script.text, 2, NAMES.meta, NAMES.log, *args)

    def mutate_call(self, *mutations: Mutation, new_epoch: bytes = EPOCH) -> Mutate:
        return Mutate(
            call_id=1,
            lane=0,
            new_epoch=new_epoch,
            writer=WRITER,
            want_ack=(False,) * len(mutations),
            mutations=mutations,
            tags=tuple(new_tag() for _ in mutations),
        )

    def mutate(self, *mutations: Mutation, new_epoch: bytes = EPOCH) -> Mutated:
        """As a node sends it: what is nothing but SETs without options, as that."""
        call = self.mutate_call(*mutations, new_epoch=new_epoch)
        call = as_sets(call)
        script, args = codec.mutate_words(call, NAMES, self.log_length)
        return codec.mutated(call, self.run(script, args))

    def done(self, mutation: Mutation) -> Done:
        """One mutation's outcome."""
        return self.mutate(mutation).done[0]

    def reply(self, mutation: Mutation) -> Reply:
        return self.done(mutation).reply

    def fetch_all(
        self, *items: bytes | Query, new_epoch: bytes = EPOCH, step: int = 0
    ) -> FetchedAll:
        call = Fetch(1, 0, new_epoch, items, step)
        return codec.fetched(call, self.run(FETCH, codec.fetch_words(call)))

    def fetch(self, key: bytes) -> Fetched:
        found = self.fetch_all(key).results[0]
        assert isinstance(found, Fetched)
        return found

    def query(self, *argv: bytes, keys: tuple[bytes, ...] = ()) -> Reply:
        found = self.fetch_all(Query(argv, keys)).results[0]
        assert not isinstance(found, Fetched)
        return found

    def probe(self, who: Member | None = None, new_epoch: bytes = EPOCH) -> Probed:
        call = Probe(1, 0, new_epoch, who)
        return codec.probed(call, self.run(PROBE, codec.probe_args(call)))

    def lineage(self) -> Lineage:
        return self.probe().lineage

    def log(self, start: int = 0, limit: int = 10_000) -> tuple[Lineage, list[Record], list[Reply]]:
        return codec.log_page(self.run(LOG, [start, limit]))

    def roster(self) -> tuple[int, dict[str, Member]]:
        read = codec.roster_read(1, self.run(ROSTER, []))
        return read.roster_version, {m.name: m for m in read.members}

    def part(self, who: Member, beat: int | None = None) -> int:
        gone: int = self.run(PART, [who.incarnation, *([] if beat is None else [beat])])
        return gone


class Listener:
    """Hears the lane's channel, as a node does."""

    def __init__(self, server: Server) -> None:
        self._session = server.session()
        assert self._session.command("SUBSCRIBE", NAMES.bus)[0] == b"subscribe"

    def message(self) -> Message:
        kind, _, payload = self._session.read()
        assert kind == b"message"
        return decode_message(payload)

    def messages(self, server: Server) -> list[Message]:
        """All that were published before now."""
        server.command("PUBLISH", NAMES.bus, b"end")
        found = []
        while (item := self._session.read())[2] != b"end":
            found.append(decode_message(item[2]))
        return found

    def close(self) -> None:
        self._session.close()


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)
