"""Flags and argument types that commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from coherenced.client.address import Address, find_daemon, parse_address
from coherenced.client.arguments import LONGEST_ACK_S, MOST_REPLICAS, level, version
from coherenced.errors import UsageError

if TYPE_CHECKING:
    from coherenced.client.sync import Client

F = TypeVar("F", bound=Callable[..., Any])

HTTP_SOCKET_NAME: Final = "http.sock"

GREETING_S: Final = 5.0
"""How long a daemon may take for its first word; then it is stopped, or stuck."""


_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}


def duration(written: str) -> float:
    """`2s`, `500ms`, `1.5m`, `1h`, or a number of seconds; in seconds."""
    text = written.strip()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    factor = _UNITS_S.get(text[len(number) :])
    try:
        seconds = float(number) * (factor or float("nan"))
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < 1e11:
        raise click.BadParameter(f"{written!r} is no duration: write 500ms, 2s, 1.5m or 1h")
    return seconds


def patience(written: str) -> float:
    """How long to wait for acknowledgements, in seconds."""
    seconds = duration(written)
    if seconds > LONGEST_ACK_S:
        raise click.BadParameter(
            f"{written!r} is too long to wait for acknowledgements: at most 1h"
        )
    return seconds


def ack_level(written: str) -> str:
    """Checked here so that a slip is bad usage (exit 2) before anything is sent."""
    try:
        return level(written).decode()
    except UsageError:
        raise click.BadParameter(
            f"{written!r} is no level: none, redis, quorum, all or a number of nodes"
        ) from None


def written_version(written: str) -> str:
    """`epoch:seq`, as a write has printed it."""
    try:
        return version(written).decode()
    except UsageError:
        raise click.BadParameter(
            f"{written!r} is no version: it is written epoch:seq, for example 0f1e2d3c4b5a6978:42"
        ) from None


def name(written: str) -> bytes:
    """A key, tag or prefix: the bytes that the shell passed, whatever they are."""
    return os.fsencode(written)


def label(written: str) -> bytes:
    """A tag or prefix, which may not be empty: a slip is bad usage before anything is sent."""
    if not written:
        raise click.BadParameter("it must not be empty")
    return name(written)


def _keep_socket(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.find_root().obj = value


def connection(command: F) -> F:
    """`--socket`, on the group and on each command: the one nearer to the command counts."""
    return click.option(
        "--socket",
        metavar="PATH",
        expose_value=False,
        callback=_keep_socket,
        help="The daemon's socket (unix:///path or tcp://host:port); else $COHERENCED_SOCKET, "
        "else it is looked for.",
    )(command)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

ack_option = click.option(
    "--ack",
    type=ack_level,
    metavar="LEVEL",
    help="Wait for: none, redis, quorum, all, or so many nodes.",
)

timeout_option = click.option(
    "--timeout",
    type=patience,
    metavar="TIME",
    help="How long to wait for acknowledgements, for example 2s.",
)

replicas_option = click.option(
    "--replicas",
    type=click.IntRange(0, MOST_REPLICAS),
    default=0,
    metavar="N",
    help="Also wait until so many Redis replicas have it, whatever --ack says.",
)


def daemon_address() -> Address:
    """The daemon that this command line means. Raises `DaemonUnreachable` when none is found."""
    given = click.get_current_context().find_root().obj
    return find_daemon() if given is None else parse_address(given)


def connect() -> Client:
    """A client for raw bytes, connected to a daemon that answers. Raises `DaemonUnreachable`.

    It is greeted first: from one that is stopped nobody waits for an answer that may take long,
    and a write that it was never given is not one of which nothing is known.
    """
    from coherenced.client.replies import checked  # which many commands have no use for
    from coherenced.client.stream import Request, batch_of
    from coherenced.client.sync import Client

    given = click.get_current_context().find_root().obj
    cache = Client(given, timeout=GREETING_S, serializer=None, max_connections=1, l0=False)
    try:
        cache._run(Request((batch_of([(b"PING",)]),), lambda replies: checked(replies[0])))
    except BaseException:
        cache.close()
        raise
    return cache


def http_socket(given: str | None) -> Address:
    """The daemon's HTTP socket and password: `given`, or the one beside its RESP socket."""
    address = daemon_address() if given is None else parse_address(given)
    if not address.path:
        raise UsageError(
            f"{address} is no Unix socket, so its HTTP socket is not known: give --http-socket"
        )
    if given is not None:
        return address
    path = os.path.join(os.path.dirname(address.path) or ".", HTTP_SOCKET_NAME)  # noqa: PTH118, PTH120
    return address._replace(path=path)
