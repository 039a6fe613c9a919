"""Every error a user of coherenced can meet, as one tree.

    CoherencedError
    ├── UsageError              the caller asked for something that cannot be      (local)   exit 2
    │   └── ConfigError         the configuration is not one
    ├── Unreachable             the daemon or Redis cannot be reached              (remote)  exit 4
    │   ├── DaemonUnreachable
    │   └── RedisUnreachable
    ├── NotAcknowledged         committed, but not every asked node answered       (remote)  exit 3
    ├── Indeterminate           sent, reply lost, the log cannot tell              (remote)  exit 1
    ├── Conflict                compare-and-set: the key has changed               (remote)  exit 1
    ├── Contended               a linearizable write did not get its turn in time  (remote)  exit 1
    ├── LeaseLost               a fill came too late: its token is dead            (remote)  exit 1
    ├── LoadTimeout             a loader has not returned in time                  (local)   exit 1
    ├── CommandError            the server answered a command with an error        (remote)  exit 1
    ├── StartError              the daemon cannot start here                       (local)   exit 1
    └── ProtocolError           the peer sent bytes that are not the protocol      (remote)  exit 1

"You misused me" (UsageError) and "the other side failed" are different branches.
Each class carries its exit code for the command line and its first word on the
RESP wire, so that both tables live in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

SPOOLED: Final = "(spooled)"
"""What stands among the missing nodes of an invalidation that waits in a daemon's journal."""


class CoherencedError(Exception):
    """Base of all; its text is one line that says what is wrong and what to do."""

    exit_code: ClassVar[int] = 1
    wire_code: ClassVar[str] = "ERR"


class UsageError(CoherencedError, ValueError):
    """The caller asked for something that cannot be done as asked."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, environment variable or flag is wrong; names it and the remedy."""


class Unreachable(CoherencedError, ConnectionError):
    """Nothing was done: the other side cannot be reached."""

    exit_code = 4
    wire_code = "UNAVAILABLE"


class DaemonUnreachable(Unreachable):
    """The local daemon does not answer on its socket."""


class RedisUnreachable(Unreachable):
    """The daemon answers, but Redis does not (or refuses), and nothing fresh enough is cached."""


class NotAcknowledged(CoherencedError):
    """The write is committed at `version`, but `missing` nodes did not acknowledge in time.

    `fenced` nodes did not either, but can serve nothing old any more. With an empty `version`
    it is an invalidation that is not committed yet: journaled by the daemon, while Redis is away.
    """

    exit_code = 3
    wire_code = "NOACK"

    def __init__(
        self,
        text: str,
        version: str = "",
        missing: tuple[str, ...] = (),
        acknowledged: tuple[str, ...] = (),
        fenced: tuple[str, ...] = (),
        took_ms: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(text)
        self.version = version
        self.missing = missing
        self.acknowledged = acknowledged
        self.fenced = fenced
        self.took_ms = dict(took_ms or {})
        """Of those that did acknowledge: how long after the commit, where that is known."""


class Indeterminate(CoherencedError):
    """A write was sent and its reply was lost: it may or may not have been applied."""

    wire_code = "INDETERMINATE"


class Conflict(CoherencedError):
    """Compare-and-set refused: the key has changed since the given version."""

    wire_code = "CONFLICT"


class Contended(CoherencedError):
    """A linearizable write did not get its turn in time: another one was between its phases, or a
    node had not dropped its copy. Nothing was done: try again."""

    wire_code = "TRYAGAIN"


class LeaseLost(CoherencedError):
    """A fill was refused: its token has expired, or the key was changed or invalidated meanwhile.

    Nothing was stored. What was loaded may be older than that change: load it anew.
    """

    wire_code = "LOST"


class LoadTimeout(CoherencedError, TimeoutError):
    """A loader has not returned within its `hard_timeout`; nothing was stored."""


class CommandError(CoherencedError):
    """The server answered with an error; the text is the server's own."""


class StartError(CoherencedError):
    """The daemon cannot start: a socket, a directory or a port is not to be had."""


class ProtocolError(CoherencedError):
    """The bytes received are not the protocol that was expected."""
