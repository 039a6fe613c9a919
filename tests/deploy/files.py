"""Where the deployment files are, and readers for the formats that have no parser of their own."""

from __future__ import annotations

import shlex
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

Unit = dict[str, dict[str, list[str]]]


def read_unit(name: str) -> Unit:
    """A systemd unit: section -> key -> its values in order."""
    unit: Unit = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            unit[section][key].append(value)
    return unit


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, and the number of the stage it is in (from 0)."""

    stage: int
    name: str
    value: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.value)


def read_dockerfile() -> list[Instruction]:
    text = (DEPLOY / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    found: list[Instruction] = []
    stage = -1
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, value = line.partition(" ")
            stage += name == "FROM"
            found.append(Instruction(stage, name, value.strip()))
    return found
