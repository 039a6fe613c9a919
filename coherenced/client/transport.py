"""One blocking connection to the daemon, and the bounded pool of them that threads share."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from threading import Condition
from typing import Any, Final, cast
from weakref import WeakSet

from coherenced.client.address import Address, find_daemon
from coherenced.client.faults import Lost, TimedOut, silent, unreachable
from coherenced.client.replies import checked
from coherenced.client.stream import Batch, Conversation
from coherenced.errors import DaemonUnreachable, ProtocolError, UsageError

_FIRST_READ: Final = 16 * 1024
_NEXT_READ: Final = 256 * 1024
_LOOK_AGAIN_S: Final = 0.25
"""How soon a place that was given back by being forgotten is noticed."""


class Connection:
    """A connected socket with its conversation. Used by one thread at a time.

    The socket blocks, with the kernel's own receive timeout: one system call to send
    and one to receive, where Python's timeouts would poll before each.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.address = address
        self.used = False
        """Has answered a call before: it may have died since, unnoticed."""
        self.is_usable = True
        """False once it must not be used for another call."""
        self.place: object = None
        """Its place in the pool that it belongs to."""
        self._sent = 0
        self._timeout_s = 0.0
        self._conversation = Conversation(address.password)
        self._socket = self._connect(address, timeout_s)
        opening = self._conversation.opening()
        if opening is not None:
            try:
                for reply in self.exchange(opening, timeout_s):
                    checked(reply)
            except Lost as lost:
                self.close()
                raise silent(address, lost) from lost
            except BaseException:
                self.close()
                raise
            self.used = False

    def _connect(self, address: Address, timeout_s: float) -> socket.socket:
        link: socket.socket | None = None
        try:
            if address.path:
                link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                # In the kernel's hands: with a full backlog a Unix socket waits only if it blocks.
                self._set_kernel_timeout(link, timeout_s)
                link.connect(address.path)
            else:
                link = socket.create_connection((address.host, address.port), timeout_s)
                link.settimeout(None)
                self._set_kernel_timeout(link, timeout_s)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            if link is not None:
                link.close()
            raise unreachable(address, error) from error
        return link

    def _set_kernel_timeout(self, link: socket.socket, timeout_s: float) -> None:
        if timeout_s == self._timeout_s:
            return
        microseconds = max(1, int(timeout_s * 1e6))
        interval = struct.pack("ll", *divmod(microseconds, 1_000_000))
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)
        self._timeout_s = timeout_s

    def exchange(self, batch: Batch, timeout_s: float) -> list[Any]:
        """Send, and collect the batch's replies. Raises `Lost` or `ProtocolError`."""
        link = self._socket
        if timeout_s != self._timeout_s:
            self._set_kernel_timeout(link, timeout_s)
        replies: list[Any] = []
        self._sent = 0
        try:
            self._send_some(batch.data)
            if self._sent < len(batch.data):
                self._send_rest(batch, replies, timeout_s)
            size = _FIRST_READ
            until = 0.0
            while len(replies) < batch.replies:
                if until and time.monotonic() > until:
                    raise TimedOut(True, f"no full answer within {timeout_s:g} s")
                replies += self._receive(size)
                size, until = _NEXT_READ, until or time.monotonic() + timeout_s
        except BlockingIOError as error:
            raise TimedOut(self._sent > 0, f"no answer within {timeout_s:g} s") from error
        except OSError as error:
            raise Lost(self._sent > 0, error.strerror or str(error)) from error
        if len(replies) > batch.replies:
            raise ProtocolError(f"the daemon at {self.address} sent more replies than asked for")
        self.used = True
        return replies

    def _receive(self, size: int) -> list[Any]:
        arrived = self._socket.recv(size)
        if not arrived:
            raise Lost(self._sent > 0, "the daemon closed the connection")
        return self._conversation.received(arrived)

    def _send_some(self, data: bytes | memoryview) -> None:
        with contextlib.suppress(BlockingIOError):
            self._sent += self._socket.send(data, socket.MSG_DONTWAIT)

    def _send_rest(self, batch: Batch, replies: list[Any], timeout_s: float) -> None:
        """Send the rest while reading replies: with both buffers full, only that makes progress.

        A daemon that refuses what it is sent answers and closes before it has read all of
        it: then the replies count, and the connection is of no further use.
        """
        data = memoryview(batch.data)
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | select.POLLOUT)
        while self._sent < len(data):
            events = poller.poll(timeout_s * 1000)
            if not events:
                reason = f"the daemon took no more bytes for {timeout_s:g} s"
                raise TimedOut(self._sent > 0, reason)
            if events[0][1] & select.POLLIN:
                replies += self._receive(_NEXT_READ)
                if len(replies) >= batch.replies:
                    self.is_usable = False
                    return
            elif events[0][1] & (select.POLLOUT | select.POLLERR | select.POLLHUP):
                self._send_some(data[self._sent :])

    def is_quiet(self) -> bool:
        """Neither closed by the daemon nor holding bytes nobody asked for."""
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        self._socket.close()


class _Place:
    """One of the places of a pool: taken for as long as somebody holds this.

    So a call that is broken off anywhere, as by an exception of a signal handler (a job's time
    limit), gives its place back with its connection, when both are forgotten.
    """

    __slots__ = ("__weakref__",)


class Pool:
    """At most `limit` connections, lent to one thread at a time; the last one used goes out first.

    A pool belongs to the process that made it: after a fork the client makes another,
    and closing the inherited sockets there does not disturb the parent's.
    """

    def __init__(self, address: Address | None, limit: int, timeout_s: float) -> None:
        self.pid = os.getpid()
        self._address = address
        self._limit = limit
        self._timeout_s = timeout_s
        self._idle: list[Connection] = []
        self._places: WeakSet[_Place] = WeakSet()
        self._waiting = 0
        self._closed = False
        self._changed = Condition()

    def take(self) -> Connection:
        """An idle connection, a new one, or, when all are lent, the next one given back."""
        try:
            return self._idle.pop()  # atomic: the usual case takes no lock
        except IndexError:
            pass
        with self._changed:
            until = time.monotonic() + self._timeout_s
            self._waiting += 1  # before looking, so that who gives back now sees it and notifies
            try:
                while True:
                    if self._closed:
                        raise UsageError("this client is closed")
                    if self._idle:
                        return self._idle.pop()
                    if len(self._places) < self._limit:
                        place = _Place()
                        self._places.add(place)
                        break
                    left_s = until - time.monotonic()
                    if not self._changed.wait(min(left_s, _LOOK_AGAIN_S)) and left_s <= 0:
                        raise DaemonUnreachable(
                            f"all {self._limit} connections were in use for {self._timeout_s:g} s: "
                            "raise max_connections, or call from fewer threads at once"
                        )
            finally:
                self._waiting -= 1
        try:
            connection = Connection(self._address or find_daemon(), self._timeout_s)
        except BaseException:
            self._gone(place)
            raise
        connection.place = place
        return connection

    def give_back(self, connection: Connection) -> None:
        if not connection.is_usable:
            self.discard(connection)
            return
        self._idle.append(connection)
        if self._closed:
            self.discard_idle()
        elif self._waiting:
            with self._changed:
                self._changed.notify()

    def discard(self, connection: Connection) -> None:
        """Close a connection that broke, or whose next reply would belong to a past call."""
        connection.close()
        self._gone(connection.place)

    def discard_idle(self) -> None:
        """The daemon went away: the idle connections died with the one that noticed."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            self.discard(connection)

    def close(self) -> None:
        self._closed = True
        self.discard_idle()
        with self._changed:
            self._changed.notify_all()

    def abandon(self) -> None:
        """After a fork, in the child: close this process's copies, touch no lock."""
        for connection in self._idle:
            connection.close()
        self._idle = []

    def _gone(self, place: object) -> None:
        with self._changed:
            self._places.discard(cast(_Place, place))
            self._changed.notify()
