"""Files that one daemon has for itself, as long as it lives: a lock that the kernel lets go.

Two daemons may share a runtime directory (each with sockets of its own), and then must not
write to the same page or journal.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from coherenced.errors import StartError

_SUFFIX: Final = ".lock"


def claim(path: Path, what: str, advice: str) -> Callable[[], None]:
    """Have `path` for this process alone; returns what gives it back.

    The lock is on a file beside it, since what is locked may be replaced. Where there can be no
    such file, or no lock, nobody can tell: then it is had. StartError: another process has it.
    """
    beside = path.with_name(path.name + _SUFFIX)
    try:
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return lambda: None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            os.close(handle)
            raise StartError(f"{what} {path} is in use by another daemon: {advice}") from None
    return lambda: os.close(handle)
