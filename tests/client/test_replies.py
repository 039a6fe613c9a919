from __future__ import annotations

import pytest

from coherenced.client.replies import Version, error_from, text_of
from coherenced.errors import (
    SPOOLED,
    CoherencedError,
    CommandError,
    Conflict,
    Contended,
    Indeterminate,
    NotAcknowledged,
    ProtocolError,
    RedisUnreachable,
    UsageError,
)

VERSION = "0f1e2d3c4b5a6978:42"


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("UNAVAILABLE Redis is down", RedisUnreachable, "Redis is down"),
        ("INDETERMINATE the reply was lost", Indeterminate, "the reply was lost"),
        ("CONFLICT the key has changed", Conflict, "the key has changed"),
        ("TRYAGAIN another write was first", Contended, "another write was first"),
        ("WRONGTYPE Operation against", CommandError, "WRONGTYPE Operation against"),
        ("ERR keys that start with coh: are reserved", UsageError, "keys that start with coh: are"),
        ("ERR a key is longer than limits.max_key_bytes (9)", UsageError, "a key is longer than"),
        (
            "ERR Protocol error: invalid bulk length: 9 bytes are more than limits.max_value_bytes",
            UsageError,
            "9 bytes are more than limits.max_value_bytes",
        ),
        ("ERR unknown command", CommandError, "ERR unknown command"),
        ("", CommandError, ""),
    ],
)
def test_error_replies_become_errors(text: str, kind: type[CoherencedError], said: str) -> None:
    error = error_from(text)
    assert type(error) is kind
    assert str(error).startswith(said)


def test_noack_carries_the_version_and_who_is_missing() -> None:
    error = error_from(f"NOACK committed {VERSION} missing=b,c acknowledged=a fenced=d later=words")
    assert isinstance(error, NotAcknowledged)
    assert (error.version, error.missing) == (VERSION, ("b", "c"))
    assert (error.acknowledged, error.fenced) == (("a",), ("d",))
    assert str(error) == f"committed at {VERSION}, but not acknowledged in time by b, c"


def test_noack_tells_how_long_it_took_those_who_acknowledged() -> None:
    error = error_from(f"NOACK committed {VERSION} missing=c acknowledged=a,b after_ms=0.000,1.250")
    assert isinstance(error, NotAcknowledged)
    assert error.took_ms == {"a": 0.0, "b": 1.25}
    assert error.acknowledged == ("a", "b")


def test_noack_tells_of_more_nodes_than_there_are() -> None:
    error = error_from(
        f"NOACK committed {VERSION} missing=(2 more nodes than there are),b fenced=c"
    )
    assert isinstance(error, NotAcknowledged)
    assert error.missing == ("(2 more nodes than there are)", "b")
    assert (error.version, error.fenced) == (VERSION, ("c",))


def test_what_is_journaled_is_not_called_committed() -> None:
    error = error_from("NOACK journaled missing=(spooled)")
    assert isinstance(error, NotAcknowledged)
    assert (error.version, error.missing) == ("", (SPOOLED,))
    assert "journaled" in str(error)
    assert "committed" not in str(error)


@pytest.mark.parametrize("text", ["NOACK", "NOACK committed", "NOACK missing=", "NOACK missing=,"])
def test_a_short_noack_is_no_crash(text: str) -> None:
    error = error_from(text)
    assert isinstance(error, NotAcknowledged)
    assert error.missing == ()


def test_a_version_is_text_with_parts() -> None:
    version = Version(VERSION)
    assert version == VERSION
    assert (version.epoch, version.seq) == ("0f1e2d3c4b5a6978", 42)
    assert not Version()
    assert (Version().epoch, Version().seq) == ("", 0)


def test_a_reply_of_another_shape_is_a_protocol_error() -> None:
    assert text_of(b"a") == text_of("a") == "a"
    with pytest.raises(ProtocolError, match="another version"):
        text_of(7)
