"""Each law is on in every daemon, says its number, and is really looked at by the core."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

import coherenced.core
from coherenced.core.laws import Laws

CORE = Path(coherenced.core.__file__).parent
SWITCHES = [field.name for field in msgspec.structs.fields(Laws)]


def test_all_laws_are_in_force_unless_a_test_says_otherwise() -> None:
    assert all(getattr(Laws(), name) for name in SWITCHES)


def test_laws_cannot_be_switched_off_later() -> None:
    with pytest.raises(AttributeError):
        Laws().gap_check = False  # type: ignore[misc]


@pytest.mark.parametrize("name", SWITCHES)
def test_the_law_is_looked_at_by_the_core(name: str) -> None:
    """A switch that nothing reads would make its ablation pass for the wrong reason."""
    readers = [p for p in CORE.glob("*.py") if re.search(rf"laws\.{name}\b", p.read_text())]
    assert readers


def test_every_law_says_its_number() -> None:
    words = re.findall(
        r"^    (\w+): bool = True\n    \"\"\"([A-Z]\d)", (CORE / "laws.py").read_text(), re.M
    )
    assert [name for name, _ in words] == SWITCHES
