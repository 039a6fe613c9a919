"""Printing: plain text on a pipe, tables and colour on a terminal, JSON when asked for.

rich is imported only where a terminal is there to show it.
"""

from __future__ import annotations

import shutil
import sys
from binascii import b2a_base64
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any


def note(text: str) -> None:
    """A remark beside the output, on stderr."""
    print(f"coherenced: {printable(' '.join(text.split()))}", file=sys.stderr)


def print_json(document: Any) -> None:
    """One document, indented for a person, on one line for a program."""
    import json

    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(document, indent=indent, ensure_ascii=False), flush=True)


def shown(raw: bytes) -> str:
    """Bytes for people, on one line: text where it is text."""
    return printable(raw.decode("utf-8", "backslashreplace"))


def printable(text: str) -> str:
    """`text` without what would move the cursor or colour the terminal of whoever reads it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def json_value(raw: bytes) -> dict[str, str]:
    """A value as the HTTP interface writes it."""
    try:
        return {"value": raw.decode()}
    except UnicodeDecodeError:
        return {"value_base64": b2a_base64(raw, newline=False).decode("ascii")}


def print_raw(raw: bytes) -> None:
    """The bytes and nothing else; on a terminal a line end, so that the prompt stays legible."""
    sys.stdout.flush()
    sys.stdout.buffer.write(raw)
    if sys.stdout.isatty() and not raw.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def width() -> int:
    """Columns of the terminal; 0 where there is none: on a pipe no line is folded."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def folded(text: str, most: int, indent: int = 2) -> str:
    """`text` in lines of at most `most` columns (0: one line), broken between words; the second
    and further ones begin `indent` to the right."""
    if not most or len(text) <= most:
        return text
    rest = " " * (indent if indent < most // 2 else 2)
    return "\n".join(wrap(text, most, subsequent_indent=rest, break_on_hyphens=False))


def fact_lines(facts: Iterable[Sequence[str]], label: int = 18) -> list[str]:
    """What, and beside it how much; `label` columns for the former."""
    most = width()
    return [folded(f"{what:<{label}}{figure}", most, label) for what, figure in facts]


def show_page(text: str) -> None:
    """A page in the place of the one before it: what a terminal is wide and high, and no more."""
    most, rows = shutil.get_terminal_size()
    lines = "\n".join(folded(line, most) for line in text.split("\n")).split("\n")
    # Home, each line cleared to its end, the rest cleared below: no flicker.
    print("\x1b[H" + "\x1b[K\n".join(lines[: rows - 1]) + "\x1b[J", flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table with a heading line; numbers are the caller's texts."""
    lines = [[printable(cell) for cell in row] for row in rows]
    most = width()
    if most and not _fits(columns, lines, most):
        print("\n".join([title] * bool(title) + [plain_table(columns, lines, most)]))
        return
    if most:
        from rich.console import Console

        Console().print(rich_table(columns, lines, title))
        return
    if title:
        print(title)
    print(plain_table(columns, lines))


def _fits(columns: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> bool:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return sum(widths) + 3 * len(widths) <= most  # the space that a drawn table takes


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], most: int = 0) -> str:
    """Columns aligned by spaces. A table wider than `most` (0: any) becomes a paragraph a row."""
    if most and not _fits(columns, rows, most):
        paragraphs = []
        for first, *cells in rows:
            told = [
                cell if len(columns) == 2 else f"{what} {cell}"
                for what, cell in zip(columns[1:], cells, strict=True)
                if cell
            ]
            paragraphs += [folded(first, most), folded("  " + ", ".join(told), most)]
        return "\n".join(paragraphs)
    lines = [list(columns), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        *columns, box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False
    )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: no markup in anybody's key
    return table


def counted(count: float | None, one: str, many: str = "") -> str:
    """`1 node`, `2 nodes`, `- nodes`."""
    return f"{number(count)} {one if count == 1 else many or f'{one}s'}"


def number(value: float | None) -> str:
    """A count with its thousands apart; `-` for none."""
    return "-" if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f} %"


def duration(ms: float | None) -> str:
    """Milliseconds in the unit that reads best."""
    if ms is None:
        return "-"
    if ms < 1:
        return f"{ms * 1000:.0f} µs"
    if ms < 1000:
        return f"{ms:.1f} ms"
    if ms < 120_000:
        return f"{ms / 1000:.1f} s"
    minutes = int(ms / 60_000)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def size(octets: float | None) -> str:
    """Bytes in the unit that reads best."""
    if octets is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if octets < 1024 or unit == "GiB":
            break
        octets /= 1024
    return f"{octets:.0f} {unit}" if unit == "B" else f"{octets:.1f} {unit}"
