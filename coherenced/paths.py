"""Where a daemon keeps its files, and making that place fit for them.

The order in which a daemon looks for its runtime directory is fixed: clients
and unit files depend on it. It takes the *first* place that applies; a client,
which does not share the daemon's environment, looks at all of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from coherenced.errors import ConfigError, StartError

SOCKET_NAME: Final = "coherenced.sock"
HTTP_SOCKET_NAME: Final = "http.sock"
PAGE_NAME: Final = "page.shm"
SYSTEM_DIRECTORY: Final = Path("/run/coherenced")

MAX_SOCKET_PATH_BYTES: Final = 107
"""`sun_path` holds 108 bytes with its end mark: a longer path cannot be bound or connected to."""


class Paths(NamedTuple):
    """Every file of one daemon."""

    runtime_dir: Path
    socket: Path
    """RESP."""
    http_socket: Path
    page: Path
    """The shared page."""


def runtime_dir(environ: Mapping[str, str], uid: int) -> Path:
    """The directory of a daemon that was told none.

    `$RUNTIME_DIRECTORY` (systemd), else `$XDG_RUNTIME_DIR/coherenced`, else
    `/run/coherenced` for root, else `coherenced-UID` under the temp directory.
    """
    for given in environ.get("RUNTIME_DIRECTORY", "").split(":"):  # systemd joins several by colons
        if given:
            return Path(given)
    if session := environ.get("XDG_RUNTIME_DIR", ""):
        return Path(session) / "coherenced"
    if uid == 0:
        return SYSTEM_DIRECTORY
    return _private_directory(uid)


def _private_directory(uid: int) -> Path:
    from tempfile import gettempdir  # slow to load, and seldom needed

    return Path(gettempdir()) / f"coherenced-{uid}"


def check_socket_path(path: Path, key: str) -> Path:
    """`path`, if a socket can have it; ConfigError, naming `key`, else."""
    too_long = len(os.fsencode(path)) - MAX_SOCKET_PATH_BYTES
    if too_long > 0:
        raise ConfigError(
            f"{key}: the path {path} is {too_long} bytes too long for a Unix socket "
            f"(at most {MAX_SOCKET_PATH_BYTES}): choose a shorter node.runtime_dir or {key}"
        )
    return path


def prepare_runtime_dir(path: Path, uid: int) -> None:
    """Make `path` if it is missing, and see that this process may use it; StartError if not.

    Only the last part of the path is made: a missing parent is more likely a
    mistake in the configuration than a wish.
    """
    private = path == _private_directory(uid)
    try:
        path.mkdir(mode=0o700 if private else 0o750)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise StartError(
            f"the runtime directory {path} cannot be made: {path.parent} does not exist; "
            "create it or set node.runtime_dir"
        ) from None
    except OSError as error:
        raise StartError(
            f"the runtime directory {path} cannot be made: {error.strerror}; "
            "create it for this user or set node.runtime_dir"
        ) from None
    if private:
        _check_private(path, uid)
    elif not path.is_dir():
        raise StartError(f"the runtime directory {path} is not a directory: set node.runtime_dir")
    if not os.access(path, os.W_OK | os.X_OK):
        raise StartError(
            f"the runtime directory {path} is not writable for uid {uid}: "
            "change its owner or set node.runtime_dir"
        )


def _check_private(path: Path, uid: int) -> None:
    """Anyone may create this name under the temp directory: use it only if ours and closed."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o077:
        raise StartError(
            f"the runtime directory {path} is not a directory that only uid {uid} can enter: "
            "remove it or set node.runtime_dir"
        )
