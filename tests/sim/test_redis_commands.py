"""The modelled commands answer as a second, independent implementation does.

fakeredis is fast enough for thousands of random sequences, where a real server would
spend the time in round trips; the contract suite asks the real servers, in fewer.
"""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from coherenced.core.model import ReplyError
from tests.sim.redis_commands import Keyspace

KEYS = st.sampled_from([b"a", b"b", b"c"])
VALUES = st.sampled_from([b"", b"x", b"hello", b"0", b"10", b"-3", b"2.5"])
NUMBERS = st.sampled_from([b"1", b"7", b"-2", b"9223372036854775807", b"ten"])

COMMANDS = st.one_of(
    st.tuples(st.just(b"SET"), KEYS, VALUES),
    st.tuples(st.just(b"SET"), KEYS, VALUES, st.sampled_from([b"NX", b"XX", b"GET", b"KEEPTTL"])),
    st.tuples(st.just(b"SETNX"), KEYS, VALUES),
    st.tuples(st.just(b"GETSET"), KEYS, VALUES),
    st.tuples(st.just(b"GETDEL"), KEYS),
    st.tuples(st.just(b"GET"), KEYS),
    st.tuples(st.just(b"MGET"), KEYS, KEYS),
    st.tuples(st.just(b"MSET"), KEYS, VALUES, KEYS, VALUES),
    st.tuples(st.just(b"MSETNX"), KEYS, VALUES, KEYS, VALUES),
    st.tuples(st.just(b"DEL"), KEYS, KEYS),
    st.tuples(st.just(b"EXISTS"), KEYS, KEYS),
    st.tuples(st.just(b"APPEND"), KEYS, VALUES),
    st.tuples(st.just(b"STRLEN"), KEYS),
    st.tuples(st.sampled_from([b"INCR", b"DECR"]), KEYS),
    st.tuples(st.sampled_from([b"INCRBY", b"DECRBY"]), KEYS, NUMBERS),
    st.tuples(st.just(b"PERSIST"), KEYS),
)


@pytest.fixture(scope="module")
def other() -> Any:
    with fakeredis.FakeRedis(server_type="valkey") as client:
        yield client


def answer(client: redis.Redis, argv: tuple[bytes, ...]) -> object:
    """As the server says it: redis-py turns replies into Python's own types by the command."""
    client.response_callbacks.clear()
    try:
        return client.execute_command(*argv)
    except redis.ResponseError as error:
        return ReplyError(str(error))


def plain(reply: object) -> object:
    """Errors compare by their first word: implementations differ in the rest."""
    if isinstance(reply, ReplyError):
        return "error"
    return [plain(item) for item in reply] if isinstance(reply, list) else reply


@settings(max_examples=300, deadline=None)
@given(st.lists(COMMANDS, max_size=12))
def test_random_sequences_are_answered_alike(
    other: redis.Redis, sequence: list[tuple[bytes, ...]]
) -> None:
    other.flushall()
    space = Keyspace()
    for argv in sequence:
        assert plain(space.execute(argv)) == plain(answer(other, argv)), argv
