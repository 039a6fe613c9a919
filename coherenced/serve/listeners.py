"""The sockets a daemon listens on: its own, or those that systemd holds for it.

Each thing that can be wrong with one is told in one line: `StartError`. A socket is
listening from the moment it is opened, so clients wait in its backlog until they are served.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from coherenced.errors import StartError
from coherenced.paths import MAX_SOCKET_PATH_BYTES, Paths

if TYPE_CHECKING:
    from coherenced.config_tree import Listen
    from coherenced.config_values import Address

BACKLOG: Final = 4096
FIRST_PASSED_FD: Final = 3
"""systemd hands its sockets over from this descriptor on (sd_listen_fds(3))."""
ALIVE_PATIENCE_S: Final = 1.0
"""How long the owner of an existing socket has to take a connection."""
LOCK_PATIENCE_S: Final = 2.0


class Sockets(NamedTuple):
    """Listening sockets, by what is spoken on them."""

    resp: list[socket.socket]
    http: list[socket.socket]
    files: list[tuple[Path, int]]
    """The socket files that were made here, with their inodes: removed by `close`."""

    def close(self) -> None:
        """Close them all and remove the files that are still ours."""
        for path, inode in self.files:
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == inode:
                    path.unlink()
        for sock in (*self.resp, *self.http):
            sock.close()


def open_sockets(listen: Listen, paths: Paths, environ: Mapping[str, str]) -> Sockets:
    """Every socket the configuration asks for; what systemd passed replaces the Unix ones.

    Also raises this process's limit of open files as far as it may go: each client takes one.
    """
    raise_file_limit()
    sockets = Sockets([], [], [])
    try:
        passed = passed_sockets(environ, os.getpid())
        sockets.resp.extend(passed.resp)
        sockets.http.extend(passed.http)
        mode = listen.socket_mode_bits
        for opened, path, address in (
            (sockets.resp, paths.socket, listen.tcp_address),
            (sockets.http, paths.http_socket, listen.http_address),
        ):
            families = {sock.family for sock in opened}
            if not opened:
                opened.append(unix_socket(path, mode))
                sockets.files.append((path, path.lstat().st_ino))
            if address is not None and families.isdisjoint((socket.AF_INET, socket.AF_INET6)):
                opened.append(tcp_socket(address))
    except BaseException:
        sockets.close()
        raise
    return sockets


def raise_file_limit() -> int:
    """Open files this process may have, raised to the hard limit; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
    return soft


# -- sockets of our own ------------------------------------------------------------------


def unix_socket(path: Path, mode: int) -> socket.socket:
    """Bind and listen on `path`, with these permissions from its first moment on.

    A file that a dead daemon left there is removed; a living one is not disturbed.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise StartError(
            f"the path {path} is longer than the {MAX_SOCKET_PATH_BYTES} bytes a Unix socket "
            "may have: choose a shorter node.runtime_dir or listen.socket"
        )
    with _locked(path.parent):
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(os.fspath(path))
            path.chmod(mode)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise _cannot_listen(path, error) from None
    return sock


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two daemons that start at once must not remove each other's sockets as stale."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StartError(
            f"the directory {directory} does not exist: create it, or choose another "
            "listen.socket or node.runtime_dir"
        ) from None
    except OSError as error:
        raise StartError(f"the directory {directory} cannot be used: {error.strerror}") from None
    try:
        give_up_s = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_s:
                    raise StartError(
                        f"another daemon is just starting in {directory}: wait for it, or choose "
                        "another node.runtime_dir"
                    ) from None
                time.sleep(0.01)
            except OSError:
                break  # a file system without locks: the check of the socket remains
        yield
    finally:
        os.close(handle)


def _remove_stale(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_listen(path, error) from None
    if not stat.S_ISSOCK(status.st_mode):
        raise StartError(f"{path} exists and is no socket: remove it or choose another path")
    if _is_alive(path):
        raise StartError(
            f"a live daemon already answers on {path}: stop it, or choose another "
            "node.runtime_dir, or listen.socket and listen.http_socket"
        )
    try:
        path.unlink()
    except OSError as error:
        raise _cannot_listen(path, error) from None


def _is_alive(path: Path) -> bool:
    """Whether somebody listens there; StartError if that cannot be found out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ALIVE_PATIENCE_S)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (TimeoutError, BlockingIOError):
            return True  # a full backlog is somebody's
        except OSError as error:
            raise StartError(
                f"the socket {path} exists and cannot be tried out: {error.strerror}; "
                "remove it or choose another path"
            ) from None
    return True


def _cannot_listen(path: Path, error: OSError) -> StartError:
    directory = path.parent
    reasons = {
        errno.EACCES: f"this user may not write to {directory}",
        errno.EPERM: f"this user may not write to {directory}",
        errno.EROFS: f"{directory} is read-only",
        errno.EADDRINUSE: "another daemon has just taken it",
        errno.ENOTSUP: f"the file system of {directory} has no sockets",
    }
    reason = reasons.get(error.errno or 0, error.strerror)
    return StartError(f"cannot listen on {path}: {reason}; choose another path or correct that")


def tcp_socket(address: Address) -> socket.socket:
    """Bind and listen on a TCP address."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        sock = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "something else listens there already",
            errno.EACCES: "this user may not use that port",
            errno.EADDRNOTAVAIL: "this host does not have that address",
            socket.EAI_NONAME: "the host is not known",
            socket.EAI_AGAIN: "the host's name cannot be looked up now",
        }
        reason = reasons.get(error.errno or 0, error.strerror)
        raise StartError(
            f"cannot listen on {address.host}:{address.port}: {reason}; choose another"
        ) from None
    sock.setblocking(False)
    return sock


# -- sockets of systemd's ----------------------------------------------------------------


def passed_sockets(environ: Mapping[str, str], pid: int) -> Sockets:
    """The sockets of a `.socket` unit, by `FileDescriptorName=resp` or `http`.

    Without such a name a Unix socket is RESP's, unless its file is called `http…`, and
    a TCP socket is HTTP's.
    """
    sockets = Sockets([], [], [])
    if environ.get("LISTEN_PID") != str(pid):
        return sockets
    count = environ.get("LISTEN_FDS", "")
    if not count.isdigit():
        return sockets
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    for i in range(int(count)):
        sock = _passed(FIRST_PASSED_FD + i)
        name = names[i] if i < len(names) else ""
        if name not in ("resp", "http"):
            name = _guessed(sock)
        (sockets.resp if name == "resp" else sockets.http).append(sock)
    return sockets


def _passed(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(
            f"descriptor {descriptor} from systemd is no socket ({error.strerror}): "
            "check the .socket unit"
        ) from None
    if not listens or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise StartError(
            f"descriptor {descriptor} from systemd is no listening stream socket: "
            "use ListenStream= and Accept=no in the .socket unit"
        )
    sock.setblocking(False)
    os.set_inheritable(descriptor, False)
    return sock


def _guessed(sock: socket.socket) -> str:
    if sock.family != socket.AF_UNIX:
        return "http"
    address = sock.getsockname()
    path = os.fsdecode(address) if isinstance(address, bytes) else address
    return "http" if Path(path).name.startswith("http") else "resp"
