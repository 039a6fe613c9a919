"""Figures drawn in text: a bar for each point, a table of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WIDTH: Final = 40
PARTS: Final = " ▏▎▍▌▋▊▉█"
"""Eighths of a cell."""


def bars(points: Sequence[tuple[str, float]], unit: str) -> list[str]:
    """`label  ████▌ 12.3 unit`, the longest of them WIDTH wide."""
    most = max((value for _, value in points), default=0.0)
    widest = max((len(label) for label, _ in points), default=0)
    return [
        f"{label:>{widest}}  {bar(value / most if most else 0.0):<{WIDTH}} {value:.3g} {unit}"
        for label, value in points
    ]


def bar(share: float) -> str:
    """`share` of WIDTH, to an eighth of a cell."""
    eighths = round(max(0.0, min(1.0, share)) * WIDTH * 8)
    whole, rest = divmod(eighths, 8)
    return PARTS[8] * whole + (PARTS[rest] if rest else "")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells below each other, aligned to the right, the last one to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                *(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)),
                row[-1],
            ]
        ).rstrip()
        for row in rows
    ]
