"""`invalidate`: make every node drop keys, tags, prefixes or everything, and say who has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO, Final, NamedTuple

import click

from coherenced.cli.options import (
    ack_option,
    as_json,
    connect,
    connection,
    label,
    name,
    replicas_option,
    timeout_option,
)
from coherenced.cli.output import duration as in_units
from coherenced.cli.output import note, print_json, print_table
from coherenced.cli.output import shown as as_text
from coherenced.client.replies import Version, not_acknowledged
from coherenced.errors import SPOOLED, CoherencedError, NotAcknowledged
from coherenced.wire.names import json_name

BATCH: Final = 200
"""Names sent at once: the bound of one record in the log."""
SHOWN: Final = 20
"""Names that a dry run prints of each kind."""
_SINGULAR: Final = {"keys": "key", "tags": "tag", "prefixes": "prefix"}


class Targets(NamedTuple):
    """What one message invalidates."""

    keys: tuple[bytes, ...] = ()
    tags: tuple[bytes, ...] = ()
    prefixes: tuple[bytes, ...] = ()
    everything: bool = False


class Outcome(NamedTuple):
    """What became of one message."""

    version: str
    acknowledged: Mapping[str, float | None]
    """Node to milliseconds from the commit to its acknowledgement (None: not known)."""
    missing: Iterable[str] = ()
    fenced: Iterable[str] = ()
    satisfied: bool = True
    """Whether the asked level was reached in time; if not, it is committed all the same."""


Send = Callable[[Targets], Outcome]
"""Carries one message out."""


class Tally:
    """What became of all messages together."""

    def __init__(self) -> None:
        self.keys = self.tags = self.prefixes = 0
        self.everything = False
        self.version = ""
        self.late = False
        self.acknowledged: dict[str, float | None] | None = None
        """Who acknowledged every message, and the longest that took in ms (None: not known)."""
        self.missing: dict[str, None] = {}
        self.fenced: dict[str, None] = {}

    def add(self, targets: Targets, outcome: Outcome) -> None:
        self.keys += len(targets.keys)
        self.tags += len(targets.tags)
        self.prefixes += len(targets.prefixes)
        self.everything |= targets.everything
        self.version = outcome.version or self.version
        self.late |= not outcome.satisfied
        self.missing.update(dict.fromkeys(outcome.missing))
        self.fenced.update(dict.fromkeys(outcome.fenced))
        took, held = outcome.acknowledged, self.acknowledged
        if held is None:
            self.acknowledged = dict(took)
        else:
            self.acknowledged = {
                node: _longer(ms, took[node]) for node, ms in held.items() if node in took
            }

    def what(self) -> str:
        """`3 keys, 1 tag`."""
        counts = {kind: getattr(self, kind) for kind in _SINGULAR}
        words = [
            f"{count:,} {kind if count > 1 else _SINGULAR[kind]}"
            for kind, count in counts.items()
            if count
        ]
        return ", ".join(["everything"] * self.everything + words) or "nothing"


def _longer(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


@click.command("invalidate")
@click.argument("keys", type=name, nargs=-1, metavar="KEY...")
@click.option("--tag", "tags", type=label, multiple=True, metavar="T", help="May be repeated.")
@click.option(
    "--prefix", "prefixes", type=label, multiple=True, metavar="P", help="May be repeated."
)
@click.option("--all", "everything", is_flag=True, help="Everything that any node holds.")
@click.option(
    "--from-file",
    type=click.File("rb"),
    metavar="F|-",
    help="Read keys from a file, or from standard input: one a line.",
)
@ack_option
@timeout_option
@replicas_option
@click.option(
    "--via",
    type=click.Choice(["socket", "redis"]),
    help="Through the local daemon (the default), or straight to Redis, with no daemon.",
)
@click.option("--redis", "redis_url", metavar="URL", help="The server for --via redis.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@as_json
@connection
def invalidate(
    keys: tuple[bytes, ...],
    tags: tuple[bytes, ...],
    prefixes: tuple[bytes, ...],
    everything: bool,
    from_file: BinaryIO | None,
    ack: str | None,
    timeout: float | None,
    replicas: int,
    via: str | None,
    redis_url: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Make every node drop what it holds of these keys, tags and prefixes.

    Plain values stay in Redis as they are; cache entries (stored with tags, by a loader, or
    over HTTP with a Content-Type) are gone from there, too. Prints who acknowledged, and how
    long each took.

    Exit code 3: sent, but not everyone has acknowledged in time; they are listed.
    """
    if redis_url is not None and via == "socket":
        raise click.UsageError("--redis goes with --via redis")
    straight = via == "redis" or redis_url is not None
    if replicas and straight:
        raise click.UsageError("--replicas goes through a daemon, not with --via redis")
    if not (keys or tags or prefixes or everything or from_file):
        raise click.UsageError("nothing to invalidate: give keys, --tag, --prefix or --all")
    messages = batches(keys, lines(from_file), tags, prefixes, everything)
    if dry_run:
        _describe(messages, as_json)
        return 0
    if straight:
        from coherenced.cli.direct import through_redis

        tally = through_redis(messages, redis_url, ack, timeout)
    else:
        tally = through_daemon(messages, ack, timeout, replicas)
    return report(tally, as_json)


def lines(file: BinaryIO | None) -> Iterator[bytes]:
    """The lines of a file without their ends; empty ones are left out."""
    for line in file or ():
        key = line.removesuffix(b"\n").removesuffix(b"\r")
        if key:
            yield key


def batches(
    keys: Iterable[bytes],
    more_keys: Iterable[bytes],
    tags: Iterable[bytes],
    prefixes: Iterable[bytes],
    everything: bool,
) -> Iterator[Targets]:
    """Messages of at most `BATCH` names, in a stream: a file may be of any length."""
    names: Iterator[tuple[int, bytes]] = (
        (kind, one) for kind, group in enumerate((keys, more_keys, tags, prefixes)) for one in group
    )
    while (part := list(islice(names, BATCH))) or everything:
        by_kind: tuple[list[bytes], ...] = ([], [], [], [])
        for kind, one in part:
            by_kind[kind].append(one)
        given, read, tagged, prefixed = by_kind
        yield Targets((*given, *read), tuple(tagged), tuple(prefixed), everything)
        everything = False


def through_daemon(
    messages: Iterable[Targets], ack: str | None, timeout: float | None, replicas: int
) -> Tally:
    """Send by the local daemon."""
    with connect() as cache:

        def send(targets: Targets) -> Outcome:
            try:
                done = cache.invalidate(
                    targets.keys,
                    tags=targets.tags,
                    prefixes=targets.prefixes,
                    everything=targets.everything,
                    ack=ack,
                    timeout=timeout,
                    replicas=replicas,
                )
            except NotAcknowledged as late:
                took = {node: late.took_ms.get(node) for node in late.acknowledged}
                return Outcome(late.version, took, late.missing, late.fenced, False)
            return Outcome(done.version, done.acknowledged, done.missing, done.fenced)

        return send_all(messages, send)


def send_all(messages: Iterable[Targets], send: Send) -> Tally:
    """Send one after the other; a late acknowledgement does not stop the rest, an error does."""
    tally = Tally()
    shows_progress = sys.stderr.isatty()
    for number, targets in enumerate(messages):
        try:
            tally.add(targets, send(targets))
        except CoherencedError:
            if number:
                note(f"stopped: before the error, {tally.what()} had been invalidated")
            raise
        if shows_progress and number:
            print(f"\r{tally.what()} … ", end="", file=sys.stderr, flush=True)
    if shows_progress:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return tally


def report(tally: Tally, as_json: bool) -> int:
    """Print what became of it; returns the exit code."""
    acknowledged = tally.acknowledged or {}
    missing = tuple(node for node in tally.missing if node not in tally.fenced)
    if as_json:
        print_json(
            {
                "version": tally.version or None,
                "acknowledged": acknowledged,
                "fenced": list(tally.fenced),
                "missing": missing,
                "satisfied": not tally.late,
                "keys": tally.keys,
                "tags": tally.tags,
                "prefixes": tally.prefixes,
                "all": tally.everything,
            }
        )
    else:
        at = f" at {tally.version}" if tally.version else ""
        verb = "invalidated" if at or tally.acknowledged is None else "accepted"
        print(f"{verb} {tally.what()}{at}")
        rows = [[node, "acknowledged", in_units(ms)] for node, ms in acknowledged.items()]
        rows += [[node, "fenced: holds nothing old any more", ""] for node in tally.fenced]
        rows += [
            [node, "journaled: sent when Redis is back", ""]
            if node == SPOOLED
            else [node, "MISSING", "no answer in time"]
            for node in missing
        ]
        if rows:
            print_table(["node", "state", "after"], rows)
    if tally.late:
        raise not_acknowledged(Version(tally.version), missing, (), tuple(tally.fenced))
    return 0


def _describe(messages: Iterable[Targets], as_json: bool) -> None:
    """The dry run: what would be sent, without sending it."""
    tally = Tally()
    shown: dict[str, list[bytes]] = {"keys": [], "tags": [], "prefixes": []}
    count = 0
    for targets in messages:
        count += 1
        tally.add(targets, Outcome("", {}))
        for kind, names in shown.items():
            names += getattr(targets, kind)[: SHOWN - len(names)]
    if as_json:
        listed: dict[str, Any] = {k: [json_name(one) for one in v] for k, v in shown.items()}
        counts = {kind: getattr(tally, kind) for kind in shown}
        print_json(
            {"dry_run": True, "messages": count, "all": tally.everything, "counts": counts}
            | {"first": listed}
        )
        return
    print(f"would invalidate {tally.what()}, in {count} message{'' if count == 1 else 's'}")
    for kind, names in shown.items():
        for one in names:
            print(f"  {_SINGULAR[kind]} {as_text(one)}")
        if (left := getattr(tally, kind) - len(names)) > 0:
            print(f"  and {left:,} more {kind}")
