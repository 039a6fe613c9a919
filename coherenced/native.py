"""Compiles the package's C files, each beside itself, for the Python that runs this.

    python -m coherenced.native

    client/_hits.c     hits of the Python client; in Python: `client/pure.py`
    serve/_quiet.c     a socket's plain GETs and SETs, with `_quiet_*.h`; in Python:
                       `serve/quiet_pure.py`

An installation does it by itself (pip asks hatchling, which asks `BuildHook`); where that cannot
be done, for want of a compiler or of Python's headers, it says so in one line and installs the
package without. By hand it is for a checkout that was installed as editable before, and after each
change of a C file.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final
from zlib import crc32

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand, with no build going on
    BuildHookInterface = object

HERE: Final = Path(__file__).parent
SOURCES: Final = (HERE / "client" / "_hits.c", HERE / "serve" / "_quiet.c")
FLAGS: Final = ("-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
TIMEOUT_S: Final = 120.0


class CannotBuild(Exception):
    """Its one line says why not."""


def parts(source: Path) -> list[Path]:
    """It, and what of ours it includes: named after it, beside it."""
    return [source, *sorted(source.parent.glob(f"{source.stem}_*.h"))]


def source_number(source: Path) -> int:
    """Of this source: what was built of another has another (its module's `SOURCE`)."""
    return crc32(b"".join(part.read_bytes() for part in parts(source)))


def built_file(source: Path) -> Path:
    """Where the module is that is made of it."""
    return source.with_name(f"{source.stem}{sysconfig.get_config_var('EXT_SUFFIX')}")


def compiler() -> list[str]:
    """The command that compiles for this Python, up to what to compile. Raises `CannotBuild`."""
    if sys.implementation.name != "cpython":
        raise CannotBuild("it is for CPython")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise CannotBuild("it needs the global interpreter lock")
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").is_file():
        raise CannotBuild(f"there is no Python.h in {include} (python3-dev)")
    named = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    command = shlex.split(named)
    if shutil.which(command[0]) is None:
        if "CC" in os.environ or shutil.which("cc") is None:
            raise CannotBuild(f"there is no compiler ({command[0]})")
        command = ["cc"]
    return [*command, *FLAGS, f"-I{include}", *shlex.split(os.environ.get("CFLAGS", ""))]


def build(source: Path) -> Path:
    """Compile it, and return the module's file. What was there is gone, whatever comes of it: it
    may be of another source. Raises `CannotBuild`."""
    built = built_file(source)
    new = built.with_name(f"{built.name}.{os.getpid()}.new")
    try:
        built.unlink(missing_ok=True)
        command = [*compiler(), f"-DSOURCE={source_number(source)}L", str(source), "-o", str(new)]
        command += shlex.split(os.environ.get("LDFLAGS", ""))
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            why = next((line for line in said if "error" in line), "".join(said[-1:]))
            raise CannotBuild(f"{command[0]} failed ({done.returncode}) {why}".strip())
        new.replace(built)  # whoever has the old one mapped keeps it
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(str(error)) from None
    finally:
        new.unlink(missing_ok=True)
    return built


def build_all() -> list[Path]:
    """All or none. Raises `CannotBuild`."""
    try:
        return [build(source) for source in SOURCES]
    except CannotBuild:
        for source in SOURCES:
            with contextlib.suppress(OSError):
                built_file(source).unlink(missing_ok=True)
        raise


class BuildHook(BuildHookInterface):  # type: ignore[misc,valid-type,unused-ignore]
    """Into each wheel, an editable installation's among them, if it can be built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        try:
            built = build_all()
        except CannotBuild as why:
            self.app.display_warning(f"coherenced: nothing is compiled, which is optional: {why}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"] += [file.relative_to(self.root).as_posix() for file in built]


def main() -> int:
    try:
        for built in build_all():
            print(f"built {built}")
    except CannotBuild as why:
        print(f"not built: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
