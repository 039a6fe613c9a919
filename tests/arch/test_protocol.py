"""The protocol's text and its code speak of the same laws."""

from __future__ import annotations

import re
from pathlib import Path

from coherenced.core.laws import Laws

CORE = Path(__file__).parents[2] / "coherenced" / "core"
TEXT = (CORE / "PROTOCOL.md").read_text("utf-8")
CITED = re.compile(r"\b([WFAVKSTP]\d)\b(?!-)")


def test_every_law_that_the_code_cites_is_in_the_text() -> None:
    told = set(CITED.findall(TEXT))
    cited = {law for path in CORE.glob("*.py") for law in CITED.findall(path.read_text("utf-8"))}
    assert len(told) > 25
    assert cited - told == set()


def test_laws_named_by_their_switch_exist() -> None:
    named = set(re.findall(r"\(`(\w+)`\)", TEXT))
    assert named
    assert named <= set(Laws.__struct_fields__)
