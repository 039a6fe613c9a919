"""`doctor`: looks at this host, the daemon and Redis; one line of advice for each thing wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from coherenced.cli import checks
from coherenced.cli.checks import Finding
from coherenced.cli.config import config_file
from coherenced.cli.options import HTTP_SOCKET_NAME, as_json, connection
from coherenced.cli.output import folded, print_json, width
from coherenced.client.address import Address, find_daemon, parse_address
from coherenced.errors import DaemonUnreachable
from coherenced.paths import SOCKET_NAME, SYSTEM_DIRECTORY

if TYPE_CHECKING:
    from coherenced.config import Config

SYSTEM_SOCKET: Final = SYSTEM_DIRECTORY / SOCKET_NAME


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
    address, http = _where(config)
    runs, answers = True, False
    directory = Path(address.path).parent if address.path else None
    if directory is not None:
        yield checks.runtime_directory(directory)
        socket = checks.socket_file("RESP socket", Path(address.path))
        yield socket
        runs = not socket.unreachable
    if runs:
        answers = True
        for finding in checks.daemon(address):
            answers = answers and not finding.unreachable
            yield finding
        if http is not None:
            yield checks.http(http, answers)
    if config is not None and not answers:
        yield checks.memory_limit(config.l1.max_bytes)  # of the daemon that would be started here
    if config is not None:
        default = config.paths(os.environ, os.getuid()).runtime_dir
        where = None
        if runs and http is not None:
            where = Address(path=str(http), password=address.password)
        yield from checks.redis(config, directory or default, where, answers)


def _where(config: Config | None) -> tuple[Address, Path | None]:
    """The daemon's RESP address and HTTP socket: what was named, else what the other commands
    would find, else where a daemon with this configuration would be.
    """
    given = click.get_current_context().find_root().obj
    paths = None if config is None else config.paths(os.environ, os.getuid())
    password = "" if config is None else config.listen.password
    try:
        address = parse_address(given) if given else find_daemon()
    except DaemonUnreachable:
        address = Address(path=str(SYSTEM_SOCKET if paths is None else paths.socket))
    if paths is not None and address.path == str(paths.socket):
        return address._replace(password=address.password or password), paths.http_socket
    return address, Path(address.path).parent / HTTP_SOCKET_NAME if address.path else None


def _print(finding: Finding) -> None:
    mark = "ok" if not finding.advice else "!!"
    if sys.stdout.isatty():
        mark = click.style(mark, fg="red" if finding.advice else "green", bold=bool(finding.advice))
    most = width()
    line = folded(f"--  {finding.what:<18} {finding.found}", most, 23)
    print(mark + line.removeprefix("--"), flush=True)
    if finding.advice:
        print(folded(f"    {'':<18} → {finding.advice}", most, 25), flush=True)
