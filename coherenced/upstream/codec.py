"""The core's calls as script arguments, and the scripts' replies as its answers. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

import hiredis
import msgspec

from coherenced.core.calls import (
    Claim,
    Claimed,
    Fetch,
    FetchedAll,
    Mutate,
    Mutated,
    Probe,
    Probed,
    RosterRead,
)
from coherenced.core.model import (
    EVERYTHING,
    WANT_ACK,
    Done,
    Fetched,
    Lineage,
    Member,
    Mutation,
    Op,
    PlainValues,
    Query,
    Record,
    Reply,
    ReplyError,
)
from coherenced.errors import ProtocolError
from coherenced.upstream.connection import pack
from coherenced.upstream.names import LaneNames
from coherenced.upstream.rules import all_rules, rule_words
from coherenced.upstream.scripts import MUTATE, MUTATE_FREEING, Script
from coherenced.wire.message import (
    body_head,
    decode_member,
    decode_record,
    encode_body,
    encode_member_open,
    message_head,
)

MOST_MUTATIONS: Final = 10_000
"""Mutations that one script may hold: the server does nothing else while it runs."""
MOST_WORDS: Final = 7_000
"""Words of one command inside a script: the server's Lua has no room for more."""

_KEEPS_LABEL: Final = frozenset(
    {
        b"INCR",
        b"DECR",
        b"INCRBY",
        b"DECRBY",
        b"INCRBYFLOAT",
        b"APPEND",
        b"EXPIRE",
        b"PEXPIRE",
        b"EXPIREAT",
        b"PEXPIREAT",
        b"PERSIST",
        b"GETEX",
    }
)
"""Commands after which a value is still the cache entry that it was."""
_SIMPLE: Final = frozenset(b"nzdekm0123456789")
_DELETES: Final = (b"DEL", b"UNLINK", b"GETDEL")
_lengths: Final = msgspec.msgpack.Encoder().encode
_VALUES: Final = frozenset((bytes, type(None)))
_DENIED: Final = re.compile(
    "ERR (?:ACL failure in script: |(?=The user executing the script can't))"
)
"""How the refusal of a command in a script begins, on servers since 7.2 and before."""
_REFUSED: Final = b"ERR more than %d words in one atomic command" % MOST_WORDS

_PLAIN: Final = (
    b"$1\r\n3\r\n$%d\r\n%b\r\n$16\r\n%b\r\n$%d\r\n%b\x91\xc4%c%b\x90\x90\r\n"
    b"$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
)
"""A plain write of three words: their number, mode, tag, body (its head, then the key), words."""

_TAG: Final = b"$16\r\n"
"""How the word of a tag begins."""

_PHASES: Final = {Op.PREPARE: b"p", Op.COMMIT: b"t", Op.ABORT: b"a"}


class Words(NamedTuple):
    """Arguments of a script, packed: so many bulk strings."""

    number: int
    packed: bytes


def words(args: Sequence[Any]) -> Words:
    """Pack bytes, text and numbers."""
    if not args:
        return Words(0, b"")
    packed = pack(tuple(args))
    return Words(len(args), packed[packed.index(b"\n") + 1 :])


def eval_command(script: Script, names: LaneNames, args: Words, whole: bool = False) -> bytes:
    """The packed EVALSHA, or with `whole` the EVAL that needs no script loaded before."""
    head = _eval_head(script, names, whole)
    return b"*%d\r\n%b%b" % (5 + args.number, head, args.packed)


@functools.lru_cache(maxsize=64)
def _eval_head(script: Script, names: LaneNames, whole: bool) -> bytes:
    verb, body = (b"EVAL", script.text) if whole else (b"EVALSHA", script.sha)
    return words((verb, body, 2, names.meta, names.log)).packed


# -- Mutate -------------------------------------------------------------------------


@functools.lru_cache(maxsize=512)
def _mode(
    verb: bytes, op: int, is_write: bool, unchanged: bytes, exact: bool, most_bytes: int
) -> bytes:
    if not is_write:
        return b"r"
    mode = unchanged
    if exact:
        mode += b"e"
    if verb.upper() in _KEEPS_LABEL:
        mode += b"k"
    if most_bytes:
        mode += b"m%d" % most_bytes
    if op in _PHASES:
        mode += _PHASES[op]
    elif op == Op.RELEASE:
        mode += b"u"
    elif not verb:
        mode += b"i"
    elif op == Op.FLUSH:
        mode += b"f"
    return mode


def _only_if_there(argv: tuple[bytes, ...]) -> bool:
    """Whether this SET has the option XX."""
    return any(word.upper() == b"XX" for word in argv[3:])


def _is_plain(mutation: Mutation) -> bool:
    """Whether it is a write of one key, and nothing else is to be said about it."""
    keys = mutation.keys
    return (
        mutation.op == Op.WRITE
        and mutation.is_write
        and len(keys) == 1
        and len(keys[0]) < 256
        and mutation.label is None
        and mutation.if_version is None
        and not (mutation.tags or mutation.prefixes or mutation.lease or mutation.guard)
    )


def _arguments(mutation: Mutation, mode: bytes, tag: bytes, body: bytes) -> tuple[bytes, Words]:
    """The whole mode of one mutation, and its arguments."""
    argv = mutation.argv
    label, expected = mutation.label, mutation.if_version
    if label is not None:
        mode += b"l"
    if expected is not None:
        mode += b"v"
    if len(argv) > MOST_WORDS:
        mode, argv = mode + b"x", (_REFUSED,)
    if mutation.lease:
        mode += b"h"
    if mutation.guard:
        mode += b"w"
    args: list[Any] = [len(argv), mode, tag, body, *argv]
    if label is not None:
        args += (len(label), *label)
    if expected is not None:
        args += (expected.epoch, max(expected.seq, mutation.unchanged_since))
    if mutation.is_write and mutation.op in _PHASES:
        args.append(mutation.token)
        if mutation.op == Op.PREPARE:
            args.append(mutation.token_ttl_ms)
    if mutation.lease:
        args.append(mutation.lease)
    if mutation.op == Op.RELEASE:
        args.append(mutation.token_ttl_ms)
    if mutation.guard:
        args += (mutation.token, mutation.guard)
    return mode, words(args)


def mutate_words(call: Mutate, names: LaneNames, log_length: int) -> tuple[Script, Words]:
    """Which script carries the batch out, and its arguments."""
    if call.sets:
        return MUTATE, _set_words(call, names, log_length)
    parts: list[bytes] = []
    heads: dict[int, bytes] = {}
    count, frees, simple, writer = 5, True, True, call.writer
    for mutation, tag, want_ack in zip(call.mutations, call.tags, call.want_ack, strict=True):
        argv, keys = mutation.argv, mutation.keys
        verb = argv[0] if argv else b""
        unchanged, exact = mutation.unchanged, mutation.exact_integer
        flags = (WANT_ACK if want_ack else 0) | (EVERYTHING if mutation.everything else 0)
        if len(argv) == 3 and _is_plain(mutation):
            head = heads.get(flags)
            if head is None:
                head = heads[flags] = _body_head(mutation.op, flags, writer)
            key, (_, first, second) = keys[0], argv
            size = len(key)
            body_size, one, two = len(head) + size + 5, len(first), len(second)
            mode = _mode(verb, Op.WRITE, True, unchanged, exact, mutation.most_bytes)
            named = (len(mode), mode, tag, body_size, head, size, key)
            parts.append(_PLAIN % (*named, len(verb), verb, one, first, two, second))
            count += 7
            frees = frees and mutation.frees_memory
            continue
        if unchanged and verb.upper() in _DELETES:
            # K5: what is not there may still be in other nodes' hands. L1: or on its way to be.
            unchanged = b"" if want_ack else unchanged + b"d"
        elif unchanged and verb.upper() == b"SET" and _only_if_there(argv):
            unchanged += b"d"  # L1: who would have overwritten it has changed what is loaded
        mode = _mode(verb, mutation.op, mutation.is_write, unchanged, exact, mutation.most_bytes)
        body = encode_body(mutation.op, flags, writer, keys, mutation.tags, mutation.prefixes)
        mode, args = _arguments(mutation, mode, tag, body)
        parts.append(args.packed)
        count += args.number
        if mode and not _SIMPLE.issuperset(mode):
            simple = False
        if not mutation.frees_memory and mutation.is_write:
            frees = False
    before, after = _leading(call.lane, names.bus, log_length, b"s" if simple else b"")
    epoch = call.new_epoch
    packed = b"%b$%d\r\n%b\r\n%b%b" % (before, len(epoch), epoch, after, b"".join(parts))
    return (MUTATE_FREEING if frees else MUTATE), Words(count, packed)


def _set_words(call: Mutate, names: LaneNames, log_length: int) -> Words:
    """`mutate_words` of a batch that is nothing but `Set`."""
    parts: list[bytes] = []
    size, asks, before, after = -1, False, b"", b""
    for given, tag, want_ack in zip(call.sets, call.tags, call.want_ack, strict=True):
        key = given.key
        if len(key) != size or want_ack is not asks:
            size, asks = len(key), want_ack
            before, after = _around_key(size, WANT_ACK if asks else 0, call.writer)
        parts += (_TAG, tag, before, key, after, key, b"\r\n", given.bulk)
    first, last = _leading(call.lane, names.bus, log_length, b"p")
    epoch = call.new_epoch
    packed = b"%b$%d\r\n%b\r\n%b%b" % (first, len(epoch), epoch, last, b"".join(parts))
    return Words(5 + 4 * len(call.sets), packed)


@functools.lru_cache(maxsize=1024)
def _around_key(size: int, flags: int, writer: bytes) -> tuple[bytes, bytes]:
    """What is between the tag of a `Set` and a key of so many bytes, and from there to the key's
    second time: the body of the record, and how the next word begins."""
    key = b"k" * size
    body = encode_body(Op.WRITE, flags, writer, (key,))
    head, _, tail = body.rpartition(key) if key else (body[:-2], b"", body[-2:])
    before = b"\r\n$%d\r\n%b" % (len(body), head)
    return before, b"%b\r\n$%d\r\n" % (tail, size)


@functools.lru_cache(maxsize=64)
def _leading(lane: int, bus: bytes, log_length: int, layout: bytes) -> tuple[bytes, bytes]:
    """The arguments before and after the epoch that a new lane would begin."""
    before = words((message_head(lane),))
    return before.packed, words((bus, log_length, layout)).packed


_body_head: Final = functools.lru_cache(maxsize=64)(body_head)


def mutated(call: Mutate, reply: list[Any], server_id: bytes = b"") -> Mutated:
    """Read the reply to a batch."""
    epoch, seq, tag, roster_version, prev = reply[:5]
    tags = call.tags
    if len(reply) == 6 and call.sets:
        done = list(
            map(Done, repeat(b"OK"), range(reply[5], reply[5] + len(tags)), tags, (prev, *tags))
        )
    else:
        seqs, raws, done = reply[5::2], reply[6::2], []
        if not len(tags) == len(seqs) == len(raws):
            raise ValueError(f"{len(reply)} words for {len(tags)} mutations")
        exact = [mutation.exact_integer for mutation in call.every]
        for own_tag, own_seq, raw, is_exact in zip(tags, seqs, raws, exact, strict=True):
            value = raw if raw.__class__ is bytes else plain_reply(raw)
            if is_exact and value.__class__ is bytes:
                value = int(value)
            if own_seq:
                done.append(Done(value, own_seq, own_tag, prev))
                prev = own_tag
            else:
                done.append(Done(value, 0, b"", b""))
    lineage = Lineage(epoch, seq, tag)
    return Mutated(call.call_id, lineage, roster_version, tuple(done), server_id=server_id)


def plain_reply(raw: Any) -> Reply:
    """A reply as the C parser gives it, as the core's own type."""
    if isinstance(raw, hiredis.ReplyError):
        return _refused(raw)
    if isinstance(raw, list):
        return [plain_reply(item) for item in raw]
    return raw  # type: ignore[no-any-return]


def _refused(error: hiredis.ReplyError) -> ReplyError:
    """In the words that the server has for it outside of scripts."""
    text = str(error)
    if denied := _DENIED.match(text):
        text = f"NOPERM {text[denied.end() :]}"
    return ReplyError(text)


# -- Fetch ----------------------------------------------------------------------------


def fetch_words(call: Fetch) -> Words:
    """Keys first, then queries: the reply comes in the same order."""
    items: Sequence[bytes | Query] = call.items
    keys: Any = [item for item in items if item.__class__ is bytes]
    lengths, named, epoch = _lengths(list(map(len, keys))), b"".join(keys), call.new_epoch
    told = (len(epoch), epoch, call.step, len(lengths), lengths, len(named), named)
    packed = b"$%d\r\n%b\r\n$1\r\n%d\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % told
    if len(keys) == len(items):
        return Words(4, packed)
    args: list[Any] = []
    for item in items:
        if isinstance(item, Query):
            args += (len(item.argv), len(item.keys), *item.argv, *item.keys)
    queries = words(args)
    return Words(4 + queries.number, packed + queries.packed)


def fetched(call: Fetch, reply: list[Any]) -> FetchedAll:
    """Read the reply to a fetch, back in the order in which it was asked."""
    items = call.items
    if len(reply) != 5 + len(items):
        if not 5 < len(reply) < 5 + len(items) or not call.step:
            raise ValueError(f"{len(reply)} words for {len(items)} items")
        items = items[: len(reply) - 5]
    number = list(map(type, items)).count(bytes)
    lineage, ttls, extras = Lineage(reply[0], reply[1], reply[2]), reply[3], reply[4]
    values = reply[5 : 5 + number]
    results: list[Any]
    if extras == 0 and _VALUES.issuperset(map(type, values)):
        plain = PlainValues(values, None if ttls == 0 else ttls)
        if number == len(items):
            return FetchedAll(call.call_id, lineage, plain)
        results = list(plain)
    else:
        nothing = [0] * number
        told = zip(values, ttls or [-1] * number, extras or nothing, strict=True)
        results = [_fetched(value, ttl_ms, extra) for value, ttl_ms, extra in told]
    if number < len(items):
        found, queries = iter(results), iter(reply[5 + number :])
        results = [
            next(found) if item.__class__ is bytes else plain_reply(next(queries)) for item in items
        ]
    return FetchedAll(call.call_id, lineage, tuple(results))


def _fetched(value: Any, ttl_ms: int, extra: Any) -> Fetched:
    if isinstance(value, hiredis.ReplyError):
        return Fetched(value=None, error=_refused(value))
    if extra == 0:
        return Fetched(value, ttl_ms)
    return Fetched(value, ttl_ms, tuple(extra[1:]), pending=extra[0] == 1)


# -- Claim ----------------------------------------------------------------------------


def claim_args(call: Claim) -> list[Any]:
    return [call.new_epoch, call.key, call.token, call.lease_ms, call.refresh_ms]


def claimed(call: Claim, reply: list[Any]) -> Claimed:
    epoch, seq, tag, value, ttl_ms, extra, state, left_ms = reply
    found = _fetched(value, ttl_ms, extra)
    return Claimed(call.call_id, Lineage(epoch, seq, tag), found, state, left_ms)


# -- probe, log, roster -----------------------------------------------------------------


def probe_args(call: Probe) -> list[Any]:
    if call.member is None:
        return [call.new_epoch, call.forked]
    member = call.member
    who = [call.new_epoch, call.forked, member.incarnation, encode_member_open(member)]
    return who + rule_words(call.declares)


def probed(call: Probe, reply: list[Any], server_id: bytes = b"") -> Probed:
    epoch, seq, tag, roster_version, server_ms = reply
    return Probed(call.call_id, Lineage(epoch, seq, tag), server_ms, roster_version, server_id)


def log_page(reply: list[Any]) -> tuple[Lineage, list[Record], list[Reply]]:
    """Head, records and the replies stored with them. ProtocolError when an entry is none."""
    epoch, seq, tag, entries = reply
    records: list[Record] = []
    replies: list[Reply] = []
    for entry_id, fields in entries:
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        number, _, sub = entry_id.partition(b"-")
        try:
            record = decode_record(int(number), named[b"p"], named[b"t"], named[b"b"])
        except KeyError:
            raise ProtocolError(f"log entry {entry_id!r} is not a record") from None
        if sub != b"0":
            raise ProtocolError(f"log entry {entry_id!r} is not a record")
        records.append(record)
        stored = named.get(b"r")
        replies.append(int(stored) if stored is not None else None)
    return Lineage(epoch, seq, tag), records, replies


def roster_read(call_id: int, reply: list[Any]) -> RosterRead:
    """The roster. A line that is not one is left out, so that it is not whole: its node writes it
    anew with each beat."""
    version, lines, declared, is_whole = reply
    members: list[Member] = []
    for packed in lines[1::2]:
        try:
            members.append(decode_member(packed))
        except ProtocolError:
            continue
    is_whole = is_whole and len(members) == len(lines) // 2
    return RosterRead(call_id, version, tuple(members), all_rules(declared), bool(is_whole))
