"""The RESP front end in both of its forms: compiled, and in Python (serve/quiet.py chooses)."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import NamedTuple

from coherenced.serve import quiet
from tests.forms import FORMS, without

__all__ = ["FORMS", "Form", "form"]


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
    return without("serve", "_quiet", lambda: _imported(name))


def _imported(name: str) -> Form:
    return Form(
        name, *(importlib.import_module(f"coherenced.serve.{n}") for n in ("quiet", "resp"))
    )
