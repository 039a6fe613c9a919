"""codec.py: which script carries a batch, and replies that are none. The rest is in test_mutate."""

from __future__ import annotations

import hiredis
import pytest

from coherenced.core.calls import Mutate
from coherenced.core.model import Mutation, Query, ReplyError
from coherenced.errors import ProtocolError
from coherenced.upstream import codec
from coherenced.upstream.scripts import LANE_SCRIPTS, MUTATE, MUTATE_FREEING
from tests.upstream.lanes import EPOCH, NAMES, WRITER, delete, incr, invalidate, set_


def script_of(*mutations: Mutation) -> bytes:
    call = Mutate(
        1, 0, EPOCH, WRITER, (False,) * len(mutations), mutations, (b"t" * 16,) * len(mutations)
    )
    return codec.mutate_args(call, NAMES, 100)[0].sha


def test_only_batches_that_free_memory_go_when_it_is_full() -> None:
    read = Mutation((b"GET", b"a"), keys=(b"a",), is_write=False)
    assert script_of(delete(b"a")) == MUTATE_FREEING.sha
    assert script_of(delete(b"a"), invalidate(b"b"), read) == MUTATE_FREEING.sha
    assert script_of(set_(b"a", b"1")) == MUTATE.sha
    assert script_of(delete(b"a"), incr(b"n")) == MUTATE.sha


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
    assert codec.roster_read(1, [5, [b"x", b"junk"]]).members == ()


def test_queries_come_after_keys() -> None:
    from coherenced.core.calls import Fetch

    args = codec.fetch_args(Fetch(1, 0, EPOCH, (Query((b"TTL", b"a"), (b"a",)), b"k")))
    assert args == [EPOCH, 1, b"k", 2, 1, b"TTL", b"a", b"a"]
