#!/usr/local/bin/python3 -IS
"""Ask the daemon one question on its HTTP socket, for container probes: `probe.py [/readyz]`.

Exit 0 if the answer is 200, else 1 with one line that says why. The image has no
curl, and the command line would load far more than one question needs: a probe
runs every few seconds for as long as the container lives.
"""

import os
import socket
import sys

TIMEOUT_S = 2.0  # the probe's own limit must be longer, so that the reason is seen
MAX_ANSWER_BYTES = 4096


def socket_path(environ):
    """The HTTP socket of the daemon that has the same environment."""
    directory = environ.get("COHERENCED_NODE__RUNTIME_DIR") or "/run/coherenced"
    return environ.get("COHERENCED_LISTEN__HTTP_SOCKET") or f"{directory}/http.sock"


def ask(path, target):
    """The answer's status line and what follows its headers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        answer = b""
        while len(answer) < MAX_ANSWER_BYTES and (part := connection.recv(MAX_ANSWER_BYTES)):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(errors="replace"), body.decode(errors="replace")


def main(arguments):
    """None when all is well, else why not."""
    target = arguments[0] if arguments else "/healthz"
    path = socket_path(os.environ)
    try:
        status, body = ask(path, target)
    except OSError as error:
        return f"{path}: {error}"
    if status.split(" ")[1:2] == ["200"]:
        return None
    return f"{target}: {status or 'no answer'} {' '.join(body.split())[:300]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
