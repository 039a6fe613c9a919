"""Where the daemon listens: addresses as people write them, and where to look for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from coherenced.errors import DaemonUnreachable, UsageError

SOCKET_NAME = "coherenced.sock"


class Address(NamedTuple):
    """A Unix socket (`path`), or TCP when `path` is empty."""

    path: str = ""
    host: str = ""
    port: int = 0
    password: str = ""

    def __str__(self) -> str:
        """As people write it, without the password."""
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


def parse_address(text: str | bytes | os.PathLike[str]) -> Address:
    """Read `unix:///path`, a path, `tcp://[:password@]host:port` or `host:port`.

    Raises `UsageError` for anything else.
    """
    written = os.fsdecode(text)
    scheme, separator, rest = written.partition("://")
    if not separator:
        if "/" in written or ":" not in written:
            return _unix(written.removeprefix("unix:"), written)
        scheme, rest = "tcp", written
    if scheme == "unix":
        credentials, at, path = rest.partition("@")
        if at and credentials.startswith(":"):
            return _unix(path, written)._replace(password=_unquoted(credentials[1:]))
        return _unix(rest, written)
    if scheme != "tcp":
        raise UsageError(f"unknown address {written!r}: write unix:///path or tcp://host:port")
    credentials, at, place = rest.rpartition("@")
    host, colon, port = place.rstrip("/").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(
            "a TCP address is written tcp://host:port, for example tcp://127.0.0.1:6399"
        )
    password = _unquoted(credentials.partition(":")[2]) if at else ""
    return Address(host=host, port=int(port), password=password)


def _unix(path: str, written: str) -> Address:
    if not path:
        raise UsageError(f"address {written!r} has no path: write unix:///path/to/{SOCKET_NAME}")
    return Address(path=path)


def _unquoted(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote  # loaded only here: the client starts in milliseconds

    return unquote(text)


def candidate_sockets() -> Iterator[str]:
    """Where a daemon's socket may be, most specific first.

    The client does not share the daemon's environment, so unlike the daemon,
    which takes the first place that fits, it looks at all of them.
    """
    for directory in os.environ.get("RUNTIME_DIRECTORY", "").split(
        ":"
    ):  # systemd joins with colons
        if directory:
            yield f"{directory}/{SOCKET_NAME}"
    if directory := os.environ.get("XDG_RUNTIME_DIR", ""):
        yield f"{directory}/coherenced/{SOCKET_NAME}"
    yield f"/run/coherenced/{SOCKET_NAME}"
    yield f"{private_directory()}/{SOCKET_NAME}"


def private_directory() -> str:
    """The last resort: a directory of one's own under the temp directory."""
    from tempfile import gettempdir  # loaded only here: it is slow, and seldom needed

    return f"{gettempdir()}/coherenced-{os.getuid()}"


def find_daemon() -> Address:
    """`$COHERENCED_SOCKET`, else the first place where a socket exists.

    Raises `DaemonUnreachable`, which names the places, when there is none.
    """
    if named := os.environ.get("COHERENCED_SOCKET"):
        return parse_address(named)
    places = []
    for path in candidate_sockets():
        if _is_trusted_socket(path):
            return Address(path=path)
        places.append(path)
    raise DaemonUnreachable(
        f"no daemon found: there is no socket at {', '.join(places)}; start one with "
        "'coherenced serve', or say where its socket is with COHERENCED_SOCKET"
    )


def _is_trusted_socket(path: str) -> bool:
    from pathlib import Path

    socket = Path(path)
    try:
        if not socket.is_socket():
            return False
        if socket.parent.name != f"coherenced-{os.getuid()}":
            return True
        # Anyone may create this name under /tmp: believe it only if it is ours and closed.
        status = socket.parent.lstat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and not status.st_mode & 0o077
