"""Requests out of bytes: any cut gives the same, and every bound holds before it is too late."""

from __future__ import annotations

import random
import sys
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coherenced.wire.framing import (
    FrameLimits,
    RequestReader,
    malformed,
    pack,
)

LIMITS = FrameLimits(max_arguments=50, max_bulk_bytes=2_000, max_query_bytes=5_000)

argument = st.binary(max_size=20) | st.sampled_from(
    [b"*", b"*3\r\n", b"$5\r\n", b"GET", b"\r\n", b"~9999999\r\n", b">1", b"*9999999999\r\n", b""]
)
request = st.lists(argument, min_size=1, max_size=8)


def read_all(reader: RequestReader, *chunks: bytes) -> list[list[bytes]]:
    requests: list[list[bytes]] = []
    for chunk in chunks:
        requests += reader.feed(chunk)
        while not reader.trusted and (more := reader.feed(b"")):
            requests += more
    return requests


def cut(data: bytes, rng: random.Random, pieces: int) -> list[bytes]:
    places = sorted(rng.randint(0, len(data)) for _ in range(pieces - 1))
    ends = [0, *places, len(data)]
    return [data[a:b] for a, b in pairwise(ends) if a < b]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(request, max_size=20),
    st.randoms(use_true_random=False),
    st.integers(1, 12),
    st.booleans(),
)
def test_any_cut_gives_the_same_requests(
    requests: list[list[bytes]], rng: random.Random, pieces: int, trusted: bool
) -> None:
    data = b"".join(pack(r) for r in requests)
    reader = RequestReader(LIMITS, trusted)
    assert read_all(reader, *cut(data, rng, pieces)) == requests
    assert reader.error == ""
    assert reader.idle
    assert reader.held_bytes == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80) | st.lists(request, max_size=4), st.data())
def test_nonsense_is_the_same_nonsense_however_cut(given_: object, data: st.DataObject) -> None:
    """Whatever comes: no exception, and the first error is final."""
    if isinstance(given_, list):
        stream = bytearray(b"".join(pack(r) for r in given_))
        for _ in range(data.draw(st.integers(1, 3))):
            if stream:
                stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
        raw = bytes(stream)
    else:
        assert isinstance(given_, bytes)
        raw = given_
    whole, bytewise = RequestReader(LIMITS), RequestReader(LIMITS, trusted=False)
    bytewise.trusted = True
    one = read_all(whole, *([raw] if raw else []))
    other = read_all(bytewise, *(raw[i : i + 1] for i in range(len(raw))))
    if not any(malformed(r) for r in one):
        # The quick reader passes nested things on, for `malformed`; the careful one stops there.
        assert one == other or one[: len(other)] == other
    if whole.error:
        assert whole.feed(b"*1\r\n$4\r\nPING\r\n") == []


def test_a_request_after_many_in_one_chunk_is_found() -> None:
    """The cut of a deep pipeline: the quick reader's part, and the rest."""
    gets = [[b"GET", b"key:%d" % i] for i in range(2_000)]
    data = b"".join(pack(r) for r in gets)
    for at in (1, 100, len(data) // 2, len(data) - 1):
        reader = RequestReader(LIMITS)
        first = reader.feed(data[:at])
        assert reader.idle == (at == 0)
        assert first + reader.feed(data[at:]) == gets


def test_asterisks_in_arguments_do_not_mislead() -> None:
    tricky = [
        [b"SET", b"k", pack([b"PING"])],
        [b"PING"],
        [b"SET", b"*", b"*1\r\n$4\r\nPING\r\n"],
        [b"GET", b"k*"],
    ]
    for order in (tricky, tricky[::-1]):
        data = b"".join(pack(r) for r in order)
        for at in range(len(data) + 1):
            reader = RequestReader(LIMITS)
            assert read_all(reader, *(c for c in (data[:at], data[at:]) if c)) == order, at


def test_empty_and_nil_arrays_ask_nothing() -> None:
    reader = RequestReader(LIMITS)
    assert reader.feed(b"*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n*0\r\n\r\n\n") == [[b"PING"]]
    assert reader.idle


def test_large_arguments_are_taken_in_pieces_without_much_copying() -> None:
    reader = RequestReader(FrameLimits(max_bulk_bytes=32 << 20))
    value = b"x" * (16 << 20)
    data = pack([b"SET", b"k", value]) + pack([b"PING"])
    tracemalloc.start()
    requests = read_all(reader, *(data[i : i + 65_536] for i in range(0, len(data), 65_536)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert requests == [[b"SET", b"k", value], [b"PING"]]
    assert peak < 2.1 * len(value)
    assert reader.held_bytes == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_large_arguments_in_parts_of_any_size(data: st.DataObject) -> None:
    size, more = st.integers(60_000, 200_000), st.sampled_from([[], [b"PX", b"5"]])
    wanted = [
        [b"SET", b"k", bytes([65 + i]) * data.draw(size), *data.draw(more)]
        for i in range(data.draw(st.integers(1, 3)))
    ]
    wanted.append([b"PING"])
    stream = b"".join(pack(r) for r in wanted)
    reader = RequestReader(FrameLimits())
    requests: list[list[bytes]] = []
    step = data.draw(st.sampled_from([1_000, 8_191, 8_192, 65_536, 65_537, 150_000]))
    edge = data.draw(st.integers(0, 5))
    at = 0
    while at < len(stream):
        # Around the end of a value every cut is of interest.
        requests += reader.feed(stream[at : at + step + edge])
        at += step + edge
        assert reader.held_bytes <= len(stream)
    assert requests == wanted
    assert reader.idle


@pytest.mark.parametrize("cut_at", range(-6, 3))
def test_the_line_end_of_a_large_argument_may_be_cut(cut_at: int) -> None:
    value = b"x" * 70_000
    stream = pack([b"SET", b"k", value]) + pack([b"GET", b"k"])
    place = stream.index(b"*", 1) + cut_at
    reader = RequestReader(FrameLimits())
    chunks = [stream[:100], stream[100 : place - 1], stream[place - 1 : place], stream[place:]]
    assert read_all(reader, *chunks) == [[b"SET", b"k", value], [b"GET", b"k"]]


def test_a_large_argument_byte_by_byte_takes_no_more_room() -> None:
    value = b"x" * 200_000
    data = pack([b"SET", b"k", value])
    reader = RequestReader(FrameLimits())
    tracemalloc.start()
    for i in range(len(data) - 1):
        assert reader.feed(data[i : i + 1]) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reader.feed(data[-1:]) == [[b"SET", b"k", value]]
    assert peak < 2 * len(value)


# -- bounds -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"*51\r\n", "Protocol error: invalid multibulk length"),
        (b"*99999999999999999999\r\n", "Protocol error: invalid multibulk length"),
        (b"*1 \r\n", "Protocol error: invalid multibulk length"),
        (b"*01\r\n", "Protocol error: invalid multibulk length"),
        (b"*+1\r\n", "Protocol error: invalid multibulk length"),
        (b"*\r\n", "Protocol error: invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$05\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$1e3\r\n", "Protocol error: invalid bulk length"),
        (b"'\n", "Protocol error: unbalanced quotes in request"),
    ],
)
def test_malformed_frames(data: bytes, error: str) -> None:
    for chunks in ([data], [data[i : i + 1] for i in range(len(data))], [pack([b"PING"]) + data]):
        reader = RequestReader(LIMITS)
        requests = read_all(reader, *chunks)
        assert (reader.error or malformed(requests[-1])) == error
        assert reader.held_bytes == 0


def test_a_simple_string_is_no_argument() -> None:
    reader = RequestReader(LIMITS)
    reader.feed(b"*1\r\n")
    assert reader.feed(b"+OK\r\n") == []
    assert reader.error == "Protocol error: expected '$', got '+'"


def test_a_verbatim_string_is_no_argument() -> None:
    """hiredis would take it, and read beyond its end."""
    reader = RequestReader(FrameLimits())
    assert reader.feed(b"*2\r\n$4\r\nECHO\r\n=8\r\ntxt:abcd\r\n") == []
    assert reader.error == "Protocol error: expected '$', got '='"


def test_a_length_above_the_bound_is_refused_when_it_is_announced() -> None:
    reader = RequestReader(LIMITS)
    assert reader.feed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2001\r\n") == []
    assert reader.error.startswith("Protocol error: invalid bulk length: 2001 bytes are more than")
    reader = RequestReader(LIMITS)
    assert reader.feed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2000\r\n") == []
    assert reader.error == ""
    assert reader.feed(b"x" * 2_000 + b"\r\n") == [[b"SET", b"k", b"x" * 2_000]]


def test_a_request_as_a_whole_is_bounded() -> None:
    reader = RequestReader(LIMITS)
    reader.feed(b"*9\r\n")
    for _ in range(2):
        reader.feed(b"$2000\r\n" + b"x" * 2_000 + b"\r\n")
        assert reader.error == ""
    reader.feed(b"$2000\r\n")
    assert reader.error.startswith("Protocol error: request larger than listen.max_query_bytes")


@pytest.mark.parametrize("size", [1, 7, 100, 1_900, 100_000])
def test_several_requests_that_come_at_once_are_bounded_each_by_itself(size: int) -> None:
    """However they are cut; an inline command makes it the careful reader's."""
    some = [[b"SET", b"k%d" % number, b"x" * 1_500] for number in range(12)]
    stream = b"PING\r\n" + b"".join(map(pack, some))
    reader, found = RequestReader(LIMITS), []
    for at in range(0, len(stream), size):
        found += reader.feed(stream[at : at + size])
        assert reader.error == ""
        assert 0 <= reader.held_bytes < 1_600
    assert found == [[b"PING"], *some]
    over = b"PING\r\n" + pack(some[0]) + b"*5\r\n" + b"".join(
        b"$1500\r\n" + b"x" * 1_500 + b"\r\n" for _ in range(4)
    )  # fmt: skip
    for at in range(0, len(over), size):
        reader.feed(over[at : at + size])
    assert reader.error.startswith("Protocol error: request larger than listen.max_query_bytes")


def test_a_vast_array_is_refused_before_anything_is_allocated() -> None:
    for prefix in (b"", pack([b"PING"]), pack([b"GET", b"*"]), pack([b"SET", b"a", b">"])):
        for evil in (b"*3000000000\r\n", b"*1\r\n*3000000000\r\n", b"*1\r\n~3000000000\r\n"):
            reader = RequestReader(FrameLimits())
            tracemalloc.start()
            reader.feed(prefix + evil)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert reader.error, evil
            assert peak < 1_000_000


def test_endless_lines_are_cut_short() -> None:
    for start, error in (
        (b"x", "too big inline request"),
        (b"*", "too big mbulk count string"),
        (b"*1\r\n$", "too big bulk count string"),
    ):
        reader = RequestReader(LIMITS)
        for _ in range(200):
            reader.feed(start + b"1" * 999)
            start = b""
            if reader.error:
                break
        assert reader.error == f"Protocol error: {error}"


def test_before_the_password_only_small_requests() -> None:
    small = [[b"AUTH", b"x" * 16_384], [b"A"] * 10]
    reader = RequestReader(FrameLimits(), trusted=False)
    assert reader.feed(b"".join(pack(r) for r in small)) == small[:1]
    assert reader.feed(b"") == small[1:]
    assert reader.feed(b"") == []
    assert reader.feed(pack([b"A"] * 11)) == []
    assert reader.error == "Protocol error: unauthenticated multibulk length"
    reader = RequestReader(FrameLimits(), trusted=False)
    assert reader.feed(pack([b"x" * 16_385])) == []
    assert reader.error == "Protocol error: unauthenticated bulk length"
    reader = RequestReader(FrameLimits(), trusted=False)
    big = [[b"x" * 16_385], [b"A"] * 11]
    assert reader.feed(b"".join(pack(r) for r in [small[0], *big])) == small[:1]
    reader.trusted = True
    assert reader.feed(b"") == big


def test_an_idle_reader_is_small() -> None:
    reader = RequestReader(FrameLimits())
    reader.feed(pack([b"SET", b"k", b"x" * 100_000]))
    assert sys.getsizeof(reader._buffer) < 200


# -- nested things ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ([b"GET", b"k"], ""),
        ([], ""),
        (5, "expected '*'"),
        (None, "expected '*'"),
        (b"OK", "expected '*'"),
        ([b"GET", 5], "expected '$', got ':'"),
        ([b"GET", None], "invalid bulk length"),
        ([b"GET", True], "expected '$', got '#'"),
        ([b"GET", 1.5], "expected '$', got ','"),
        ([b"GET", {}], "expected '$', got '%'"),
        ([b"GET", []], "expected '$', got '*'"),
        ([b"GET", ValueError()], "expected '$', got '-'"),
        ([b"GET", "text"], "expected '$', got '?'"),
    ],
)
def test_what_the_quick_reader_passes_on(request_: object, told: str) -> None:
    assert malformed(request_) == (f"Protocol error: {told}" if told else "")


def test_inline_and_arrays_mixed_in_one_chunk() -> None:
    reader = RequestReader(LIMITS)
    data = b"PING\r\n" + pack([b"GET", b"k"]) + b"ECHO 'x y'\n" + pack([b"PING"])
    assert reader.feed(data) == [[b"PING"], [b"GET", b"k"], [b"ECHO", b"x y"], [b"PING"]]
    assert reader.feed(pack([b"GET", b"k"]) + b"+OK\r\n:1\r\n") == [
        [b"GET", b"k"],
        [b"+OK"],
        [b":1"],
    ]
