"""Every story is told again and must say what it said; COHERENCED_REWRITE=1 rewrites it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sim.story import KNOWN_TO_BREAK, Broken, parse, stories, tell, write_out


@pytest.mark.parametrize("path", stories(), ids=lambda path: path.stem)
def test_story(path: Path) -> None:
    text = path.read_text("utf-8")
    if path.stem in KNOWN_TO_BREAK:
        with pytest.raises(Broken):
            tell(text)
        return
    told = tell(text)
    if os.environ.get("COHERENCED_REWRITE"):
        path.write_text(write_out(told), "utf-8")
        return
    for before, now in zip(parse(text), told, strict=True):
        assert now.output == before.output, "\n".join(before.commands)


def test_a_story_written_out_reads_the_same() -> None:
    for path in stories():
        if path.stem in KNOWN_TO_BREAK:
            continue
        text = path.read_text("utf-8")
        assert write_out(parse(text)) == text


def test_an_expectation_that_fails_is_not_hidden_by_rewriting() -> None:
    with pytest.raises(Broken):
        tell("nodes a\n\nwrite a k v1\nread a k\nexpect a to read v2\n")


def test_an_unknown_command_is_an_error() -> None:
    with pytest.raises(Broken):
        tell("nodes a\n\nconjure a rabbit\n")
