"""What a node is given: clients' requests, the server's answers (`calls`), and the shell's word."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from coherenced.core.calls import Answer
from coherenced.core.model import Mutation
from coherenced.core.requests import Request


class Submit(msgspec.Struct, frozen=True, gc=False):
    """A client's request; its outcome comes as `Settled(request_id, …)`."""

    request_id: int
    request: Request


class Start(msgspec.Struct, frozen=True, gc=False):
    """Join: subscribe, probe, read the roster."""


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Time has passed."""


class Forget(msgspec.Struct, frozen=True, gc=False):
    """These invalidations wait in a journal: drop this node's own copies meanwhile."""

    mutations: tuple[Mutation, ...]


class Flush(msgspec.Struct, frozen=True, gc=False):
    """Take these requests, then send what has gathered (see `node.Settings.gathers`)."""

    submits: Sequence[Submit] = ()
    keys: Sequence[bytes] = ()
    """And a `Get` of each of these keys."""
    ids: Sequence[int] = ()
    """Theirs, as of a `Submit`."""


class Drain(msgspec.Struct, frozen=True, gc=False):
    """About to stop: nobody is kept waiting for somebody else's load any more."""


class Stop(msgspec.Struct, frozen=True, gc=False):
    """Leave the roster; serve nothing from now on. Ends with Event `left`."""


Input = Answer | Submit | Start | Tick | Forget | Flush | Drain | Stop
