"""The RESP front end in both of its forms: compiled, and in Python (serve/quiet.py chooses)."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Final, NamedTuple

import coherenced
from coherenced.serve import quiet

FORMS: Final = ("native", "python")
_PACKAGE: Final = "coherenced.serve"


class Form(NamedTuple):
    """The front end's modules, as a process of this form has them."""

    name: str
    quiet: ModuleType
    resp: ModuleType


@cache
def form(name: str) -> Form | None:
    """None: this one cannot be had here."""
    if name == "native":
        return _imported(name) if quiet.NATIVE else None
    mine = {key: one for key, one in sys.modules.items() if _is_serving(key)}
    package = coherenced.serve
    for key in mine:
        del sys.modules[key]
    sys.modules[f"{_PACKAGE}._quiet"] = None  # type: ignore[assignment]  # as if not built
    try:
        return _imported(name)
    finally:
        for key in [key for key in sys.modules if _is_serving(key)]:
            del sys.modules[key]
        sys.modules.update(mine)
        coherenced.serve = package


def _is_serving(module: str) -> bool:
    return module == _PACKAGE or module.startswith(f"{_PACKAGE}.")


def _imported(name: str) -> Form:
    return Form(name, *(importlib.import_module(f"{_PACKAGE}.{n}") for n in ("quiet", "resp")))
