"""`get`, `set`, `del`, `mget`: keys and values as raw bytes."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from coherenced.cli.options import (
    ack_option,
    as_json,
    connect,
    connection,
    duration,
    label,
    name,
    replicas_option,
    timeout_option,
    written_version,
)
from coherenced.cli.output import json_value, note, print_json, print_raw, shown
from coherenced.client.replies import Entry
from coherenced.errors import NotAcknowledged
from coherenced.wire.names import json_name

max_staleness_option = click.option(
    "--max-staleness",
    type=click.IntRange(min=0),
    metavar="MS",
    help="Serve nothing that may be older than so many milliseconds; 0 is linearizable.",
)
min_version_option = click.option(
    "--min-version",
    type=written_version,
    metavar="VERSION",
    help="Serve nothing older than this epoch:seq.",
)


@click.command("get")
@click.argument("key", type=name)
@max_staleness_option
@min_version_option
@click.option("--meta", is_flag=True, help="Say on stderr how it was answered.")
@as_json
@connection
def get(
    key: bytes, max_staleness: int | None, min_version: str | None, meta: bool, as_json: bool
) -> int:
    """Print the value of a key.

    The bytes as they are stored. Exit code 1 when the key is not there.
    """
    with connect() as cache:
        entry: Entry | None = None
        if meta or as_json:
            entry = cache.get_entry(key, max_staleness_ms=max_staleness, min_version=min_version)
            value = entry.value
        else:
            value = cache.get(key, max_staleness_ms=max_staleness, min_version=min_version)
    if entry is not None and as_json:
        print_json({"key": json_name(key), **_as_json(entry)})
    elif entry is not None:
        stale = ", stale" if entry.stale else ""
        note(f"{entry.source}, version {entry.version}, {entry.age_ms:g} ms old{stale}")
    if value is None:
        note(f"no such key: {shown(key)}")
        return 1
    if not as_json:
        print_raw(value)
    return 0


@click.command("mget")
@click.argument("keys", type=name, nargs=-1, required=True, metavar="KEY...")
@max_staleness_option
@min_version_option
@click.option("--snapshot", is_flag=True, help="All as of one moment (at most 200 keys).")
@as_json
@connection
def mget(
    keys: tuple[bytes, ...],
    max_staleness: int | None,
    min_version: str | None,
    snapshot: bool,
    as_json: bool,
) -> int:
    """Print the values of several keys.

    One line each: the key, a tab, the value. Keys that are not there are named on stderr.
    """
    with connect() as cache:
        found = cache.get_many(
            keys, max_staleness_ms=max_staleness, min_version=min_version, snapshot=snapshot
        )
    if as_json:
        rows: list[dict[str, Any]] = []
        for key in keys:
            value = found.get(key)
            inside = {} if value is None else json_value(value)
            rows.append({"key": json_name(key), "found": value is not None, **inside})
        print_json({"values": rows})
        return 0
    for key in keys:
        if key in found:
            print(f"{shown(key)}\t{shown(found[key])}")
        else:
            note(f"no such key: {shown(key)}")
    return 0


@click.command("set")
@click.argument("key", type=name)
@click.argument("value", metavar="VALUE|-")
@click.option("--ttl", type=duration, metavar="TIME", help="Expires after, for example 60s.")
@click.option("--tag", "tags", type=label, multiple=True, metavar="T", help="May be repeated.")
@ack_option
@timeout_option
@replicas_option
@click.option(
    "--if-version",
    type=written_version,
    metavar="VERSION",
    help="Only if unchanged since this version.",
)
@as_json
@connection
def set_(
    key: bytes,
    value: str,
    ttl: float | None,
    tags: tuple[bytes, ...],
    ack: str | None,
    timeout: float | None,
    replicas: int,
    if_version: str | None,
    as_json: bool,
) -> int:
    """Store a value under a key.

    `-` reads the value from standard input. Prints the version. Exit code 3: stored,
    but not everyone has acknowledged in time.
    """
    raw = sys.stdin.buffer.read() if value == "-" else os.fsencode(value)
    with connect() as cache:
        try:
            version = cache.set(
                key,
                raw,
                ttl=ttl,
                tags=tags,
                ack=ack,
                timeout=timeout,
                replicas=replicas,
                if_version=if_version,
            )
        except NotAcknowledged as late:
            if as_json:
                print_json({"version": late.version, "missing": late.missing})
            raise
    if as_json:
        print_json({"version": version or None, "missing": []})
    elif version:
        print(version)
    return 0


@click.command("del")
@click.argument("keys", type=name, nargs=-1, required=True, metavar="KEY...")
@ack_option
@timeout_option
@replicas_option
@as_json
@connection
def delete(
    keys: tuple[bytes, ...], ack: str | None, timeout: float | None, replicas: int, as_json: bool
) -> int:
    """Delete keys, everywhere.

    Prints how many of them were there. Exit code 3: deleted, but not everyone has
    acknowledged in time.
    """
    with connect() as cache:
        try:
            deleted = cache.delete(*keys, ack=ack, timeout=timeout, replicas=replicas)
        except NotAcknowledged as late:
            if as_json:
                print_json({"version": late.version, "missing": late.missing})
            raise
    if as_json:
        print_json({"deleted": deleted, "missing": []})
    else:
        print(deleted)
    return 0


def _as_json(entry: Entry) -> dict[str, Any]:
    inside = json_value(entry.value) if entry.found else {}
    return {
        "found": entry.found,
        **inside,
        "version": entry.version,
        "source": entry.source,
        "age_ms": entry.age_ms,
        "stale": entry.stale,
    }
