from __future__ import annotations

import pytest

from coherenced.cli import output


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (None, "-"),
        (0, "0 µs"),
        (0.4123, "412 µs"),
        (1.26, "1.3 ms"),
        (999, "999.0 ms"),
        (1500, "1.5 s"),
        (180_000, "3 min"),
        (7_260_000, "2 h 1 min"),
        (259_200_000 + 3_600_000, "3 d 1 h"),
    ],
)
def test_durations(ms: float | None, shown: str) -> None:
    assert output.duration(ms) == shown


@pytest.mark.parametrize(
    ("octets", "shown"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 28, "256.0 MiB")],
)
def test_sizes(octets: float | None, shown: str) -> None:
    assert output.size(octets) == shown


def test_counts() -> None:
    assert output.number(1234567) == "1,234,567"
    assert output.number(None) == "-"
    assert output.percent(0.917) == "91.7 %"
    assert output.percent(None) == "-"
    assert output.counted(1, "node") == "1 node"
    assert output.counted(2, "entry", "entries") == "2 entries"


def test_a_plain_table_is_aligned() -> None:
    table = output.plain_table(["node", "took"], [["a", "0 µs"], ["long-name", "1.5 ms"]])
    assert table == "node       took\na          0 µs\nlong-name  1.5 ms"


def test_what_people_read_cannot_drive_their_terminal() -> None:
    assert output.printable("plain ключ") == "plain ключ"
    assert output.shown(b"a\x1b[31m\n\tb\xff") == r"a\x1b[31m\n\tb\xff"


def test_values_as_the_http_interface_writes_them() -> None:
    assert output.json_value(b"a") == {"value": "a"}
    assert output.json_value(b"\xff") == {"value_base64": "/w=="}


def test_a_terminal_gets_a_table_in_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    output.print_table(["node", "took"], [["[red]a", "0 µs"]], title="Nodes")
    shown = capsys.readouterr().out
    assert "[red]a" in shown  # nobody's name is markup
    assert "─" in shown
