"""The client in both of its forms: hits compiled, and hits in Python (client/hits.py chooses)."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

from coherenced.client import hits
from tests.forms import FORMS, HOW_TO_BUILD, without

__all__ = ["FORMS", "HOW_TO_BUILD", "Form", "form"]


class Form(NamedTuple):
    """The client's modules, as a process of this form has them."""

    name: str
    hits: ModuleType
    l0: ModuleType
    Client: Any
    AsyncClient: Any

    @property
    def is_native(self) -> bool:
        return self.name == "native"


@cache
def form(name: str) -> Form | None:
    """None: this one cannot be had here."""
    if name == "native":
        return _imported(name) if hits.NATIVE else None
    return without("client", "_hits", lambda: _imported(name))


def _imported(name: str) -> Form:
    modules = [importlib.import_module(f"coherenced.client.{n}") for n in ("hits", "l0")]
    sync, aio = (importlib.import_module(f"coherenced.client.{n}") for n in ("sync", "aio"))
    return Form(name, *modules, sync.Client, aio.AsyncClient)
