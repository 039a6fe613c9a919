"""`writebehind`: what waits to be sent to origins, and the dead letters: list, replay, drop."""

from __future__ import annotations

import json
from typing import Any

import click

from coherenced.cli.http import ask, exchange
from coherenced.cli.options import as_json, connection, http_socket
from coherenced.cli.output import note, number, print_json, print_table, size
from coherenced.errors import UsageError
from coherenced.wire.names import legible

_TIMEOUT_S = 30.0

http_option = click.option(
    "--http-socket", metavar="PATH", help="The daemon's HTTP socket; else the one beside --socket."
)
namespace_option = click.option("--namespace", metavar="NAME", help="Only this namespace.")


@click.group("writebehind", invoke_without_command=True)
@click.pass_context
@namespace_option
@as_json
@http_option
@connection
def writebehind(
    context: click.Context, namespace: str | None, as_json: bool, http_socket: str | None
) -> int | None:
    """Show and settle what waits to be sent to origins (origin_mode = write-behind).

    Without a command: `list`.
    """
    given = {"namespace": namespace, "as_json": as_json, "http_socket": http_socket}
    if context.invoked_subcommand is None:
        return int(context.invoke(list_, **given))
    if any(given.values()):
        command = f"coherenced writebehind {context.invoked_subcommand}"
        raise UsageError(f"say options after the command: '{command} …'")
    return None


@writebehind.command("list")
@namespace_option
@as_json
@http_option
@connection
def list_(
    namespace: str | None = None, as_json: bool = False, http_socket: str | None = None
) -> int:
    """Show how much waits, and the oldest of it.

    One node sends for all; its errors are told by its own daemon.
    """
    told = _told(http_socket, namespace)
    if as_json:
        print_json(told)
        return 0
    print_table(
        ["namespace", "waiting", "keys", "dead", "sent by", "last error"],
        [
            [
                name,
                *(number(one.get(what)) for what in ("waiting", "keys", "dead")),
                one.get("owner") or "-",
                one["error"],
            ]
            for name, one in told.items()
        ],
    )
    oldest = [
        [name, entry["id"], legible(entry["key"])]
        for name, one in told.items()
        for entry in one["oldest"]
    ]
    if oldest:
        print()
        print_table(["namespace", "entry", "key"], oldest)
    return 0


@writebehind.command("dead")
@namespace_option
@as_json
@http_option
@connection
def dead(namespace: str | None, as_json: bool, http_socket: str | None) -> int:
    """Show the dead letters: writes that an origin refused too often."""
    told = _told(http_socket, namespace)
    if as_json:
        print_json({name: one["letters"] for name, one in told.items()})
        return 0
    print_table(
        ["namespace", "letter", "key", "operation", "size", "tries", "why"],
        [
            [
                name,
                one["id"],
                legible(one["key"]),
                one["operation"],
                size(one["bytes"]),
                number(one["tries"]),
                one["why"],
            ]
            for name, queue in told.items()
            for one in queue["letters"]
        ],
    )
    return 0


@writebehind.command("replay")
@click.argument("letters", nargs=-1, metavar="[LETTER]...")
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@namespace_option
@as_json
@http_option
@connection
def replay(
    letters: tuple[str, ...],
    everything: bool,
    namespace: str | None,
    as_json: bool,
    http_socket: str | None,
) -> int:
    """Send dead letters again."""
    return _settle("replay", letters, everything, namespace, as_json, http_socket)


@writebehind.command("drop")
@click.argument("letters", nargs=-1, metavar="[LETTER]...")
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@namespace_option
@as_json
@http_option
@connection
def drop(
    letters: tuple[str, ...],
    everything: bool,
    namespace: str | None,
    as_json: bool,
    http_socket: str | None,
) -> int:
    """Forget dead letters."""
    return _settle("drop", letters, everything, namespace, as_json, http_socket)


def _settle(
    action: str,
    letters: tuple[str, ...],
    everything: bool,
    namespace: str | None,
    as_json: bool,
    given: str | None,
) -> int:
    """Exit code 0 when every letter was there, else 1."""
    if bool(letters) == everything:
        raise UsageError("name letters (see 'coherenced writebehind dead'), or say --all")
    where = http_socket(given)
    ask(where, "/healthz")  # one that is stopped is not waited for as long as one that is at work
    names = [namespace] if namespace is not None else list(_told(given, None))
    if letters and len(names) > 1:
        raise UsageError(f"say --namespace: there are {', '.join(names)}")
    done: dict[str, Any] = {}
    for name in names:
        wish = {"namespace": name, "action": action}
        body = json.dumps(wish | ({"all": True} if everything else {"ids": list(letters)}))
        kind = {"Content-Type": "application/json"}
        answer = exchange(where, "POST", "/v1/writebehind", body.encode(), kind, _TIMEOUT_S)
        done[name] = answer.document()
    unknown = [letter for one in done.values() for letter in one["unknown"]]
    if as_json:
        print_json(done)
    else:
        word = "to be sent again" if action == "replay" else "dropped"
        count = sum(one["done"] for one in done.values())
        overtaken = sum(one["superseded"] for one in done.values())
        extra = f", {overtaken} overtaken by newer writes" if overtaken else ""
        print(f"{number(count)} {word}{extra}")
    if unknown:
        note(f"no such dead letter: {', '.join(unknown)}")
    return 1 if unknown else 0


def _told(given: str | None, namespace: str | None) -> dict[str, Any]:
    """The queues by namespace, or the one that was asked for."""
    found: dict[str, Any] = ask(http_socket(given), "/v1/writebehind")["namespaces"]
    if namespace is None:
        return found
    if namespace not in found:
        raise UsageError(f"{namespace!r} is no namespace that is written behind here")
    return {namespace: found[namespace]}
