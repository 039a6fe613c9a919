"""codec.py: which script carries a batch, and replies that are none. The rest is in test_mutate."""

from __future__ import annotations

import hiredis
import pytest

from coherenced.core.calls import Mutate
from coherenced.core.model import Mutation, Query, ReplyError, Set
from coherenced.errors import ProtocolError
from coherenced.upstream import codec
from coherenced.upstream.scripts import LANE_SCRIPTS, MUTATE, MUTATE_FREEING
from coherenced.wire.message import decode_record
from tests.upstream.lanes import EPOCH, NAMES, WRITER, delete, incr, invalidate, set_, unpacked


def script_of(*mutations: Mutation) -> bytes:
    call = Mutate(
        1, 0, EPOCH, WRITER, (False,) * len(mutations), mutations, (b"t" * 16,) * len(mutations)
    )
    return codec.mutate_words(call, NAMES, 100)[0].sha


def test_only_batches_that_free_memory_go_when_it_is_full() -> None:
    read = Mutation((b"GET", b"a"), keys=(b"a",), is_write=False)
    assert script_of(delete(b"a")) == MUTATE_FREEING.sha
    assert script_of(delete(b"a"), invalidate(b"b"), read) == MUTATE_FREEING.sha
    assert script_of(set_(b"a", b"1")) == MUTATE.sha
    assert script_of(delete(b"a"), incr(b"n")) == MUTATE.sha


@pytest.mark.parametrize("want_ack", [False, True])
@pytest.mark.parametrize("key", [b"k", b"k" * 255, b"k" * 256])
def test_a_set_in_one_piece_says_what_the_general_way_says(key: bytes, want_ack: bool) -> None:
    """With one word more it goes the general way: all but the words must be alike."""
    bodies = []
    for argv in ((b"SET", key, b"v"), (b"SET", key, b"v", b"GET")):
        mutation = Mutation(argv, keys=(key,))
        call = Mutate(1, 0, EPOCH, WRITER, (want_ack,), (mutation,), (b"t" * 16,))
        script, words = codec.mutate_words(call, NAMES, 100)
        args = unpacked(words)
        assert (script, args[4]) == (MUTATE, b"s")
        assert args[5] == b"%d" % len(argv)
        assert args[9:] == list(argv)
        bodies.append(args[6:9])
    assert bodies[0] == bodies[1]
    record = decode_record(1, b"p" * 16, b"t" * 16, bodies[0][2])
    assert (record.keys, record.wants_ack, record.writer) == ((key,), want_ack, WRITER)


def test_the_two_variants_differ_in_their_first_line_only() -> None:
    assert MUTATE.text.partition(b"\n")[::2] == (b"#!lua", MUTATE_FREEING.text.partition(b"\n")[2])
    assert MUTATE_FREEING.text.startswith(b"#!lua flags=allow-oom\n")


def test_every_script_is_fenced() -> None:
    for script in LANE_SCRIPTS:
        first_line = script.text.partition(b"\n")[0]
        assert first_line.startswith(b"#!lua"), "only these are refused before they run"
        assert b"no-writes" not in first_line


def test_errors_inside_replies_are_values() -> None:
    raw = [b"a", [None, 1, hiredis.ReplyError("WRONGTYPE x")]]
    assert codec.plain_reply(raw) == [b"a", [None, 1, ReplyError("WRONGTYPE x")]]


@pytest.mark.parametrize(
    "entry",
    [
        [b"1-0", [b"p", b"x" * 16, b"t", b"y" * 16]],
        [b"1-1", [b"p", b"x" * 16, b"t", b"y" * 16, b"b", b"\x00"]],
        [b"1-0", [b"p", b"short", b"t", b"y" * 16, b"b", b"\x00"]],
        [b"1-0", [b"p", b"x" * 16, b"t", b"y" * 16, b"b", b"\xc1"]],
    ],
)
def test_a_log_entry_that_is_no_record(entry: list[object]) -> None:
    with pytest.raises(ProtocolError):
        codec.log_page([EPOCH, 1, b"y" * 16, [entry]])


def test_a_roster_line_that_is_none_is_left_out() -> None:
    read = codec.roster_read(1, [5, [b"x", b"junk"], [], 1])
    assert (read.members, read.is_whole) == ((), False)


def test_queries_come_after_keys() -> None:
    from coherenced.core.calls import Fetch

    args = codec.fetch_words(Fetch(1, 0, EPOCH, (Query((b"TTL", b"a"), (b"a",)), b"k")))
    assert args == codec.words((EPOCH, 0, b"\x91\x01", b"k", 2, 1, b"TTL", b"a", b"a"))


@pytest.mark.parametrize("want_ack", [False, True])
def test_a_batch_of_sets_says_what_their_mutations_say(want_ack: bool) -> None:
    """But for the words that go without saying: their number, the mode, the command."""
    keys = [b"", b"k", b"key:1", b"key:2", b"k" * 255, b"k" * 256, b"k" * 70_000, b"\x90\x90"]
    sets = tuple(Set.to(key, b"v" * (17 * number)) for number, key in enumerate(keys))
    tags = tuple(b"%016x" % number for number in range(len(sets)))
    acks = tuple(want_ack and number % 3 > 0 for number in range(len(sets)))
    call = Mutate(1, 0, EPOCH, WRITER, acks, (), tags, sets=sets)
    same = Mutate(1, 0, EPOCH, WRITER, acks, call.every, tags)
    assert [m.argv for m in call.every] == [
        (b"SET", key, b"v" * (17 * number)) for number, key in enumerate(keys)
    ]
    script, short = codec.mutate_words(call, NAMES, 100)
    assert script is MUTATE
    script, long = codec.mutate_words(same, NAMES, 100)
    assert script is MUTATE
    first, others = unpacked(short), unpacked(long)
    assert (first[:4], first[4], others[4]) == (others[:4], b"p", b"s")
    for at, word in ((5, b"3"), (6, b""), (9, b"SET")):
        assert set(others[at::7]) == {word}
    meant = [
        word
        for at in range(5, len(others), 7)
        for word in (*others[at + 2 : at + 4], *others[at + 5 : at + 7])
    ]
    assert first[5:] == meant


def test_the_reply_to_sets_is_read_like_any_other() -> None:
    tags = tuple(b"%016x" % number for number in range(3))
    sets = (Set.to(b"a", b"1"), Set.to(b"b", b"2"), Set.to(b"c", b"3"))
    call = Mutate(1, 0, EPOCH, WRITER, (False,) * 3, (), tags, sets=sets)
    same = Mutate(1, 0, EPOCH, WRITER, (False,) * 3, call.every, tags)
    refused = hiredis.ReplyError("OOM no")
    head = [EPOCH, 9, tags[2], 1, b"p" * 16]
    for told in ([7, b"OK", 8, b"OK", 9, b"OK"], [7, b"OK", 0, refused, 8, b"OK"]):
        assert codec.mutated(call, [*head, *told]) == codec.mutated(same, [*head, *told])
    whole = codec.mutated(same, [*head, 7, b"OK", 8, b"OK", 9, b"OK"])
    assert codec.mutated(call, [*head, 7]) == whole
    with pytest.raises(ValueError, match="words for 3 mutations"):
        codec.mutated(call, [*head, 7, b"OK"])
    with pytest.raises(ValueError, match="words for 3 mutations"):
        codec.mutated(same, [*head, 7])
