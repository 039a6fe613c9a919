"""The protocol's words: versions are read strictly, values compare and print as themselves."""

from __future__ import annotations

import msgspec
import pytest

from coherenced.core.model import (
    EVERYTHING,
    WANT_ACK,
    Message,
    Op,
    Record,
    ReplyError,
    Version,
)
from tests.core.driver import EPOCH, record


def test_a_version_is_written_epoch_colon_seq_and_read_back() -> None:
    version = Version(EPOCH, 42)
    assert str(version) == "00000000000000e1:42"
    assert version.encode() == b"00000000000000e1:42"
    assert Version.parse(str(version)) == Version.parse(version.encode()) == version


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b":",
        b"00000000000000e1",
        b"00000000000000e1:",
        b"00000000000000e1:-1",
        b"00000000000000e1:1x",
        b"00000000000000e:1",
        b"00000000000000e1:1234567890123456789",
        "00000000000000e1:²",
        "é0000000000000e1:1",
    ],
)
def test_what_is_not_a_version_is_refused_in_one_line(text: bytes | str) -> None:
    with pytest.raises(ValueError, match="a version is written epoch:seq"):
        Version.parse(text)


@pytest.mark.parametrize("epoch", [b"\xff" * 16, b"00000000000\r\nERR", b"zzzzzzzzzzzzzzzz"])
def test_a_version_whose_epoch_is_not_hexadecimal_is_refused(epoch: bytes) -> None:
    """It is printed into error lines: bytes that cannot be printed must not get so far."""
    with pytest.raises(ValueError, match="a version is written epoch:seq"):
        Version.parse(epoch + b":1")


def test_the_flags_of_a_record() -> None:
    assert not record(1).everything
    assert not record(1).wants_ack
    assert record(1, flags=EVERYTHING).everything
    assert record(1, flags=WANT_ACK).wants_ack
    both = record(1, flags=EVERYTHING | WANT_ACK)
    assert both.everything and both.wants_ack


def test_every_op_has_a_name() -> None:
    ops = {name: value for name, value in vars(Op).items() if name.isupper() and value != Op.NAMES}
    assert {Op.NAMES[value]: value for value in ops.values()} == {
        name.lower(): value for name, value in ops.items()
    }
    assert len(Op.NAMES) == len(ops)


def test_a_record_travels_as_an_array_and_comes_back_equal() -> None:
    sent = Message(0, EPOCH, 7, b"t", (record(7, b"\x00\xff", tags=(b"a",), prefixes=(b"p",)),))
    wire = msgspec.msgpack.encode(sent)
    assert msgspec.msgpack.decode(wire, type=Message) == sent
    assert msgspec.msgpack.decode(wire)[4][0][0] == 7


def test_a_record_may_leave_out_what_it_does_not_cover() -> None:
    short = msgspec.msgpack.encode([7, b"p", b"t", 0, 0, b"w"])
    assert msgspec.msgpack.decode(short, type=Record) == Record(7, b"p", b"t", 0, 0, b"w")


def test_a_reply_error_is_a_value() -> None:
    assert ReplyError("ERR x") == ReplyError("ERR x")
    assert ReplyError("ERR x") != ReplyError("ERR y")
    assert ReplyError("ERR x") != "ERR x"
    assert len({ReplyError("ERR x"), ReplyError("ERR x")}) == 1
    assert ReplyError("ERR x").text == str(ReplyError("ERR x")) == "ERR x"
