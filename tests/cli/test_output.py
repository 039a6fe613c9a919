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


def test_a_table_that_is_too_wide_becomes_paragraphs() -> None:
    columns = ["node", "state", "bound"]
    rows = [["a-name", "live", "1.0 s"], ["b", "SILENT", ""]]
    assert output.plain_table(columns, rows, 40) == output.plain_table(columns, rows)
    assert output.plain_table(columns, rows, 16) == (
        "a-name\n  state live,\n  bound 1.0 s\nb\n  state SILENT"
    )
    events = output.plain_table(["at", "event"], [["12:00", "a node joined"]], 12)
    assert events == "12:00\n  a node\n  joined"


def test_lines_are_folded_between_words_and_only_on_a_terminal() -> None:
    text = "writes            12 committed, 0 refused"
    assert output.folded(text, 0) == text
    assert (
        output.folded(text, 40, 18) == "writes            12 committed, 0\n" + " " * 18 + "refused"
    )
    assert output.folded(text, 30, 18) == "writes            12\n  committed, 0 refused"
    long = output.folded("x" * 100, 40)
    assert max(map(len, long.split("\n"))) == 40
    assert long.replace("\n", "").replace(" ", "") == "x" * 100


def test_a_page_is_no_larger_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: (20, 5))
    output.show_page("one line\n" + "word " * 10 + "\n" + "more\n" * 10)
    shown = capsys.readouterr().out
    assert shown.startswith("\x1b[H") and shown.endswith("\x1b[J\n")
    assert shown.count("\n") == 4
    assert "word word word\x1b[K" in shown


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
