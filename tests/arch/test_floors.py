"""The floors are held by import-linter (see pyproject.toml); this shows that it would notice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.arch.readme import ROOT

# One wrong import for each contract, and the module that commits it.
CRIMES = {
    "floors": ("core/lane.py", "import coherenced.wire.message"),
    "core-is-pure": ("core/model.py", "import time"),
    "wire-does-no-io": ("wire/message.py", "import socket"),
    "one-home-for-redis": ("config.py", "import redis"),
    "one-home-for-http": ("notify.py", "import aiohttp"),
    "page-stands-alone": ("page/__init__.py", "import coherenced.core.model"),
    "client-sees-no-daemon": ("client/address.py", "import coherenced.config"),
    "client-is-cheap": ("client/__init__.py", "import structlog"),
}


def contracts() -> dict[str, str]:
    """Of each contract the id and the name."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {one["id"]: one["name"] for one in document["tool"]["importlinter"]["contracts"]}


def test_every_contract_can_fail(tmp_path: Path) -> None:
    assert set(CRIMES) == set(contracts())
    shutil.copytree(ROOT / "coherenced", tmp_path / "coherenced")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, crime in CRIMES.values():
        path = tmp_path / "coherenced" / file
        path.write_text(path.read_text() + f"\n{crime}\n")
    (tmp_path / "coherenced" / "nowhere.py").write_text("")  # a module that is on no floor
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    for name in contracts().values():
        assert re.search(rf"^{re.escape(name)} BROKEN", done.stdout, re.M), done.stdout
    assert "nowhere" in done.stdout
