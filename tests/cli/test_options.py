from __future__ import annotations

import click
import pytest

from coherenced.cli.options import ack_level, duration, name, patience


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("2s", 2), ("500ms", 0.5), ("1.5m", 90), ("1h", 3600), ("1d", 86400), ("3", 3), (" 2s ", 2)],
)
def test_durations(written: str, seconds: float) -> None:
    assert duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["", "s", "2 weeks", "2x", "-1s", "0", "nan", "inf", "1e99"])
def test_what_is_no_duration(written: str) -> None:
    with pytest.raises(click.BadParameter, match="is no duration"):
        duration(written)


def test_nobody_waits_for_acknowledgements_for_longer_than_an_hour() -> None:
    assert patience("1h") == 3600
    with pytest.raises(click.BadParameter, match="at most 1h"):
        patience("61m")


@pytest.mark.parametrize("written", ["none", "redis", "Quorum", " all ", "1", "9999"])
def test_levels(written: str) -> None:
    assert ack_level(written) == written.strip().lower()


@pytest.mark.parametrize("written", ["", "most", "0", "10000", "-1", "1.5", "²"])
def test_what_is_no_level(written: str) -> None:
    with pytest.raises(click.BadParameter, match="is no level"):
        ack_level(written)


def test_names_are_the_bytes_of_the_shell() -> None:
    assert name("ключ") == "ключ".encode()
    assert name("\udcff") == b"\xff"
