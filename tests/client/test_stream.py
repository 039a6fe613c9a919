from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coherenced.client.stream import Conversation
from coherenced.errors import Conflict, ProtocolError


@given(st.lists(st.binary(max_size=40), min_size=1), st.integers(1, 7))
def test_replies_come_out_whatever_the_pieces(values: list[bytes], step: int) -> None:
    stream = b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)
    conversation = Conversation()
    replies = []
    for start in range(0, len(stream), step):
        replies += conversation.received(stream[start : start + step])
    assert replies == values


def test_it_says_the_password_first() -> None:
    assert Conversation().opening() is None
    opening = Conversation("secret").opening()
    assert opening is not None
    assert opening.data == b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n"


def test_another_protocol_is_named() -> None:
    with pytest.raises(ProtocolError, match=r"http\.sock"):
        Conversation().received(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_error_replies_are_values() -> None:
    (reply,) = Conversation().received(b"-CONFLICT changed\r\n")
    assert isinstance(reply, Conflict)
