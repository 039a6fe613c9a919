"""Where configuration values are written: the file, the environment, the command line.

Each source becomes a list of `Given`: a key, what was written, and where, so
that every complaint can name the place. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from coherenced.errors import ConfigError

LOCAL_FILE: Final = Path("coherenced.toml")
SYSTEM_FILE: Final = Path("/etc/coherenced/coherenced.toml")
FILE_VARIABLE: Final = "COHERENCED_CONFIG"
PREFIX: Final = "COHERENCED_"
VARIABLE: Final = "environment variable"
"""How the origin of what the environment says begins."""

MAX_FILE_BYTES: Final = 1 << 20
"""A configuration is a few KiB; a larger file is not one."""


class Given(NamedTuple):
    """One value as somebody wrote it."""

    key: tuple[str, ...]
    """`("l1", "max_bytes")`; a namespace's has three parts."""
    value: Any
    origin: str
    """For people: which file and section, which variable, or the command line."""
    is_text: bool = False
    """It was written where everything is text, so a number arrives as a string."""
    is_relative: bool = False
    """A path in it may be relative: only somebody at a terminal knows the working directory."""


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file in force: `path`, else the named one, else the first that exists."""
    if path is not None:
        return path
    if named := environ.get(FILE_VARIABLE):
        return Path(named)
    return next((file for file in (LOCAL_FILE, SYSTEM_FILE) if _is_there(file)), None)


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except PermissionError:
        return True  # reading it will say so: starting with the defaults instead would be worse


def read_file(path: Path) -> list[Given]:
    """Every value in the TOML file at `path`; ConfigError when it cannot be read as one."""
    import tomllib  # only where there is a file

    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than 1 MiB: that is no configuration file")
        document = tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file in UTF-8") from None
    except (ValueError, RecursionError) as error:  # the parser's own error is a ValueError too
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return list(_flatten(document, path))


def _flatten(document: Mapping[str, Any], path: Path) -> Iterable[Given]:
    for section, table in document.items():
        if not isinstance(table, dict):
            yield Given((section,), table, str(path))
            continue
        if not table:
            yield Given((section,), table, f"{path} [{section}]")
        for name, value in table.items():
            if section == "namespace" and isinstance(value, dict) and value:
                for key, inner in value.items():
                    origin = f"{path} [{section}.{name}]"
                    yield Given((section, name, key), inner, origin)
            else:
                where = f"{section}.{name}" if isinstance(value, dict) else section
                yield Given((section, name), value, f"{path} [{where}]")


def read_environment(environ: Mapping[str, str], known: Iterable[str]) -> list[Given]:
    """Every `COHERENCED_SECTION__KEY` variable, in the order of their names.

    A variable without the double underscore is somebody else's (Kubernetes sets
    COHERENCED_PORT for a Service of that name) unless it is plainly one of
    ours, misspelt: that is a ConfigError.
    """
    misspelt = {variable_of(key).replace("__", "_"): key for key in known}
    given = []
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        if "__" in variable:
            key = tuple(variable.removeprefix(PREFIX).lower().split("__"))
            origin = f"{VARIABLE} {variable}"
            given.append(Given(key, environ[variable], origin, is_text=True))
        elif variable in misspelt:
            raise ConfigError(
                f"unknown environment variable {variable}: "
                f"did you mean {variable_of(misspelt[variable])}?"
            )
    return given


def variable_of(key: str) -> str:
    """The environment variable of a dotted key."""
    return PREFIX + key.upper().replace(".", "__")


def read_flags(flags: Mapping[str, str]) -> list[Given]:
    """Values from the command line, by dotted key."""
    return [
        Given(tuple(key.split(".")), value, "command line", is_text=True, is_relative=True)
        for key, value in flags.items()
    ]


def parse_assignment(written: str) -> tuple[str, str]:
    """Read the KEY=VALUE of `--set`; ConfigError else."""
    key, equals, value = written.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {written}: write KEY=VALUE, for example --set l1.max_bytes=64MiB")
    return key.strip(), value
