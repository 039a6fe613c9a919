"""Acknowledgement levels as people write them."""

from __future__ import annotations

import pytest

from coherenced.core.requests import Level


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("none", Level.NONE),
        ("redis", Level.REDIS),
        ("quorum", Level.QUORUM),
        ("all", Level.ALL),
        (" ALL ", Level.ALL),
        ("1", 1),
        ("9999", 9999),
    ],
)
def test_a_level_is_read(text: str, level: int) -> None:
    assert Level.parse(text) == level


@pytest.mark.parametrize("text", ["", "0", "-1", "10000", "some", "1.5", "²", "٣"])
def test_what_is_no_level_is_refused_with_the_choices(text: str) -> None:
    with pytest.raises(ValueError, match="none, redis, quorum, all or a number"):
        Level.parse(text)


def test_a_level_is_named() -> None:
    assert [Level.name(Level.parse(t)) for t in ("none", "redis", "quorum", "all", "3")] == [
        "none",
        "redis",
        "quorum",
        "all",
        "3",
    ]
