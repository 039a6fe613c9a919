"""A hit of L0: compiled (`_hits.c`) where that was built with the package, else in Python (`pure`).

The one place where it is chosen, when the client is imported; nothing else differs by it. With
`COHERENCED_PURE` in the environment, whatever its value, it is Python: for who suspects the other,
and for measuring.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from coherenced.client.pure import Kept, hits_first, look

__all__ = ["NATIVE", "OFF", "Kept", "hits_first", "look"]

OFF: Final = "COHERENCED_PURE"

NATIVE = False
"""Whether hits are compiled."""

if not TYPE_CHECKING and OFF not in os.environ:
    try:
        from coherenced.client import _hits
    except ImportError:
        pass  # not built, or for another Python
    else:
        from functools import update_wrapper

        NATIVE, Kept, look = True, _hits.Kept, _hits.look

        def hits_first(method):
            return update_wrapper(_hits.HitsFirst(method), method)
