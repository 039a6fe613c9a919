"""HTTP to the local daemon, on its Unix socket, with the standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from coherenced.client.address import Address
from coherenced.client.faults import unreachable
from coherenced.errors import CommandError, DaemonUnreachable, ProtocolError


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a socket file. `timeout_s` None: as long as it takes."""

    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("coherenced")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        try:
            self.sock.connect(self._path)
        except OSError as error:
            self.sock.close()
            raise unreachable(Address(path=self._path), error) from None


class Event(NamedTuple):
    """One Server-Sent Event."""

    id: str
    name: str
    data: Any


def ask(path: str, target: str, timeout_s: float = 5.0) -> Any:
    """GET `target`, a JSON document. Raises `DaemonUnreachable`, or `CommandError` for an error."""
    connection = UnixConnection(path, timeout_s)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read()
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        if isinstance(error, DaemonUnreachable):
            raise
        raise _no_answer(path, error) from None
    finally:
        connection.close()
    return _document(response.status, body)


def listen(path: str, target: str, after: str = "") -> Iterator[Event]:
    """The events of a stream until its end, the first being `open`.

    `after` is the id of the last one that was seen.
    """
    connection = UnixConnection(path, timeout_s=60.0)  # the daemon beats more often than that
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    try:
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            _document(response.status, response.read())
        yield Event("", "open", None)
        yield from _events(response)
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        if isinstance(error, DaemonUnreachable):
            raise
        raise _no_answer(path, error) from None
    finally:
        connection.close()


def _events(response: http.client.HTTPResponse) -> Iterator[Event]:
    fields: dict[str, str] = {}
    while line := response.readline(1 << 20):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            if "data" in fields:
                try:
                    data = json.loads(fields["data"])
                except ValueError:
                    raise ProtocolError(
                        "the event stream holds an event that is not JSON"
                    ) from None
                yield Event(fields.get("id", ""), fields.get("event", "message"), data)
            fields = {}
        elif not text.startswith(":"):
            field, _, value = text.partition(":")
            fields[field] = value.removeprefix(" ")


def _document(status: int, body: bytes) -> Any:
    try:
        document = json.loads(body)
    except ValueError:
        raise ProtocolError(f"the daemon's HTTP answer ({status}) is not JSON") from None
    if status >= 400:
        title = document.get("title", "") if isinstance(document, dict) else ""
        detail = document.get("detail", "") if isinstance(document, dict) else ""
        raise CommandError(f"the daemon answered {status}: {title}; {detail}")
    return document


def _no_answer(path: str, error: Exception) -> DaemonUnreachable:
    return DaemonUnreachable(
        f"the daemon gave no answer on {path} ({type(error).__name__}: {error}): "
        "'coherenced doctor' looks for the reason"
    )
