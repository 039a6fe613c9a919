"""A log that nobody reads, or for which there is no room, holds nobody up and ends nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator

import pytest
import structlog

from coherenced.observe import logs
from coherenced.observe.lines import PATIENCE_MS, Lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds four pages."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4 * 4096)
    os.set_blocking(reader, False)
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


def say(lines: Lines, text: str) -> None:
    lines.write(text)
    lines.write("\n")
    lines.flush()


def test_lines_that_nobody_reads_are_lost_and_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = Lines(writer)
    lines.tell_lost = lambda lost: f"({lost} lost)\n"
    said = 1000
    before_s = time.monotonic()
    for number in range(said):
        say(lines, f"{number} {'x' * 100}")
    # One of them waits, not each.
    assert time.monotonic() - before_s < PATIENCE_MS / 1e3 * said / 10
    kept = os.read(reader, 1 << 16).decode().splitlines()
    assert 0 < len(kept) < 500 and lines.lost == said - len(kept)
    lost = lines.lost
    say(lines, "room again")
    say(lines, "and again")
    assert os.read(reader, 4096).decode() == f"({lost} lost)\nroom again\nand again\n"
    assert lines.lost == 0


def test_a_line_that_was_torn_off_does_not_spoil_the_next(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = Lines(writer)
    lines.tell_lost = lambda lost: f"({lost} lost)\n"
    say(lines, "x" * 30_000)
    assert os.read(reader, 1 << 16) == b"x" * 4 * 4096
    say(lines, "whole")
    assert os.read(reader, 4096).decode() == "\n(1 lost)\nwhole\n"


def test_a_reader_that_has_gone_and_a_full_disk_are_no_errors(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    gone = Lines(writer)
    say(gone, "a")
    assert gone.lost == 1 and not gone.isatty()
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        no_room = Lines(full)
        say(no_room, "a")
        say(no_room, "b")
        assert no_room.lost == 2
    finally:
        os.close(full)
    os.close(writer)
    assert not gone.isatty()


def test_what_was_lost_is_told_in_the_format_of_the_log(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    lines = Lines(writer)
    monkeypatch.setattr(logs, "_stderr", lambda: lines)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        logs.configure("info", "json")
        for number in range(1000):
            logs.get("x").info("said", number=number)
        os.read(reader, 1 << 16)
        lost = lines.lost
        logs.get("x").info("after")
        notice, after = map(json.loads, os.read(reader, 4096).decode().strip().splitlines())
        assert (notice["level"], notice["component"], notice["lost"]) == ("warning", "logs", lost)
        assert "lost" in notice["message"] and after["message"] == "after"
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)
