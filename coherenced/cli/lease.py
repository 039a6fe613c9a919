"""`lease`: a command's output, made once in the whole cluster and shared by all who ask."""

from __future__ import annotations

import subprocess
import sys

import click

from coherenced.cli.options import as_json, connect, connection, duration, label, name
from coherenced.cli.output import json_value, note, print_json, print_raw
from coherenced.client.leases import Filling, Granted, fills, is_refused, lease, releases
from coherenced.client.sync import Client
from coherenced.errors import CoherencedError, CommandError, LeaseLost, NotAcknowledged, UsageError
from coherenced.wire.names import json_name

LONGEST_LEASE_S = 3_600.0
LONGEST_WAIT_S = 600.0


@click.command("lease")
@click.argument("key", type=name)
@click.argument("command", nargs=-1, required=True, metavar="COMMAND...")
@click.option("--ttl", type=duration, metavar="TIME", help="The output is kept so long: 60s, 1h.")
@click.option("--tag", "tags", type=label, multiple=True, metavar="T", help="May be repeated.")
@click.option(
    "--lease", "hold_s", type=duration, default="60s", show_default=True, metavar="TIME",
    help="How long COMMAND may take before somebody else may run it.",
)  # fmt: skip
@click.option(
    "--wait", "wait_s", type=duration, default="60s", show_default=True, metavar="TIME",
    help="How long to wait while it runs elsewhere.",
)  # fmt: skip
@as_json
@connection
def lease_(
    key: bytes,
    command: tuple[str, ...],
    ttl: float | None,
    tags: tuple[bytes, ...],
    hold_s: float,
    wait_s: float,
    as_json: bool,
) -> int:
    """Print a key's value; if there is none, make it by running COMMAND.

    Of all who ask, on all hosts, one runs COMMAND and its standard output becomes the value;
    the others wait for it. If COMMAND fails the next in line runs it. An update of the key
    (or a tag) meanwhile is never overwritten: then the output is printed, but not stored.

        coherenced lease report:today --ttl 10m -- ./make-report
    """
    if hold_s > LONGEST_LEASE_S or wait_s > LONGEST_WAIT_S:
        raise UsageError("--lease is at most 1h, --wait at most 10m")
    with connect() as cache:
        leased = cache._run(lease(key, hold_s, wait_s))
        if leased is None:
            raise CommandError(
                f"it is being made elsewhere, and was not ready after {wait_s:g} s (--wait)"
            )
        version: str | None
        late: NotAcknowledged | None = None
        if isinstance(leased, Granted):
            value, version, late = _make(cache, key, leased, command, ttl, tags)
        elif leased.stored is None:
            raise CommandError("it is known that there is no such thing")
        else:
            value, version = leased.stored, leased.version
    if as_json:
        made, stored = isinstance(leased, Granted), version is not None
        told = {"key": json_name(key), "made": made, "stored": stored, "version": version}
        print_json({**told, **json_value(value)})
    else:
        print_raw(value)
    if late is not None:
        raise late
    return 0


def _make(
    cache: Client,
    key: bytes,
    leased: Granted,
    command: tuple[str, ...],
    ttl: float | None,
    tags: tuple[bytes, ...],
) -> tuple[bytes, str | None, NotAcknowledged | None]:
    """Run the command. -> its output, the version at which it was stored, if it was, and who has
    not heard of it in time, if the key's namespace waits for that."""
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    except BaseException as error:
        cache._run(releases([(key, leased.token)]))
        if isinstance(error, OSError):
            raise UsageError(f"{command[0]} cannot be run: {error.strerror}") from None
        raise
    if ran.returncode != 0:
        cache._run(releases([(key, leased.token)]))
        sys.stdout.flush()
        raise CommandError(f"{command[0]} ended with {ran.returncode}: nothing was stored")
    filling = Filling(key, leased.token, ran.stdout, 0.0 if ttl is None else ttl, list(tags))
    (told,) = cache._run(fills([filling]))
    if isinstance(told, LeaseLost):
        note(f"not stored: {told}")
        return ran.stdout, None, None
    if is_refused(told):
        cache._run(releases([(key, leased.token)]))
    if isinstance(told, NotAcknowledged):
        return ran.stdout, told.version, told
    if isinstance(told, CoherencedError):
        raise told
    return ran.stdout, str(told), None
