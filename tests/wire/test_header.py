from __future__ import annotations

from multidict import CIMultiDict

from coherenced.wire.header import field


def test_several_lines_are_one_list() -> None:
    lines = CIMultiDict([("Cache-Control", "max-age=5"), ("X", "y"), ("cache-control", "private")])
    assert field(lines, "Cache-Control") == "max-age=5, private"
    assert field(lines, "X") == "y"
    assert field(lines, "Vary") is None
    assert field({"X": "y"}, "X") == "y"
    assert field({}, "X") is None
