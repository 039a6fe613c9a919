"""The peer that is written for Node: what is missing is named; how it is talked to.

A Python program stands in for Node, so that this runs without npm's packages. With them
(COHERENCED_TEST_NODE_MODULES names the directory) the real one is run too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from coherenced.bench.bento import SCRIPT, Bento, absence
from coherenced.errors import StartError
from tests.servers import Server

MODULES = os.environ.get("COHERENCED_TEST_NODE_MODULES", "")
STAND_IN = """#!{python}
import json, sys
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    told = json.loads(line)
    if told["what"] == "served":
        sys.exit("Error: the server has gone")
    print(json.dumps([1.0, 2.0, 3.0 + told["seconds"]]), flush=True)
"""


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "node"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return tmp_path


def test_what_is_missing_is_named(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert absence(node).startswith("bentocache and ioredis not installed (npm install")
    (node / "node_modules/ioredis").mkdir(parents=True)
    assert absence(node).startswith("bentocache not installed")
    (node / "node_modules/bentocache").mkdir()
    assert absence(node) == ""
    monkeypatch.setenv("PATH", "")
    assert absence(node) == "node is not installed"


def test_a_turn_is_asked_for_and_summed_up(node: Path) -> None:
    with Bento(node, node / "socket", node / "log") as bento:
        assert bento.turn("dropped", 4.0) == {"p50": 2.0, "p99": 7.0}
        with pytest.raises(StartError, match="ended: Error: the server has gone"):
            bento.turn("served", 1.0)


def test_the_script_is_part_of_the_package() -> None:
    assert "redisBusDriver" in SCRIPT.read_text()


@pytest.mark.skipif(not MODULES, reason="no COHERENCED_TEST_NODE_MODULES")
def test_the_real_one(tmp_path: Path) -> None:
    assert absence(Path(MODULES)) == ""
    with Server("valkey") as server, Bento(Path(MODULES), server.socket, tmp_path / "l") as bento:
        for what in ("dropped", "served"):
            told = bento.turn(what, 0.05)  # type: ignore[arg-type]
            assert 0 < told["p50"] <= told["p99"] < 5000
