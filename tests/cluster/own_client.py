"""Our own client behind the two methods of a redis-py connection that a session uses.

So half of the sessions go through `coherenced.Client`, with its L0: what it keeps in the
process must keep every promise that the daemon's answers keep.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from coherenced import Client
from coherenced.errors import CoherencedError, DaemonUnreachable, NotAcknowledged

Words = list[Any]


class OwnConnection:
    """Say it with `send_command`, hear it with `read_response`."""

    def __init__(self, path: Path, timeout_s: float, *, l0: bool) -> None:
        self._client = Client(path, timeout=timeout_s, serializer=None, l0=l0)
        self._words: Words = []

    def send_command(self, *words: Any) -> None:
        self._words = list(words)

    def read_response(self) -> Any:
        """The reply, in the shape of the wire's; raises what redis-py would."""
        verb, *rest = self._words
        try:
            return _VERBS[str(verb)](self._client, rest)
        except NotAcknowledged as error:
            raise redis.ResponseError(f"NOACK committed {error.version} {error}") from None
        except DaemonUnreachable as error:
            raise redis.ConnectionError(str(error)) from None
        except CoherencedError as error:
            text = str(error) if error.wire_code == "ERR" else f"{error.wire_code} {error}"
            raise redis.ResponseError(text) from None

    def disconnect(self) -> None:
        self._client.close()


def _options(words: Words) -> dict[str, Any]:
    """ACK, TIMEOUT, PX, TAGS, MAXSTALE, MINVER as the methods' arguments."""
    found: dict[str, Any] = {}
    while words:
        match words.pop(0):
            case "ACK":
                found["ack"] = words.pop(0)
            case "TIMEOUT":
                found["timeout"] = words.pop(0) / 1e3
            case "PX":
                found["ttl"] = words.pop(0) / 1e3
            case "TAGS":
                found["tags"] = [words.pop(0) for _ in range(words.pop(0))]
            case "MAXSTALE":
                found["max_staleness_ms"] = words.pop(0)
            case "MINVER":
                found["min_version"] = words.pop(0)
            case "META":
                pass
            case other:
                raise AssertionError(f"unknown option {other!r}")
    return found


def _get(client: Client, words: Words) -> Any:
    return client.get(words[0])


def _get_entry(client: Client, words: Words) -> Any:
    entry = client.get_entry(words[0], **_options(words[1:]))
    return [entry.value, str(entry.version), entry.source, entry.age_ms, int(entry.stale)]


def _set(client: Client, words: Words) -> Any:
    return str(client.set(words[0], str(words[1]).encode(), **_options(words[2:])))


def _mget(client: Client, words: Words) -> Any:
    found = client.get_many(words)
    return [found.get(key) for key in words]


def _snapshot(client: Client, words: Words) -> Any:
    keys = words[:-1]  # the last one is SNAPSHOT
    found = client.get_many(keys, snapshot=True)
    return [found.get(key) for key in keys]


def _mset(client: Client, words: Words) -> Any:
    pairs = zip(words[::2], words[1::2], strict=True)
    client.set_many({key: str(value).encode() for key, value in pairs})
    return "OK"


def _delete(client: Client, words: Words) -> Any:
    at = words.index("ACK") if "ACK" in words else len(words)
    return [None, client.delete(*words[:at], **_options(words[at:]))]


def _invalidate(client: Client, words: Words) -> Any:
    kind, *rest = words
    names: list[Any] = []
    if kind != "ALL":
        count, *rest = rest
        names, rest = rest[:count], rest[count:]
    chosen: dict[str, Any] = {"everything": True} if kind == "ALL" else {kind.lower(): names}
    done = client.invalidate(**chosen, **_options(rest))
    return [str(done.version), [], []]


_VERBS: dict[str, Callable[[Client, Words], Any]] = {
    "GET": _get,
    "COH.GET": _get_entry,
    "SET": _set,
    "COH.SET": _set,
    "MGET": _mget,
    "COH.MGET": _snapshot,
    "MSET": _mset,
    "DEL": _delete,
    "COH.DEL": _delete,
    "COH.INVALIDATE": _invalidate,
}
