"""Hashes, lists, sets and sorted sets: their rows of the table, passed through to Redis.

L1 holds strings only. A read of these goes to Redis each time; a write is a mutation like any
other, recorded and broadcast, so that a copy of what the key held before ends everywhere.

Redis answers a script in RESP2. What RESP3 writes in another way (maps, sets, scores, pairs) is
put back here; a nil array comes as a nil, and which one is meant the arguments tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from coherenced.core.model import Mutation, Query, Reply
from coherenced.core.requests import Ask
from coherenced.errors import UsageError
from coherenced.wire import resp
from coherenced.wire.plan import Bounds, Plan, Shape, all_checked, status_shape, write
from coherenced.wire.strings import NEVER, NIL, ZERO, Planner

MOST_WORDS: Final = 7_000
"""Of one command: a script can hand over about 8,000."""

Row = tuple[str, int, str, tuple[int, int, int], Planner | None, str]
"""Name, arity, flags, keys, planner, summary: see `commands.Command`."""

Shaping = Callable[[Sequence[bytes]], Shape]
"""The shape of a reply by the command's arguments."""

ONE: Final = (1, 1, 1)
TWO: Final = (1, 2, 1)
ALL: Final = (1, -1, 1)


# -- replies -------------------------------------------------------------------------------


def _as_map(reply: Reply, resp3: bool) -> bytes:
    if resp3 and isinstance(reply, list):
        return b"%%%d\r\n%b" % (len(reply) // 2, b"".join(resp.reply(one, True) for one in reply))
    return resp.reply(reply, resp3)


def _as_set(reply: Reply, resp3: bool) -> bytes:
    if resp3 and isinstance(reply, list):
        return b"~%d\r\n%b" % (len(reply), b"".join(resp.reply(one, True) for one in reply))
    return resp.reply(reply, resp3)


def _as_score(reply: Reply, resp3: bool) -> bytes:
    if resp3 and isinstance(reply, bytes):
        return b",%b\r\n" % reply
    return resp.reply(reply, resp3)


def _as_scores(reply: Reply, resp3: bool) -> bytes:
    if isinstance(reply, list):
        return resp.array([_as_score(one, resp3) for one in reply])
    return resp.reply(reply, resp3)


def _as_pairs(second: Shape, reply: Reply, resp3: bool) -> bytes:
    """Flat in RESP2, an array of pairs in RESP3."""
    if resp3 and isinstance(reply, list):
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return resp.array([resp.array((resp.reply(a, True), second(b, True))) for a, b in pairs])
    return resp.reply(reply, resp3)


def _then_score(reply: Reply, resp3: bool) -> bytes:
    """One thing and its score, or a nil array."""
    if reply is None:
        return resp.nil_array(resp3)
    if isinstance(reply, list) and len(reply) == 2:
        return resp.array((resp.reply(reply[0], resp3), _as_score(reply[1], resp3)))
    return resp.reply(reply, resp3)


def _or_nil_array(reply: Reply, resp3: bool) -> bytes:
    return resp.nil_array(resp3) if reply is None else resp.reply(reply, resp3)


_members_and_scores: Final = partial(_as_pairs, _as_score)
_fields_and_values: Final = partial(_as_pairs, resp.reply)


def _always(shape: Shape) -> Shaping:
    return lambda argv: shape


def _with(option: bytes, at: int, shape: Shape) -> Shaping:
    """`shape` if `option` is among the words from `at` on, else as it comes."""

    def shaping(argv: Sequence[bytes]) -> Shape:
        return shape if any(word.upper() == option for word in argv[at:]) else resp.reply

    return shaping


def _counted(shape: Shape, otherwise: Shape = resp.reply) -> Shaping:
    """`shape` if a count follows the key."""
    return lambda argv: shape if len(argv) > 2 else otherwise


# -- planners ------------------------------------------------------------------------------

_plainly: Final = _always(resp.reply)


def _read(shaping: Shaping = _plainly, keys: slice = slice(1, 2)) -> Planner:
    def plan(argv: Sequence[bytes], bounds: Bounds) -> Plan:
        names = _names(argv, keys, bounds)
        return Plan((Ask(Query(tuple(argv), names)),), shaping(argv))

    return plan


def _write(
    unchanged: bytes = NEVER,
    shaping: Shaping = _plainly,
    *,
    keys: slice = slice(1, 2),
    frees: bool = False,
    exact: bool = False,
) -> Planner:
    """`unchanged`: which reply means that nothing was (see `Mutation`); `frees`: memory, so that
    it works when there is none left; `exact`: the reply is a 64-bit integer."""

    def plan(argv: Sequence[bytes], bounds: Bounds) -> Plan:
        mutation = Mutation(
            tuple(argv),
            keys=_names(argv, keys, bounds),
            unchanged=unchanged,
            exact_integer=exact,
            frees_memory=frees,
        )
        return write(mutation, shaping(argv))

    return plan


def _names(argv: Sequence[bytes], keys: slice, bounds: Bounds) -> tuple[bytes, ...]:
    if len(argv) > MOST_WORDS:
        raise UsageError(f"a command of this kind has at most {MOST_WORDS} words here: cut it")
    return all_checked(argv[keys], bounds)


_ZADD_OPTIONS: Final = frozenset((b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"))


def _zadd(argv: Sequence[bytes], bounds: Bounds) -> Plan:
    """With INCR it answers a score, or nil when a condition did not hold."""
    for word in argv[2:]:
        option = word.upper()
        if option not in _ZADD_OPTIONS:
            break
        if option == b"INCR":
            return _zadd_incr(argv, bounds)
    return _any(argv, bounds)


_ask: Final = _read()
_any: Final = _write()
_status: Final = _write(shaping=_always(status_shape))
_nonzero: Final = _write(ZERO)
_removal: Final = _write(ZERO, frees=True)
_pop: Final = _write(NIL, _counted(_or_nil_array), frees=True)
_zpop: Final = _write(shaping=_counted(_members_and_scores, _then_score), frees=True)
_zadd_incr: Final = _write(NIL, _always(_as_score))
_ranged: Final = _read(_with(b"WITHSCORES", 4, _members_and_scores))
_rank: Final = _read(_with(b"WITHSCORE", 3, _then_score))
_united: Final = _read(_always(_as_set), slice(1, None))
_moved: Final = _write(NIL, keys=slice(1, 3))


# -- the rows ------------------------------------------------------------------------------

_R: Final = "readonly"
_RF: Final = "readonly fast"
_W: Final = "write denyoom"
_WF: Final = "write denyoom fast"
_F: Final = "write fast"

HASH_READS: Final[tuple[Row, ...]] = (
    ("hget", 3, _RF, ONE, _ask, "The value of a field."),
    ("hmget", -3, _RF, ONE, _ask, "The values of many fields."),
    ("hgetall", 2, _R, ONE, _read(_always(_as_map)), "All fields and their values."),
    ("hexists", 3, _RF, ONE, _ask, "Whether there is such a field."),
    ("hkeys", 2, _R, ONE, _ask, "All fields."),
    ("hvals", 2, _R, ONE, _ask, "The values of all fields."),
    ("hlen", 2, _RF, ONE, _ask, "How many fields there are."),
    ("hstrlen", 3, _RF, ONE, _ask, "The length of a field's value."),
    ("hscan", -3, _R, ONE, _ask, "Walk over the fields."),
    (
        *("hrandfield", -2, _R, ONE),
        _read(_with(b"WITHVALUES", 3, _fields_and_values)),
        "Fields by chance.",
    ),
)
HASH_WRITES: Final[tuple[Row, ...]] = (
    ("hset", -4, _WF, ONE, _any, "Set fields."),
    ("hsetnx", 4, _WF, ONE, _nonzero, "Set a field if there is none."),
    ("hmset", -4, _WF, ONE, _status, "Set fields."),
    ("hdel", -3, _F, ONE, _removal, "Delete fields."),
    ("hincrby", 4, _WF, ONE, _write(exact=True), "Add a number to a field."),
    ("hincrbyfloat", 4, _WF, ONE, _any, "Add a number with fractions to a field."),
)
LIST_READS: Final[tuple[Row, ...]] = (
    ("llen", 2, _RF, ONE, _ask, "The length of a list."),
    ("lrange", 4, _R, ONE, _ask, "A part of a list."),
    ("lindex", 3, _R, ONE, _ask, "The element at a place."),
    ("lpos", -3, _R, ONE, _ask, "Where an element is."),
)
LIST_WRITES: Final[tuple[Row, ...]] = (
    ("lpush", -3, _WF, ONE, _any, "Add to the front."),
    ("rpush", -3, _WF, ONE, _any, "Add to the end."),
    ("lpushx", -3, _WF, ONE, _nonzero, "Add to the front of a list that is there."),
    ("rpushx", -3, _WF, ONE, _nonzero, "Add to the end of a list that is there."),
    ("lpop", -2, _F, ONE, _pop, "Take from the front."),
    ("rpop", -2, _F, ONE, _pop, "Take from the end."),
    ("lset", 4, _W, ONE, _status, "Replace the element at a place."),
    ("lrem", 4, "write", ONE, _removal, "Remove elements."),
    (
        *("ltrim", 4, "write", ONE),
        _write(shaping=_always(status_shape), frees=True),
        "Keep a part of a list.",
    ),
    ("linsert", 5, _W, ONE, _nonzero, "Insert beside an element."),
    ("lmove", 5, _W, TWO, _moved, "Take from one list, add to another."),
    ("rpoplpush", 3, _W, TWO, _moved, "Take from the end, add to the front of another."),
)
SET_READS: Final[tuple[Row, ...]] = (
    ("scard", 2, _RF, ONE, _ask, "How many members there are."),
    ("sismember", 3, _RF, ONE, _ask, "Whether it is a member."),
    ("smismember", -3, _RF, ONE, _ask, "Whether these are members."),
    ("smembers", 2, _R, ONE, _read(_always(_as_set)), "All members."),
    ("srandmember", -2, _R, ONE, _ask, "Members by chance."),
    ("sscan", -3, _R, ONE, _ask, "Walk over the members."),
    ("sinter", -2, _R, ALL, _united, "What is in all of these sets."),
    ("sunion", -2, _R, ALL, _united, "What is in any of these sets."),
    ("sdiff", -2, _R, ALL, _united, "What is in the first of these sets only."),
)
SET_WRITES: Final[tuple[Row, ...]] = (
    ("sadd", -3, _WF, ONE, _nonzero, "Add members."),
    ("srem", -3, _F, ONE, _removal, "Remove members."),
    ("spop", -2, _F, ONE, _write(NIL, _counted(_as_set), frees=True), "Take members by chance."),
    ("smove", 4, _F, TWO, _write(ZERO, keys=slice(1, 3)), "Move a member to another set."),
)
SORTED_SET_READS: Final[tuple[Row, ...]] = (
    ("zcard", 2, _RF, ONE, _ask, "How many members there are."),
    ("zcount", 4, _RF, ONE, _ask, "How many have such a score."),
    ("zlexcount", 4, _RF, ONE, _ask, "How many are between two names."),
    ("zscore", 3, _RF, ONE, _read(_always(_as_score)), "The score of a member."),
    ("zmscore", -3, _RF, ONE, _read(_always(_as_scores)), "The scores of members."),
    ("zrange", -4, _R, ONE, _ranged, "Members by rank, score or name."),
    ("zrevrange", -4, _R, ONE, _ranged, "Members by rank, from the highest."),
    ("zrangebyscore", -4, _R, ONE, _ranged, "Members by score."),
    ("zrevrangebyscore", -4, _R, ONE, _ranged, "Members by score, from the highest."),
    ("zrangebylex", -4, _R, ONE, _ask, "Members by name."),
    ("zrevrangebylex", -4, _R, ONE, _ask, "Members by name, from the last."),
    ("zrank", -3, _RF, ONE, _rank, "The rank of a member."),
    ("zrevrank", -3, _RF, ONE, _rank, "The rank from the highest."),
    ("zscan", -3, _R, ONE, _ask, "Walk over members and scores."),
    (
        *("zrandmember", -2, _R, ONE),
        _read(_with(b"WITHSCORES", 3, _members_and_scores)),
        "Members by chance.",
    ),
)
SORTED_SET_WRITES: Final[tuple[Row, ...]] = (
    ("zadd", -4, _WF, ONE, _zadd, "Add members, or set their scores."),
    ("zincrby", 4, _WF, ONE, _write(shaping=_always(_as_score)), "Add to a score."),
    ("zrem", -3, _F, ONE, _removal, "Remove members."),
    ("zpopmin", -2, _F, ONE, _zpop, "Take those with the lowest scores."),
    ("zpopmax", -2, _F, ONE, _zpop, "Take those with the highest scores."),
    ("zremrangebyscore", 4, "write", ONE, _removal, "Remove by score."),
    ("zremrangebyrank", 4, "write", ONE, _removal, "Remove by rank."),
    ("zremrangebylex", 4, "write", ONE, _removal, "Remove by name."),
)
