"""What the process uses."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from coherenced.observe import process


def test_a_reading_of_this_process() -> None:
    read = process.read(123.0)
    assert read.pid == os.getpid()
    assert read.rss_bytes > 1_000_000
    assert read.cpu_seconds > 0
    assert 3 <= read.open_files <= read.max_files
    assert read.started_unix_s == 123.0
    assert read.python == platform.python_version()


def test_opened_files_are_counted(tmp_path: Path) -> None:
    before = process.read(0).open_files
    with (tmp_path / "x").open("w"):
        assert process.read(0).open_files == before + 1


def test_without_proc_the_sizes_are_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "_PROC", tmp_path)
    read = process.read(0)
    assert (read.rss_bytes, read.open_files) == (0, 0)
    (tmp_path / "statm").write_text("nonsense")
    assert process.read(0).rss_bytes == 0
