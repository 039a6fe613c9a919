"""`coherenced bench`: its options, its table, its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coherenced.bench import suites
from coherenced.bench.model import Context, Figure, Row, Target, at_least, skipped
from coherenced.bench.rounds import compare
from coherenced.cli.main import run
from coherenced.errors import StartError

ROWS = [
    compare("GET", "/s", [90_000, 100_000, 110_000], "Valkey", [120_000] * 3, at_least(1)),
    compare("GET: p99", "ms", [0.25], "Valkey", [0.5]).noted("loaded by hand"),
    Row(
        name="idle", ours=Figure.of("bytes", [50 << 20]), target=Target(60 << 20, "at most", "ours")
    ),
    skipped("lmdb", "lmdb is not installed"),
]


def fake(name: str, context: Context) -> list[Row]:
    assert context.directory.is_dir()
    if name == "http":
        raise StartError("daemon a ended at once: no socket")
    return ROWS


@pytest.fixture
def directories(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where each suite was told to put its files."""
    used: list[Path] = []

    def note(name: str, context: Context) -> list[Row]:
        used.append(context.directory)
        return fake(name, context)

    monkeypatch.setattr(suites, "run", note)
    return used


def test_the_table(directories: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "resp"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = "\n".join(lines[1:])
    assert "resp: GET hits over the Unix socket" in table
    assert "100,000 /s [90,000 – 110,000 /s]" in table
    assert "0.83 [0.75 – 0.92]" in table
    assert "≥ 1.00 MISSED" in table
    assert "GET: p99 1)" in table and "  1) loaded by hand" in table
    assert "250 µs" in table and "500 µs" in table
    assert "50.0 MiB" in table and "≤ 60.0 MiB met" in table
    assert "2)" not in table
    assert lines[-2:] == ["not measured:", "  lmdb is not installed"]
    assert not directories[0].exists()


def test_all_suites_make_one_table_of_what_has_an_aim(
    directories: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench"]) == 1  # for http fails
    out = capsys.readouterr().out
    assert sum(line.endswith(" aim") for line in out.splitlines()) == 1
    assert "resp: GET hits" in out and "startup: how long" in out
    assert "GET: p99" not in out  # it has no aim
    assert "failed: daemon a ended at once: no socket" in out
    assert out.count("lmdb is not installed") == 1
    assert len(directories) == len(suites.SUITES)
    assert run(["bench", "--details"]) == 1
    assert "GET: p99" in capsys.readouterr().out


def test_json_holds_the_machine_and_every_row(
    directories: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "resp", "memory", "resp", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"coherenced", "python", "system", "cpus", "load"} <= set(told)
    assert list(told["suites"]) == ["resp", "memory"]
    first = told["suites"]["resp"][0]
    assert first["ours"] == {"value": 100_000, "unit": "/s", "low": 90_000, "high": 110_000}
    assert first["met"] is False


def test_a_suite_that_fails_does_not_stop_the_others(
    directories: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "http", "resp"]) == 1
    out = capsys.readouterr().out
    assert "failed: daemon a ended at once: no socket" in out
    assert "≥ 1.00 MISSED" in out
    assert len(directories) == 2


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == ["suite", *suites.SUITES]
    assert run(["bench", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == suites.SUITES


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "'nothing' is not one of 'resp'"),
        (["--quick", "--full"], "--quick and --full"),
        (["--seconds", "0"], "--seconds"),
    ],
)
def test_bad_usage(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *words]) == 2
    errors = capsys.readouterr().err
    assert told in errors and errors.count("\n") == 1
