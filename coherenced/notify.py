"""Telling the service manager how the daemon is: the sd_notify protocol.

One datagram of `KEY=VALUE` lines to the Unix socket in `$NOTIFY_SOCKET`. With
no such variable every call does nothing. Nothing here raises, and nothing
waits: a service manager that does not listen must not harm the daemon.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping

MAX_STATUS_CHARACTERS = 256


class Notifier:
    """The way to the service manager that started process `pid` with `environ`."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_ms = _watchdog_ms(environ, pid) if self._address else None
        """The service manager acts when no `alive` came for this long; None: it does not watch."""

    @property
    def watchdog_interval_ms(self) -> float | None:
        """How often to call `alive`: a third of the limit, so that one late call is no alarm."""
        return None if self.watchdog_ms is None else self.watchdog_ms / 3

    def ready(self, status: str = "") -> bool:
        """The daemon serves: it has joined the bus (also said after a reload)."""
        return self._send("READY=1", *_status(status))

    def reloading(self, status: str = "") -> bool:
        """The configuration is being read again; `ready` ends it."""
        # systemd compares this with its own monotonic clock, to tell reloads apart.
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}", *_status(status))

    def stopping(self, status: str = "") -> bool:
        """The daemon has begun to stop."""
        return self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(*_status(text))

    def alive(self) -> bool:
        """The event loop turns: the watchdog starts counting anew."""
        return self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> bool:
        """Whether a datagram was handed over."""
        if self._address is None or not lines:
            return False
        with contextlib.suppress(OSError, ValueError):
            # A socket for each datagram: they are rare, and a manager that was
            # started anew (systemctl daemon-reexec) is found without any state here.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(errors="replace"), self._address)
            return True
        return False


def _address(written: str) -> str | None:
    """A path, or `@name` in the abstract namespace; None for anything else (vsock, nothing)."""
    if written.startswith("/"):
        return written
    if written.startswith("@") and len(written) > 1:
        return "\0" + written[1:]
    return None


def _watchdog_ms(environ: Mapping[str, str], pid: int) -> float | None:
    owner, limit_us = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if owner and owner != str(pid):
        return None  # it watches another process, whose child this one is
    if not (limit_us.isascii() and limit_us.isdigit() and int(limit_us[:18]) > 0):
        return None
    return int(limit_us[:18]) / 1000


def _status(text: str) -> list[str]:
    line = " ".join(text.split())[:MAX_STATUS_CHARACTERS]
    return [f"STATUS={line}"] if line else []
