"""A quiet connection: compiled (`_quiet.c`) where that was built, else in Python (`quiet_pure`).

The one place where it is chosen, when the front end is imported; nothing else differs by it. With
`COHERENCED_PURE` in the environment, whatever its value, it is Python: for who suspects the other,
and for measuring.
"""

from __future__ import annotations

from coherenced.serve.quiet_pure import BUSY, GETTING, QUIET, SETTING, TURN_BYTES, Quiet, Tally

__all__ = ["BUSY", "GETTING", "QUIET", "SETTING", "TURN_BYTES", "Quiet", "Tally"]
