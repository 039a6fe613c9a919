"""`config check` and `config show`: the configuration, before a daemon is started with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coherenced.cli.options import as_json
from coherenced.cli.output import counted, print_json, print_table
from coherenced.config_sources import VARIABLE

if TYPE_CHECKING:
    from coherenced.config import Loaded

config_file = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Else $COHERENCED_CONFIG, ./coherenced.toml, /etc/coherenced/coherenced.toml.",
)


@click.group("config")
def config() -> None:
    """Check or show the configuration."""


@config.command("check")
@config_file
@as_json
def check(path: Path | None, as_json: bool) -> int:
    """Say whether the configuration is right.

    Exit code 2 when it is not, with what is wrong and where.
    """
    loaded = _load(path)
    file = None if loaded.file is None else str(loaded.file)
    if as_json:
        print_json({"ok": True, "file": file})
        return 0
    variables = sum(origin.startswith(VARIABLE) for origin in loaded.sources.values())
    rest = f"{counted(variables, 'value')} from the environment" if variables else ""
    parts = (file or "no file", rest or ("" if file else "defaults only"))
    print(f"the configuration is right: {', '.join(filter(None, parts))}")
    return 0


@config.command("show")
@config_file
@click.option("--sources", is_flag=True, help="Also where each value comes from.")
@as_json
def show(path: Path | None, sources: bool, as_json: bool) -> int:
    """Show the configuration in force, secrets masked."""
    from coherenced.config import describe, flatten

    loaded = _load(path)
    if as_json:
        shown = describe(loaded.config)
        print_json({"settings": shown, "sources": loaded.sources} if sources else shown)
        return 0
    flat = flatten(loaded.config)
    if sources:
        rows = [[key, _toml(flat[key]), loaded.sources.get(key, "default")] for key in flat]
        print_table(["key", "value", "from"], rows)
        return 0
    section = None
    for key, value in flat.items():
        place, _, last = key.rpartition(".")
        if place != section:
            print(f"{'' if section is None else chr(10)}[{place}]")
            section = place
        print(f"{last} = {_toml(value)}")
    return 0


def _load(path: Path | None) -> Loaded:
    from coherenced.config import load

    loaded = load({}, path, os.environ)
    loaded.config.paths(os.environ, os.getuid())  # a path too long for a socket is wrong, too
    return loaded


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    basic = "".join(
        f"\\u{ord(c):04x}" if ord(c) < 0x20 or ord(c) == 0x7F else f"\\{c}" if c in '"\\' else c
        for c in value
    )
    return f'"{basic}"'
