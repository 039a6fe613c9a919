"""One client: the order of replies, what waits for what, bounds, and the end of a connection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coherenced.core.model import Set, Version
from coherenced.core.requests import (
    Ask,
    Fault,
    FaultKind,
    Get,
    LeaseResult,
    Outcome,
    Read,
    Request,
    Write,
)
from coherenced.serve.quiet import GETTING, PIECE_BYTES, QUIET, SETTING
from coherenced.serve.resp import RespFront
from coherenced.serve.resp_connection import TURN_BYTES
from coherenced.serve.resp_settings import RespSettings
from coherenced.wire.framing import FrameLimits
from coherenced.wire.plan import Bounds
from tests.serve.resp_rig import EPOCH, Client, RespPort, Wire, packed

SMALL = RespSettings(
    max_pending=20,
    pause_bytes=2_000,
    output_buffer_bytes=10_000_000,
    linger_ms=20,
    frame=FrameLimits(max_bulk_bytes=5_000, max_query_bytes=8_000, max_arguments=100),
)


@pytest.fixture
def client() -> Client:
    return Client(settings=SMALL)


# -- hits -------------------------------------------------------------------------------


def test_a_hit_is_answered_with_the_stored_bytes_and_asks_nobody(client: Client) -> None:
    client.port.keep(b"a-key-of-some-length", b"value")
    client.port.keep(b"k", b"short")
    client.send("GET a-key-of-some-length", "get k", "GET a-key-of-some-length")
    assert client.raw() == b"$5\r\nvalue\r\n$5\r\nshort\r\n$5\r\nvalue\r\n"
    assert client.port.requests == []
    assert client.wire.writes <= 2  # the plain GETs first, then what the reader found
    assert client.front.requests == 3


@pytest.mark.parametrize("length", [1, 9, 10, 11, 18, 99, 100, 101, 1_000])
@pytest.mark.parametrize("verb", [b"GET", b"get"])
def test_a_hit_for_keys_of_every_length(client: Client, length: int, verb: bytes) -> None:
    key = b"x" * length
    client.port.keep(key, b"v")
    data = packed((verb, key))
    client.feed(data)
    assert client.raw() == b"$1\r\nv\r\n"
    client.feed(data * 5)
    assert client.raw() == b"$1\r\nv\r\n" * 5
    for at in range(1, len(data)):
        client.feed(data[:at])
        assert client.raw() == b""
        client.feed(data[at:])
        assert client.raw() == b"$1\r\nv\r\n"


def test_a_key_that_looks_like_requests(client: Client) -> None:
    key = b"$10\r\n*2\r\n$3\r\nGET\r\n$11\r\nabcdefghijk\r\n"
    client.port.keep(key, b"odd")
    client.port.keep(b"abcdefghijk", b"inner")
    client.send((b"GET", key), (b"GET", b"abcdefghijk"), (b"GET", key))
    assert client.replies() == [b"odd", b"inner", b"odd"]


def test_not_there_is_nil_in_the_protocol_spoken(client: Client) -> None:
    client.port.keep(b"not-there-at-all", None)
    batch = ("GET not-there-at-all",) * 2 + ("MGET not-there-at-all not-there-at-all",)
    client.send(*batch)
    assert client.raw() == b"$-1\r\n$-1\r\n*2\r\n$-1\r\n$-1\r\n"
    client.send("HELLO 3")
    client.raw()
    client.send(*batch)
    assert client.raw() == b"_\r\n_\r\n*2\r\n_\r\n_\r\n"
    client.send("GET not-there-at-all")
    assert client.raw() == b"_\r\n"
    assert client.port.requests == []


def test_mget_hits_only_if_all_do(client: Client) -> None:
    client.port.space.execute((b"MSET", b"a", b"1", b"b", b"2"))
    client.port.keep(b"a", b"1")
    assert client.ask("MGET a b none") == [b"1", b"2", None]
    bound = SMALL.output_buffer_bytes
    assert client.port.requests == [Read((b"a", b"b", b"none"), most_bytes=bound)]
    assert client.ask("mget a b none") == [b"1", b"2", None]
    assert len(client.port.requests) == 1


def test_a_long_pipeline_of_hits_and_others(client: Client) -> None:
    client.port.keep(b"some-longer-key", b"v")
    client.port.keep(b"s", b"w")
    commands: list[str] = []
    expected: list[Any] = []
    for i in range(500):
        commands += ["GET some-longer-key", "GET s", f"ECHO {i}"]
        expected += [b"v", b"w", b"%d" % i]
    assert client.ask(*commands) == expected


@pytest.mark.parametrize("verb", ["GET some-longer-key", "GET s", "ECHO x", "SET s w"])
def test_who_sends_very_much_at_once_takes_turns_with_others(client: Client, verb: str) -> None:
    client.port.keep(b"some-longer-key", b"v")
    client.port.keep(b"s", b"w")
    other = Client(front=client.front)
    data = packed(*[verb] * 3_000)
    client.connection.data_received(data)
    assert not client.wire.reading
    turns = 0
    while client.turns:
        before = client.front.requests
        client.turns.popleft()()
        turns += 1
        assert client.front.requests - before <= TURN_BYTES // len(packed(verb)) + 1
        other.connection.data_received(packed("GET some-longer-key"))
    assert turns >= len(data) // TURN_BYTES
    assert other.replies() == [b"v"] * turns
    assert client.wire.reading
    assert len(client.replies()) == 3_000


def test_turns_begin_and_end_in_the_middle_of_requests() -> None:
    """Bytes of a value that look like the beginning of a request."""
    client = Client()
    value = b"\r\n*3\r\n$3\r\nSET\r\n" * 200
    data = packed(*[("SET", "k", value), ("GET", "k"), ("STRLEN", "k")] * 20)
    for at in (1, 7, 100, 4_000, 9_000, 20_001):
        client.feed(data[:at])
        client.feed(data[at:])
        replies = client.replies()
        assert len(replies) == 60
        assert replies[::3] == [b"OK"] * 20
        assert replies[1::3] == [value] * 20
        assert replies[2::3] == [len(value)] * 20


def test_turns_wait_until_the_client_reads(client: Client) -> None:
    client.port.keep(b"some-longer-key", b"v" * 500)
    client.wire.blocked = True
    client.feed(packed(*["GET some-longer-key"] * 2_000))
    taken = client.front.requests
    assert taken < 1_000, "nothing is executed for who does not read"
    assert not client.wire.reading
    client.wire.blocked = False
    client.wire.drain()
    assert client.replies() == [b"v" * 500] * 2_000
    assert client.wire.reading


def test_what_is_left_ends_with_the_connection(client: Client) -> None:
    client.port.keep(b"some-longer-key", b"v")
    client.connection.data_received(packed(*["GET some-longer-key"] * 2_000))
    client.turns.popleft()()
    client.wire.abort()
    before = client.front.requests
    client.take_turns()
    assert client.front.requests == before
    quitter = Client(settings=SMALL)
    quitter.feed(packed("QUIT", *["ECHO x"] * 2_000))
    assert quitter.replies() == [b"OK"]
    assert quitter.wire.closing


def test_latency_of_hits_is_sampled() -> None:
    seen: list[float] = []
    front = RespFront(RespPort(), SMALL, seen.append)
    client = Client(front=front)
    client.port.keep(b"some-longer-key", b"v")
    client.port.keep(b"s", b"v")
    for _ in range(300):
        client.send("GET some-longer-key", "GET s")
    assert 1 <= len(seen) <= 5


# -- order ------------------------------------------------------------------------------


def test_a_reply_waits_for_the_one_before_it(client: Client) -> None:
    client.port.hold()
    client.port.keep(b"hit", b"h")
    client.send("GET slow", "GET hit", "PING", "GET slower", "ECHO x")
    assert client.replies() == []
    assert client.port.requests == [Get(b"slow"), Get(b"slower")]
    client.port.release(1)
    assert client.replies() == [None, b"h", b"PONG"]
    client.port.release()
    assert client.replies() == [None, b"x"]


def test_answers_that_come_in_another_order(client: Client) -> None:
    client.port.hold()
    client.send("GET a", "GET b", "GET c")
    assert client.port.held is not None
    client.port.held.reverse()
    client.port.release(2)
    assert client.replies() == []
    client.port.release()
    assert client.replies() == [None, None, None]


def test_a_read_waits_for_writes_before_it(client: Client) -> None:
    client.port.keep(b"k", b"old")
    client.port.hold()
    client.send("SET k new", "SET k newer EX 9", "GET k", "GET k")
    assert [type(r) for r in client.port.requests] == [Set, Write]
    assert not client.wire.reading
    client.port.release(1)
    assert client.replies() == [b"OK"]
    assert len(client.port.requests) == 2
    client.port.release(1)
    client.port.release()
    assert client.replies() == [b"OK", b"newer", b"newer"]
    assert client.wire.reading


def test_a_write_waits_for_reads_before_it(client: Client) -> None:
    client.port.hold()
    client.send("GET k", "TTL k", "SET k new", "SET k newer")
    assert [type(r) for r in client.port.requests] == [Get, Ask]
    client.port.release(1)
    assert len(client.port.requests) == 2
    client.port.release(1)
    assert [type(r) for r in client.port.requests[2:]] == [Set, Set]
    client.port.release()
    assert client.replies() == [None, -2, b"OK", b"OK"]


@pytest.mark.parametrize(
    "first",
    [
        "COH.GET k MAXSTALE 0",
        f"COH.GET k MINVER {EPOCH.decode()}:1",
        "COH.MGET other k SNAPSHOT",
        "STRLEN k",
        "EXISTS other k",
    ],
)
@pytest.mark.parametrize("second", ["GET k", "COH.GET k", "MGET k other", "TTL k"])
def test_no_key_goes_back_in_time_behind_a_read_that_asks_for_more(
    client: Client, first: str, second: str
) -> None:
    """What L1 holds now may be older than what the first will be shown."""
    client.port.keep(b"k", b"old")
    client.port.keep(b"other", b"o")
    client.port.hold()
    client.send(first, second, "GET other")
    assert len(client.port.requests) == 1
    assert not client.wire.reading
    client.port.keep(b"k", b"new")
    client.port.release()
    replies = client.replies()
    assert len(replies) == 3
    assert b"old" not in replies
    assert [b"old", b"o"] not in replies
    assert client.wire.reading
    assert not client.connection._asked


@pytest.mark.parametrize("waits", ["", " WAIT 1000"])
def test_what_is_leased_is_not_answered_from_before(
    client: Client, monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    """Behind a lease that waits nothing does: the write that it waits for may come later."""
    client.port.keep(b"k", b"old")
    client.port.hold()
    given = LeaseResult(None, b"token", Version(EPOCH, 1))
    monkeypatch.setattr(client.port, "_outcome", lambda request: given)
    client.send("COH.LEASE k" + waits, "GET k", "ECHO x")
    client.port.keep(b"k", b"new")
    client.port.release()
    assert client.replies()[1:] == [b"old" if waits else b"new", b"x"]


@pytest.mark.parametrize("first", ["COH.GET k MAXSTALE 0", "STRLEN k"])
def test_reads_of_other_keys_do_not_wait_for_it(client: Client, first: str) -> None:
    client.port.keep(b"hit", b"h")
    client.port.hold()
    client.send(first, "GET hit", "GET miss", "COH.GET j MAXSTALE 0", "TTL i")
    assert len(client.port.requests) == 4
    client.port.release()
    assert len(client.replies()) == 5


def test_reads_that_ask_for_no_more_do_not_wait_for_each_other(client: Client) -> None:
    client.port.fills = False
    client.port.hold()
    client.send("GET k", "COH.GET k META", "MGET k j", "COH.MGET k j", "GET k")
    assert len(client.port.requests) == 5
    client.port.release()
    assert len(client.replies()) == 5


def test_a_client_that_goes_while_a_read_is_asked(client: Client) -> None:
    client.port.hold()
    client.send("COH.GET k MAXSTALE 0", "STRLEN k")
    client.connection.connection_lost(None)
    client.port.release()
    assert not client.connection._asked


def test_what_arrives_while_something_waits_waits_behind_it(client: Client) -> None:
    client.port.hold()
    client.send("SET k 1", "GET k", "INCR k")
    client.connection.data_received(packed("GET k", "PING"))  # was on its way already
    client.port.release(1)
    client.port.release(1)
    client.port.release(1)
    client.port.release()
    assert client.replies() == [b"OK", b"1", 2, b"2", b"PONG"]


COMMANDS = (
    *("GET hit", "GET miss", "GET other-missing-key", "GET a-longer-hit", "MGET hit miss"),
    *("SET k 1", "INCR n", "GET n", "PING", "ECHO x", "DEL k", "EXISTS k n", "NOSUCH", "GET"),
    *("MULTI", "EXEC", "DISCARD", "TTL k", "SELECT 5", "MGET hit a-longer-hit", "WATCH n"),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_replies_are_the_same_however_slow_and_cut(
    commands: list[str], rng: random.Random, resp3: bool
) -> None:
    """Against the same commands one by one, each answered at once."""

    def fresh() -> Client:
        client = Client(settings=SMALL)
        client.port.fills = False
        client.port.keep(b"hit", b"h")
        client.port.space.execute((b"SET", b"hit", b"h"))
        client.port.keep(b"a-longer-hit", None)
        if resp3:
            client.ask("HELLO 3")
        return client

    plain, clumsy = fresh(), fresh()
    for command in commands:
        plain.send(command)
    data = packed(*commands)
    clumsy.port.hold()
    while data or clumsy.port.held:
        if data and clumsy.wire.reading and rng.random() < 0.7:
            size = rng.randint(1, 60)
            clumsy.feed(data[:size])
            data = data[size:]
        elif clumsy.port.held:
            tell = clumsy.port.held.pop(rng.randrange(len(clumsy.port.held)))
            tell()
    clumsy.port.release()
    assert clumsy.raw() == plain.raw()


TRANSCRIPT = packed(
    *("SET key value", "GET key", "get a-key-of-some-length", "MGET key none", "INCR n", "PING"),
    *("HELLO 3", "GET none", ("SET", "binary", b"\x00\r\n*$>~"), ("GET", "binary"), "FOO a b"),
    *("MULTI", "GET key", "INCR n", "EXEC", "COMMAND COUNT", "CLIENT ID", "DEL key n", "ECHO x"),
)


def test_any_cut_of_the_stream_gives_the_same_replies() -> None:
    def replies(*chunks: bytes) -> bytes:
        client = Client(settings=SMALL)
        client.port.keep(b"a-key-of-some-length", b"v")
        for chunk in chunks:
            client.feed(chunk)
        return client.raw()

    whole = replies(TRANSCRIPT)
    assert whole.count(b"\r\n") > 30
    for at in range(1, len(TRANSCRIPT)):
        assert replies(TRANSCRIPT[:at], TRANSCRIPT[at:]) == whole, at
    assert replies(*(TRANSCRIPT[i : i + 1] for i in range(len(TRANSCRIPT)))) == whole


# -- outcomes ---------------------------------------------------------------------------


def test_a_fault_is_one_clear_error(client: Client) -> None:
    client.port.fault = Fault(FaultKind.UNAVAILABLE, "Redis does not answer")
    assert client.ask("GET k") == "UNAVAILABLE Redis does not answer"
    assert client.ask("SET k v") == "UNAVAILABLE Redis does not answer"
    assert client.ask("COH.NODES") == "UNAVAILABLE Redis does not answer"
    assert client.ask("WATCH k") == "UNAVAILABLE Redis does not answer"
    assert client.front.errors == 4


def test_a_level_that_was_not_reached(client: Client) -> None:
    client.port.changes = {"satisfied": False, "missing": ("c", "d"), "fenced": ("e",)}
    version = "0f1e2d3c4b5a6978:1"
    told = f"NOACK committed {version} missing=c,d acknowledged=a,b after_ms=0.000,0.412 fenced=e"
    assert client.ask("SET k v") == told
    told = told.replace(version, "0f1e2d3c4b5a6978:2")
    assert client.ask("MULTI", "SET k w", "EXEC") == [b"OK", b"QUEUED", told]


def test_reads_of_very_many_keys_are_several_requests(client: Client) -> None:
    limits = FrameLimits()
    client = Client(settings=msgspec.structs.replace(SMALL, frame=limits))
    client.port.space.execute((b"MSET", b"k0", b"", b"k399", b"", b"k400", b""))
    keys = " ".join(f"k{i}" for i in range(401))
    assert client.ask(f"EXISTS {keys}") == 3
    assert [len(r.query.keys) for r in client.port.requests] == [200, 200, 1]  # type: ignore[union-attr]


def test_a_reply_that_no_buffer_holds_is_refused() -> None:
    settings = msgspec.structs.replace(SMALL, output_buffer_bytes=1_000_000, frame=FrameLimits())
    client = Client(settings=settings)
    client.port.space.execute((b"SET", b"big", b"x" * 100_000))
    keys = " ".join(["big"] * 11)
    for _ in range(2):  # asked of Redis, then from L1
        told = client.ask(f"MGET {keys}")
        assert told.startswith("ERR the reply has more than 1000000 bytes")
    assert client.ask("GET big") == b"x" * 100_000


# -- bounds -----------------------------------------------------------------------------


def test_so_many_requests_may_wait_and_no_more(client: Client) -> None:
    client.port.hold()
    client.send(*(f"GET key{i}" for i in range(30)))
    assert len(client.port.requests) == 20
    assert not client.wire.reading
    client.port.release(5)
    assert len(client.port.requests) == 25
    assert not client.wire.reading
    client.port.release()
    assert client.replies() == [None] * 30
    assert client.wire.reading


class LookingLater(RespPort):
    """As the real node: it looks into L1, and asks Redis, at the end of the turn."""

    def __init__(self) -> None:
        super().__init__()
        self.turn: list[Callable[[], None]] = []

    def submit(self, request: Request, done: Callable[[Outcome], None]) -> None:
        self.turn.append(lambda: RespPort.submit(self, request, done))


@pytest.mark.parametrize("first", ["gEt k", "MGET k cold", "COH.GET k", "COH.GET k MAXSTALE 0"])
@pytest.mark.parametrize("then", ["GET k", "MGET k", "get k"])
def test_no_key_goes_back_in_time_within_a_chunk(first: str, then: str) -> None:
    """What is looked up at the end of the turn may be newer than a hit of now."""
    port = LookingLater()
    client = Client(port, SMALL)
    port.keep(b"k", b"old")
    client.send(first, "GET other", then)
    port.space.execute((b"SET", b"k", b"new"))
    port.l1.clear()
    while port.turn:
        port.turn.pop(0)()
        client.take_turns()
    one, other, two = client.replies()
    assert (b"new" in one, other, b"new" in two) == (True, None, True)
    port.keep(b"k", b"old")
    assert client.ask(then) in (b"old", [b"old"]), "nothing is under way: it hits again"
    assert not port.turn


def test_what_is_read_while_watching_may_be_newer_than_a_hit_after_it() -> None:
    port = LookingLater()
    client = Client(port, SMALL)
    port.keep(b"k", b"old")
    client.send("WATCH k")
    client.send("GET k", "UNWATCH", "GET k")
    port.space.execute((b"SET", b"k", b"new"))
    port.fills = False
    port.l1.clear()
    while port.turn:
        port.turn.pop(0)()
        client.take_turns()
    assert client.replies() == [b"OK", b"new", b"OK", b"new"]


@pytest.mark.parametrize("words", [("GET", "k" * 60), ("SET", "k" * 60, "v")])
async def test_a_key_is_bounded_as_any_argument_is(words: tuple[str, ...]) -> None:
    """The short way takes none that the general one refuses."""
    replies = []
    for chunk in (packed(words), packed(words) + packed("PING")):
        client = Client(
            settings=msgspec.structs.replace(SMALL, frame=FrameLimits(max_bulk_bytes=50))
        )
        client.feed(chunk)
        replies += client.replies()
        assert not client.port.requests
    text = "60 bytes are more than limits.max_value_bytes (50)"
    assert replies == [f"ERR Protocol error: invalid bulk length: {text}"] * 2


def test_writes_under_way_are_bounded_in_bytes(client: Client) -> None:
    client.port.hold()
    client.send(*(("SET", f"k{i}", b"x" * 3_000) for i in range(5)))
    assert len(client.port.requests) == 2
    client.port.release()
    assert client.replies() == [b"OK"] * 5


def test_hits_behind_a_slow_answer_are_bounded_in_bytes(client: Client) -> None:
    client.port.keep(b"big", b"x" * 1_000)
    client.port.hold()
    client.send("GET slow", *["GET big"] * 10)
    assert not client.wire.reading
    assert client.connection._held_bytes < 4_000
    client.port.release()
    assert client.replies() == [None] + [b"x" * 1_000] * 10
    assert client.connection._held_bytes == 0
    assert client.wire.reading


def test_a_client_that_does_not_read_is_not_read_from(client: Client) -> None:
    client.port.keep(b"big", b"x" * 1_000)
    client.port.keep(b"a-larger-value", b"x" * 1_000)
    client.wire.blocked = True
    for command in ("GET big", "GET a-larger-value"):
        client.send(*[command] * 300)
        assert not client.wire.reading
        assert len(client.wire.buffer) < 100_000
        client.wire.drain()
        assert client.replies() == [b"x" * 1_000] * 300
        assert client.wire.reading


def unread(then: bytes = b"") -> Client:
    """It has asked for more than the bound at once, and has read nothing."""
    settings = msgspec.structs.replace(SMALL, output_buffer_bytes=100_000, max_pending=1_000)
    client = Client(settings=settings)
    client.port.space.execute((b"SET", b"big", b"x" * 20_000))
    client.port.fills = False
    client.wire.blocked = True
    client.port.hold()
    client.feed(packed(*["GET big"] * 16) + then)
    client.port.release()
    assert client.front.stats()["overflows"] == 0
    return client


def test_a_client_that_never_reads_is_cut_off_past_the_bound() -> None:
    client = unread()
    client.pass_time()
    assert client.wire.aborted
    assert client.front.stats()["overflows"] == 1
    assert client.front.stats()["connections"] == 0


def test_nobody_is_kept_many_times_the_bound_for() -> None:
    """Not even for a moment: all of it would be in memory."""
    settings = msgspec.structs.replace(SMALL, output_buffer_bytes=50_000, max_pending=1_000)
    client = Client(settings=settings)
    client.port.space.execute((b"SET", b"big", b"x" * 60_000))
    client.port.fills = False
    client.wire.blocked = True
    client.port.hold()
    client.feed(packed(*["GET big"] * 100))
    number = len(client.port.held or ())
    assert number * 60_000 > 900_000, "as long as no reply has come they are taken to be small"
    most = 0
    while client.port.held:
        client.port.release(1)
        client.take_turns()
        if not client.wire.aborted:
            most = max(most, client.connection.unread_bytes())
    assert client.wire.aborted and 200_000 < most < 900_000
    assert client.front.stats()["overflows"] == 1


@pytest.mark.parametrize("command", ["GET big", "GET a-larger-value", "MGET big big", "ECHO"])
def test_large_replies_are_put_together_in_pieces(command: str) -> None:
    """One chunk of 64 MGETs of 60 MB took 4 GB, and whoever did not read kept it."""
    frame = FrameLimits()
    client = Client(settings=msgspec.structs.replace(SMALL, frame=frame))
    client.port.keep(b"big", b"x" * 100_000)
    client.port.keep(b"a-larger-value", b"x" * 100_000)
    client.wire.blocked = True
    words = ("ECHO", "x" * 100_000) if command == "ECHO" else tuple(command.split())
    client.send(*[words] * 60, "PING")
    assert not client.wire.reading
    most = 0
    while client.wire.buffer:
        most = max(most, client.connection.unread_bytes())
        client.wire.sent += client.wire.buffer
        client.wire.buffer.clear()
        client.connection.resume_writing()
        client.take_turns()
    assert most < PIECE_BYTES + 250_000
    *replies, last = client.replies()
    assert (len(replies), last) == (60, b"PONG")
    value = b"x" * 100_000
    assert replies == [[value] * 2 if command.startswith("MGET") else value] * 60
    assert client.wire.reading
    client.wire.blocked = False
    assert client.ask("PING") == b"PONG"


def test_large_replies_leave_at_once_for_a_client_that_reads() -> None:
    client = Client(settings=msgspec.structs.replace(SMALL, frame=FrameLimits()))
    client.port.keep(b"big", b"x" * 100_000)
    client.send(*["GET big"] * 10, "GET cold", *["MGET big big"] * 10, "PING")
    assert client.replies() == [b"x" * 100_000] * 10 + [None] + [[b"x" * 100_000] * 2] * 10 + [
        b"PONG"
    ]
    assert client.wire.reading and client.connection.state == QUIET


def test_what_waits_behind_a_slow_answer_is_bounded() -> None:
    settings = msgspec.structs.replace(SMALL, output_buffer_bytes=50_000, max_pending=1_000)
    client = Client(settings=settings)
    client.port.space.execute((b"SET", b"big", b"x" * 60_000))
    client.port.fills = False
    client.port.hold()
    client.feed(packed("GET slow", *["GET big"] * 15))
    held = client.port.held
    assert held is not None and len(held) == 16
    slow = held.pop(0)
    while held and not client.wire.aborted:
        assert client.connection._held_bytes <= 8 * 50_000
        held.pop(0)()
    assert client.wire.aborted and len(held) == 8
    for late in (slow, *held):
        late()
    assert client.raw() == b""
    assert client.front.stats()["overflows"] == 1


def test_who_is_cut_off_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport tells of its end in a later turn; more replies come before it."""

    def abort(wire: Wire) -> None:
        wire.closing = wire.aborted = True
        wire.buffer.clear()

    monkeypatch.setattr(Wire, "abort", abort)
    settings = msgspec.structs.replace(SMALL, output_buffer_bytes=50_000, max_pending=1_000)
    client = Client(settings=settings)
    client.port.space.execute((b"SET", b"big", b"x" * 60_000))
    client.port.fills = False
    client.wire.blocked = True
    client.port.hold()
    client.feed(packed(*["GET big"] * 100))
    client.port.release()
    assert client.wire.aborted
    assert client.front.stats()["overflows"] == 1


def test_a_client_that_reads_may_have_asked_for_more_than_the_bound() -> None:
    client = unread(packed("PING"))
    assert len(client.wire.buffer) < 100_000
    client.wire.drain()
    assert client.replies() == [b"x" * 20_000] * 16 + [b"PONG"]
    client.pass_time()
    assert not client.wire.aborted
    client.wire.blocked = False
    assert client.ask("PING") == b"PONG"


def test_a_client_that_reads_slowly_is_not_cut_off() -> None:
    client = unread()
    del client.wire.buffer[:1000]  # it has read so much
    client.pass_time()
    assert not client.wire.aborted
    client.pass_time()
    assert client.wire.aborted


async def test_a_client_that_reads_late_is_told_why_it_is_hung_up() -> None:
    client = unread(b"*x\r\n")
    client.wire.drain()
    *values, told = client.replies()
    assert values == [b"x" * 20_000] * 16
    assert told == "ERR Protocol error: invalid multibulk length"
    assert client.wire.eof


def test_the_window_follows_the_size_of_replies() -> None:
    settings = msgspec.structs.replace(SMALL, output_buffer_bytes=1_000_000, max_pending=1_000)
    client = Client(settings=settings)
    client.port.fills = False
    client.port.space.execute((b"SET", b"big", b"x" * 100_000))
    narrow = client.connection._window
    client.ask(*["GET none"] * 100)
    assert client.connection._window > 10 * narrow
    client.ask(*["GET big"] * 50)
    assert client.connection._window == 16


def test_too_many_connections() -> None:
    front = RespFront(RespPort(), msgspec.structs.replace(SMALL, max_connections=2))
    first, second = Client(front=front), Client(front=front)

    async def third() -> Client:
        return Client(front=front)

    refused = asyncio.run(third())
    assert refused.replies() == ["ERR max number of clients reached"]
    assert refused.wire.eof
    assert first.ask("PING") == b"PONG"
    second.wire.close()
    assert Client(front=front).ask("PING") == b"PONG"
    assert front.stats() == {
        "requests": 2,
        "errors": 1,
        "connections": 2,
        "accepted": 3,
        "rejected": 1,
        "overflows": 0,
    }


# -- nonsense ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"*x\r\n", "ERR Protocol error: invalid multibulk length"),
        (b"*2\r\n$3\r\nGET\r\n$x\r\n", "ERR Protocol error: invalid bulk length"),
        (b"*1\r\n:5\r\n", "ERR Protocol error: expected '$', got ':'"),
        (b"*2\r\n$3\r\nGET\r\n\r\n$5\r\n", "ERR Protocol error: expected '$', got ' '"),
        (b"*2\r\n$3\r\nGET\r\n:5\r\n", "ERR Protocol error: expected '$', got ':'"),
        (b"*2\r\n$3\r\nGET\r\n*1\r\n:5\r\n", "ERR Protocol error: expected '$', got '*'"),
        (b"*2\r\n$3\r\nGET\r\n%1\r\n+a\r\n:5\r\n", "ERR Protocol error: expected '$', got '%'"),
        (b"*2\r\n$3\r\nGET\r\n$-1\r\n", "ERR Protocol error: invalid bulk length"),
        (b"*3000000000\r\n", "ERR Protocol error: invalid multibulk length"),
        (b"*1\r\n~3000000000\r\n", "ERR Protocol error: expected '$', got '~'"),
        (b'SET "a\r\n', "ERR Protocol error: unbalanced quotes in request"),
        (b"x" * 70_000, "ERR Protocol error: too big inline request"),
        (b"*" + b"1" * 70_000, "ERR Protocol error: too big mbulk count string"),
        (b"*1\r\n$" + b"1" * 70_000, "ERR Protocol error: too big bulk count string"),
    ],
)
async def test_a_malformed_frame_ends_the_connection_with_redis_words(
    client: Client, data: bytes, told: str
) -> None:
    client.port.keep(b"a-key-of-some-length", b"v")
    client.feed(packed("PING", "GET a-key-of-some-length", "SET k v") + data)
    assert client.replies() == [b"PONG", b"v", b"OK", told]
    assert client.wire.eof
    client.feed(packed("PING"))  # still on its way: taken and thrown away
    assert client.replies() == []
    assert not client.wire.closing
    client.connection.eof_received()
    assert client.wire.closing


async def test_a_client_that_does_not_go_is_hung_up_on(client: Client) -> None:
    client.feed(b"*x\r\n")
    assert not client.wire.closing
    await asyncio.sleep(0.05)
    assert client.wire.aborted


async def test_a_value_above_the_bound_is_refused_before_it_is_sent(client: Client) -> None:
    client.feed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n")
    (told,) = client.replies()
    assert told.startswith("ERR Protocol error: invalid bulk length: 536870912 bytes")
    assert "limits.max_value_bytes (5000)" in told


async def test_a_request_of_too_many_bytes_is_refused(client: Client) -> None:
    value = b"$4000\r\n" + b"x" * 4_000 + b"\r\n"
    client.feed(b"*4\r\n$4\r\nMSET\r\n$1\r\nk\r\n" + value)
    assert client.replies() == []
    client.feed(b"$4000\r\n")
    (told,) = client.replies()
    assert told.startswith("ERR Protocol error: request larger than listen.max_query_bytes")


async def test_the_error_comes_after_the_answers_that_are_owed(client: Client) -> None:
    client.port.hold()
    client.feed(packed("GET a", "SET b c", "GET b") + b"*x\r\n")
    client.port.release(1)
    assert not client.wire.eof
    client.port.release(1)
    client.port.release()
    assert client.replies() == [None, b"OK", b"c", "ERR Protocol error: invalid multibulk length"]
    assert client.wire.eof


def test_a_browser_is_hung_up_on(client: Client) -> None:
    client.feed(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET k v\r\n")
    assert client.replies() == []
    assert client.wire.closing
    assert client.port.requests == []


def test_inline_commands(client: Client) -> None:
    client.feed(b"PING\r\nSET k 'a b'\n\r\n  get   k\r\n" + packed("ECHO x") + b"PING\r\n")
    assert client.replies() == [b"PONG", b"OK", b"a b", b"x", b"PONG"]
    client.feed(b"PI")
    client.feed(b"NG")
    assert client.replies() == []
    client.feed(b"\r\n")
    assert client.replies() == [b"PONG"]


def test_a_bug_is_not_taken_for_nonsense(client: Client) -> None:
    def broken(*_: Any) -> None:
        raise TypeError("a bug")

    client.port.submit = broken  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="a bug"):
        client.send("TTL k")


# -- the end ----------------------------------------------------------------------------


def test_half_a_request_and_gone(client: Client) -> None:
    client.feed(b"*2\r\n$3\r\nGET\r\n$10")
    client.connection.eof_received()
    assert client.wire.closing
    assert client.replies() == []
    assert client.front.stats()["connections"] == 0


def test_a_client_may_stop_sending_and_still_get_its_replies(client: Client) -> None:
    client.port.hold()
    client.send("GET a", "SET a b", "GET a", "PING")
    assert client.connection.eof_received()
    assert not client.wire.closing
    client.port.release(1)
    client.port.release(1)
    client.port.release()
    assert client.replies() == [None, b"OK", b"b", b"PONG"]
    assert client.wire.closing


def test_eof_while_the_client_does_not_read(client: Client) -> None:
    client.port.keep(b"big", b"x" * 1_000)
    client.wire.blocked = True
    client.send(*["GET big"] * 200)
    client.connection.eof_received()
    assert not client.wire.closing
    client.wire.drain()
    assert len(client.replies()) == 200
    assert client.wire.closing


def test_quit_answers_what_came_before_and_nothing_after(client: Client) -> None:
    client.port.hold()
    client.send("GET a", "QUIT", "SET a b", "PING")
    assert not client.wire.closing
    client.port.release()
    assert client.replies() == [None, b"OK"]
    assert client.wire.closing
    assert len(client.port.requests) == 1


def test_a_client_that_goes_while_its_answer_is_on_its_way(client: Client) -> None:
    client.port.hold()
    client.send("GET a", "SET a b", "EXISTS a b")
    client.wire.close()
    client.port.release()
    assert client.replies() == []
    assert len(client.port.requests) == 1


async def test_stopping_answers_what_was_taken_and_closes() -> None:
    front = RespFront(RespPort(), SMALL)
    idle, busy = Client(front=front), Client(front=front)
    busy.port.hold()
    busy.send("GET a", "SET a b")
    await front.stop_accepting()
    assert idle.wire.closing
    assert not busy.wire.closing
    closing = asyncio.ensure_future(front.close(5.0))
    await asyncio.sleep(0)
    busy.port.release(1)
    busy.port.release()
    await asyncio.wait_for(closing, 1.0)
    assert busy.replies() == [None, b"OK"]
    assert busy.wire.closing


async def test_stopping_does_not_wait_for_ever() -> None:
    front = RespFront(RespPort(), SMALL)
    stuck = Client(front=front)
    stuck.port.hold()
    stuck.send("GET a")
    await front.close(0.01)
    assert stuck.wire.aborted
    assert front.connections == {}


# -- the lone SET, and the lone GET that misses --------------------------------------------


@pytest.mark.parametrize("verb", [b"SET", b"set", b"SeT"])
def test_a_lone_set_is_the_write_that_the_general_way_makes_of_it(
    client: Client, verb: bytes
) -> None:
    data = packed((verb, b"k", b"v"))
    client.feed(data)
    assert client.raw() == b"+OK\r\n"
    client.feed(data * 2)
    assert client.raw() == b"+OK\r\n" * 2
    client.feed(data[:9])
    client.feed(data[9:])
    assert client.raw() == b"+OK\r\n"
    client.send("SET k v KEEPTTL")
    assert client.raw() == b"+OK\r\n"
    *plain, optioned = client.port.requests
    assert {type(request) for request in plain} == ({Write} if verb == b"SeT" else {Set})
    written = {repr(Write.of(one) if isinstance(one, Set) else one) for one in plain}
    assert written == {repr(Write.of(Set.to(b"k", b"v")))}
    assert isinstance(optioned, Write)
    assert client.front.requests == 5


@pytest.mark.parametrize("value", [b"", b"*", b"*1\r\n", b">x", b"~", b"x" * 4_000, b"$3\r\nabc"])
def test_a_lone_set_of_any_bytes(client: Client, value: bytes) -> None:
    client.feed(packed((b"SET", b"k", value)))
    client.feed(packed((b"GET", b"k")))
    assert client.replies() == [b"OK", value]


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"*3\r\n$3\r\nSET\r\n$5\r\ncoh:x\r\n$1\r\nv\r\n", b"-ERR keys that start with coh:"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n:5\r\n", b"-ERR Protocol error: expected '$', got ':'"),
        (b"*3\r\n$3\r\nSET\r\n$-1\r\n$1\r\nv\r\n", b"-ERR Protocol error: invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$x\r\n", b"-ERR Protocol error: invalid bulk length"),
        (packed((b"SET", b"k", b"v" * 5_001)), b"-ERR Protocol error: invalid bulk length: 5001"),
        (
            packed((b"SET", b"k", b"v")) + packed((b"SET", b"k", b"v" * 5_001)),
            b"+OK\r\n-ERR Protocol error: invalid bulk length: 5001",
        ),
    ],
)
async def test_a_lone_set_that_is_none(client: Client, data: bytes, answer: bytes) -> None:
    client.feed(data)
    assert client.raw().startswith(answer)
    assert len(client.port.requests) == answer.count(b"OK")


def test_after_a_lone_set_a_read_waits_and_a_write_does_not(client: Client) -> None:
    client.port.keep(b"a-key-of-some-length", b"old")
    client.port.hold()
    client.feed(packed((b"SET", b"a-key-of-some-length", b"new")))
    client.feed(packed((b"SET", b"other", b"v")))
    assert len(client.port.requests) == 2
    client.feed(packed((b"GET", b"a-key-of-some-length")))
    assert client.raw() == b""
    client.port.release(1)
    assert len(client.port.requests) == 2
    client.port.release()
    assert len(client.port.requests) == 3, "the read begins when the writes are done"
    assert client.replies() == [b"OK", b"OK", b"new"]


def test_a_lone_set_that_fails(client: Client) -> None:
    client.port.fault = Fault(FaultKind.UNAVAILABLE, "out of reach")
    client.feed(packed((b"SET", b"k", b"v")))
    assert client.raw() == b"-UNAVAILABLE out of reach\r\n"
    assert client.front.errors == 1
    client.port.fault = None
    client.port.changes = {"satisfied": False, "missing": ("b",)}
    client.feed(packed((b"SET", b"k", b"v")))
    assert client.raw().startswith(b"-NOACK committed")


async def test_replies_that_come_at_once_leave_together(client: Client) -> None:
    client.port.hold()
    keys = [b"%d" % number for number in range(8)]
    for key in keys:
        client.port.space.execute((b"SET", key, b"v" + key))
    client.feed(b"".join(packed((b"GET", key)) for key in keys))
    writes = client.wire.writes
    client.port.release(5)
    assert client.wire.writes == writes, "the rest may come before the turn ends"
    assert client.replies() == [b"v" + key for key in keys[:5]]
    assert client.wire.writes == writes + 1
    client.port.release()
    assert client.wire.writes == writes + 2, "the last one waits for nobody"
    assert client.replies() == [b"v" + key for key in keys[5:]]


def test_a_reply_that_waits_for_its_turn_goes_when_the_client_does(client: Client) -> None:
    client.port.hold()
    client.send("GET a", "GET b")
    client.port.release(1)
    client.connection.connection_lost(None)
    assert client.raw() == b""


def test_a_nil_is_in_the_protocol_of_its_request(client: Client) -> None:
    client.port.hold()
    client.feed(packed((b"GET", b"a-key-of-some-length")))
    client.send("HELLO 3", "GET another")
    client.port.release()
    assert client.raw().startswith(b"$-1\r\n%") and not client.port.held


@pytest.mark.parametrize("seed", range(60))
def test_lone_sets_are_answered_as_the_general_way_answers(seed: int) -> None:
    """Two clients say the same; one spells SET so that only the general reader knows it."""
    chance = random.Random(seed)
    lone, general = Client(), Client()
    for _ in range(80):
        deed, key = chance.random(), chance.choice((b"k", b"a-key-of-some-length", b"other"))
        text = chance.choice(("PING", "MULTI", "EXEC", "RESET", "SET a-key-of-some-length w"))
        for client, verb in ((lone, b"SET"), (general, b"SeT")):
            port, connection = client.port, client.connection
            if not client.wire.reading and deed < 0.6:
                continue
            if deed < 0.4:
                client.feed(packed((verb, key, b"%f" % deed)))
            elif deed < 0.5:
                client.feed(packed((b"GET", key)))
            elif deed < 0.6:
                client.send(text)
            elif deed < 0.9:
                hold_or_release(port, deed)
            elif 0.9 < deed < 0.93:
                connection.pause_writing()
            elif deed > 0.93:
                connection.resume_writing()
        assert_alike(lone, general)
    for client in (lone, general):
        client.connection.resume_writing()
        if client.port.held is not None:
            client.port.release()
    assert_alike(lone, general)
    assert lone.front.requests == general.front.requests


def hold_or_release(port: RespPort, deed: float) -> None:
    """Between 0.6 and 0.9: outcomes are held from now on; or those held are told, one or all."""
    if port.held is None:
        if deed < 0.7:
            port.hold()
    else:
        port.release(None if deed > 0.8 else 1)


def assert_alike(lone: Client, general: Client) -> None:
    """They have heard the same, and go on alike."""
    assert lone.raw() == general.raw()
    assert state(lone) == state(general)


def state(client: Client) -> tuple[object, ...]:
    """What decides how a connection goes on. What is asked of the node without a slot counts as
    if it had one."""
    c = client.connection
    gets, sets = c.state == GETTING, c.state == SETTING
    slots, reads, writes = len(c._slots) + (gets or sets), c._reads + gets, c._writes + sets
    under_way = (slots, writes, reads, c._held_bytes, len(c._queue))
    flags = (c.quick and not sets, c._reading, c._paused, c._tail is c._out and not (gets or sets))
    flying = bool(c._flying_bytes) or sets
    return (*under_way, *flags, flying, c._ending, c.lost, client.wire.closing)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_lone_get_that_misses(client: Client, protocol: int) -> None:
    client.send(f"HELLO {protocol}")
    client.raw()
    client.port.fills = False
    key = b"a-key-of-some-length"
    client.feed(packed((b"GET", key)))
    assert client.raw() == (b"_\r\n" if protocol == 3 else b"$-1\r\n")
    client.send(f"SET {key.decode()} v")
    client.raw()
    client.port.l1.clear()
    client.feed(packed((b"GET", key)))
    assert client.raw() == b"$1\r\nv\r\n"
    assert client.port.requests[-1] == Get(key)
    client.feed(packed((b"GET", b"coh:" + key)))
    assert client.raw().startswith(b"-ERR keys that start with coh:")
    client.port.hold()
    client.feed(packed((b"GET", key)))
    client.send("PING")
    assert client.raw() == b""
    client.port.release()
    assert client.raw() == b"$1\r\nv\r\n+PONG\r\n"


@pytest.mark.parametrize("seed", range(60))
def test_lone_gets_are_answered_as_the_general_way_answers(seed: int) -> None:
    """Two clients say the same; one spells GET so that only the general reader knows it."""
    chance = random.Random(seed)
    lone, general = Client(settings=SMALL), Client(settings=SMALL)
    if seed % 2:
        for client in (lone, general):
            client.send("HELLO 3")
    keys = (b"a-key-of-some-length", b"another-key-as-long-as-it", b"coh:is-not-for-clients")
    for _ in range(100):
        deed, key, long = chance.random(), chance.choice(keys), chance.random() < 0.2
        text = chance.choice(
            ("PING", "MULTI", "EXEC", "DBSIZE", "GET k", f"SET {keys[0].decode()} w")
        )
        faulty = chance.random() < 0.1
        for client, verb in ((lone, b"GET"), (general, b"GeT")):
            port, connection, wire = client.port, client.connection, client.wire
            port.fills, port.fault = False, Fault(FaultKind.UNAVAILABLE, "x") if faulty else None
            port.l1.clear()
            if wire.closing or (not wire.reading and deed < 0.6):
                continue
            if deed < 0.4:
                client.feed(packed((verb, key)))
            elif deed < 0.45:
                client.feed(packed((b"SET", keys[0], b"v" * (900 if long else 1))))
            elif deed < 0.5:
                client.feed(packed((verb, key)) + packed("PING"))
            elif deed < 0.6:
                client.send(text)
            elif deed < 0.9:
                hold_or_release(port, deed)
            elif 0.9 < deed < 0.92:
                wire.blocked = True
            elif 0.92 < deed < 0.98:
                wire.blocked = False
                wire.drain()
            elif deed > 0.985 and seed % 3 == 0:
                connection.retire()
            elif deed > 0.996:
                wire.close()
        assert_alike(lone, general)
        assert window(lone) == window(general)
    for client in (lone, general):
        client.wire.blocked = False
        client.wire.drain()
        if client.port.held is not None:
            client.port.release()
    assert_alike(lone, general)
    assert lone.front.requests == general.front.requests
    assert lone.front.errors == general.front.errors


def window(client: Client) -> int:
    client.connection._resize_window()  # else it happens with the next slot
    return client.connection._window


def test_stopping_waits_for_a_lone_get_and_closes() -> None:
    client = Client()
    client.port.hold()
    client.port.fills = False
    client.feed(packed((b"GET", b"a-key-of-some-length")))
    client.connection.retire()
    client.port.release()
    assert client.raw() == b"$-1\r\n"
    assert client.wire.closing


# -- clients that keep copies -------------------------------------------------------------


@pytest.mark.parametrize("hello", ["PING", "HELLO 3"])
def test_a_hit_with_its_terms_is_answered_as_the_node_would(hello: str) -> None:
    page = b"00000000000000aa"
    client = Client(settings=msgspec.structs.replace(SMALL, bounds=Bounds(page=page)))
    client.ask(hello)
    client.port.keep(b"k", b"v")
    client.port.keep(b"gone", None)
    for key, value in ((b"k", b"v"), (b"gone", None)):
        answer = client.ask((b"COH.GET", key, b"KEEP", page))
        assert client.port.requests == []
        found, version, source, age_ms, stale, left_ms, (keep_ms, bound_ms), ages = answer
        assert (found, source, stale, left_ms) == (value, b"l1", 0, -1)
        assert (keep_ms > 0, ages) == (True, -1)
        assert bound_ms > 0
        assert b":" in version
        assert float(age_ms) >= 0
    client.ask((b"COH.GET", b"k", b"KEEP", b"00000000000000bb"))  # another daemon's page
    assert len(client.port.requests) == 1


def test_a_hit_in_its_grace_is_told_stale() -> None:
    page = b"00000000000000aa"
    client = Client(settings=msgspec.structs.replace(SMALL, bounds=Bounds(page=page)))
    client.port.keep(b"k", b"v", (b"coh:life=9000/1000",), left_ms=1_500.0)
    for stale in (0, 1):
        answer = client.ask((b"COH.GET", b"k", b"KEEP", page))
        assert (answer[2], answer[4], answer[7]) == (b"l1", stale, 1_000)
        assert float(answer[3]) + answer[5] == pytest.approx(9_000, abs=2.0)
        client.port.l1[b"k"].expires_ms -= 900
    assert client.port.requests == []


def test_without_a_page_nothing_may_be_kept(client: Client) -> None:
    client.port.keep(b"k", b"v")
    assert client.ask((b"COH.GET", b"k", b"KEEP", b"00000000000000aa"))[-2] == [-1, 0]
