"""Reading a README as a program reads it: its fenced blocks, and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\s*$")


class Block(NamedTuple):
    """One fenced block."""

    file: str
    line: int
    """Of its first line, from 1."""
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}"


class Command(NamedTuple):
    """One command line of an `sh` block, continuation lines joined."""

    file: str
    line: int
    text: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}"


def blocks(file: str, language: str, root: Path = ROOT) -> list[Block]:
    """The fenced blocks of `language` in `file` (relative to `root`), in order."""
    found: list[Block] = []
    start, open_language, inside = 0, "", False
    lines = (root / file).read_text().splitlines()
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if inside:
            if open_language == language:
                text = "\n".join(lines[start : number - 1])
                found.append(Block(file, start + 1, language, text))
            inside = False
        else:
            start, open_language, inside = number, fence[1], True
    if inside:
        raise ValueError(f"{file}:{start}: this block is never closed")
    return found


def commands(file: str, root: Path = ROOT) -> list[Command]:
    """Every command of every `sh` block in `file`; comments and empty lines are none."""
    found: list[Command] = []
    for block in blocks(file, "sh", root):
        joined, start = "", 0
        for number, line in enumerate(block.text.splitlines(), block.line):
            start = start if joined else number
            joined += line.removesuffix("\\")
            if line.endswith("\\"):
                continue
            if (text := re.sub(r"(^|\s)#.*$", "", joined).strip()) != "":
                found.append(Command(block.file, start, text))
            joined = ""
    return found
