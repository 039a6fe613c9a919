"""Many subscribers that do nothing with what they hear: a program.

The spec: `place`, a socket's path or a port of loopback; `channel`, `count`: so many connections
subscribe; what arrives is read, so that the server need not keep it, and thrown away. It says how
many there are when all have subscribed, and goes on until it is stopped.
"""

from __future__ import annotations

import select
import socket
from typing import Any, Final

from coherenced.bench.processes import given_spec, tell
from coherenced.bench.talk import pack

CHUNK: Final = 1 << 20


def listen(place: str | int, channel: str, count: int) -> None:
    """See the module. `place`: a socket's path, or a port."""
    poller = select.epoll()
    links: dict[int, socket.socket] = {}
    for _ in range(count):
        if isinstance(place, int):
            link = socket.create_connection(("127.0.0.1", place))
        else:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.connect(place)
        link.sendall(pack((b"SUBSCRIBE", channel)))
        link.recv(CHUNK)  # the confirmation
        poller.register(link.fileno(), select.EPOLLIN)
        links[link.fileno()] = link
    tell(count)
    while links:
        for number, _ in poller.poll():
            if not links[number].recv(CHUNK):  # the server has gone
                poller.unregister(number)
                links.pop(number).close()


def main() -> None:
    """The program: see the module."""
    spec: dict[str, Any] = given_spec()
    listen(spec["place"], spec["channel"], spec["count"])


if __name__ == "__main__":
    main()
