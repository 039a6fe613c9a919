"""Libraries, loaded without what a daemon never uses of them.

    structlog  imports rich where it is installed, for coloured tracebacks that a daemon must
               never print: 3 MB of memory on every host
    aiohttp    reads this host's certificate authorities when it is imported, twice: 40 ms of
               every start. Who asks an origin over TLS reads them then (`origin.fetcher`)

The first import of a library decides, so the floors that use one load it in their
`__init__`. What was loaded in another way before stays as it is.
"""

from __future__ import annotations

import contextlib
import ssl
import sys
from collections.abc import Iterator
from typing import Any, cast


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """`import module` finds nothing meanwhile, unless it is loaded already."""
    if module in sys.modules:
        yield
        return
    modules = cast(dict[str, Any], sys.modules)
    modules[module] = None
    try:
        yield
    finally:
        del modules[module]


@contextlib.contextmanager
def without_authorities() -> Iterator[None]:
    """TLS contexts that are made meanwhile trust nobody: every certificate is refused."""
    made = cast(Any, ssl.SSLContext)  # a class in Python, whose base has the method in C
    made.set_default_verify_paths = lambda context: None
    try:
        yield
    finally:
        del made.set_default_verify_paths
