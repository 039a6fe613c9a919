"""HTTP to the local daemon, on its Unix socket, with the standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from coherenced.client.address import Address
from coherenced.client.faults import unreachable
from coherenced.errors import CommandError, DaemonUnreachable, ProtocolError, RedisUnreachable

_UNAVAILABLE: Final = "urn:coherenced:problem:unavailable"
ANSWER_S: Final = 5.0
"""How long a daemon may take for its answer."""
BEAT_S: Final = 35.0
"""A stream that has brought nothing for so long has ended: the daemon beats every 15 s."""
_BROKEN: Final = (http.client.HTTPException, TimeoutError, ConnectionError)


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


class Answer(NamedTuple):
    """One HTTP answer, whole."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def document(self) -> Any:
        """The JSON in it. Raises `CommandError` with its words when it is an error.

        `RedisUnreachable` when it says that, as a RESP reply that says so would.
        """
        try:
            document = json.loads(self.body)
        except ValueError:
            raise ProtocolError(f"the daemon's HTTP answer ({self.status}) is not JSON") from None
        if self.status < 400:
            return document
        if self.status == 401:
            raise CommandError("NOAUTH Authentication required.")  # as a RESP reply that says so
        problem = document if isinstance(document, dict) else {}
        if problem.get("type") == _UNAVAILABLE:
            raise RedisUnreachable(str(problem.get("detail") or problem.get("title")))
        raise CommandError(
            f"the daemon answered {self.status}: {problem.get('title', 'error')}: "
            f"{problem.get('detail', 'no reason given')}"
        )


def exchange(
    where: str | Address,
    method: str,
    target: str,
    body: bytes | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
    timeout_s: float | None = None,
) -> Answer:
    """One request on a connection of its own. Raises `DaemonUnreachable`.

    `where`: the path of the HTTP socket, or its address with the daemon's password.
    """
    address = _address(where)
    connection = UnixConnection(address.path, ANSWER_S if timeout_s is None else timeout_s)
    try:
        connection.request(method, target, body, dict(headers) | _credentials(address))
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    except _BROKEN as error:
        raise _no_answer(address.path, error) from None
    finally:
        connection.close()


def _address(where: str | Address) -> Address:
    return where if isinstance(where, Address) else Address(path=where)


def _credentials(address: Address) -> dict[str, str]:
    if not address.password:
        return {}
    from base64 import b64encode

    pair = b64encode(f":{address.password}".encode("utf-8", "surrogateescape"))
    return {"Authorization": f"Basic {pair.decode('ascii')}"}


def ask(where: str | Address, target: str, timeout_s: float | None = None) -> Any:
    """GET `target`, a JSON document. Raises `DaemonUnreachable`, or `CommandError` for an error."""
    return exchange(where, "GET", target, timeout_s=timeout_s).document()


def listen(where: str | Address, target: str, after: str = "") -> Iterator[Event]:
    """The events of a stream until its end, the first being `open`.

    `after` is the id of the last one that was seen.
    """
    address = _address(where)
    connection = UnixConnection(address.path, ANSWER_S)
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    headers |= _credentials(address)
    try:
        connection.request("GET", target, headers=headers)
        link = connection.sock
        response = connection.getresponse()
        if response.status != 200:
            Answer(response.status, {}, response.read()).document()
        link.settimeout(BEAT_S)
        yield Event("", "open", None)
        yield from _events(response)
    except _BROKEN as error:
        raise _no_answer(address.path, error) from None
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


def _no_answer(path: str, error: Exception) -> DaemonUnreachable:
    if isinstance(error, DaemonUnreachable):
        return error  # it could not even be connected to
    why = "in time" if isinstance(error, TimeoutError) else f"({type(error).__name__}: {error})"
    return DaemonUnreachable(
        f"the daemon gave no answer on {path} {why}: 'coherenced doctor' looks for the reason"
    )
