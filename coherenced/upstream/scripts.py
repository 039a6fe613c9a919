"""The atomic steps: the `.lua` files beside this one, as scripts that a server knows by hash.

None of them declares `no-writes`: a server refuses such a script whenever it may not
accept writes (a replica, a primary cut off under min-replicas-to-write, a disk error),
which is what makes a probe and a fill proofs (V2).
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final, NamedTuple

_ALLOW_OOM: Final = "#!lua flags=allow-oom\n"
_REFUSED_WHEN_FULL: Final = "#!lua\n"


class Script(NamedTuple):
    """One script and the hash by which EVALSHA names it."""

    name: str
    text: bytes
    sha: bytes


def _script(name: str, shebang: str, *parts: str) -> Script:
    folder = resources.files(__package__) / "lua"
    bodies = (folder.joinpath(f"{part}.lua").read_text("utf-8") for part in parts)
    text = (shebang + "\n".join(bodies)).encode()
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


_MUTATE: Final = ("common", "labels", "query", "mutate")

MUTATE: Final = _script("mutate", _REFUSED_WHEN_FULL, *_MUTATE)
"""W1. Refused before it does anything when the server's memory is full."""
MUTATE_FREEING: Final = _script("mutate_freeing", _ALLOW_OOM, *_MUTATE)
"""The same, for batches that only free memory: they must work when it is full."""
FETCH: Final = _script("fetch", _ALLOW_OOM, "common", "labels", "query", "fetch")
CLAIM: Final = _script("claim", _ALLOW_OOM, "common", "labels", "claim")
PROBE: Final = _script("probe", _ALLOW_OOM, "common", "declare", "probe")
LOG: Final = _script("log", _ALLOW_OOM, "common", "log")
ROSTER: Final = _script("roster", _ALLOW_OOM, "common", "roster")
PART: Final = _script("part", _ALLOW_OOM, "common", "declare", "part")
CHECK: Final = _script("check", _ALLOW_OOM, "check")

LANE_SCRIPTS: Final = (MUTATE, MUTATE_FREEING, FETCH, CLAIM, PROBE, LOG, ROSTER, PART)
"""What a link loads into the server when it connects."""

QUEUE: Final = _script("queue", _ALLOW_OOM, "queue")
"""Write-behind: a namespace's queue. It frees memory, or needs little."""
