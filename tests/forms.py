"""A package in both of its forms, where part of it is compiled: as it is, and in Python alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Final, TypeVar

import pytest

import coherenced
from coherenced import native

T = TypeVar("T")

FORMS: Final = ("native", "python")
HOW_TO_BUILD: Final = "run: python -m coherenced.native"


def without(package: str, compiled: str, load: Callable[[], T]) -> T:
    """What `load` imports of `coherenced.<package>` when its module `compiled` is not built. The
    modules that were loaded before are untouched."""
    name = f"coherenced.{package}"

    def loaded() -> dict[str, ModuleType]:
        return {key: one for key, one in sys.modules.items() if f"{key}.".startswith(f"{name}.")}

    mine, kept = loaded(), getattr(coherenced, package)
    for key in mine:
        del sys.modules[key]
    sys.modules[f"{name}.{compiled}"] = None  # type: ignore[assignment]
    try:
        return load()
    finally:
        for key in loaded():
            del sys.modules[key]
        sys.modules.update(mine)
        setattr(coherenced, package, kept)


def assert_compiled(chooser: ModuleType, source: Path) -> None:
    """That `chooser` has found what is built of `source` as it is now; skipped where nothing can
    be built."""
    if chooser.OFF in os.environ:
        pytest.skip(f"{chooser.OFF} is set")
    try:
        native.compiler()
    except native.CannotBuild as why:
        pytest.skip(f"nothing can be compiled here: {why}")
    assert chooser.NATIVE, f"it is not compiled in this checkout; {HOW_TO_BUILD}"
    name = f"{chooser.__name__.rpartition('.')[0]}.{source.stem}"
    stale = f"what is built is not of this {source.name}; {HOW_TO_BUILD}"
    assert native.source_number(source) == sys.modules[name].SOURCE, stale
