"""What a user would write with the libraries alone: programs and calls to be measured beside us.

    http       an aiohttp handler that returns constant bytes
    echo       a redis-py subscriber that publishes what it receives
    receive    a redis-py subscriber (asyncio) that counts what it receives

The only module here that imports those libraries.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import redis
import redis.asyncio
import redis.cache
import uvloop
from aiohttp import web

from coherenced.bench.processes import give_up, given_spec, tell
from coherenced.errors import CommandError

PATIENCE_S: Final = 10.0
THERE: Final = "bench:there"
BACK: Final = "bench:back"
FLOOD: Final = "bench:flood"
LAST: Final = b"last"
"""Ends one turn of `receive`."""


class Echo:
    """Round trips to the program `echo` over the server's pub/sub."""

    def __init__(self, server_socket: Path) -> None:
        self._link = redis.Redis(unix_socket_path=str(server_socket))
        self._heard = self._link.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._heard.subscribe(BACK)
        self._heard.get_message(timeout=PATIENCE_S)  # the confirmation

    def round_trip_ms(self) -> float:
        """Published, received there, published back, received here."""
        started_s = time.perf_counter()
        self._link.publish(THERE, b"x")
        while self._heard.get_message(timeout=PATIENCE_S) is None:
            if time.perf_counter() - started_s > PATIENCE_S:
                raise CommandError(f"no echo over pub/sub for {PATIENCE_S:g} s")
        return (time.perf_counter() - started_s) * 1e3

    def close(self) -> None:
        self._heard.close()
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def asking(server_socket: Path) -> Callable[[bytes], object]:
    """A GET over the server's Unix socket."""
    return redis.Redis(unix_socket_path=str(server_socket)).get


def tracking(server_socket: Path, names: list[bytes]) -> Callable[[bytes], object]:
    """A GET through redis-py's client-side cache, which holds these."""
    link = redis.Redis(
        unix_socket_path=str(server_socket),
        protocol=3,
        cache_config=redis.cache.CacheConfig(max_size=2 * len(names)),
    )
    for name in names:
        link.get(name)
    return link.get


def echo(server_socket: str) -> None:
    """Publish on BACK what arrives on THERE, until ended."""
    link = redis.Redis(unix_socket_path=server_socket)
    heard = link.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    heard.subscribe(THERE)
    heard.get_message(timeout=PATIENCE_S)
    tell("ready")
    for message in heard.listen():
        link.publish(BACK, message["data"])


async def receive(server_socket: str) -> None:
    """Count what arrives on FLOOD; tell about each turn when its LAST has come."""
    link = redis.asyncio.Redis(unix_socket_path=server_socket)
    heard = link.pubsub(ignore_subscribe_messages=True)
    await heard.subscribe(FLOOD)
    tell("ready")
    count, started_s, spent_s = 0, 0.0, 0.0
    async for message in heard.listen():
        if not count:
            started_s, spent_s = time.perf_counter(), _own_cpu_s()
        if message["data"] == LAST:
            seconds, spent_s = time.perf_counter() - started_s, _own_cpu_s() - spent_s
            tell({"count": count, "seconds": seconds, "cpu_s": spent_s})
            count = 0
        else:
            count += 1


async def http(path: str, body_bytes: int) -> None:
    """Serve constant bytes on a Unix socket, until ended."""
    body = b"x" * body_bytes

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=body)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.UnixSite(runner, path).start()
    tell("ready")
    await asyncio.Event().wait()


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """The program: a spec names one of those above and its arguments."""
    spec: dict[str, Any] = given_spec()
    name, words = spec["peer"], spec["with"]
    with contextlib.suppress(KeyboardInterrupt):
        if name == "echo":
            echo(*words)
        elif name in ("receive", "http"):
            serve = receive if name == "receive" else http
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(*words))
        else:
            give_up(f"there is no peer {name!r}")


if __name__ == "__main__":
    main()
