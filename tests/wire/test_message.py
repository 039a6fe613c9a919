"""wire/message.py: bytes and values are exact inverses, and no bytes do harm."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coherenced.core.model import (
    EVERYTHING,
    TAG_BYTES,
    WANT_ACK,
    Acknowledgement,
    Member,
    Message,
    Op,
    Record,
)
from coherenced.errors import ProtocolError
from coherenced.wire import message as wire

tags = st.binary(min_size=16, max_size=16)
names = st.lists(st.binary(max_size=300), max_size=20).map(tuple)
numbers = st.integers(0, 2**53)
records = st.builds(
    Record,
    seq=numbers,
    prev=tags,
    tag=tags,
    op=st.integers(0, len(Op.NAMES) - 1),
    flags=st.integers(0, WANT_ACK | EVERYTHING),
    writer=tags,
    keys=names,
    tags=names,
    prefixes=names,
)
messages = st.builds(
    Message,
    lane=st.integers(0, 16383),
    epoch=tags,
    seq=numbers,
    tag=tags,
    records=st.lists(records, max_size=5).map(tuple),
)
acks = st.builds(
    Acknowledgement,
    incarnation=tags,
    name=st.text(max_size=200),
    lane=st.integers(0, 16383),
    epoch=tags,
    seq=numbers,
    tag=tags,
)
members = st.builds(
    Member,
    incarnation=tags,
    name=st.text(max_size=200),
    bound_ms=st.integers(0, 2**40),
    beat=numbers,
    version=st.text(max_size=20),
    seen_ms=numbers,
)


@given(messages)
def test_message_and_bytes_are_inverse(message: Message) -> None:
    packed = wire.encode_message(message)
    if len(packed) <= wire.ACCEPTED_BYTES:
        assert wire.decode_message(packed) == message
    assert packed.startswith(wire.message_head(message.lane))


@given(records)
def test_body_and_place_make_the_record(record: Record) -> None:
    body = wire.encode_body(
        record.op, record.flags, record.writer, record.keys, record.tags, record.prefixes
    )
    assert wire.decode_record(record.seq, record.prev, record.tag, body) == record
    # What a script builds around a body is what the record packs to.
    assert wire.encode_record(record).endswith(body)


@given(acks)
def test_acknowledgement_and_bytes_are_inverse(ack: Acknowledgement) -> None:
    assert wire.decode_ack(wire.encode_ack(ack)) == ack


@given(members)
def test_member_and_bytes_are_inverse(member: Member) -> None:
    packed = wire.encode_member(member)
    assert wire.decode_member(packed) == member
    assert packed == wire.encode_member_open(member) + msgspec.msgpack.encode(member.seen_ms)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read_but_nothing_else(junk: bytes) -> None:
    for decode in (wire.decode_message, wire.decode_ack, wire.decode_member):
        try:
            decode(junk)
        except ProtocolError as error:
            assert "\n" not in str(error)
    with pytest.raises(ProtocolError):
        wire.decode_record(1, b"short", b"t" * 16, junk)


@given(messages, st.data())
def test_a_truncated_message_is_refused(message: Message, data: st.DataObject) -> None:
    packed = wire.encode_message(message)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ProtocolError):
        wire.decode_message(packed[:cut])


def test_a_message_with_an_epoch_of_another_length_is_refused() -> None:
    forged = Message(lane=0, epoch=b"short", seq=1, tag=b"t" * 16)
    with pytest.raises(ProtocolError, match="16 bytes"):
        wire.decode_message(wire.encode_message(forged))


def test_an_oversized_payload_is_not_looked_into() -> None:
    with pytest.raises(ProtocolError, match="bytes"):
        wire.decode_message(b"\x00" * (wire.ACCEPTED_BYTES + 1))
    with pytest.raises(ProtocolError, match="bytes"):
        wire.decode_ack(b"\x00" * (wire.ACCEPTED_BYTES + 1))


def test_deep_nesting_is_refused() -> None:
    message = Message(lane=0, epoch=b"e" * 16, seq=1, tag=b"t" * 16)
    packed = b"\x96" + wire.encode_message(message)[1:] + b"\x91" * 60_000
    with pytest.raises(ProtocolError):
        wire.decode_message(packed)


def test_a_body_is_the_concatenation_of_its_fields() -> None:
    body = wire.encode_body(Op.WRITE, WANT_ACK, b"w" * 16, (b"k\xff",))
    assert body == b"\x00\x01\xc4\x10" + b"w" * 16 + b"\x91\xc4\x02k\xff\x90\x90"


@given(messages.filter(lambda message: message.lane < 128))
def test_the_tag_of_a_message_is_found_by_its_place(message: Message) -> None:
    assert wire.told_tag(wire.encode_message(message)) == message.tag


@given(st.binary(max_size=60))
def test_what_is_looked_at_by_place_alone_may_be_anything(payload: bytes) -> None:
    assert len(wire.told_tag(payload)) <= TAG_BYTES
