"""The client in both of its forms: hits compiled, and hits in Python (client/hits.py chooses)."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Any, Final, NamedTuple

import coherenced
from coherenced.client import hits

FORMS: Final = ("native", "python")
HOW_TO_BUILD: Final = "run: python -m coherenced.native"


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
    mine = {key: one for key, one in sys.modules.items() if _is_clients(key)}
    package = coherenced.client
    for key in mine:
        del sys.modules[key]
    sys.modules["coherenced.client._hits"] = None  # type: ignore[assignment]  # as if not built
    try:
        return _imported(name)
    finally:
        for key in [key for key in sys.modules if _is_clients(key)]:
            del sys.modules[key]
        sys.modules.update(mine)
        coherenced.client = package


def _is_clients(module: str) -> bool:
    return module == "coherenced.client" or module.startswith("coherenced.client.")


def _imported(name: str) -> Form:
    modules = [importlib.import_module(f"coherenced.client.{n}") for n in ("hits", "l0")]
    sync, aio = (importlib.import_module(f"coherenced.client.{n}") for n in ("sync", "aio"))
    return Form(name, *modules, sync.Client, aio.AsyncClient)
