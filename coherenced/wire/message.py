"""What travels on the bus and stands in the log, as bytes.

Everything is msgpack. A record's *body* (what its writer knows before the record has a
place in the log) is packed by the writer as the plain concatenation of `op, flags,
writer, keys, tags, prefixes`; the script that appends it puts `seq, prev, tag` before
it, so that the server never has to take a body apart. Byte strings are msgpack *bin*.

Bytes come from a channel that anyone with access to the server can publish on: whatever
is not exactly one of ours is a `ProtocolError`, never anything else.
"""

from __future__ import annotations

from typing import Final

import msgspec

from coherenced.core.model import TAG_BYTES, Acknowledgement, Member, Message, Record
from coherenced.errors import ProtocolError

MESSAGE_BYTES: Final = 4096
"""W6: a longer message carries no records: its receivers read the log."""
ACCEPTED_BYTES: Final = 16 * MESSAGE_BYTES
"""A longer payload on the bus is not one of ours, and is not looked into."""

_RECORD_HEAD: Final = b"\x99"
_MESSAGE_HEAD: Final = b"\x95"
_BIN: Final = b"\xc4\x10"
"""Head of a bin of 16 bytes: an epoch or a tag."""

_SEQ_AT: Final = 20
"""Where the sequence of a message stands, behind its lane (of one byte) and its epoch."""
_SEQ_BYTES: Final = {b"\xcc": 2, b"\xcd": 3, b"\xce": 5, b"\xcf": 9}
"""How long it is, by its first byte; one byte else."""

_BAD: Final = (msgspec.MsgspecError, RecursionError)
"""What decoding raises: also for arrays that are nested too deeply."""


_encode = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_ack = msgspec.msgpack.Decoder(Acknowledgement).decode
_decode_member = msgspec.msgpack.Decoder(Member).decode


def encode_body(
    op: int,
    flags: int,
    writer: bytes,
    keys: tuple[bytes, ...] = (),
    tags: tuple[bytes, ...] = (),
    prefixes: tuple[bytes, ...] = (),
) -> bytes:
    """What its writer says of a record: everything but its place in the log."""
    return _encode((op, flags, writer, keys, tags, prefixes))[1:]


def body_head(op: int, flags: int, writer: bytes) -> bytes:
    """How a body begins; its keys, tags and prefixes follow."""
    return b"".join(map(_encode, (op, flags, writer)))


def encode_record(record: Record) -> bytes:
    """A whole record, as the scripts build it."""
    return _encode(record)


def decode_record(seq: int, prev: bytes, tag: bytes, body: bytes) -> Record:
    """Read a log entry; ProtocolError when it is not a record."""
    if len(prev) != TAG_BYTES or len(tag) != TAG_BYTES:
        raise ProtocolError(f"log entry {seq}: a tag has {TAG_BYTES} bytes")
    try:
        return _decode_record(b"".join((_RECORD_HEAD, _encode(seq), _BIN, prev, _BIN, tag, body)))
    except _BAD as error:
        raise ProtocolError(f"log entry {seq} is not a record: {error}") from None


def message_head(lane: int) -> bytes:
    """The first bytes of every message of `lane`; the rest is up to the script."""
    return _MESSAGE_HEAD + _encode(lane)


def encode_message(message: Message) -> bytes:
    """A message as the scripts publish it."""
    return _encode(message)


def decode_message(payload: bytes) -> Message:
    """Read what arrived on the bus; ProtocolError when it is not a message."""
    if len(payload) > ACCEPTED_BYTES:
        raise ProtocolError(f"a message of {len(payload)} bytes")
    try:
        message = _decode_message(payload)
    except _BAD as error:
        raise ProtocolError(f"not a message: {error}") from None
    if len(message.epoch) != TAG_BYTES or len(message.tag) != TAG_BYTES:
        raise ProtocolError(f"not a message: an epoch and a tag have {TAG_BYTES} bytes")
    return message


def told_tag(payload: bytes) -> bytes:
    """The tag that a message tells, found by its place alone; any other bytes where it is none."""
    at = _SEQ_AT + _SEQ_BYTES.get(payload[_SEQ_AT : _SEQ_AT + 1], 1) + 2
    return payload[at : at + TAG_BYTES]


def encode_ack(ack: Acknowledgement) -> bytes:
    """An acknowledgement as it travels to the writer."""
    return _encode(ack)


def decode_ack(payload: bytes) -> Acknowledgement:
    """Read an acknowledgement; ProtocolError when it is not one."""
    if len(payload) > ACCEPTED_BYTES:
        raise ProtocolError(f"an acknowledgement of {len(payload)} bytes")
    try:
        return _decode_ack(payload)
    except _BAD as error:
        raise ProtocolError(f"not an acknowledgement: {error}") from None


def encode_member(member: Member) -> bytes:
    """A line of the roster."""
    return _encode(member)


def encode_member_open(member: Member) -> bytes:
    """A line of the roster up to its last field, `seen_ms`, which the script fills in."""
    fields = (member.incarnation, member.name, member.bound_ms, member.beat, member.version)
    return b"\x96" + b"".join(map(_encode, fields))


def decode_member(packed: bytes) -> Member:
    """Read a line of the roster; ProtocolError when it is not one."""
    try:
        return _decode_member(packed)
    except _BAD as error:
        raise ProtocolError(f"not a line of the roster: {error}") from None
