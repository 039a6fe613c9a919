"""Seeded sequences of calls and accidents, for two implementations to go through alike."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import msgspec

from coherenced.core.calls import (
    Call,
    Claim,
    Fetch,
    Leave,
    Mutate,
    Probe,
    ReadLog,
    ReadRoster,
    Reap,
    Resolve,
    SendAck,
)
from coherenced.core.model import (
    Acknowledgement,
    Declared,
    Lineage,
    Member,
    Mutation,
    Op,
    Query,
    Version,
)
from tests.contract.ports import INCARNATION, Port

KEYS: Final = (b"a", b"b", b"app:1", b"app:2", b"\x00\xff bin", b"list")
TAGS: Final = (b"red", b"blue", b"t\x00")
TOKENS: Final = (b"token-1", b"token-2")
NODES: Final = (b"node-a----------", b"node-b----------", b"node-c----------")
LEASES: Final = (b"lease-1", b"lease-2", b"lease 3\n")
DECLARES: Final[tuple[Declared, ...]] = (
    *[()] * 5,
    ((b"app:1", False), (b"app:*", True)),
    ((b"[b-k]", True),),
)
"""What a node says of its namespaces (K6): mostly nothing, else most writes would be refused."""
LARGEST: Final = b"9223372036854775807"
LONG_S: Final = (b"100", b"2000")


def random_token(random: Random) -> bytes:
    """Mostly the same one, so that fills often find their lease."""
    return random.choice((*LEASES, LEASES[0], LEASES[0]))


class Steps:
    """Draws the next step, given where the lane stands."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"steps {seed}")
        self.lineage = Lineage(b"0" * 16, 0, b"0" * 16)
        self.call_id = 0
        self.beats: dict[bytes, int] = {}
        self.versions: list[Version] = []

    def _id(self) -> bytes:
        return b"%016x" % self.random.getrandbits(64)

    def next_call(self) -> Call:
        self.call_id += 1
        kind = self.random.choices(
            (
                self._mutate,
                self._fetch,
                self._probe,
                self._log,
                self._roster,
                self._ack,
                self._claim,
            ),
            (45, 22, 10, 7, 5, 3, 12),
        )[0]
        return kind()

    # -- calls ---------------------------------------------------------------------------

    def _probe(self) -> Call:
        if self.random.random() < 0.4:
            return Probe(self.call_id, 0, self._id(), None)
        who = self.random.choice(NODES)
        self.beats[who] = self.beats.get(who, 0) + 1
        member = Member(who, who.decode()[:6], 1000, self.beats[who], "0.1", 0)
        declares = self.random.choice(DECLARES)
        return Probe(self.call_id, 0, self._id(), member, declares=declares)

    def _roster(self) -> Call:
        who = self.random.choice(NODES)
        draw = self.random.random()
        if draw < 0.6:
            return ReadRoster(self.call_id, 0)
        if draw < 0.8:
            return Leave(self.call_id, 0, who)
        return Reap(0, who, self.beats.get(who, 0) - self.random.randint(0, 1))

    def _ack(self) -> Call:
        ack = Acknowledgement(self.random.choice(NODES), "b", 0, *self.lineage)
        writer = self.random.choice((INCARNATION, b"somebody-else---"))
        return SendAck(0, writer, ack)

    def _log(self) -> Call:
        start = max(0, self.lineage.seq - self.random.randint(-2, 12))
        if self.random.random() < 0.2:
            return Resolve(self.call_id, 0, 999_999, start)
        return ReadLog(self.call_id, 0, start, self.random.choice((1, 3, 2000)))

    def _fetch(self) -> Call:
        items: list[bytes | Query] = [
            self._query() if self.random.random() < 0.3 else self._key()
            for _ in range(self.random.randint(1, 5))
        ]
        return Fetch(self.call_id, 0, self._id(), tuple(items))

    def _claim(self) -> Call:
        token, random = random_token(self.random), self.random
        refresh_ms = random.choice((-1, -1, 1_000_000, 10**12))
        return Claim(self.call_id, 0, self._id(), self._key(), token, 1_000_000, refresh_ms)

    def _query(self) -> Query:
        key = self._key()
        verb = self.random.choice((b"EXISTS", b"STRLEN", b"TYPE", b"GET", b"PTTL", b"MGET"))
        if verb == b"MGET":
            return Query((verb, key, KEYS[0]), (key, KEYS[0]))
        return Query((verb, key), (key,))

    def _mutate(self) -> Call:
        count = self.random.choice((1, 1, 1, 2, 3, 8))
        mutations = tuple(self._mutation() for _ in range(count))
        return Mutate(
            self.call_id,
            0,
            self._id(),
            self.random.choice(NODES),
            tuple(self.random.random() < 0.3 for _ in mutations),
            mutations,
            tuple(self._id() for _ in mutations),
        )

    # -- mutations -------------------------------------------------------------------------

    def _key(self) -> bytes:
        return self.random.choice(KEYS)

    def _value(self) -> bytes:
        return self.random.choice(
            (b"1", b"-7", b"x", b"", b"3.5", b"9223372036854775807", b"v" * 50)
        )

    def _mutation(self) -> Mutation:
        key, random = self._key(), self.random
        makers: tuple[Callable[[bytes], Mutation], ...] = (
            self._set, self._set, self._set_options, self._other, self._other, self._count,
            self._delete, self._invalidate, self._labelled, self._conditional, self._phase,
            self._read_inside, self._many, self._rare, self._fill, self._fill, self._release,
        )  # fmt: skip
        return random.choice(makers)(key)

    def _set(self, key: bytes) -> Mutation:
        value = self._value()
        return Mutation((b"SET", key, value), keys=(key,), keeps=value, reply_is_known=True)

    def _set_options(self, key: bytes) -> Mutation:
        random = self.random
        options: list[bytes] = []
        if random.random() < 0.4:
            options.append(random.choice((b"NX", b"XX")))
        if random.random() < 0.3:
            options.append(b"GET")
        draw = random.random()
        if draw < 0.2:
            options.append(b"KEEPTTL")
        elif draw < 0.5:
            options += [b"EX", random.choice(LONG_S)]
        elif draw < 0.6:
            options += [b"PX", random.choice((b"0", b"-5", b"nan", LARGEST))]
        elif draw < 0.65:
            options.append(b"WHAT")
        unchanged = b"n" if {b"NX", b"XX"} & set(options) and b"GET" not in options else b""
        argv = (b"SET", key, self._value(), *options)
        return Mutation(argv, keys=(key,), unchanged=unchanged)

    def _other(self, key: bytes) -> Mutation:
        random = self.random
        argv, unchanged = random.choice(
            (
                ((b"APPEND", key, self._value()), b""),
                ((b"GETDEL", key), b"n"),
                ((b"GETSET", key, self._value()), b""),
                ((b"SETNX", key, self._value()), b"z"),
                ((b"SETEX", key, random.choice((*LONG_S, b"0")), self._value()), b""),
                ((b"EXPIRE", key, random.choice((*LONG_S, b"-1"))), b"z"),
                ((b"EXPIRE", key, b"500", random.choice((b"NX", b"XX", b"GT", b"LT"))), b"z"),
                ((b"PEXPIRE", key, b"90000"), b"z"),
                ((b"PERSIST", key), b"z"),
                ((b"GETEX", key, b"EX", b"300"), b"n"),
                ((b"GETEX", key, b"PERSIST"), b"n"),
                ((b"RPUSH", b"list", b"1"), b""),
            )
        )
        return Mutation(argv, keys=argv[1:2], unchanged=unchanged)

    def _count(self, key: bytes) -> Mutation:
        argv = self.random.choice(
            (
                (b"INCR", key),
                (b"DECR", key),
                (b"INCRBY", key, self.random.choice((b"5", LARGEST, b"x"))),
                (b"DECRBY", key, b"9007199254740993"),
            )
        )
        return Mutation(argv, keys=(key,), exact_integer=True)

    def _delete(self, key: bytes) -> Mutation:
        keys = tuple(self.random.sample(KEYS, self.random.randint(1, 3)))
        verb = self.random.choice((b"DEL", b"UNLINK"))
        return Mutation((verb, *keys), Op.DELETE, keys, unchanged=b"z", frees_memory=True)

    def _invalidate(self, key: bytes) -> Mutation:
        random = self.random
        draw = random.random()
        if draw < 0.4:
            return Mutation((), Op.INVALIDATE, (key,), frees_memory=True)
        if draw < 0.7:
            return Mutation((), Op.INVALIDATE, tags=(random.choice(TAGS),), frees_memory=True)
        if draw < 0.9:
            return Mutation((), Op.INVALIDATE, prefixes=(b"app:",), frees_memory=True)
        return Mutation((), Op.INVALIDATE, everything=True, frees_memory=True)

    def _labelled(self, key: bytes) -> Mutation:
        tags = tuple(self.random.sample(TAGS, self.random.randint(1, 2)))
        options = self.random.choice(((), (b"PX", b"500000")))
        return Mutation((b"SET", key, self._value(), *options), keys=(key,), label=tags)

    def _conditional(self, key: bytes) -> Mutation:
        seq = max(0, self.lineage.seq - self.random.randint(0, 6))
        epoch = self.lineage.epoch if self.random.random() < 0.9 else self._id()
        return msgspec.structs.replace(
            self._set(key),
            if_version=Version(epoch, seq),
            unchanged_since=seq + self.random.choice((-1, 0, 0, 1)),
        )

    def _phase(self, key: bytes) -> Mutation:
        random = self.random
        token = random.choice(TOKENS)
        op = random.choice((Op.PREPARE, Op.COMMIT, Op.COMMIT, Op.ABORT))
        if op == Op.COMMIT:
            return Mutation((b"SET", key, self._value()), op, (key,), token=token)
        if op == Op.ABORT:
            return Mutation((), op, (key,), token=token)
        if random.random() < 0.3:
            return msgspec.structs.replace(self._set(key), token=token, guard=random.choice(KEYS))
        keys = tuple(random.sample(KEYS, random.randint(1, 2)))
        return Mutation((), op, keys, token=token, token_ttl_ms=1_000_000)

    def _fill(self, key: bytes) -> Mutation:
        random = self.random
        labels = random.choice((None, None, (TAGS[0],), TAGS[1:]))
        op, token = random.choice(((Op.FILL, b""), (Op.FILL, b""), (Op.COMMIT, TOKENS[0])))
        lease = random_token(random)
        argv = (b"SET", key, self._value(), *random.choice(((), (b"PX", b"500000"))))
        return Mutation(argv, op, (key,), label=labels, lease=lease, token=token)

    def _release(self, key: bytes) -> Mutation:
        absent_ms = self.random.choice((0, 0, 1_000_000))
        return Mutation(
            (), Op.RELEASE, (key,), lease=random_token(self.random), token_ttl_ms=absent_ms,
            unchanged=b"z", frees_memory=True,
        )  # fmt: skip

    def _read_inside(self, key: bytes) -> Mutation:
        return Mutation((b"GET", key), keys=(key,), is_write=False)

    def _many(self, key: bytes) -> Mutation:
        keys = tuple(self.random.sample(KEYS[:5], 3))
        pairs = [word for name in keys for word in (name, self._value())]
        verb = self.random.choice((b"MSET", b"MSETNX"))
        return Mutation((verb, *pairs), keys=keys, unchanged=b"z" if verb == b"MSETNX" else b"")

    def _rare(self, key: bytes) -> Mutation:
        draw = self.random.random()
        if draw < 0.12:
            return Mutation((b"FLUSHDB",), Op.FLUSH, everything=True, frees_memory=True)
        if draw < 0.4:
            wide = tuple(
                b"wide:%d:%s" % (n, b"x" * 60) for n in range(self.random.choice((30, 70)))
            )
            return Mutation((), Op.INVALIDATE, wide, frees_memory=True)
        return self._set(key)

    # -- accidents ---------------------------------------------------------------------------

    async def accident(self, *ports: Port) -> str:
        """Something happens to the server; to each of them the same."""
        draw = self.random.random()
        name = next(name for chance, name in ACCIDENTS if draw < chance)
        keep = self.random.randint(0, 4)
        key = self._key()
        on = self.random.random() < 0.3
        for port in ports:
            await port.fence(False)
            await port.fill_memory(False)
            if name == "flushall":
                await port.flush_all()
            elif name == "lose metadata":
                await port.lose_metadata()
            elif name == "lose roster":
                await port.lose_roster(keep % 3)
            elif name == "trim":
                await port.trim(keep)
            elif name == "fence":
                await port.fence(on)
            elif name == "memory":
                await port.fill_memory(on)
            else:
                await port.foreign(b"SET", key, b"foreign")
        return name


ACCIDENTS: Final = (
    (0.05, "flushall"),
    (0.12, "lose metadata"),
    (0.2, "lose roster"),
    (0.4, "trim"),
    (0.6, "fence"),
    (0.8, "memory"),
    (1.0, "foreign"),
)
