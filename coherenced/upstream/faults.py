"""What a server's or a socket's refusal means: was the call executed, and what to tell people."""

from __future__ import annotations

import re
from typing import Final

from coherenced.core.calls import Failure

_REFUSED: Final = frozenset(
    {
        "READONLY",
        "NOREPLICAS",
        "MISCONF",
        "LOADING",
        "BUSY",
        "MASTERDOWN",
        "NOAUTH",
        "NOPERM",
        "WRONGPASS",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MOVED",
        "ASK",
        "NOSCRIPT",
        "NOTRUN",
        "EXECABORT",
        "UNKILLABLE",
        "NOPROTO",
    }
)
"""First words of replies with which a server refuses a call before executing any of it."""

_FROM_INSIDE: Final = re.compile(r"\s*script: [0-9a-f]{40}, on @user_script.*", re.DOTALL)
"""What a server adds to an error that a script raised while it was running."""


def failure_of(text: str) -> str:
    """The `Failure` of a Mutate that was answered with this error as a whole."""
    word = text.partition(" ")[0]
    inside = _FROM_INSIDE.search(text) is not None
    if word == "NOTRUN" or (word in _REFUSED and not inside):
        return Failure.UNREACHABLE
    if word == "ONEPHASE":
        return Failure.TWO_PHASES
    if word == "OOM" and not inside:
        return Failure.OUT_OF_MEMORY
    return Failure.LOST


def plain(text: str) -> str:
    """The server's text as one line, without what only a script's author can use."""
    return " ".join(
        _FROM_INSIDE.sub("", text).removeprefix("NOTRUN ").removeprefix("ONEPHASE ").split()
    )


class Lost:
    """Instead of a reply: the request was sent and its connection ended before the reply came."""

    __slots__ = ("client_id", "reason", "run_id")

    def __init__(self, reason: str, client_id: int, run_id: bytes) -> None:
        self.reason = reason
        self.client_id = client_id
        """The connection's id on the server, 0 when unknown."""
        self.run_id = run_id
        """Of the server process it was connected to, empty when unknown."""


class Unsent:
    """Instead of a reply: the request never left this process."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason
