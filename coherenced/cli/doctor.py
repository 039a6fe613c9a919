"""`doctor`: looks at this host, the daemon and Redis; one line of advice for each thing wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from coherenced.cli import checks
from coherenced.cli.checks import Finding
from coherenced.cli.config import config_file
from coherenced.cli.options import as_json, connection
from coherenced.cli.output import print_json
from coherenced.client.address import Address, parse_address


@click.command("doctor")
@config_file
@as_json
@connection
def doctor(path: Path | None, as_json: bool) -> int:
    """Check this host, the daemon and Redis.

    Exit code 0 when all is well, 1 when something is wrong, 4 when the daemon or Redis
    cannot be reached.
    """
    shows_lines = not as_json
    findings = []
    for finding in examine(path):
        findings.append(finding)
        if shows_lines:
            _print(finding)
    wrong = [finding for finding in findings if finding.advice]
    if as_json:
        print_json(
            {
                "ok": not wrong,
                "findings": [{**one._asdict(), "ok": not one.advice} for one in findings],
            }
        )
    else:
        print()
        print("all is well" if not wrong else f"{len(wrong)} of {len(findings)} need attention")
    if any(finding.unreachable for finding in wrong):
        return 4
    return 1 if wrong else 0


def examine(path: Path | None) -> Iterator[Finding]:
    """Everything there is to find, in the order in which one thing needs the other."""
    yield from checks.versions()
    yield checks.clock()
    config, finding = checks.settings(path)
    yield finding
    yield checks.file_limit(20_000 if config is None else config.listen.max_connections)
    given = click.get_current_context().find_root().obj
    address, directory, http = Address(), Path("/run/coherenced"), None
    if config is not None:
        paths = config.paths(os.environ, os.getuid())
        address = Address(path=str(paths.socket), password=config.listen.password)
        directory, http = paths.runtime_dir, paths.http_socket
    named = given or os.environ.get("COHERENCED_SOCKET")
    if named:
        address = parse_address(named)
        directory, http = Path(address.path).parent, Path(address.path).parent / "http.sock"
    if address.path:
        yield checks.runtime_directory(directory)
        yield checks.socket_file("RESP socket", Path(address.path))
    yield from checks.daemon(address)
    if address.path and http is not None:
        yield checks.socket_file("HTTP socket", http)
        yield checks.http(http)
    if config is not None:
        yield from checks.redis(config, directory)


def _print(finding: Finding) -> None:
    mark = "ok" if not finding.advice else "!!"
    if sys.stdout.isatty():
        mark = click.style(mark, fg="red" if finding.advice else "green", bold=bool(finding.advice))
    print(f"{mark}  {finding.what:<18} {finding.found}", flush=True)
    if finding.advice:
        print(f"    {'':<18} → {finding.advice}", flush=True)
