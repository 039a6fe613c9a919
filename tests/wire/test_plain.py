"""Plain GETs and SETs: whatever is recognised is what the readers would have read."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coherenced.core.bulk import bulk_of
from coherenced.wire.framing import FrameLimits, RequestReader, pack
from coherenced.wire.plain import PLAIN_GETS, PLAIN_HEAD, plain_gets, plain_set

HEAD = b"*2\r\n$3\r\nGET\r\n$10\r\n"
name = (
    st.binary(min_size=1, max_size=60)
    | st.binary(min_size=16, max_size=16)
    | st.sampled_from([HEAD, HEAD * 2, b"GET", b"*2\r\n$3\r\n", b"\r\n" * 8, b"k" * 99, b"k" * 100])
)
verb = st.sampled_from([b"GET", b"get", b"GeT", b"MGET", b"TTL"])


def read(data: bytes) -> list[list[bytes]]:
    reader = RequestReader(FrameLimits())
    requests = reader.feed(data)
    assert not reader.error
    return requests


def test_plain_gets_are_known_by_their_beginning() -> None:
    for length in range(10, 100):
        for word in (b"GET", b"get"):
            data = pack([word, b"k" * length])
            assert PLAIN_GETS[data[:PLAIN_HEAD]] == len(data)
    assert len(PLAIN_GETS) == 180


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(verb, name), max_size=12),
    st.integers(0, 400),
    st.integers(0, 40),
    st.integers(0, 2_000),
)
@example([(b"GET", HEAD[:16])] * 4, 0, 0, 2_000)
@example([(b"GET", b"k" * 16)] * 3 + [(b"get", b"k" * 16)] * 3, 0, 0, 2_000)
@example([(b"GET", b"k" * 16)] * 6, 38, 5, 60)
@example([(b"GET", b"k" * 11), (b"GET", b"k" * 10)], 0, 0, 2_000)
def test_gets_are_those_that_a_reader_reads(
    commands: list[tuple[bytes, bytes]], start: int, cut: int, limit: int
) -> None:
    data = b"".join(pack(list(words)) for words in commands)
    data = data[: max(0, len(data) - cut)]
    keys, ends = plain_gets(data, start, start + limit)
    assert len(keys) == len(ends)
    before = start
    for key, end in zip(keys, ends, strict=True):
        assert before < start + limit, "none is begun past the limit"
        ((word, found),) = read(data[before:end])
        assert word in (b"GET", b"get")
        assert found == key
        before = end
    if limit and data[before:] and before < start + limit:
        length = PLAIN_GETS.get(data[before : before + PLAIN_HEAD])
        # A shorter one after equally long ones may be left for the next call.
        longest = max((end - at for at, end in pairwise((start, *ends))), default=0)
        left = length is not None and before + max(length, longest) <= len(data)
        assert not left, "all were taken that are there"


def test_alike_gets_are_taken_apart_up_to_the_limit() -> None:
    one = pack([b"GET", b"0123456789abcdef"])
    keys, ends = plain_gets(one * 100, 0, 2 * len(one) + 1)
    assert list(keys) == [b"0123456789abcdef"] * 3
    assert list(ends) == [len(one), 2 * len(one), 3 * len(one)]
    assert plain_gets(one * 2, len(one), 4_000)[1][-1] == 2 * len(one)
    assert len(plain_gets(one[:-1], 0, 4_000)[0]) == 0
    assert len(plain_gets(b"", 0, 4_000)[0]) == 0


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"SET", b"set", b"Set", b"GET"]),
    name | st.binary(min_size=250, max_size=260),
    st.binary(max_size=40) | name,
    st.binary(max_size=3),
)
def test_a_set_is_what_a_reader_reads(word: bytes, key: bytes, value: bytes, rest: bytes) -> None:
    data = pack([word, key, value])
    found = plain_set(data)
    if word in (b"SET", b"set") and len(key) < 256:
        assert found == (key, bulk_of(value))
    else:
        assert found is None
    assert not rest or plain_set(data + rest) is None
    assert plain_set(data[:-1]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"*3\r\n$3\r\nSET\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n:5\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$-1\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$01\r\nv\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$+1\r\nv\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\nv\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nkk\r\n$1\r\nv\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nvxx",
        b"*3\r\n$3\r\nSET\r\n$-1\r\n$1\r\nv\r\n",
        b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk" + b"\n" * 16 + b"\r\n",  # as long as none can be
        pack([b"SET", b"k", b"v"]) * 2,
        pack([b"SET", b"k", b"v", b"NX"]),
    ],
)
def test_what_is_no_plain_set(data: bytes) -> None:
    assert plain_set(data) is None
