"""The core without a socket: bytes out, replies in. No test here waits for anything."""

from __future__ import annotations

import json
import math
from typing import Any

import hiredis
import pytest

from coherenced.client.arguments import key_bytes
from coherenced.client.core import Calls, documented
from coherenced.client.replies import Entry, Version, error_from
from coherenced.client.session import Session
from coherenced.client.stream import BATCH_BYTES, BATCH_COMMANDS, Request
from coherenced.client.values import MSGPACK
from coherenced.core.requests import Read
from coherenced.errors import (
    CommandError,
    Conflict,
    NotAcknowledged,
    ProtocolError,
    RedisUnreachable,
    UsageError,
)
from coherenced.wire.multiget import mget
from coherenced.wire.plan import Bounds

E = "0f1e2d3c4b5a6978"
V1, V2, V3 = (f"{E}:{seq}" for seq in (1, 2, 3))


def sent(request: Request[Any]) -> list[list[bytes]]:
    """The commands of a request, and that each batch announces as many replies as commands."""
    commands = []
    for batch in request.batches:
        reader = hiredis.Reader(notEnoughData=None)
        reader.feed(batch.data)
        mine = []
        while (command := reader.gets()) is not None:
            mine.append(command)
        assert len(mine) == batch.replies
        commands += mine
    return commands


@pytest.fixture
def calls() -> Calls:
    return Calls(MSGPACK)


class TestReads:
    def test_a_plain_get_is_redis_own_get(self, calls: Calls) -> None:
        request = calls.get("k")
        assert sent(request) == [[b"GET", b"k"]]
        assert not request.is_write
        assert request.decode([b"\xc1\x05"]) == 5
        assert request.decode([None]) is None
        assert calls.get("k", "absent").decode([None]) == "absent"

    def test_options_make_it_a_coh_get(self, calls: Calls) -> None:
        request = calls.get(b"k", max_staleness_ms=0, min_version=V1)
        assert sent(request) == [[b"COH.GET", b"k", b"MAXSTALE", b"0", b"MINVER", V1.encode()]]

    def test_the_clients_bound_counts_unless_the_call_gives_one(self) -> None:
        calls = Calls(MSGPACK, max_staleness_ms=250)
        assert sent(calls.get("k")) == [[b"COH.GET", b"k", b"MAXSTALE", b"250"]]
        assert sent(calls.get("k", max_staleness_ms=0)) == [[b"COH.GET", b"k", b"MAXSTALE", b"0"]]

    @pytest.mark.parametrize(
        "keys",
        [
            ["a", "meta"],
            ["TTL"],
            ["meta", "TTL"],
            ["maxstale", "0"],
            ["b", "MaxStale", "a", "0"],
            ["SNAPSHOT", "a"],
            [],
        ],
        ids=" ".join,
    )
    def test_a_key_of_a_snapshot_is_not_taken_for_an_option(
        self, calls: Calls, keys: list[str]
    ) -> None:
        request = calls.get_many(keys, snapshot=True, max_staleness_ms=5)
        values: list[bytes] = []
        for argv in sent(request):
            (read,) = mget(argv, Bounds()).requests
            assert isinstance(read, Read)
            assert (read.snapshot, read.max_staleness_ms) == (True, 5)
            values += read.keys
        assert request.decode([values]) == {key: key.encode() for key in keys}
        assert list(request.decode([values])) == keys

    @pytest.mark.parametrize("bound", [-1, math.nan, math.inf])
    def test_a_wrong_bound_is_a_usage_error(self, calls: Calls, bound: float) -> None:
        with pytest.raises(UsageError, match="max_staleness_ms"):
            calls.get("k", max_staleness_ms=bound)

    def test_of_many_keys_one_that_holds_no_string_is_left_out_as_mget_does(
        self, calls: Calls
    ) -> None:
        wrong = error_from("WRONGTYPE Operation against a key")
        request = calls.get_many(["a", "h"], max_staleness_ms=0)
        assert request.decode([b"v", wrong]) == {"a": b"v"}
        with pytest.raises(CommandError):
            calls.get_many(["a", "h"], max_staleness_ms=0).decode([b"v", error_from("ERR no")])

    def test_what_cannot_be_read_is_refused_before_it_is_asked(self, calls: Calls) -> None:
        for wrong in ("x", f"{E}:", f"{E.upper()}:1", f"{E}:-1", 5):
            with pytest.raises(UsageError, match="a version is what a write has returned"):
                calls.get("k", min_version=wrong)  # type: ignore[arg-type]
        assert sent(calls.get("k", min_version="")) == [[b"GET", b"k"]]
        for count in (0, 1_000_001, 1.5):
            with pytest.raises(UsageError, match="count is a whole number from 1 to 1000000"):
                calls.audit(count=count)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="a prefix must not be empty"):
            calls.invalidate(prefixes=[""])

    def test_errors_are_raised(self, calls: Calls) -> None:
        with pytest.raises(RedisUnreachable):
            calls.get("k").decode([error_from("UNAVAILABLE no")])
        with pytest.raises(ProtocolError):
            calls.get("k").decode([7])

    def test_an_entry_tells_how_it_was_answered(self, calls: Calls) -> None:
        request = calls.get_entry("k", "no")
        assert sent(request) == [[b"COH.GET", b"k", b"META", b"TTL"]]
        assert request.decode([[b"v", V1.encode(), b"l1", b"1.25", 0]]) == Entry(
            b"v", True, Version(V1), "l1", 1.25, False
        )
        assert request.decode([[None, V1.encode(), b"l2", b"0", b"1"]]) == Entry(
            "no", False, Version(V1), "l2", 0.0, True
        )
        with pytest.raises(ProtocolError):
            request.decode([[b"v"]])

    def test_many_keys_share_a_command_and_absent_ones_are_left_out(self, calls: Calls) -> None:
        request = calls.get_many(["a", "b", "a", "c"])
        assert sent(request) == [[b"MGET", b"a", b"b", b"c"]]
        assert request.decode([[b"1", None, b"3"]]) == {"a": b"1", "c": b"3"}
        with pytest.raises(ProtocolError):
            request.decode([[b"1"]])

    def test_no_keys_cost_nothing(self, calls: Calls) -> None:
        request = calls.get_many([])
        assert request.batches == ()
        assert request.decode([]) == {}

    @pytest.mark.parametrize("keys", ["abc", b"abc", None, 5])
    def test_a_single_text_is_no_list_of_keys(self, calls: Calls, keys: Any) -> None:
        with pytest.raises(UsageError, match="give a list of names"):
            calls.get_many(keys)

    def test_very_many_keys_travel_in_bounded_batches(self, calls: Calls) -> None:
        keys = [f"k{n}" for n in range(2 * BATCH_COMMANDS + 1)]
        request = calls.get_many(keys)
        assert [len(command) - 1 for command in sent(request)] == [BATCH_COMMANDS] * 2 + [1]
        assert len(request.batches) == 3

    def test_many_keys_with_options_are_single_reads_pipelined(self, calls: Calls) -> None:
        request = calls.get_many([b"a", b"b"], max_staleness_ms=5)
        assert sent(request) == [[b"COH.GET", key, b"MAXSTALE", b"5"] for key in (b"a", b"b")]
        assert request.decode([b"1", None]) == {b"a": b"1"}
        with pytest.raises(CommandError, match="NOPERM"):
            request.decode([b"1", error_from("NOPERM x")])

    def test_documents(self, calls: Calls) -> None:
        assert sent(calls.stats()) == [[b"COH.STATS"]]
        assert sent(calls.nodes()) == [[b"COH.NODES"]]
        assert sent(calls.explain("k")) == [[b"COH.EXPLAIN", b"k"]]
        assert calls.stats().decode([json.dumps({"l1": {}}).encode()]) == {"l1": {}}
        for wrong in (b"[]", b"{", 3):
            with pytest.raises(ProtocolError):
                calls.stats().decode([wrong])


class TestWrites:
    def test_set_with_everything(self, calls: Calls) -> None:
        request = calls.set(
            "k", b"v", ttl=1.5, tags=["t", b"u"], ack="all", timeout=2, if_version=V1
        )
        assert sent(request) == [
            [*b"COH.SET k v PX 1500 TAGS 2 t u ACK all TIMEOUT 2000 IFVER".split(), V1.encode()]
        ]
        assert request.is_write
        assert request.ack_s == 2
        assert request.decode([V2.encode()]) == Version(V2)

    @pytest.mark.parametrize(
        ("terms", "said"),
        [
            ({"ack": "most"}, "ack is one of none, redis, quorum, all or a number of nodes"),
            ({"ack": 0}, "ack is one of"),
            ({"ack": True}, "ack is one of"),
            ({"ack": 10_000}, "ack is one of"),
            ({"tags": [""]}, "a tag must not be empty"),
            ({"tags": ["coh:x"]}, "tags that start with coh: are the daemon's own"),
            ({"if_version": "7"}, "a version is what a write has returned, epoch:seq, not '7'"),
            ({"if_version": Version()}, "a write with ack none has none"),
            ({"ttl": 1e12}, "ttl is a number of seconds above 0, below 1e11"),
        ],
        ids=lambda one: str(one)[:30],
    )
    def test_what_cannot_be_is_refused_before_it_is_sent(
        self, calls: Calls, terms: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(UsageError, match=said):
            calls.set("k", b"v", **terms)

    def test_levels_are_words(self, calls: Calls) -> None:
        for level, word in (("ALL", b"all"), (" quorum", b"quorum"), (2, b"2"), ("2", b"2")):
            assert sent(calls.set("k", b"v", ack=level))[0][-2:] == [b"ACK", word]

    def test_replicas_go_with_every_write(self, calls: Calls) -> None:
        words = [b"REPLICAS", b"2"]
        for request in (
            calls.set("k", b"v", ack="all", replicas=2),
            calls.add("k", b"v", replicas=2),
            calls.set_many({"a": b"", "b": b""}, replicas=2),
            calls.delete("a", "replicas", replicas=2),
            calls.invalidate(["a"], replicas=2),
            calls.invalidate(everything=True, replicas=2),
        ):
            assert [command[-2:] for command in sent(request)] == [words] * len(sent(request))
        assert sent(calls.delete("a", "replicas", replicas=2))[1][:2] == [b"COH.DEL", b"replicas"]
        assert b"REPLICAS" not in sent(calls.set("k", b"v", replicas=0))[0]
        for wrong in (-1, 1001, 1.5, "1"):
            with pytest.raises(UsageError, match="replicas is a whole number"):
                calls.set("k", b"v", replicas=wrong)  # type: ignore[arg-type]

    def test_plain_set(self, calls: Calls) -> None:
        assert sent(calls.set("k", "v")) == [[b"COH.SET", b"k", b"\xc1\xa1v"]]
        assert calls.set("k", "v", ack="none").decode([None]) == Version()
        assert sent(calls.set("k", b"", ack=2)) == [[b"COH.SET", b"k", b"", b"ACK", b"2"]]

    @pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf])
    def test_a_time_to_live_is_positive(self, calls: Calls, ttl: float) -> None:
        with pytest.raises(UsageError, match="ttl"):
            calls.set("k", b"v", ttl=ttl)

    def test_a_tiny_time_to_live_is_a_millisecond(self, calls: Calls) -> None:
        assert sent(calls.set("k", b"v", ttl=1e-6))[0][3:] == [b"PX", b"1"]

    def test_tags_are_a_list(self, calls: Calls) -> None:
        with pytest.raises(UsageError, match="list of names"):
            calls.set("k", b"v", tags="tag")

    def test_refusals(self, calls: Calls) -> None:
        with pytest.raises(Conflict):
            calls.set("k", b"v", if_version=V1).decode([error_from("CONFLICT changed")])
        with pytest.raises(NotAcknowledged) as caught:
            calls.set("k", b"v", ack="all").decode([error_from(f"NOACK committed {V1} missing=b")])
        assert (caught.value.version, caught.value.missing) == (V1, ("b",))

    def test_set_many_is_pipelined_and_returns_the_last_version(self, calls: Calls) -> None:
        request = calls.set_many({"a": b"1", "b": 2}, ttl=60)
        assert sent(request) == [
            [b"COH.SET", b"a", b"1", b"PX", b"60000"],
            [b"COH.SET", b"b", b"\xc1\x02", b"PX", b"60000"],
        ]
        assert request.decode([V1.encode(), V2.encode()]) == V2
        assert calls.set_many({}).decode([]) == Version()

    def test_set_many_gathers_who_is_missing(self, calls: Calls) -> None:
        request = calls.set_many({"a": b"", "b": b"", "c": b""}, ack="all")
        late = [error_from(f"NOACK committed {v} missing={m}") for v, m in ((V1, "x"), (V3, "x,y"))]
        with pytest.raises(NotAcknowledged) as caught:
            request.decode([late[0], V2.encode(), late[1]])
        assert (caught.value.version, caught.value.missing) == (V3, ("x", "y"))
        with pytest.raises(CommandError, match="OOM"):
            request.decode([late[0], V2.encode(), error_from("OOM full")])

    def test_fenced_nodes_are_listed_apart(self, calls: Calls) -> None:
        request = calls.invalidate(["a"])
        done = request.decode([[V1.encode(), [[b"a", b"0"]], [], [b"dead"]]])
        assert done.fenced == ("dead",)

    def test_big_values_travel_in_bounded_batches(self, calls: Calls) -> None:
        request = calls.set_many({n: bytes(BATCH_BYTES // 2) for n in ("a", "b", "c")})
        assert [batch.replies for batch in request.batches] == [2, 1]

    def test_delete_counts(self, calls: Calls) -> None:
        request = calls.delete("a", b"b", ack="quorum", timeout=0.5)
        assert sent(request) == [b"COH.DEL a b ACK quorum TIMEOUT 500".split()]
        assert request.decode([[V1.encode(), 2]]) == 2
        assert sent(calls.delete("a", timeout=3600)) == [b"COH.DEL a TIMEOUT 3600000".split()]
        with pytest.raises(UsageError, match="timeout is at most 3600 seconds"):
            calls.delete("a", timeout=3601)
        assert sent(calls.delete("x", "ack", "all", ack=2)) == [
            b"COH.DEL x all ACK 2".split(),
            b"COH.DEL ack ACK 2".split(),
        ]
        many = calls.delete(*map(str, range(BATCH_COMMANDS + 1)))
        assert many.decode([[V1.encode(), 200], [V2.encode(), 1]]) == 201
        assert calls.delete().batches == ()

    def test_invalidate_sections(self, calls: Calls) -> None:
        request = calls.invalidate(["a"], tags=["t", "u"], prefixes=["p:"], ack="all")
        assert sent(request) == [
            b"COH.INVALIDATE KEYS 1 a TAGS 2 t u PREFIXES 1 p: ACK all".split()
        ]
        result = request.decode([[V1.encode(), [[b"a", b"0"], [b"b", b"0.4"]], [b"c"]]])
        assert result == (Version(V1), {"a": 0.0, "b": 0.4}, ("c",), ())

    def test_invalidate_everything(self, calls: Calls) -> None:
        assert sent(calls.invalidate(everything=True)) == [[b"COH.INVALIDATE", b"ALL"]]
        with pytest.raises(UsageError, match="nothing to invalidate"):
            calls.invalidate()

    def test_many_targets_are_acknowledged_by_who_acknowledged_all(self, calls: Calls) -> None:
        request = calls.invalidate([f"k{n}" for n in range(BATCH_COMMANDS)], tags=["t"])
        assert [command[1] for command in sent(request)] == [b"KEYS", b"TAGS"]
        replies = [
            [V1.encode(), [[b"a", b"0"], [b"b", b"0.4"]], []],
            [V2.encode(), [[b"b", b"0.2"]], [b"a"]],
        ]
        assert request.decode(replies) == (Version(V2), {"b": 0.4}, ("a",), ())


class TestSession:
    def test_reads_carry_the_last_write(self) -> None:
        calls = Calls(MSGPACK, session=Session())
        assert sent(calls.get("k")) == [[b"GET", b"k"]]
        calls.set("k", b"v").decode([V2.encode()])
        assert sent(calls.get("k")) == [[b"COH.GET", b"k", b"MINVER", V2.encode()]]
        assert sent(calls.get_many(["k"])) == [[b"COH.GET", b"k", b"MINVER", V2.encode()]]
        assert sent(calls.get("k", min_version=V3))[0][-1] == V3.encode()

    def test_the_token_never_goes_back_within_an_epoch(self) -> None:
        session = Session()
        for version in (V2, V1, ""):
            session.wrote(Version(version))
        assert session.token == V2
        session.wrote(Version("ffffffffffffffff:1"))
        assert session.token == "ffffffffffffffff:1"

    @pytest.mark.parametrize("code", ["LINEAGE", "BEHIND"])
    def test_a_lost_lineage_is_told_once(self, code: str) -> None:
        session = Session()
        session.wrote(Version(V2))
        calls = Calls(MSGPACK, session=session)
        with pytest.raises(CommandError, match=code):
            calls.get("k").decode([error_from(f"{code} Redis has lost its data")])
        assert sent(calls.get("k")) == [[b"GET", b"k"]]

    def test_a_write_that_was_not_acknowledged_counts(self) -> None:
        session = Session()
        calls = Calls(MSGPACK, session=session)
        with pytest.raises(NotAcknowledged):
            calls.delete("k", ack="all").decode([error_from(f"NOACK committed {V3} missing=b")])
        assert session.token == V3


def test_keys_are_text_or_bytes() -> None:
    assert key_bytes("ключ") == "ключ".encode()
    assert key_bytes(b"\xff") == b"\xff"
    for wrong in (7, None, "\udcff"):
        with pytest.raises(UsageError):
            key_bytes(wrong)  # type: ignore[arg-type]


def test_shells_get_the_documentation_of_the_core() -> None:
    @documented(Calls)
    class Shell:
        def get(self) -> None: ...

        def set(self) -> None:
            """Its own."""

    assert Shell.get.__doc__ == Calls.get.__doc__
    assert Shell.set.__doc__ == "Its own."


class TestExecute:
    def test_a_command_is_sent_as_it_is(self, calls: Calls) -> None:
        request = calls.execute("INCRBY", b"k", 7)
        assert sent(request) == [[b"INCRBY", b"k", b"7"]]
        assert request.is_write
        assert not calls.execute("TTL", "k", write=False).is_write

    def test_nothing_is_no_command(self, calls: Calls) -> None:
        with pytest.raises(UsageError, match="takes a command"):
            calls.execute()

    @pytest.mark.parametrize("verb", ["MULTI", b"watch", "Select", "HELLO", "quit", "AUTH"])
    def test_what_would_change_a_connection_of_others_is_refused(
        self, calls: Calls, verb: str | bytes
    ) -> None:
        with pytest.raises(UsageError, match="other calls share"):
            calls.execute(verb, "x")
