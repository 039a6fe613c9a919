"""Figures drawn in text."""

from __future__ import annotations

from coherenced.bench.plot import WIDTH, bar, bars, columns


def test_the_longest_bar_is_as_wide_as_there_is_room() -> None:
    assert bars([("1 node", 1.0), ("16 nodes", 4.0)], "µs") == [
        f"  1 node  {chr(9608) * 10}{' ' * 30} 1 µs",
        f"16 nodes  {chr(9608) * 40} 4 µs",
    ]
    assert bars([], "µs") == []
    assert bars([("none", 0.0)], "µs") == [f"none  {' ' * WIDTH} 0 µs"]


def test_a_bar_is_exact_to_an_eighth() -> None:
    assert bar(0.5 / WIDTH) == "▌"
    assert bar(-1.0) == "" and len(bar(2.0)) == WIDTH


def test_columns_stand_below_each_other() -> None:
    assert columns([("a", "bb", "what"), ("100", "2", "")]) == ["  a  bb  what", "100   2"]
