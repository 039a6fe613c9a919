"""`serve`: the daemon of this host, in the foreground."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import click

from coherenced.cli.config import config_file


@click.command("serve")
@config_file
@click.option("--redis", metavar="URL", help="redis.url; without one a private server is started.")
@click.option("--socket", metavar="PATH", help="listen.socket, for Redis clients.")
@click.option("--http", metavar="ADDR", help="listen.http, for example 127.0.0.1:8377.")
@click.option("--node", metavar="NAME", help="node.name; else the host's name.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other; may be repeated."
)
def serve(
    path: Path | None,
    redis: str | None,
    socket: str | None,
    http: str | None,
    node: str | None,
    settings: tuple[str, ...],
) -> int:
    """Run the daemon of this host.

    Flags count before COHERENCED_SECTION__KEY in the environment, that before the
    file, that before the defaults. SIGTERM or Ctrl-C stops it, SIGHUP reloads.
    """
    from coherenced.config import Loaded, load, parse_assignment

    flags = dict(map(parse_assignment, settings))
    socket = socket or click.get_current_context().find_root().obj  # `coherenced --socket S serve`
    named = {"redis.url": redis, "listen.socket": socket, "listen.http": http, "node.name": node}
    flags |= {key: value for key, value in named.items() if value is not None}

    def read() -> Loaded:
        return load(flags, path, os.environ)

    loaded = read()
    gc.disable()  # modules are no garbage: a tenth of the time to load them; `run` enables it
    try:
        from coherenced.daemon import run  # after the configuration: a wrong one is told at once

        return run(loaded, read)
    finally:
        gc.enable()  # also where `run` was not reached
