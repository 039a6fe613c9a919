"""What is installed is complete, and importing the client loads no server code."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import sysconfig
import tomllib

import pytest

import coherenced
from tests.arch.readme import ROOT


def is_editable(distribution: importlib.metadata.Distribution) -> bool:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def test_the_version_is_said_once() -> None:
    assert importlib.metadata.version("coherenced") == coherenced.__version__


def test_every_file_of_the_package_is_installed() -> None:
    distribution = importlib.metadata.distribution("coherenced")
    if is_editable(distribution):
        pytest.skip("an editable installation holds no files")
    installed = {str(path) for path in distribution.files or ()}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    excluded = wheel["targets"]["wheel"]["exclude"]
    for_building = {
        str(path.relative_to(ROOT))
        for name in excluded
        if name.startswith("/")
        for path in ROOT.glob(name.lstrip("/"))
    }
    ours = sysconfig.get_config_var("EXT_SUFFIX")
    written = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "coherenced").rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and (path.suffix != ".so" or path.name.endswith(ours))  # another Python's
    }
    assert written - installed == for_building


def test_importing_the_client_loads_no_server_code() -> None:
    code = "import sys; from coherenced import Client, AsyncClient; print(*sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split())
    server = {"aiohttp", "redis", "structlog", "tenacity", "prometheus_client", "uvloop", "click"}
    assert not server & {name.partition(".")[0] for name in loaded}
    ours = {name.split(".")[1] for name in loaded if name.startswith("coherenced.")}
    assert ours <= {"client", "core", "errors", "page", "wire"}
